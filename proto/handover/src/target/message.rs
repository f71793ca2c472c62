//! What goes into and comes out of the target role, and its phases. Plain values.

use crate::decision::{AbortReason, Arrival, Decision, DecisionRecord, Outcome, Start};
use crate::ids::Fence;
use crate::record::TargetRecord;

/// What an inspection of the target QEMU found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QemuState {
    /// Its vCPUs run (or the guest sleeps in S3 after a `cont`).
    Running,
    /// Loaded and paused.
    Paused,
    /// No such process, or it holds no guest.
    Gone,
}

/// What happened, as the shell of the target sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetEvent {
    /// The target QEMU listens, its memory is reserved, the ledger has the job open.
    QemuPrepared,
    /// The record of [`TargetCommand::PersistArrival`] is on disk.
    ArrivalPersisted,
    /// The first slice came.
    StreamStarted,
    /// The page hashes were compared at RAM END, before any device section was passed on.
    RootsCompared {
        /// Whether they are equal.
        matched: bool,
    },
    /// The last slice came. To be given before it is passed on to QEMU, so that no `completed`
    /// can overtake it.
    TailReceived {
        /// What the source wants after the commit ([`crate::SourceCommand::GrantGo`]).
        start: Start,
    },
    /// The target QEMU reports `completed`.
    LoadCompleted,
    /// The target QEMU reports `failed`.
    LoadFailed,
    /// The target QEMU ended.
    QemuLost,
    /// The session with the source was given up.
    LinkLost,
    /// The source broke the protocol.
    PeerViolation,
    /// Ctrl-C or a cancel call at the target.
    CancelRequested,
    /// The time allowed for the job is over.
    Deadline,
    /// The source asks to decide aborted.
    SourceRequestedAbort(AbortReason),
    /// The source asks for the outcome.
    SourceAsked,
    /// The ledger's record, durable: after a proposal, a hand-back, or somebody else's decision.
    Decided(DecisionRecord),
    /// RESUME was seen: the guest runs.
    Resumed,
    /// `cont` was refused.
    ContFailed {
        /// The refusal was heard on the monitor and the guest is, and was throughout, paused.
        never_left_paused: bool,
    },
    /// Answer to [`TargetCommand::InspectQemu`].
    QemuInspected(QemuState),
    /// Answer to [`TargetCommand::DestroyQemu`]: the process has ended.
    QemuDestroyed,
    /// Time to repeat what got no answer; the shell sends it at intervals until the role is done.
    RetryDue,
}

/// What the shell of the target does, in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetCommand {
    /// Write and fsync the record, then [`TargetEvent::ArrivalPersisted`]. If that fails, end.
    PersistArrival(TargetRecord),
    /// Answer the source that it may begin.
    AcceptSource,
    /// Propose to the ledger; [`TargetEvent::Decided`] brings what won.
    Propose(Decision),
    /// Tell the ledger to hand back under a new fence; [`TargetEvent::Decided`] brings it.
    HandBack,
    /// QMP `cont`, then [`TargetEvent::Resumed`] or [`TargetEvent::ContFailed`].
    Cont,
    /// QMP `announce-self`.
    AnnounceSelf,
    /// Put back every capability and parameter that was changed, above all `x-ignore-shared`.
    RestoreCapabilities,
    /// Tell the source, if it is connected. The source lets SHUT(0) through on
    /// [`Arrival::Running`] or [`Arrival::LeftPaused`], never before.
    TellSource(Outcome),
    /// Look at the QEMU of the record, then [`TargetEvent::QemuInspected`].
    InspectQemu,
    /// Kill the QEMU and remove its RAM file, then [`TargetEvent::QemuDestroyed`]. Not an error
    /// if there is none.
    DestroyQemu,
    /// Tell the user.
    Report(TargetStatus),
}

/// What the user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetStatus {
    /// `cont` was refused after the guest may have run; it is tried again.
    ContFailed,
    /// The guest arrived.
    Arrived(Arrival),
    /// Not arrived; the source has it under this fence.
    Aborted {
        /// The job's, or a higher one after a hand-back.
        fence: Fence,
        /// Why.
        reason: AbortReason,
    },
}

/// Where the target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetPhase {
    /// QEMU is being prepared or recorded.
    Preparing,
    /// Recorded and accepted; no slice yet.
    Prepared,
    /// Slices come.
    Receiving,
    /// The page hashes are equal.
    RootChecked,
    /// The last slice is in QEMU.
    TailReceived,
    /// QEMU completed, or a failure came: the ledger has a proposal.
    Deciding,
    /// Committed; the QEMU is looked at, after a restart or before it is left paused.
    Inspecting,
    /// Committed; `cont_sent` is being written.
    RecordingCont,
    /// Committed; `cont` is sent.
    Starting,
    /// Committed and over, as [`Arrival`] says.
    Arrived(Arrival),
    /// Committed, never ran, cannot run: the ledger is asked for the hand-back.
    HandingBack,
    /// Decided or handed back: the QEMU is being destroyed.
    Destroying {
        /// Under which fence the source has the guest.
        fence: Fence,
        /// Why.
        reason: AbortReason,
    },
    /// Aborted and over.
    Aborted {
        /// Under which fence the source has the guest.
        fence: Fence,
        /// Why.
        reason: AbortReason,
    },
}

impl TargetPhase {
    pub(super) const fn undecided(self) -> bool {
        self.receiving() || matches!(self, TargetPhase::Deciding)
    }

    pub(super) const fn receiving(self) -> bool {
        matches!(
            self,
            TargetPhase::Preparing
                | TargetPhase::Prepared
                | TargetPhase::Receiving
                | TargetPhase::RootChecked
                | TargetPhase::TailReceived
        )
    }

    /// Whether nothing is left to do but to answer the source.
    pub const fn is_over(self) -> bool {
        matches!(self, TargetPhase::Arrived(_) | TargetPhase::Aborted { .. })
    }
}
