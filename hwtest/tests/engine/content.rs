//! Content that the target holds is not sent, and never makes a wrong page.

use std::fs;
use std::path::Path;

use dwcp_hwtest::guest::Guest;
use dwcp_hwtest::qemu::QemuConfig;
use dwcp_hwtest::ram::RamImage;
use dwcp_hwtest::workdir::WorkDir;
use serde_json::Value;

use crate::lab::{self, LIMIT, Machine, Receiver, Send, code};

/// A slow link's codec: on a fast one whole pages go sooner than questions.
const LEVEL: [&str; 2] = ["--level", "1"];
const PATIENT: [&str; 2] = ["--pause-timeout-ms", "5000"];

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Moves a guest to a host with this store, leaving both copies paused, and compares all memory.
fn arrive(source: &mut Machine, config: &QemuConfig<'_>, store: &Path) -> Value {
    let state = lab::disk_dir();
    let store = text(store);
    let flags = ["--once", "--leave-paused", "--store", &store];
    let mut receiver = Receiver::launch(config, &flags);
    let flags = [&LEVEL[..], &PATIENT].concat();
    let send = Send::start(&source.qemu, receiver.address, state.path(), &flags);
    let mut target = receiver.adopt(config, &send).unwrap();
    let sent = send.wait();
    assert_eq!(code(&sent), Some(0), "{}", sent.errors);
    assert_eq!(receiver.wait().report["status"], "completed");
    let (machine, bytes) = (source.qemu.machine(), source.qemu.memory_bytes());
    let before = RamImage::save(source.qemu.qmp(), machine, bytes).unwrap();
    let after = RamImage::save(target.qemu.qmp(), machine, bytes).unwrap();
    assert!(before.compare(&after).unwrap().identical());
    sent.report
}

/// Moves a guest away from a host that keeps what it leaves behind; it runs elsewhere then.
fn leave(source: &mut Machine, config: &QemuConfig<'_>, store: &Path) -> Machine {
    let state = lab::disk_dir();
    let store = text(store);
    let mut receiver = Receiver::launch(config, &["--once"]);
    let keep = ["--store", store.as_str(), "--keep-checkpoint"];
    let flags = [&keep[..], &PATIENT].concat();
    let send = Send::start(&source.qemu, receiver.address, state.path(), &flags);
    let target = receiver.adopt(config, &send).unwrap();
    let sent = send.wait();
    assert_eq!(code(&sent), Some(0), "{}", sent.errors);
    assert!(sent.errors.contains("checkpoint"), "{}", sent.errors);
    assert_eq!(receiver.wait().report["status"], "completed");
    target
}

fn found(report: &Value, kind: &str) -> u64 {
    report["known_by"][kind].as_u64().unwrap()
}

/// The checkpoint files of the default tenant.
fn memories(store: &Path) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(store.join("default")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "mem")).collect()
}

fn round_trip(guest: &Guest, change: impl FnOnce(&Path)) -> Value {
    let config = QemuConfig::for_guest(guest);
    let store = WorkDir::under(lab::disk_dir().path().parent().unwrap()).unwrap();
    let mut first = Machine::boot(&config);
    let mut second = leave(&mut first, &config, store.path());
    drop(first);
    second.qemu.ticks().wait_for(20, LIMIT).unwrap();
    let kept = memories(store.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    change(&kept[0]);
    arrive(&mut second, &config, store.path())
}

#[test]
fn a_guest_that_returns_brings_only_what_has_changed() {
    let Some(guest) = lab::guest() else { return };
    let report = round_trip(&guest, |_| {});
    let (known, zstd) = (found(&report, "checkpoint"), report["pages"]["zstd"].as_u64().unwrap());
    assert!(known > 2 * zstd, "{report}");
    assert!(known > 1000, "{report}");
}

/// The index still says where everything was; every page of it is wrong now.
#[test]
fn a_checkpoint_that_was_overwritten_changes_no_page() {
    let Some(guest) = lab::guest() else { return };
    let report = round_trip(&guest, |memory| {
        let length = fs::metadata(memory).unwrap().len();
        fs::write(memory, vec![0x5a; usize::try_from(length).unwrap()]).unwrap();
    });
    assert_eq!(found(&report, "checkpoint"), 0, "{report}");
}

#[test]
fn a_checkpoint_that_was_cut_short_serves_what_is_left() {
    let Some(guest) = lab::guest() else { return };
    round_trip(&guest, |memory| {
        let file = fs::OpenOptions::new().write(true).open(memory).unwrap();
        file.set_len(fs::metadata(memory).unwrap().len() / 3 + 1000).unwrap();
    });
}

/// Another tenant's content is none of this one's business.
#[test]
fn nothing_is_found_in_another_tenants_part() {
    let Some(guest) = lab::guest() else { return };
    let report = round_trip(&guest, |memory| {
        let own = memory.parent().unwrap();
        fs::rename(own, own.with_file_name("other")).unwrap();
    });
    assert_eq!(found(&report, "checkpoint"), 0, "{report}");
}

#[test]
fn a_job_that_aborts_keeps_no_checkpoint() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let (store, state) = (lab::disk_dir(), lab::disk_dir());
    let mut source = Machine::boot(&config);
    let mut receiver = Receiver::launch(&config, &[]);
    let path = text(store.path());
    let slow = ["--rate", "20mbit", "--link-timeout", "2"];
    let flags = [&["--store", path.as_str(), "--keep-checkpoint"][..], &slow].concat();
    let send = Send::start(&source.qemu, receiver.address, state.path(), &flags);
    send.await_phase("migrate");
    receiver.kill();
    let sent = send.wait();
    assert_ne!(code(&sent), Some(0), "{}", sent.report);
    source.assert_ticks();
    assert!(memories(store.path()).is_empty());
}
