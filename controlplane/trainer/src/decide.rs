//! What a forecast is worth: jobs that may wait for their start, and what each rule pays.
//!
//! A job is 60 s of work at the trace's mean; it may start at any 30 s step within 10 minutes; it pays its
//! seconds on the link and a tenth of a second for every second waited.

use std::collections::BTreeMap;

use dwcp_prediction::{Advice, Job, Kind, Link, Model, START_STEP_S, STEP_S, WINDOW};
use serde::Serialize;

use crate::evaluate::follow;
use crate::trace::Trace;

/// Seconds of work of a job at its trace's mean.
const JOB_S: f64 = 60.0;
/// What a second of waiting costs, in seconds on the link.
const WAIT_PRICE: f64 = 0.1;
/// Longest time that a start is put off, in steps of [`START_STEP_S`].
const WAITS_MAX: usize = 20;
/// Steps of 5 s between two starts.
const STRIDE: usize = (START_STEP_S / STEP_S) as usize;
/// Steps between two arrivals.
const ARRIVALS: usize = 2 * STRIDE;
/// Steps after the last start that a trace must have.
const RUN_STEPS: usize = 60;
/// The EWMA rule starts when EWMA is at least this share of the usual rate: the share that saved most on
/// the links of [`crate::trace::Part::Fit`] and [`crate::trace::Part::HeldOut`].
const EWMA_SHARE: f64 = 0.55;

/// What a rule paid on a set.
#[derive(Debug, Clone, Serialize)]
pub struct Decided {
    /// The set of traces; `all` for both together.
    pub set: String,
    /// The rule.
    pub rule: &'static str,
    /// Jobs.
    pub jobs: u64,
    /// Mean cost in seconds.
    pub cost_s: f64,
    /// Mean saving against going at once.
    pub gain_s: f64,
    /// Saving as a share of what the oracle saves.
    pub share_of_gap: f64,
}

const RULES: [&str; 4] = ["go_now", "ewma", "ours", "oracle"];

/// Lets every rule decide about every job.
pub fn decide(model: &Model, traces: &[&Trace]) -> Vec<Decided> {
    let mut sums: BTreeMap<String, ([f64; RULES.len()], u64)> = BTreeMap::new();
    for trace in traces {
        let costs = costs(model, trace);
        for set in [trace.set.clone(), "all".to_owned()] {
            let (sum, jobs) = sums.entry(set).or_default();
            for cost in &costs {
                *jobs += 1;
                sum.iter_mut().zip(cost).for_each(|(sum, cost)| *sum += cost);
            }
        }
    }
    let mut rows = Vec::new();
    for (set, (sum, jobs)) in sums.into_iter().filter(|(_, (_, jobs))| *jobs > 0) {
        let cost = sum.map(|sum| sum / jobs as f64);
        for (rule, cost_s) in RULES.into_iter().zip(cost) {
            let gain_s = cost[0] - cost_s;
            let gap = cost[0] - cost[RULES.len() - 1];
            let share_of_gap = if gap > 0.0 { gain_s / gap } else { 0.0 };
            rows.push(Decided { set: set.clone(), rule, jobs, cost_s, gain_s, share_of_gap });
        }
    }
    rows
}

/// Cost of every job of a trace under every rule.
fn costs(model: &Model, trace: &Trace) -> Vec<[f64; RULES.len()]> {
    let span = WAITS_MAX * STRIDE + RUN_STEPS;
    if trace.rates.len() < WINDOW + span {
        return Vec::new();
    }
    let bytes = mean(trace) * JOB_S;
    let mut goes = vec![[false; 2]; trace.rates.len()];
    follow(model, trace, |link, at| goes[at] = [ewma_goes(link, bytes), we_go(link, bytes)]);
    let arrivals = (WINDOW..=trace.rates.len() - span).step_by(ARRIVALS);
    arrivals
        .map(|arrival| {
            let cost = |waits: usize| {
                let waited = waits as f64 * START_STEP_S;
                seconds_taken(trace, arrival + waits * STRIDE, bytes) + WAIT_PRICE * waited
            };
            let by = |rule: usize| {
                let go = (0..WAITS_MAX).find(|waits| goes[arrival + waits * STRIDE][rule]);
                cost(go.unwrap_or(WAITS_MAX))
            };
            let oracle = (0..=WAITS_MAX).map(cost).fold(f64::INFINITY, f64::min);
            [cost(0), by(0), by(1), oracle]
        })
        .collect()
}

fn ewma_goes(link: &Link, bytes: f64) -> bool {
    let rate = link.curve_of(Kind::Ewma).map_or(0.0, |curve| curve.at(0.0).p50);
    rate * JOB_S >= EWMA_SHARE * bytes
}

fn we_go(link: &Link, bytes: f64) -> bool {
    let wait_max_s = WAITS_MAX as f64 * START_STEP_S;
    let job = Job {
        bytes: bytes as u64,
        usual_bytes_per_s: Some(bytes / JOB_S),
        wait_price: WAIT_PRICE,
        wait_max_s,
        deadline_s: None,
    };
    !matches!(link.advise(&link.curve(), &job), Advice::DeferUntil { .. })
}

/// Seconds on the link for this many bytes from a step on. A job that outlives the trace goes on at the
/// trace's mean.
fn seconds_taken(trace: &Trace, at: usize, bytes: f64) -> f64 {
    let mut left = bytes;
    let rest = trace.rates.get(at..).unwrap_or_default();
    for (step, rate) in rest.iter().enumerate() {
        let moved = rate * STEP_S;
        if left <= moved {
            return step as f64 * STEP_S + if moved > 0.0 { left / rate } else { 0.0 };
        }
        left -= moved;
    }
    rest.len() as f64 * STEP_S + left / mean(trace).max(1.0)
}

/// Mean rate of a trace.
fn mean(trace: &Trace) -> f64 {
    trace.rates.iter().sum::<f64>() / trace.rates.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(rates: Vec<f64>) -> Trace {
        Trace { name: "t_1".into(), set: "s".into(), link: "t".into(), rates }
    }

    #[test]
    fn a_job_takes_what_the_link_gives() {
        let trace = trace(vec![1e6, 0.0, 2e6]);
        assert!((seconds_taken(&trace, 0, 3e6) - 3.0).abs() < 1e-9);
        assert!((seconds_taken(&trace, 0, 7e6) - 11.0).abs() < 1e-9);
        assert!((seconds_taken(&trace, 1, 10e6) - 10.0).abs() < 1e-9);
        // 5 MB are left at the end, at a mean of 1 MB/s.
        assert!((seconds_taken(&trace, 0, 20e6) - 20.0).abs() < 1e-9);
    }

    #[test]
    fn on_a_steady_link_nobody_waits_and_in_a_dip_waiting_pays() {
        let rule = |rates, rule| {
            let rows = decide(&Model::bare(), &[&trace(rates)]);
            rows.into_iter().find(|r| r.set == "s" && r.rule == rule).map(|r| r.gain_s)
        };
        for name in RULES {
            assert!(rule(vec![1e6; 300], name).is_some_and(|gain| gain.abs() < 1e-6), "{name}");
        }
        let dip: Vec<f64> =
            (0..300).map(|i| if (80..110).contains(&i) { 1e4 } else { 1e6 }).collect();
        assert!(rule(dip.clone(), "oracle") >= rule(dip.clone(), "ours"));
        assert!(rule(dip, "ours") > Some(1.0));
    }
}
