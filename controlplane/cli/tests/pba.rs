//! `dwcp-cli pba` as a shell sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A folder of traces that vanishes.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, links: u32, steps: u32) -> Self {
        let path = std::env::temp_dir().join(format!("dwcp-pba-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("lab")).unwrap();
        for link in 0..links {
            let rate = |i: u32| f64::from(4 + link) * (1.0 + 0.4 * (f64::from(i) * 0.21).sin());
            let lines: String = (0..steps).map(|i| format!("{} {:.3}\n", i * 5, rate(i))).collect();
            fs::write(path.join(format!("lab/link{link}_1")), lines).unwrap();
        }
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pba(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dwcp-cli")).arg("pba").args(words).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn evaluate_and_metrics_tell_the_same_figures() {
    let folder = Folder::new("evaluate", 3, 260);
    let traces = folder.path("");
    let words = ["evaluate", "--traces", &traces, "--part", "all"];
    let json: Value =
        serde_json::from_str(&text(&pba(&[&words[..], &["--json"]].concat()))).unwrap();
    assert_eq!((&json["schema"], &json["traces"]), (&1.into(), &3.into()));
    let row = json["forecasts"].as_array().unwrap().iter().find(|row| {
        row["forecaster"] == "selector" && row["horizon_s"] == 30 && row["set"] == "lab"
    });
    let accuracy = row.unwrap()["within_30"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&accuracy));
    assert_eq!(json["decisions"][0]["rule"], "go_now");
    let table = text(&pba(&words));
    assert!(table.contains("FORECASTER") && table.contains("oracle"), "{table}");
    let metrics = text(&pba(&["metrics", "--traces", &traces, "--part", "all"]));
    let line = format!(
        "dwcp_pba_prediction_accuracy{{set=\"lab\",horizon=\"30s\",forecaster=\"selector\"}} {accuracy}"
    );
    assert!(metrics.lines().any(|l| l == line), "{line} in {metrics}");
}

#[test]
fn predictions_tell_rates_time_and_advice() {
    let folder = Folder::new("predictions", 2, 100);
    let traces = folder.path("");
    let words = ["predictions", "--traces", &traces, "--bytes", "50000000", "--dirty", "1000"];
    let json: Value =
        serde_json::from_str(&text(&pba(&[&words[..], &["--json"]].concat()))).unwrap();
    let link = &json["links"][0];
    let number = |value: &Value| value.as_f64().unwrap();
    for rate in link["rates"].as_array().unwrap() {
        assert!(number(&rate["p10_mbit_s"]) <= number(&rate["p50_mbit_s"]));
        assert!(number(&rate["p50_mbit_s"]) <= number(&rate["p90_mbit_s"]));
    }
    let seconds = number(&link["transfer"]["seconds"]["p50"]);
    // 400 Mbit at about 4 Mbit/s.
    assert!((50.0..200.0).contains(&seconds), "{seconds}");
    assert!(["go", "defer"].contains(&link["transfer"]["advice"].as_str().unwrap()));
    assert!(text(&pba(&words)).contains("ADVICE"));
}

#[test]
fn plot_draws_truth_and_interval() {
    let folder = Folder::new("plot", 1, 120);
    let (traces, out) = (folder.path(""), folder.path("a.svg"));
    let words = ["plot", "--traces", &traces, "--trace", "link0", "--out", &out];
    assert_eq!(text(&pba(&words)), "");
    let svg = fs::read_to_string(&out).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("<polygon") && svg.contains("<polyline"));
    assert_eq!(pba(&["plot", "--traces", &traces, "--trace", "none"]).status.code(), Some(3));
}

#[test]
fn retrain_takes_a_model_and_goes_back() {
    let folder = Folder::new("retrain", 20, 300);
    let (traces, model) = (folder.path(""), folder.path("m.pba"));
    let words = ["retrain", "--traces", &traces, "--model", &model, "--rounds", "0", "--json"];
    let json: Value = serde_json::from_str(&text(&pba(&words))).unwrap();
    assert_eq!(json["outcome"], "taken");
    let again: Value =
        serde_json::from_str(&text(&pba(&[&words[..], &["--if-older", "1"]].concat()))).unwrap();
    assert_eq!(again["outcome"], "not_due");
    // The first model has no forerunner.
    assert_eq!(pba(&["retrain", "--model", &model, "--roll-back"]).status.code(), Some(3));
    fs::copy(&model, Path::new(&model).with_file_name("m.pba.previous")).unwrap();
    assert!(text(&pba(&["retrain", "--model", &model, "--roll-back"])).contains("rolled_back"));
}

#[test]
fn bad_input_has_the_exit_codes_of_the_contract() {
    let folder = Folder::new("bad", 1, 5);
    let traces = folder.path("");
    let code = |words: &[&str]| pba(words).status.code();
    assert_eq!(code(&["evaluate", "--traces", "/nowhere"]), Some(3));
    assert_eq!(code(&["evaluate", "--traces", &traces, "--part", "all"]), Some(7));
    assert_eq!(code(&["evaluate"]), Some(2));
    assert_eq!(code(&["predictions", "--traces", &traces, "--forecaster", "x"]), Some(2));
    fs::write(folder.path("m.pba"), "no model").unwrap();
    let model = folder.path("m.pba");
    assert_eq!(code(&["predictions", "--traces", &traces, "--model", &model]), Some(7));
    fs::write(folder.path("lab/link9_1"), "0 1\n5 1\n4 1\n").unwrap();
    assert_eq!(code(&["predictions", "--traces", &traces]), Some(7));
}
