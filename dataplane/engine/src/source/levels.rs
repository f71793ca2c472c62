//! The level for the next batch: forced, or chosen from what link and encoders do.

use std::time::{Duration, Instant};

use dwcp_encode::{Level, LevelConfig, LevelControl, LinkSample};
use dwcp_tcp::NetStats;

use super::encoder::Sample;

/// How often the link is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// Chooses the level of each batch.
pub struct LevelChoice {
    control: LevelControl,
    began: Instant,
    sampled: Option<Instant>,
    spare_milli_cores: u32,
}

impl LevelChoice {
    /// With a forced level, or free up to `max`; `encoders` workers have about a core each.
    #[must_use]
    pub fn new(forced: Option<Level>, max: i32, encoders: usize) -> Self {
        let max = Level::Zstd(max);
        let control = LevelControl::new(LevelConfig { forced, max, ..LevelConfig::default() });
        let spare_milli_cores = u32::try_from(encoders * 1000).unwrap_or(u32::MAX);
        Self { control, began: Instant::now(), sampled: None, spare_milli_cores }
    }

    /// Learns from a frame.
    pub fn observe(&mut self, sample: &Sample) {
        self.control.observe_frame(
            sample.level,
            sample.bytes,
            sample.encoded_bytes,
            sample.busy_ns,
        );
    }

    /// Whether the operator has chosen.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.control.is_forced()
    }

    /// The level now; `waiting` batches wait for a worker.
    pub fn choose(&mut self, stats: &NetStats, waiting: usize) -> Level {
        if self.sampled.is_some_and(|at| at.elapsed() < SAMPLE_INTERVAL) {
            return self.control.level();
        }
        self.sampled = Some(Instant::now());
        self.control.sample(&LinkSample {
            now_ns: self.began.elapsed().as_nanos() as u64,
            acked_bytes: stats.acked_bytes,
            unacked_bytes: stats.unacked_bytes,
            rtt_ns: stats.rtt_us * 1000,
            waiting_frames: u32::try_from(waiting).unwrap_or(u32::MAX),
            spare_milli_cores: self.spare_milli_cores,
        })
    }
}
