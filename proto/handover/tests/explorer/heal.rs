//! The fair end of every run: nothing fails any more, everything is reachable.

use dwcp_handover::*;

use crate::actions::Action;
use crate::invariants::What;
use crate::target_host::ContFate;
use crate::world::{Budget, Pause, TargetQemu, World};

/// Steps after which a run that has not ended never will.
const HEAL_STEPS_MAX: usize = 400;

impl World {
    /// Runs one fixed continuation without faults; `seen` is called with every state on the way
    /// and ends it early when it answers true.
    pub(crate) fn heal(mut self, mut seen: impl FnMut(&World) -> bool) -> Option<What> {
        self.budget = Budget::default();
        for _ in 0..HEAL_STEPS_MAX {
            if seen(&self) {
                return None;
            }
            if let Some(what) = self.violation() {
                return Some(what);
            }
            // A child without its parent ends; so does one whose parent only resolves.
            let orphan = matches!(self.source_phase(), None | Some(SourcePhase::Resolving));
            if orphan && self.child.alive {
                self.child_dies();
                continue;
            }
            match self.next_fair() {
                Some(action) => self.apply(action),
                None if self.is_over() => return self.end_violation(),
                None => self.retry_round(),
            }
        }
        Some(What::NeverEnds)
    }

    /// The next thing that needs nobody's retry: progress before questions.
    fn next_fair(&self) -> Option<Action> {
        self.actions().into_iter().find(|action| match action {
            Action::ParentHears(event) => !matches!(
                event,
                SourceEvent::OutcomeLearned(_)
                    | SourceEvent::RetryDue
                    | SourceEvent::CancelRequested
                    | SourceEvent::Deadline
                    | SourceEvent::Forced(_)
            ),
            Action::EngineHears(event) => {
                matches!(
                    event,
                    TargetEvent::StreamStarted | TargetEvent::LinkLost | TargetEvent::QemuLost
                )
            }
            _ => true,
        })
    }

    fn is_over(&self) -> bool {
        let source = match &self.parent {
            Some(parent) => matches!(parent.role.phase(), SourcePhase::Done(_)),
            None => self.source_disk.as_ref().is_none_or(|record| record.state.is_settled()),
        };
        // A source whose target was lost waits for an operator; that is an end here.
        let lost = self.target_phase() == Some(TargetPhase::Arrived(Arrival::Lost));
        let target = self.target_phase().is_some_and(TargetPhase::is_over);
        target && (source || lost)
    }

    /// Time passes: both ask again, and every question and answer arrives once.
    fn retry_round(&mut self) {
        self.tell_parent(SourceEvent::RetryDue);
        self.drain();
        self.tell_engine(TargetEvent::RetryDue);
        self.drain();
        for event in
            [TargetEvent::SourceAsked, TargetEvent::SourceRequestedAbort(AbortReason::SourceAsked)]
        {
            if event == TargetEvent::SourceAsked || self.wire.abort_requested {
                self.tell_engine(event);
                self.drain();
            }
            let outcome = self.engine.as_ref().map(|engine| engine.role.outcome());
            if let Some(outcome) = outcome {
                self.tell_parent(SourceEvent::OutcomeLearned(outcome));
                self.drain();
            }
        }
    }

    fn drain(&mut self) {
        for _ in 0..HEAL_STEPS_MAX {
            let parent = self.parent.as_ref();
            let engine = self.engine.as_ref();
            if parent.is_some_and(|parent| !parent.todo.is_empty()) {
                self.parent_step();
            } else if parent.is_some_and(|parent| !parent.monitor.is_empty()) {
                self.parent_monitor();
            } else if engine.is_some_and(|engine| !engine.todo.is_empty()) {
                self.engine_step(ContFate::Runs);
            } else if engine.is_some_and(|engine| !engine.monitor.is_empty()) {
                self.engine_monitor();
            } else {
                return;
            }
        }
    }

    /// A copy runs (that no two do is checked in every state). None only if the QEMU that has the
    /// guest died: the source's of an aborted job, the target's after it ran or may have; or if
    /// the user had paused the guest.
    fn end_violation(&self) -> Option<What> {
        let source = self.source_qemu.run.is_live();
        let target = self.target_qemu == TargetQemu::Running;
        let lost_there = self.target_qemu == TargetQemu::Gone && self.ghost.counts_as_arrived;
        let aborted = !matches!(
            self.decision_disk.state,
            DecisionState::Open | DecisionState::Decided(Decision::Committed(_))
        );
        let lost_here = self.source_qemu.gone && aborted;
        if source || target || lost_there || lost_here {
            return None;
        }
        let at_target = self.target_qemu == TargetQemu::Loaded && !aborted;
        let paused_somewhere = self.ghost.pause != Pause::None && (aborted || at_target);
        (!paused_somewhere).then_some(What::NoneRunsAfterHeal)
    }
}
