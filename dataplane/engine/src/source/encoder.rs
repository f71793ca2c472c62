//! The encode workers: compress planned batches into wire slots and hand them to the session.
//! One thread each, pinned by the caller's choice; contexts and slots are reused. They know plans and
//! slots, not QEMU.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use dwcp_encode::{Framer, Level, Plan};
use dwcp_hostmem::{Arena, Slot};
use dwcp_tcp::{Body, Endpoint, Outbound};
use dwcp_wire::{Channel, SliceFlags};

use super::gate::Gate;
use super::shared::Shared;

/// How long one wait for a slot lasts before the abort flag is looked at.
const WAIT: Duration = Duration::from_millis(50);

/// A planned batch: the slot with the stream's bytes, and what to do with its pages.
pub struct EncodeJob {
    /// The pages as they came from QEMU; also kept until the target has answered, if it is asked.
    pub slot: Arc<Slot>,
    /// What to send of them.
    pub plan: Plan,
    /// The slice they become.
    pub seq: u64,
    /// Its generation.
    pub generation: u32,
    /// How hard to compress.
    pub level: Level,
    /// Bytes of the batch in the slot, for the backlog counter.
    pub bytes: u64,
}

/// How fast a worker was: for the level's choice.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// The level used.
    pub level: Level,
    /// Page bytes that went in.
    pub bytes: u64,
    /// Bytes that came out.
    pub encoded_bytes: u64,
    /// Time it took, in nanoseconds.
    pub busy_ns: u64,
}

/// What a worker needs.
pub struct Encoder {
    /// Planned batches.
    pub jobs: Receiver<EncodeJob>,
    /// Empty plans go back to the intake.
    pub plans: Sender<Plan>,
    /// Speeds, dropped when nobody listens.
    pub samples: Sender<Sample>,
    /// Slots for the wire.
    pub arena: Arc<Arena>,
    /// The session.
    pub endpoint: Endpoint,
    /// The highest level that may come; its memory is taken at the start.
    pub level_max: Level,
    /// Holds back what the link cannot take yet.
    pub gate: Arc<Gate>,
    /// Flags and counters.
    pub shared: Arc<Shared>,
}

impl Encoder {
    /// Works until the intake has gone or the job is aborted.
    pub fn run(self) {
        let mut framer = Framer::new(self.level_max);
        while let Ok(job) = self.jobs.recv() {
            if self.encode(&mut framer, job).is_none() {
                return;
            }
        }
    }

    fn encode(&self, framer: &mut Framer, job: EncodeJob) -> Option<()> {
        let mut out = take_slot(&self.arena, &self.shared)?;
        let began = Instant::now();
        let framed = framer.frame(&job.plan, &job.slot, job.level, &mut out).ok()?;
        let busy_ns = began.elapsed().as_nanos() as u64;
        let sample = Sample {
            level: job.level,
            bytes: job.plan.raw_bytes() as u64,
            encoded_bytes: framed.range.len() as u64,
            busy_ns,
        };
        let _ = self.samples.try_send(sample);
        self.shared.count(job.plan.counts(), framed.packed_out < framed.packed_in);
        let not_before = job.plan.not_before();
        drop(job.slot);
        let _ = self.plans.try_send(job.plan);
        let sent = self.gate.submit(
            &self.endpoint,
            &self.shared,
            Outbound {
                channel: Channel::Pages,
                seq: job.seq,
                generation: job.generation,
                flags: SliceFlags::NONE,
                not_before,
                body: Body::Slot { slot: out, range: framed.range },
            },
        );
        self.shared.unencoded_bytes.fetch_sub(job.bytes, Relaxed);
        sent.ok()
    }
}

/// A free slot, or `None` when the job is aborted first.
pub fn take_slot(arena: &Arc<Arena>, shared: &Shared) -> Option<Slot> {
    loop {
        if shared.aborted() {
            return None;
        }
        if let Some(slot) = arena.take_timeout(WAIT) {
            return Some(slot);
        }
    }
}
