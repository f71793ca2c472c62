//! The shell of the target: engine, ledger file and the target QEMU's monitor.

use std::collections::VecDeque;

use dwcp_handover::*;

use crate::invariants::What;
use crate::mutation::Mutation;
use crate::world::{Engine, TICKET, Tail, TargetQemu, Todo, World};

impl Engine {
    fn ledger(&self) -> Ledger {
        let ledger = Ledger::recover(TICKET.fence.incarnation, [self.decision]);
        ledger.expect("one record cannot contradict itself")
    }
}

/// How a `cont` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ContFate {
    Runs,
    /// Refused, e.g. by an image lock; the guest stays paused.
    Refused,
    /// It runs, but the monitor broke before anyone heard.
    Unheard,
}

impl World {
    pub(crate) fn start_engine(&mut self, role: Target, commands: Vec<TargetCommand>) {
        self.engine = Some(Engine {
            role,
            decision: self.decision_disk,
            todo: VecDeque::new(),
            monitor: VecDeque::new(),
            saw_link_lost: false,
            saw_qemu_gone: false,
        });
        self.queue(commands);
    }

    pub(crate) fn restart_engine(&mut self) {
        let (role, mut commands) = Target::recover(self.decision_disk, self.arrival_disk.clone());
        if self.mutation == Mutation::RestartForgetsToDecide {
            commands.retain(|command| !matches!(command, TargetCommand::Propose(_)));
        }
        self.start_engine(role, commands);
    }

    pub(crate) fn tell_engine(&mut self, event: TargetEvent) {
        let Some(engine) = &mut self.engine else { return };
        match event {
            TargetEvent::LinkLost => engine.saw_link_lost = true,
            TargetEvent::QemuLost => engine.saw_qemu_gone = true,
            _ => {}
        }
        if let (Mutation::DecideTwice, TargetEvent::SourceRequestedAbort(reason)) =
            (self.mutation, event)
        {
            return self.abort_whatever_was_decided(reason);
        }
        let starting = engine.role.phase() == TargetPhase::Starting;
        let event = match event {
            TargetEvent::QemuLost if starting && self.mutation == Mutation::HandBackAfterCont => {
                TargetEvent::ContFailed { never_left_paused: true }
            }
            event => event,
        };
        let commands = engine.role.on(event);
        self.queue(commands);
    }

    fn queue(&mut self, commands: Vec<TargetCommand>) {
        let Some(engine) = &mut self.engine else { return };
        for command in commands {
            match command {
                TargetCommand::AnnounceSelf
                | TargetCommand::RestoreCapabilities
                | TargetCommand::Report(_) => {}
                TargetCommand::Propose(Decision::Committed(_))
                    if self.mutation == Mutation::ContBeforeDecision =>
                {
                    engine.todo.push_back(Todo::Command(TargetCommand::Cont));
                    engine.todo.push_back(Todo::Command(command));
                }
                TargetCommand::PersistArrival(ref record)
                    if self.mutation == Mutation::ContBeforeRecord
                        && record.state == ArrivalState::ContSent =>
                {
                    engine.todo.push_back(Todo::Command(TargetCommand::Cont));
                    engine.todo.push_back(Todo::Command(command));
                }
                command => engine.todo.push_back(Todo::Command(command)),
            }
        }
    }

    pub(crate) fn engine_monitor(&mut self) {
        let next = self.engine.as_mut().and_then(|engine| engine.monitor.pop_front());
        if let Some(event) = next {
            self.tell_engine(event);
        }
    }

    pub(crate) fn engine_step(&mut self, cont: ContFate) {
        let next = self.engine.as_mut().and_then(|engine| engine.todo.pop_front());
        match next {
            Some(Todo::Command(TargetCommand::Cont)) => self.cont(cont),
            Some(Todo::Command(command)) => self.target_executes(command),
            Some(Todo::LateWrite(record)) => self.write_decision(record),
            None => {}
        }
    }

    fn target_executes(&mut self, command: TargetCommand) {
        match command {
            TargetCommand::PersistArrival(record) => {
                self.ghost.counts_as_arrived |= record.state == ArrivalState::ContSent;
                self.arrival_disk = Some(record);
                self.engine_hears(TargetEvent::ArrivalPersisted);
            }
            TargetCommand::AcceptSource => self.wire.accepted = true,
            TargetCommand::Propose(decision) => self.propose(decision),
            TargetCommand::HandBack => self.hand_back(),
            TargetCommand::TellSource(outcome) => {
                self.wire.answers.insert(outcome);
            }
            TargetCommand::InspectQemu => {
                let state = match self.target_qemu {
                    TargetQemu::Running => QemuState::Running,
                    TargetQemu::Loaded => {
                        self.ghost.counts_as_arrived = true;
                        QemuState::Paused
                    }
                    TargetQemu::Incoming | TargetQemu::TailIn | TargetQemu::Gone => QemuState::Gone,
                };
                self.engine_hears(TargetEvent::QemuInspected(state));
            }
            TargetCommand::DestroyQemu => self.destroy_qemu(),
            TargetCommand::Cont
            | TargetCommand::AnnounceSelf
            | TargetCommand::RestoreCapabilities
            | TargetCommand::Report(_) => {}
        }
    }

    fn engine_hears(&mut self, event: TargetEvent) {
        if let Some(engine) = &mut self.engine {
            engine.monitor.push_back(event);
        }
    }

    fn propose(&mut self, decision: Decision) {
        let Some(engine) = &mut self.engine else { return };
        let mut ledger = engine.ledger();
        let staged = ledger.propose(TICKET.job, decision).expect("the job is known");
        let write = staged.to_persist().copied();
        let record = staged.confirm();
        engine.decision = record;
        match write {
            Some(record) if self.mutation == Mutation::TellBeforeDurable => {
                engine.todo.push_back(Todo::LateWrite(record));
                // Told by the shell itself as soon as it knows.
                let outcome = match decision {
                    Decision::Committed(_) => {
                        Outcome::Committed { fence: TICKET.fence, arrival: Arrival::Pending }
                    }
                    Decision::Aborted(reason) => Outcome::Aborted { fence: TICKET.fence, reason },
                };
                self.wire.answers.insert(outcome);
            }
            Some(record) => self.write_decision(record),
            None => {}
        }
        self.engine_hears(TargetEvent::Decided(record));
    }

    /// What a ledger without compare-and-set does.
    fn abort_whatever_was_decided(&mut self, reason: AbortReason) {
        let state = DecisionState::Decided(Decision::Aborted(reason));
        let record = DecisionRecord { ticket: TICKET, state };
        self.write_decision(record);
        self.engine_hears(TargetEvent::Decided(record));
        self.wire.answers.insert(Outcome::Aborted { fence: TICKET.fence, reason });
    }

    fn hand_back(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let mut ledger = engine.ledger();
        let record = ledger.hand_back(TICKET.job).expect("committed by this target").confirm();
        engine.decision = record;
        self.write_decision(record);
        self.engine_hears(TargetEvent::Decided(record));
    }

    fn write_decision(&mut self, record: DecisionRecord) {
        let old = self.decision_disk.state;
        let allowed = match (old, record.state) {
            (DecisionState::Open, DecisionState::Decided(_)) => true,
            (DecisionState::Decided(Decision::Committed(_)), DecisionState::HandedBack { .. }) => {
                true
            }
            (old, new) => old == new,
        };
        if !allowed {
            self.violate(What::DecidedTwice);
        }
        self.decision_disk = record;
    }

    fn cont(&mut self, fate: ContFate) {
        match (self.target_qemu, fate) {
            (TargetQemu::Incoming | TargetQemu::TailIn, _) => self.violate(What::ContBeforeLoaded),
            (TargetQemu::Gone, _) => {}
            (TargetQemu::Loaded, ContFate::Refused) => {
                self.engine_hears(TargetEvent::ContFailed { never_left_paused: true });
            }
            (TargetQemu::Loaded | TargetQemu::Running, ContFate::Unheard) => {
                self.guest_runs();
                self.engine_hears(TargetEvent::ContFailed { never_left_paused: false });
            }
            (TargetQemu::Loaded | TargetQemu::Running, _) => {
                self.guest_runs();
                self.engine_hears(TargetEvent::Resumed);
            }
        }
    }

    fn guest_runs(&mut self) {
        self.target_qemu = TargetQemu::Running;
        self.ghost.ran_at_target = true;
    }

    fn destroy_qemu(&mut self) {
        if self.target_qemu == TargetQemu::Running {
            self.violate(What::RunningGuestDestroyed);
        }
        self.target_qemu = TargetQemu::Gone;
        if let Some(engine) = &mut self.engine {
            engine.saw_qemu_gone = true;
        }
        self.engine_hears(TargetEvent::QemuDestroyed);
    }

    /// The last slice reaches the target QEMU.
    pub(crate) fn tail_arrives(&mut self, start: Start) {
        self.wire.tail = Tail::Delivered;
        if self.target_qemu == TargetQemu::Incoming {
            self.target_qemu = TargetQemu::TailIn;
        }
        self.tell_engine(TargetEvent::TailReceived { start });
    }

    pub(crate) fn qemu_loads(&mut self) {
        self.target_qemu = TargetQemu::Loaded;
        if self.mutation == Mutation::LaunchWithoutS {
            self.guest_runs();
        }
        self.engine_hears(TargetEvent::LoadCompleted);
    }

    pub(crate) fn qemu_load_fails(&mut self) {
        self.target_qemu = TargetQemu::Gone;
        self.engine_hears(TargetEvent::LoadFailed);
    }

    /// The engine's process ends; its connections with it.
    pub(crate) fn engine_crashes(&mut self) {
        self.engine = None;
        self.wire.cut = true;
        if matches!(self.wire.tail, Tail::InFlight(_)) {
            self.wire.tail = Tail::Delivered;
        }
    }
}
