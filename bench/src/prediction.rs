//! `prediction`: how long a forecast takes, on one core, and what the forecasters of the shipped model
//! cost each.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use dwcp_prediction::{
    Features, Kind, Link, LinkSample, LstmState, Model, STEP_MS, STEPS_MAX, WINDOW,
};

use crate::table;

/// Bounds that the product promises, in microseconds.
const WINDOW_P99_MAX_US: f64 = 2_000.0;
const STEP_P99_MAX_US: f64 = 50.0;
const TINY_RUNS: usize = 50;

#[derive(Debug, Args)]
pub(crate) struct PredictionArgs {
    /// Measurements of each
    #[arg(long, default_value_t = 5_000, value_parser = parse_runs)]
    runs: usize,
    /// A few runs, and no bound is held
    #[arg(long)]
    tiny: bool,
}

fn parse_runs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(runs @ 10..=1_000_000) => Ok(runs),
        _ => Err("a number from 10 to 1000000".to_owned()),
    }
}

pub(crate) fn run(args: &PredictionArgs) -> Result<()> {
    let model = Model::shipped().context("the shipped model")?;
    let runs = if args.tiny { TINY_RUNS } else { args.runs };
    let rates = rates(STEPS_MAX);
    let mut rows = Vec::new();
    let mut whole = timed(runs.div_ceil(10).max(TINY_RUNS), |_| {
        let mut link = Link::new(&model);
        for (step, rate) in rates[..WINDOW].iter().enumerate() {
            let _ = link.push(&LinkSample::rate(step as u64 * STEP_MS, *rate));
        }
        link.advance(WINDOW as u64 * STEP_MS);
        black_box(link.curve());
    });
    let mut link = Link::new(&model);
    let mut step = 0u64;
    let mut next = |link: &mut Link| {
        step += 1;
        let _ = link.push(&LinkSample::rate(step * STEP_MS, rates[step as usize % rates.len()]));
    };
    (0..STEPS_MAX).for_each(|_| next(&mut link));
    let mut incremental = timed(runs, |_| {
        next(&mut link);
        black_box(link.curve());
    });
    let window_p99 = push_row(&mut rows, "60 samples, every forecaster", &mut whole);
    let step_p99 = push_row(&mut rows, "1 sample more, every forecaster", &mut incremental);
    for (name, mut times) in parts(&model, &rates, runs)? {
        push_row(&mut rows, name, &mut times);
    }
    print!("{}", table::render(&["what", "p50 us", "p99 us", "max us"], &rows));
    println!(
        "promised p99: {WINDOW_P99_MAX_US} us for {WINDOW} samples, {STEP_P99_MAX_US} us for one more"
    );
    if !args.tiny && (window_p99 > WINDOW_P99_MAX_US || step_p99 > STEP_P99_MAX_US) {
        bail!("slower than promised");
    }
    Ok(())
}

/// Times of single forecasters and of the features.
fn parts(model: &Model, rates: &[f64], runs: usize) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let features = Features::of(rates).context("rates")?;
    let mut parts = vec![
        (
            "features alone",
            timed(runs, |_| {
                black_box(Features::of(black_box(rates)));
            }),
        ),
        (
            Kind::Ridge.name(),
            timed(runs, |_| {
                black_box(model.ridge.logs(black_box(&features)));
            }),
        ),
        (
            Kind::Trees.name(),
            timed(runs, |_| {
                black_box(model.trees.logs(black_box(&features)));
            }),
        ),
    ];
    if let Some(lstm) = &model.lstm {
        let mut state = LstmState::default();
        let step = |_| {
            state.step(lstm, black_box(&features.values));
            black_box(state.logs(lstm, &features));
        };
        parts.push((Kind::Lstm.name(), timed(runs, step)));
    }
    Ok(parts)
}

/// A link that wanders between 1 and 4 MB/s.
fn rates(n: usize) -> Vec<f64> {
    let wave = |i: usize| 1.0 + (i as f64 * 0.13).sin() * 0.6 + (i * 7_919 % 13) as f64 * 0.05;
    (0..n).map(|i| 2e6 * wave(i)).collect()
}

/// Microseconds of each run.
fn timed(runs: usize, mut work: impl FnMut(usize)) -> Vec<f64> {
    (0..runs)
        .map(|run| {
            let began = Instant::now();
            work(run);
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect()
}

/// Adds a row; the 99th percentile.
fn push_row(rows: &mut Vec<Vec<String>>, name: &str, times: &mut [f64]) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    let cells = [p50, p99, max].map(|us| format!("{us:.1}"));
    rows.push([name.to_owned()].into_iter().chain(cells).collect());
    p99
}
