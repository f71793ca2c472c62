//! Workload of the test guest: prints numbered ticks, dirties memory, verifies its own memory.
//! One thread; blocks only in writes to the tick port. Knows nothing of migration: it must not notice one.

#![forbid(unsafe_code)]

mod config;
mod memory;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use config::Config;
use memory::{DirtySet, StaticSet};

/// Rounds of the arithmetic loop between two looks at the clock: a few microseconds under emulation.
const WORK_ROUNDS: u64 = 256;
/// Bytes of static memory verified in one tick.
const VERIFY_BYTES_PER_TICK: usize = 64 << 10;
/// A stalled guest catches up at most this much dirtying at once.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);
/// Size of one read while the page cache is warmed.
const WARM_READ_BYTES: usize = 1 << 20;

fn main() -> std::io::Result<()> {
    let config = Config::from_environment();
    let mut port = OpenOptions::new().write(true).open(&config.port)?;
    writeln!(port, "BOOT")?;
    let warmed = warm_page_cache(Path::new(&config.warm_dir), config.warm_mb << 20);
    let fixed = StaticSet::new(config.anon_mb << 20, config.check_kb << 10);
    let dirty = DirtySet::new(config.dirty_mb << 20, config.kind);
    writeln!(port, "READY warmed={warmed} dirty={} kind={:?}", dirty.bytes(), config.kind)?;
    run(&config, port, fixed, dirty)
}

/// Reads files until `limit` bytes are in the page cache; unreadable ones are passed over.
fn warm_page_cache(dir: &Path, limit: usize) -> usize {
    let mut buffer = vec![0u8; WARM_READ_BYTES];
    let mut pending = vec![dir.to_path_buf()];
    let mut total = 0;
    while let Some(path) = pending.pop() {
        if total >= limit {
            break;
        }
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            let Ok(entries) = fs::read_dir(&path) else { continue };
            let mut names: Vec<_> = entries.flatten().map(|e| e.path()).collect();
            names.sort();
            pending.extend(names);
        } else if meta.is_file() {
            total += read_file(&path, &mut buffer);
        }
    }
    total
}

fn read_file(path: &Path, buffer: &mut [u8]) -> usize {
    let Ok(mut file) = File::open(path) else { return 0 };
    let mut total = 0;
    while let Ok(n) = file.read(buffer) {
        if n == 0 {
            break;
        }
        total += n;
    }
    total
}

/// The endless loop: work until the next tick is due, dirty what is due, verify a little, report.
fn run(
    config: &Config,
    mut port: File,
    mut fixed: StaticSet,
    mut dirty: DirtySet,
) -> std::io::Result<()> {
    let start = Instant::now();
    let interval = Duration::from_micros(config.tick_us);
    let mut line = Vec::with_capacity(128);
    let (mut tick, mut work, mut spin) = (0u64, 0u64, 1u64);
    let mut due = start;
    let mut last_dirty = start;
    loop {
        let mut now = Instant::now();
        while now < due {
            spin = spin_rounds(spin);
            work += 1;
            now = Instant::now();
        }
        dirty.advance((now - last_dirty).min(CATCH_UP_MAX), config.rate_mb << 20);
        last_dirty = now;
        fixed.verify_some(VERIFY_BYTES_PER_TICK);
        let verdict = if fixed.intact() && dirty.intact() { "OK" } else { "BAD" };
        line.clear();
        let micros = start.elapsed().as_micros();
        writeln!(line, "T {tick} {micros} {work} {} {verdict}", dirty.pages_written())?;
        port.write_all(&line)?;
        tick += 1;
        due = (due + interval).max(now);
    }
}

/// A dependent multiply chain the compiler cannot drop; one call is one unit of reported work.
fn spin_rounds(seed: u64) -> u64 {
    let mut x = seed;
    for i in 0..WORK_ROUNDS {
        x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ i;
    }
    std::hint::black_box(x)
}
