//! What an earlier process left behind in the ledger, settled: an open job is aborted, a committed
//! guest that does not run yet is started or handed back, exactly as the commit role says.

use dwcp_handover::{
    Arrival, ArrivalState, Decision, DecisionRecord, DecisionState, Fence, JobId, Outcome, Target,
    TargetCommand, TargetEvent, TargetRecord,
};

use super::ledger::DurableLedger;
use super::qemu::{Started, TargetQemu};
use crate::error::Result;

/// Rounds of looking at a QEMU before the rest is left to the next start.
const INSPECTIONS_MAX: usize = 40;
const INSPECTION_INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);

/// Settles every job that is not over.
///
/// # Errors
/// A damaged record, or a write that failed.
pub fn recover(ledger: &DurableLedger) -> Result<()> {
    for decision in ledger.records() {
        let arrival = ledger.arrival(decision.ticket.job)?;
        if is_over(&decision, arrival.as_ref()) {
            continue;
        }
        let outcome = settle(ledger, decision, arrival)?;
        eprintln!("job {}: settled after a restart: {outcome:?}", decision.ticket.job);
    }
    Ok(())
}

/// Settles one job.
///
/// # Errors
/// A write that failed.
pub fn settle(
    ledger: &DurableLedger,
    decision: DecisionRecord,
    arrival: Option<TargetRecord>,
) -> Result<Outcome> {
    let notes = arrival.as_ref().map(|record| record.notes.clone()).unwrap_or_default();
    let mut qemu = TargetQemu::recorded(&notes);
    let (mut role, commands) = Target::recover(decision, arrival);
    let mut queue = std::collections::VecDeque::from(commands);
    let mut inspections = 0;
    while !role.phase().is_over() {
        let Some(command) = queue.pop_front() else {
            inspections += 1;
            if inspections > INSPECTIONS_MAX {
                break;
            }
            std::thread::sleep(INSPECTION_INTERVAL);
            queue.extend(role.on(TargetEvent::RetryDue));
            continue;
        };
        if let Some(event) = execute(ledger, &mut qemu, &role, command)? {
            queue.extend(role.on(event));
        }
    }
    for command in queue {
        execute(ledger, &mut qemu, &role, command)?;
    }
    Ok(role.outcome())
}

fn execute(
    ledger: &DurableLedger,
    qemu: &mut TargetQemu,
    role: &Target,
    command: TargetCommand,
) -> Result<Option<TargetEvent>> {
    let job = role.ticket().job;
    Ok(match command {
        TargetCommand::PersistArrival(record) => {
            ledger.save_arrival(&record)?;
            Some(TargetEvent::ArrivalPersisted)
        }
        TargetCommand::Propose(decision) => {
            Some(TargetEvent::Decided(ledger.propose(job, decision)?))
        }
        TargetCommand::HandBack => Some(TargetEvent::Decided(ledger.hand_back(job)?)),
        TargetCommand::Cont => Some(match qemu.cont() {
            Started::Running => TargetEvent::Resumed,
            Started::Refused { never_left_paused } => TargetEvent::ContFailed { never_left_paused },
            Started::Gone => TargetEvent::QemuLost,
        }),
        TargetCommand::AnnounceSelf => {
            qemu.announce();
            None
        }
        TargetCommand::RestoreCapabilities => {
            if let Err(e) = qemu.restore() {
                eprintln!("job {job}: migration settings were not put back: {e}");
            }
            None
        }
        TargetCommand::InspectQemu => Some(TargetEvent::QemuInspected(qemu.inspect())),
        TargetCommand::DestroyQemu => qemu.destroy().then(|| {
            ledger.forget_arrival(job);
            TargetEvent::QemuDestroyed
        }),
        // Nobody is connected yet; whoever asks is told from the record.
        TargetCommand::AcceptSource | TargetCommand::TellSource(_) | TargetCommand::Report(_) => {
            None
        }
    })
}

/// True when nothing is left to do for a job: an aborted one whose QEMU was ended has no arrival
/// record any more.
fn is_over(decision: &DecisionRecord, arrival: Option<&TargetRecord>) -> bool {
    match (decision.state, arrival.map(|record| record.state)) {
        (DecisionState::Open, _) => false,
        (_, Some(ArrivalState::Arrived(_))) => true,
        (DecisionState::Decided(Decision::Aborted(_)) | DecisionState::HandedBack { .. }, None) => {
            true
        }
        _ => false,
    }
}

/// What the records say about a job that does not run here now.
///
/// # Errors
/// A damaged record.
pub fn recorded_outcome(ledger: &DurableLedger, job: JobId) -> Result<Outcome> {
    let Some(decision) = ledger.get(job) else { return Ok(Outcome::Unknown) };
    let fence: Fence = decision.ticket.fence;
    Ok(match decision.state {
        DecisionState::Open => Outcome::Undecided,
        DecisionState::Decided(Decision::Aborted(reason)) => Outcome::Aborted { fence, reason },
        DecisionState::HandedBack { fence, .. } => {
            Outcome::Aborted { fence, reason: dwcp_handover::AbortReason::HandedBack }
        }
        DecisionState::Decided(Decision::Committed(_)) => {
            let arrival = match ledger.arrival(job)?.map(|record| record.state) {
                Some(ArrivalState::Arrived(arrival)) => arrival,
                _ => Arrival::Pending,
            };
            Outcome::Committed { fence, arrival }
        }
    })
}
