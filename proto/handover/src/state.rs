//! The `state` line of the records: its values and their one-line text.

use crate::decision::{
    AbortReason, Arrival, Decision, DecisionState, Force, Outcome, RunState, Start,
};
use crate::ids::Fence;

/// How a job ended for its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The target has the guest; the source stays stopped.
    Completed(Arrival),
    /// The source has the guest.
    Aborted {
        /// Under which fence.
        fence: Fence,
        /// Why.
        reason: AbortReason,
    },
    /// An operator decided without the ledger.
    Forced(Force),
}

/// State of a source record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceState {
    /// The guest is stopped or about to be, and GO may have left.
    InDoubt {
        /// Run state before our stop.
        prior: RunState,
    },
    /// An operator decided without the ledger; not carried out yet.
    Forced {
        /// What he decided.
        force: Force,
        /// Run state before our stop.
        prior: RunState,
    },
    /// Over.
    Settled(Ending),
}

impl SourceState {
    /// Whether nothing is left to do.
    pub const fn is_settled(&self) -> bool {
        matches!(self, SourceState::Settled(_))
    }
}

/// State of a target record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArrivalState {
    /// The target QEMU waits for, or receives, the guest; `cont` was never sent.
    Prepared,
    /// `cont` is being, or was, sent: from here on the guest may have run.
    ContSent,
    /// Over.
    Arrived(Arrival),
}

/// One-line text form; `from_text(to_text(x)) == Some(x)`.
pub(crate) trait StateText: Sized {
    fn to_text(&self) -> String;
    fn from_text(text: &str) -> Option<Self>;
}

impl StateText for DecisionState {
    fn to_text(&self) -> String {
        match self {
            DecisionState::Open => "open".to_owned(),
            DecisionState::Decided(Decision::Committed(start)) => format!("committed {start}"),
            DecisionState::Decided(Decision::Aborted(reason)) => format!("aborted {reason}"),
            DecisionState::HandedBack { start, fence } => format!("handed-back {start} {fence}"),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(match *words(text).as_slice() {
            ["open"] => DecisionState::Open,
            ["committed", start] => {
                DecisionState::Decided(Decision::Committed(Start::from_name(start)?))
            }
            ["aborted", reason] => {
                DecisionState::Decided(Decision::Aborted(AbortReason::from_name(reason)?))
            }
            ["handed-back", start, fence] => DecisionState::HandedBack {
                start: Start::from_name(start)?,
                fence: fence.parse().ok()?,
            },
            _ => return None,
        })
    }
}

impl StateText for SourceState {
    fn to_text(&self) -> String {
        match self {
            SourceState::InDoubt { prior } => format!("in-doubt {prior}"),
            SourceState::Forced { force, prior } => format!("forced {force} {prior}"),
            SourceState::Settled(Ending::Completed(arrival)) => format!("completed {arrival}"),
            SourceState::Settled(Ending::Aborted { fence, reason }) => {
                format!("aborted {fence} {reason}")
            }
            SourceState::Settled(Ending::Forced(force)) => format!("settled-by-operator {force}"),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(match *words(text).as_slice() {
            ["in-doubt", prior] => SourceState::InDoubt { prior: RunState::from_name(prior)? },
            ["forced", force, prior] => SourceState::Forced {
                force: Force::from_name(force)?,
                prior: RunState::from_name(prior)?,
            },
            ["completed", arrival] => {
                SourceState::Settled(Ending::Completed(Arrival::from_name(arrival)?))
            }
            ["aborted", fence, reason] => SourceState::Settled(Ending::Aborted {
                fence: fence.parse().ok()?,
                reason: AbortReason::from_name(reason)?,
            }),
            ["settled-by-operator", force] => {
                SourceState::Settled(Ending::Forced(Force::from_name(force)?))
            }
            _ => return None,
        })
    }
}

impl StateText for ArrivalState {
    fn to_text(&self) -> String {
        match self {
            ArrivalState::Prepared => "prepared".to_owned(),
            ArrivalState::ContSent => "cont-sent".to_owned(),
            ArrivalState::Arrived(arrival) => format!("arrived {arrival}"),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(match *words(text).as_slice() {
            ["prepared"] => ArrivalState::Prepared,
            ["cont-sent"] => ArrivalState::ContSent,
            ["arrived", arrival] => ArrivalState::Arrived(Arrival::from_name(arrival)?),
            _ => return None,
        })
    }
}

/// At most four words: enough for every state, and bounded for a hostile line.
fn words(text: &str) -> Vec<&str> {
    text.splitn(4, ' ').collect()
}

impl Ending {
    /// The ending that an outcome means for a source, if it means one.
    pub(crate) fn of(outcome: Outcome) -> Option<Self> {
        match outcome {
            Outcome::Committed {
                arrival: arrival @ (Arrival::Running | Arrival::LeftPaused),
                ..
            } => Some(Ending::Completed(arrival)),
            Outcome::Aborted { fence, reason } => Some(Ending::Aborted { fence, reason }),
            Outcome::Committed { .. } | Outcome::Undecided | Outcome::Unknown => None,
        }
    }
}
