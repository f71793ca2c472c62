//! The job records of this host, for the commands that look at them: `jobs`, `resolve`, `--resume`.

use std::net::SocketAddr;
use std::path::Path;

use dwcp_handover::{
    AbortReason, Decision, DecisionRecord, DecisionState, Fence, Force, JobId, SourceRecord,
    SourceState, Start, TargetRecord, VmId,
};
use serde::Serialize;

use crate::ask;
use crate::error::{Class, Doing, EngineError, Result};
use crate::store::Store;
use crate::target::{DurableLedger, load, read_all, settle};

/// Where a running `receive` listens, beside its records.
const ADDRESS_FILE: &str = "receive.addr";

/// One line of `jobs`.
#[derive(Debug, Clone, Serialize)]
pub struct JobLine {
    /// The job.
    pub job: String,
    /// `source` or `target`.
    pub side: &'static str,
    /// What its record says.
    pub state: String,
    /// The guest's name or UUID.
    pub vm: String,
    /// Its fence, incarnation.epoch.
    pub fence: String,
}

/// Says where `receive` listens: in the state folder, and in the ready file if there is one.
///
/// # Errors
/// A file cannot be written.
pub fn announce(state: &Path, ready: Option<&Path>, address: SocketAddr) -> Result<()> {
    let text = format!("{address}\n");
    for path in [Some(state.join(ADDRESS_FILE)).as_deref(), ready].into_iter().flatten() {
        let beside = path.with_extension("new");
        std::fs::write(&beside, &text)
            .and_then(|()| std::fs::rename(&beside, path))
            .doing(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// All jobs this host has records of.
///
/// # Errors
/// A record is damaged.
pub fn list(state: &Path) -> Result<Vec<JobLine>> {
    let store = Store::open(state)?;
    let mut lines = Vec::new();
    for record in read_all::<SourceRecord>(&store, ".source")? {
        let state = match record.state {
            SourceState::InDoubt { .. } => "in_doubt".to_owned(),
            SourceState::Forced { force, .. } => format!("forced {force}"),
            SourceState::Settled(ending) => match ending {
                dwcp_handover::Ending::Completed(arrival) => format!("completed {arrival}"),
                dwcp_handover::Ending::Aborted { reason, .. } => format!("aborted {reason}"),
                dwcp_handover::Ending::Forced(force) => format!("forced {force}"),
            },
        };
        let vm = record.notes.get("vm").map(str::to_owned);
        lines.push(line(record.ticket.job, "source", state, vm, record.ticket.fence));
    }
    for record in read_all::<DecisionRecord>(&store, ".decision")? {
        let job = record.ticket.job;
        let arrival: Option<TargetRecord> = load(&store, &format!("{job}.target"))?;
        let state = match record.state {
            DecisionState::Open => "undecided".to_owned(),
            DecisionState::Decided(Decision::Committed(start)) => format!("committed {start}"),
            DecisionState::Decided(Decision::Aborted(reason)) => format!("aborted {reason}"),
            DecisionState::HandedBack { .. } => "handed back".to_owned(),
        };
        let vm = arrival.and_then(|record| record.notes.get("name").map(str::to_owned));
        lines.push(line(job, "target", state, vm, record.fence()));
    }
    Ok(lines)
}

fn line(
    job: JobId,
    side: &'static str,
    state: String,
    vm: Option<String>,
    fence: Fence,
) -> JobLine {
    let vm = vm.unwrap_or_default();
    JobLine { job: job.to_string(), side, state, vm, fence: fence.to_string() }
}

fn parse(job: &str) -> Result<JobId> {
    job.parse().map_err(|_| {
        EngineError::new(Class::Usage, format!("{job:?} is no job id: see dwcp-engine jobs"))
    })
}

/// True when this host was the source of the job.
///
/// # Errors
/// Not a job's id, or the folder cannot be read.
pub fn has_source(state: &Path, job: &str) -> Result<bool> {
    let store = Store::open(state)?;
    Ok(store.load(&format!("{}.source", parse(job)?))?.is_some())
}

/// The source's record of a job that is not over.
///
/// # Errors
/// No such job, a damaged record, or a job that is settled.
pub fn source_record(state: &Path, job: &str) -> Result<(Store, SourceRecord)> {
    let store = Store::open(state)?;
    let name = format!("{}.source", parse(job)?);
    let record: SourceRecord = load(&store, &name)?.ok_or_else(|| {
        let text = format!("no record of job {job} in {}", state.join("jobs").display());
        EngineError::new(Class::NotFound, text)
    })?;
    if record.state.is_settled() {
        let text = format!("job {job} is over already: see dwcp-engine jobs");
        return Err(EngineError::new(Class::Conflict, text));
    }
    Ok((store, record))
}

/// The source's records of all jobs that are not over.
///
/// # Errors
/// A record is damaged.
pub fn open_sources(state: &Path) -> Result<Vec<(Store, SourceRecord)>> {
    let store = Store::open(state)?;
    let mut records = read_all::<SourceRecord>(&store, ".source")?;
    records.retain(|record| !record.state.is_settled());
    Ok(records.into_iter().map(|record| (store.clone(), record)).collect())
}

/// Ends a job at the target: through the running `receive` when there is one, else by ourselves.
///
/// # Errors
/// No such job, or a decision that is not possible.
pub fn resolve_target(state: &Path, job: &str, force: Option<Force>) -> Result<String> {
    let id = parse(job)?;
    let store = Store::open(state)?;
    if let Ok(text) = std::fs::read_to_string(state.join(ADDRESS_FILE))
        && let Ok(address) = text.trim().parse()
    {
        let abort = (force == Some(Force::Abort)).then_some(AbortReason::Cancelled);
        if let Ok(outcome) = ask::ask(address, id, Fence::NONE, abort) {
            return Ok(format!("{outcome:?}"));
        }
    }
    let ledger = DurableLedger::open(store)?;
    let Some(record) = ledger.get(id) else {
        let text = format!("no record of job {job} in {}", state.join("jobs").display());
        return Err(EngineError::new(Class::NotFound, text));
    };
    let record = match force {
        Some(Force::Commit) => ledger.propose(id, Decision::Committed(Start::Run))?,
        Some(Force::Abort) => ledger.propose(id, Decision::Aborted(AbortReason::Cancelled))?,
        None => record,
    };
    let arrival = ledger.arrival(id)?;
    Ok(format!("{:?}", settle(&ledger, record, arrival)?))
}

/// The highest epoch this host knows of a guest; refuses one that an earlier job left in doubt.
///
/// # Errors
/// [`Class::Conflict`] names the job in doubt; a record that cannot be read.
pub(crate) fn known_epoch(store: &Store, vm: VmId, qmp: &Path) -> Result<u64> {
    let mut highest = 0;
    for record in read_all::<SourceRecord>(store, ".source")? {
        let same = record.ticket.vm == vm
            || record.notes.get("qmp").is_some_and(|path| Path::new(path) == qmp);
        if same && !record.state.is_settled() {
            let text = format!(
                "job {} of this guest is not over: dwcp-engine send --resume {0}",
                record.ticket.job
            );
            return Err(EngineError::new(Class::Conflict, text));
        }
        if record.ticket.vm == vm {
            highest = highest.max(record.ticket.fence.epoch.0);
        }
    }
    for record in read_all::<DecisionRecord>(store, ".decision")? {
        if record.ticket.vm == vm {
            highest = highest.max(record.fence().epoch.0);
        }
    }
    Ok(highest)
}
