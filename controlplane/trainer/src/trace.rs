//! Throughput traces: lines of seconds and Mbit/s, resampled to means of 5 s, and who may learn from
//! which.
//!
//! Reads files on the caller's thread; a file is bounded before it is read.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use dwcp_prediction::{GAP_STEPS_MAX, RATE_MAX, STEP_S};
use sha2::{Digest, Sha256};

use crate::error::TrainError;

/// Largest trace file.
const TRACE_BYTES_MAX: u64 = 64 << 20;
/// Most traces under one folder.
const TRACES_MAX: usize = 100_000;
/// Folders below the named one that are looked into.
const FOLDER_DEPTH_MAX: usize = 6;
/// Longest trace: a month of steps.
const STEPS_MAX: usize = 30 * 24 * 720;
/// Bytes per second of one Mbit/s.
pub const BYTES_PER_MBIT: f64 = 125_000.0;
/// A link is for testing when its hash modulo ten is below this.
const TEST_BELOW: u8 = 3;
/// Of the others, a link calibrates and decides between models when its hash is below this.
const HELD_OUT_BELOW: u8 = 5;

/// One trace on the 5 s grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// File name.
    pub name: String,
    /// The set: the folder above, leaving out `cooked_traces`.
    pub set: String,
    /// Whose trace it is; links are never divided between training and test.
    pub link: String,
    /// Means of 5 s in bytes per second.
    pub rates: Vec<f64>,
}

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Models are fitted on it.
    Fit,
    /// Intervals are calibrated and models compared on it.
    HeldOut,
    /// Never looked at before the evaluation.
    Test,
}

impl Trace {
    /// What this trace is for: SHA-256 of the link's name, as a number, modulo 10: 0-2 test,
    /// 3-4 held out, 5-9 fit.
    pub fn part(&self) -> Part {
        match residue(&self.link) {
            r if r < TEST_BELOW => Part::Test,
            r if r < HELD_OUT_BELOW => Part::HeldOut,
            _ => Part::Fit,
        }
    }
}

/// SHA-256 as a big-endian number modulo ten.
pub(crate) fn residue(link: &str) -> u8 {
    let digest = Sha256::digest(link.as_bytes());
    digest.iter().fold(0, |rest, &byte| ((u32::from(rest) * 256 + u32::from(byte)) % 10) as u8)
}

/// The link of a trace by its file name. Puffer: the name before the last `_`. HSDPA: the route, that
/// is the name before `-report` or `.report`, or before the last `_` of `norway_*`. FCC and anything
/// else: the whole name.
pub fn link_of(name: &str) -> &str {
    let route = name.find("-report.").or_else(|| name.find(".report."));
    if let Some(end) = route {
        return &name[..end];
    }
    let is_numbered = !name.contains("http---");
    match name.rsplit_once('_') {
        Some((link, _)) if is_numbered && !link.is_empty() => link,
        _ => name,
    }
}

/// Every trace under a folder, in order of path. Files that are no traces (a licence, a readme) are
/// left out; a file that begins like a trace and breaks off is an error.
///
/// # Errors
/// [`TrainError`] when the folder cannot be read, holds no trace, or one is broken.
pub fn read_folder(folder: &Path) -> Result<Vec<Trace>, TrainError> {
    let mut files = Vec::new();
    list(folder, FOLDER_DEPTH_MAX, &mut files)?;
    files.sort();
    let mut traces = Vec::new();
    for file in files {
        if let Some(trace) = read_trace(&file)? {
            traces.push(trace);
        }
    }
    if traces.is_empty() {
        return Err(TrainError::NoTraces { folder: folder.to_owned() });
    }
    Ok(traces)
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), TrainError> {
    let failed = |source| TrainError::File { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() && depth > 0 {
            list(&entry.path(), depth - 1, files)?;
        } else if kind.is_file() {
            if files.len() == TRACES_MAX {
                return Err(TrainError::TooMany { what: "trace files", max: TRACES_MAX });
            }
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Reads one trace; `None` when the file's first line is no `seconds rate`.
fn read_trace(path: &Path) -> Result<Option<Trace>, TrainError> {
    let failed = |source| TrainError::File { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(TRACE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > TRACE_BYTES_MAX {
        return Err(TrainError::TooLong { path: path.to_owned(), max: TRACE_BYTES_MAX });
    }
    let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(None) };
    if text.lines().next().and_then(point).is_none() {
        return Ok(None);
    }
    let rates = resample(text).map_err(|(line, why)| TrainError::Trace {
        path: path.to_owned(),
        line,
        why,
    })?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let link = link_of(&name).to_owned();
    Ok(Some(Trace { set: set_of(path), link, name, rates }))
}

fn set_of(path: &Path) -> String {
    let mut folders = path.ancestors().skip(1).filter_map(Path::file_name);
    let set = folders.find(|name| *name != "cooked_traces");
    set.map_or_else(|| "traces".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn point(line: &str) -> Option<(f64, f64)> {
    let mut words = line.split_whitespace();
    let (at_s, mbit) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some((at_s, mbit))
}

/// Means over steps of 5 s of a rate that holds from its line to the next one's time; the last step,
/// if it is not whole, is left out. A gap of more than 300 s is cut to 300 s: what a link did in it is
/// not known, and a history would begin anew.
///
/// # Errors
/// Line number and reason: not two numbers, an impossible rate, time that goes backwards.
pub fn resample(text: &str) -> Result<Vec<f64>, (usize, &'static str)> {
    let mut steps = Steps::default();
    let mut before: Option<(f64, f64)> = None;
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let number = number + 1;
        let (at_s, mbit) = point(line).ok_or((number, "not `seconds Mbit/s`"))?;
        let rate = mbit * BYTES_PER_MBIT;
        if !(0.0..=RATE_MAX).contains(&rate) || !at_s.is_finite() {
            return Err((number, "an impossible rate or time"));
        }
        if let Some((since_s, rate)) = before {
            if at_s < since_s {
                return Err((number, "time goes backwards"));
            }
            steps.add(rate, (at_s - since_s).min(GAP_STEPS_MAX as f64 * STEP_S));
            if steps.rates.len() > STEPS_MAX {
                return Err((number, "longer than a month"));
            }
        }
        before = Some((at_s, rate));
    }
    Ok(steps.rates)
}

/// Fills one step after the other.
#[derive(Default)]
struct Steps {
    rates: Vec<f64>,
    bytes: f64,
    filled_s: f64,
}

impl Steps {
    fn add(&mut self, rate: f64, mut seconds: f64) {
        while seconds > 0.0 {
            let part = seconds.min(STEP_S - self.filled_s);
            self.bytes += rate * part;
            self.filled_s += part;
            seconds -= part;
            // What is left of a step by rounding alone counts as nothing.
            if self.filled_s >= STEP_S - 1e-9 {
                self.rates.push(self.bytes / STEP_S);
                (self.bytes, self.filled_s) = (0.0, 0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links_are_named_as_the_collections_name_them() {
        for (name, link) in [
            ("tracec3pGi5_nflw=_29", "tracec3pGi5_nflw="),
            ("bus.ljansbakken-oslo-report.2010-09-29_1827CEST.log", "bus.ljansbakken-oslo"),
            ("norway_tram_12", "norway_tram"),
            ("trace_866_http---www.amazon.com", "trace_866_http---www.amazon.com"),
            ("plain", "plain"),
        ] {
            assert_eq!(link_of(name), link);
        }
    }

    #[test]
    fn the_split_is_the_hash_modulo_ten() {
        // printf norway_tram | sha256sum, taken modulo ten by hand.
        assert!(residue("norway_tram") < TEST_BELOW);
        assert!(residue("norway_bus") >= TEST_BELOW);
    }

    #[test]
    fn a_rate_holds_until_the_next_line() {
        let text = "0.0 8\n2.5\t16\n5 4\n16 0\n";
        assert_eq!(resample(text), Ok(vec![1.5e6, 0.5e6, 0.5e6]));
        assert_eq!(resample("0 1\n"), Ok(vec![]));
        assert_eq!(resample("0 1\n1000 1\n").map(|r| r.len()), Ok(60));
    }

    #[test]
    fn broken_lines_are_named() {
        assert_eq!(resample("0 1\n2\n"), Err((2, "not `seconds Mbit/s`")));
        assert_eq!(resample("1 1\n0 1\n"), Err((2, "time goes backwards")));
        assert!(resample("0 -1\n").is_err() && resample("0 nan\n").is_err());
        assert!(resample("0 1e99\n").is_err() && resample("inf 1\n").is_err());
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in "[0-9a-z. \n-]{0,200}") {
            let _ = resample(&text);
        }

        #[test]
        fn bytes_are_kept(points in proptest::collection::vec((0.01..20.0f64, 0.0..100.0f64), 1..50)) {
            let (mut at, mut text, mut bytes) = (0.0, String::new(), 0.0);
            for (seconds, mbit) in &points {
                text.push_str(&format!("{at} {mbit}\n"));
                at += seconds;
                bytes += seconds * mbit * BYTES_PER_MBIT;
            }
            text.push_str(&format!("{at} 0\n"));
            let rates = resample(&text).expect("well formed");
            let whole = rates.len() as f64 * STEP_S;
            prop_assert!((at - whole) > -1e-6 && (at - whole) < STEP_S + 1e-6);
            prop_assert!(rates.iter().sum::<f64>() * STEP_S <= bytes * (1.0 + 1e-9) + 1e-3);
        }
    }
}
