//! Medians, paired ratios, and the forms they are shown in.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::migrate_mode::{BASELINE, Mode};
use crate::migrate_run::Run;
use crate::table;

const MB: f64 = 1e6;

/// Median and spread of paired ratios.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// One mode over all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) mode: Mode,
    pub(crate) runs: usize,
    pub(crate) total_ms: f64,
    pub(crate) downtime_ms: f64,
    pub(crate) client_downtime_ms: Option<f64>,
    pub(crate) wire_bytes: f64,
    pub(crate) cpu_s: f64,
    pub(crate) guest_work: Option<f64>,
    pub(crate) ticks_unbroken: bool,
    pub(crate) ram_identical: Option<bool>,
    /// Against the baseline of the same round.
    pub(crate) total_ratio: Option<Ratio>,
    pub(crate) wire_ratio: Option<Ratio>,
}

/// The middle value, or the mean of the middle two; `None` of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(values[n / 2]),
        _ => Some(f64::midpoint(values[n / 2 - 1], values[n / 2])),
    }
}

fn ratio(runs: &[Run], mode: Mode, figure: impl Fn(&Run) -> f64) -> Option<Ratio> {
    let find =
        |wanted: Mode, round: u32| runs.iter().find(|r| r.mode == Some(wanted) && r.round == round);
    let mut ratios: Vec<f64> = runs
        .iter()
        .filter(|r| r.mode == Some(mode))
        .filter_map(|r| Some(figure(r) / figure(find(BASELINE, r.round)?)))
        .filter(|r| r.is_finite())
        .collect();
    ratios.sort_by(f64::total_cmp);
    let (min, max) = (*ratios.first()?, *ratios.last()?);
    Some(Ratio { median: median(ratios)?, min, max })
}

/// One line per mode, in the order given.
pub(crate) fn summarise(modes: &[Mode], runs: &[Run]) -> Vec<Summary> {
    let mut summaries = Vec::new();
    for &mode in modes {
        let own: Vec<&Run> = runs.iter().filter(|r| r.mode == Some(mode)).collect();
        let of = |figure: &dyn Fn(&Run) -> f64| median(own.iter().map(|r| figure(r)));
        let some =
            |figure: &dyn Fn(&Run) -> Option<f64>| median(own.iter().filter_map(|r| figure(r)));
        let Some(total_ms) = of(&|r| r.total_ms) else { continue };
        let checked: Vec<bool> = own.iter().filter_map(|r| r.ram_identical).collect();
        summaries.push(Summary {
            mode,
            runs: own.len(),
            total_ms,
            downtime_ms: of(&|r| r.downtime_ms).unwrap_or_default(),
            client_downtime_ms: some(&|r| r.client_downtime_ms),
            wire_bytes: of(&|r| r.wire_bytes() as f64).unwrap_or_default(),
            cpu_s: of(&Run::cpu_s).unwrap_or_default(),
            guest_work: some(&|r| r.guest_work),
            ticks_unbroken: own.iter().all(|r| r.ticks_unbroken != Some(false)),
            ram_identical: (!checked.is_empty()).then(|| checked.iter().all(|same| *same)),
            total_ratio: ratio(runs, mode, |r| r.total_ms),
            wire_ratio: ratio(runs, mode, |r| r.wire_bytes() as f64),
        });
    }
    summaries
}

fn show_ratio(ratio: Option<Ratio>) -> String {
    ratio.map_or("-".into(), |r| format!("{:.2} ({:.2}-{:.2})", r.median, r.min, r.max))
}

fn show(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".into(), |v| format!("{v:.decimals$}"))
}

/// For people.
pub(crate) fn text(summaries: &[Summary]) -> String {
    let header = [
        "mode",
        "runs",
        "total s",
        "wire MB",
        "downtime ms",
        "client ms",
        "CPU s",
        "guest work",
        "time ratio",
        "wire ratio",
        "memory",
        "ticks",
    ];
    let rows: Vec<Vec<String>> = summaries
        .iter()
        .map(|s| {
            let memory = match s.ram_identical {
                None => "-",
                Some(true) => "identical",
                Some(false) => "DIFFERS",
            };
            vec![
                s.mode.to_string(),
                s.runs.to_string(),
                format!("{:.2}", s.total_ms / 1000.0),
                format!("{:.0}", s.wire_bytes / MB),
                format!("{:.0}", s.downtime_ms),
                show(s.client_downtime_ms, 0),
                format!("{:.2}", s.cpu_s),
                show(s.guest_work, 2),
                show_ratio(s.total_ratio),
                show_ratio(s.wire_ratio),
                memory.into(),
                if s.mode.is_limit() {
                    "-".into()
                } else if s.ticks_unbroken {
                    "unbroken".into()
                } else {
                    "BROKEN".to_owned()
                },
            ]
        })
        .collect();
    table::render(&header, &rows)
}

/// For programs.
pub(crate) fn json(facts: &Value, summaries: &[Summary], runs: &[Run]) -> Value {
    json!({"schema": 1, "baseline": BASELINE, "facts": facts, "summary": summaries, "runs": runs})
}

const CSV_HEADER: &str = "date,commit,qemu,kernel,link,guest_mb,dirty_mb,rate_mb,mode,round,total_ms,downtime_ms,client_downtime_ms,wire_tx_bytes,wire_rx_bytes,cpu_source_qemu_s,cpu_target_qemu_s,cpu_source_engine_s,cpu_target_engine_s,guest_work,ticks_unbroken,ram_identical,load\n";

fn csv_line(facts: &Value, run: &Run) -> String {
    let fact = |key: &str| match &facts[key] {
        Value::String(text) => text.replace([',', '"'], " "),
        other => other.to_string(),
    };
    let optional = |value: Option<String>| value.unwrap_or_default();
    let cells = [
        fact("date"),
        fact("commit"),
        fact("qemu"),
        fact("kernel"),
        fact("link"),
        fact("guest_mb"),
        fact("dirty_mb"),
        fact("rate_mb"),
        optional(run.mode.map(|m| m.to_string())),
        run.round.to_string(),
        format!("{:.0}", run.total_ms),
        format!("{:.0}", run.downtime_ms),
        optional(run.client_downtime_ms.map(|v| format!("{v:.1}"))),
        run.wire_tx_bytes.to_string(),
        run.wire_rx_bytes.to_string(),
        format!("{:.2}", run.cpu_source_qemu_s),
        format!("{:.2}", run.cpu_target_qemu_s),
        format!("{:.2}", run.cpu_source_engine_s),
        format!("{:.2}", run.cpu_target_engine_s),
        optional(run.guest_work.map(|v| format!("{v:.3}"))),
        optional(run.ticks_unbroken.map(|v| v.to_string())),
        optional(run.ram_identical.map(|v| v.to_string())),
        format!("{:.2}", run.load_before),
    ];
    cells.join(",") + "\n"
}

/// Appends one line per run; a new file begins with the names.
pub(crate) fn record(path: &Path, facts: &Value, runs: &[Run]) -> Result<()> {
    let parent = path.parent().context("a record without a folder")?;
    fs::create_dir_all(parent)?;
    let mut text = String::new();
    if !path.exists() {
        text.push_str(CSV_HEADER);
    }
    text.extend(runs.iter().map(|run| csv_line(facts, run)));
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: Mode, round: u32, total_ms: f64) -> Run {
        Run { mode: Some(mode), round, total_ms, wire_tx_bytes: 1000, ..Run::default() }
    }

    #[test]
    fn medians_of_even_and_odd_counts() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn ratios_are_paired_by_round() {
        let runs = [
            run(BASELINE, 0, 100.0),
            run(Mode::Dwcp, 0, 50.0),
            run(BASELINE, 1, 200.0),
            run(Mode::Dwcp, 1, 160.0),
            run(Mode::Dwcp, 2, 1.0),
        ];
        let summary = summarise(&[Mode::Dwcp], &runs);
        let ratio = summary[0].total_ratio.unwrap();
        assert_eq!((ratio.min, ratio.max), (0.5, 0.8));
        assert!((ratio.median - 0.65).abs() < 1e-9);
        assert_eq!(summary[0].runs, 3);
    }

    #[test]
    fn a_csv_line_has_a_cell_for_every_name() {
        let facts = json!({"kernel": "a,b\"c", "guest_mb": 80});
        let line = csv_line(&facts, &run(Mode::Dwcp, 0, 1.0));
        assert_eq!(line.split(',').count(), CSV_HEADER.split(',').count());
    }
}
