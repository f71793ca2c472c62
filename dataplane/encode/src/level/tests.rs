//! A link, its workers and an endless supply of pages, in steps of a millisecond.

use super::*;

const FRAME_BYTES: u64 = 1 << 20;
const STEP_NS: u64 = 1_000_000;
const WINDOW_BYTES: f64 = 32e6;
/// A window of 60 ms at 500 Mbit/s, as the engine keeps it.
const SHORT_WINDOW_BYTES: f64 = 3.75e6;

/// A link, its workers and an endless supply of pages, in steps of a millisecond.
struct World {
    control: LevelControl,
    link_rate: f64,
    window_bytes: f64,
    rtt_ns: u64,
    workers: f64,
    /// True encoder rates against the table, and true ratio against the table.
    speed: f64,
    ratio: f64,
    now_ns: u64,
    wire_bytes: f64,
    framed_bytes: f64,
    acked: std::collections::VecDeque<(u64, f64)>,
    acked_bytes: f64,
    queue_bytes: f64,
    busy: [f64; RUNGS],
}

impl World {
    fn new(link_rate: f64, workers: f64) -> Self {
        Self {
            control: LevelControl::new(LevelConfig {
                max: Level::Zstd(9),
                ..LevelConfig::default()
            }),
            link_rate,
            window_bytes: WINDOW_BYTES,
            rtt_ns: 200_000,
            workers,
            speed: 1.0,
            ratio: 1.0,
            now_ns: 1,
            wire_bytes: 0.0,
            framed_bytes: 0.0,
            acked: std::collections::VecDeque::new(),
            acked_bytes: 0.0,
            queue_bytes: 0.0,
            busy: [0.0; RUNGS],
        }
    }

    fn unacked(&self) -> f64 {
        self.queue_bytes + self.acked.iter().map(|(_, bytes)| bytes).sum::<f64>()
    }

    fn step(&mut self) {
        let dt = STEP_NS as f64 / 1e9;
        let level = self.control.level();
        let at = rung_of(level);
        let typical = &LADDER[at];
        let rate = typical.rate * if at == OFF { 1.0 } else { self.speed };
        let ratio = if at == OFF { 1.0 } else { (typical.ratio * self.ratio).min(1.0) };
        let room = (self.window_bytes - self.unacked()).max(0.0);
        let pages = (rate * self.workers * dt).min(room / ratio);
        self.queue_bytes += pages * ratio;
        self.busy[at] += dt;
        self.framed_bytes += pages;
        while self.framed_bytes >= FRAME_BYTES as f64 {
            self.framed_bytes -= FRAME_BYTES as f64;
            let busy_ns = (FRAME_BYTES as f64 / rate * 1e9) as u64;
            let frame = (FRAME_BYTES as f64 * ratio) as u64;
            self.control.observe_frame(level, FRAME_BYTES, frame, busy_ns);
        }
        let sent = (self.link_rate * dt).min(self.queue_bytes);
        self.queue_bytes -= sent;
        self.wire_bytes += sent;
        self.now_ns += STEP_NS;
        self.acked.push_back((self.now_ns + self.rtt_ns, sent));
        while self.acked.front().is_some_and(|(at, _)| *at <= self.now_ns) {
            self.acked_bytes += self.acked.pop_front().unwrap().1;
        }
        let starved = pages >= rate * self.workers * dt * 0.99;
        self.control.sample(&LinkSample {
            now_ns: self.now_ns,
            acked_bytes: self.acked_bytes as u64,
            unacked_bytes: self.unacked() as u64,
            rtt_ns: self.rtt_ns,
            waiting_frames: if starved { 4 } else { 0 },
            spare_milli_cores: (self.workers * 1000.0) as u32,
        });
    }

    fn run_ms(&mut self, ms: u64) -> Level {
        for _ in 0..ms {
            self.step();
        }
        self.control.level()
    }
}

#[test]
fn a_fast_link_gets_no_compression_almost_at_once() {
    for rate in [1.5e9, 2.5e9, 6e9] {
        let mut world = World::new(rate, 2.0);
        assert_eq!(world.run_ms(60), Level::Off, "{rate}");
        assert_eq!(world.run_ms(3000), Level::Off, "{rate}");
        let compressing: f64 = world.busy[1..].iter().sum();
        assert!(compressing < 0.06, "{rate}: {compressing} s");
    }
}

#[test]
fn a_slow_link_gets_the_level_that_keeps_it_busy() {
    for (rate, workers, expected) in [
        (62.5e6, 2.0, Level::Zstd(7)),
        (80e6, 2.0, Level::Zstd(5)),
        (62.5e6, 1.0, Level::Zstd(3)),
        (125e6, 2.0, Level::Zstd(3)),
        (12.5e6, 2.0, Level::Zstd(9)),
        (1.25e6, 1.0, Level::Zstd(9)),
    ] {
        let mut world = World::new(rate, workers);
        assert_eq!(world.run_ms(1000), expected, "{rate} {workers}");
        let before = (world.wire_bytes, world.now_ns);
        assert_eq!(world.run_ms(5000), expected, "{rate} {workers}");
        let seconds = (world.now_ns - before.1) as f64 / 1e9;
        let used = (world.wire_bytes - before.0) / seconds / rate;
        assert!(used > 0.97, "{rate} {workers}: {used}");
    }
}

#[test]
fn a_slower_machine_and_harder_data_are_measured() {
    let mut world = World::new(62.5e6, 2.0);
    world.speed = 0.4;
    let level = world.run_ms(1500);
    assert!((Level::Zstd(1)..=Level::Zstd(3)).contains(&level), "{level:?}");
    world.ratio = 3.0;
    world.speed = 1.0;
    world.run_ms(1500);
    let before = (world.wire_bytes, world.now_ns);
    world.run_ms(2000);
    let seconds = (world.now_ns - before.1) as f64 / 1e9;
    assert!((world.wire_bytes - before.0) / seconds > 0.95 * 62.5e6);
}

#[test]
fn a_long_path_is_not_taken_for_a_slow_one() {
    let mut world = World::new(62.5e6, 2.0);
    world.rtt_ns = 200_000_000;
    let level = world.run_ms(2000);
    assert!(level >= Level::Zstd(3), "{level:?}");
    let before = (world.wire_bytes, world.now_ns);
    world.run_ms(4000);
    let seconds = (world.now_ns - before.1) as f64 / 1e9;
    let used = (world.wire_bytes - before.0) / seconds / 62.5e6;
    assert!(used > 0.93, "{used}");
}

#[test]
fn a_link_that_changes_is_followed() {
    let mut world = World::new(12.5e6, 2.0);
    assert_eq!(world.run_ms(1000), Level::Zstd(9));
    world.link_rate = 2.5e9;
    world.run_ms(1000);
    assert_eq!(world.control.level(), Level::Off);
    world.link_rate = 62.5e6;
    world.run_ms(1500);
    assert_eq!(world.control.level(), Level::Zstd(7));
}

#[test]
fn levels_do_not_flap() {
    for rate in [20e6, 62.5e6, 110e6, 200e6, 400e6, 700e6] {
        let mut world = World::new(rate, 2.0);
        world.run_ms(1500);
        let mut changes = 0;
        let mut level = world.control.level();
        for _ in 0..5000 {
            let next = world.run_ms(1);
            changes += u32::from(next != level);
            level = next;
        }
        assert!(changes <= 4, "{rate}: {changes}");
    }
}

#[test]
fn forced_and_highest_levels_are_kept() {
    let forced = LevelConfig { forced: Some(Level::Zstd(19)), ..LevelConfig::default() };
    let mut world = World::new(2.5e9, 2.0);
    world.control = LevelControl::new(forced);
    assert_eq!(world.run_ms(500), Level::Zstd(19));
    let bounded = LevelConfig { max: Level::Zstd(2), ..LevelConfig::default() };
    let mut world = World::new(1e6, 2.0);
    world.control = LevelControl::new(bounded);
    assert_eq!(world.run_ms(1000), Level::Zstd(2));
    let off = LevelConfig { max: Level::Off, ..LevelConfig::default() };
    assert_eq!(LevelControl::new(off).level(), Level::Off);
}

#[test]
fn an_interrupted_link_teaches_nothing() {
    let mut world = World::new(62.5e6, 2.0);
    let before = world.run_ms(1500);
    world.link_rate = 1.0;
    world.run_ms(3000);
    assert_eq!(world.control.level(), before);
}

/// A guest and the encoder share a core: the worker is away for tens of milliseconds.
#[test]
fn a_worker_that_is_away_for_moments_does_not_end_compression() {
    let mut world = World::new(62.5e6, 1.0);
    world.window_bytes = SHORT_WINDOW_BYTES;
    world.run_ms(1000);
    let before = (world.wire_bytes, world.now_ns);
    world.busy = [0.0; RUNGS];
    for turn in 0..60 {
        world.speed = 0.7;
        world.run_ms(150 + turn % 7 * 20);
        world.speed = 0.0;
        world.run_ms(60 + turn % 5 * 20);
        world.speed = 0.25;
        world.run_ms(100);
    }
    let seconds = (world.now_ns - before.1) as f64 / 1e9;
    let used = (world.wire_bytes - before.0) / seconds / 62.5e6;
    assert!(used > 0.6, "{used}");
    let share = world.busy[OFF] / seconds;
    assert!(share < 0.02, "off for {share} of the time");
}
