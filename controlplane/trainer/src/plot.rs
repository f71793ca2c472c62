//! One trace as a picture (SVG 1.1): what came, what was forecast, and its interval.
//!
//! Builds a string on the caller's thread; as many points as the picture has pixels across.

use std::fmt::Write;

use dwcp_prediction::{KNOT_STEPS, Kind, Model, STEP_S};

use crate::evaluate::follow;
use crate::trace::{BYTES_PER_MBIT, Trace};
use crate::windows::ahead;

const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 48.0;
/// Lines of the grid on each axis, about.
const TICKS: f64 = 6.0;
/// Most moments drawn; of more, every n-th.
const MOMENTS_MAX: usize = 900;

/// What to draw.
#[derive(Debug, Clone, Copy)]
pub struct Plot {
    /// Seconds ahead; the nearest horizon that is judged is drawn.
    pub horizon_s: f64,
    /// Whose forecast.
    pub kind: Kind,
    /// First second of the trace.
    pub from_s: f64,
    /// Seconds to draw.
    pub length_s: f64,
}

/// One moment: when, and Mbit/s over the horizon from then on.
struct Moment {
    at_s: f64,
    truth: f64,
    quantiles: [f64; 3],
}

/// The picture; `None` where the trace has nothing to judge in that range, or the model no such
/// forecaster.
pub fn plot(model: &Model, trace: &Trace, plot: &Plot) -> Option<String> {
    let steps = *KNOT_STEPS.iter().min_by(|a, b| {
        let far = |steps: usize| (steps as f64 * STEP_S - plot.horizon_s).abs();
        far(**a).total_cmp(&far(**b))
    })?;
    let mut moments = Vec::new();
    follow(model, trace, |link, at| {
        let at_s = at as f64 * STEP_S;
        if at_s < plot.from_s || at_s > plot.from_s + plot.length_s {
            return;
        }
        let (Some(truth), Some(curve)) = (ahead(&trace.rates, at, steps), link.curve_of(plot.kind))
        else {
            return;
        };
        let quantiles = curve.at(steps as f64 * STEP_S).quantiles().map(|q| q / BYTES_PER_MBIT);
        moments.push(Moment { at_s, truth: truth / BYTES_PER_MBIT, quantiles });
    });
    let every = moments.len().div_ceil(MOMENTS_MAX).max(1);
    let moments: Vec<Moment> = moments.into_iter().step_by(every).collect();
    let (first, last) = (moments.first()?, moments.last()?);
    let highest = moments.iter().map(|m| m.truth.max(m.quantiles[2])).fold(1e-3, f64::max);
    let frame =
        Frame { from: first.at_s, to: last.at_s.max(first.at_s + 1.0), top: highest * 1.05 };
    Some(frame.draw(&moments, &title(trace, plot, steps)))
}

fn title(trace: &Trace, plot: &Plot, steps: usize) -> String {
    let horizon = steps as f64 * STEP_S;
    escape(&format!(
        "{}: mean rate of the next {horizon} s, forecast by {}",
        trace.name,
        plot.kind.name()
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Seconds and Mbit/s that the picture shows.
struct Frame {
    from: f64,
    to: f64,
    top: f64,
}

impl Frame {
    fn x(&self, at_s: f64) -> f64 {
        LEFT + (at_s - self.from) / (self.to - self.from) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, mbit: f64) -> f64 {
        HEIGHT - BOTTOM - mbit / self.top * (HEIGHT - TOP - BOTTOM)
    }

    fn line(&self, moments: &[Moment], value: impl Fn(&Moment) -> f64) -> String {
        let mut points = String::new();
        for moment in moments {
            let _ = write!(points, "{:.1},{:.1} ", self.x(moment.at_s), self.y(value(moment)));
        }
        points
    }

    fn draw(&self, moments: &[Moment], title: &str) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" fill=\"#222222\">{title}</text>\n"
        );
        self.grid(&mut svg);
        let mut reversed: Vec<String> =
            self.line(moments, |m| m.quantiles[0]).split_whitespace().map(str::to_owned).collect();
        reversed.reverse();
        let band = format!("{}{}", self.line(moments, |m| m.quantiles[2]), reversed.join(" "));
        let _ = writeln!(svg, "<polygon points=\"{band}\" fill=\"#9ecae1\" stroke=\"none\"/>");
        for (color, width, points) in [
            ("#08519c", "1.6", self.line(moments, |m| m.quantiles[1])),
            ("#d94801", "1.3", self.line(moments, |m| m.truth)),
        ] {
            let _ = writeln!(
                svg,
                "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" \
                 stroke-width=\"{width}\"/>"
            );
        }
        legend(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    fn grid(&self, svg: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let step = tick(self.top);
        for i in 0..=(self.top / step) as u32 {
            let (value, y) = (f64::from(i) * step, self.y(f64::from(i) * step));
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444444\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                number(value)
            );
        }
        let step = tick(self.to - self.from);
        let first = (self.from / step).ceil() as u32;
        for i in first..=(self.to / step) as u32 {
            let (value, x) = (f64::from(i) * step, self.x(f64::from(i) * step));
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#eeeeee\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#444444\">{}</text>",
                bottom + 18.0,
                number(value)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#444444\">seconds</text>\
             <text x=\"18\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#444444\" \
             transform=\"rotate(-90 18 {:.1})\">Mbit/s</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 10.0,
            f64::midpoint(TOP, bottom),
            f64::midpoint(TOP, bottom)
        );
    }
}

fn legend(svg: &mut String) {
    let entries =
        [("#d94801", "truth", 4.0), ("#08519c", "P50", 4.0), ("#9ecae1", "P10 to P90", 12.0)];
    for (i, (color, text, height)) in entries.into_iter().enumerate() {
        let (x, y) = (LEFT + 110.0 * i as f64, 42.0 - height / 2.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"24\" height=\"{height}\" fill=\"{color}\"/>\
             <text x=\"{}\" y=\"46\" fill=\"#222222\">{text}</text>",
            x + 30.0
        );
    }
}

/// A round distance of grid lines: 1, 2 or 5 times a power of ten.
fn tick(range: f64) -> f64 {
    let rough = range / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= rough).unwrap_or(10.0);
    factor * power
}

fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grid_lines_have_round_distances() {
        for (range, expected) in
            [(6.0, 1.0), (7.0, 2.0), (25.0, 5.0), (0.9, 0.2), (3_500.0, 1_000.0)]
        {
            assert!((tick(range) - expected).abs() < 1e-9, "{range}: {}", tick(range));
        }
        assert_eq!((number(0.25), number(10.0)), ("0.25".to_owned(), "10".to_owned()));
    }

    #[test]
    fn a_trace_becomes_a_picture_and_a_short_one_none() {
        let rates = (0..200).map(|i| 1e6 + 1e5 * f64::from(i % 7)).collect();
        let mut trace = Trace { name: "a<b>&c".into(), set: "s".into(), link: "l".into(), rates };
        let what = Plot { horizon_s: 30.0, kind: Kind::Ewma, from_s: 0.0, length_s: 1e6 };
        let svg = plot(&Model::bare(), &trace, &what).expect("long enough");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a&lt;b&gt;&amp;c") && !svg.contains("NaN"));
        trace.rates.truncate(30);
        assert_eq!(plot(&Model::bare(), &trace, &what), None);
    }
}
