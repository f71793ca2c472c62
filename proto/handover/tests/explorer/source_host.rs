//! The shell of the source: parent, child and the source QEMU's monitor.

use dwcp_handover::*;

use crate::invariants::What;
use crate::mutation::Mutation;
use crate::world::{Migration, Parent, Pause, Run, SourceQemu, World};

impl World {
    /// Gives the parent an event; its commands are done later, one step each.
    pub(crate) fn tell_parent(&mut self, event: SourceEvent) {
        let Some(parent) = &mut self.parent else { return };
        let phase = parent.role.phase();
        let in_doubt = phase.in_doubt();
        let may_heed = phase.before_go() || in_doubt;
        match event {
            SourceEvent::ChildDied => parent.saw_child_died = true,
            SourceEvent::LinkLost => parent.saw_link_lost = true,
            SourceEvent::RootsMatched | SourceEvent::RootsDiffer => parent.saw_roots = true,
            SourceEvent::GoRequested => parent.saw_go_request = true,
            SourceEvent::GuestLost => parent.saw_guest_lost = true,
            SourceEvent::RunStateChanged(RunState::Paused)
            | SourceEvent::GuestStopped { prior: RunState::Paused }
                if may_heed && self.ghost.pause == Pause::Unheard =>
            {
                self.ghost.pause = Pause::Heard;
            }
            _ => {}
        }
        let commands = parent.role.on(event);
        parent.todo.extend(commands.into_iter().filter(is_visible));
        let loss = matches!(event, SourceEvent::LinkLost | SourceEvent::ChildDied);
        let bug = match self.mutation {
            Mutation::ResumeOnLossAfterGo => in_doubt && loss,
            Mutation::DeadlineDecides => in_doubt && event == SourceEvent::Deadline,
            _ => false,
        };
        if bug {
            self.resume_anyway();
        }
    }

    /// What a wrong shell does instead of waiting for the outcome.
    fn resume_anyway(&mut self) {
        let Some(parent) = &mut self.parent else { return };
        parent.todo.push_back(SourceCommand::AbortMigration);
        parent.todo.push_back(SourceCommand::ResumeGuest { to: RunState::Running });
    }

    pub(crate) fn parent_monitor(&mut self) {
        let next = self.parent.as_mut().and_then(|parent| parent.monitor.pop_front());
        if let Some(event) = next {
            self.tell_parent(event);
        }
    }

    pub(crate) fn parent_step(&mut self) {
        let next = self.parent.as_mut().and_then(|parent| parent.todo.pop_front());
        if let Some(command) = next {
            self.source_executes(command);
        }
    }

    fn source_executes(&mut self, command: SourceCommand) {
        match command {
            SourceCommand::StartMigration => self.start_migration(),
            SourceCommand::PersistInDoubt(record) => {
                if self.mutation != Mutation::SkipInDoubtRecord {
                    self.source_disk = Some(record);
                }
                self.monitor_says(SourceEvent::InDoubtPersisted);
            }
            SourceCommand::PersistForced(record) => {
                self.source_disk = Some(record);
                self.monitor_says(SourceEvent::ForcePersisted);
            }
            SourceCommand::PersistSettled(record) => self.source_disk = Some(record),
            SourceCommand::StopGuest => self.stop_guest(),
            SourceCommand::LetSwitchover => self.child.switchover_let = self.child.alive,
            SourceCommand::GrantGo { start } => self.child.go = self.child.alive.then_some(start),
            SourceCommand::AbortMigration => {
                if self.mutation != Mutation::ResumeWithOpenSockets {
                    self.child_dies();
                }
            }
            SourceCommand::ResumeGuest { .. } => self.resume_guest(),
            SourceCommand::AskOutcome => self.wire.asked = true,
            SourceCommand::RequestAbort(_) => self.wire.abort_requested = true,
            SourceCommand::ReleaseShut => self.release_shut(),
            SourceCommand::Report(SourceStatus::Committed) => {
                if self.mutation == Mutation::ShutBeforeResume {
                    self.release_shut();
                }
            }
            SourceCommand::RefuseGo
            | SourceCommand::RestoreCapabilities
            | SourceCommand::Report(_) => {}
        }
    }

    fn monitor_says(&mut self, event: SourceEvent) {
        if let Some(parent) = &mut self.parent {
            parent.monitor.push_back(event);
        }
    }

    fn start_migration(&mut self) {
        if self.source_qemu.gone {
            return;
        }
        self.source_qemu.migration = Migration::Iterating;
        if !self.child.alive {
            // Nobody listens on the socket.
            self.child_dies();
        }
    }

    fn stop_guest(&mut self) {
        if self.source_qemu.gone {
            return self.monitor_says(SourceEvent::StopFailed);
        }
        let prior = self.source_qemu.run.state();
        if self.mutation != Mutation::SkipStop {
            self.source_qemu.run = Run::Paused;
        }
        self.monitor_says(SourceEvent::GuestStopped { prior });
    }

    fn resume_guest(&mut self) {
        if self.source_qemu.gone {
            return self.monitor_says(SourceEvent::ResumeFailed);
        }
        match self.source_qemu.migration {
            Migration::Switched { .. } => self.violate(What::ResumeDuringMigration),
            Migration::Completed => self.violate(What::ResumeAfterShut),
            _ => {}
        }
        self.source_qemu.run = Run::Running;
        self.monitor_says(SourceEvent::GuestResumed);
    }

    fn release_shut(&mut self) {
        let arrived = self.arrival_disk.as_ref().map(|record| record.state);
        let left_paused = arrived == Some(ArrivalState::Arrived(Arrival::LeftPaused));
        if !self.ghost.ran_at_target && !left_paused {
            self.violate(What::ShutBeforeArrival);
        }
        if self.child.alive && matches!(self.source_qemu.migration, Migration::Switched { .. }) {
            self.source_qemu.migration = Migration::Completed;
        }
    }

    /// The child ends; with it both its connections.
    pub(crate) fn child_dies(&mut self) {
        self.child.alive = false;
        self.wire.cut = true;
        if self.source_qemu.break_path() {
            self.monitor_says(SourceEvent::MigrationFailed);
        }
    }

    /// The source QEMU leaves its iterations and saves the run state it finds.
    pub(crate) fn switch_over(&mut self) {
        self.source_qemu.migration = Migration::Switched { saved: self.source_qemu.run };
        self.source_qemu.run = Run::Paused;
        self.monitor_says(SourceEvent::SwitchoverBegan);
    }

    /// The guest suspends, or another client pauses it.
    pub(crate) fn guest_changes(&mut self, to: Run) {
        self.source_qemu.run = to;
        if to == Run::Paused {
            self.ghost.pause = Pause::Unheard;
        }
        self.monitor_says(SourceEvent::RunStateChanged(to.state()));
    }

    pub(crate) fn source_qemu_dies(&mut self) {
        self.source_qemu =
            SourceQemu { gone: true, run: Run::Paused, migration: Migration::Failed };
    }

    /// From the record alone a restarted parent cannot tell our stop from a pause by another
    /// client: it goes by the record.
    pub(crate) fn parent_crashes(&mut self) {
        self.parent = None;
        if self.ghost.pause == Pause::Heard {
            self.ghost.pause = Pause::Unheard;
        }
    }

    pub(crate) fn restart_parent(&mut self) {
        let Some(record) = self.source_disk.clone() else { return };
        let (role, commands) = Source::recover(record);
        let visible = commands.into_iter().filter(is_visible).collect();
        self.parent = Some(Parent::new(role, visible));
        if self.mutation == Mutation::RestartAssumesNoGo {
            self.resume_anyway();
        }
    }
}

/// Commands without effect on this model are not worth a step.
fn is_visible(command: &SourceCommand) -> bool {
    match command {
        SourceCommand::RefuseGo | SourceCommand::RestoreCapabilities => false,
        SourceCommand::Report(status) => *status == SourceStatus::Committed,
        _ => true,
    }
}
