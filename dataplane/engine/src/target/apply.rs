//! The apply thread: decodes page slices, writes them into the guest's mapped RAM, hashes what it
//! wrote, and confirms each slice only then. One thread per job; it allocates nothing per page.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, select};
use dwcp_encode::{ANSWER_BYTES_MAX, ANSWERS_MAX, Answer, Applier, Root};
use dwcp_tcp::{Body, Endpoint, Inbound, Outbound};
use dwcp_wire::{Channel, SliceFlags};

use super::job::JobEvent;
use super::memory::{self, GuestMemory};
use crate::error::{Class, EngineError, Result};

/// After how many slices (about a MiB each) free memory is looked at again.
const ADMISSION_SLICES: u64 = 16;
/// Room that must be there at each look: what may arrive until the next.
const ADMISSION_BYTES: u64 = (ADMISSION_SLICES + 1) << 21;

/// Messages with answers that may be on their way: the source has few slots for them. Answers that come
/// meanwhile share the next one.
const ANSWERS_IN_FLIGHT_MAX: u64 = 3;
/// How often waiting answers are looked at.
const ANSWERS_INTERVAL: Duration = Duration::from_millis(1);
/// A job without answers waits for slices alone.
const NEVER: Duration = Duration::from_secs(3600);

/// Answers on their way to the source.
#[derive(Debug, Default)]
pub struct Answers {
    waiting: Vec<u8>,
    count: usize,
    next_seq: u64,
}

impl Answers {
    /// Lets an answer wait. A source has fewer questions open than a message holds answers.
    fn add(&mut self, answer: &Answer) -> Result<()> {
        if self.count == ANSWERS_MAX {
            let text = "the source asks for pages and takes no answers";
            return Err(EngineError::new(Class::Failed, text));
        }
        self.count += 1;
        answer.encode(&mut self.waiting);
        Ok(())
    }

    /// Sends what waits, when there is room.
    fn flush(&mut self, endpoint: &Endpoint) {
        if self.count == 0 {
            return;
        }
        let in_flight = self.next_seq.saturating_sub(endpoint.acked_below(Channel::Pages));
        if in_flight >= ANSWERS_IN_FLIGHT_MAX {
            return;
        }
        self.count = 0;
        let body = Body::Small(std::mem::take(&mut self.waiting));
        // A session that has ended shows as closed channels.
        let _ = endpoint.submit(Outbound {
            channel: Channel::Pages,
            seq: self.next_seq,
            generation: 0,
            flags: SliceFlags::NONE,
            not_before: None,
            body,
        });
        self.next_seq += 1;
    }
}

const _: () = assert!(ANSWERS_MAX * ANSWER_BYTES_MAX < dwcp_wire::PAYLOAD_MAX as usize);
const _: () = assert!(ANSWERS_MAX >= crate::source::UNANSWERED_MAX);

/// Counters that others read.
#[derive(Debug, Default)]
pub struct ApplyCounters {
    /// Pages written to guest memory.
    pub pages: AtomicU64,
    /// Bytes of guest memory on huge pages, known at the end.
    pub huge_bytes: AtomicU64,
}

/// What the thread works with.
pub struct ApplyThread {
    /// Decoder and per-page versions over the guest's memory.
    pub applier: Applier<GuestMemory>,
    /// Page slices.
    pub slices: Receiver<Inbound>,
    /// The number of slices after which the root is wanted.
    pub root_after: Receiver<u64>,
    /// The session.
    pub endpoint: Endpoint,
    /// Where RAM files lie, to see that there is room.
    pub ram_dir: Option<PathBuf>,
    /// Words about pages that were asked for.
    pub answers: Answers,
    /// Counters.
    pub counters: Arc<ApplyCounters>,
    /// To the job.
    pub events: Sender<JobEvent>,
}

impl ApplyThread {
    /// Works until the job drops its ends.
    pub fn run(mut self) {
        if let Err(error) = self.work() {
            let _ = self.events.send(JobEvent::Failed(error));
        }
    }

    fn work(&mut self) -> Result<()> {
        let (mut applied, mut wanted) = (0u64, None);
        let (slices, root_after) = (self.slices.clone(), self.root_after.clone());
        loop {
            let wait = if self.answers.count == 0 { NEVER } else { ANSWERS_INTERVAL };
            select! {
                recv(slices) -> slice => match slice {
                    Ok(slice) => {
                        self.apply(slice, applied)?;
                        applied += 1;
                    }
                    Err(_) => return Ok(()),
                },
                recv(root_after) -> count => match count {
                    Ok(count) => wanted = Some(count),
                    Err(_) => return Ok(()),
                },
                default(wait) => {}
            }
            self.answers.flush(&self.endpoint);
            if wanted == Some(applied) {
                wanted = None;
                let root = self.root();
                let _ = self.events.send(JobEvent::Root(root));
            }
        }
    }

    fn apply(&mut self, slice: Inbound, applied: u64) -> Result<()> {
        if applied.is_multiple_of(ADMISSION_SLICES) {
            memory::admit(ADMISSION_BYTES, self.ram_dir.as_deref())?;
        }
        let seq = slice.seq;
        let stats = self
            .applier
            .apply(seq, slice.body.bytes())
            .map_err(|e| EngineError::new(Class::Failed, format!("page slice {}: {e}", seq)))?;
        let answer = self.applier.answer();
        if !answer.held().is_empty() {
            self.answers.add(answer)?;
        }
        let pages = stats.zero + stats.duplicate + stats.delta + stats.literal + stats.known;
        self.counters.pages.fetch_add(pages, Relaxed);
        // The slot first: the confirmation lets the peer send another slice into it.
        drop(slice);
        self.endpoint.consumed(Channel::Pages, seq);
        Ok(())
    }

    fn root(&mut self) -> Root {
        let root = self.applier.root();
        self.counters.huge_bytes.store(self.applier.store().huge_bytes(), Relaxed);
        root
    }
}
