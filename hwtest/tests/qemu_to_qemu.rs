//! The harness on QEMU's own migration: what it must see when nothing is lost, and when something is.

use std::time::{Duration, Instant};

use dwcp_hwtest::guest::Guest;
use dwcp_hwtest::migrate::{self, Method};
use dwcp_hwtest::net::{HostPair, Link};
use dwcp_hwtest::probe;
use dwcp_hwtest::qemu::{Machine, Qemu, QemuConfig, Ram};
use dwcp_hwtest::ram::RamImage;
use dwcp_hwtest::tick::Life;
use dwcp_hwtest::workdir::WorkDir;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(120);
const TICKS_LIMIT: Duration = Duration::from_secs(60);

fn lab() -> Option<Guest> {
    probe::guest_lab().map_err(|e| probe::skip(&format!("{e:#}"))).ok()
}

fn socket_uri(dir: &WorkDir) -> String {
    format!("unix:{}", dir.join("migrate.sock").display())
}

/// Moves the guest of `config` once and checks everything the harness can see.
fn moves_unbroken(config: &QemuConfig<'_>, target: &QemuConfig<'_>, method: Method) {
    let dir = WorkDir::new().unwrap();
    let mut source = Qemu::boot(config).unwrap();
    let mut target = Qemu::start(target).unwrap();
    migrate::configure(&mut source, method).unwrap();
    migrate::configure(&mut target, method).unwrap();
    migrate::listen(&mut target, &socket_uri(&dir)).unwrap();
    source.ticks().wait_for(20, TICKS_LIMIT).unwrap();
    let result = migrate::run(&mut source, &mut target, &socket_uri(&dir), LIMIT).unwrap();
    target.ticks().wait_for(100, TICKS_LIMIT).unwrap();
    source.ticks().expect_silence(Duration::from_millis(100)).unwrap();
    let life = Life::of(&[source.ticks().trace(), target.ticks().trace()]);
    assert!(life.unbroken(), "{:?}", life.problems);
    assert_eq!(life.switch_gaps.len(), 1);
    assert!(life.switch_gaps[0] >= Duration::from_millis(result.downtime_ms.saturating_sub(5)));
    assert_eq!(target.status().unwrap(), "running");
}

#[test]
fn ticks_run_on_over_a_move() {
    let Some(guest) = lab() else { return };
    let config = QemuConfig::for_guest(&guest);
    moves_unbroken(&config, &config.as_target(), Method::default());
}

#[test]
fn q35_with_several_processors_nodes_and_channels_moves() {
    let Some(guest) = lab() else { return };
    let config = QemuConfig {
        machine: Machine::Q35,
        smp: 2,
        memory_mb: 128,
        ram: Ram::Nodes { count: 2, files_in: None },
        ..QemuConfig::for_guest(&guest)
    };
    let method = Method { multifd: Some(4), zstd: Some(1), ..Method::default() };
    moves_unbroken(&config, &config.as_target(), method);
}

#[test]
fn memory_in_a_file_moves() {
    let Some(guest) = lab() else { return };
    let files = WorkDir::under(std::path::Path::new("/dev/shm")).unwrap();
    let config = QemuConfig::for_guest(&guest);
    let target = QemuConfig { ram: Ram::File(files.join("ram")), ..config.as_target() };
    moves_unbroken(&config, &target, Method::default());
}

#[test]
fn memory_of_both_sides_is_compared_page_by_page() {
    let Some(guest) = lab() else { return };
    let dir = WorkDir::new().unwrap();
    let config = QemuConfig::for_guest(&guest);
    let mut source = Qemu::boot(&config).unwrap();
    let mut target = Qemu::start(&config.as_target()).unwrap();
    for side in [&mut source, &mut target] {
        migrate::configure(side, Method::default()).unwrap();
    }
    migrate::listen(&mut target, &socket_uri(&dir)).unwrap();
    migrate::start(&mut source, &socket_uri(&dir)).unwrap();
    migrate::finish(&mut source, LIMIT).unwrap();
    let (machine, bytes) = (source.machine(), source.memory_bytes());
    let before = RamImage::save(source.qmp(), machine, bytes).unwrap();
    let after = RamImage::save(target.qmp(), machine, bytes).unwrap();
    let diff = before.compare(&after).unwrap();
    assert!(diff.identical(), "{diff:?}");
    assert_eq!(diff.pages, bytes / 4096);
    assert!(diff.non_zero > 1000, "{diff:?}");

    target.execute("cont", json!({})).unwrap();
    target.ticks().wait_for(5, TICKS_LIMIT).unwrap();
    target.execute("stop", json!({})).unwrap();
    let later = RamImage::save(target.qmp(), machine, bytes).unwrap();
    let diff = before.compare(&later).unwrap();
    assert!(!diff.identical() && diff.differing < 4096, "{diff:?}");
}

#[test]
fn a_saved_state_starts_again_and_again() {
    let Some(guest) = lab() else { return };
    let dir = WorkDir::new().unwrap();
    let state = dir.join("state");
    let config = QemuConfig::for_guest(&guest);
    let mut source = Qemu::boot(&config).unwrap();
    migrate::save_state(&mut source, &state, LIMIT).unwrap();
    let saved = source.ticks().trace();
    let mut firsts = Vec::new();
    for _ in 0..2 {
        let mut restored = Qemu::start(&config.as_target()).unwrap();
        migrate::load_state(&mut restored, &state, LIMIT).unwrap();
        restored.ticks().expect_silence(Duration::from_millis(50)).unwrap();
        restored.execute("cont", json!({})).unwrap();
        restored.ticks().wait_for(20, TICKS_LIMIT).unwrap();
        let life = Life::of(&[saved.clone(), restored.ticks().trace()]);
        assert!(life.unbroken(), "{:?}", life.problems);
        firsts.push(Life::of(&[restored.ticks().trace()]).ticks[0].1.number);
    }
    assert_eq!(firsts[0], firsts[1]);
}

#[test]
fn two_namespaces_carry_a_move_and_count_its_bytes() {
    if let Err(reason) = probe::namespaces() {
        return probe::skip(&format!("{reason:#}"));
    }
    let Some(guest) = lab() else { return };
    let link = Link::Shaped { bits_per_s: 200_000_000 };
    let pair = HostPair::namespaces(link).unwrap();
    let config = QemuConfig { host: Some(&pair.source), ..QemuConfig::for_guest(&guest) };
    let target_config = QemuConfig { host: Some(&pair.target), ..config.as_target() };
    let mut source = Qemu::boot(&config).unwrap();
    let mut target = Qemu::start(&target_config).unwrap();
    for side in [&mut source, &mut target] {
        migrate::configure(side, Method::default()).unwrap();
    }
    let uri = format!("tcp:{}:4444", pair.target.address());
    migrate::listen(&mut target, &uri).unwrap();
    let before = pair.traffic().unwrap();
    let start = Instant::now();
    let result = migrate::run(&mut source, &mut target, &uri, LIMIT).unwrap();
    let wire = pair.traffic().unwrap().since(before);
    let bits_per_s = wire.tx_bytes as f64 * 8.0 / start.elapsed().as_secs_f64();
    assert!(wire.tx_bytes > result.transferred_bytes, "{wire:?} {result:?}");
    assert!(wire.tx_bytes < result.transferred_bytes * 11 / 10, "{wire:?} {result:?}");
    assert!(bits_per_s < 210e6, "{bits_per_s}");
    target.ticks().wait_for(20, TICKS_LIMIT).unwrap();
    let life = Life::of(&[source.ticks().trace(), target.ticks().trace()]);
    assert!(life.unbroken(), "{:?}", life.problems);
}
