//! The network breaks at random bytes, in both directions, and comes back a moment later. One guest
//! goes from QEMU to QEMU through all of it; its ticks must not break.

use std::time::Duration;

use dwcp_hwtest::guest::Guest;
use dwcp_hwtest::qemu::QemuConfig;
use dwcp_hwtest::tick::{Life, Trace};

use crate::lab::{self, Machine, Receiver, Send, code};
use crate::proxy::{Proxy, Way};
use crate::watch::both_ran;

/// Cuts of a direction, and in the long form.
const CUTS: u64 = 50;
const CUTS_LONG: u64 = 500;
/// The last bytes of a job, where the commit happens: half of all cuts hit there.
const COMMIT_BYTES: u64 = 150_000;
/// Longest outage.
const OUTAGE_MS_MAX: u64 = 700;
const RESUME_LIMIT: Duration = Duration::from_secs(2);

/// splitmix64: the same cuts in every run, unless `DWCP_SEED` says otherwise.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// Where one guest is, and what it said where it was before.
struct Journey<'a> {
    config: QemuConfig<'a>,
    here: Machine,
    traces: Vec<Trace>,
    moves: u64,
}

impl<'a> Journey<'a> {
    fn begin(guest: &'a Guest) -> Self {
        let config = QemuConfig::for_guest(guest);
        Self { here: Machine::boot(&config), config, traces: Vec::new(), moves: 0 }
    }

    /// One attempt through a proxy that breaks; returns the bytes that passed each way.
    fn attempt(&mut self, cut: Option<(Way, u64)>, outage: Duration) -> (u64, u64) {
        let state = lab::disk_dir();
        let mut receiver = Receiver::launch(&self.config, &["--link-timeout", "3"]);
        let proxy = Proxy::breaking(receiver.address, cut, Some(outage)).unwrap();
        let flags = ["--link-timeout", "3"];
        let send = Send::start(&self.here.qemu, proxy.address(), state.path(), &flags);
        let there = receiver.adopt(&self.config, &send).ok();
        let sent = send.wait();
        let what = format!("cut {cut:?}, outage {outage:?}: {}", sent.errors);
        let passed = (proxy.passed(Way::Out), proxy.passed(Way::Back));
        receiver.kill();
        if let Some(there) = &there {
            let both = both_ran(&[self.here.watch.changes(), there.watch.changes()]);
            assert_eq!(both, None, "two copies ran; {what}");
        }
        println!("cut {cut:?}, outage {outage:?}: {:?}", code(&sent));
        if code(&sent) == Some(0) {
            self.arrived(there.unwrap_or_else(|| panic!("nowhere to be; {what}")), &what);
        } else {
            self.stayed(there, &what);
        }
        passed
    }

    fn arrived(&mut self, mut there: Machine, what: &str) {
        there.assert_ticks();
        assert_ne!(self.here.qemu.status().unwrap(), "running", "{what}");
        self.traces.push(self.here.qemu.ticks().trace());
        self.here = there;
        self.moves += 1;
    }

    fn stayed(&mut self, there: Option<Machine>, what: &str) {
        self.here.await_status("running", RESUME_LIMIT).unwrap_or_else(|e| panic!("{e}; {what}"));
        self.here.assert_ticks();
        let ran = there.is_some_and(|there| there.watch.changes().iter().any(|c| c.runs));
        assert!(!ran, "aborted, but it ran there; {what}");
    }

    fn end(mut self, attempts: u64) {
        self.traces.push(self.here.qemu.ticks().trace());
        let life = Life::of(&self.traces);
        assert!(life.unbroken(), "{:?}", life.problems);
        println!("{attempts} cuts, {} moves, {} ticks", self.moves, life.ticks.len());
        assert!(self.moves > attempts / 4, "only {} of {attempts} cuts were survived", self.moves);
    }
}

fn cut_at_random(way: Way) {
    let Some(guest) = lab::guest() else { return };
    let seed = std::env::var("DWCP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut random = Random(seed + way as u64);
    let mut journey = Journey::begin(&guest);
    let (out, back) = journey.attempt(None, Duration::ZERO);
    let total = if way == Way::Out { out } else { back };
    let long = std::env::var_os("DWCP_TEST_LONG").is_some();
    let cuts = if long { CUTS_LONG } else { CUTS };
    for n in 0..cuts {
        let late = total.min(COMMIT_BYTES);
        let at = match n % 2 {
            0 => random.below(total),
            _ => total - late + random.below(late),
        };
        let outage = Duration::from_millis(random.below(OUTAGE_MS_MAX));
        journey.attempt(Some((way, at)), outage);
    }
    journey.end(cuts);
}

#[test]
fn towards_the_target() {
    cut_at_random(Way::Out);
}

#[test]
fn towards_the_source() {
    cut_at_random(Way::Back);
}
