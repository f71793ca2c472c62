//! What goes into and comes out of the source role, and its phases. Plain values.

use crate::decision::{AbortReason, Force, Outcome, RunState, Start};
use crate::record::SourceRecord;
use crate::state::Ending;

/// What happened, as the shell of the source sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceEvent {
    /// The child is connected, the target accepted, preflight passed; nothing has moved yet.
    ChildReady {
        /// The guest's run state now.
        run_state: RunState,
    },
    /// The guest's run state changed without a command of ours: every change seen before our
    /// `stop` is sent. What is seen from then until its answer belongs to
    /// [`SourceEvent::GuestStopped`].
    RunStateChanged(RunState),
    /// The child measured that the remaining bytes fit the downtime budget.
    StopRequested,
    /// The record of [`SourceCommand::PersistInDoubt`] is on disk.
    InDoubtPersisted,
    /// Our `stop` took effect: `query-status` says neither running nor suspended.
    GuestStopped {
        /// Run state just before our `stop`.
        prior: RunState,
    },
    /// Our `stop` did not take effect.
    StopFailed,
    /// QEMU began to switch over (status `device` or `finish-migrate`). To be delivered in the
    /// order of the monitor's lines.
    SwitchoverBegan,
    /// Both ends have the same page hashes.
    RootsMatched,
    /// They have not.
    RootsDiffer,
    /// The child holds the last slice and asks to send it.
    GoRequested,
    /// The child ended.
    ChildDied,
    /// The session with the target was given up.
    LinkLost,
    /// The source QEMU reports `failed`.
    MigrationFailed,
    /// The source QEMU ended.
    GuestLost,
    /// The target's ledger answered, or told unasked.
    OutcomeLearned(Outcome),
    /// An [`SourceCommand::AskOutcome`] or [`SourceCommand::RequestAbort`] got no answer.
    LedgerUnreachable,
    /// Ctrl-C or a cancel call.
    CancelRequested,
    /// The time allowed for the job is over.
    Deadline,
    /// The guest has been paused for as long as allowed.
    PauseTimeout,
    /// Time to repeat what got no answer; the shell sends it at intervals until the role is done.
    RetryDue,
    /// [`SourceCommand::ResumeGuest`] took effect.
    GuestResumed,
    /// It did not.
    ResumeFailed,
    /// An operator decides without the ledger (`resolve --commit|--abort`).
    Forced(Force),
    /// The record of [`SourceCommand::PersistForced`] is on disk.
    ForcePersisted,
}

/// What the shell of the source does, in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceCommand {
    /// QMP `migrate`.
    StartMigration,
    /// Write and fsync the record, then [`SourceEvent::InDoubtPersisted`]. If that fails, end.
    PersistInDoubt(SourceRecord),
    /// QMP `stop`, then [`SourceEvent::GuestStopped`] or [`SourceEvent::StopFailed`].
    StopGuest,
    /// Let return-path message 7 through (QEMU 7.2: raise `downtime-limit`).
    LetSwitchover,
    /// Tell the child that it may send the last slice, and with it how the guest is to start.
    GrantGo {
        /// What the target does with the guest once it is committed.
        start: Start,
    },
    /// Tell the child that it may never send the last slice.
    RefuseGo,
    /// Close the migration sockets, end the child. Must be complete before the next command.
    AbortMigration,
    /// QMP `cont`, then [`SourceEvent::GuestResumed`] or [`SourceEvent::ResumeFailed`].
    ResumeGuest {
        /// State to be in again: running, or suspended as before our `stop`.
        to: RunState,
    },
    /// Ask the target's ledger for the outcome, over a connection of its own if need be.
    AskOutcome,
    /// Ask the target's ledger to decide aborted unless it has decided; it answers the outcome.
    /// Never waited for.
    RequestAbort(AbortReason),
    /// Let SHUT(0) through to the source QEMU, if its migration is still connected.
    ReleaseShut,
    /// Write and fsync that an operator decided, then [`SourceEvent::ForcePersisted`].
    PersistForced(SourceRecord),
    /// Put back every capability and parameter that was changed.
    RestoreCapabilities,
    /// Write and fsync the final record.
    PersistSettled(SourceRecord),
    /// Tell the user.
    Report(SourceStatus),
}

/// What the user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceStatus {
    /// After GO a cancel cannot stop the job: waiting for the outcome.
    WaitingForOutcome,
    /// Asked again to end: print the `resolve` line.
    ShowResolve,
    /// The ledger does not answer; the guest stays paused.
    LedgerUnreachable,
    /// The ledger does not know the job; the guest stays paused until an operator resolves.
    JobUnknown,
    /// Committed; the target does not run yet.
    Committed,
    /// Committed, and the target QEMU was lost after it may have run; an operator must resolve.
    TargetLost,
    /// Another client set the guest running after the stop.
    Interference,
    /// The source guest does not resume; it is tried again.
    ResumeFailed,
    /// The source QEMU is gone.
    GuestLost,
    /// The operator's decision is not possible in this phase.
    ForceRefused,
    /// An outcome of another fence came and was not obeyed.
    ForeignOutcome,
    /// Over.
    Ended(Ending),
}

/// Where the source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourcePhase {
    /// Nothing has moved.
    Preflight,
    /// The guest runs, its pages move.
    Precopy,
    /// The in-doubt record is being written; the guest still runs.
    Recording,
    /// `stop` was sent.
    Stopping,
    /// Stopped, but in another state than recorded: the record is written again.
    Amending,
    /// Stopped by us, recorded; the last pages and the device state move, GO is not given.
    Stopped,
    /// The last slice may have left.
    GoGranted,
    /// GO was, or may have been, given and the path is broken: asking for the outcome.
    Resolving,
    /// An operator's decision is being recorded.
    Forcing(Force),
    /// The source has the guest and sets it running again.
    Resuming(Ending),
    /// Over.
    Done(Ending),
}

impl SourcePhase {
    /// Whether the source still decides alone.
    pub const fn before_go(self) -> bool {
        matches!(
            self,
            SourcePhase::Preflight
                | SourcePhase::Precopy
                | SourcePhase::Recording
                | SourcePhase::Stopping
                | SourcePhase::Amending
                | SourcePhase::Stopped
        )
    }

    /// Whether only the ledger, or an operator, can end it.
    pub const fn in_doubt(self) -> bool {
        matches!(self, SourcePhase::GoGranted | SourcePhase::Resolving | SourcePhase::Forcing(_))
    }
}
