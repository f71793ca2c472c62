//! The source role: decides alone until GO, obeys the ledger's outcome after it.
//!
//! Runs in the parent process of `send`, which holds the source QEMU's monitor; allocates little,
//! never blocks. It has no clock: deadlines and retries are events. See the crate head for the
//! sequence and `docs/adr/0002-commit.md` for the reasons.

mod message;

use crate::decision::{AbortReason, Arrival, Force, Outcome, RunState};
use crate::ids::Ticket;
use crate::notes::Notes;
use crate::record::SourceRecord;
use crate::state::{Ending, SourceState};

pub use message::{SourceCommand, SourceEvent, SourcePhase, SourceStatus};

/// The source role of one job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    ticket: Ticket,
    notes: Notes,
    phase: SourcePhase,
    /// Last run state that was not our doing; an abort goes back to it.
    run_state: RunState,
    /// Run state that the in-doubt record names.
    recorded: RunState,
    migrating: bool,
    switched_over: bool,
    may_be_stopped: bool,
    roots_matched: bool,
    go_requested: bool,
    guest_lost: bool,
    cancelled: bool,
}

type Commands = Vec<SourceCommand>;

impl Source {
    /// A new job. `notes` go into every record, for the shell's own restart.
    pub fn new(ticket: Ticket, notes: Notes) -> Self {
        Source {
            ticket,
            notes,
            phase: SourcePhase::Preflight,
            run_state: RunState::Running,
            recorded: RunState::Running,
            migrating: false,
            switched_over: false,
            may_be_stopped: false,
            roots_matched: false,
            go_requested: false,
            guest_lost: false,
            cancelled: false,
        }
    }

    /// A job from its record, after parent and child ended: GO is assumed to have left.
    pub fn recover(record: SourceRecord) -> (Self, Vec<SourceCommand>) {
        let SourceRecord { ticket, state, notes } = record;
        let mut source = Source::new(ticket, notes);
        let mut out = Commands::new();
        source.may_be_stopped = true;
        match state {
            SourceState::InDoubt { prior } => {
                source.run_state = prior;
                source.phase = SourcePhase::Resolving;
                out.push(SourceCommand::AskOutcome);
            }
            SourceState::Forced { force, prior } => {
                source.run_state = prior;
                source.obey_force(force, &mut out);
            }
            SourceState::Settled(ending) => source.phase = SourcePhase::Done(ending),
        }
        (source, out)
    }

    /// Where it is.
    pub fn phase(&self) -> SourcePhase {
        self.phase
    }

    /// What it may hand over.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The guest's run state before our stop; an abort goes back to it.
    pub fn prior_run_state(&self) -> RunState {
        self.run_state
    }

    /// One event in; commands out, to be executed in order before the next event.
    pub fn on(&mut self, event: SourceEvent) -> Vec<SourceCommand> {
        let mut out = Commands::new();
        match event {
            SourceEvent::ChildReady { run_state } => self.child_ready(run_state, &mut out),
            SourceEvent::RunStateChanged(state) => self.run_state_changed(state, &mut out),
            SourceEvent::StopRequested => self.stop_requested(&mut out),
            SourceEvent::InDoubtPersisted => self.in_doubt_persisted(&mut out),
            SourceEvent::GuestStopped { prior } => self.guest_stopped(prior, &mut out),
            SourceEvent::StopFailed => self.stop_failed(&mut out),
            SourceEvent::SwitchoverBegan => self.switchover_began(&mut out),
            SourceEvent::RootsMatched => self.roots_matched(&mut out),
            SourceEvent::RootsDiffer => self.abort_before_go(AbortReason::RootsDiffer, &mut out),
            SourceEvent::GoRequested => self.go_requested(&mut out),
            SourceEvent::ChildDied => self.path_broken(AbortReason::ChildDied, &mut out),
            SourceEvent::LinkLost => self.path_broken(AbortReason::LinkLost, &mut out),
            SourceEvent::MigrationFailed => {
                self.path_broken(AbortReason::MigrationFailed, &mut out);
            }
            SourceEvent::GuestLost => self.guest_lost(&mut out),
            SourceEvent::OutcomeLearned(outcome) => self.learn(outcome, &mut out),
            SourceEvent::LedgerUnreachable => {
                self.report_in_doubt(SourceStatus::LedgerUnreachable, &mut out);
            }
            SourceEvent::CancelRequested => self.cancel_requested(&mut out),
            SourceEvent::Deadline => self.time_is_up(AbortReason::Deadline, &mut out),
            SourceEvent::PauseTimeout => self.pause_timeout(&mut out),
            SourceEvent::RetryDue => self.retry(&mut out),
            SourceEvent::GuestResumed => self.guest_resumed(&mut out),
            SourceEvent::ResumeFailed => self.resume_failed(&mut out),
            SourceEvent::Forced(force) => self.forced(force, &mut out),
            SourceEvent::ForcePersisted => self.force_persisted(&mut out),
        }
        out
    }

    // Until the stop.

    fn child_ready(&mut self, run_state: RunState, out: &mut Commands) {
        if self.phase != SourcePhase::Preflight {
            return;
        }
        self.run_state = run_state;
        self.phase = SourcePhase::Precopy;
        if run_state == RunState::Running {
            self.migrating = true;
            out.push(SourceCommand::StartMigration);
        } else {
            // `switchover-ack` does not hold such a guest: it is stopped before QEMU migrates.
            self.begin_stop(out);
        }
    }

    fn stop_requested(&mut self, out: &mut Commands) {
        if self.phase == SourcePhase::Precopy {
            self.begin_stop(out);
        }
    }

    /// The record goes first: no crash can leave a guest stopped by us and nobody who knows it,
    /// and its fsync costs no downtime.
    fn begin_stop(&mut self, out: &mut Commands) {
        self.phase = SourcePhase::Recording;
        self.persist_in_doubt(out);
    }

    fn persist_in_doubt(&mut self, out: &mut Commands) {
        self.recorded = self.run_state;
        let record = self.record(SourceState::InDoubt { prior: self.run_state });
        out.push(SourceCommand::PersistInDoubt(record));
    }

    fn run_state_changed(&mut self, state: RunState, out: &mut Commands) {
        match self.phase {
            SourcePhase::Precopy => {
                self.run_state = state;
                // A guest that does not run switches over without being held: stop it now.
                if state != RunState::Running {
                    self.begin_stop(out);
                }
            }
            SourcePhase::Recording | SourcePhase::Stopping => self.run_state = state,
            SourcePhase::Amending | SourcePhase::Stopped if state.is_live() => {
                self.abort(AbortReason::Interference, out);
            }
            phase if phase.in_doubt() && state.is_live() => {
                out.push(SourceCommand::StopGuest);
                out.push(SourceCommand::Report(SourceStatus::Interference));
            }
            // It ran after all, and somebody else paused it: an abort leaves it so.
            phase if phase.in_doubt() => self.run_state = state,
            _ => {}
        }
    }

    fn switchover_began(&mut self, out: &mut Commands) {
        match self.phase {
            SourcePhase::Precopy | SourcePhase::Recording | SourcePhase::Stopping => {
                self.switched_over = true;
                if self.run_state.is_live() {
                    // QEMU saved a live state and would restart it after any break.
                    self.may_be_stopped = true;
                    self.abort(AbortReason::EarlySwitchover, out);
                }
            }
            _ => {}
        }
    }

    fn in_doubt_persisted(&mut self, out: &mut Commands) {
        match self.phase {
            SourcePhase::Recording if self.switched_over => self.settle_stop(out),
            SourcePhase::Recording => {
                self.phase = SourcePhase::Stopping;
                self.may_be_stopped = true;
                out.push(SourceCommand::StopGuest);
            }
            SourcePhase::Amending => self.settle_stop(out),
            _ => {}
        }
    }

    fn guest_stopped(&mut self, prior: RunState, out: &mut Commands) {
        if self.phase == SourcePhase::Stopping {
            self.run_state = prior;
            self.settle_stop(out);
        }
    }

    fn stop_failed(&mut self, out: &mut Commands) {
        if self.phase == SourcePhase::Stopping {
            self.abort(AbortReason::StopFailed, out);
        }
    }

    /// Stopped; go on once the record names the right run state.
    fn settle_stop(&mut self, out: &mut Commands) {
        if self.recorded != self.run_state {
            self.phase = SourcePhase::Amending;
            self.persist_in_doubt(out);
            return;
        }
        self.phase = SourcePhase::Stopped;
        if !self.migrating {
            self.migrating = true;
            out.push(SourceCommand::StartMigration);
        }
        out.push(SourceCommand::LetSwitchover);
        self.grant_go_if_due(out);
    }

    // GO.

    fn roots_matched(&mut self, out: &mut Commands) {
        self.roots_matched = true;
        self.grant_go_if_due(out);
    }

    fn go_requested(&mut self, out: &mut Commands) {
        self.go_requested = true;
        if self.phase.before_go() {
            self.grant_go_if_due(out);
        } else if !self.phase.in_doubt() {
            out.push(SourceCommand::RefuseGo);
        }
    }

    fn grant_go_if_due(&mut self, out: &mut Commands) {
        if self.phase == SourcePhase::Stopped && self.roots_matched && self.go_requested {
            self.phase = SourcePhase::GoGranted;
            out.push(SourceCommand::GrantGo { start: self.run_state.start() });
        }
    }

    // Failures before GO.

    fn abort_before_go(&mut self, reason: AbortReason, out: &mut Commands) {
        if self.phase.before_go() {
            self.abort(reason, out);
        }
    }

    /// The source decides alone: resume first, tell the target afterwards.
    fn abort(&mut self, reason: AbortReason, out: &mut Commands) {
        debug_assert!(self.phase.before_go());
        if self.go_requested {
            out.push(SourceCommand::RefuseGo);
        }
        let ending = Ending::Aborted { fence: self.ticket.fence, reason };
        self.take_back(ending, Some(SourceCommand::RequestAbort(reason)), out);
    }

    /// Ends with the guest at the source, running again if it was before our stop.
    fn take_back(&mut self, ending: Ending, tell: Option<SourceCommand>, out: &mut Commands) {
        out.push(SourceCommand::AbortMigration);
        let resume = self.may_be_stopped && self.run_state.is_live() && !self.guest_lost;
        if resume {
            out.push(SourceCommand::ResumeGuest { to: self.run_state });
        }
        out.extend(tell);
        if resume {
            self.phase = SourcePhase::Resuming(ending);
        } else {
            self.finish(ending, out);
        }
    }

    fn path_broken(&mut self, reason: AbortReason, out: &mut Commands) {
        if self.phase == SourcePhase::GoGranted {
            self.phase = SourcePhase::Resolving;
            out.push(SourceCommand::AskOutcome);
        } else {
            self.abort_before_go(reason, out);
        }
    }

    fn guest_lost(&mut self, out: &mut Commands) {
        self.guest_lost = true;
        if !matches!(self.phase, SourcePhase::Done(_)) {
            out.push(SourceCommand::Report(SourceStatus::GuestLost));
        }
        if let SourcePhase::Resuming(ending) = self.phase {
            self.finish(ending, out);
        } else {
            self.path_broken(AbortReason::SourceLost, out);
        }
    }

    fn cancel_requested(&mut self, out: &mut Commands) {
        self.abort_before_go(AbortReason::Cancelled, out);
        if self.phase.in_doubt() {
            let again = std::mem::replace(&mut self.cancelled, true);
            let status =
                if again { SourceStatus::ShowResolve } else { SourceStatus::WaitingForOutcome };
            out.push(SourceCommand::Report(status));
        }
    }

    fn pause_timeout(&mut self, out: &mut Commands) {
        if self.may_be_stopped {
            self.time_is_up(AbortReason::PauseTimeout, out);
        }
    }

    /// Before GO time decides; after GO it only makes `aborted` race for the one decision.
    fn time_is_up(&mut self, reason: AbortReason, out: &mut Commands) {
        if self.phase.in_doubt() {
            self.race_for_abort(reason, out);
        } else {
            self.abort_before_go(reason, out);
        }
    }

    /// With the source QEMU gone the target's may be the only copy: then it is left to decide.
    fn race_for_abort(&self, reason: AbortReason, out: &mut Commands) {
        if !self.guest_lost {
            out.push(SourceCommand::RequestAbort(reason));
        }
    }

    // After GO.

    fn learn(&mut self, outcome: Outcome, out: &mut Commands) {
        if self.phase.before_go() {
            self.learn_before_go(outcome, out);
        } else if self.phase.in_doubt() {
            self.learn_in_doubt(outcome, out);
        }
    }

    fn learn_before_go(&mut self, outcome: Outcome, out: &mut Commands) {
        match outcome {
            Outcome::Aborted { fence, reason } if fence == self.ticket.fence => {
                self.abort(reason, out);
            }
            // It cannot have the last slice: whatever it claims, it cannot complete.
            Outcome::Committed { .. } => self.abort(AbortReason::PeerViolation, out),
            Outcome::Aborted { .. } => {
                out.push(SourceCommand::Report(SourceStatus::ForeignOutcome));
            }
            Outcome::Undecided | Outcome::Unknown => {}
        }
    }

    fn learn_in_doubt(&mut self, outcome: Outcome, out: &mut Commands) {
        if !self.is_ours(outcome) {
            out.push(SourceCommand::Report(SourceStatus::ForeignOutcome));
            return;
        }
        match (outcome, Ending::of(outcome)) {
            (_, Some(ending @ Ending::Completed(_))) => {
                out.push(SourceCommand::ReleaseShut);
                self.finish(ending, out);
            }
            (_, Some(ending)) => self.take_back(ending, None, out),
            (Outcome::Undecided, None) if self.phase == SourcePhase::GoGranted => {}
            (Outcome::Undecided, None) => self.race_for_abort(AbortReason::SourceAsked, out),
            (Outcome::Committed { arrival: Arrival::Lost, .. }, None) => {
                out.push(SourceCommand::Report(SourceStatus::TargetLost));
            }
            (Outcome::Committed { .. }, None) => {
                out.push(SourceCommand::Report(SourceStatus::Committed));
            }
            (_, None) => out.push(SourceCommand::Report(SourceStatus::JobUnknown)),
        }
    }

    /// An outcome counts for our own fence; a higher one only as the target's hand-back.
    fn is_ours(&self, outcome: Outcome) -> bool {
        let own = self.ticket.fence;
        match outcome {
            Outcome::Undecided | Outcome::Unknown => true,
            Outcome::Committed { fence, .. } => fence == own,
            Outcome::Aborted { fence, reason: AbortReason::HandedBack } => fence >= own,
            Outcome::Aborted { fence, .. } => fence == own,
        }
    }

    fn report_in_doubt(&mut self, status: SourceStatus, out: &mut Commands) {
        if self.phase.in_doubt() {
            out.push(SourceCommand::Report(status));
        }
    }

    fn retry(&mut self, out: &mut Commands) {
        match self.phase {
            SourcePhase::GoGranted | SourcePhase::Resolving => {
                out.push(SourceCommand::AskOutcome);
            }
            SourcePhase::Resuming(_) => {
                out.push(SourceCommand::ResumeGuest { to: self.run_state });
            }
            _ => {}
        }
    }

    fn guest_resumed(&mut self, out: &mut Commands) {
        if let SourcePhase::Resuming(ending) = self.phase {
            self.finish(ending, out);
        }
    }

    fn resume_failed(&mut self, out: &mut Commands) {
        if matches!(self.phase, SourcePhase::Resuming(_)) {
            out.push(SourceCommand::Report(SourceStatus::ResumeFailed));
        }
    }

    // The operator.

    fn forced(&mut self, force: Force, out: &mut Commands) {
        match (self.phase, force) {
            (phase, Force::Abort) if phase.before_go() => self.abort(AbortReason::Cancelled, out),
            (SourcePhase::GoGranted | SourcePhase::Resolving, force) => {
                self.phase = SourcePhase::Forcing(force);
                let record = self.record(SourceState::Forced { force, prior: self.run_state });
                out.push(SourceCommand::PersistForced(record));
            }
            _ => out.push(SourceCommand::Report(SourceStatus::ForceRefused)),
        }
    }

    fn force_persisted(&mut self, out: &mut Commands) {
        if let SourcePhase::Forcing(force) = self.phase {
            self.obey_force(force, out);
        }
    }

    fn obey_force(&mut self, force: Force, out: &mut Commands) {
        match force {
            Force::Abort => self.take_back(Ending::Forced(force), None, out),
            Force::Commit => self.finish(Ending::Forced(force), out),
        }
    }

    // The end.

    fn finish(&mut self, ending: Ending, out: &mut Commands) {
        self.phase = SourcePhase::Done(ending);
        let record = self.record(SourceState::Settled(ending));
        out.push(SourceCommand::RestoreCapabilities);
        out.push(SourceCommand::PersistSettled(record));
        out.push(SourceCommand::Report(SourceStatus::Ended(ending)));
    }

    fn record(&self, state: SourceState) -> SourceRecord {
        SourceRecord { ticket: self.ticket, state, notes: self.notes.clone() }
    }
}
