//! Watches a guest from outside: its numbered tick lines with the host's arrival times.
//! From them follow the downtime a client sees, the work done, and that exactly one copy ran.
//! One reading thread per guest; the analysis is pure.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::interrupt;

/// Bytes of one read; a tick line has about 45.
const READ_BYTES: usize = 4096;
/// How often the file is looked at: the error of arrival times, well below a tick's interval.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(1);
/// Problems listed by text; all are counted.
const PROBLEMS_LISTED_MAX: usize = 8;

/// One line of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Counts up by one.
    pub number: u64,
    /// Guest's clock since its workload started, microseconds.
    pub guest_us: u64,
    /// Units of the CPU loop done so far.
    pub work: u64,
    /// Pages rewritten so far.
    pub dirtied: u64,
    /// The guest finds its memory as it wrote it.
    pub memory_ok: bool,
}

impl Tick {
    fn parse(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let mut words = text.trim_end().strip_prefix("T ")?.split(' ');
        let mut number = || words.next()?.parse().ok();
        let tick = Self {
            number: number()?,
            guest_us: number()?,
            work: number()?,
            dirtied: number()?,
            memory_ok: match words.next()? {
                "OK" => true,
                "BAD" => false,
                _ => return None,
            },
        };
        words.next().is_none().then_some(tick)
    }
}

/// Everything one QEMU's tick port has sent, as it arrived.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    chunks: Vec<(Instant, Vec<u8>)>,
}

impl Trace {
    /// Adds bytes that arrived at `at`.
    pub fn push(&mut self, at: Instant, bytes: &[u8]) {
        self.chunks.push((at, bytes.to_vec()));
    }

    /// Nothing has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Arrival of the last byte.
    #[must_use]
    pub fn last_at(&self) -> Option<Instant> {
        self.chunks.last().map(|(at, _)| *at)
    }
}

#[derive(Debug, Default)]
struct Shared {
    trace: Trace,
    line: Vec<u8>,
    count: u64,
    last: Option<Tick>,
}

impl Shared {
    fn push(&mut self, at: Instant, bytes: &[u8]) {
        self.trace.push(at, bytes);
        for byte in bytes {
            self.line.push(*byte);
            if *byte == b'\n' {
                if let Some(tick) = Tick::parse(&self.line) {
                    self.count += 1;
                    self.last = Some(tick);
                }
                self.line.clear();
            }
        }
    }
}

/// Follows the file a tick port writes, until it is dropped.
///
/// A file and not a socket: a port whose reader lags behind (a socket holds only a few hundred one-byte writes)
/// keeps bytes back, and QEMU then sends them after the stop as well as with the device's state: twice.
#[derive(Debug)]
pub struct TickReader {
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TickReader {
    /// Opens the file of a serial port; all that was written before is read too.
    ///
    /// # Errors
    /// There is no such file.
    pub fn follow(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("tick port {}", path.display()))?;
        let (shared, stop) = (Arc::<Mutex<Shared>>::default(), Arc::<AtomicBool>::default());
        let (sink, halt) = (Arc::clone(&shared), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("ticks".into()).spawn(move || {
            let mut buffer = [0u8; READ_BYTES];
            while let Ok(n) = file.read(&mut buffer) {
                let at = Instant::now();
                if n > 0 {
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push(at, &buffer[..n]);
                } else if halt.load(Ordering::Relaxed) {
                    break;
                } else {
                    std::thread::sleep(FOLLOW_INTERVAL);
                }
            }
        })?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    fn with<T>(&self, look: impl FnOnce(&Shared) -> T) -> T {
        look(&self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ticks seen so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.with(|s| s.count)
    }

    /// The last one.
    #[must_use]
    pub fn last(&self) -> Option<Tick> {
        self.with(|s| s.last)
    }

    /// What has arrived so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.with(|s| s.trace.clone())
    }

    /// Waits until `n` more ticks have come and returns the last.
    ///
    /// # Errors
    /// They did not come in time.
    pub fn wait_for(&self, n: u64, limit: Duration) -> Result<Tick> {
        let goal = self.count() + n;
        interrupt::wait_until("ticks of the guest", limit, || {
            Ok(self.with(|s| if s.count >= goal { s.last } else { None }))
        })
    }

    /// No tick arrives for `duration`.
    ///
    /// # Errors
    /// One did.
    pub fn expect_silence(&self, duration: Duration) -> Result<()> {
        let before = self.count();
        std::thread::sleep(duration);
        let ticks = self.count() - before;
        if ticks > 0 {
            bail!("{ticks} ticks came from a guest that must not run");
        }
        Ok(())
    }
}

impl Drop for TickReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the ticks of one guest say about its life on several hosts.
#[derive(Debug, Clone, Default)]
pub struct Life {
    /// Ticks with the arrival of their last byte.
    pub ticks: Vec<(Instant, Tick)>,
    /// Breaks in numbering, garbled lines: empty when nothing was lost, repeated or emitted twice.
    pub problems: Vec<String>,
    /// How many problems there were in all.
    pub problem_count: usize,
    /// Gap between the last tick of one host and the first complete one of the next, per move.
    pub switch_gaps: Vec<Duration>,
}

impl Life {
    /// Joins what the guest said on each host, in order. A line begun on one host and ended on the next is one
    /// line; the fragment before the first newline (a restored guest starts in mid-line) is dropped.
    #[must_use]
    pub fn of(parts: &[Trace]) -> Self {
        let mut life = Self::default();
        let mut line = Vec::new();
        let mut aligned = false;
        let mut boundaries = Vec::new();
        for part in parts {
            boundaries.push(life.ticks.len());
            for (at, bytes) in &part.chunks {
                for byte in bytes {
                    line.push(*byte);
                    if *byte == b'\n' {
                        if aligned {
                            life.take_line(*at, &line);
                        }
                        aligned = true;
                        line.clear();
                    }
                }
            }
        }
        for index in boundaries.into_iter().skip(1) {
            if let (Some(before), Some(after)) =
                (index.checked_sub(1).and_then(|i| life.ticks.get(i)), life.ticks.get(index))
            {
                life.switch_gaps.push(after.0.saturating_duration_since(before.0));
            }
        }
        life
    }

    fn take_line(&mut self, at: Instant, line: &[u8]) {
        if line.starts_with(b"BOOT") || line.starts_with(b"READY") {
            return;
        }
        let Some(tick) = Tick::parse(line) else {
            return self.problem(format!("garbled line {:?}", String::from_utf8_lossy(line)));
        };
        if let Some((_, last)) = self.ticks.last()
            && tick.number != last.number + 1
        {
            self.problem(format!("tick {} follows {}", tick.number, last.number));
        }
        self.ticks.push((at, tick));
    }

    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_LISTED_MAX {
            self.problems.push(text);
        }
    }

    /// Numbers run on without a break and the guest found its memory intact.
    #[must_use]
    pub fn unbroken(&self) -> bool {
        self.problem_count == 0
            && !self.ticks.is_empty()
            && self.ticks.iter().all(|(_, t)| t.memory_ok)
    }

    /// Largest gap between two consecutive ticks that ends within the window.
    #[must_use]
    pub fn largest_gap(&self, from: Instant, to: Instant) -> Duration {
        self.ticks
            .windows(2)
            .filter(|pair| pair[1].0 >= from && pair[0].0 <= to)
            .map(|pair| pair[1].0 - pair[0].0)
            .max()
            .unwrap_or_default()
    }

    /// CPU loop units per second of host time within the window; `None` with fewer than two ticks.
    #[must_use]
    pub fn work_per_s(&self, from: Instant, to: Instant) -> Option<f64> {
        let mut inside = self.ticks.iter().filter(|(at, _)| *at >= from && *at <= to);
        let first = inside.next()?;
        let last = inside.next_back()?;
        let seconds = (last.0 - first.0).as_secs_f64();
        (seconds > 0.0).then(|| (last.1.work - first.1.work) as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(range: std::ops::Range<u64>) -> String {
        range.map(|n| format!("T {n} {} {} 3 OK\n", n * 5000, n * 100)).collect()
    }

    fn trace(start: Instant, offset_ms: u64, bytes: &[u8], chunk: usize) -> Trace {
        let mut trace = Trace::default();
        for (i, part) in bytes.chunks(chunk).enumerate() {
            trace.push(start + Duration::from_millis(offset_ms + i as u64), part);
        }
        trace
    }

    #[test]
    fn a_line_cut_by_the_move_is_one_line() {
        let (start, all) = (Instant::now(), text(0..100));
        for cut in 0..all.len() {
            let (a, b) = all.as_bytes().split_at(cut);
            let life = Life::of(&[trace(start, 0, a, 64), trace(start, 5000, b, 64)]);
            assert!(life.unbroken(), "cut at {cut}: {:?}", life.problems);
            assert!(life.ticks.len() >= 99);
        }
    }

    #[test]
    fn lost_repeated_and_doubled_ticks_are_problems() {
        let start = Instant::now();
        let life = |source: &str, target: &str| {
            Life::of(&[
                trace(start, 0, source.as_bytes(), 9),
                trace(start, 0, target.as_bytes(), 9),
            ])
        };
        assert!(life(&text(0..9), &text(9..20)).unbroken());
        assert!(!life(&text(0..9), &text(10..20)).unbroken());
        assert!(!life(&text(0..10), &text(9..20)).unbroken());
        assert!(!life(&text(0..9), "T 9 45000 9").unbroken() || life(&text(0..9), "").unbroken());
        assert!(!life(&text(0..9), "T 9 1 1 1 BAD\n").unbroken());
        assert!(!life(&text(0..9), "9 1 1 1 OK\n").unbroken());
    }

    #[test]
    fn gaps_and_work_follow_arrival_times() {
        let start = Instant::now();
        let mut a = Trace::default();
        let mut b = Trace::default();
        for (i, line) in text(0..10).lines().enumerate() {
            let at = start + Duration::from_millis(5 * i as u64 + if i >= 6 { 95 } else { 0 });
            (if i < 6 { &mut a } else { &mut b }).push(at, format!("{line}\n").as_bytes());
        }
        let life = Life::of(&[a, b]);
        assert_eq!(life.switch_gaps, [Duration::from_millis(100)]);
        assert_eq!(life.largest_gap(start, start + Duration::from_secs(1)).as_millis(), 100);
        let rate = life.work_per_s(start, start + Duration::from_millis(26)).unwrap();
        assert!((rate - 20_000.0).abs() < 1.0, "{rate}");
    }
}
