//! Bugs planted in the shells, to show that the explorer would find them.

use crate::invariants::What;

/// One way to get the handover wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mutation {
    /// None: the rules as they are.
    None,
    /// The source lets SHUT(0) through when it hears of the commit, before RESUME.
    ShutBeforeResume,
    /// The source resumes when the path breaks after GO.
    ResumeOnLossAfterGo,
    /// The source resumes when time is up after GO.
    DeadlineDecides,
    /// The source takes silence of the ledger for `aborted`.
    SilenceIsAborted,
    /// A restarted source assumes that GO has not left.
    RestartAssumesNoGo,
    /// The source acknowledges the stop without having stopped the guest.
    SkipStop,
    /// The in-doubt record is not written.
    SkipInDoubtRecord,
    /// Sockets are left open when the source resumes.
    ResumeWithOpenSockets,
    /// GO is given as soon as the guest is stopped and never waited for by the child.
    ChildSendsWithoutGo,
    /// `cont` goes out before its record.
    ContBeforeRecord,
    /// `cont` goes out before the decision is durable.
    ContBeforeDecision,
    /// The last proposal wins.
    DecideTwice,
    /// The decision is told before it is durable.
    TellBeforeDurable,
    /// A target that may have run is handed back.
    HandBackAfterCont,
    /// The target QEMU was launched without `-S`.
    LaunchWithoutS,
    /// A restarted target leaves an undecided job undecided.
    RestartForgetsToDecide,
    /// Not a bug: an operator forces `abort` while the target may be committed.
    OperatorForcesAbort,
}

impl Mutation {
    /// Every bug.
    pub(crate) const PLANTED: &'static [Mutation] = &[
        Mutation::ShutBeforeResume,
        Mutation::ResumeOnLossAfterGo,
        Mutation::DeadlineDecides,
        Mutation::SilenceIsAborted,
        Mutation::RestartAssumesNoGo,
        Mutation::SkipStop,
        Mutation::SkipInDoubtRecord,
        Mutation::ResumeWithOpenSockets,
        Mutation::ChildSendsWithoutGo,
        Mutation::ContBeforeRecord,
        Mutation::ContBeforeDecision,
        Mutation::DecideTwice,
        Mutation::TellBeforeDurable,
        Mutation::HandBackAfterCont,
        Mutation::LaunchWithoutS,
        Mutation::RestartForgetsToDecide,
    ];

    /// The violations that count as having found it, not some side effect.
    pub(crate) fn expected(self) -> &'static [What] {
        match self {
            Mutation::None | Mutation::OperatorForcesAbort => &[],
            Mutation::ShutBeforeResume => &[What::ShutBeforeArrival],
            Mutation::ResumeOnLossAfterGo
            | Mutation::DeadlineDecides
            | Mutation::SilenceIsAborted
            | Mutation::RestartAssumesNoGo
            | Mutation::SkipStop => &[What::SourceRunsWhenCommitted, What::TwoRunning],
            Mutation::SkipInDoubtRecord => &[What::NoneRunsAfterHeal],
            Mutation::ResumeWithOpenSockets => &[What::ResumeDuringMigration],
            Mutation::ChildSendsWithoutGo => {
                &[What::SourceRunsWhenCommitted, What::TwoRunning, What::NotResumedBeforeGo]
            }
            Mutation::ContBeforeRecord => {
                &[What::SourceRunsAfterTarget, What::TargetRunsUnrecorded]
            }
            Mutation::ContBeforeDecision | Mutation::LaunchWithoutS => {
                &[What::TargetRunsUndecided, What::TwoRunning]
            }
            Mutation::DecideTwice | Mutation::TellBeforeDurable => {
                &[What::DecidedTwice, What::ToldTwoOutcomes]
            }
            Mutation::HandBackAfterCont => &[What::SourceRunsAfterTarget],
            Mutation::RestartForgetsToDecide => &[What::NoneRunsAfterHeal, What::NeverEnds],
        }
    }
}
