//! Memory of processes as the kernel shares it out (Pss), without the guest's own RAM.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cpu;

/// Reading a large map takes milliseconds of kernel time; rarely is often enough for a peak of seconds.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Guest RAM files end so: the engine's own, and those of the tests.
const GUEST_RAM_SUFFIXES: [&str; 2] = [".ram", ".ram (deleted)"];

/// Bytes of one process that are not guest RAM; 0 when it has gone.
#[must_use]
pub fn of_process(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/smaps")).map_or(0, |text| without_guest_ram(&text))
}

/// proc_pid_smaps(5): a head line per mapping, then `Name: value kB` lines.
fn without_guest_ram(smaps: &str) -> u64 {
    let mut counted = true;
    let mut kib = 0;
    for line in smaps.lines() {
        if let Some(value) = line.strip_prefix("Pss:") {
            let value = value.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
            kib += if counted { value } else { 0 };
        } else if line.split_whitespace().next().is_some_and(|word| !word.ends_with(':')) {
            counted = !GUEST_RAM_SUFFIXES.iter().any(|suffix| line.ends_with(suffix));
        }
    }
    kib << 10
}

/// Follows a process and those it started that run the same program.
#[derive(Debug)]
pub struct PeakPss {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl PeakPss {
    /// Samples until [`PeakPss::end`].
    #[must_use]
    pub fn follow(pid: u32) -> Self {
        let (stop, peak) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (halt, top) = (Arc::clone(&stop), Arc::clone(&peak));
        let thread = std::thread::spawn(move || {
            while !halt.load(Ordering::Relaxed) {
                top.fetch_max(family_bytes(pid), Ordering::Relaxed);
                std::thread::sleep(SAMPLE_INTERVAL);
            }
        });
        Self { stop, peak, thread: Some(thread) }
    }

    /// The largest sum seen, bytes.
    #[must_use]
    pub fn end(mut self) -> u64 {
        self.halt();
        self.peak.load(Ordering::Relaxed)
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for PeakPss {
    fn drop(&mut self) {
        self.halt();
    }
}

/// A QEMU that the engine launched is its child too, and no part of it.
fn family_bytes(pid: u32) -> u64 {
    let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let own = program(pid);
    let children = cpu::children(pid).into_iter().filter(|child| program(*child) == own);
    of_process(pid) + children.map(of_process).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_is_left_out() {
        let smaps = "00400000-00500000 r-xp 00000000 08:02 1 /usr/bin/x\nSize: 1024 kB\nPss:  100 kB\nPss_Dirty:  7 kB\nVmFlags: rd ex\n\
             7f0000000000-7f0080000000 rw-s 00000000 00:2a 5 /run/dwcp/ram/j.ram\nPss:  999999 kB\n\
             7f0080000000-7f00a0000000 rw-p 00000000 00:00 0 \nPss:   28 kB\n";
        assert_eq!(without_guest_ram(smaps), 128 << 10);
    }

    #[test]
    fn our_own_memory_is_counted() {
        let follower = PeakPss::follow(std::process::id());
        std::thread::sleep(SAMPLE_INTERVAL * 2);
        assert!(follower.end() > 100 << 10);
    }
}
