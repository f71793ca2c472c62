//! The ledger: one outcome per (guest, fence), set once.
//!
//! Runs wherever its owner says (standalone: the target host); never blocks, has no file. A change
//! is staged first and becomes visible only when the caller confirms that it is durable: the
//! borrow in [`Staged`] keeps anyone from reading or racing it in between.

use std::collections::BTreeMap;

use crate::decision::{Decision, DecisionRecord, DecisionState};
use crate::ids::{EndpointsDigest, Epoch, Fence, Incarnation, JobId, Ticket, VmId};

/// Jobs one ledger holds at most; beyond it [`Ledger::forget`] old ones first.
pub const LEDGER_JOBS_MAX: usize = 65_536;

/// Why the ledger refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// A job of that id was opened before.
    #[error("job {job} exists already; start again under a new job id")]
    JobExists {
        /// The id in use.
        job: JobId,
    },
    /// The guest is in the middle of another handover.
    #[error("VM {vm} is in job {undecided}, which is not decided; resolve that job first")]
    Undecided {
        /// The guest.
        vm: VmId,
        /// The job in the way.
        undecided: JobId,
    },
    /// No such job here.
    #[error("job {job} is not in this ledger; check the host and its store directory")]
    UnknownJob {
        /// The id asked for.
        job: JobId,
    },
    /// The peer has obeyed a later life of the ledger than this one.
    #[error(
        "the guest was fenced at {seen} by a later ledger than this one (incarnation {own:?}); \
         recover this ledger under a higher incarnation"
    )]
    StaleIncarnation {
        /// Fence the peer has seen.
        seen: Fence,
        /// Incarnation of this ledger.
        own: Incarnation,
    },
    /// The epochs of the guest are used up.
    #[error("no epoch is left for VM {vm}; begin a new incarnation")]
    EpochsExhausted {
        /// The guest.
        vm: VmId,
    },
    /// Only a committed job can be handed back.
    #[error("job {job} is not committed, so there is nothing to hand back")]
    NotCommitted {
        /// The job.
        job: JobId,
    },
    /// A later job of the same guest exists.
    #[error("job {job} was followed by a later job of the same VM and cannot be handed back")]
    Superseded {
        /// The old job.
        job: JobId,
    },
    /// The record is still needed: undecided, or the one that holds the guest's highest fence.
    #[error("the record of job {job} is still needed; keep it")]
    StillNeeded {
        /// The job.
        job: JobId,
    },
    /// Full.
    #[error("the ledger holds its maximum of {max} jobs; forget old ones first", max = LEDGER_JOBS_MAX)]
    Full,
    /// Two stored records contradict each other.
    #[error("records of jobs {first} and {second} contradict each other; restore the store")]
    Contradiction {
        /// One of them.
        first: JobId,
        /// The other.
        second: JobId,
    },
}

/// A request to open a job, i.e. to allocate the next epoch of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpenRequest {
    /// New job.
    pub job: JobId,
    /// Guest to move.
    pub vm: VmId,
    /// Highest fence the source has ever seen for this guest; [`Fence::NONE`] if none.
    pub above: Fence,
    /// The two ends.
    pub endpoints: EndpointsDigest,
}

/// Set-once decisions of all jobs whose owner this ledger is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ledger {
    incarnation: Incarnation,
    jobs: BTreeMap<JobId, DecisionRecord>,
}

/// A change that is not durable yet. Dropping it leaves the ledger as it was.
///
/// If the write of [`Staged::to_persist`] fails, nobody knows what the disk holds: the process
/// must end and recover, not try another decision.
#[must_use = "a staged change takes effect only when it is confirmed"]
#[derive(Debug)]
pub struct Staged<'a> {
    ledger: &'a mut Ledger,
    record: DecisionRecord,
    changed: bool,
}

impl Staged<'_> {
    /// The record to write and fsync before anyone is told; `None` if nothing changes.
    pub fn to_persist(&self) -> Option<&DecisionRecord> {
        self.changed.then_some(&self.record)
    }

    /// Says that the record is durable; only now may the answer be told.
    pub fn confirm(self) -> DecisionRecord {
        self.ledger.jobs.insert(self.record.ticket.job, self.record);
        self.record
    }
}

impl Ledger {
    /// A ledger from its stored records, in any order; none for a new one.
    ///
    /// # Errors
    /// [`LedgerError::Contradiction`] if two records claim one job or one (guest, fence), or if
    /// two jobs of one guest are undecided; [`LedgerError::Full`].
    pub fn recover(
        incarnation: Incarnation,
        records: impl IntoIterator<Item = DecisionRecord>,
    ) -> Result<Self, LedgerError> {
        let mut ledger = Ledger { incarnation, jobs: BTreeMap::new() };
        let mut fences = BTreeMap::new();
        let mut open = BTreeMap::new();
        for record in records {
            let (job, vm) = (record.ticket.job, record.ticket.vm);
            let clash = |first: Option<JobId>| match first {
                Some(first) => Err(LedgerError::Contradiction { first, second: job }),
                None => Ok(()),
            };
            clash(fences.insert((vm, record.ticket.fence), job))?;
            if record.fence() != record.ticket.fence {
                clash(fences.insert((vm, record.fence()), job))?;
            }
            if record.is_open() {
                clash(open.insert(vm, job))?;
            }
            clash(ledger.jobs.insert(job, record).map(|_| job))?;
            if ledger.jobs.len() > LEDGER_JOBS_MAX {
                return Err(LedgerError::Full);
            }
        }
        Ok(ledger)
    }

    /// Opens a job under the next epoch of its guest.
    ///
    /// # Errors
    /// `JobExists`, `Undecided` (names the job in the way), `StaleIncarnation`, `EpochsExhausted`,
    /// `Full`.
    pub fn open(&mut self, request: OpenRequest) -> Result<Staged<'_>, LedgerError> {
        let OpenRequest { job, vm, above, endpoints } = request;
        if self.jobs.contains_key(&job) {
            return Err(LedgerError::JobExists { job });
        }
        if self.jobs.len() >= LEDGER_JOBS_MAX {
            return Err(LedgerError::Full);
        }
        if let Some(other) = self.of_vm(vm).find(|record| record.is_open()) {
            return Err(LedgerError::Undecided { vm, undecided: other.ticket.job });
        }
        let fence = self.next_fence(vm, above)?;
        let ticket = Ticket { job, vm, fence, endpoints };
        let record = DecisionRecord { ticket, state: DecisionState::Open };
        Ok(Staged { ledger: self, record, changed: true })
    }

    /// Proposes an outcome. The first one wins; later ones get the record that won.
    ///
    /// # Errors
    /// `UnknownJob`.
    pub fn propose(&mut self, job: JobId, decision: Decision) -> Result<Staged<'_>, LedgerError> {
        let mut record = self.required(job)?;
        let changed = record.is_open();
        if changed {
            record.state = DecisionState::Decided(decision);
        }
        Ok(Staged { ledger: self, record, changed })
    }

    /// Gives a committed guest back to its source under a new fence. Only the owner of the guest,
    /// the target, may ask for it, and only if the guest never ran there.
    ///
    /// # Errors
    /// `UnknownJob`, `NotCommitted`, `Superseded`, `StaleIncarnation`, `EpochsExhausted`.
    pub fn hand_back(&mut self, job: JobId) -> Result<Staged<'_>, LedgerError> {
        let mut record = self.required(job)?;
        let start = match record.state {
            DecisionState::Decided(Decision::Committed(start)) => start,
            DecisionState::HandedBack { .. } => {
                return Ok(Staged { ledger: self, record, changed: false });
            }
            DecisionState::Open | DecisionState::Decided(Decision::Aborted(_)) => {
                return Err(LedgerError::NotCommitted { job });
            }
        };
        let highest = self.highest(record.ticket.vm);
        if highest != record.ticket.fence {
            return Err(LedgerError::Superseded { job });
        }
        let fence = self.next_fence(record.ticket.vm, highest)?;
        record.state = DecisionState::HandedBack { start, fence };
        Ok(Staged { ledger: self, record, changed: true })
    }

    /// The record of a job.
    pub fn get(&self, job: JobId) -> Option<&DecisionRecord> {
        self.jobs.get(&job)
    }

    /// All records, by job id.
    pub fn records(&self) -> impl Iterator<Item = &DecisionRecord> {
        self.jobs.values()
    }

    /// Highest fence this ledger has given for a guest; [`Fence::NONE`] if none. A source passes
    /// it as [`OpenRequest::above`] when the guest moves on.
    pub fn highest(&self, vm: VmId) -> Fence {
        self.of_vm(vm).map(DecisionRecord::fence).max().unwrap_or(Fence::NONE)
    }

    /// Drops the record of a job that every party has settled; the caller then removes its file.
    /// The newest record of a guest stays, because it holds the guest's highest fence.
    ///
    /// # Errors
    /// `UnknownJob`, `StillNeeded`.
    pub fn forget(&mut self, job: JobId) -> Result<(), LedgerError> {
        let record = self.required(job)?;
        if record.is_open() || record.fence() == self.highest(record.ticket.vm) {
            return Err(LedgerError::StillNeeded { job });
        }
        self.jobs.remove(&job);
        Ok(())
    }

    fn required(&self, job: JobId) -> Result<DecisionRecord, LedgerError> {
        self.jobs.get(&job).copied().ok_or(LedgerError::UnknownJob { job })
    }

    fn of_vm(&self, vm: VmId) -> impl Iterator<Item = &DecisionRecord> {
        self.jobs.values().filter(move |record| record.ticket.vm == vm)
    }

    fn next_fence(&self, vm: VmId, above: Fence) -> Result<Fence, LedgerError> {
        let seen = self.highest(vm).max(above);
        if seen.incarnation > self.incarnation {
            return Err(LedgerError::StaleIncarnation { seen, own: self.incarnation });
        }
        let epoch = self.of_vm(vm).map(|record| record.fence().epoch).max();
        let epoch = epoch.unwrap_or_default().max(above.epoch);
        let next = epoch.0.checked_add(1).ok_or(LedgerError::EpochsExhausted { vm })?;
        Ok(Fence { incarnation: self.incarnation, epoch: Epoch(next) })
    }
}
