//! What must hold in every state.

use dwcp_handover::*;

use crate::world::{Pause, TICKET, TargetQemu, World};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// Both copies run.
    TwoRunning,
    /// A guest runs that its user had paused.
    PausedGuestStarted,
    /// The source runs although the job is committed and not handed back.
    SourceRunsWhenCommitted,
    /// The source runs what has run at the target before.
    SourceRunsAfterTarget,
    /// The target runs and the ledger's disk does not say committed.
    TargetRunsUndecided,
    /// The target runs and its disk does not say `cont_sent`.
    TargetRunsUnrecorded,
    /// A decision was replaced.
    DecidedTwice,
    /// Two outcomes of one fence were told.
    ToldTwoOutcomes,
    /// SHUT(0) was let through and the target had not run.
    ShutBeforeArrival,
    /// `cont` to a source whose migration is still connected.
    ResumeDuringMigration,
    /// `cont` to a source that heard SHUT(0).
    ResumeAfterShut,
    /// `cont` to a target that is not complete.
    ContBeforeLoaded,
    /// A guest that ran was destroyed by us.
    RunningGuestDestroyed,
    /// Before GO, after a failure, the source alone did not get its guest running.
    NotResumedBeforeGo,
    /// Nothing fails any more, and no copy runs.
    NoneRunsAfterHeal,
    /// Nothing fails any more, and a role never ends.
    NeverEnds,
}

impl World {
    /// The first thing that is wrong in this state by itself.
    pub(crate) fn violation(&self) -> Option<What> {
        self.ghost.violation.or_else(|| self.running_violation()).or_else(|| self.told_violation())
    }

    fn running_violation(&self) -> Option<What> {
        let source = self.source_qemu.run.is_live();
        let target = self.target_qemu == TargetQemu::Running;
        let committed =
            matches!(self.decision_disk.state, DecisionState::Decided(Decision::Committed(_)));
        let recorded = self.arrival_disk.as_ref().map(|record| record.state);
        let unrecorded = matches!(recorded, None | Some(ArrivalState::Prepared));
        if source && target {
            Some(What::TwoRunning)
        } else if (source || target) && self.ghost.pause == Pause::Heard {
            Some(What::PausedGuestStarted)
        } else if source && self.ghost.ran_at_target {
            Some(What::SourceRunsAfterTarget)
        } else if source && committed {
            Some(What::SourceRunsWhenCommitted)
        } else if target && !committed {
            Some(What::TargetRunsUndecided)
        } else if target && unrecorded {
            Some(What::TargetRunsUnrecorded)
        } else {
            None
        }
    }

    fn told_violation(&self) -> Option<What> {
        let own = TICKET.fence;
        let (mut aborted, mut committed, mut arrived, mut handed_back) =
            (false, false, false, false);
        for answer in &self.wire.answers {
            match *answer {
                Outcome::Aborted { fence, .. } if fence == own => aborted = true,
                Outcome::Aborted { .. } => handed_back = true,
                Outcome::Committed { arrival, .. } => {
                    committed = true;
                    arrived |= arrival != Arrival::Pending;
                }
                Outcome::Undecided | Outcome::Unknown => {}
            }
        }
        let contradiction = (aborted && (committed || handed_back)) || (handed_back && arrived);
        contradiction.then_some(What::ToldTwoOutcomes)
    }

    /// Before GO, with the network gone, the parent alone sets the source guest running.
    pub(crate) fn resume_violation(&self) -> Option<What> {
        let guest_gone = self.source_qemu.gone || self.ghost.pause != Pause::None;
        if guest_gone || !self.source_phase()?.before_go() {
            return None;
        }
        let mut world = self.clone();
        world.settle_parent();
        if !world.source_phase()?.before_go() {
            return None;
        }
        world.tell_parent(SourceEvent::LinkLost);
        world.settle_parent();
        (!world.source_qemu.run.is_live()).then_some(What::NotResumedBeforeGo)
    }

    /// The parent does all it can do without anyone else.
    fn settle_parent(&mut self) {
        while let Some(parent) = &self.parent {
            if !parent.todo.is_empty() {
                self.parent_step();
            } else if !parent.monitor.is_empty() {
                self.parent_monitor();
            } else {
                return;
            }
        }
    }
}
