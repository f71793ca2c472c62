//! The source host: QEMU, the parent with the production role, its child, its disk.

use std::collections::VecDeque;

use dwcp_handover::{
    Record, Source, SourceCommand, SourceEvent, SourcePhase, SourceRecord, Ticket,
};

use super::child::Child;
use super::guest::{Memory, SourceQemu};
use super::{Mail, PAUSE_TIMEOUT_NS, RETRY_NS};
use crate::Broken;

pub(super) struct Parent {
    pub(super) role: Source,
    pub(super) todo: VecDeque<SourceCommand>,
    pub(super) inbox: VecDeque<SourceEvent>,
    pub(super) ready_at_ns: u64,
    pub(super) retry_at_ns: u64,
    pub(super) pause_over_at_ns: Option<u64>,
    /// Set when the child's end was told.
    saw_child_died: bool,
}

impl Parent {
    fn new(role: Source, todo: Vec<SourceCommand>, now: u64) -> Self {
        Self {
            role,
            todo: todo.into(),
            inbox: VecDeque::new(),
            ready_at_ns: now,
            retry_at_ns: now + RETRY_NS,
            pause_over_at_ns: None,
            saw_child_died: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.todo.is_empty() && matches!(self.role.phase(), SourcePhase::Done(_))
    }
}

pub(super) struct SourceHost {
    pub(super) qemu: SourceQemu,
    pub(super) parent: Option<Parent>,
    pub(super) child: Option<Child>,
    pub(super) disk: Option<Vec<u8>>,
    /// Memory at our stop: what has to be on the target.
    pub(super) at_stop: Option<Memory>,
    pub(super) restarts_at_ns: Option<u64>,
}

impl SourceHost {
    pub(super) fn new(qemu: SourceQemu, ticket: Ticket, child: Child) -> Self {
        let role = Source::new(ticket, dwcp_handover::Notes::default());
        Self {
            qemu,
            parent: Some(Parent::new(role, Vec::new(), 0)),
            child: Some(child),
            disk: None,
            at_stop: None,
            restarts_at_ns: None,
        }
    }

    pub(super) fn tell(&mut self, event: SourceEvent) {
        if let Some(parent) = &mut self.parent {
            parent.inbox.push_back(event);
        }
    }

    fn record(&self) -> Result<Option<SourceRecord>, Broken> {
        let read = self.disk.as_ref().map(|bytes| SourceRecord::decode(bytes));
        read.transpose().map_err(|error| format!("source record: {error}"))
    }

    /// Whether nothing is left to do here.
    pub(super) fn is_over(&self) -> Result<bool, Broken> {
        if let Some(parent) = &self.parent {
            return Ok(parent.is_done());
        }
        Ok(self.record()?.is_none_or(|record| record.state.is_settled()))
    }

    /// kill -9 of the parent; its child ends with it.
    pub(super) fn kill_parent(&mut self, restarts_at_ns: u64) {
        self.parent = None;
        self.child = None;
        self.restarts_at_ns = Some(restarts_at_ns);
    }

    /// `send --state` once more.
    pub(super) fn restart(&mut self, now: u64) -> Result<(), Broken> {
        self.restarts_at_ns = None;
        let Some(record) = self.record()?.filter(|record| !record.state.is_settled()) else {
            return Ok(());
        };
        let (role, todo) = Source::recover(record);
        self.parent = Some(Parent::new(role, todo, now));
        if self.qemu.is_gone {
            self.tell(SourceEvent::GuestLost);
        }
        Ok(())
    }

    /// One step of the parent, if it is ready: a command, or else an event.
    pub(super) fn step(&mut self, now: u64, mail: &mut Vec<Mail>) -> Result<bool, Broken> {
        let Some(parent) = &mut self.parent else { return Ok(false) };
        if self.child.is_none() && !parent.saw_child_died {
            parent.saw_child_died = true;
            parent.inbox.push_back(SourceEvent::ChildDied);
        }
        if now < parent.ready_at_ns {
            return Ok(false);
        }
        if let Some(command) = parent.todo.pop_front() {
            self.execute(now, command, mail)?;
            return Ok(true);
        }
        if let Some(event) = parent.inbox.pop_front() {
            parent.todo.extend(parent.role.on(event));
            return Ok(true);
        }
        Ok(self.timers(now))
    }

    fn timers(&mut self, now: u64) -> bool {
        let Some(parent) = &mut self.parent else { return false };
        if parent.pause_over_at_ns.take_if(|at| *at <= now).is_some() {
            parent.inbox.push_back(SourceEvent::PauseTimeout);
            return true;
        }
        if parent.retry_at_ns <= now && !parent.is_done() {
            parent.retry_at_ns = now + RETRY_NS;
            parent.inbox.push_back(SourceEvent::RetryDue);
            return true;
        }
        false
    }

    fn execute(
        &mut self,
        now: u64,
        command: SourceCommand,
        mail: &mut Vec<Mail>,
    ) -> Result<(), Broken> {
        match command {
            SourceCommand::StartMigration => self.with_child(|child| child.may_migrate = true),
            SourceCommand::PersistInDoubt(record) => {
                self.disk = Some(record.encode());
                self.tell(SourceEvent::InDoubtPersisted);
            }
            SourceCommand::PersistSettled(record) => self.disk = Some(record.encode()),
            SourceCommand::StopGuest => self.stop_guest(now),
            SourceCommand::LetSwitchover => self.with_child(|child| child.may_switch_over = true),
            SourceCommand::GrantGo { start } => self.with_child(|child| child.go = Some(start)),
            SourceCommand::AbortMigration => {
                self.child = None;
                if let Some(parent) = &mut self.parent {
                    parent.saw_child_died = true;
                }
            }
            SourceCommand::ResumeGuest { .. } => self.resume_guest()?,
            SourceCommand::AskOutcome => mail.push(Mail::Ask),
            SourceCommand::RequestAbort(reason) => mail.push(Mail::RequestAbort(reason)),
            SourceCommand::ReleaseShut => self.qemu.heard_shut = true,
            SourceCommand::PersistForced(_) => return Err("nobody forced anything".to_owned()),
            SourceCommand::RefuseGo
            | SourceCommand::RestoreCapabilities
            | SourceCommand::Report(_) => {}
        }
        Ok(())
    }

    fn with_child(&mut self, act: impl FnOnce(&mut Child)) {
        if let Some(child) = &mut self.child {
            act(child);
        }
    }

    fn stop_guest(&mut self, now: u64) {
        if self.qemu.is_gone {
            return self.tell(SourceEvent::StopFailed);
        }
        self.qemu.runs = false;
        self.at_stop = Some(self.qemu.memory.clone());
        if let Some(parent) = &mut self.parent {
            parent.pause_over_at_ns = Some(now + PAUSE_TIMEOUT_NS);
        }
        self.tell(SourceEvent::GuestStopped { prior: dwcp_handover::RunState::Running });
    }

    fn resume_guest(&mut self) -> Result<(), Broken> {
        if self.qemu.heard_shut {
            return Err("cont to a source that heard SHUT(0)".to_owned());
        }
        if self.qemu.is_gone {
            self.tell(SourceEvent::ResumeFailed);
        } else {
            self.qemu.runs = true;
            self.tell(SourceEvent::GuestResumed);
        }
        Ok(())
    }

    pub(super) fn next_event(&mut self, now: u64) -> Option<u64> {
        let parent = self.parent.as_ref().filter(|parent| !parent.is_done()).map(|parent| {
            let is_idle = parent.todo.is_empty() && parent.inbox.is_empty();
            let timers = parent.pause_over_at_ns.into_iter().chain([parent.retry_at_ns]).min();
            if is_idle { timers.unwrap_or(now) } else { parent.ready_at_ns }
        });
        let child = self.child.as_mut().and_then(|child| child.endpoint.next_event(now));
        [parent, child, self.restarts_at_ns].into_iter().flatten().min()
    }
}
