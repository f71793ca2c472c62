//! Pages the target was asked for and has not answered: their buffers stay here, in slots, until the
//! answer says what must follow whole. Owned by the intake; bounded in slots.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Receiver;
use dwcp_encode::{Answer, Asked, Held, Plan};
use dwcp_hostmem::Slot;

use super::shared::Shared;
use crate::error::{Class, EngineError, Result};

/// Slices that may wait for an answer, about a MiB of guest memory each: enough for 200 ms at
/// 120 MB of guest memory a second.
pub const UNANSWERED_MAX: usize = 24;
/// How long one wait for an answer lasts before the abort flag is looked at.
const WAIT: Duration = Duration::from_millis(50);
/// Pages asked for before the share of finds says anything.
const SAMPLE_PAGES: u64 = 4096;
/// With fewer finds than one page in this many, asking costs more than it saves: a hash is a fiftieth
/// of a compressed page.
const PAGES_PER_FIND_MAX: u64 = 32;
/// The same where the link is faster than the codec: hashing a page on both ends costs as much as
/// sending it.
const PAGES_PER_FIND_MAX_FAST: u64 = 2;
/// Then only one batch in this many asks, in case a later part of memory is known.
const RARE: u64 = 16;

/// What waits for an answer.
struct Unanswered {
    /// The buffer that was planned.
    slot: Arc<Slot>,
    asked: Vec<Asked>,
}

/// An answer with what it is about.
pub struct Settled {
    /// The slice that asked.
    pub asked_in: u64,
    /// The buffer that was planned.
    pub slot: Arc<Slot>,
    /// The pages the target does not hold.
    pub missing: Vec<Asked>,
}

/// All questions of a job.
pub struct Asking {
    answers: Option<Receiver<Answer>>,
    open: BTreeMap<u64, Unanswered>,
    batches: u64,
    asked: u64,
    found: u64,
}

impl Asking {
    /// With the channel of answers when the target has a store, else never asks.
    #[must_use]
    pub fn new(answers: Option<Receiver<Answer>>) -> Self {
        Self { answers, open: BTreeMap::new(), batches: 0, asked: 0, found: 0 }
    }

    /// Whether the next batch should ask, by what came of earlier questions; `fast_link`: nothing is
    /// being compressed.
    pub fn is_worthwhile(&mut self, fast_link: bool) -> bool {
        self.batches += 1;
        let most = if fast_link { PAGES_PER_FIND_MAX_FAST } else { PAGES_PER_FIND_MAX };
        let pays = self.asked < SAMPLE_PAGES || self.found * most >= self.asked;
        self.answers.is_some() && (pays || self.batches.is_multiple_of(RARE))
    }

    /// Keeps the buffer of a slice that asks.
    pub fn add(&mut self, seq: u64, slot: &Arc<Slot>, plan: &Plan) {
        let asked: Vec<Asked> = plan.asks().collect();
        self.asked += asked.len() as u64;
        self.open.insert(seq, Unanswered { slot: Arc::clone(slot), asked });
    }

    /// Every slice below this is answered, if it asked.
    #[must_use]
    pub fn settled_below(&self) -> u64 {
        self.open.keys().next().copied().unwrap_or(u64::MAX)
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// True when no further slice may ask before an answer has come.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.open.len() >= UNANSWERED_MAX
    }

    /// The next answer; waits for it a moment when asked to.
    ///
    /// # Errors
    /// The target answered what was not asked.
    pub fn next(&mut self, wait: bool, shared: &Shared) -> Result<Option<Settled>> {
        let Some(answers) = &self.answers else { return Ok(None) };
        let answer = match wait {
            true => answers.recv_timeout(WAIT).ok(),
            false => answers.try_recv().ok(),
        };
        answer.map(|answer| self.settle(&answer, shared)).transpose()
    }

    fn settle(&mut self, answer: &Answer, shared: &Shared) -> Result<Settled> {
        let open = self.open.remove(&answer.seq());
        let fits = open.filter(|open| open.asked.len() == answer.held().len());
        let Some(Unanswered { slot, asked }) = fits else {
            let text = format!("the target answered slice {}, which did not ask", answer.seq());
            return Err(EngineError::new(Class::Failed, text));
        };
        let mut missing = Vec::new();
        for (page, held) in asked.into_iter().zip(answer.held()) {
            shared.count_held(*held);
            match held {
                Held::Nothing => missing.push(page),
                _ => self.found += 1,
            }
        }
        Ok(Settled { asked_in: answer.seq(), slot, missing })
    }
}
