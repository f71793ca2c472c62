//! Watches the run state of one QEMU through a monitor of its own. QEMU stamps its events with the
//! host's clock, so that what two of them say can be put in order.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde_json::Value;

/// One change of a guest's run state, at microseconds of the host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at_us: u64,
    /// `RESUME` or `STOP`.
    pub runs: bool,
}

/// Run state changes of one QEMU since the watch began.
#[derive(Debug)]
pub struct Watch {
    changes: Arc<Mutex<Vec<Change>>>,
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Takes the monitor.
    pub fn connect(socket: &Path) -> Result<Self> {
        let mut stream =
            UnixStream::connect(socket).with_context(|| format!("{}", socket.display()))?;
        stream
            .write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n")?;
        let changes = Arc::new(Mutex::new(Vec::new()));
        let (lines, sink) = (BufReader::new(stream.try_clone()?), Arc::clone(&changes));
        let thread = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Some(change) = change_of(&line) {
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push(change);
                }
            }
        });
        Ok(Self { changes, stream, thread: Some(thread) })
    }

    /// What was seen so far.
    pub fn changes(&self) -> Vec<Change> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to `query-status` counts from the beginning of time.
fn change_of(line: &str) -> Option<Change> {
    let value: Value = serde_json::from_str(line).ok()?;
    if let Some(runs) = value.pointer("/return/running").and_then(Value::as_bool) {
        return Some(Change { at_us: 0, runs });
    }
    let runs = match value.get("event")?.as_str()? {
        "RESUME" => true,
        "STOP" => false,
        _ => return None,
    };
    let part = |name: &str| value.pointer(&format!("/timestamp/{name}"))?.as_u64();
    Some(Change { at_us: part("seconds")? * 1_000_000 + part("microseconds")?, runs })
}

/// The first moment at which more than one of these guests ran, if there was one.
pub fn both_ran(guests: &[Vec<Change>]) -> Option<u64> {
    let mut all: Vec<(u64, bool, usize)> = guests
        .iter()
        .enumerate()
        .flat_map(|(guest, changes)| changes.iter().map(move |c| (c.at_us, c.runs, guest)))
        .collect();
    // A stop in the same microsecond comes first.
    all.sort_unstable();
    let mut running = vec![false; guests.len()];
    for (at_us, runs, guest) in all {
        running[guest] = runs;
        if running.iter().filter(|r| **r).count() > 1 {
            return Some(at_us);
        }
    }
    None
}

#[test]
fn two_running_copies_are_seen() {
    let c = |at_us, runs| Change { at_us, runs };
    let source = vec![c(0, true), c(10, false), c(30, true)];
    assert_eq!(both_ran(&[source.clone(), vec![c(0, false), c(20, true), c(30, false)]]), None);
    assert_eq!(both_ran(&[source.clone(), vec![c(0, false), c(20, true)]]), Some(30));
    assert_eq!(both_ran(&[source, vec![c(0, false), c(9, true)]]), Some(9));
}
