//! The demo as a user runs it: it works twice, and Ctrl-C at any moment leaves nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dwcp_hwtest::{engine, interrupt, probe};
use rustix::process::{Pid, Signal};
use serde_json::Value;

const DEMO_LIMIT: Duration = Duration::from_secs(300);
const END_LIMIT: Duration = Duration::from_secs(30);
const INTERRUPTED: i32 = 130;

/// Both binaries and a guest, or a skip.
fn lab() -> Option<PathBuf> {
    let found = probe::guest_lab()
        .and_then(|_| engine::binary())
        .and_then(|_| engine::program("dwcp-bench"));
    found.map_err(|e| probe::skip(&format!("{e:#}"))).ok()
}

fn start(bench: &Path) -> Child {
    Command::new(bench)
        .args(["demo", "--memory", "80M", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Everything on this machine that carries the demo's name.
fn leftovers(pid: u32) -> Vec<String> {
    let name = format!("{}{pid}-", dwcp_hwtest::workdir::PREFIX);
    let mut left = Vec::new();
    for folder in ["/tmp", "/run/netns", "/dev/shm"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&name) {
                left.push(entry.path().display().to_string());
            }
        }
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if words.contains(&name) {
            left.push(words.replace('\0', " "));
        }
    }
    left
}

/// The engine's own folders, where a guest that ended must not leave one.
fn engine_folders() -> BTreeSet<PathBuf> {
    let entries = ["/run/dwcp/receive", "/run/dwcp/send", "/run/dwcp/ram"].into_iter();
    entries.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten().map(|e| e.path()).collect()
}

/// One demo at a time: its leftovers are told by what was there before.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn it_works_twice() {
    let Some(bench) = lab() else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = engine_folders();
    for round in 0..2 {
        let child = start(&bench);
        let pid = child.id();
        let out = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "round {round}: {errors}");
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["ticks_unbroken"], true, "{report}");
        assert_eq!(report["dwcp"]["report"]["hash_root_match"], true, "{report}");
        assert!(report["dwcp"]["wire_bytes"].as_u64().unwrap() > 1_000_000, "{report}");
        assert!(report["qemu_multifd_zstd"].is_object(), "{errors}");
        assert_eq!(leftovers(pid), Vec::<String>::new());
        assert_eq!(engine_folders(), before);
    }
}

#[test]
fn an_interrupt_leaves_nothing() {
    let Some(bench) = lab() else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = engine_folders();
    for (moment, delay_ms) in [
        ("- booting", 300),
        ("- moving it by DWCP", 60),
        ("- moving it by DWCP", 500),
        ("- moving it back by QEMU", 60),
    ] {
        let mut child = start(&bench);
        let pid = child.id();
        let stderr = child.stderr.take().unwrap();
        let mut lines = BufReader::new(stderr).lines();
        let reached = lines.by_ref().map_while(Result::ok).any(|line| line.starts_with(moment));
        assert!(reached, "the demo never came to {moment:?}");
        std::thread::sleep(Duration::from_millis(delay_ms));
        rustix::process::kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::INT).unwrap();
        // Whoever still writes must not be stopped by a full pipe.
        let drain = std::thread::spawn(move || lines.for_each(drop));
        let status =
            interrupt::wait_until("end of the demo", DEMO_LIMIT, || Ok(child.try_wait()?)).unwrap();
        drain.join().unwrap();
        assert_eq!(status.code(), Some(INTERRUPTED), "{moment}");
        let gone = interrupt::wait_until("leftovers to go", END_LIMIT, || {
            Ok(leftovers(pid).is_empty().then_some(()))
        });
        assert!(gone.is_ok(), "{moment} {delay_ms}: {:?}", leftovers(pid));
        assert_eq!(engine_folders(), before, "{moment} {delay_ms}");
    }
}
