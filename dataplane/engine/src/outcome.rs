//! The ledger's outcome, between the commit roles and the wire.

use dwcp_handover::{AbortReason, Arrival, Fence, JobId, Outcome};
use dwcp_wire as wire;

/// The outcome as it travels.
#[must_use]
pub fn to_wire(job: JobId, outcome: Outcome) -> wire::Outcome {
    let (decision, fence, reason) = match outcome {
        Outcome::Undecided => (wire::Decision::Undecided, Fence::NONE, ""),
        Outcome::Unknown => (wire::Decision::Unknown, Fence::NONE, ""),
        Outcome::Committed { fence, arrival } => (wire::Decision::Committed, fence, arrival.name()),
        Outcome::Aborted { fence, reason } => (wire::Decision::Aborted, fence, reason.name()),
    };
    wire::Outcome {
        job: wire::JobId(job.0),
        decision,
        incarnation: fence.incarnation.0,
        epoch: wire::Epoch(fence.epoch.0),
        reason: reason.to_owned(),
    }
}

/// The outcome as the roles know it; a word that a newer peer may use reads as the nearest one.
#[must_use]
pub fn from_wire(outcome: &wire::Outcome) -> Outcome {
    let fence = Fence::new(outcome.incarnation, outcome.epoch.0);
    match outcome.decision {
        wire::Decision::Undecided => Outcome::Undecided,
        wire::Decision::Unknown => Outcome::Unknown,
        wire::Decision::Committed => Outcome::Committed {
            fence,
            arrival: Arrival::from_name(&outcome.reason).unwrap_or(Arrival::Pending),
        },
        wire::Decision::Aborted => Outcome::Aborted {
            fence,
            reason: AbortReason::from_name(&outcome.reason).unwrap_or(AbortReason::PeerViolation),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_the_wire() {
        let fence = Fence::new(1, 7);
        for outcome in [
            Outcome::Undecided,
            Outcome::Unknown,
            Outcome::Committed { fence, arrival: Arrival::LeftPaused },
            Outcome::Aborted { fence, reason: AbortReason::HandedBack },
        ] {
            assert_eq!(from_wire(&to_wire(JobId([1; 16]), outcome)), outcome);
        }
    }
}
