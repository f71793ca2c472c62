//! One job at the target: prepares a QEMU, accepts the source's offer, feeds the commit role and
//! executes what it commands. One control thread per job; the bytes go through three others (apply,
//! skeleton, return path) and the session's poll loop.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, select, tick};
use dwcp_encode::Root;
use dwcp_handover::{AbortReason, Outcome, Start, Target, TargetEvent, TargetPhase};
use dwcp_tcp::{Body, Endpoint, Inbound, NetEvent, Outbound};
use dwcp_wire::{
    Accept, Channel, ControlMessage, JobId, Mode, RailId, Resumed, RootResult, SliceFlags,
};

use super::apply::ApplyCounters;
use super::qemu::TargetQemu;
use super::{Host, JobSummary};
use crate::cpu;
use crate::error::EngineError;

/// How often time is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often what got no answer is repeated.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long a source may stay after it was told the outcome.
pub(super) const FAREWELL: Duration = Duration::from_secs(3);

/// What happens in a job, besides network events.
#[derive(Debug)]
pub enum JobEvent {
    /// All page slices are applied: the root over the guest's RAM.
    Root(Root),
    /// The last skeleton slice was passed on to QEMU.
    TailPassed,
    /// QEMU says that loading is over; zero is success.
    Shut(u32),
    /// QEMU's words to its source.
    ReturnPath(Vec<u8>),
    /// QEMU closed its migration socket.
    QemuClosed,
    /// A thread of the job cannot go on.
    Failed(EngineError),
}

/// What others ask of a job.
#[derive(Debug)]
pub enum JobCommand {
    /// A further stream has joined.
    Rail(TcpStream, RailId),
    /// What is the outcome?
    Ask(Sender<Outcome>),
    /// Abort it, unless it is decided.
    RequestAbort(AbortReason, Sender<Outcome>),
    /// The operator ends it here.
    Cancel,
}

/// A job that has been agreed on.
pub(super) struct Job {
    pub(super) host: Arc<Host>,
    pub(super) job: JobId,
    pub(super) role: Target,
    pub(super) qemu: TargetQemu,
    pub(super) endpoint: Endpoint,
    pub(super) events: VecDeque<TargetEvent>,
    pub(super) accept: Option<Accept>,
    pub(super) source_root: Option<dwcp_wire::Root>,
    pub(super) own_root: Option<Root>,
    pub(super) slices: Option<Sender<Inbound>>,
    pub(super) skeleton: Option<Sender<Inbound>>,
    pub(super) root_after: Sender<u64>,
    pub(super) counters: Arc<ApplyCounters>,
    pub(super) control_seq: u64,
    pub(super) stream_started: bool,
    pub(super) rails: usize,
    pub(super) link_lost_at: Option<Instant>,
    pub(super) tail_passed_at: Option<Instant>,
    pub(super) loaded_at: Option<Instant>,
    pub(super) timings: Resumed,
    pub(super) told_final: Option<Instant>,
    pub(super) reason: Option<String>,
    pub(super) retried_at: Instant,
    pub(super) cpu_us_before: u64,
    pub(super) over: bool,
}

/// Sends a message outside of any job's numbering: the first and only one.
pub(super) fn send_control(endpoint: &Endpoint, seq: u64, message: &ControlMessage) {
    let Ok(body) = crate::ask::encoded(message) else { return };
    let _ = endpoint.submit(Outbound {
        channel: Channel::Control,
        seq,
        generation: 0,
        flags: SliceFlags::NONE,
        not_before: None,
        body: Body::Small(body),
    });
}

impl Job {
    /// Runs the job to its end.
    pub(super) fn run(
        mut self,
        net: Receiver<NetEvent>,
        commands: Receiver<JobCommand>,
        events: Receiver<JobEvent>,
        summary: &mut JobSummary,
    ) {
        let ticks = tick(TICK);
        while !self.over {
            while let Some(event) = self.events.pop_front() {
                for command in self.role.on(event) {
                    self.execute(command);
                }
            }
            select! {
                recv(net) -> event => if let Ok(event) = event { self.on_net(event) },
                recv(events) -> event => if let Ok(event) = event { self.on_event(event) },
                recv(commands) -> command => if let Ok(command) = command { self.on_command(command) },
                recv(ticks) -> _ => self.on_tick(),
            }
        }
        self.summarise(summary);
    }

    fn summarise(&self, summary: &mut JobSummary) {
        summary.epoch = self.role.ticket().fence.epoch.0;
        summary.pages = self.counters.pages.load(Relaxed);
        summary.rx_bytes = self.endpoint.stats().rx_bytes;
        summary.cpu_s = (cpu::process_us() - self.cpu_us_before) as f64 / 1e6;
        let (status, reason) = match self.role.phase() {
            TargetPhase::Arrived(arrival) => ("completed", arrival.name().to_owned()),
            TargetPhase::Aborted { reason, .. } => ("aborted", reason.name().to_owned()),
            _ => ("in_doubt", String::new()),
        };
        status.clone_into(&mut summary.status);
        summary.reason = match &self.reason {
            Some(text) if status == "aborted" => format!("{reason}: {text}"),
            _ => reason,
        };
    }

    fn on_net(&mut self, event: NetEvent) {
        match event {
            NetEvent::Inbound(inbound) => self.on_slice(inbound),
            NetEvent::RailUp { .. } => {}
            NetEvent::RailDown { reason, .. } => {
                self.rails = self.rails.saturating_sub(1);
                if self.rails == 0 {
                    self.link_lost(reason.to_string());
                }
            }
            NetEvent::AllRailsDown => self.link_lost("all connections are gone".to_owned()),
            NetEvent::PeerGoodbye { .. } => {
                self.rails = 0;
                self.link_lost_at = Instant::now().checked_sub(self.host.link_timeout);
                self.link_lost("the source left".to_owned());
            }
            NetEvent::Fatal(e) => {
                self.reason.get_or_insert(format!("the network loop: {e}"));
                self.events.push_back(TargetEvent::LinkLost);
                self.link_lost_at.get_or_insert_with(Instant::now);
            }
        }
    }

    fn link_lost(&mut self, reason: String) {
        self.reason.get_or_insert(reason);
        self.link_lost_at.get_or_insert_with(Instant::now);
    }

    fn on_slice(&mut self, inbound: Inbound) {
        if !self.stream_started && inbound.channel != Channel::Control {
            self.stream_started = true;
            self.events.push_back(TargetEvent::StreamStarted);
        }
        match inbound.channel {
            Channel::Pages => forward(&self.slices, inbound),
            Channel::Skeleton => forward(&self.skeleton, inbound),
            _ => {
                let message = ControlMessage::decode(inbound.body.bytes());
                self.endpoint.consumed(inbound.channel, inbound.seq);
                match message {
                    Ok(message) => self.on_control(message),
                    Err(e) => {
                        self.reason.get_or_insert(e.to_string());
                        self.events.push_back(TargetEvent::PeerViolation);
                    }
                }
            }
        }
    }

    fn on_control(&mut self, message: ControlMessage) {
        match message {
            ControlMessage::Root(root) => {
                let slices = root.slices;
                self.source_root = Some(root);
                match self.accept_mode() {
                    Mode::Plain => self.compare_roots(None),
                    Mode::Direct => _ = self.root_after.try_send(slices),
                }
            }
            ControlMessage::Abort { text, .. } => {
                self.reason = Some(text);
                self.events.push_back(TargetEvent::SourceRequestedAbort(AbortReason::SourceAsked));
            }
            ControlMessage::Query { .. } => self.events.push_back(TargetEvent::SourceAsked),
            ControlMessage::RequestAbort { reason, .. } => {
                let reason = AbortReason::from_name(&reason).unwrap_or(AbortReason::SourceAsked);
                self.events.push_back(TargetEvent::SourceRequestedAbort(reason));
            }
            _ => {}
        }
    }

    fn accept_mode(&self) -> Mode {
        self.accept.as_ref().map_or(Mode::Plain, |a| a.mode)
    }

    /// In plain mode QEMU loads the pages itself; there is nothing of ours to compare.
    fn compare_roots(&mut self, own: Option<Root>) {
        let Some(source) = self.source_root.clone() else { return };
        let matched = match &own {
            Some(own) => own.digest == source.root && own.pages == source.pages,
            None => true,
        };
        let (digest, pages) = own.map_or(([0; 32], 0), |root| (root.digest, root.pages));
        self.own_root = own;
        self.control(&ControlMessage::RootResult(RootResult {
            matches: matched,
            root: digest,
            pages,
        }));
        self.events.push_back(TargetEvent::RootsCompared { matched });
    }

    fn on_event(&mut self, event: JobEvent) {
        match event {
            JobEvent::Root(root) => self.compare_roots(Some(root)),
            JobEvent::TailPassed => {
                self.tail_passed_at = Some(Instant::now());
                let paused = self.source_root.as_ref().is_none_or(|root| root.start_paused);
                let start = if paused { Start::LeavePaused } else { Start::Run };
                self.events.push_back(TargetEvent::TailReceived { start });
            }
            JobEvent::Shut(0) => self.loaded(),
            JobEvent::Shut(value) => {
                self.reason
                    .get_or_insert(format!("the target QEMU could not load the guest ({value})"));
                self.events.push_back(TargetEvent::LoadFailed);
            }
            JobEvent::ReturnPath(bytes) => self.control(&ControlMessage::ReturnPath(bytes)),
            JobEvent::QemuClosed => {
                if self.loaded_at.is_none() {
                    self.reason.get_or_insert("the target QEMU closed the stream".to_owned());
                    self.events.push_back(TargetEvent::QemuLost);
                }
            }
            JobEvent::Failed(error) => {
                let text = error.to_string();
                self.control(&ControlMessage::Failed { code: error.reason(), text: text.clone() });
                self.reason.get_or_insert(text);
                self.events.push_back(TargetEvent::LoadFailed);
            }
        }
    }

    /// SHUT(0) came; QEMU's own books must say the same.
    fn loaded(&mut self) {
        let now = Instant::now();
        self.loaded_at = Some(now);
        if let Some(passed) = self.tail_passed_at {
            self.timings.load_us = (now - passed).as_micros() as u64;
        }
        self.events.push_back(match self.qemu.is_loaded() {
            Ok(true) => TargetEvent::LoadCompleted,
            Ok(false) => TargetEvent::LoadFailed,
            Err(_) => TargetEvent::QemuLost,
        });
    }

    fn on_command(&mut self, command: JobCommand) {
        match command {
            JobCommand::Rail(stream, rail) => {
                if self.endpoint.add_rail(stream, rail).is_ok() {
                    self.rails += 1;
                    self.link_lost_at = None;
                }
            }
            JobCommand::Ask(answer) => _ = answer.try_send(self.role.outcome()),
            JobCommand::RequestAbort(reason, answer) => {
                self.reason.get_or_insert("the source asked for an end".to_owned());
                self.events.push_back(TargetEvent::SourceRequestedAbort(reason));
                while let Some(event) = self.events.pop_front() {
                    for command in self.role.on(event) {
                        self.execute(command);
                    }
                }
                let _ = answer.try_send(self.role.outcome());
            }
            JobCommand::Cancel => {
                self.reason.get_or_insert("receive was told to end".to_owned());
                self.events.push_back(TargetEvent::CancelRequested);
            }
        }
    }

    fn on_tick(&mut self) {
        if let Some(since) = self.link_lost_at
            && since.elapsed() >= self.host.link_timeout
        {
            self.events.push_back(TargetEvent::LinkLost);
        }
        if self.retried_at.elapsed() >= RETRY_INTERVAL {
            self.retried_at = Instant::now();
            self.events.push_back(TargetEvent::RetryDue);
        }
        let gone = self.link_lost_at.is_some();
        self.over = self.role.phase().is_over()
            && self.told_final.is_some_and(|at| gone || at.elapsed() >= FAREWELL);
    }
}

fn forward(to: &Option<Sender<Inbound>>, inbound: Inbound) {
    if let Some(to) = to {
        // The channel holds as many slices as the window lets the peer have in flight.
        let _ = to.send(inbound);
    }
}
