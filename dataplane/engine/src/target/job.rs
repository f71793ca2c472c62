//! One job at the target: prepares a QEMU, accepts the source's offer, feeds the commit role and
//! executes what it commands. One control thread per job; the bytes go through three others (apply,
//! skeleton, return path) and the session's poll loop.

use std::collections::VecDeque;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, select, tick};
use dwcp_encode::{Applier, Root};
use dwcp_handover::{
    AbortReason, Arrival, EndpointsDigest, Fence, Notes, OpenRequest, Outcome, Start, Target,
    TargetCommand, TargetEvent, TargetPhase, TargetStatus, VmId,
};
use dwcp_qemustream::return_path::{Item, Message, ReturnPath};
use dwcp_tcp::{Body, Endpoint, Inbound, NetEvent, Outbound};
use dwcp_wire::{
    Accept, BlockId, Channel, ControlMessage, DirectBlock, Epoch, JobFacts, JobId, Mode, PAGE_BYTES,
    RailId, ReasonCode, Resumed, RootResult, SliceFlags, Stats,
};

use super::apply::{ApplyCounters, ApplyThread};
use super::launch::{LaunchPlan, Launched};
use super::memory::{self, GuestMemory};
use super::qemu::{Started, TargetQemu, check_waiting};
use super::skeleton::SkeletonWriter;
use super::{CHECK_FACT, DIRECT_ONLY_FACT, Host, JobSummary, QemuSource, RESIDENT_FACT, TICKET_FACT};
use crate::cpu;
use crate::error::{Class, Doing, EngineError, Result};
use crate::outcome;
use crate::qemu::ram::shared_backings;
use crate::qemu::{GuestFacts, RamBacking, Tuning};
use crate::qmp::Qmp;

/// How long a source may take to say what it wants.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often what got no answer is repeated.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long a source may stay after it was told the outcome.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long the last messages may take to be confirmed.
const DRAIN: Duration = Duration::from_millis(500);
/// Facts for us, not about the guest.
const OUR_FACTS: [&str; 4] = [CHECK_FACT, DIRECT_ONLY_FACT, RESIDENT_FACT, TICKET_FACT];
/// Longest read of QEMU's return path; one control message carries as much.
const RETURN_PATH_CHUNK: usize = 1024;

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
    host: Arc<Host>,
    job: JobId,
    role: Target,
    qemu: TargetQemu,
    endpoint: Endpoint,
    events: VecDeque<TargetEvent>,
    accept: Option<Accept>,
    source_root: Option<dwcp_wire::Root>,
    own_root: Option<Root>,
    slices: Option<Sender<Inbound>>,
    skeleton: Option<Sender<Inbound>>,
    root_after: Sender<u64>,
    counters: Arc<ApplyCounters>,
    control_seq: u64,
    stream_started: bool,
    rails: usize,
    link_lost_at: Option<Instant>,
    tail_passed_at: Option<Instant>,
    loaded_at: Option<Instant>,
    timings: Resumed,
    told_final: Option<Instant>,
    reason: Option<String>,
    retried_at: Instant,
    cpu_us_before: u64,
    over: bool,
}

/// The session of a job whose source has not said yet what it wants.
pub(super) struct Incoming {
    pub(super) host: Arc<Host>,
    pub(super) job: JobId,
    pub(super) endpoint: Endpoint,
    pub(super) net: Receiver<NetEvent>,
    pub(super) commands: Receiver<JobCommand>,
}

impl Incoming {
    /// Runs the job to its end.
    pub(super) fn run(self) -> JobSummary {
        let mut summary = JobSummary::new(self.job);
        let (endpoint, net) = (self.endpoint.clone(), self.net.clone());
        match self.begin(&mut summary) {
            Ok(Some((job, net, commands, events))) => job.run(net, commands, events, &mut summary),
            Ok(None) => "checked".clone_into(&mut summary.status),
            Err(error) => {
                let text = error.to_string().chars().take(1000).collect();
                let refuse = ControlMessage::Refuse { code: error.reason(), text };
                send_control(&endpoint, 0, &refuse);
                await_goodbye(&net, FAREWELL);
                summary.reason = error.to_string();
            }
        }
        endpoint.close(ReasonCode::Finished, DRAIN);
        summary
    }

    #[allow(clippy::type_complexity, reason = "taken apart at once by the only caller")]
    fn begin(
        self,
        summary: &mut JobSummary,
    ) -> Result<Option<(Job, Receiver<NetEvent>, Receiver<JobCommand>, Receiver<JobEvent>)>> {
        let facts = self.await_open()?;
        summary.vm.clone_from(&facts.vm_name);
        let fact = |name: &str| facts.facts.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let resident = fact(RESIDENT_FACT).and_then(|v| v.parse().ok());
        let declared: u64 = facts.blocks.iter().map(|b| b.used_bytes).sum();
        memory::admit(resident.unwrap_or(declared), self.host.ram_dir.as_deref())?;
        let target = self.host.targets.take(fact(TICKET_FACT), fact(CHECK_FACT).is_some())?;
        let (mut qemu, backings) = self.prepare_qemu(&facts, &target.qemu)?;
        let prepared = self.agree(&facts, &mut qemu, &backings);
        if fact(CHECK_FACT).is_some() || prepared.is_err() {
            qemu.destroy_if_launched();
            let accept = prepared?;
            send_control(&self.endpoint, 0, &ControlMessage::Accept(accept.0));
            await_goodbye(&self.net, FAREWELL);
            return Ok(None);
        }
        let (accept, memory) = prepared?;
        match self.arm(&facts, qemu, accept, memory, target.leave_paused) {
            Ok((job, events)) => Ok(Some((job, self.net, self.commands, events))),
            Err((mut qemu, error)) => {
                qemu.destroy_if_launched();
                Err(error)
            }
        }
    }

    fn await_open(&self) -> Result<JobFacts> {
        let silent = || EngineError::new(Class::Unreachable, "the source did not say what it wants");
        let deadline = Instant::now() + OPEN_TIMEOUT;
        loop {
            match self.net.recv_deadline(deadline).map_err(|_| silent())? {
                NetEvent::Inbound(inbound) if inbound.channel == Channel::Control => {
                    let message = ControlMessage::decode(inbound.body.bytes());
                    self.endpoint.consumed(inbound.channel, inbound.seq);
                    match message {
                        Ok(ControlMessage::Open(facts)) => return Ok(facts),
                        Ok(_) => return Err(silent()),
                        Err(e) => return Err(EngineError::new(Class::Failed, e.to_string())),
                    }
                }
                NetEvent::AllRailsDown | NetEvent::PeerGoodbye { .. } => return Err(silent()),
                _ => {}
            }
        }
    }

    /// Starts or takes the target QEMU and compares it with the source.
    fn prepare_qemu(
        &self,
        facts: &JobFacts,
        source: &QemuSource,
    ) -> Result<(TargetQemu, Vec<RamBacking>)> {
        let mut qemu = match source {
            QemuSource::Given(path) => {
                let mut qmp = Qmp::connect(path)?;
                check_waiting(&mut qmp)?;
                let tuning = Tuning::read(&mut qmp)?;
                TargetQemu::given(qmp, tuning)
            }
            QemuSource::Launch(file) => {
                let job = self.job.to_string();
                let run_dir = self.host.run_dir.join(&job);
                let main = facts.blocks.iter().max_by_key(|b| b.used_bytes);
                let plan = LaunchPlan {
                    job: &job,
                    run_dir: &run_dir,
                    ram_dir: self.host.ram_dir.as_deref().unwrap_or(&run_dir),
                    ram: main.map(|b| (b.name.as_str(), b.used_bytes)),
                    user: self.host.user.as_deref(),
                };
                let (mut launched, mut qmp) = Launched::start(file, &plan)?;
                match Tuning::read(&mut qmp) {
                    Ok(tuning) => TargetQemu::launched(launched, qmp, tuning, run_dir),
                    Err(e) => {
                        launched.destroy(Some(&mut qmp));
                        return Err(e.into());
                    }
                }
            }
        };
        match self.compare(facts, &mut qemu) {
            Ok(backings) => Ok((qemu, backings)),
            Err(e) => {
                qemu.destroy_if_launched();
                Err(e)
            }
        }
    }

    fn compare(&self, facts: &JobFacts, qemu: &mut TargetQemu) -> Result<Vec<RamBacking>> {
        let qmp = qemu.qmp()?;
        let own = GuestFacts::gather(qmp)?;
        let theirs: Vec<(String, String)> = facts
            .facts
            .iter()
            .filter(|(name, _)| !OUR_FACTS.contains(&name.as_str()))
            .cloned()
            .collect();
        if let Some(difference) = own.difference(&facts.machine_type, &facts.cpu_model, &theirs) {
            return Err(EngineError::new(Class::Conflict, format!("the hosts differ in {difference}")));
        }
        let blocks = crate::qemu::ram::ram_blocks(qmp)?;
        for block in &facts.blocks {
            // ROM blocks take the length the source gives them; RAM must have it already.
            let mine = blocks.iter().find(|b| b.name == block.name).map(|b| b.used_bytes);
            let rom = block.name.starts_with("/rom@");
            if mine != Some(block.used_bytes) && !(rom && mine.is_some()) {
                let found = mine.map_or("none".to_owned(), |b| format!("{b} bytes"));
                let text = format!(
                    "the hosts differ in RAM block {}: source has {} bytes, target has {found}",
                    block.name, block.used_bytes
                );
                return Err(EngineError::new(Class::Conflict, text));
            }
        }
        Ok(shared_backings(qmp)?)
    }

    /// Chooses the mode and maps the RAM that we write ourselves.
    fn agree(
        &self,
        facts: &JobFacts,
        qemu: &mut TargetQemu,
        backings: &[RamBacking],
    ) -> Result<(Accept, GuestMemory)> {
        let (major, minor, micro) = qemu.qmp()?.version();
        let mut accept = Accept {
            incarnation: 0,
            epoch: Epoch(0),
            hash_seed: facts.hash_seed,
            mode: Mode::Plain,
            qemu_version: format!("{major}.{minor}.{micro}"),
            direct_blocks: Vec::new(),
            facts: Vec::new(),
        };
        let mut memory = GuestMemory::default();
        if facts.mode == Mode::Plain {
            return Ok((accept, memory));
        }
        for block in &facts.blocks {
            let Some(backing) = backings
                .iter()
                .find(|b| b.name == block.name && b.bytes == block.used_bytes)
            else {
                continue;
            };
            memory.map(block.id, backing)?;
            accept.direct_blocks.push(DirectBlock {
                name: backing.name.clone(),
                address: backing.addr,
                bytes: backing.bytes,
            });
        }
        // A shared backing that we do not carry would be left out by QEMU as well.
        let all = backings.len() == accept.direct_blocks.len();
        if !accept.direct_blocks.is_empty() && all {
            accept.mode = Mode::Direct;
            return Ok((accept, memory));
        }
        if facts.facts.iter().any(|(name, _)| name == DIRECT_ONLY_FACT) {
            let text = "--mode direct: the target QEMU has no RAM on memory-backend-file,share=on with the source's block names";
            return Err(EngineError::new(Class::Conflict, text));
        }
        accept.direct_blocks.clear();
        Ok((accept, GuestMemory::default()))
    }

    /// From here on the job has a fence, threads and a listening QEMU.
    #[allow(clippy::type_complexity, reason = "an error must give the QEMU back")]
    fn arm(
        &self,
        facts: &JobFacts,
        mut qemu: TargetQemu,
        mut accept: Accept,
        memory: GuestMemory,
        leave_paused: bool,
    ) -> std::result::Result<(Job, Receiver<JobEvent>), (TargetQemu, EngineError)> {
        let direct = accept.mode == Mode::Direct;
        let socket = self.host.run_dir.join(format!("{}.in", self.job));
        let stream = match qemu.open_stream(&socket, direct) {
            Ok(stream) => stream,
            Err(e) => return Err((qemu, e)),
        };
        let started = self.start_threads(facts, &accept, memory, stream);
        let (threads, events) = match started {
            Ok(started) => started,
            Err(e) => return Err((qemu, e)),
        };
        let ticket = match self.host.ledger.open_job(OpenRequest {
            job: dwcp_handover::JobId(self.job.0),
            vm: VmId(if facts.vm_uuid == [0; 16] { self.job.0 } else { facts.vm_uuid }),
            above: Fence::new(0, facts.min_epoch.0),
            endpoints: EndpointsDigest::default(),
        }) {
            Ok(record) => record.ticket,
            Err(e) => return Err((qemu, e)),
        };
        accept.incarnation = ticket.fence.incarnation.0;
        accept.epoch = Epoch(ticket.fence.epoch.0);
        let mut notes = Notes::default();
        for (key, value) in qemu.notes() {
            // A path too long for a note only costs the recovery of this QEMU after a crash.
            let _ = notes.set(key, &value);
        }
        let _ = notes.set("name", &facts.vm_name.chars().take(100).collect::<String>());
        let job = Job {
            host: Arc::clone(&self.host),
            job: self.job,
            role: Target::new(ticket, leave_paused, notes),
            qemu,
            endpoint: self.endpoint.clone(),
            events: VecDeque::from([TargetEvent::QemuPrepared]),
            accept: Some(accept),
            source_root: None,
            own_root: None,
            slices: Some(threads.slices),
            skeleton: Some(threads.skeleton),
            root_after: threads.root_after,
            counters: threads.counters,
            control_seq: 0,
            stream_started: false,
            rails: 1,
            link_lost_at: None,
            tail_passed_at: None,
            loaded_at: None,
            timings: Resumed { load_us: 0, decide_us: 0, cont_us: 0 },
            told_final: None,
            reason: None,
            retried_at: Instant::now(),
            cpu_us_before: cpu::process_us(),
            over: false,
        };
        Ok((job, events))
    }

    fn start_threads(
        &self,
        facts: &JobFacts,
        accept: &Accept,
        memory: GuestMemory,
        stream: UnixStream,
    ) -> Result<(Threads, Receiver<JobEvent>)> {
        let clone = |s: &UnixStream| s.try_clone().doing(|| "the migration socket".to_owned());
        let (events_in, events) = bounded(64);
        let (slices_in, slices) = bounded(super::WINDOW as usize);
        let (skeleton_in, skeleton) = bounded(super::WINDOW as usize);
        let (root_in, root_after) = bounded(1);
        let counters = Arc::new(ApplyCounters::default());
        let mut applier = Applier::new(facts.hash, accept.hash_seed, memory);
        for block in &facts.blocks {
            if accept.direct_blocks.iter().any(|d| d.name == block.name) {
                let pages = block.used_bytes / PAGE_BYTES as u64;
                applier.add_block(BlockId(block.id.0), &block.name, pages).map_err(|e| {
                    EngineError::new(Class::Limit, format!("RAM block {}: {e}", block.name))
                })?;
            }
        }
        let apply = ApplyThread {
            applier,
            slices,
            root_after,
            endpoint: self.endpoint.clone(),
            ram_dir: self.host.ram_dir.clone(),
            counters: Arc::clone(&counters),
            events: events_in.clone(),
        };
        let writer = SkeletonWriter {
            slices: skeleton,
            stream: clone(&stream)?,
            endpoint: self.endpoint.clone(),
            events: events_in.clone(),
        };
        super::spawn("apply", move || apply.run())?;
        super::spawn("skeleton", move || writer.run())?;
        super::spawn("return-path", move || read_return_path(stream, &events_in))?;
        let threads =
            Threads { slices: slices_in, skeleton: skeleton_in, root_after: root_in, counters };
        Ok((threads, events))
    }
}

struct Threads {
    slices: Sender<Inbound>,
    skeleton: Sender<Inbound>,
    root_after: Sender<u64>,
    counters: Arc<ApplyCounters>,
}

/// Splits what QEMU says to its source; SHUT stays here.
fn read_return_path(mut stream: UnixStream, events: &Sender<JobEvent>) {
    let (mut splitter, mut bytes) = (ReturnPath::new(), Vec::new());
    let mut chunk = [0u8; RETURN_PATH_CHUNK];
    loop {
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            _ => {
                let _ = events.send(JobEvent::QemuClosed);
                return;
            }
        }
        loop {
            let event = match splitter.next_item(&bytes) {
                Ok(Some(item)) => {
                    let range = item.bytes();
                    let message = bytes[range.clone()].to_vec();
                    bytes.drain(..range.end);
                    match item {
                        Item::Message { message: Message::Shut { error }, .. } => JobEvent::Shut(error),
                        _ => JobEvent::ReturnPath(message),
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    let text = format!("the target QEMU's return path: {e}");
                    let _ = events.send(JobEvent::Failed(EngineError::new(Class::Failed, text)));
                    return;
                }
            };
            if events.send(event).is_err() {
                return;
            }
        }
    }
}

/// Sends a message outside of any job's numbering: the first and only one.
fn send_control(endpoint: &Endpoint, seq: u64, message: &ControlMessage) {
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

fn await_goodbye(net: &Receiver<NetEvent>, limit: Duration) {
    let deadline = Instant::now() + limit;
    while let Ok(event) = net.recv_deadline(deadline) {
        if matches!(event, NetEvent::AllRailsDown | NetEvent::PeerGoodbye { .. }) {
            return;
        }
    }
}

impl Job {
    fn run(
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
        self.control(&ControlMessage::RootResult(RootResult { matches: matched, root: digest, pages }));
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
                self.reason.get_or_insert(format!("the target QEMU could not load the guest ({value})"));
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

    fn execute(&mut self, command: TargetCommand) {
        match command {
            TargetCommand::PersistArrival(record) => {
                if let Err(e) = self.host.ledger.save_arrival(&record) {
                    eprintln!("{e}: ending; start receive again");
                    std::process::exit(i32::from(Class::Resource as u8));
                }
                self.events.push_back(TargetEvent::ArrivalPersisted);
            }
            TargetCommand::AcceptSource => {
                if let Some(accept) = self.accept.clone() {
                    self.control(&ControlMessage::Accept(accept));
                }
            }
            TargetCommand::Propose(decision) => {
                let began = Instant::now();
                let job = self.role.ticket().job;
                match self.host.ledger.propose(job, decision) {
                    Ok(record) => self.events.push_back(TargetEvent::Decided(record)),
                    Err(e) => eprintln!("job {job}: {e}"),
                }
                self.timings.decide_us = began.elapsed().as_micros() as u64;
            }
            TargetCommand::HandBack => match self.host.ledger.hand_back(self.role.ticket().job) {
                Ok(record) => self.events.push_back(TargetEvent::Decided(record)),
                Err(e) => eprintln!("job {}: {e}", self.job),
            },
            TargetCommand::Cont => self.cont(),
            TargetCommand::AnnounceSelf => self.qemu.announce(),
            TargetCommand::RestoreCapabilities => {
                if let Err(e) = self.qemu.restore() {
                    eprintln!("job {}: migration settings were not put back: {e}", self.job);
                }
                self.qemu.release();
            }
            TargetCommand::TellSource(outcome) => self.tell(outcome),
            TargetCommand::InspectQemu => {
                let state = self.qemu.inspect();
                self.events.push_back(TargetEvent::QemuInspected(state));
            }
            TargetCommand::DestroyQemu => self.destroy(),
            TargetCommand::Report(status) => self.report(&status),
        }
    }

    fn cont(&mut self) {
        let began = Instant::now();
        let started = self.qemu.cont();
        self.timings.cont_us = began.elapsed().as_micros() as u64;
        self.events.push_back(match started {
            Started::Running => TargetEvent::Resumed,
            Started::Refused { never_left_paused } => TargetEvent::ContFailed { never_left_paused },
            Started::Gone => TargetEvent::QemuLost,
        });
    }

    fn destroy(&mut self) {
        // Their ends first: the writer may be blocked on a QEMU that does not read.
        self.slices = None;
        self.skeleton = None;
        if self.qemu.destroy() {
            self.host.ledger.forget_arrival(self.role.ticket().job);
            self.events.push_back(TargetEvent::QemuDestroyed);
        }
    }

    fn tell(&mut self, outcome: Outcome) {
        let is_final = match outcome {
            Outcome::Aborted { .. } => true,
            Outcome::Committed { arrival, .. } => {
                matches!(arrival, Arrival::Running | Arrival::LeftPaused | Arrival::Lost)
            }
            _ => false,
        };
        if is_final {
            let stats = Stats {
                engine_cpu_us: cpu::process_us().saturating_sub(self.cpu_us_before),
                rx_bytes: self.endpoint.stats().rx_bytes,
                pages_written: self.counters.pages.load(Relaxed),
                huge_bytes: self.counters.huge_bytes.load(Relaxed),
            };
            self.control(&ControlMessage::Stats(stats));
            self.control(&ControlMessage::Resumed(self.timings));
            self.told_final.get_or_insert_with(Instant::now);
        }
        let message = outcome::to_wire(self.role.ticket().job, outcome);
        self.control(&ControlMessage::Outcome(message));
    }

    fn report(&mut self, status: &TargetStatus) {
        match status {
            TargetStatus::Arrived(arrival) => {
                self.told_final.get_or_insert_with(Instant::now);
                eprintln!("job {}: the guest has arrived ({arrival})", self.job);
            }
            TargetStatus::Aborted { reason, .. } => {
                self.told_final.get_or_insert_with(Instant::now);
                let text = self.reason.as_deref().unwrap_or("");
                eprintln!("job {}: aborted ({reason}) {text}", self.job);
            }
            TargetStatus::ContFailed => {
                eprintln!("job {}: the guest does not resume; looking again", self.job);
            }
        }
    }

    fn control(&mut self, message: &ControlMessage) {
        send_control(&self.endpoint, self.control_seq, message);
        self.control_seq += 1;
    }
}

fn forward(to: &Option<Sender<Inbound>>, inbound: Inbound) {
    if let Some(to) = to {
        // The channel holds as many slices as the window lets the peer have in flight.
        let _ = to.send(inbound);
    }
}

