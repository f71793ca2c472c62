//! What `dwcp-bench raw` prints and records: medians, spreads and paired ratios.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use dwcp_hwtest::net::Link;
use dwcp_hwtest::probe;
use serde_json::{Value, json};

use crate::raw::{Mover, Run};
use crate::raw_end::Shape;
use crate::table;

const COLUMNS: &str = "time,commit,version,iperf3,kernel,link,seconds,streams,slice_bytes,window,round,mover,gbit_per_s,source_cpu_s_per_gb,target_cpu_s_per_gb,wire_bytes,bytes,load";

/// One line about one run.
pub(crate) fn line(run: &Run) -> String {
    format!(
        "round {} {:9} {:6.2} Gbit/s, CPU s/GB: source {:.3}, target {:.3}, load {:.1}",
        run.round,
        run.mover.name(),
        run.gbit_per_s(),
        run.source_cpu_s_per_gb(),
        run.target_cpu_s_per_gb(),
        run.load
    )
}

/// What holds for all runs.
pub(crate) fn facts(link: Link, seconds: f64, shape: &Shape) -> Value {
    json!({
        "commit": probe::commit(),
        "version": env!("CARGO_PKG_VERSION"),
        "iperf3": iperf3_version(),
        "kernel": kernel(),
        "machine": probe::machine(),
        "link": link.to_string(),
        "seconds": seconds,
        "streams": shape.streams,
        "slice_bytes": shape.slice_bytes,
        "window": shape.window,
    })
}

fn iperf3_version() -> String {
    let out = Command::new("iperf3").arg("--version").output();
    let text = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().nth(1).unwrap_or("").to_owned()
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// A median with the lowest and highest value.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (Some(&low), Some(&high)) = (values.first(), values.last()) else {
        return Spread { low: 0.0, median: 0.0, high: 0.0 };
    };
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    };
    Spread { low, median, high }
}

/// A figure's name and how a run gives it.
type Figure = (&'static str, fn(&Run) -> f64);

/// The figures that are compared, each as "ours divided by theirs".
const FIGURES: [Figure; 3] = [
    ("goodput", Run::gbit_per_s),
    ("source CPU/GB", Run::source_cpu_s_per_gb),
    ("target CPU/GB", Run::target_cpu_s_per_gb),
];

/// Ours against `peer`, run by run of the same round.
fn ratios(runs: &[Run], peer: Mover, figure: fn(&Run) -> f64) -> Spread {
    let by = |mover| {
        let of_mover = runs.iter().filter(move |run| run.mover == mover);
        of_mover.map(|run| (run.round, figure(run))).collect::<BTreeMap<_, _>>()
    };
    let (ours, theirs) = (by(Mover::Dwcp), by(peer));
    let pairs = ours.iter().filter_map(|(round, value)| Some(value / theirs.get(round)?));
    spread(pairs)
}

fn movers(runs: &[Run]) -> Vec<Mover> {
    let mut movers = Vec::new();
    for run in runs {
        if !movers.contains(&run.mover) {
            movers.push(run.mover);
        }
    }
    movers
}

/// Prints the tables, or one JSON object.
pub(crate) fn print(facts: &Value, runs: &[Run], as_json: bool) {
    if as_json {
        println!("{}", summary(facts, runs));
        return;
    }
    println!("{}", medians(runs));
    println!("{}", comparisons(runs));
    println!("{facts}");
}

fn medians(runs: &[Run]) -> String {
    let rows: Vec<Vec<String>> = movers(runs)
        .into_iter()
        .map(|mover| {
            let of = |figure: fn(&Run) -> f64| {
                spread(runs.iter().filter(|run| run.mover == mover).map(figure)).median
            };
            vec![
                mover.name().to_owned(),
                format!("{:.2}", of(Run::gbit_per_s)),
                format!("{:.3}", of(Run::source_cpu_s_per_gb)),
                format!("{:.3}", of(Run::target_cpu_s_per_gb)),
                format!("{:.4}", of(|run| run.wire_bytes as f64 / run.bytes)),
            ]
        })
        .collect();
    let header = ["median", "Gbit/s", "source CPU s/GB", "target CPU s/GB", "wire bytes per byte"];
    table::render(&header, &rows)
}

fn comparisons(runs: &[Run]) -> String {
    let rows: Vec<Vec<String>> = peers(runs)
        .flat_map(|peer| FIGURES.into_iter().map(move |(name, figure)| (peer, name, figure)))
        .map(|(peer, name, figure)| {
            let Spread { low, median, high } = ratios(runs, peer, figure);
            vec![
                format!("dwcp / {}: {name}", peer.name()),
                format!("{median:.3}"),
                format!("{low:.3}"),
                format!("{high:.3}"),
            ]
        })
        .collect();
    table::render(&["paired ratio", "median", "lowest", "highest"], &rows)
}

fn peers(runs: &[Run]) -> impl Iterator<Item = Mover> {
    let movers = movers(runs);
    let has_ours = movers.contains(&Mover::Dwcp);
    movers.into_iter().filter(move |mover| has_ours && *mover != Mover::Dwcp)
}

fn summary(facts: &Value, runs: &[Run]) -> Value {
    let compared: Vec<Value> = peers(runs)
        .map(|peer| {
            let figures: serde_json::Map<String, Value> = FIGURES
                .into_iter()
                .map(|(name, figure)| {
                    let Spread { low, median, high } = ratios(runs, peer, figure);
                    let name = name.replace(['/', ' '], "_").to_lowercase();
                    (name, json!({"median": median, "lowest": low, "highest": high}))
                })
                .collect();
            json!({"peer": peer.name(), "ratios": figures})
        })
        .collect();
    let runs: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "round": run.round,
                "mover": run.mover.name(),
                "gbit_per_s": run.gbit_per_s(),
                "source_cpu_s_per_gb": run.source_cpu_s_per_gb(),
                "target_cpu_s_per_gb": run.target_cpu_s_per_gb(),
                "bytes": run.bytes,
                "wire_bytes": run.wire_bytes,
                "load": run.load,
            })
        })
        .collect();
    json!({"facts": facts, "compared": compared, "runs": runs})
}

/// Appends the runs to this machine's record.
pub(crate) fn record(facts: &Value, runs: &[Run]) -> Result<PathBuf> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tree.join("record").join(probe::machine());
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("{}: records are kept in the source tree", folder.display()))?;
    let path = folder.join("raw.csv");
    let is_new = !path.exists();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
    if is_new {
        writeln!(file, "{COLUMNS}")?;
    }
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    for run in runs {
        writeln!(file, "{}", row(time, facts, run))?;
    }
    Ok(path)
}

fn row(time: u64, facts: &Value, run: &Run) -> String {
    let fact = |name: &str| match &facts[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut cells = vec![time.to_string()];
    let facts = ["commit", "version", "iperf3", "kernel", "link", "seconds", "streams"];
    cells.extend(facts.into_iter().chain(["slice_bytes", "window"]).map(fact));
    cells.push(run.round.to_string());
    cells.push(run.mover.name().to_owned());
    cells.push(format!("{:.3}", run.gbit_per_s()));
    cells.push(format!("{:.4}", run.source_cpu_s_per_gb()));
    cells.push(format!("{:.4}", run.target_cpu_s_per_gb()));
    cells.push(run.wire_bytes.to_string());
    cells.push(format!("{:.0}", run.bytes));
    cells.push(format!("{:.2}", run.load));
    cells.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(round: u32, mover: Mover, bytes: f64) -> Run {
        Run {
            round,
            mover,
            bytes,
            seconds: 1.0,
            source_cpu_s: 1.0,
            target_cpu_s: 2.0,
            wire_bytes: 5,
            load: 0.5,
        }
    }

    #[test]
    fn ratios_pair_runs_of_one_round() {
        let runs = [
            run(1, Mover::Dwcp, 1e9),
            run(1, Mover::Iperf3, 2e9),
            run(2, Mover::Dwcp, 9e9),
            run(2, Mover::Iperf3, 3e9),
            run(3, Mover::Dwcp, 4e9),
            run(3, Mover::Iperf3, 4e9),
        ];
        let goodput = ratios(&runs, Mover::Iperf3, Run::gbit_per_s);
        assert_eq!(goodput, Spread { low: 0.5, median: 1.0, high: 3.0 });
        let cpu = ratios(&runs, Mover::Iperf3, Run::source_cpu_s_per_gb);
        assert_eq!((cpu.low, cpu.high), (1.0 / 3.0, 2.0));
        assert_eq!(peers(&runs).collect::<Vec<_>>(), [Mover::Iperf3]);
    }

    #[test]
    fn a_row_has_a_cell_for_every_column() {
        let shape = Shape { streams: 1, slice_bytes: 4096, window: 2 };
        let facts = facts(Link::Unshaped, 1.0, &shape);
        let row = row(7, &facts, &run(1, Mover::Iperf3Z, 1e9));
        assert_eq!(row.split(',').count(), COLUMNS.split(',').count(), "{row}");
        assert!(row.contains(",iperf3-Z,8.000,"), "{row}");
    }
}
