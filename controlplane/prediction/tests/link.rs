//! A link with the shipped model under everything that samples can be.

use dwcp_prediction::{
    Advice, Curve, Forecast, Job, KNOT_STEPS, Kind, Link, LinkSample, Model, RATE_FLOOR, RATE_MAX,
    STEP_MS, STEP_S, Taken,
};
use proptest::prelude::*;

fn shipped() -> Model {
    Model::shipped().expect("the model in this crate")
}

fn is_sound(forecast: &Forecast) -> bool {
    let [p10, p50, p90] = forecast.quantiles();
    RATE_FLOOR <= p10 && p10 <= p50 && p50 <= p90 && p90 <= RATE_MAX
}

fn all_sound(link: &Link) -> bool {
    Kind::ALL.into_iter().filter_map(|kind| link.curve_of(kind)).all(|curve| {
        [0.0, 30.0, 45.0, 300.0, 1e9].into_iter().all(|horizon| is_sound(&curve.at(horizon)))
    })
}

/// Nothing is known: the floor, but for rounding.
fn is_floor(link: &Link) -> bool {
    link.curve().at(30.0).quantiles().iter().all(|rate| (rate / RATE_FLOOR - 1.0).abs() < 1e-6)
}

fn fed(model: &Model, rates: &[f64]) -> Link {
    let mut link = Link::new(model);
    for (step, rate) in rates.iter().enumerate() {
        link.push(&LinkSample::rate(step as u64 * STEP_MS, *rate)).expect("a good sample");
    }
    link.advance(rates.len() as u64 * STEP_MS);
    link
}

#[test]
fn nothing_and_little_known_has_an_answer() {
    let model = shipped();
    let empty = Link::new(&model);
    assert!(all_sound(&empty));
    assert!(is_floor(&empty));
    for rates in [&[1e6][..], &[0.0], &[0.0; 100], &[5e7; 100], &[RATE_MAX; 3]] {
        let link = fed(&model, rates);
        assert!(all_sound(&link), "{} x {:?}", rates.len(), rates.first());
    }
}

#[test]
fn a_constant_link_stays_what_it_is() {
    let forecast = fed(&shipped(), &[2e6; 200]).curve().at(60.0);
    assert!((forecast.p50 / 2e6 - 1.0).abs() < 0.1, "{forecast:?}");
    assert!(forecast.p10 > 1e6 && forecast.p90 < 4e6, "{forecast:?}");
}

#[test]
fn a_long_silence_starts_anew_and_forecasts_nothing() {
    let model = shipped();
    let mut link = fed(&model, &[2e6; 100]);
    assert_eq!(link.advance(1_000 * STEP_MS), Taken::Restarted);
    assert!(is_floor(&link));
    assert!(link.history().is_empty() && all_sound(&link));
}

#[test]
fn the_simple_ones_scale_with_the_link() {
    let model = shipped();
    let rates: Vec<f64> = (0..100).map(|i| 1e6 * (1.5 + f64::from(i % 11 % 3))).collect();
    let scaled: Vec<f64> = rates.iter().map(|rate| rate * 20.0).collect();
    let (one, other) = (fed(&model, &rates), fed(&model, &scaled));
    for kind in [Kind::Last, Kind::Ewma, Kind::Mean300, Kind::Seasonal] {
        let at = |link: &Link| link.curve_of(kind).expect("always there").at(30.0).quantiles();
        for (a, b) in at(&one).into_iter().zip(at(&other)) {
            assert!((b / a / 20.0 - 1.0).abs() < 1e-4, "{}: {a} {b}", kind.name());
        }
    }
}

/// A model whose learned forecasters are all wrong by e^4.
fn bad_model() -> Model {
    let mut model = Model::bare();
    let mut ridge = model.ridge.as_ref().clone();
    for weights in &mut ridge.weights {
        *weights.last_mut().expect("the constant") = 4.0;
    }
    model.ridge = ridge.into();
    let mut trees = model.trees.as_ref().clone();
    trees.forests.iter_mut().flatten().for_each(|forest| forest.start = -4.0);
    model.trees = trees.into();
    // It claims to be ten times as good as EWMA.
    for kind in [Kind::Ridge, Kind::Trees] {
        model.skills[kind as usize] = [0.1; KNOT_STEPS.len()];
    }
    model
}

#[test]
fn a_model_that_is_wrong_is_below_ewma_for_minutes_only() {
    let model = bad_model();
    let rates: Vec<f64> = (0..400).map(|i| 2e6 + 1e5 * f64::from(i * 7 % 13)).collect();
    let mut link = Link::new(&model);
    let mut behind = 0;
    for (step, rate) in rates.iter().enumerate() {
        link.push(&LinkSample::rate(step as u64 * STEP_MS, *rate)).expect("a good sample");
        let near = link.curve().at(30.0).p50;
        if step > 20 && !(1.5e6..=3.5e6).contains(&near) {
            behind = step;
        }
    }
    assert!(behind < 20 + 60, "still wrong at step {behind}");
    assert_eq!(link.leaders()[0], Kind::Ewma);
    let recent = link.recent()[0];
    assert!(recent.judged > 300 && recent.right > 0.5, "{recent:?}");
}

#[test]
fn waiting_is_only_advised_when_it_is_allowed() {
    let link = fed(&shipped(), &[2e6; 100]);
    let mut job = Job {
        bytes: 120_000_000,
        usual_bytes_per_s: None,
        wait_price: 0.1,
        wait_max_s: 0.0,
        deadline_s: None,
    };
    let low = Curve([[10.0; 3], [11.0; 3], [13.0; 3], [16.0; 3]]);
    for curve in [&low, &link.curve()] {
        assert!(matches!(link.advise(curve, &job), Advice::Go { .. }));
    }
    job.bytes = 100_000_000_000;
    job.wait_max_s = f64::NAN;
    assert!(matches!(link.advise(&low, &job), Advice::Go { .. }));
    job.wait_max_s = 300.0;
    assert!(matches!(link.advise(&low, &job), Advice::Go { .. } | Advice::DeferUntil { .. }));
}

#[test]
fn a_deadline_that_waiting_would_miss_means_now() {
    // A dip: minutes at two megabytes a second, then half of one.
    let mut rates = vec![2e6; 100];
    rates.extend([5e5; 20]);
    let link = fed(&shipped(), &rates);
    // Half a megabyte a second where two are usual.
    let bad = Curve([[13.1; 3]; KNOT_STEPS.len()]);
    let job = Job {
        bytes: 60_000_000,
        usual_bytes_per_s: Some(2e6),
        wait_price: 0.1,
        wait_max_s: 600.0,
        deadline_s: None,
    };
    assert!(matches!(link.advise(&bad, &job), Advice::DeferUntil { .. }));
    for (deadline_s, is_early) in [(100.0, false), (200.0, true), (1e4, false)] {
        let job = Job { deadline_s: Some(deadline_s), ..job };
        let advice = link.advise(&bad, &job);
        assert_eq!(matches!(advice, Advice::Evacuate { .. }), is_early, "{deadline_s}: {advice:?}");
    }
    // A link that is well now goes, whatever is forecast.
    let well = fed(&shipped(), &[2e6; 100]);
    assert!(matches!(well.advise(&bad, &job), Advice::Go { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_comes_every_forecast_is_sound(
        samples in proptest::collection::vec((0u64..60_000, any::<f64>()), 0..120),
        scale in 0.0..1e13f64,
        at in any::<u64>(),
    ) {
        let model = shipped();
        let mut link = Link::new(&model);
        let mut now = at / 2;
        for (i, (wait, value)) in samples.into_iter().enumerate() {
            // Mostly forwards, at times far back or ahead.
            now = match i % 17 {
                5 => now.saturating_sub(wait * 10),
                11 => now.saturating_add(wait * 100),
                _ => now.saturating_add(wait),
            };
            let rate = if i % 3 == 0 { value } else { value.abs() % scale.max(1.0) };
            let _ = link.push(&LinkSample::rate(now, rate));
            prop_assert!(all_sound(&link));
        }
        let job = Job {
            bytes: at,
            usual_bytes_per_s: Some(scale),
            wait_price: 0.1,
            wait_max_s: scale,
            deadline_s: Some(scale),
        };
        match link.advise(&link.curve(), &job) {
            Advice::DeferUntil { in_s, saves_s } => {
                prop_assert!(in_s > 0.0 && in_s.is_finite() && saves_s.is_finite());
            }
            Advice::Go { seconds } | Advice::Evacuate { seconds } => {
                prop_assert!(seconds.p10 <= seconds.p50 && seconds.p50 <= seconds.p90);
            }
        }
    }
}

#[test]
fn a_learned_forecast_follows_the_link_over_a_wide_range_of_speeds() {
    // Not equivariant, but near it: the level is one input of many.
    let model = shipped();
    for scale in [1e5, 1e6, 1e7] {
        let rates: Vec<f64> = (0..100).map(|i| scale * (1.0 + 0.1 * f64::from(i % 5))).collect();
        let forecast = fed(&model, &rates).curve().at(5.0 * STEP_S);
        assert!((0.6..1.6).contains(&(forecast.p50 / (1.2 * scale))), "{scale}: {forecast:?}");
    }
}
