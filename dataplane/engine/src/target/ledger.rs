//! The standalone ledger: the commit roles' set-once decisions, each in a synced file of this host.
//! One process holds a state folder at a time; a failed write ends it, because nobody knows then
//! what the disk holds.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dwcp_handover::{
    Decision, DecisionRecord, Incarnation, JobId, Ledger, LedgerError, OpenRequest, Record, Staged,
    TargetRecord,
};

use crate::error::{Class, Doing, EngineError, Result};
use crate::store::Store;

/// Standalone ledgers are never restored from a backup by us: they live one life.
const INCARNATION: Incarnation = Incarnation(1);
const DECISION_SUFFIX: &str = ".decision";
const TARGET_SUFFIX: &str = ".target";
const LOCK: &str = ".ledger.lock";

/// Decisions of this host, durable.
#[derive(Debug)]
pub struct DurableLedger {
    ledger: Mutex<Ledger>,
    store: Store,
    _lock: File,
}

impl DurableLedger {
    /// Takes the state folder and reads its decisions.
    ///
    /// # Errors
    /// Another process holds the folder, or a record is damaged.
    pub fn open(store: Store) -> Result<Self> {
        let path = store.path(LOCK);
        let lock = File::create(&path).doing(|| format!("creating {}", path.display()))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |_| {
                EngineError::new(
                    Class::Resource,
                    format!(
                        "another receive holds {}: give this one its own --state",
                        path.display()
                    ),
                )
            },
        )?;
        let records = read_all::<DecisionRecord>(&store, DECISION_SUFFIX)?;
        let ledger = Ledger::recover(INCARNATION, records).map_err(refused)?;
        Ok(Self { ledger: Mutex::new(ledger), store, _lock: lock })
    }

    /// Opens a job under its guest's next epoch.
    ///
    /// # Errors
    /// The ledger's reason, by name.
    pub fn open_job(&self, request: OpenRequest) -> Result<DecisionRecord> {
        let mut ledger = self.lock();
        let staged = ledger.open(request).map_err(refused)?;
        self.persist(staged)
    }

    /// Proposes a decision; what won comes back, durable.
    ///
    /// # Errors
    /// No such job.
    pub fn propose(&self, job: JobId, decision: Decision) -> Result<DecisionRecord> {
        let mut ledger = self.lock();
        let staged = ledger.propose(job, decision).map_err(refused)?;
        self.persist(staged)
    }

    /// Gives a committed guest that never ran here back to its source.
    ///
    /// # Errors
    /// The ledger's reason, by name.
    pub fn hand_back(&self, job: JobId) -> Result<DecisionRecord> {
        let mut ledger = self.lock();
        let staged = ledger.hand_back(job).map_err(refused)?;
        self.persist(staged)
    }

    /// What is decided about a job.
    pub fn get(&self, job: JobId) -> Option<DecisionRecord> {
        self.lock().get(job).copied()
    }

    /// All decisions.
    pub fn records(&self) -> Vec<DecisionRecord> {
        self.lock().records().copied().collect()
    }

    /// Writes the arrival's record.
    ///
    /// # Errors
    /// The disk's failure.
    pub fn save_arrival(&self, record: &TargetRecord) -> Result<()> {
        self.store.save(&format!("{}{TARGET_SUFFIX}", record.ticket.job), &record.encode())
    }

    /// The arrival's record, if the job got that far.
    ///
    /// # Errors
    /// A damaged record.
    pub fn arrival(&self, job: JobId) -> Result<Option<TargetRecord>> {
        load(&self.store, &format!("{job}{TARGET_SUFFIX}"))
    }

    /// Drops the arrival's record: its QEMU was ended, nothing is left to recover.
    pub fn forget_arrival(&self, job: JobId) {
        let _ = std::fs::remove_file(self.store.path(&format!("{job}{TARGET_SUFFIX}")));
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn persist(&self, staged: Staged<'_>) -> Result<DecisionRecord> {
        if let Some(record) = staged.to_persist() {
            let name = format!("{}{DECISION_SUFFIX}", record.ticket.job);
            if let Err(e) = self.store.save(&name, &record.encode()) {
                eprintln!(
                    "{e}: ending, since what the disk holds is not known; start receive again"
                );
                std::process::exit(i32::from(Class::Resource as u8));
            }
        }
        Ok(staged.confirm())
    }
}

fn refused(error: LedgerError) -> EngineError {
    let class = match error {
        LedgerError::UnknownJob { .. } => Class::NotFound,
        LedgerError::Full => Class::Limit,
        _ => Class::Conflict,
    };
    EngineError::new(class, error.to_string())
}

/// Reads one record; a damaged one is an error that names the file.
///
/// # Errors
/// The disk's failure or a damaged record.
pub fn load<R: Record>(store: &Store, name: &str) -> Result<Option<R>> {
    let Some(bytes) = store.load(name)? else { return Ok(None) };
    R::decode(&bytes).map(Some).map_err(|e| {
        EngineError::new(Class::Resource, format!("{}: {e}", store.path(name).display()))
    })
}

/// Reads all records with a suffix.
///
/// # Errors
/// The disk's failure or a damaged record.
pub fn read_all<R: Record>(store: &Store, suffix: &str) -> Result<Vec<R>> {
    let mut records = Vec::new();
    for name in store.list(suffix)? {
        records.extend(load(store, &name)?);
    }
    Ok(records)
}
