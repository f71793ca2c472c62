//! Training and judging from end to end: on traces made here, and on the real collection where it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use dwcp_prediction::{Kind, Model};
use dwcp_trainer::TrainError;
use dwcp_trainer::decide::decide;
use dwcp_trainer::evaluate::{Row, evaluate, pinball_ratio};
use dwcp_trainer::retrain::{Background, Retrained, Retraining, read_model, retrain, roll_back};
use dwcp_trainer::trace::{Part, Trace, read_folder};

/// A folder that vanishes.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dwcp-trainer-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Links that wander around a mean of their own, `per_link` traces each.
fn write_traces(folder: &Path, links: u64, steps: u64) {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64 - 0.5
    };
    fs::create_dir_all(folder).expect("a folder");
    for link in 0..links {
        let (mean, mut away) = (2.0 + link as f64, 0.0);
        let mut text = String::new();
        for step in 0..steps {
            away = 0.9 * away + 0.4 * next();
            text.push_str(&format!("{} {:.4}\n", step * 5, mean * f64::exp(away)));
        }
        fs::write(folder.join(format!("link{link}_1")), text).expect("a trace");
    }
}

fn order(traces: PathBuf, model: PathBuf, rounds: u32) -> Retraining {
    Retraining { traces, model, seed: 3, rounds, pause_after: None, note: "test".into() }
}

static GO_ON: AtomicBool = AtomicBool::new(false);

#[test]
fn a_model_is_trained_taken_kept_and_rolled_back() {
    let folder = Folder::new("retrain");
    write_traces(&folder.join("set"), 20, 300);
    let order = order(folder.join("set"), folder.join("m.pba"), 0);
    let first = retrain(&order, &GO_ON).expect("enough traces");
    let Retrained::Taken(verdict) = first else { panic!("{first:?}") };
    assert!(verdict.old.is_none() && verdict.new < 1.0, "{verdict:?}");
    let model = read_model(&order.model).expect("written");
    // The same seed and traces: the same model, which is not worse than itself.
    let again = Background::start(order.clone()).and_then(Background::join).expect("again");
    assert_eq!(
        again,
        Retrained::Taken(dwcp_trainer::retrain::Verdict { old: Some(verdict.new), ..verdict })
    );
    assert_eq!(read_model(&order.model).expect("written"), model);

    // A better one in place: the new one is worse, and stays out.
    let traces = read_folder(&order.traces).expect("traces");
    let held_out: Vec<&Trace> = traces.iter().filter(|t| t.part() == Part::HeldOut).collect();
    let better = overfitted(&model, &order, &held_out);
    let kept = retrain(&order, &GO_ON).expect("runs");
    assert!(matches!(kept, Retrained::Kept(v) if v.old < Some(v.new)), "{kept:?}");
    assert_eq!(read_model(&order.model).expect("still there"), better);
    roll_back(&order.model).expect("the one before");
    assert_eq!(read_model(&order.model).expect("back"), model);
}

/// A model that is better on the held-out links, because copies of them were among its own to fit on.
fn overfitted(model: &Model, order: &Retraining, held_out: &[&Trace]) -> Model {
    let folder = Folder::new("better");
    let set = folder.join("set");
    write_traces(&set, 20, 300);
    for (i, trace) in held_out.iter().cycle().take(40).enumerate() {
        let part = |name: &String| {
            let (name, link) = (name.clone(), name.clone());
            Trace { name, set: String::new(), link, rates: Vec::new() }.part()
        };
        let names = (0..).map(|n| format!("copy{i}x{n}"));
        let name = names.into_iter().find(|name| part(name) == Part::Fit).expect("one of ten");
        let line = |(step, rate): (usize, &f64)| format!("{} {}\n", step * 5, rate / 125_000.0);
        let text: String = trace.rates.iter().enumerate().map(line).collect();
        fs::write(set.join(format!("{name}_1")), text).expect("a copy");
    }
    let other = Retraining { traces: set, model: folder.join("b.pba"), ..order.clone() };
    retrain(&other, &GO_ON).expect("enough traces");
    let better = read_model(&other.model).expect("written");
    let loss = |model: &Model| pinball_ratio(&evaluate(model, held_out).expect("judged"));
    assert!(loss(&better) < loss(model), "{} {}", loss(&better), loss(model));
    fs::copy(&other.model, &order.model).expect("copied");
    better
}

#[test]
fn too_little_and_broken_traces_are_errors_and_a_cancel_is_heard() {
    let folder = Folder::new("bad");
    let order = order(folder.join("set"), folder.join("m.pba"), 0);
    assert!(matches!(retrain(&order, &GO_ON), Err(TrainError::File { .. })));
    write_traces(&order.traces, 3, 40);
    assert!(matches!(retrain(&order, &GO_ON), Err(TrainError::TooFew { .. })));
    fs::write(folder.join("set/readme.md"), "no trace").expect("written");
    assert_eq!(read_folder(&order.traces).expect("left out").len(), 3);
    fs::write(folder.join("set/broken_1"), "0 1\n5 x\n").expect("written");
    assert!(matches!(read_folder(&order.traces), Err(TrainError::Trace { line: 2, .. })));
    fs::write(&order.model, "nonsense").expect("written");
    assert!(matches!(read_model(&order.model), Err(TrainError::Model(_))));
    assert!(roll_back(&order.model).is_err());
}

#[cfg(feature = "lstm")]
#[test]
fn a_training_that_pauses_gives_the_same_network() {
    let folder = Folder::new("pause");
    write_traces(&folder.join("set"), 20, 300);
    let whole = order(folder.join("set"), folder.join("whole.pba"), 2);
    assert!(matches!(retrain(&whole, &GO_ON), Ok(Retrained::Taken(_))));
    let mut parts = order(folder.join("set"), folder.join("parts.pba"), 2);
    parts.pause_after = Some(1);
    let paused = retrain(&parts, &GO_ON).expect("one round");
    assert!(matches!(paused, Retrained::Paused { rounds: 1, .. }), "{paused:?}");
    let cancelled = retrain(&parts, &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(TrainError::Cancelled)), "{cancelled:?}");
    assert!(matches!(retrain(&parts, &GO_ON), Ok(Retrained::Taken(_))));
    assert!(!folder.join("parts.pba.checkpoint").exists());
    let (whole, parts) = (read_model(&whole.model), read_model(&parts.model));
    assert_eq!(whole.expect("written").lstm, parts.expect("written").lstm);
}

/// The real collection, unpacked; `None` where it is not on this machine.
fn collection() -> Option<Folder> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let data = std::env::var_os("DWCP_DATA").map_or(beside, PathBuf::from);
    let archive = data.join("traces/throughput.tar.xz");
    if !archive.exists() {
        println!("SKIP: no traces at {}: set DWCP_DATA", archive.display());
        return None;
    }
    let folder = Folder::new("collection");
    let unpacked = Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(&folder.0).status();
    assert!(unpacked.is_ok_and(|status| status.success()), "tar and xz unpack the traces");
    Some(folder)
}

fn find<'a>(rows: &'a [Row], set: &str, horizon_s: u32, kind: Kind) -> &'a Row {
    let same =
        |row: &&Row| row.set == set && row.horizon_s == horizon_s && row.forecaster == kind.name();
    rows.iter().find(same).expect("judged")
}

#[test]
fn the_shipped_model_keeps_its_promises_on_links_it_never_saw() {
    let Some(folder) = collection() else { return };
    let traces = read_folder(&folder.0).expect("the collection");
    assert_eq!(traces.len(), 601);
    let test: Vec<&Trace> = traces.iter().filter(|t| t.part() == Part::Test).collect();
    let model = Model::shipped().expect("whole");
    let rows = evaluate(&model, &test).expect("judged");
    for set in ["puffer_220218", "fcc_and_hsdpa"] {
        for horizon_s in [30, 300] {
            let of = |kind| find(&rows, set, horizon_s, kind);
            let ours = of(Kind::Selector);
            let simple = [Kind::Last, Kind::Ewma, Kind::Mean300];
            let best = simple.map(|k| of(k).mae_mbit_s).into_iter().fold(f64::INFINITY, f64::min);
            let what = format!("{set} {horizon_s} s: {ours:?}, best of the simple: {best}");
            assert!(ours.mae_mbit_s <= best, "{what}");
            if (set, horizon_s) == ("puffer_220218", 30) {
                assert!(ours.mae_mbit_s <= 0.95 * best, "{what}");
            }
            assert!((0.7..0.9).contains(&ours.coverage), "{what}");
            assert!(ours.pinball_mbit_s <= 0.95 * of(Kind::Ewma).pinball_mbit_s, "{what}");
        }
    }
    let gains = decide(&model, &test);
    let gain = |rule| gains.iter().find(|d| d.set == "all" && d.rule == rule).map(|d| d.gain_s);
    assert!(gain("ours") > Some(1.0) && gain("oracle") > gain("ours"), "{gains:?}");
}
