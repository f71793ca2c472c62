//! What can happen next, and doing it.

use dwcp_handover::*;

use crate::mutation::Mutation;
use crate::target_host::ContFate;
use crate::world::{Engine, Migration, Parent, Roots, Run, Tail, TargetQemu, Todo, World};

/// One step of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    ParentExecutes,
    ParentMonitor,
    ParentHears(SourceEvent),
    ParentCrashes,
    ParentRestarts,
    ChildDies,
    ChildSendsTail(Start),
    SourceSwitchesOver,
    SourceGuestChanges(Run),
    SourceQemuDies,
    LinkIsCut,
    RootsAreCompared { matched: bool },
    TailArrives(Start),
    EngineExecutes(ContFate),
    EngineMonitor,
    EngineHears(TargetEvent),
    EngineCrashes,
    EngineRestarts,
    TargetQemuLoads,
    TargetQemuFailsToLoad,
    TargetQemuDies,
}

impl Action {
    /// Whether it is one of the bounded faults.
    pub(crate) fn is_fault(self, world: &World) -> bool {
        match self {
            Action::ChildDies => world.parent.is_some(),
            Action::ParentCrashes
            | Action::SourceGuestChanges(_)
            | Action::SourceQemuDies
            | Action::LinkIsCut
            | Action::RootsAreCompared { matched: false }
            | Action::EngineExecutes(ContFate::Refused | ContFate::Unheard)
            | Action::EngineCrashes
            | Action::TargetQemuFailsToLoad
            | Action::TargetQemuDies
            | Action::ParentHears(
                SourceEvent::CancelRequested | SourceEvent::Deadline | SourceEvent::Forced(_),
            )
            | Action::EngineHears(TargetEvent::Deadline) => true,
            _ => false,
        }
    }
}

impl World {
    /// Everything that can happen now.
    pub(crate) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::with_capacity(24);
        self.source_actions(&mut actions);
        self.child_actions(&mut actions);
        self.target_actions(&mut actions);
        self.target_qemu_actions(&mut actions);
        if self.budget.faults == 0 {
            actions.retain(|action| !action.is_fault(self));
        }
        actions
    }

    fn source_actions(&self, actions: &mut Vec<Action>) {
        let Some(parent) = &self.parent else {
            if self.source_disk.as_ref().is_some_and(|record| !record.state.is_settled()) {
                actions.push(Action::ParentRestarts);
            }
            return;
        };
        if !matches!(parent.role.phase(), SourcePhase::Done(_)) || !parent.todo.is_empty() {
            actions.push(Action::ParentCrashes);
        }
        if !parent.todo.is_empty() {
            actions.push(Action::ParentExecutes);
            return;
        }
        if !parent.monitor.is_empty() {
            actions.push(Action::ParentMonitor);
        }
        let mut heard = Vec::with_capacity(12);
        self.child_says(parent, &mut heard);
        self.others_say(parent, &mut heard);
        actions.extend(heard.into_iter().map(Action::ParentHears));
    }

    /// Over the pipe from the child, and its end.
    fn child_says(&self, parent: &Parent, heard: &mut Vec<SourceEvent>) {
        let phase = parent.role.phase();
        if !self.child.alive {
            if !parent.saw_child_died && !matches!(phase, SourcePhase::Done(_)) {
                heard.push(SourceEvent::ChildDied);
            }
            return;
        }
        match phase {
            SourcePhase::Preflight if self.wire.accepted => {
                let run_state = self.source_qemu.run.state();
                heard.push(SourceEvent::ChildReady { run_state });
            }
            SourcePhase::Precopy => heard.push(SourceEvent::StopRequested),
            _ => {}
        }
        if self.wire.cut && !parent.saw_link_lost {
            heard.push(SourceEvent::LinkLost);
        }
        if let (Roots::Compared { matched }, false) = (self.wire.roots, parent.saw_roots) {
            heard.push(if matched { SourceEvent::RootsMatched } else { SourceEvent::RootsDiffer });
        }
        let switched = matches!(self.source_qemu.migration, Migration::Switched { .. });
        if switched && !parent.saw_go_request {
            heard.push(SourceEvent::GoRequested);
        }
    }

    /// The target, the user, the clock.
    fn others_say(&self, parent: &Parent, heard: &mut Vec<SourceEvent>) {
        let phase = parent.role.phase();
        if phase.before_go() || phase.in_doubt() {
            heard.extend(self.wire.answers.iter().copied().map(SourceEvent::OutcomeLearned));
            if self.budget.cancel {
                heard.push(SourceEvent::CancelRequested);
            }
            if self.budget.source_deadline {
                heard.push(SourceEvent::Deadline);
            }
        }
        if self.source_qemu.gone && !parent.saw_guest_lost && !matches!(phase, SourcePhase::Done(_))
        {
            heard.push(SourceEvent::GuestLost);
        }
        if phase.in_doubt() && !self.wire.asked {
            heard.push(SourceEvent::RetryDue);
        }
        if phase.in_doubt() && self.mutation == Mutation::OperatorForcesAbort {
            heard.push(SourceEvent::Forced(Force::Abort));
        }
        if self.mutation == Mutation::SilenceIsAborted && phase.in_doubt() && self.engine.is_none()
        {
            let (fence, reason) = (parent.role.ticket().fence, AbortReason::LinkLost);
            heard.push(SourceEvent::OutcomeLearned(Outcome::Aborted { fence, reason }));
        }
    }

    fn child_actions(&self, actions: &mut Vec<Action>) {
        if self.child.alive {
            actions.push(Action::ChildDies);
            let hasty = self.mutation == Mutation::ChildSendsWithoutGo;
            let go = self.child.go.or(hasty.then_some(Start::Run));
            let switched = matches!(self.source_qemu.migration, Migration::Switched { .. });
            if let Some(start) = go
                && switched
                && !self.wire.cut
                && self.wire.tail == Tail::NotSent
            {
                actions.push(Action::ChildSendsTail(start));
            }
        }
        if self.wire.accepted && !self.wire.cut {
            actions.push(Action::LinkIsCut);
        }
        self.source_qemu_actions(actions);
    }

    fn source_qemu_actions(&self, actions: &mut Vec<Action>) {
        let run = self.source_qemu.run;
        if !self.source_qemu.gone {
            actions.push(Action::SourceQemuDies);
        }
        if self.source_qemu.migration != Migration::Iterating {
            return;
        }
        // `switchover-ack` holds only a guest that runs.
        if self.child.switchover_let || run != Run::Running {
            actions.push(Action::SourceSwitchesOver);
        }
        if self.budget.guest_changes && run == Run::Running {
            actions.push(Action::SourceGuestChanges(Run::Suspended));
            if self.parent.is_some() {
                actions.push(Action::SourceGuestChanges(Run::Paused));
            }
        }
    }

    fn target_actions(&self, actions: &mut Vec<Action>) {
        let Some(engine) = &self.engine else {
            actions.push(Action::EngineRestarts);
            return;
        };
        actions.push(Action::EngineCrashes);
        if let Some(next) = engine.todo.front() {
            actions.push(Action::EngineExecutes(ContFate::Runs));
            if *next == Todo::Command(TargetCommand::Cont) {
                actions.push(Action::EngineExecutes(ContFate::Refused));
                actions.push(Action::EngineExecutes(ContFate::Unheard));
            }
            return;
        }
        if !engine.monitor.is_empty() {
            actions.push(Action::EngineMonitor);
        }
        self.stream_brings(engine, actions);
        let mut heard = Vec::with_capacity(8);
        self.engine_may_hear(engine, &mut heard);
        actions.extend(heard.into_iter().map(Action::EngineHears));
    }

    /// What reaches the engine over the session; after a cut, until it has noticed.
    fn stream_brings(&self, engine: &Engine, actions: &mut Vec<Action>) {
        if engine.saw_link_lost {
            return;
        }
        let switched = matches!(self.source_qemu.migration, Migration::Switched { .. });
        match engine.role.phase() {
            TargetPhase::Prepared if self.source_qemu.migration != Migration::None => {
                actions.push(Action::EngineHears(TargetEvent::StreamStarted));
            }
            TargetPhase::Receiving if switched && self.child.alive && !self.wire.cut => {
                actions.push(Action::RootsAreCompared { matched: true });
                actions.push(Action::RootsAreCompared { matched: false });
            }
            TargetPhase::RootChecked => {
                if let Tail::InFlight(start) = self.wire.tail {
                    actions.push(Action::TailArrives(start));
                }
            }
            _ => {}
        }
        if self.wire.cut {
            actions.push(Action::EngineHears(TargetEvent::LinkLost));
        }
    }

    fn engine_may_hear(&self, engine: &Engine, heard: &mut Vec<TargetEvent>) {
        let outcome = engine.role.outcome();
        let news = !self.wire.answers.contains(&outcome);
        if self.wire.asked && news {
            heard.push(TargetEvent::SourceAsked);
        }
        if self.wire.abort_requested && (news || outcome == Outcome::Undecided) {
            let reason = AbortReason::SourceAsked;
            heard.push(TargetEvent::SourceRequestedAbort(reason));
        }
        if self.target_qemu == TargetQemu::Gone && !engine.saw_qemu_gone {
            heard.push(TargetEvent::QemuLost);
        }
        if self.budget.target_deadline && outcome == Outcome::Undecided {
            heard.push(TargetEvent::Deadline);
        }
        if engine.role.phase() == TargetPhase::Starting && engine.monitor.is_empty() {
            heard.push(TargetEvent::RetryDue);
        }
    }

    fn target_qemu_actions(&self, actions: &mut Vec<Action>) {
        if self.target_qemu == TargetQemu::TailIn {
            actions.push(Action::TargetQemuLoads);
            actions.push(Action::TargetQemuFailsToLoad);
        }
        if self.target_qemu != TargetQemu::Gone {
            actions.push(Action::TargetQemuDies);
        }
    }

    /// Does it.
    pub(crate) fn apply(&mut self, action: Action) {
        if action.is_fault(self) {
            self.budget.spend();
        }
        match action {
            Action::ParentExecutes => self.parent_step(),
            Action::ParentMonitor => self.parent_monitor(),
            Action::ParentHears(event) => {
                match event {
                    SourceEvent::CancelRequested => self.budget.cancel = false,
                    SourceEvent::Deadline => self.budget.source_deadline = false,
                    _ => {}
                }
                self.tell_parent(event);
            }
            Action::ParentCrashes => self.parent_crashes(),
            Action::ParentRestarts => self.restart_parent(),
            Action::ChildDies => self.child_dies(),
            Action::ChildSendsTail(start) => self.wire.tail = Tail::InFlight(start),
            Action::SourceSwitchesOver => self.switch_over(),
            Action::SourceGuestChanges(to) => {
                self.budget.guest_changes = false;
                self.guest_changes(to);
            }
            Action::SourceQemuDies => self.source_qemu_dies(),
            Action::LinkIsCut => self.wire.cut = true,
            Action::RootsAreCompared { matched } => {
                self.wire.roots = Roots::Compared { matched };
                self.tell_engine(TargetEvent::RootsCompared { matched });
            }
            Action::TailArrives(start) => self.tail_arrives(start),
            Action::EngineExecutes(fate) => self.engine_step(fate),
            Action::EngineMonitor => self.engine_monitor(),
            Action::EngineHears(event) => {
                if event == TargetEvent::Deadline {
                    self.budget.target_deadline = false;
                }
                self.tell_engine(event);
            }
            Action::EngineCrashes => self.engine_crashes(),
            Action::EngineRestarts => self.restart_engine(),
            Action::TargetQemuLoads => self.qemu_loads(),
            Action::TargetQemuFailsToLoad => self.qemu_load_fails(),
            Action::TargetQemuDies => self.target_qemu = TargetQemu::Gone,
        }
    }
}
