//! Plain success: nothing is lost, repeated or left changed.

use std::time::Duration;

use dwcp_hwtest::migrate::{self, Method};
use dwcp_hwtest::qemu::{Machine as MachineType, QemuConfig, Ram};
use dwcp_hwtest::ram::RamImage;
use dwcp_hwtest::tick::Life;
use dwcp_hwtest::workdir::WorkDir;
use serde_json::{Value, json};

use crate::lab::{self, Arrived, LIMIT, Machine, Receiver, Send, code};
use crate::watch::both_ran;

const REPORT_KEYS: [&str; 22] = [
    "schema",
    "job",
    "vm",
    "epoch",
    "status",
    "phase",
    "reason",
    "total_ms",
    "downtime_ms",
    "decision_ms",
    "wire_tx_bytes",
    "wire_rx_bytes",
    "wire_bytes",
    "guest_bytes",
    "pages",
    "rounds",
    "streams",
    "cpu_s",
    "hash_alg",
    "hash_root",
    "hash_root_match",
    "phases",
];

/// Moves the guest and returns where it is now, with `send`'s report.
/// On a busy machine the last slice may be late; these tests are about what arrives.
fn patient<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    [flags, &["--pause-timeout-ms", "5000"]].concat()
}

fn move_once(source: &mut Machine, config: &QemuConfig<'_>, flags: &[&str]) -> (Machine, Value) {
    let state = lab::disk_dir();
    let before = source.settings();
    let mut receiver = Receiver::launch(config, &["--once"]);
    let send = Send::start(&source.qemu, receiver.address, state.path(), &patient(flags));
    let mut target = receiver.adopt(config, &send).unwrap();
    let sent = send.wait();
    assert_eq!(code(&sent), Some(0), "{}", sent.errors);
    let received = receiver.wait();
    assert_eq!(code(&received), Some(0), "{}", received.errors);
    assert_eq!(received.report["status"], "completed", "{}", received.report);
    target.qemu.ticks().wait_for(20, LIMIT).unwrap();
    source.qemu.ticks().expect_silence(Duration::from_millis(50)).unwrap();
    let life = Life::of(&[source.qemu.ticks().trace(), target.qemu.ticks().trace()]);
    assert!(life.unbroken(), "{:?}", life.problems);
    assert_eq!(both_ran(&[source.watch.changes(), target.watch.changes()]), None);
    assert_eq!(source.qemu.status().unwrap(), "postmigrate");
    assert_eq!(target.qemu.status().unwrap(), "running");
    assert_eq!(source.settings(), before, "the source's settings");
    assert_eq!(target.settings(), before, "the target's settings");
    (target, sent.report)
}

fn check_report(report: &Value) {
    for key in REPORT_KEYS {
        assert!(report.get(key).is_some(), "{key} is missing: {report}");
    }
    assert_eq!(report["status"], "completed");
    for key in [
        "total_ms",
        "downtime_ms",
        "decision_ms",
        "wire_tx_bytes",
        "wire_rx_bytes",
        "guest_bytes",
        "rounds",
        "streams",
        "epoch",
    ] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}: {report}");
    }
}

#[test]
fn a_guest_moves_again_and_again_by_us_and_by_qemu() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let mut first = Machine::boot(&config);
    let (mut second, report) = move_once(&mut first, &config, &[]);
    check_report(&report);
    assert_eq!((&report["mode"], &report["hash_root_match"]), (&json!("direct"), &json!(true)));
    let (mut third, report) = move_once(&mut second, &config, &["--hash", "blake3"]);
    check_report(&report);
    assert_eq!(report["hash_alg"], "blake3");

    let dir = WorkDir::new().unwrap();
    let uri = format!("unix:{}", dir.join("migrate.sock").display());
    let mut fourth = Machine::start(&config.as_target());
    for side in [&mut third, &mut fourth] {
        migrate::configure(&mut side.qemu, Method::default()).unwrap();
    }
    migrate::listen(&mut fourth.qemu, &uri).unwrap();
    migrate::run(&mut third.qemu, &mut fourth.qemu, &uri, LIMIT).unwrap();
    fourth.assert_ticks();
    let traces = [&mut first, &mut second, &mut third, &mut fourth].map(|m| m.qemu.ticks().trace());
    let life = Life::of(&traces);
    assert!(life.unbroken(), "{:?}", life.problems);
    assert_eq!(life.switch_gaps.len(), 3);
}

/// Moves a guest that stays paused there, and compares all memory.
fn memory_is_identical(config: &QemuConfig<'_>, target: Option<&QemuConfig<'_>>, flags: &[&str]) {
    memory_of_both(Machine::boot(config), config, target, flags);
}

fn memory_of_both(
    mut source: Machine,
    config: &QemuConfig<'_>,
    target: Option<&QemuConfig<'_>>,
    flags: &[&str],
) {
    let state = lab::disk_dir();
    let (mut target, sent, receiver) = match target {
        Some(target) => {
            let target = Machine::start(target);
            let receiver =
                Receiver::beside(&target.qemu.engine_qmp(), &["--once", "--leave-paused"]);
            let sent =
                Send::start(&source.qemu, receiver.address, state.path(), &patient(flags)).wait();
            (target, sent, receiver)
        }
        None => {
            let mut receiver = Receiver::launch(config, &["--once", "--leave-paused"]);
            let send = Send::start(&source.qemu, receiver.address, state.path(), &patient(flags));
            let target = receiver.adopt(config, &send).unwrap();
            (target, send.wait(), receiver)
        }
    };
    let received = receiver.wait();
    assert_eq!(code(&sent), Some(0), "{}; receive: {}", sent.errors, received.errors);
    assert_eq!(code(&received), Some(0), "{}", received.errors);
    assert_eq!(target.qemu.status().unwrap(), "paused");
    assert_eq!(source.qemu.status().unwrap(), "postmigrate");
    let (machine, bytes) = (source.qemu.machine(), source.qemu.memory_bytes());
    let here = RamImage::save(source.qemu.qmp(), machine, bytes).unwrap();
    let there = RamImage::save(target.qemu.qmp(), machine, bytes).unwrap();
    let diff = here.compare(&there).unwrap();
    assert!(diff.identical(), "{diff:?} {}", sent.report);
    assert!(diff.non_zero > 1000, "{diff:?}");
    target.qemu.execute("cont", json!({})).unwrap();
    target.assert_ticks();
    let life = Life::of(&[source.qemu.ticks().trace(), target.qemu.ticks().trace()]);
    assert!(life.unbroken(), "{:?}", life.problems);
}

#[test]
fn memory_is_identical_on_pc() {
    let Some(guest) = lab::guest() else { return };
    memory_is_identical(&QemuConfig::for_guest(&guest), None, &[]);
}

#[test]
fn memory_is_identical_on_q35_with_two_processors() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig { machine: MachineType::Q35, smp: 2, ..QemuConfig::for_guest(&guest) };
    memory_is_identical(&config, None, &["--streams", "4", "--level", "3"]);
}

#[test]
fn memory_is_identical_with_two_nodes_in_files() {
    let Some(guest) = lab::guest() else { return };
    let nodes = |files_in| Ram::Nodes { count: 2, files_in };
    let config = QemuConfig { memory_mb: 128, ram: nodes(None), ..QemuConfig::for_guest(&guest) };
    let files = WorkDir::under(std::path::Path::new("/dev/shm")).unwrap();
    let target = QemuConfig { ram: nodes(Some(files.path().to_owned())), ..config.as_target() };
    // Paused: QEMU's own emulation loses what a running guest writes to any but its first block
    // between two dirty rounds (its own migration does as well).
    let mut source = Machine::boot(&config);
    source.qemu.execute("stop", json!({})).unwrap();
    memory_of_both(source, &config, Some(&target), &["--mode", "direct"]);
}

#[test]
fn memory_is_identical_in_plain_mode() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    memory_is_identical(&config, Some(&config.as_target()), &["--mode", "plain"]);
}

#[test]
fn a_paused_guest_arrives_paused() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let state = lab::disk_dir();
    let mut source = Machine::boot(&config);
    source.qemu.execute("stop", json!({})).unwrap();
    let mut receiver = Receiver::launch(&config, &["--once"]);
    let send = Send::start(&source.qemu, receiver.address, state.path(), &patient(&[]));
    let mut target = receiver.adopt(&config, &send).unwrap();
    let sent = send.wait();
    assert_eq!(code(&sent), Some(0), "{}", sent.errors);
    assert_eq!(code(&receiver.wait()), Some(0));
    assert_eq!(target.qemu.status().unwrap(), "paused");
    target.qemu.ticks().expect_silence(Duration::from_millis(200)).unwrap();
    target.qemu.execute("cont", json!({})).unwrap();
    target.assert_ticks();
    let life = Life::of(&[source.qemu.ticks().trace(), target.qemu.ticks().trace()]);
    assert!(life.unbroken(), "{:?}", life.problems);
}

#[test]
fn two_jobs_share_one_port() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let receiver = Receiver::launch_each(&config);
    let state = lab::disk_dir();
    let mut guests = [Machine::boot(&config), Machine::boot(&config)];
    let sends = guests
        .each_ref()
        .map(|g| Send::start(&g.qemu, receiver.address, state.path(), &patient(&[])));
    let mut arrived = Vec::new();
    for (send, source) in sends.into_iter().zip(&mut guests) {
        let sent = send.wait();
        assert_eq!(code(&sent), Some(0), "{}", sent.errors);
        assert_eq!(source.qemu.status().unwrap(), "postmigrate");
        arrived.push(Arrived::of(sent.report["job"].as_str().unwrap()));
    }
    for (target, source) in arrived.iter().zip(&mut guests) {
        let tick = target.ticks.wait_for(20, LIMIT).unwrap();
        assert!(tick.memory_ok);
        assert!(tick.number > source.qemu.ticks().last().unwrap().number);
    }
    let done = lab::jobs(&receiver.state());
    assert_eq!(done.len(), 2, "{done:?}");
    assert!(done.iter().all(|(_, side, state)| side == "target" && state == "committed run"));
}
