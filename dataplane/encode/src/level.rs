//! How hard to compress: picks the level at which the guest's bytes arrive soonest.
//!
//! Pure and cheap: a few counters, called by whoever drives the encode workers. It has no clock
//! and no view of pages; times, counters and CPU come in as arguments.
//!
//! A guest byte costs `max(1 / encoder rate, ratio / link rate)` seconds: the encoder and the
//! wire work side by side, the slower one counts. The level with the smallest cost wins. On a
//! slow link that is the highest level whose workers still keep the wire busy, on a fast one no
//! compression at all. What is not measured is taken from a table of typical figures, scaled by
//! what was measured at other levels.
//!
//! The link's rate is only seen while it is the bottleneck: when more bytes are unacked than
//! one round trip explains, the rate of acks is the link's. When frames wait for a worker and
//! the link does not, either its rate is higher than believed or the workers are slower: the belief
//! is raised a little with every sample, until the encoder is out of the way; an unknown link
//! gets the lightest level for a sample and then none.

/// Codec and level of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No compression.
    Off,
    /// zstd at this level; negative ones are faster than 1.
    Zstd(i32),
}

/// A rung of the ladder: typical encoder rate in bytes of pages per worker and second, and
/// typical wire bytes per page byte. Measured with `examples/encode_speed` over 1 MiB frames of
/// programs, libraries and documents; only their relations matter for long.
struct Rung {
    level: Level,
    rate: f64,
    ratio: f64,
}

const fn rung(level: i32, rate: f64, ratio: f64) -> Rung {
    Rung { level: Level::Zstd(level), rate, ratio }
}

/// Levels worth having, in the order of effort. Between them there is less than 2 % to gain.
const LADDER: [Rung; 9] = [
    Rung { level: Level::Off, rate: 10e9, ratio: 1.0 },
    rung(-5, 650e6, 0.54),
    rung(-1, 515e6, 0.45),
    rung(1, 435e6, 0.405),
    rung(2, 362e6, 0.388),
    rung(3, 304e6, 0.373),
    rung(5, 147e6, 0.363),
    rung(7, 98e6, 0.355),
    rung(9, 74e6, 0.353),
];
const RUNGS: usize = LADDER.len();
const OFF: usize = 0;
const LIGHTEST: usize = 1;

/// Samples closer together than this are put off: too few acks to tell a rate.
const SAMPLE_NS_MIN: u64 = 20_000_000;
/// Unacked bytes that take longer than this to drain, the round trip apart, show that the link
/// is the bottleneck.
const BACKLOG_NS_MIN: u64 = 20_000_000;
/// Without any ack for this long after the round trip the link counts as interrupted, and
/// nothing is learned until acks come again.
const SILENCE_NS_MAX: u64 = 200_000_000;
/// A level stays at least this long, unless it starves the link.
const HOLD_NS: u64 = 200_000_000;
/// A measured encoder rate stands for itself this long; then the other levels tell.
const RATE_VALID_NS: u64 = 5_000_000_000;
/// Frames with fewer page bytes say little about a level.
const FRAME_BYTES_MIN: u64 = 64 << 10;

/// Weight of a new measurement in the running averages.
const FRAME_WEIGHT: f64 = 0.1;
const LINK_WEIGHT: f64 = 0.4;
/// Encoders are planned to be this much faster than the link needs.
const ENCODER_HEADROOM: f64 = 1.1;
/// A change must promise at least this part of the present cost...
const CHANGE_COST_MAX: f64 = 0.98;
/// ...and switching compression on at least this one: it costs CPU that others may want.
const SWITCH_ON_COST_MAX: f64 = 0.85;
/// How much faster than believed a link is taken to be with every sample in which it starves. Small,
/// since a worker that lost its core for a moment looks the same.
const STARVED_RAISE: f64 = 1.1;

/// Bounds of a [`LevelControl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelConfig {
    /// Use this and nothing else.
    pub forced: Option<Level>,
    /// Level before anything is known. A light level is the safe choice: a fast link shows
    /// within one sample, while frames that were queued raw for a slow one stay queued.
    pub start: Level,
    /// Highest level to use. Past 5 twice the CPU saves two per cent of the bytes.
    pub max: Level,
}

impl Default for LevelConfig {
    fn default() -> Self {
        Self { forced: None, start: Level::Zstd(1), max: Level::Zstd(5) }
    }
}

/// The state of link and workers at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkSample {
    /// Monotonic time.
    pub now_ns: u64,
    /// Body bytes of Pages slices acked since the job began.
    pub acked_bytes: u64,
    /// Body bytes of Pages slices handed to the session and not acked, queued ones included.
    pub unacked_bytes: u64,
    /// Round trip time of the path, the latest figure; zero if not known.
    pub rtt_ns: u64,
    /// Plans that wait for an encode worker.
    pub waiting_frames: u32,
    /// CPU that the encode workers have or could get, in thousandths of a core.
    pub spare_milli_cores: u32,
}

/// Running average.
#[derive(Clone, Copy, Default)]
struct Average(Option<f64>);

impl Average {
    fn add(&mut self, value: f64, weight: f64) {
        self.0 = Some(self.0.map_or(value, |old| old + (value - old) * weight));
    }
}

/// Picks the level for the next frames.
pub struct LevelControl {
    config: LevelConfig,
    current: usize,
    changed_ns: u64,
    now_ns: u64,
    previous: Option<LinkSample>,
    last_ack_ns: u64,
    rtt_ns_min: Option<u64>,
    link_rate: Average,
    /// Encoder rate against the table, per rung and over all of them, and when measured.
    rates: [Average; RUNGS],
    measured_ns: [u64; RUNGS],
    rate: Average,
    /// Part of the page bytes that no level compresses.
    incompressible: Average,
}

impl LevelControl {
    /// A control that knows nothing yet.
    #[must_use]
    pub fn new(config: LevelConfig) -> Self {
        Self {
            current: rung_of(config.start.min(config.max)),
            config,
            changed_ns: 0,
            now_ns: 0,
            previous: None,
            last_ack_ns: 0,
            rtt_ns_min: None,
            link_rate: Average::default(),
            rates: [Average::default(); RUNGS],
            measured_ns: [0; RUNGS],
            rate: Average::default(),
            incompressible: Average::default(),
        }
    }

    /// The level for the next frame.
    #[must_use]
    pub fn level(&self) -> Level {
        self.config.forced.unwrap_or(LADDER[self.current].level)
    }

    /// Whether the level is not chosen here.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.config.forced.is_some()
    }

    /// The link's rate as believed, in bytes per second; none before it was the bottleneck.
    #[must_use]
    pub fn link_bytes_per_s(&self) -> Option<u64> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        self.link_rate.0.map(|rate| rate as u64)
    }

    /// Learns from one frame: `page_bytes` of literals and deltas became `frame_bytes`, which
    /// kept a worker busy for `busy_ns`. Wall time is the better figure where workers share
    /// their cores, thread CPU time where they do not.
    pub fn observe_frame(&mut self, level: Level, page_bytes: u64, frame_bytes: u64, busy_ns: u64) {
        if level == Level::Off || page_bytes < FRAME_BYTES_MIN || busy_ns == 0 {
            return;
        }
        let at = rung_of(level);
        let typical = &LADDER[at];
        let rate = as_f64(page_bytes) * 1e9 / as_f64(busy_ns) / typical.rate;
        self.rates[at].add(rate, FRAME_WEIGHT);
        self.rate.add(rate, FRAME_WEIGHT);
        self.measured_ns[at] = self.now_ns;
        let ratio = as_f64(frame_bytes) / as_f64(page_bytes);
        let incompressible = (ratio - typical.ratio) / (1.0 - typical.ratio);
        self.incompressible.add(incompressible, FRAME_WEIGHT);
    }

    /// Learns from the state of the link and picks the level for the next frames. To be called
    /// every 20 to 50 ms.
    pub fn sample(&mut self, sample: &LinkSample) -> Level {
        self.now_ns = sample.now_ns;
        if sample.rtt_ns > 0 {
            self.rtt_ns_min = Some(self.rtt_ns_min.map_or(sample.rtt_ns, |r| r.min(sample.rtt_ns)));
        }
        let Some(previous) = self.previous else {
            // Measuring starts with the first ack: before it there is only latency.
            if sample.acked_bytes > 0 {
                self.previous = Some(*sample);
                self.last_ack_ns = sample.now_ns;
            }
            return self.level();
        };
        if sample.now_ns.saturating_sub(previous.now_ns) >= SAMPLE_NS_MIN {
            self.learn(&previous, sample);
        }
        self.level()
    }

    fn learn(&mut self, previous: &LinkSample, sample: &LinkSample) {
        let acked = sample.acked_bytes.saturating_sub(previous.acked_bytes);
        let silent_ns = sample.now_ns - self.last_ack_ns;
        let rtt_ns = self.rtt_ns_min.unwrap_or(0);
        if acked == 0 {
            if silent_ns > rtt_ns + SILENCE_NS_MAX {
                self.previous = Some(*sample);
                self.last_ack_ns = sample.now_ns;
            }
            return;
        }
        self.previous = Some(*sample);
        self.last_ack_ns = sample.now_ns;
        let rate = as_f64(acked) * 1e9 / as_f64(sample.now_ns - previous.now_ns);
        let backlog_ns = as_f64(sample.unacked_bytes) / rate * 1e9;
        if backlog_ns > as_f64(rtt_ns + BACKLOG_NS_MIN) {
            self.link_rate.add(rate, LINK_WEIGHT);
            self.choose(sample);
        } else if sample.waiting_frames > 0 && self.current != OFF {
            self.give_way(rate, sample);
        }
    }

    /// The link waits for the encoder.
    fn give_way(&mut self, rate: f64, sample: &LinkSample) {
        let Some(believed) = self.link_rate.0 else {
            // The lightest level first: what a shaper lets through in a burst is no link rate.
            return self.change(if self.current > LIGHTEST { LIGHTEST } else { OFF });
        };
        self.link_rate = Average(Some(believed.max(rate) * STARVED_RAISE));
        let best = self.best(sample);
        if best < self.current {
            self.change(best);
        }
    }

    fn choose(&mut self, sample: &LinkSample) {
        if self.now_ns < self.changed_ns + HOLD_NS && self.changed_ns > 0 {
            return;
        }
        let best = self.best(sample);
        let worthwhile = if self.current == OFF { SWITCH_ON_COST_MAX } else { CHANGE_COST_MAX };
        if self.cost(best, sample) < self.cost(self.current, sample) * worthwhile {
            self.change(best);
        }
    }

    fn change(&mut self, rung: usize) {
        self.current = rung;
        self.changed_ns = self.now_ns;
    }

    fn best(&self, sample: &LinkSample) -> usize {
        let allowed = (0..RUNGS).filter(|&at| at == OFF || LADDER[at].level <= self.config.max);
        let cost = |at: &usize| self.cost(*at, sample);
        allowed.min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(OFF)
    }

    /// Seconds that one page byte takes at a rung.
    fn cost(&self, at: usize, sample: &LinkSample) -> f64 {
        let workers = f64::from(sample.spare_milli_cores.max(1)) / 1000.0;
        let encoder = ENCODER_HEADROOM / (workers * self.encoder_rate(at));
        let wire = self.link_rate.0.map_or(0.0, |rate| self.ratio(at) / rate);
        encoder.max(wire)
    }

    fn encoder_rate(&self, at: usize) -> f64 {
        let fresh = self.now_ns < self.measured_ns[at] + RATE_VALID_NS;
        let own = self.rates[at].0.filter(|_| fresh);
        let scale = if at == OFF { 1.0 } else { own.or(self.rate.0).unwrap_or(1.0) };
        LADDER[at].rate * scale
    }

    /// A part stays as it is, the rest shrinks as the table says.
    fn ratio(&self, at: usize) -> f64 {
        let part = self.incompressible.0.unwrap_or(0.0);
        (part + (1.0 - part) * LADDER[at].ratio).clamp(0.01, 1.0)
    }
}

/// The rung of a level, or the nearest one below it.
fn rung_of(level: Level) -> usize {
    LADDER.iter().rposition(|rung| rung.level <= level).unwrap_or(OFF)
}

#[expect(clippy::cast_precision_loss, reason = "rates need no 53 bits")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests;
