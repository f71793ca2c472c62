//! The child of `send`: opens the session, reads QEMU's stream, moves the bytes. It obeys its parent
//! over a pipe and ends when the pipe closes; a kill at any moment closes QEMU's socket and the
//! session, and nothing else. The main thread here waits for events; others do the work.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, never, select, tick};
use dwcp_encode::Answer;
use dwcp_hostmem::{Arena, HugePages};
use dwcp_qemustream::return_path::{Item, Message, ReturnPath};
use dwcp_tcp::{Body, Endpoint, EndpointConfig, Inbound, NetEvent, Outbound, handshake};
use dwcp_wire::{
    Accept, BlockId, BlockInfo, Channel, ControlMessage, Epoch, Hello, HelloReply, JobFacts, JobId,
    Mode, Purpose, RailId, ReasonCode, Root, SliceFlags,
};

use super::PROGRESS_INTERVAL;
use super::asking::UNANSWERED_MAX;
use super::intake::IntakeEvent;
use super::keeping::Keeping;
use super::pipeline::{Pipeline, PipelineConfig};
use super::shared::Shared;
use crate::cpu;
use crate::error::{Class, Doing, EngineError, Result, class_of};
use crate::ipc::{self, ChildPlan, Counters, FromChild, OutcomeLine, ToChild, WantedMode};
use crate::slots::SLOT_BYTES;
use crate::target::STORE_FACT;

/// How long a connection and its handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the target may take to accept; it may start a QEMU.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(40);
/// How long a lost connection waits before the next attempt.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(250);
/// Slots besides those in flight: intake, encoders, queues.
const SPARE_SLOTS: usize = 20;
/// Streams when nobody says how many.
const STREAMS_DEFAULT: u16 = 2;
/// How long the last messages may take to be confirmed.
const DRAIN: Duration = Duration::from_millis(300);
/// SHUT(0) as QEMU's return path carries it: type 1, length 4, value 0.
const SHUT: [u8; 8] = [0, 1, 0, 4, 0, 0, 0, 0];
/// How long the source QEMU may take to close its socket after SHUT.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the child; returns when the job is over or the parent has gone.
pub fn run() {
    let (commands_in, commands) = bounded(64);
    std::thread::spawn(move || {
        let mut lines = BufReader::new(std::io::stdin());
        while let Some(message) = ipc::read_line(&mut lines) {
            if commands_in.send(message).is_err() {
                return;
            }
        }
        let _ = commands_in.send(ToChild::ParentGone);
    });
    let Ok(ToChild::Start(plan)) = commands.recv() else { return };
    let started = Child::start(&plan);
    match started {
        Ok(mut child) => child.serve(&commands),
        Err(e) => say(&FromChild::Refused { class: e.class(), text: e.to_string() }),
    }
}

fn say(message: &FromChild) {
    // A parent that has gone shows as a closed standard input.
    let _ = ipc::write_line(std::io::stdout().lock(), message);
}

/// A connection whose handshake is done.
type NewRail = (TcpStream, RailId);

/// The session to the target and what hangs on it.
struct Child {
    plan: ChildPlan,
    to: SocketAddr,
    job: JobId,
    endpoint: Endpoint,
    net: Receiver<NetEvent>,
    arena: Arc<Arena>,
    token: [u8; 16],
    accept: Accept,
    shared: Arc<Shared>,
    control_seq: u64,
    next_rail: u16,
    rails: usize,
    link_lost_at: Option<Instant>,
    joined: (Sender<NewRail>, Receiver<NewRail>),
    answers: (Sender<Answer>, Receiver<Answer>),
    keeping: Option<Keeping>,
    joining: bool,
    held_ack: Option<Vec<u8>>,
    switchover_allowed: bool,
    start_paused: bool,
    return_path: ReturnPath,
    return_bytes: Vec<u8>,
    to_qemu: Option<UnixStream>,
    root: Option<(dwcp_encode::Root, u64)>,
    root_sent: bool,
    tail: Option<(Vec<u8>, u64)>,
    go_granted: bool,
    decide_us: u64,
    target_cpu_us: u64,
}

impl Child {
    fn start(plan: &ChildPlan) -> Result<Self> {
        let wrong = |what: &str| EngineError::new(Class::Usage, format!("{what} in the plan"));
        let job: JobId = plan.job.parse().map_err(|_| wrong("no job id"))?;
        let to: SocketAddr = plan.to.parse().map_err(|_| wrong("no address"))?;
        let hello = Hello::new(Purpose::Open, job, RailId(0), [0; 16]);
        let (stream, reply) = connect(to, &hello)?;
        let window = reply.window_slices.clamp(2, 4096);
        let arena =
            Arena::new(window as usize + SPARE_SLOTS + UNANSWERED_MAX, SLOT_BYTES, HugePages::Auto)
                .map_err(|e| EngineError::new(Class::Resource, format!("the arena: {e}")))?;
        let mut config = EndpointConfig::new(job.tag(), Epoch(0), Arc::clone(&arena));
        config.session.window_out_slices = window;
        config.session.window_in_slices = crate::target::SOURCE_WINDOW;
        config.session.rate_bytes_per_s = plan.rate_bytes_per_s;
        config.session.stall_ns = crate::target::STALL_NS;
        config.payload_max_out = reply.payload_max;
        config.poll = plan.poll.to_tcp();
        "dwcp-source".clone_into(&mut config.label);
        let (endpoint, net) = Endpoint::start(config)
            .map_err(|e| EngineError::new(Class::Resource, format!("the network loop: {e}")))?;
        endpoint.add_rail(stream, RailId(0)).map_err(|_| session_ended())?;
        let mut child = Self {
            plan: plan.clone(),
            to,
            job,
            endpoint,
            net,
            arena,
            token: reply.token,
            accept: no_accept(),
            shared: Arc::new(Shared::default()),
            control_seq: 0,
            next_rail: 1,
            rails: 1,
            link_lost_at: None,
            joined: bounded(16),
            answers: bounded(UNANSWERED_MAX),
            keeping: None,
            joining: false,
            held_ack: None,
            switchover_allowed: false,
            start_paused: false,
            return_path: ReturnPath::new(),
            return_bytes: Vec::new(),
            to_qemu: None,
            root: None,
            root_sent: false,
            tail: None,
            go_granted: false,
            decide_us: 0,
            target_cpu_us: 0,
        };
        child.open()?;
        Ok(child)
    }

    /// Offers the job and waits for the target's word; then the other streams join.
    fn open(&mut self) -> Result<()> {
        self.control(&ControlMessage::Open(job_facts(&self.plan)))?;
        let deadline = Instant::now() + ACCEPT_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.net.recv_timeout(left).map_err(|_| {
                EngineError::new(Class::Unreachable, format!("{} does not answer", self.to))
            })?;
            match event {
                NetEvent::Inbound(inbound) => match self.control_of(&inbound)? {
                    Some(ControlMessage::Accept(accept)) => {
                        self.accept = accept;
                        break;
                    }
                    Some(
                        ControlMessage::Refuse { code, text }
                        | ControlMessage::Failed { code, text },
                    ) => return Err(EngineError::new(class_of(code), text)),
                    _ => {}
                },
                NetEvent::RailDown { reason, .. } => {
                    let text = format!("{} was lost before it accepted: {reason}", self.to);
                    return Err(EngineError::new(Class::Unreachable, text));
                }
                _ => {}
            }
        }
        if self.plan.check_only {
            return Ok(());
        }
        let streams = self.plan.streams.unwrap_or(STREAMS_DEFAULT);
        for _ in 1..streams {
            let (stream, rail) = self.join()?;
            self.endpoint.add_rail(stream, rail).map_err(|_| session_ended())?;
            self.rails += 1;
        }
        Ok(())
    }

    fn join(&mut self) -> Result<(TcpStream, RailId)> {
        let rail = RailId(self.next_rail);
        self.next_rail = self.next_rail.wrapping_add(1);
        let hello = Hello::new(Purpose::Join, self.job, rail, self.token);
        connect(self.to, &hello).map(|(stream, _)| (stream, rail))
    }

    fn serve(&mut self, commands: &Receiver<ToChild>) {
        say(&FromChild::Accepted {
            incarnation: self.accept.incarnation,
            epoch: self.accept.epoch.0,
            mode: if self.accept.mode == Mode::Direct { "direct" } else { "plain" }.to_owned(),
            streams: self.rails as u32,
        });
        if self.plan.check_only {
            let text = "only a check".to_owned();
            let _ = self.control(&ControlMessage::Abort { code: ReasonCode::Finished, text });
            self.endpoint.close(ReasonCode::Finished, DRAIN);
            return;
        }
        match self.work(commands) {
            Ok(()) => say(&FromChild::Finished(self.counters())),
            Err(e) => say(&FromChild::Failed { class: e.class(), text: e.to_string() }),
        }
        self.shared.abort.store(true, Relaxed);
        self.endpoint.close(ReasonCode::Finished, DRAIN);
        if let Some(text) = self.keeping.take().and_then(Keeping::keep) {
            say(&FromChild::Kept { text });
        }
    }

    fn work(&mut self, commands: &Receiver<ToChild>) -> Result<()> {
        let qemu = self.await_qemu(commands)?;
        let Some(qemu) = qemu else { return Ok(()) };
        self.to_qemu = Some(qemu.try_clone().doing(|| "the migration socket".to_owned())?);
        let mut pipeline = Pipeline::start(
            PipelineConfig { plan: &self.plan, accept: &self.accept, answers: self.answers() },
            qemu,
            &self.endpoint,
            &self.arena,
            &self.shared,
        )?;
        let progress = tick(PROGRESS_INTERVAL);
        let (net, joined) = (self.net.clone(), self.joined.1.clone());
        let mut intake = pipeline.events.clone();
        loop {
            select! {
                recv(commands) -> command => {
                    if self.on_command(command.unwrap_or(ToChild::ParentGone), &mut pipeline)? {
                        return Ok(());
                    }
                }
                recv(net) -> event => match event {
                    Ok(event) => self.on_net(event)?,
                    Err(_) => return Err(session_ended()),
                },
                recv(intake) -> event => match event {
                    Ok(IntakeEvent::Closed { .. }) if self.to_qemu.is_none() => return Ok(()),
                    Ok(event) => self.on_intake(event)?,
                    Err(_) => intake = never(),
                },
                recv(joined) -> rail => self.on_joined(rail.ok())?,
                recv(progress) -> _ => self.on_tick()?,
            }
        }
    }

    /// Listens where the parent will point QEMU to.
    fn await_qemu(&mut self, commands: &Receiver<ToChild>) -> Result<Option<UnixStream>> {
        let path = self.plan.listen.clone();
        let listener =
            UnixListener::bind(&path).doing(|| format!("listening on {}", path.display()))?;
        listener.set_nonblocking(true).doing(|| "listening for QEMU".to_owned())?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    let _ = std::fs::remove_file(&path);
                    stream.set_nonblocking(false).doing(|| "the migration socket".to_owned())?;
                    return Ok(Some(stream));
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(EngineError::io("accepting QEMU's stream", e)),
            }
            match commands.recv_timeout(Duration::from_millis(2)) {
                Ok(ToChild::Abort { reason }) => {
                    self.say_abort(&reason);
                    let _ = std::fs::remove_file(&path);
                    return Ok(None);
                }
                Ok(ToChild::ParentGone) => {
                    let _ = std::fs::remove_file(&path);
                    return Ok(None);
                }
                Ok(ToChild::AllowSwitchover { start_paused }) => {
                    self.allow_switchover(start_paused);
                }
                _ => {}
            }
            while let Ok(event) = self.net.try_recv() {
                self.on_net(event)?;
            }
        }
    }

    /// True when the job ends here.
    fn on_command(&mut self, command: ToChild, pipeline: &mut Pipeline) -> Result<bool> {
        match command {
            ToChild::AllowSwitchover { start_paused } => {
                self.allow_switchover(start_paused);
                self.release_held_ack()?;
            }
            ToChild::Go => {
                self.go_granted = true;
                if let Some((tail, seq)) = self.tail.take() {
                    pipeline.send_tail(&tail, seq)?;
                }
            }
            ToChild::ReleaseShut => {
                self.release_shut(pipeline);
                return Ok(true);
            }
            ToChild::SetRate { bytes_per_s } => {
                let _ = self.endpoint.set_rate((bytes_per_s > 0).then_some(bytes_per_s));
            }
            ToChild::Abort { reason } => {
                // QEMU's socket first: its monitor may hang in a write until then.
                self.cut_qemu();
                self.say_abort(&reason);
                return Ok(true);
            }
            ToChild::ParentGone => return Ok(true),
            ToChild::Start(_) => {}
        }
        Ok(false)
    }

    fn allow_switchover(&mut self, start_paused: bool) {
        self.switchover_allowed = true;
        self.start_paused = start_paused;
        self.shared.stopped.store(true, Relaxed);
    }

    fn say_abort(&mut self, reason: &str) {
        let text = reason.chars().take(500).collect();
        let _ = self.control(&ControlMessage::Abort { code: ReasonCode::Cancelled, text });
    }

    fn cut_qemu(&mut self) {
        if let Some(stream) = self.to_qemu.take() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Lets SHUT(0) through and waits for QEMU to close: it is `completed` then.
    fn release_shut(&mut self, pipeline: &Pipeline) {
        if let Some(mut stream) = self.to_qemu.take() {
            let _ = stream.write_all(&SHUT);
        }
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while let Ok(event) = pipeline.events.recv_deadline(deadline) {
            match event {
                IntakeEvent::Closed { keeping } => return self.keeping = Some(keeping),
                IntakeEvent::Failed(_) => return,
                _ => {}
            }
        }
    }

    fn on_net(&mut self, event: NetEvent) -> Result<()> {
        match event {
            NetEvent::Inbound(inbound) => {
                if let Some(message) = self.control_of(&inbound)? {
                    self.on_control(message)?;
                }
            }
            NetEvent::RailUp { .. } => {}
            NetEvent::RailDown { reason, .. } => {
                self.rails = self.rails.saturating_sub(1);
                if self.rails == 0 {
                    self.link_lost(&reason.to_string())?;
                }
                self.rejoin();
            }
            NetEvent::AllRailsDown => {}
            NetEvent::PeerGoodbye { .. } => {
                return Err(EngineError::new(Class::Unreachable, "the target left the session"));
            }
            NetEvent::Fatal(e) => {
                return Err(EngineError::new(Class::Resource, format!("the network loop: {e}")));
            }
        }
        Ok(())
    }

    /// Where answers come from, when the target has a store to look into.
    fn answers(&self) -> Option<Receiver<Answer>> {
        let has_store = self.accept.facts.iter().any(|(name, _)| name == STORE_FACT);
        let asks = has_store && self.accept.mode == Mode::Direct;
        asks.then(|| self.answers.1.clone())
    }

    fn on_answers(&self, bytes: &[u8]) -> Result<()> {
        let wrong = |text: String| EngineError::new(Class::Failed, format!("the target: {text}"));
        for answer in Answer::decode_all(bytes).map_err(|e| wrong(e.to_string()))? {
            // The channel has room for every slice that may ask.
            self.answers.0.try_send(answer).map_err(|_| wrong("too many answers".to_owned()))?;
        }
        Ok(())
    }

    fn link_lost(&mut self, reason: &str) -> Result<()> {
        if self.go_granted {
            // The parent asks the ledger from here on; nothing else can help.
            return Err(EngineError::new(
                Class::Unreachable,
                format!("the connection broke after the last slice: {reason}"),
            ));
        }
        self.link_lost_at = Some(Instant::now());
        say(&FromChild::LinkDown { reason: reason.to_owned() });
        Ok(())
    }

    /// Joins again in a thread of its own: connecting blocks.
    fn rejoin(&mut self) {
        if self.joining {
            return;
        }
        self.joining = true;
        let rail = RailId(self.next_rail);
        self.next_rail = self.next_rail.wrapping_add(1);
        let hello = Hello::new(Purpose::Join, self.job, rail, self.token);
        let (to, joined, shared) = (self.to, self.joined.0.clone(), Arc::clone(&self.shared));
        std::thread::spawn(move || {
            while !shared.aborted() {
                std::thread::sleep(RECONNECT_INTERVAL);
                if let Ok((stream, _)) = connect(to, &hello) {
                    let _ = joined.send((stream, rail));
                    return;
                }
            }
        });
    }

    fn on_joined(&mut self, rail: Option<(TcpStream, RailId)>) -> Result<()> {
        self.joining = false;
        let Some((stream, rail)) = rail else { return Ok(()) };
        self.endpoint.add_rail(stream, rail).map_err(|_| session_ended())?;
        self.rails += 1;
        if self.link_lost_at.take().is_some() {
            say(&FromChild::LinkUp);
        }
        let wanted = usize::from(self.plan.streams.unwrap_or(STREAMS_DEFAULT));
        if self.rails < wanted {
            self.rejoin();
        }
        Ok(())
    }

    fn on_control(&mut self, message: ControlMessage) -> Result<()> {
        match message {
            ControlMessage::ReturnPath(bytes) => self.on_return_path(&bytes),
            ControlMessage::RootResult(result) => {
                let root = self.root.as_ref().map(|(root, _)| hex(&root.digest));
                say(&FromChild::Roots {
                    matches: result.matches,
                    root: root.unwrap_or_default(),
                    algorithm: if self.accept.mode == Mode::Direct { "page" } else { "none" }
                        .into(),
                });
                Ok(())
            }
            ControlMessage::Resumed(resumed) => {
                self.decide_us = resumed.decide_us;
                Ok(())
            }
            ControlMessage::Stats(stats) => {
                self.target_cpu_us = stats.engine_cpu_us;
                Ok(())
            }
            ControlMessage::Outcome(outcome) => {
                say(&FromChild::Decided {
                    outcome: OutcomeLine::new(&outcome),
                    decide_us: self.decide_us,
                    target_cpu_us: self.target_cpu_us,
                });
                Ok(())
            }
            ControlMessage::Failed { code, text } | ControlMessage::Refuse { code, text } => {
                Err(EngineError::new(class_of(code), format!("the target: {text}")))
            }
            _ => Ok(()),
        }
    }

    /// Passes the target QEMU's words on to ours, but holds the one that allows the switch-over.
    fn on_return_path(&mut self, bytes: &[u8]) -> Result<()> {
        self.return_bytes.extend_from_slice(bytes);
        loop {
            let item = self
                .return_path
                .next_item(&self.return_bytes)
                .map_err(|e| EngineError::new(Class::Failed, format!("return path: {e}")))?;
            let Some(item) = item else { return Ok(()) };
            let range = item.bytes();
            let message = self.return_bytes[range.clone()].to_vec();
            self.return_bytes.drain(..range.end);
            match item {
                Item::Message { message: Message::SwitchoverAck, .. } => {
                    self.held_ack = Some(message);
                    self.release_held_ack()?;
                }
                // The target holds SHUT until it has decided; it never comes this way.
                Item::Message { message: Message::Shut { .. }, .. } => {}
                _ => self.write_to_qemu(&message)?,
            }
        }
    }

    fn release_held_ack(&mut self) -> Result<()> {
        match self.held_ack.take() {
            Some(message) if self.switchover_allowed => self.write_to_qemu(&message),
            held => {
                self.held_ack = held;
                Ok(())
            }
        }
    }

    fn write_to_qemu(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.to_qemu {
            Some(stream) => stream.write_all(bytes).doing(|| "QEMU's return path".to_owned()),
            None => Ok(()),
        }
    }

    fn on_intake(&mut self, event: IntakeEvent) -> Result<()> {
        match event {
            IntakeEvent::RamEnd { root, slices } => {
                say(&FromChild::RamEnd);
                self.root = Some((root, slices));
                self.send_root()
            }
            IntakeEvent::Tail { bytes, seq } => {
                self.tail = Some((bytes, seq));
                say(&FromChild::GoWanted);
                Ok(())
            }
            IntakeEvent::Closed { .. } => {
                Err(EngineError::new(Class::Failed, "QEMU closed its migration socket"))
            }
            IntakeEvent::Failed(error) => Err(error),
        }
    }

    fn send_root(&mut self) -> Result<()> {
        let Some((root, slices)) = &self.root else { return Ok(()) };
        if self.root_sent {
            return Ok(());
        }
        let message = ControlMessage::Root(Root {
            algorithm: root.algorithm,
            root: root.digest,
            pages: root.pages,
            slices: *slices,
            start_paused: self.start_paused,
        });
        self.root_sent = true;
        self.control(&message)
    }

    fn on_tick(&mut self) -> Result<()> {
        say(&FromChild::Progress(self.counters()));
        let limit = Duration::from_millis(self.plan.link_timeout_ms);
        match self.link_lost_at {
            Some(since) if since.elapsed() > limit => Err(EngineError::new(
                Class::Unreachable,
                format!("no connection to {} for {} s (--link-timeout)", self.to, limit.as_secs()),
            )),
            _ => Ok(()),
        }
    }

    fn counters(&self) -> Counters {
        let stats = self.endpoint.stats();
        Counters {
            guest_bytes: self.shared.pages_in.load(Relaxed) * dwcp_wire::PAGE_BYTES as u64,
            pages: self.shared.kinds(),
            known_by: self.shared.known_by(),
            wire_tx_bytes: stats.tx_bytes,
            wire_rx_bytes: stats.rx_bytes,
            resent_bytes: stats.resent_bytes,
            unacked_bytes: self.endpoint.unacked().1,
            unencoded_bytes: self.shared.unencoded_bytes.load(Relaxed),
            rtt_us: stats.rtt_us,
            streams: self.rails as u32,
            cpu_us: cpu::process_us(),
            level: self.shared.level.load(Relaxed),
        }
    }

    fn control(&mut self, message: &ControlMessage) -> Result<()> {
        let body = crate::ask::encoded(message)?;
        let seq = self.control_seq;
        self.control_seq += 1;
        self.endpoint
            .submit(Outbound {
                channel: Channel::Control,
                seq,
                generation: 0,
                flags: SliceFlags::NONE,
                not_before: None,
                body: Body::Small(body),
            })
            .map_err(|_| session_ended())
    }

    /// The control message in a slice. The Pages channel carries answers towards the source.
    fn control_of(&self, inbound: &Inbound) -> Result<Option<ControlMessage>> {
        let message = match inbound.channel {
            Channel::Control => {
                Some(ControlMessage::decode(inbound.body.bytes()).map_err(|e| {
                    EngineError::new(Class::Failed, format!("the target's message: {e}"))
                })?)
            }
            Channel::Pages => {
                self.on_answers(inbound.body.bytes())?;
                None
            }
            _ => None,
        };
        self.endpoint.consumed(inbound.channel, inbound.seq);
        Ok(message)
    }
}

fn session_ended() -> EngineError {
    EngineError::new(Class::Unreachable, "the session with the target has ended")
}

fn connect(to: SocketAddr, hello: &Hello) -> Result<(TcpStream, HelloReply)> {
    handshake::connect(to, hello, CONNECT_TIMEOUT).map_err(|e| match e {
        handshake::HandshakeError::Refused { code, .. } => {
            EngineError::new(class_of(code), format!("{to}: {e}"))
        }
        handshake::HandshakeError::Wire(_) => {
            EngineError::new(Class::Conflict, format!("{to} is no receive of ours: {e}"))
        }
        _ => EngineError::new(Class::Unreachable, format!("connecting to {to}: {e}")),
    })
}

fn job_facts(plan: &ChildPlan) -> JobFacts {
    let mut facts = plan.facts.pairs();
    if plan.check_only {
        facts.push((crate::target::CHECK_FACT.to_owned(), "yes".to_owned()));
    }
    if plan.mode == WantedMode::Direct {
        facts.push((crate::target::DIRECT_ONLY_FACT.to_owned(), "yes".to_owned()));
    }
    if let Some(ticket) = &plan.ticket {
        facts.push((crate::target::TICKET_FACT.to_owned(), ticket.clone()));
    }
    if let Some(bytes) = plan.facts.resident_bytes {
        facts.push((crate::target::RESIDENT_FACT.to_owned(), bytes.to_string()));
    }
    let blocks = plan.blocks.iter().enumerate().map(|(id, block)| BlockInfo {
        id: BlockId(id as u16),
        name: block.name.clone(),
        used_bytes: block.used_bytes,
        page_bytes: dwcp_wire::PAGE_BYTES as u32,
        taken_out: plan.mode != WantedMode::Plain,
    });
    JobFacts {
        vm_uuid: plan.facts.uuid,
        vm_name: plan.facts.name.clone(),
        qemu_version: plan.facts.qemu_version.clone(),
        machine_type: plan.facts.machine_type.clone(),
        cpu_model: plan.facts.cpu_model.clone(),
        mode: if plan.mode == WantedMode::Plain { Mode::Plain } else { Mode::Direct },
        hash: plan.hash.to_wire(),
        hash_seed: uuid::Uuid::new_v4().as_u64_pair().0,
        facts,
        blocks: blocks.collect(),
        max_downtime_ms: plan.max_downtime_ms as u32,
        min_epoch: Epoch(plan.min_epoch),
    }
}

fn no_accept() -> Accept {
    Accept {
        incarnation: 0,
        epoch: Epoch(0),
        hash_seed: 0,
        mode: Mode::Plain,
        qemu_version: String::new(),
        direct_blocks: Vec::new(),
        facts: Vec::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
