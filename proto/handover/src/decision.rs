//! The words both roles and the ledger share: decisions, reasons, outcomes, run states.
//! Pure values. The text names are part of the record format and never change meaning.

use crate::ids::{Fence, Ticket};

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The short lower-case name, as records and reports write it.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            /// The value of that name.
            pub fn from_name(text: &str) -> Option<Self> {
                match text { $($text => Some($name::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// Why a handover ended as aborted.
    AbortReason {
        /// A user or caller cancelled it.
        Cancelled = "cancelled",
        /// The time allowed for the job ran out.
        Deadline = "deadline",
        /// The guest was paused for longer than allowed.
        PauseTimeout = "pause-timeout",
        /// The path between the two ends was given up.
        LinkLost = "link-lost",
        /// The process that moves the bytes ended.
        ChildDied = "child-died",
        /// The source QEMU reported a failed migration.
        MigrationFailed = "migration-failed",
        /// The source QEMU ended.
        SourceLost = "source-lost",
        /// The source guest could not be stopped.
        StopFailed = "stop-failed",
        /// The source QEMU switched over before it was allowed to.
        EarlySwitchover = "early-switchover",
        /// Another client of the source QEMU set the guest running after the stop.
        Interference = "interference",
        /// The page hashes of both ends differ.
        RootsDiffer = "roots-differ",
        /// The peer broke the protocol.
        PeerViolation = "peer-violation",
        /// The source, after a loss, asked for an end.
        SourceAsked = "source-asked",
        /// The target QEMU could not load the guest.
        LoadFailed = "load-failed",
        /// The target QEMU ended before the decision.
        TargetLost = "target-lost",
        /// The target engine restarted before the decision.
        TargetRestarted = "target-restarted",
        /// Committed, but the target could not start the guest and gave it back.
        HandedBack = "handed-back",
    }
}

named! {
    /// What the target does with the guest once the job is committed.
    Start {
        /// Set it running.
        Run = "run",
        /// Leave it paused: it was not running at the source, or the operator wants it so.
        LeavePaused = "leave-paused",
    }
}

named! {
    /// How far the guest of a committed job is at the target.
    Arrival {
        /// Not known to run yet.
        Pending = "pending",
        /// RESUME was seen.
        Running = "running",
        /// Complete, and left paused as wanted.
        LeftPaused = "left-paused",
        /// The target QEMU is gone after `cont` was, or may have been, sent: the guest may have run.
        Lost = "lost",
    }
}

named! {
    /// Run state of a guest, as far as a handover cares (QEMU: `query-status`).
    RunState {
        /// Its vCPUs run.
        Running = "running",
        /// In S3; wakes up by itself.
        Suspended = "suspended",
        /// Paused by a client.
        Paused = "paused",
        /// Stopped by QEMU after an I/O error.
        IoError = "io-error",
        /// Any other state in which the vCPUs stand still.
        Other = "other",
    }
}

impl RunState {
    /// Whether such a guest runs, or wakes, without anyone's `cont`.
    ///
    /// QEMU restores the state it saved at switch-over when the return path breaks, so a guest
    /// saved in such a state is a second copy in waiting.
    pub const fn is_live(self) -> bool {
        matches!(self, RunState::Running | RunState::Suspended)
    }

    /// What the target does with a guest that was in this state before our stop.
    pub const fn start(self) -> Start {
        if self.is_live() { Start::Run } else { Start::LeavePaused }
    }
}

named! {
    /// What an operator may decide on his own when the ledger cannot be reached.
    Force {
        /// The target has the guest. Risk: if it does not, no copy runs.
        Commit = "commit",
        /// The source has the guest. Risk: if the target runs it too, two copies run.
        Abort = "abort",
    }
}

impl Force {
    /// What the operator risks, for the report and the confirmation prompt.
    pub const fn risk(self) -> &'static str {
        match self {
            Force::Commit => {
                "the source stays stopped for good; if the target does not run the guest, \
                 no copy of it runs"
            }
            Force::Abort => {
                "the source starts the guest; if the target runs it too, two copies run and \
                 shared disks and addresses are corrupted: destroy the target's QEMU first"
            }
        }
    }
}

/// The one outcome of a (guest, fence), and what may be proposed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The target has the guest.
    Committed(Start),
    /// The source has the guest.
    Aborted(AbortReason),
}

/// What the ledger holds about one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecisionState {
    /// Not decided.
    Open,
    /// Decided for good.
    Decided(Decision),
    /// Committed at the job's fence, never started by the target, and given back: aborted at
    /// `fence`, which is higher than the job's.
    HandedBack {
        /// How the guest should have started.
        start: Start,
        /// The fence under which the source has it again.
        fence: Fence,
    },
}

/// The ledger's durable record of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecisionRecord {
    /// Job, guest, fence and endpoints.
    pub ticket: Ticket,
    /// The decision, if there is one.
    pub state: DecisionState,
}

impl DecisionRecord {
    /// The highest fence that this record has used.
    pub fn fence(&self) -> Fence {
        match self.state {
            DecisionState::HandedBack { fence, .. } => fence,
            DecisionState::Open | DecisionState::Decided(_) => self.ticket.fence,
        }
    }

    /// Whether the job still waits for its outcome.
    pub fn is_open(&self) -> bool {
        self.state == DecisionState::Open
    }
}

/// What the target side answers to a source that asks about its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// No decision yet.
    Undecided,
    /// The target has the guest.
    Committed {
        /// Must be the source's own.
        fence: Fence,
        /// How far it is there.
        arrival: Arrival,
    },
    /// The source has the guest.
    Aborted {
        /// The source's own, or a higher one after a hand-back.
        fence: Fence,
        /// Why.
        reason: AbortReason,
    },
    /// The ledger has no such job: wrong host, or its records are lost. Decides nothing.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for reason in AbortReason::ALL {
            assert_eq!(AbortReason::from_name(reason.name()), Some(*reason));
        }
        for state in RunState::ALL {
            assert_eq!(RunState::from_name(state.name()), Some(*state));
        }
        assert_eq!(Start::from_name("sideways"), None);
    }

    #[test]
    fn only_live_guests_are_started_at_the_target() {
        let started: Vec<_> =
            RunState::ALL.iter().filter(|state| state.start() == Start::Run).collect();
        assert_eq!(started, [&RunState::Running, &RunState::Suspended]);
    }
}
