//! One job at the source: the parent's loop. It gathers what happens (the child, QEMU's events,
//! signals, time), feeds the commit role, and executes what the role commands. One thread; it may
//! block for one monitor command, never while QEMU is in its tail.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use dwcp_handover::{
    Ending, EndpointsDigest, Fence, JobId, Notes, Outcome, Record, RunState, Source, SourceEvent,
    SourcePhase, SourceRecord, SourceStatus, Ticket, VmId,
};
use serde_json::{Value, json};

use super::child_process::ChildProcess;
use super::convergence::{Advice, Convergence, Sample};
use super::preflight;
use crate::cli::OnStall;
use crate::content::ContentStore;
use crate::error::{Class, EngineError, Result};
use crate::ipc::{ChildPlan, Counters, FromChild, Hash, Poll, ToChild, WantedMode};
use crate::progress::Progress;
use crate::qemu::{GuestFacts, Tuning};
use crate::qmp::{Qmp, QmpError};
use crate::report::{Phase, Report, Status};
use crate::signals::Interrupts;
use crate::store::Store;

/// How long the loop waits for the child before it looks at everything else.
const TICK: Duration = Duration::from_millis(5);
/// How often QEMU is asked how far it is.
const QUERY_INTERVAL: Duration = Duration::from_millis(25);
/// How long QEMU may take to answer while the guest runs.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often what got no answer is repeated.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long the target may take to accept: it may have to start a QEMU.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(45);

/// How long the memory that a guest leaves behind may take to be indexed.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(600);
/// Characters of a guest's name that a record keeps.
const VM_NAME_CHARS_MAX: usize = 100;

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The job's id, unique for ever.
    pub job: uuid::Uuid,
    /// The source QEMU's monitor.
    pub qmp: PathBuf,
    /// The target, resolved.
    pub to: SocketAddr,
    /// What lets the job in at a target that was prepared for it.
    pub ticket: Option<String>,
    /// How pages shall travel.
    pub mode: WantedMode,
    /// Streams, `None` for a choice of ours.
    pub streams: Option<u16>,
    /// Forced level.
    pub level: Option<i64>,
    /// Rate ceiling.
    pub rate_bytes_per_s: Option<u64>,
    /// New ceilings in flight, in bytes per second, 0 for none.
    pub new_rates: Receiver<u64>,
    /// Downtime budget.
    pub max_downtime: Duration,
    /// Limit before the stop.
    pub timeout: Duration,
    /// Limit without connections before the stop.
    pub link_timeout: Duration,
    /// Limit between the stop and GO.
    pub pause_timeout: Duration,
    /// When it does not converge.
    pub on_stall: OnStall,
    /// Hash of the comparison.
    pub hash: Hash,
    /// How the poll loop waits.
    pub poll: Poll,
    /// Preflight only.
    pub check: bool,
    /// Folder of records.
    pub state: PathBuf,
    /// Where the guest's memory is kept when it has moved, if it shall be.
    pub checkpoint: Option<ContentStore>,
}

/// Everything a job's loop works with.
pub(super) struct Job {
    pub(super) qmp: Option<Qmp>,
    pub(super) qmp_path: PathBuf,
    pub(super) to: SocketAddr,
    pub(super) role: Source,
    pub(super) child: Option<ChildProcess>,
    pub(super) listen: PathBuf,
    pub(super) store: Store,
    pub(super) tuning: Tuning,
    pub(super) report: Report,
    pub(super) progress: Progress,
    pub(super) events: VecDeque<SourceEvent>,
    pub(super) answers: (Sender<Option<Outcome>>, Receiver<Option<Outcome>>),
    pub(super) asking: bool,
    pub(super) began: Option<Instant>,
    pub(super) stopped_at: Option<Instant>,
    pub(super) decided: bool,
    pub(super) ending: Option<Ending>,
    /// The user insisted after GO: the record stays in doubt.
    gave_up: bool,
    /// Words for the report when the role's own reason says less.
    pub(super) reason: Option<(Class, String)>,
    options: Option<Options>,
    convergence: Convergence,
    counters: Counters,
    interrupts: Interrupts,
    seen_interrupts: usize,
    cpu_us_before: u64,
    asked_at: Instant,
    retried_at: Instant,
    timed_out: bool,
    pause_timed_out: bool,
}

/// Runs one job to its end and returns its receipt.
///
/// # Errors
/// What stopped it before it began; the guest was not touched.
pub fn run(options: Options, interrupts: Interrupts, progress: Progress) -> Result<Report> {
    let cpu_us_before = crate::cpu::process_us();
    let store = Store::open(&options.state)?;
    let mut qmp = Qmp::connect(&options.qmp)?;
    let (facts, blocks) = preflight::check(&mut qmp)?;
    let tuning = Tuning::read(&mut qmp)?;
    let job = options.job;
    let min_epoch = crate::records::known_epoch(&store, vm_id(&facts, &job), &options.qmp)?;
    let listen = socket_path(&job)?;
    let mut child = ChildProcess::start()?;
    child.send(&ToChild::Start(Box::new(ChildPlan {
        job: job.to_string(),
        to: options.to.to_string(),
        listen: listen.clone(),
        streams: options.streams,
        level: options.level,
        rate_bytes_per_s: options.rate_bytes_per_s,
        poll: options.poll,
        mode: options.mode,
        hash: options.hash,
        link_timeout_ms: options.link_timeout.as_millis() as u64,
        max_downtime_ms: options.max_downtime.as_millis() as u64,
        ticket: options.ticket.clone(),
        check_only: options.check,
        min_epoch,
        checkpoint: options.checkpoint.clone(),
        facts: facts.clone(),
        blocks,
    })));
    let mut report = Report::new(&job.to_string());
    report.vm = vm_name(&facts, &job);
    let (fence, mode) = await_acceptance(&child, &mut report, &interrupts)?;
    if options.check {
        child.finish();
        report.reason = "the preflight passed on both hosts; nothing was moved".to_owned();
        return Ok(report);
    }
    report.mode = mode;
    report.hash_alg = hash_name(options.hash, &report.mode).to_owned();
    progress.accepted(&report, fence);
    let ticket = Ticket {
        job: JobId(job.into_bytes()),
        vm: vm_id(&facts, &job),
        fence,
        endpoints: EndpointsDigest::default(),
    };
    let role = Source::new(ticket, notes(&options, &tuning, &report)?);
    let mut job = Job::new(store, qmp, role, options, tuning, report, progress, interrupts);
    job.child = Some(child);
    job.listen = listen;
    job.cpu_us_before = cpu_us_before;
    job.phase("accepted");
    job.events.push_back(SourceEvent::ChildReady { run_state: run_state(&facts.status) });
    job.run()
}

/// Takes up a job whose parent and child died after the stop.
///
/// # Errors
/// No such record, or the source QEMU cannot be reached.
pub fn resume(
    store: Store,
    record: SourceRecord,
    interrupts: Interrupts,
    progress: Progress,
    forced: Option<dwcp_handover::Force>,
) -> Result<Report> {
    let note = |key: &str| {
        record.notes.get(key).map(str::to_owned).ok_or_else(|| {
            EngineError::new(Class::Resource, format!("the job's record has no note {key:?}"))
        })
    };
    let qmp_path = PathBuf::from(note("qmp")?);
    let to = note("to")?.parse().map_err(|_| {
        EngineError::new(Class::Resource, "the job's record names no usable target address")
    })?;
    let tuning = Tuning::from_text(record.notes.get("tuning").unwrap_or_default());
    let mut report = Report::new(&record.ticket.job.to_string());
    report.vm = note("vm")?;
    report.mode = note("mode").unwrap_or_default();
    report.epoch = record.ticket.fence.epoch.0;
    let qmp = Qmp::connect(&qmp_path).ok();
    let (role, commands) = Source::recover(record);
    let mut job = Job::bare(store, qmp_path, to, role, tuning, report, progress, interrupts);
    job.qmp = qmp;
    job.began = Some(Instant::now());
    job.execute(commands)?;
    if let Some(force) = forced {
        job.events.push_back(SourceEvent::Forced(force));
    }
    job.run()
}

impl Job {
    #[allow(clippy::too_many_arguments, reason = "called once, by `run`")]
    fn new(
        store: Store,
        qmp: Qmp,
        role: Source,
        options: Options,
        tuning: Tuning,
        report: Report,
        progress: Progress,
        interrupts: Interrupts,
    ) -> Self {
        let path = options.qmp.clone();
        let to = options.to;
        let mut job = Self::bare(store, path, to, role, tuning, report, progress, interrupts);
        job.qmp = Some(qmp);
        job.convergence = Convergence::new(options.max_downtime.as_secs_f64() * 1e3);
        job.options = Some(options);
        job
    }

    #[allow(clippy::too_many_arguments, reason = "called by the two constructors alone")]
    fn bare(
        store: Store,
        qmp_path: PathBuf,
        to: SocketAddr,
        role: Source,
        tuning: Tuning,
        report: Report,
        progress: Progress,
        interrupts: Interrupts,
    ) -> Self {
        let now = Instant::now();
        Self {
            qmp: None,
            qmp_path,
            to,
            role,
            child: None,
            listen: PathBuf::new(),
            store,
            tuning,
            report,
            progress,
            events: VecDeque::new(),
            answers: bounded(1),
            asking: false,
            began: None,
            stopped_at: None,
            decided: false,
            ending: None,
            gave_up: false,
            reason: None,
            options: None,
            convergence: Convergence::new(0.0),
            counters: Counters::default(),
            seen_interrupts: interrupts.count(),
            interrupts,
            cpu_us_before: crate::cpu::process_us(),
            asked_at: now,
            retried_at: now,
            timed_out: false,
            pause_timed_out: false,
        }
    }

    fn run(mut self) -> Result<Report> {
        loop {
            while let Some(event) = self.events.pop_front() {
                let commands = self.role.on(event);
                self.execute(commands)?;
            }
            if self.ending.is_some() || self.gave_up {
                return Ok(self.finish());
            }
            self.gather();
        }
    }

    /// Marks the start of a phase in the report.
    pub(super) fn phase(&mut self, name: &str) {
        let at_ms = self.began.map_or(0.0, |began| began.elapsed().as_secs_f64() * 1e3);
        name.clone_into(&mut self.report.phase);
        self.report.phases.push(Phase { name: name.to_owned(), at_ms });
        self.progress.phase(name, at_ms);
    }

    fn gather(&mut self) {
        match &self.child {
            Some(child) => {
                if let Some(message) = child.receive(TICK) {
                    self.on_child(message);
                }
            }
            None => std::thread::sleep(TICK),
        }
        while let Ok(answer) = self.answers.1.try_recv() {
            self.asking = false;
            self.events.push_back(match answer {
                Some(outcome) => SourceEvent::OutcomeLearned(outcome),
                None => SourceEvent::LedgerUnreachable,
            });
        }
        self.pass_on_rates();
        self.gather_interrupts();
        self.gather_qemu_events();
        self.gather_time();
    }

    fn pass_on_rates(&mut self) {
        let (Some(options), Some(child)) = (&self.options, &mut self.child) else { return };
        while let Ok(bytes_per_s) = options.new_rates.try_recv() {
            child.send(&ToChild::SetRate { bytes_per_s });
        }
    }

    fn on_child(&mut self, message: FromChild) {
        match message {
            FromChild::Progress(counters) => self.counters = counters,
            FromChild::RamEnd => self.phase("ram_end"),
            FromChild::Roots { matches, root, algorithm } => {
                self.report.hash_root_match = (algorithm != "none").then_some(matches);
                self.report.hash_root = root;
                self.events.push_back(match matches {
                    true => SourceEvent::RootsMatched,
                    false => SourceEvent::RootsDiffer,
                });
            }
            FromChild::GoWanted => self.events.push_back(SourceEvent::GoRequested),
            FromChild::Decided { outcome, decide_us, target_cpu_us } => {
                self.report.decision_ms = decide_us as f64 / 1e3;
                self.report.cpu_s.target = target_cpu_us as f64 / 1e6;
                self.events.push_back(SourceEvent::OutcomeLearned(outcome.to_outcome()));
            }
            FromChild::Finished(counters) => self.counters = counters,
            FromChild::Kept { text } => self.progress.note(&text),
            FromChild::LinkDown { reason } => {
                self.progress.note(&format!("connection lost: {reason}; trying again"));
            }
            FromChild::LinkUp => self.progress.note("connected again"),
            FromChild::Failed { class, text } => {
                self.reason.get_or_insert((class, text));
                self.events.push_back(SourceEvent::LinkLost);
            }
            FromChild::Refused { class, text } => {
                self.reason.get_or_insert((class, text));
                self.events.push_back(SourceEvent::LinkLost);
            }
            FromChild::ChildGone => {
                let text = "the process that moves the bytes has ended".to_owned();
                self.reason.get_or_insert((Class::Failed, text));
                self.events.push_back(SourceEvent::ChildDied);
            }
            FromChild::Accepted { .. } => {}
        }
    }

    fn gather_interrupts(&mut self) {
        let count = self.interrupts.count();
        if count > self.seen_interrupts {
            self.seen_interrupts += 1;
            if self.role.phase().before_go() {
                self.reason =
                    Some((Class::Interrupted, "interrupted; the guest stays here".into()));
            }
            self.events.push_back(SourceEvent::CancelRequested);
        }
    }

    /// Reads what the monitor has said; sends it nothing, because in the tail it would not answer.
    fn gather_qemu_events(&mut self) {
        loop {
            let Some(qmp) = &mut self.qmp else { return };
            let event = match qmp.next_event(Duration::ZERO) {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(e) => return self.monitor_lost(&e),
            };
            self.on_qemu_event(&event.name, &event.data);
        }
    }

    pub(super) fn monitor_lost(&mut self, error: &QmpError) {
        self.qmp = None;
        self.reason.get_or_insert((Class::Failed, format!("the source QEMU is gone: {error}")));
        self.events.push_back(SourceEvent::GuestLost);
    }

    fn on_qemu_event(&mut self, name: &str, data: &Value) {
        let state = match name {
            "RESUME" | "WAKEUP" => RunState::Running,
            "SUSPEND" => RunState::Suspended,
            "STOP" => RunState::Paused,
            "BLOCK_IO_ERROR" if data.get("action").and_then(Value::as_str) == Some("stop") => {
                RunState::IoError
            }
            "SHUTDOWN" => RunState::Other,
            "MIGRATION" => {
                match data.get("status").and_then(Value::as_str) {
                    Some("device" | "finish-migrate") => {
                        self.events.push_back(SourceEvent::SwitchoverBegan);
                    }
                    Some("failed") => self.migration_failed(),
                    _ => {}
                }
                return;
            }
            _ => return,
        };
        // Our own stop says STOP as well; the role is past caring by then.
        self.events.push_back(SourceEvent::RunStateChanged(state));
    }

    fn migration_failed(&mut self) {
        let text = match self.query_migrate() {
            Some(answer) => answer
                .get("error-desc")
                .and_then(Value::as_str)
                .unwrap_or("no reason given")
                .to_owned(),
            None => "no reason given".to_owned(),
        };
        self.reason.get_or_insert((Class::Failed, format!("QEMU's migration failed: {text}")));
        self.events.push_back(SourceEvent::MigrationFailed);
    }

    fn query_migrate(&mut self) -> Option<Value> {
        self.qmp.as_mut()?.execute_within("query-migrate", json!({}), QUERY_TIMEOUT).ok()
    }

    fn gather_time(&mut self) {
        let phase = self.role.phase();
        let waiting = phase.in_doubt() || matches!(phase, SourcePhase::Resuming(_));
        if waiting && self.retried_at.elapsed() >= RETRY_INTERVAL {
            self.retried_at = Instant::now();
            self.events.push_back(SourceEvent::RetryDue);
        }
        if !waiting {
            self.retried_at = Instant::now();
        }
        let Some(options) = &self.options else { return };
        let over = |since: Option<Instant>, limit| since.is_some_and(|t| t.elapsed() >= limit);
        let (timeout, pause) = (options.timeout, options.pause_timeout);
        if phase == SourcePhase::Precopy && over(self.began, timeout) && !self.timed_out {
            self.timed_out = true;
            self.time_is_up(
                Class::Unreachable,
                format!("--timeout {} s passed", timeout.as_secs()),
            );
        }
        if phase.before_go() && over(self.stopped_at, pause) && !self.pause_timed_out {
            self.pause_timed_out = true;
            let text = format!(
                "the guest was stopped for {} ms without the last slice leaving",
                pause.as_millis()
            );
            self.reason.get_or_insert((Class::Unreachable, text));
            self.events.push_back(SourceEvent::PauseTimeout);
        }
        if phase == SourcePhase::Precopy && self.asked_at.elapsed() >= QUERY_INTERVAL {
            self.asked_at = Instant::now();
            self.observe();
        }
    }

    /// The downtime budget.
    pub(super) fn max_downtime(&self) -> Duration {
        self.options.as_ref().map_or(Duration::ZERO, |options| options.max_downtime)
    }

    fn time_is_up(&mut self, class: Class, text: String) {
        if self.options.as_ref().is_some_and(|o| o.on_stall == OnStall::Force) {
            self.progress.note(&format!("{text}: stopping the guest now (--on-stall force)"));
            self.force_stop();
            return;
        }
        self.reason.get_or_insert((class, text));
        self.events.push_back(SourceEvent::Deadline);
    }

    /// A forced stop accepts a longer pause.
    fn force_stop(&mut self) {
        if let Some(options) = &mut self.options {
            let predicted = self.convergence.predict_ms().unwrap_or(0.0) * 2.0;
            let limit = Duration::from_millis(predicted as u64) + options.pause_timeout;
            options.pause_timeout = limit;
        }
        self.events.push_back(SourceEvent::StopRequested);
    }

    /// Looks at QEMU and decides whether to stop the guest.
    fn observe(&mut self) {
        let answer = match self.qmp.as_mut() {
            Some(qmp) => qmp.execute_within("query-migrate", json!({}), QUERY_TIMEOUT),
            None => return,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(e) if e.is_gone() => return self.monitor_lost(&e),
            Err(_) => return,
        };
        let ram = |name: &str| {
            answer.pointer(&format!("/ram/{name}")).and_then(Value::as_u64).unwrap_or(0)
        };
        if answer.get("status").and_then(Value::as_str) != Some("active") {
            return;
        }
        let page_bytes = ram("page-size").max(1);
        let zero_bytes = self.counters.pages.zero * page_bytes;
        let sample = Sample {
            at_ms: self.began.map_or(0.0, |b| b.elapsed().as_secs_f64() * 1e3),
            remaining_bytes: ram("remaining"),
            dirty_bytes_per_s: ram("dirty-pages-rate").saturating_mul(page_bytes),
            rounds: ram("dirty-sync-count"),
            guest_bytes: self.counters.guest_bytes.saturating_sub(zero_bytes),
            wire_bytes: self.counters.wire_tx_bytes,
            unacked_bytes: self.counters.unacked_bytes,
            unencoded_bytes: self.counters.unencoded_bytes,
        };
        if sample.rounds > self.report.rounds {
            self.report.rounds = sample.rounds;
            self.phase(&format!("round {}", sample.rounds));
        }
        self.progress.show(&self.counters, &sample, self.convergence.predict_ms());
        match self.convergence.observe(sample) {
            Advice::Continue => {}
            Advice::Stop => self.events.push_back(SourceEvent::StopRequested),
            Advice::Stalled => self.stalled(),
        }
    }

    fn stalled(&mut self) {
        let text = "the guest dirties memory faster than the link carries it".to_owned();
        match self.options.as_ref().map(|o| o.on_stall) {
            Some(OnStall::Abort) => {
                self.reason.get_or_insert((Class::Limit, text));
                self.events.push_back(SourceEvent::Deadline);
            }
            Some(OnStall::Force) => self.force_stop(),
            _ => {}
        }
    }

    /// The guest runs on its new host; what it left here is being indexed.
    fn await_checkpoint(&mut self) {
        let wanted = self.options.as_ref().is_some_and(|o| o.checkpoint.is_some());
        let Some(child) = &mut self.child else { return };
        if !wanted || !matches!(self.ending, Some(Ending::Completed(_))) {
            return;
        }
        let deadline = Instant::now() + CHECKPOINT_TIMEOUT;
        while Instant::now() < deadline && self.interrupts.count() == self.seen_interrupts {
            match child.receive(QUERY_INTERVAL) {
                Some(FromChild::Finished(counters)) => self.counters = counters,
                Some(FromChild::Kept { text }) => return self.progress.note(&text),
                Some(FromChild::ChildGone) => return,
                _ => {}
            }
        }
    }

    fn finish(mut self) -> Report {
        if self.asking && self.ending.is_some() {
            // The target must hear of the abort, or it keeps its QEMU until --link-timeout.
            let _ = self.answers.1.recv_timeout(crate::ask::ASK_TIMEOUT);
        }
        self.await_checkpoint();
        if let Some(child) = &mut self.child {
            child.finish();
            while let Some(message) = child.receive(Duration::from_millis(20)) {
                match message {
                    FromChild::Finished(counters) => self.counters = counters,
                    FromChild::ChildGone => break,
                    _ => {}
                }
            }
        }
        let _ = std::fs::remove_file(&self.listen);
        let counters = self.counters;
        let own_cpu_us = crate::cpu::process_us() - self.cpu_us_before;
        let report = &mut self.report;
        report.wire_tx_bytes = counters.wire_tx_bytes;
        report.wire_rx_bytes = counters.wire_rx_bytes;
        report.wire_bytes = counters.wire_tx_bytes + counters.wire_rx_bytes;
        report.resent_bytes = counters.resent_bytes;
        report.guest_bytes = counters.guest_bytes;
        report.pages = counters.pages;
        report.known_by = counters.known_by;
        report.streams = report.streams.max(counters.streams);
        report.cpu_s.source = (own_cpu_us + counters.cpu_us) as f64 / 1e6;
        match self.ending {
            Some(Ending::Completed(_) | Ending::Forced(dwcp_handover::Force::Commit)) => {
                report.status = Status::Completed;
            }
            None => {
                report.status = Status::InDoubt;
                report.reason = "outcome not known yet".to_owned();
            }
            _ => report.status = Status::Aborted,
        }
        report.class = match report.status {
            Status::Completed => None,
            Status::InDoubt => Some(Class::InDoubt),
            _ => Some(self.reason.as_ref().map_or(Class::Failed, |(class, _)| *class)),
        };
        if report.status == Status::Aborted {
            let role_says = match self.ending {
                Some(Ending::Aborted { reason, .. }) => reason.name(),
                _ => "decided by the operator",
            };
            report.reason = match &self.reason {
                Some((_, text)) => format!("{role_says}: {text}"),
                None => role_says.to_owned(),
            };
        }
        self.progress.done();
        if self.report.status == Status::Aborted {
            self.progress.note(&format!("aborted: {}", self.report.reason));
        }
        self.report
    }

    /// Shows what the role wants the user to know.
    pub(super) fn tell(&mut self, status: SourceStatus) {
        let job = self.report.job.clone();
        let line = match status {
            SourceStatus::Ended(ending) => {
                self.ending = Some(ending);
                return;
            }
            SourceStatus::WaitingForOutcome => {
                "the last slice has left: waiting for the outcome; interrupt again for the way out"
                    .to_owned()
            }
            SourceStatus::ShowResolve => {
                format!("to end it by hand: dwcp-engine resolve --job {job} --commit|--abort")
            }
            SourceStatus::LedgerUnreachable => {
                format!(
                    "outcome not known yet: {} does not answer; the guest stays paused",
                    self.to
                )
            }
            SourceStatus::JobUnknown => format!(
                "{} does not know this job; the guest stays paused until: dwcp-engine resolve --job {job}",
                self.to
            ),
            SourceStatus::Committed => "committed; waiting for the guest to run there".to_owned(),
            SourceStatus::TargetLost => format!(
                "committed, but the target QEMU was lost after it may have run: dwcp-engine resolve --job {job}"
            ),
            SourceStatus::Interference => {
                "somebody set the stopped guest running: stopped again".to_owned()
            }
            SourceStatus::ResumeFailed => "the guest does not resume yet; trying again".to_owned(),
            SourceStatus::GuestLost => "the source QEMU is gone".to_owned(),
            SourceStatus::ForceRefused => "that decision is not possible in this phase".to_owned(),
            SourceStatus::ForeignOutcome => {
                "an outcome of another attempt came and was ignored".to_owned()
            }
        };
        self.progress.note(&line);
        self.gave_up |= status == SourceStatus::ShowResolve;
    }

    /// Writes a record of this job.
    pub(super) fn save(&self, record: &SourceRecord) -> Result<()> {
        self.store.save(&format!("{}.source", self.report.job), &record.encode())
    }
}

fn await_acceptance(
    child: &ChildProcess,
    report: &mut Report,
    interrupts: &Interrupts,
) -> Result<(Fence, String)> {
    let deadline = Instant::now() + ACCEPT_TIMEOUT;
    loop {
        match child.receive(Duration::from_millis(100)) {
            Some(FromChild::Accepted { incarnation, epoch, mode, streams, .. }) => {
                report.epoch = epoch;
                report.streams = streams;
                return Ok((Fence::new(incarnation, epoch), mode));
            }
            Some(FromChild::Refused { class, text } | FromChild::Failed { class, text }) => {
                return Err(EngineError::new(class, text));
            }
            Some(FromChild::ChildGone) => {
                let text = "the process that moves the bytes ended before it began";
                return Err(EngineError::new(Class::Failed, text));
            }
            _ if interrupts.count() > 0 => {
                return Err(EngineError::new(Class::Interrupted, "interrupted; nothing was moved"));
            }
            _ if Instant::now() > deadline => {
                let text =
                    format!("the target did not accept within {} s", ACCEPT_TIMEOUT.as_secs());
                return Err(EngineError::new(Class::Unreachable, text));
            }
            _ => {}
        }
    }
}

fn notes(options: &Options, tuning: &Tuning, report: &Report) -> Result<Notes> {
    let mut notes = Notes::default();
    for (key, value) in [
        ("qmp", options.qmp.to_string_lossy().into_owned()),
        ("to", options.to.to_string()),
        ("tuning", tuning.to_text()),
        ("vm", report.vm.chars().take(VM_NAME_CHARS_MAX).collect()),
        ("mode", report.mode.clone()),
    ] {
        notes
            .set(key, &value)
            .map_err(|e| EngineError::new(Class::Limit, format!("the job's record: {e}")))?;
    }
    Ok(notes)
}

fn socket_path(job: &uuid::Uuid) -> Result<PathBuf> {
    use crate::error::Doing;
    let dir = crate::store::default_run_dir().join("send");
    std::fs::create_dir_all(&dir).doing(|| format!("creating {}", dir.display()))?;
    Ok(dir.join(format!("{job}.sock")))
}

fn vm_name(facts: &GuestFacts, job: &uuid::Uuid) -> String {
    match (facts.name.as_str(), facts.uuid) {
        ("", [0, ..]) => format!("unnamed-{}", &job.to_string()[..8]),
        ("", uuid) => uuid::Uuid::from_bytes(uuid).to_string(),
        (name, _) => name.to_owned(),
    }
}

/// A guest without a UUID is its own job's: two such guests must not fence each other.
fn vm_id(facts: &GuestFacts, job: &uuid::Uuid) -> VmId {
    VmId(if facts.uuid == [0; 16] { job.into_bytes() } else { facts.uuid })
}

fn hash_name(hash: Hash, mode: &str) -> &'static str {
    match (mode, hash) {
        ("plain", _) => "none",
        (_, Hash::Xxh3) => "xxh3-128",
        (_, Hash::Blake3) => "blake3",
    }
}

/// QEMU's status as the commit roles know it.
pub(super) fn run_state(status: &str) -> RunState {
    match status {
        "running" => RunState::Running,
        "suspended" => RunState::Suspended,
        "paused" => RunState::Paused,
        "io-error" => RunState::IoError,
        _ => RunState::Other,
    }
}
