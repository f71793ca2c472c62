//! Crashes, Ctrl-C and a dead network in every phase. Whatever happens, never do two copies run, and
//! one runs in the end; a second attempt succeeds.

use std::time::{Duration, Instant};

use dwcp_hwtest::interrupt::wait_until;
use dwcp_hwtest::qemu::QemuConfig;
use dwcp_hwtest::workdir::WorkDir;
use rustix::process::Signal;
use serde_json::json;

use crate::lab::{self, LIMIT, Machine, Receiver, Send, code};
use crate::proxy::{Proxy, Way};
use crate::watch::both_ran;

/// Keeps a job in its first round for many seconds.
const SLOW: [&str; 2] = ["--rate", "8mbit"];
/// Keeps a job in later rounds: no rest is that short.
const ENDLESS: [&str; 2] = ["--max-downtime-ms", "1"];
/// Holds a stopped guest long enough to break something; a busy machine needs it as well.
const PATIENT: [&str; 2] = ["--pause-timeout-ms", "3000"];
/// The promise: an aborted guest runs again within this time.
const RESUME_LIMIT: Duration = Duration::from_secs(2);

/// Which process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Child,
    Parent,
    Both,
    Receive,
    TargetQemu,
}

use Victim::{Both, Child, Parent, Receive, TargetQemu};

/// A job under way, with its connections through a proxy.
struct Scene {
    here: Machine,
    there: Machine,
    receiver: Receiver,
    proxy: Proxy,
    send: Send,
    state: WorkDir,
    stops_before: usize,
}

fn stops(machine: &Machine) -> usize {
    machine.watch.changes().iter().skip(1).filter(|change| !change.runs).count()
}

impl Scene {
    fn begin(here: Machine, config: &QemuConfig<'_>, flags: &[&str]) -> Self {
        let state = lab::disk_dir();
        let mut receiver = Receiver::launch(config, &["--link-timeout", "20"]);
        let proxy = Proxy::start(receiver.address).unwrap();
        let stops_before = stops(&here);
        let send = Send::start(&here.qemu, proxy.address(), state.path(), flags);
        let there = receiver.adopt(config, &send).unwrap();
        Self { here, there, receiver, proxy, send, state, stops_before }
    }

    fn kill(&mut self, victim: Victim) {
        match victim {
            Child => self.send.kill_child(),
            Parent => self.send.engine.signal(Signal::KILL).unwrap(),
            Both => self.send.kill_both(),
            Receive => self.receiver.kill(),
            TargetQemu => self.there.qemu.kill(),
        }
    }

    fn never_both(&self) {
        let both = both_ran(&[self.here.watch.changes(), self.there.watch.changes()]);
        assert_eq!(both, None, "two copies ran: {}", self.send.said());
    }

    /// The job's id, as the source's records name it.
    fn job(&self) -> (String, String) {
        let jobs = lab::jobs(self.state.path());
        let job = jobs.iter().find(|(_, side, _)| side == "source");
        let (id, _, state) = job.unwrap_or_else(|| panic!("no record: {}", self.send.said()));
        (id.clone(), state.clone())
    }

    fn await_round(&mut self, round: u64) {
        wait_until("a later round", LIMIT, || {
            let migration = self.here.qemu.execute("query-migrate", json!({}))?;
            let rounds = migration.pointer("/ram/dirty-sync-count").and_then(|r| r.as_u64());
            Ok((rounds >= Some(round)).then_some(()))
        })
        .unwrap();
    }

    fn stall(&self, stalled: bool) {
        for way in [Way::Out, Way::Back] {
            self.proxy.stall(way, stalled);
        }
    }

    /// The guest runs at the source, and never ran elsewhere.
    fn at_source(mut self, limit: Duration) -> Machine {
        self.here.await_status("running", limit).unwrap_or_else(|e| {
            panic!("{e}: {}", self.send.said());
        });
        self.here.assert_ticks();
        assert!(!self.there.watch.changes().iter().any(|change| change.runs), "it ran there");
        self.never_both();
        self.here
    }

    /// The guest runs at the target, and the source stays stopped.
    fn at_target(mut self) -> Machine {
        self.there.await_status("running", LIMIT).unwrap();
        self.there.assert_ticks();
        assert_ne!(self.here.qemu.status().unwrap(), "running");
        self.never_both();
        self.there
    }
}

/// A second attempt, without faults.
fn moves_now(mut here: Machine, config: &QemuConfig<'_>) -> Machine {
    let state = lab::disk_dir();
    let mut receiver = Receiver::launch(config, &["--once"]);
    let send = Send::start(&here.qemu, receiver.address, state.path(), &PATIENT);
    let mut there = receiver.adopt(config, &send).unwrap();
    let sent = send.wait();
    assert_eq!(code(&sent), Some(0), "second attempt: {}", sent.errors);
    there.assert_ticks();
    assert_eq!(here.qemu.status().unwrap(), "postmigrate");
    there
}

/// Kills `victim` while the guest still runs: it must not notice.
fn killed_before_the_stop(victim: Victim, later_round: bool) {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let flags: &[&str] = if later_round { &ENDLESS } else { &SLOW };
    let mut scene = Scene::begin(Machine::boot(&config), &config, flags);
    scene.send.await_phase("migrate");
    if later_round {
        scene.await_round(3);
    }
    std::thread::sleep(Duration::from_millis(100));
    scene.kill(victim);
    if victim == Receive {
        // Without a receiver the job would wait for --link-timeout.
        scene.send.engine.signal(Signal::INT).unwrap();
    }
    let ended = Instant::now();
    while !scene.send.engine.has_ended().unwrap() {
        assert!(ended.elapsed() < LIMIT, "send goes on: {}", scene.send.said());
        std::thread::sleep(Duration::from_millis(10));
    }
    if victim == Child {
        // The target was told, and does not wait for --link-timeout.
        let there = &mut scene.there.qemu;
        wait_until("the target QEMU's end", RESUME_LIMIT * 2, || {
            Ok((!there.is_alive()).then_some(()))
        })
        .unwrap();
    }
    assert!(!scene.send.said().lines().any(|l| l == "stop"), "{}", scene.send.said());
    assert_eq!(stops(&scene.here), scene.stops_before, "the guest was stopped");
    let here = scene.at_source(RESUME_LIMIT);
    moves_now(here, &config);
}

#[test]
fn a_killed_child_before_the_stop() {
    killed_before_the_stop(Child, false);
}

#[test]
fn a_killed_parent_before_the_stop() {
    killed_before_the_stop(Parent, false);
}

#[test]
fn both_killed_in_a_later_round() {
    killed_before_the_stop(Both, true);
}

#[test]
fn a_killed_receive_before_the_stop() {
    killed_before_the_stop(Receive, false);
}

#[test]
fn a_killed_target_in_a_later_round() {
    killed_before_the_stop(TargetQemu, true);
}

/// Kills `victim` between the stop and GO: the guest comes back.
fn killed_while_stopped(victim: Victim) {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let mut scene = Scene::begin(Machine::boot(&config), &config, &PATIENT);
    scene.send.await_phase("stop");
    scene.stall(true);
    std::thread::sleep(Duration::from_millis(300));
    assert!(!scene.send.said().lines().any(|l| l == "go"), "GO left before the stall");
    scene.kill(victim);
    let killed = Instant::now();
    if victim != Child {
        scene.stall(false);
    }
    if matches!(victim, Parent | Both) {
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(scene.here.qemu.status().unwrap(), "paused");
        let (job, record) = scene.job();
        assert_eq!(record, "in_doubt");
        let resumed = Send::resume(&job, scene.state.path()).wait();
        assert_ne!(code(&resumed), Some(0), "{}", resumed.errors);
        assert!(scene.job().1.starts_with("aborted"), "{:?}", scene.job());
    }
    let limit = match victim {
        Child | TargetQemu => RESUME_LIMIT,
        // Until the pause's own limit the connection might come back.
        _ => Duration::from_secs(3) + RESUME_LIMIT,
    };
    scene.here.await_status("running", limit.saturating_sub(killed.elapsed())).unwrap();
    let here = scene.at_source(Duration::ZERO);
    moves_now(here, &config);
}

#[test]
fn a_killed_child_while_stopped() {
    killed_while_stopped(Child);
}

#[test]
fn a_killed_parent_while_stopped() {
    killed_while_stopped(Parent);
}

#[test]
fn both_killed_while_stopped() {
    killed_while_stopped(Both);
}

#[test]
fn a_killed_receive_while_stopped() {
    killed_while_stopped(Receive);
}

#[test]
fn a_killed_target_while_stopped() {
    killed_while_stopped(TargetQemu);
}

/// A job whose last slice has left, while nothing comes back to the source.
fn committed_unheard(config: &QemuConfig<'_>) -> Scene {
    let mut scene = Scene::begin(Machine::boot(config), config, &PATIENT);
    scene.send.await_phase("go");
    scene.proxy.stall(Way::Back, true);
    scene.there.await_status("running", LIMIT).unwrap();
    scene
}

/// Kills `victim` after the commit, before the source knows of it: the target's copy is the one.
fn killed_after_the_commit(victim: Victim) {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let mut scene = committed_unheard(&config);
    scene.kill(victim);
    std::thread::sleep(Duration::from_secs(1));
    assert_ne!(scene.here.qemu.status().unwrap(), "running", "{}", scene.send.said());
    let (job, record) = scene.job();
    assert_eq!(record, "in_doubt");
    if victim == Receive {
        scene.receiver.restart();
    }
    scene.proxy.stall(Way::Back, false);
    if matches!(victim, Parent | Both) {
        let resumed = Send::resume(&job, scene.state.path()).wait();
        assert_eq!(code(&resumed), Some(0), "{}", resumed.errors);
    } else {
        let send = std::mem::replace(&mut scene.send, Send::finished());
        let sent = send.wait();
        assert_eq!(code(&sent), Some(0), "{}", sent.errors);
    }
    assert!(scene.job().1.starts_with("completed"), "{:?}", scene.job());
    let there = scene.at_target();
    moves_now(there, &config);
}

#[test]
fn a_killed_child_after_the_commit() {
    killed_after_the_commit(Child);
}

#[test]
fn both_killed_after_the_commit() {
    killed_after_the_commit(Both);
}

#[test]
fn a_killed_receive_after_the_commit() {
    killed_after_the_commit(Receive);
}

#[test]
fn a_source_that_dies_after_go_leaves_the_target() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let mut scene = Scene::begin(Machine::boot(&config), &config, &PATIENT);
    scene.send.await_phase("go");
    scene.here.qemu.kill();
    scene.there.await_status("running", LIMIT).unwrap();
    scene.there.assert_ticks();
    scene.never_both();
}

#[test]
fn an_interrupt_before_go_leaves_the_guest() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let mut here = Machine::boot(&config);
    let before = here.settings();
    let mut scene = Scene::begin(here, &config, &SLOW);
    scene.send.await_phase("migrate");
    std::thread::sleep(Duration::from_millis(200));
    scene.send.engine.signal(Signal::INT).unwrap();
    let send = std::mem::replace(&mut scene.send, Send::finished());
    let sent = send.wait();
    assert_eq!(code(&sent), Some(130), "{}", sent.errors);
    assert_eq!(sent.report["status"], "aborted");
    assert_eq!(stops(&scene.here), scene.stops_before);
    assert_eq!(scene.here.settings(), before);
    moves_now(scene.at_source(RESUME_LIMIT), &config);
}

#[test]
fn an_interrupt_after_go_waits_and_a_second_names_the_way_out() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let mut scene = committed_unheard(&config);
    scene.send.engine.signal(Signal::INT).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!scene.send.engine.has_ended().unwrap(), "{}", scene.send.said());
    scene.send.engine.signal(Signal::INT).unwrap();
    let send = std::mem::replace(&mut scene.send, Send::finished());
    let sent = send.wait();
    assert_eq!(code(&sent), Some(9), "{}", sent.errors);
    assert_eq!(sent.report["status"], "in_doubt");
    assert!(sent.errors.contains("dwcp-engine resolve --job"), "{}", sent.errors);
    assert_eq!(scene.here.qemu.status().unwrap(), "paused");
    let (job, record) = scene.job();
    assert_eq!(record, "in_doubt");
    scene.proxy.stall(Way::Back, false);
    let resumed = Send::resume(&job, scene.state.path()).wait();
    assert_eq!(code(&resumed), Some(0), "{}", resumed.errors);
    scene.at_target();
}

#[test]
fn an_operator_ends_a_job_whose_target_is_lost() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let mut scene = committed_unheard(&config);
    scene.send.kill_both();
    scene.receiver.kill();
    scene.there.qemu.kill();
    let (job, record) = scene.job();
    assert_eq!(record, "in_doubt");
    assert_ne!(scene.here.qemu.status().unwrap(), "running");
    let state = scene.state.path().display().to_string();
    let resolved = lab::run(&["resolve", "--job", &job, "--abort", "--state", &state]);
    assert!(resolved.errors.contains("risk") || resolved.errors.contains("by hand"));
    scene.here.await_status("running", RESUME_LIMIT).unwrap();
    scene.here.assert_ticks();
    assert!(scene.job().1.contains("forced"), "{:?}", scene.job());
}
