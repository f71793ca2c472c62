//! What the source's commit role commands, done: QMP, records, the child, questions to the ledger.

use std::time::{Duration, Instant};

use dwcp_handover::{AbortReason, RunState, SourceCommand, SourceEvent};
use serde_json::{Value, json};

use super::job::{Job, run_state};
use crate::ask;
use crate::error::Result;
use crate::ipc::ToChild;
use crate::qemu::tuning;
use crate::qmp::{Qmp, QmpError};

/// How long a broken migration may take to be over in QEMU's own books.
const MIGRATION_END_TIMEOUT: Duration = Duration::from_secs(5);
const MIGRATION_END_POLL: Duration = Duration::from_millis(5);
/// How long `stop` and `cont` may take.
const RUN_STATE_TIMEOUT: Duration = Duration::from_secs(10);

impl Job {
    /// Executes commands in order.
    ///
    /// # Errors
    /// A record that cannot be written: the process must end and be started again.
    pub(super) fn execute(&mut self, commands: Vec<SourceCommand>) -> Result<()> {
        for command in commands {
            self.execute_one(command)?;
        }
        Ok(())
    }

    fn execute_one(&mut self, command: SourceCommand) -> Result<()> {
        match command {
            SourceCommand::StartMigration => self.start_migration(),
            SourceCommand::PersistInDoubt(record) => {
                self.save(&record)?;
                self.events.push_back(SourceEvent::InDoubtPersisted);
            }
            SourceCommand::StopGuest => self.stop_guest(),
            SourceCommand::LetSwitchover => self.let_switchover(),
            SourceCommand::GrantGo { .. } => {
                self.phase("go");
                self.tell_child(&ToChild::Go);
            }
            SourceCommand::RefuseGo => {
                self.tell_child(&ToChild::Abort { reason: "refused".into() })
            }
            SourceCommand::AbortMigration => self.abort_migration(),
            SourceCommand::ResumeGuest { to } => self.resume_guest(to),
            SourceCommand::AskOutcome => self.ask(None),
            SourceCommand::RequestAbort(reason) => self.ask(Some(reason)),
            SourceCommand::ReleaseShut => self.release_shut(),
            SourceCommand::PersistForced(record) => {
                self.save(&record)?;
                self.events.push_back(SourceEvent::ForcePersisted);
            }
            SourceCommand::RestoreCapabilities => self.restore_capabilities(),
            SourceCommand::PersistSettled(record) => self.save(&record)?,
            SourceCommand::Report(status) => self.tell(status),
        }
        Ok(())
    }

    fn tell_child(&mut self, message: &ToChild) {
        if let Some(child) = &mut self.child {
            child.send(message);
        }
    }

    fn start_migration(&mut self) {
        let budget_ms = self.budget_ms();
        let uri = format!("unix:{}", self.listen.display());
        self.began = Some(Instant::now());
        self.phase("migrate");
        let started = self.with_qmp(|qmp, tuning| {
            tuning.prepare_source(qmp, budget_ms)?;
            qmp.execute("migrate", json!({"uri": uri}))
        });
        if let Err(text) = started {
            self.reason.get_or_insert((crate::error::Class::Failed, text));
            self.events.push_back(SourceEvent::MigrationFailed);
        }
    }

    fn stop_guest(&mut self) {
        // What can be asked and set before the pause begins is: each command costs downtime after it.
        let before = self.with_qmp(|qmp, tuning| {
            if tuning.can_hold_switchover() {
                tuning::lift_downtime_limit(qmp)?;
            }
            qmp.execute_within("query-status", json!({}), RUN_STATE_TIMEOUT)
        });
        let now = Instant::now();
        self.stopped_at.get_or_insert(now);
        self.phase("stop");
        let stopped = before.and_then(|before| {
            self.with_qmp(|qmp, _| {
                qmp.execute_within("stop", json!({}), RUN_STATE_TIMEOUT)?;
                Ok(before)
            })
        });
        self.events.push_back(match stopped {
            Ok(before) => {
                let status = before.get("status").and_then(Value::as_str).unwrap_or_default();
                SourceEvent::GuestStopped { prior: run_state(status) }
            }
            Err(text) => {
                self.reason.get_or_insert((crate::error::Class::Failed, text));
                SourceEvent::StopFailed
            }
        });
    }

    fn let_switchover(&mut self) {
        // A QEMU that cannot hold the switch-over would have used the lifted limit before the stop.
        let lifted = self.with_qmp(|qmp, tuning| match tuning.can_hold_switchover() {
            true => Ok(()),
            false => tuning::lift_downtime_limit(qmp),
        });
        if let Err(text) = lifted {
            self.progress.note(&text);
        }
        let start_paused = !self.role.prior_run_state().is_live();
        self.tell_child(&ToChild::AllowSwitchover { start_paused });
    }

    /// The sockets first: QEMU's monitor may hang until its writer has been cut off.
    fn abort_migration(&mut self) {
        self.phase("abort");
        if let Some(mut child) = self.child.take() {
            child.end(self.reason.as_ref().map_or("aborted", |(_, text)| text));
        }
        let deadline = Instant::now() + MIGRATION_END_TIMEOUT;
        while Instant::now() < deadline {
            let status = self.with_qmp(|qmp, _| {
                qmp.execute_within("query-migrate", json!({}), MIGRATION_END_TIMEOUT)
            });
            let Ok(answer) = status else { return };
            match answer.get("status").and_then(Value::as_str) {
                Some("setup" | "active" | "device" | "pre-switchover") => {
                    let _ = self.with_qmp(|qmp, _| qmp.execute("migrate_cancel", json!({})));
                }
                Some("cancelling") => {}
                _ => return,
            }
            std::thread::sleep(MIGRATION_END_POLL);
        }
    }

    fn resume_guest(&mut self, to: RunState) {
        self.phase("resume");
        let resumed = self.with_qmp(|qmp, _| {
            let status = qmp.execute_within("query-status", json!({}), RUN_STATE_TIMEOUT)?;
            let status =
                status.get("status").and_then(Value::as_str).unwrap_or_default().to_owned();
            if run_state(&status) != to && !run_state(&status).is_live() {
                qmp.execute_within("cont", json!({}), RUN_STATE_TIMEOUT)?;
            }
            Ok(Value::Null)
        });
        match resumed {
            Ok(_) => {
                if let Some(stopped) = self.stopped_at {
                    self.report.downtime_ms = stopped.elapsed().as_secs_f64() * 1e3;
                }
                self.events.push_back(SourceEvent::GuestResumed);
            }
            Err(text) => {
                self.progress.note(&text);
                self.events.push_back(SourceEvent::ResumeFailed);
            }
        }
    }

    fn release_shut(&mut self) {
        let now = Instant::now();
        if let Some(stopped) = self.stopped_at {
            self.report.downtime_ms = (now - stopped).as_secs_f64() * 1e3;
        }
        self.phase("committed");
        self.tell_child(&ToChild::ReleaseShut);
        self.await_migration_end();
    }

    /// The source QEMU hears SHUT(0) and closes its books; the guest stays stopped.
    fn await_migration_end(&mut self) {
        if self.child.is_none() {
            return;
        }
        let deadline = Instant::now() + MIGRATION_END_TIMEOUT;
        while Instant::now() < deadline {
            let status = self.with_qmp(|qmp, _| qmp.execute("query-migrate", json!({})));
            let Ok(answer) = status else { return };
            if !matches!(answer.get("status").and_then(Value::as_str), Some("active" | "device")) {
                return;
            }
            std::thread::sleep(MIGRATION_END_POLL);
        }
    }

    fn restore_capabilities(&mut self) {
        if !self.decided {
            self.decided = true;
            if let Some(began) = self.began {
                self.report.total_ms = began.elapsed().as_secs_f64() * 1e3;
            }
        }
        let restored = self.with_qmp(|qmp, tuning| {
            tuning.restore(qmp)?;
            Ok(Value::Null)
        });
        if let Err(text) = restored {
            self.progress.note(&format!("migration settings were not put back: {text}"));
        }
    }

    /// Asks the ledger in a thread of its own; one question at a time.
    fn ask(&mut self, abort: Option<AbortReason>) {
        if self.asking && abort.is_none() {
            return;
        }
        self.asking = true;
        let (to, ticket, answers) = (self.to, *self.role.ticket(), self.answers.0.clone());
        let question = move || {
            let answer = ask::ask(to, ticket.job, ticket.fence, abort).ok();
            let _ = answers.send_timeout(answer, ask::ASK_TIMEOUT);
        };
        std::thread::spawn(question);
    }

    fn budget_ms(&self) -> u64 {
        self.max_downtime().as_millis() as u64
    }

    /// Runs monitor commands, reconnecting once when the monitor was not there.
    fn with_qmp<T>(
        &mut self,
        work: impl FnOnce(&mut Qmp, &crate::qemu::Tuning) -> std::result::Result<T, QmpError>,
    ) -> std::result::Result<T, String> {
        if self.qmp.is_none() {
            self.qmp = Qmp::connect(&self.qmp_path).ok();
        }
        let Some(qmp) = &mut self.qmp else {
            return Err(format!("QMP socket {} does not answer", self.qmp_path.display()));
        };
        match work(qmp, &self.tuning) {
            Ok(value) => Ok(value),
            Err(e) => {
                if e.is_gone() {
                    self.monitor_lost(&e);
                }
                Err(e.to_string())
            }
        }
    }
}
