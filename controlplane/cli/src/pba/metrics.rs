//! `pba metrics`: the same figures as `pba evaluate`, in the form that Prometheus reads.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use dwcp_trainer::evaluate::{Row, evaluate};
use dwcp_trainer::trace::Trace;

use super::args::JudgeArgs;
use super::model;
use crate::output::{Output, Table};
use crate::problem::Problem;

/// One metric of a forecaster.
struct Metric {
    name: &'static str,
    help: &'static str,
    value: fn(&Row) -> f64,
}

const METRICS: [Metric; 4] = [
    Metric {
        name: "dwcp_pba_prediction_accuracy",
        help: "Share of forecasts whose median was within 30 % of the truth.",
        value: |row| row.within_30,
    },
    Metric {
        name: "dwcp_pba_interval_coverage",
        help: "Share of truths between P10 and P90.",
        value: |row| row.coverage,
    },
    Metric {
        name: "dwcp_pba_absolute_error_ratio",
        help: "Sum of absolute errors over sum of truths.",
        value: |row| row.wape,
    },
    Metric {
        name: "dwcp_pba_pinball_loss_bits_per_second",
        help: "Mean pinball loss of P10, P50 and P90.",
        value: |row| row.pinball_mbit_s * 1e6,
    },
];

/// Runs it. With -o json or yaml the rows themselves are printed.
pub fn run(args: &JudgeArgs, output: &Output) -> Result<ExitCode, Problem> {
    let used = model::load(args.model.as_deref())?;
    let traces = model::traces(&args.traces, args.part)?;
    let rows = evaluate(&used, &traces.iter().collect::<Vec<&Trace>>())?;
    let age_s = args.model.as_ref().and_then(|path| {
        let changed = std::fs::metadata(path).and_then(|m| m.modified()).ok()?;
        SystemTime::now().duration_since(changed).ok()
    });
    let mut text = exposition(&rows);
    let model = [
        (
            "dwcp_pba_model_windows",
            "Windows that the model was fitted on.",
            Some(used.windows as f64),
        ),
        (
            "dwcp_pba_model_age_seconds",
            "Seconds since the model file was written.",
            age_s.map(|age| age.as_secs_f64()),
        ),
    ];
    for (name, help, value) in model {
        let Some(value) = value else { continue };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    output.show(&rows, |_| Table::lines(text.lines().map(str::to_owned).collect()))?;
    Ok(ExitCode::SUCCESS)
}

fn exposition(rows: &[Row]) -> String {
    let mut text = String::new();
    for Metric { name, help, value } in METRICS {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for row in rows {
            let _ = writeln!(
                text,
                "{name}{{set=\"{}\",horizon=\"{}s\",forecaster=\"{}\"}} {}",
                escape(&row.set),
                row.horizon_s,
                row.forecaster,
                value(row)
            );
        }
    }
    text
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_every_metric_has_a_type() {
        let row = Row {
            set: "a\"b".into(),
            horizon_s: 30,
            forecaster: "ewma",
            windows: 1,
            mae_mbit_s: 1.0,
            wape: 0.1,
            within_30: 0.75,
            pinball_mbit_s: 0.5,
            coverage: 0.8,
            coverage_by_third: [0.8; 3],
        };
        let text = exposition(&[row]);
        let line =
            r#"dwcp_pba_prediction_accuracy{set="a\"b",horizon="30s",forecaster="ewma"} 0.75"#;
        assert!(text.lines().any(|l| l == line), "{text}");
        assert_eq!(text.matches("# TYPE").count(), METRICS.len());
    }
}
