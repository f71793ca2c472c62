//! The target role: owner of the guest from the commit on, and of the one decision before it.
//!
//! Runs in `receive`, beside the target QEMU and (standalone) the ledger; allocates little, never
//! blocks. It has no clock: deadlines and retries are events. The target QEMU was launched `-S`;
//! nothing but [`TargetCommand::Cont`] ever sets it running.

mod message;

use crate::decision::{
    AbortReason, Arrival, Decision, DecisionRecord, DecisionState, Outcome, Start,
};
use crate::ids::{Fence, Ticket};
use crate::notes::Notes;
use crate::record::TargetRecord;
use crate::state::ArrivalState;

pub use message::{QemuState, TargetCommand, TargetEvent, TargetPhase, TargetStatus};

/// The target role of one job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    ticket: Ticket,
    notes: Notes,
    phase: TargetPhase,
    /// The operator of the target wants it left paused.
    leave_paused: bool,
    start: Start,
    loaded: bool,
    /// Rebuilt from a record: what QEMU does must be looked at.
    recovered: bool,
    /// `cont` was, or may have been, sent by an earlier life of this process.
    may_have_run: bool,
}

type Commands = Vec<TargetCommand>;

impl Target {
    /// A new job, open in the ledger. `notes` go into every record, for the shell's own restart.
    pub fn new(ticket: Ticket, leave_paused: bool, notes: Notes) -> Self {
        Target {
            ticket,
            notes,
            phase: TargetPhase::Preparing,
            leave_paused,
            start: Start::LeavePaused,
            loaded: false,
            recovered: false,
            may_have_run: false,
        }
    }

    /// A job from the ledger's record and, if it got that far, its own, after a restart.
    pub fn recover(
        decision: DecisionRecord,
        arrival: Option<TargetRecord>,
    ) -> (Self, Vec<TargetCommand>) {
        let mut out = Commands::new();
        let (state, notes) = match arrival {
            Some(record) => (record.state, record.notes),
            None => (ArrivalState::Prepared, Notes::default()),
        };
        let mut target = Target::new(decision.ticket, false, notes);
        target.recovered = true;
        target.loaded = true;
        target.may_have_run = state != ArrivalState::Prepared;
        match (decision.state, state) {
            (DecisionState::Open, _) => {
                target.propose(Decision::Aborted(AbortReason::TargetRestarted), &mut out);
            }
            (DecisionState::Decided(Decision::Committed(_)), ArrivalState::Arrived(arrival)) => {
                target.phase = TargetPhase::Arrived(arrival);
            }
            _ => {
                target.phase = TargetPhase::Deciding;
                target.decided(decision, &mut out);
            }
        }
        (target, out)
    }

    /// Where it is.
    pub fn phase(&self) -> TargetPhase {
        self.phase
    }

    /// What it may take over.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// What a source that asks is told now.
    pub fn outcome(&self) -> Outcome {
        let fence = self.ticket.fence;
        match self.phase {
            phase if phase.undecided() => Outcome::Undecided,
            TargetPhase::Arrived(arrival) => Outcome::Committed { fence, arrival },
            TargetPhase::Aborted { fence, reason } => Outcome::Aborted { fence, reason },
            // An aborted guest never gets `cont`; one handed back is told only when it is gone.
            TargetPhase::Destroying { fence, reason } if fence == self.ticket.fence => {
                Outcome::Aborted { fence, reason }
            }
            _ => Outcome::Committed { fence, arrival: Arrival::Pending },
        }
    }

    /// One event in; commands out, to be executed in order before the next event.
    pub fn on(&mut self, event: TargetEvent) -> Vec<TargetCommand> {
        let mut out = Commands::new();
        match event {
            TargetEvent::QemuPrepared => self.qemu_prepared(&mut out),
            TargetEvent::ArrivalPersisted => self.arrival_persisted(&mut out),
            TargetEvent::StreamStarted => self.stream_started(),
            TargetEvent::RootsCompared { matched } => self.roots_compared(matched, &mut out),
            TargetEvent::TailReceived { start } => self.tail_received(start, &mut out),
            TargetEvent::LoadCompleted => self.load_completed(&mut out),
            TargetEvent::LoadFailed => self.give_up(AbortReason::LoadFailed, &mut out),
            TargetEvent::QemuLost => self.qemu_lost(&mut out),
            TargetEvent::LinkLost => self.link_lost(&mut out),
            TargetEvent::PeerViolation => self.give_up(AbortReason::PeerViolation, &mut out),
            TargetEvent::CancelRequested => self.give_up(AbortReason::Cancelled, &mut out),
            TargetEvent::Deadline => self.give_up(AbortReason::Deadline, &mut out),
            TargetEvent::SourceRequestedAbort(reason) => {
                self.source_requested_abort(reason, &mut out);
            }
            TargetEvent::SourceAsked => out.push(TargetCommand::TellSource(self.outcome())),
            TargetEvent::Decided(record) => self.decided(record, &mut out),
            TargetEvent::Resumed => self.resumed(&mut out),
            TargetEvent::ContFailed { never_left_paused } => {
                self.cont_failed(never_left_paused, &mut out);
            }
            TargetEvent::QemuInspected(state) => self.qemu_inspected(state, &mut out),
            TargetEvent::QemuDestroyed => self.qemu_destroyed(&mut out),
            TargetEvent::RetryDue => self.retry(&mut out),
        }
        out
    }

    // Until the decision.

    fn qemu_prepared(&mut self, out: &mut Commands) {
        if self.phase == TargetPhase::Preparing {
            self.persist(ArrivalState::Prepared, out);
        }
    }

    fn arrival_persisted(&mut self, out: &mut Commands) {
        match self.phase {
            TargetPhase::Preparing => {
                self.phase = TargetPhase::Prepared;
                out.push(TargetCommand::AcceptSource);
            }
            TargetPhase::RecordingCont => {
                self.phase = TargetPhase::Starting;
                out.push(TargetCommand::Cont);
                out.push(TargetCommand::TellSource(self.outcome()));
            }
            _ => {}
        }
    }

    fn stream_started(&mut self) {
        if self.phase == TargetPhase::Prepared {
            self.phase = TargetPhase::Receiving;
        }
    }

    fn roots_compared(&mut self, matched: bool, out: &mut Commands) {
        if self.phase != TargetPhase::Receiving {
            return self.give_up(AbortReason::PeerViolation, out);
        }
        if !matched {
            return self.give_up(AbortReason::RootsDiffer, out);
        }
        self.phase = TargetPhase::RootChecked;
    }

    fn tail_received(&mut self, start: Start, out: &mut Commands) {
        if self.phase != TargetPhase::RootChecked {
            return self.give_up(AbortReason::PeerViolation, out);
        }
        self.start = if self.leave_paused { Start::LeavePaused } else { start };
        self.phase = TargetPhase::TailReceived;
    }

    fn load_completed(&mut self, out: &mut Commands) {
        if self.phase != TargetPhase::TailReceived {
            return self.give_up(AbortReason::PeerViolation, out);
        }
        self.loaded = true;
        self.propose(Decision::Committed(self.start), out);
    }

    fn link_lost(&mut self, out: &mut Commands) {
        // With the whole tail here nothing more is needed from the source.
        if self.phase != TargetPhase::TailReceived {
            self.give_up(AbortReason::LinkLost, out);
        }
    }

    fn source_requested_abort(&mut self, reason: AbortReason, out: &mut Commands) {
        if self.phase.undecided() {
            self.give_up(reason, out);
        } else {
            out.push(TargetCommand::TellSource(self.outcome()));
        }
    }

    /// Proposes to abort, unless a proposal is out or the decision has fallen.
    fn give_up(&mut self, reason: AbortReason, out: &mut Commands) {
        if self.phase.receiving() {
            self.propose(Decision::Aborted(reason), out);
        }
    }

    fn propose(&mut self, decision: Decision, out: &mut Commands) {
        self.phase = TargetPhase::Deciding;
        out.push(TargetCommand::Propose(decision));
    }

    // The decision.

    fn decided(&mut self, record: DecisionRecord, out: &mut Commands) {
        if record.ticket != self.ticket {
            return;
        }
        let expected = self.phase.undecided() || self.phase == TargetPhase::HandingBack;
        match record.state {
            _ if !expected => {}
            DecisionState::Open => {}
            DecisionState::Decided(Decision::Committed(start)) => self.committed(start, out),
            DecisionState::Decided(Decision::Aborted(reason)) => {
                self.destroy(self.ticket.fence, reason, out);
                out.push(TargetCommand::TellSource(self.outcome()));
            }
            DecisionState::HandedBack { fence, .. } => {
                self.destroy(fence, AbortReason::HandedBack, out);
            }
        }
    }

    fn committed(&mut self, start: Start, out: &mut Commands) {
        if self.phase == TargetPhase::HandingBack {
            return;
        }
        self.start = start;
        if !self.loaded {
            // Gone since, or somebody else committed a guest that is not complete here.
            self.hand_back(out);
        } else if self.recovered || start == Start::LeavePaused {
            // No `cont` will show whether it is still there.
            self.inspect(out);
        } else {
            self.record_cont(out);
        }
    }

    fn inspect(&mut self, out: &mut Commands) {
        self.phase = TargetPhase::Inspecting;
        out.push(TargetCommand::InspectQemu);
    }

    fn record_cont(&mut self, out: &mut Commands) {
        self.phase = TargetPhase::RecordingCont;
        self.persist(ArrivalState::ContSent, out);
    }

    // The arrival.

    fn resumed(&mut self, out: &mut Commands) {
        if self.phase == TargetPhase::Starting {
            self.arrived(Arrival::Running, out);
        }
    }

    /// Announced and cleaned before the source hears it, because then it lets SHUT(0) through.
    fn arrived(&mut self, arrival: Arrival, out: &mut Commands) {
        self.phase = TargetPhase::Arrived(arrival);
        if arrival == Arrival::Running {
            out.push(TargetCommand::AnnounceSelf);
        }
        if arrival != Arrival::Lost {
            out.push(TargetCommand::RestoreCapabilities);
        }
        if arrival == Arrival::LeftPaused {
            // Left paused it could still be handed back; told, it cannot.
            self.persist(ArrivalState::Arrived(arrival), out);
            out.push(TargetCommand::TellSource(self.outcome()));
        } else {
            out.push(TargetCommand::TellSource(self.outcome()));
            self.persist(ArrivalState::Arrived(arrival), out);
        }
        out.push(TargetCommand::Report(TargetStatus::Arrived(arrival)));
    }

    fn cont_failed(&mut self, never_left_paused: bool, out: &mut Commands) {
        if self.phase != TargetPhase::Starting {
            return;
        }
        if never_left_paused && !self.may_have_run {
            self.hand_back(out);
        } else {
            self.may_have_run = true;
            out.push(TargetCommand::Report(TargetStatus::ContFailed));
        }
    }

    fn qemu_lost(&mut self, out: &mut Commands) {
        match self.phase {
            // Whatever the disk says by now: this process has not sent `cont`, nor did an earlier.
            TargetPhase::RecordingCont => self.hand_back(out),
            TargetPhase::Inspecting => self.qemu_inspected(QemuState::Gone, out),
            TargetPhase::Starting => self.arrived(Arrival::Lost, out),
            _ => self.give_up(AbortReason::TargetLost, out),
        }
        self.loaded = false;
    }

    fn qemu_inspected(&mut self, state: QemuState, out: &mut Commands) {
        if self.phase != TargetPhase::Inspecting {
            return;
        }
        match state {
            QemuState::Running => self.arrived(Arrival::Running, out),
            QemuState::Paused if self.may_have_run => {
                self.phase = TargetPhase::Starting;
                out.push(TargetCommand::Cont);
            }
            QemuState::Paused if self.start == Start::Run => self.record_cont(out),
            QemuState::Paused => self.arrived(Arrival::LeftPaused, out),
            QemuState::Gone if self.may_have_run => self.arrived(Arrival::Lost, out),
            QemuState::Gone => self.hand_back(out),
        }
    }

    fn retry(&mut self, out: &mut Commands) {
        match self.phase {
            TargetPhase::Starting if self.may_have_run => self.inspect(out),
            TargetPhase::Inspecting => self.inspect(out),
            TargetPhase::Destroying { .. } => out.push(TargetCommand::DestroyQemu),
            _ => {}
        }
    }

    // The way back.

    fn hand_back(&mut self, out: &mut Commands) {
        self.phase = TargetPhase::HandingBack;
        out.push(TargetCommand::HandBack);
    }

    fn destroy(&mut self, fence: Fence, reason: AbortReason, out: &mut Commands) {
        self.phase = TargetPhase::Destroying { fence, reason };
        out.push(TargetCommand::DestroyQemu);
    }

    fn qemu_destroyed(&mut self, out: &mut Commands) {
        if let TargetPhase::Destroying { fence, reason } = self.phase {
            self.phase = TargetPhase::Aborted { fence, reason };
            if fence != self.ticket.fence {
                out.push(TargetCommand::TellSource(self.outcome()));
            }
            out.push(TargetCommand::Report(TargetStatus::Aborted { fence, reason }));
        }
    }

    fn persist(&self, state: ArrivalState, out: &mut Commands) {
        let record = TargetRecord { ticket: self.ticket, state, notes: self.notes.clone() };
        out.push(TargetCommand::PersistArrival(record));
    }
}
