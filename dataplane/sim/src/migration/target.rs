//! The target host: QEMU with its RAM file, the engine with the production role, ledger and
//! applier, and the disk with their records.

use std::collections::VecDeque;

use dwcp_encode::Applier;
use dwcp_handover::{
    Arrival, Decision, DecisionRecord, DecisionState, Incarnation, Ledger, Notes, QemuState,
    Record, Target, TargetCommand, TargetEvent, TargetPhase, TargetRecord, Ticket,
};
use dwcp_session::OutboundMeta;
use dwcp_wire::{BlockId, Channel, ControlMessage, HashAlgorithm, Root, RootResult, SliceFlags};

use super::child::{SEED, tail_start};
use super::guest::{BLOCKS, Memory, RamFile, TargetQemu};
use super::{Mail, RETRY_NS};
use crate::endpoint::Endpoint;
use crate::{Broken, Rng};

/// What the engine keeps of the stream; gone after a restart.
pub(super) struct Receiver {
    pub(super) endpoint: Endpoint,
    applier: Applier<RamFile>,
    pages_slices: u64,
    skeleton_slices: u64,
    root: Option<Root>,
    roots_compared: bool,
    control_sent: u64,
    /// Since when it has no rail.
    pub(super) cut_off_since_ns: Option<u64>,
}

pub(super) struct Engine {
    pub(super) role: Target,
    ledger: Ledger,
    pub(super) todo: VecDeque<TargetCommand>,
    pub(super) inbox: VecDeque<TargetEvent>,
    pub(super) ready_at_ns: u64,
    retry_at_ns: u64,
    pub(super) receiver: Option<Receiver>,
}

impl Engine {
    pub(super) fn is_done(&self) -> bool {
        self.todo.is_empty() && self.role.phase().is_over()
    }
}

/// How a `cont` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContFate {
    Runs,
    Refused,
    /// It runs, but the monitor broke before anyone heard.
    Unheard,
}

pub(super) struct TargetHost {
    pub(super) qemu: TargetQemu,
    pub(super) ram: RamFile,
    pub(super) engine: Option<Engine>,
    decision_disk: Vec<u8>,
    /// What the bytes on the disk say.
    pub(super) on_disk: DecisionState,
    arrival_disk: Option<Vec<u8>>,
    pub(super) restarts_at_ns: Option<u64>,
    /// The guest ran here at some time.
    pub(super) has_run: bool,
    pub(super) cont_fate: ContFate,
    /// The first decision that became durable.
    pub(super) decided: Option<Decision>,
    rng: Rng,
}

impl TargetHost {
    pub(super) fn new(ticket: Ticket, ledger: Ledger, endpoint: Endpoint, rng: Rng) -> Self {
        let ram = RamFile::default();
        let mut applier = Applier::new(HashAlgorithm::Xxh3, SEED, ram.clone());
        for (id, name, pages) in BLOCKS {
            applier.add_block(BlockId(id), name, pages).expect("blocks of the model");
        }
        let receiver = Receiver {
            endpoint,
            applier,
            pages_slices: 0,
            skeleton_slices: 0,
            root: None,
            roots_compared: false,
            control_sent: 0,
            cut_off_since_ns: None,
        };
        let record = DecisionRecord { ticket, state: DecisionState::Open };
        let engine = Engine {
            role: Target::new(ticket, false, Notes::default()),
            ledger,
            todo: VecDeque::new(),
            inbox: VecDeque::from([TargetEvent::QemuPrepared]),
            ready_at_ns: 0,
            retry_at_ns: RETRY_NS,
            receiver: Some(receiver),
        };
        Self {
            qemu: TargetQemu::Incoming,
            ram,
            engine: Some(engine),
            decision_disk: record.encode(),
            on_disk: record.state,
            arrival_disk: None,
            restarts_at_ns: None,
            has_run: false,
            cont_fate: ContFate::Runs,
            decided: None,
            rng,
        }
    }

    pub(super) fn tell(&mut self, event: TargetEvent) {
        if let Some(engine) = &mut self.engine {
            engine.inbox.push_back(event);
        }
    }

    /// kill -9 of the engine; QEMU and its RAM file stay.
    pub(super) fn kill_engine(&mut self, restarts_at_ns: u64) {
        self.engine = None;
        self.restarts_at_ns = Some(restarts_at_ns);
    }

    pub(super) fn restart(&mut self, now: u64) -> Result<(), Broken> {
        self.restarts_at_ns = None;
        let decision = DecisionRecord::decode(&self.decision_disk);
        let decision = decision.map_err(|error| format!("ledger: {error}"))?;
        let arrival = self.arrival_disk.as_ref().map(|bytes| TargetRecord::decode(bytes));
        let arrival = arrival.transpose().map_err(|error| format!("target record: {error}"))?;
        let ledger = Ledger::recover(Incarnation(1), [decision]).map_err(|e| e.to_string())?;
        let (role, todo) = Target::recover(decision, arrival);
        self.engine = Some(Engine {
            role,
            ledger,
            todo: todo.into(),
            inbox: VecDeque::new(),
            ready_at_ns: now,
            retry_at_ns: now + RETRY_NS,
            receiver: None,
        });
        Ok(())
    }

    pub(super) fn is_over(&self) -> bool {
        self.engine.as_ref().is_some_and(Engine::is_done)
    }

    /// The target QEMU ends; the monitor says so.
    pub(super) fn kill_qemu(&mut self) {
        self.qemu = TargetQemu::Gone;
        self.tell(TargetEvent::QemuLost);
    }

    // ---- the stream ----------------------------------------------------------------------------

    /// Acts on what the source sent.
    pub(super) fn consume(&mut self, now: u64) -> Result<bool, Broken> {
        let mut done = false;
        while let Some(receiver) = self.receiver() {
            let Some(((channel, seq), body)) = receiver.endpoint.consume(now)? else { break };
            done = true;
            if receiver.pages_slices + receiver.skeleton_slices == 0 {
                self.tell(TargetEvent::StreamStarted);
            }
            match channel {
                Channel::Pages => self.apply(seq, &body)?,
                Channel::Skeleton => self.skeleton(now, seq, &body)?,
                _ => self.control(&body)?,
            }
            self.compare_roots()?;
        }
        Ok(done)
    }

    fn receiver(&mut self) -> Option<&mut Receiver> {
        self.engine.as_mut()?.receiver.as_mut()
    }

    fn apply(&mut self, seq: u64, body: &[u8]) -> Result<(), Broken> {
        let Some(receiver) = self.receiver() else { return Ok(()) };
        receiver.pages_slices += 1;
        let applied = receiver.applier.apply(seq, body);
        applied.map(|_| ()).map_err(|error| format!("slice {seq}: {error}"))
    }

    fn skeleton(&mut self, now: u64, seq: u64, body: &[u8]) -> Result<(), Broken> {
        let load_ns = self.rng.log_between(10_000, 50_000_000);
        let Some(receiver) = self.receiver() else { return Ok(()) };
        receiver.skeleton_slices += 1;
        if let Some(start) = tail_start(body) {
            if !receiver.roots_compared {
                return Err("the tail came before the roots were compared".to_owned());
            }
            self.tell(TargetEvent::TailReceived { start });
            if self.qemu == TargetQemu::Incoming {
                self.qemu = TargetQemu::Loading(now + load_ns);
            }
            return Ok(());
        }
        let expected = seq.to_le_bytes();
        if body == expected { Ok(()) } else { Err(format!("skeleton {seq} holds {body:?}")) }
    }

    fn control(&mut self, body: &[u8]) -> Result<(), Broken> {
        let message = ControlMessage::decode(body).map_err(|error| error.to_string())?;
        let ControlMessage::Root(root) = message else {
            return Err(format!("the source sent {message:?}"));
        };
        if let Some(receiver) = self.receiver() {
            receiver.root = Some(root);
        }
        Ok(())
    }

    /// Compares once the root and every slice under it are here.
    fn compare_roots(&mut self) -> Result<(), Broken> {
        let Some(receiver) = self.receiver() else { return Ok(()) };
        let due = receiver.root.as_ref().filter(|root| receiver.pages_slices >= root.slices);
        let Some(theirs) = due.filter(|_| !receiver.roots_compared) else { return Ok(()) };
        let ours = receiver.applier.root();
        let matches = (ours.digest, ours.pages) == (theirs.root, theirs.pages);
        receiver.roots_compared = true;
        let result = RootResult { matches, root: ours.digest, pages: ours.pages };
        let mut body = Vec::new();
        let message = ControlMessage::RootResult(result);
        message.encode(&mut body).map_err(|error| error.to_string())?;
        let meta = OutboundMeta {
            channel: Channel::Control,
            seq: receiver.control_sent,
            bytes: u32::try_from(body.len()).map_err(|error| error.to_string())?,
            flags: SliceFlags::NONE,
            not_before: None,
        };
        receiver.control_sent += 1;
        if !receiver.endpoint.submit(meta, body)? {
            return Err("no room for a single control slice".to_owned());
        }
        self.tell(TargetEvent::RootsCompared { matched: matches });
        if matches { Ok(()) } else { Err("roots differ on an honest path".to_owned()) }
    }

    /// QEMU's own progress.
    pub(super) fn load(&mut self, now: u64) -> bool {
        let TargetQemu::Loading(at) = self.qemu else { return false };
        if at > now {
            return false;
        }
        self.qemu = TargetQemu::Loaded;
        self.tell(TargetEvent::LoadCompleted);
        true
    }

    // ---- the role ------------------------------------------------------------------------------

    /// One step of the engine, if it is ready: a command, or else an event.
    pub(super) fn step(
        &mut self,
        now: u64,
        at_stop: Option<&Memory>,
        mail: &mut Vec<Mail>,
    ) -> Result<bool, Broken> {
        let Some(engine) = &mut self.engine else { return Ok(false) };
        if now < engine.ready_at_ns {
            return Ok(false);
        }
        if let Some(command) = engine.todo.pop_front() {
            self.execute(command, at_stop, mail)?;
            return Ok(true);
        }
        if let Some(event) = engine.inbox.pop_front() {
            engine.todo.extend(engine.role.on(event));
            return Ok(true);
        }
        let due = engine.retry_at_ns <= now && !engine.is_done();
        if due {
            engine.retry_at_ns = now + RETRY_NS;
            engine.inbox.push_back(TargetEvent::RetryDue);
        }
        Ok(due)
    }

    fn execute(
        &mut self,
        command: TargetCommand,
        at_stop: Option<&Memory>,
        mail: &mut Vec<Mail>,
    ) -> Result<(), Broken> {
        match command {
            TargetCommand::PersistArrival(record) => {
                self.arrival_disk = Some(record.encode());
                self.tell(TargetEvent::ArrivalPersisted);
            }
            TargetCommand::AcceptSource => mail.push(Mail::Accept),
            TargetCommand::Propose(decision) => self.propose(decision)?,
            TargetCommand::HandBack => self.hand_back()?,
            TargetCommand::Cont => self.cont(at_stop)?,
            TargetCommand::TellSource(outcome) => mail.push(Mail::Outcome(outcome)),
            TargetCommand::InspectQemu => {
                let state = match self.qemu {
                    TargetQemu::Running => QemuState::Running,
                    TargetQemu::Loaded => QemuState::Paused,
                    _ => QemuState::Gone,
                };
                self.tell(TargetEvent::QemuInspected(state));
            }
            TargetCommand::DestroyQemu => {
                if self.qemu == TargetQemu::Running {
                    return Err("a running target guest was destroyed".to_owned());
                }
                self.qemu = TargetQemu::Gone;
                self.tell(TargetEvent::QemuDestroyed);
            }
            TargetCommand::AnnounceSelf
            | TargetCommand::RestoreCapabilities
            | TargetCommand::Report(_) => {}
        }
        Ok(())
    }

    fn propose(&mut self, decision: Decision) -> Result<(), Broken> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let job = engine.role.ticket().job;
        let staged = engine.ledger.propose(job, decision).map_err(|error| error.to_string())?;
        let changed = staged.to_persist().is_some();
        if changed && self.decided.replace(decision).is_some() {
            return Err("decided twice".to_owned());
        }
        let record = staged.confirm();
        self.settle(&record);
        Ok(())
    }

    fn hand_back(&mut self) -> Result<(), Broken> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let job = engine.role.ticket().job;
        let staged = engine.ledger.hand_back(job).map_err(|error| error.to_string())?;
        let record = staged.confirm();
        self.settle(&record);
        Ok(())
    }

    /// Writes the ledger's record and tells the role. A kill comes between steps, so writing and
    /// confirming are one.
    fn settle(&mut self, record: &DecisionRecord) {
        self.decision_disk = record.encode();
        self.on_disk = record.state;
        self.tell(TargetEvent::Decided(*record));
    }

    fn cont(&mut self, at_stop: Option<&Memory>) -> Result<(), Broken> {
        match self.qemu {
            TargetQemu::Loaded => {}
            TargetQemu::Running => {
                self.tell(TargetEvent::Resumed);
                return Ok(());
            }
            TargetQemu::Gone => {
                self.tell(TargetEvent::ContFailed { never_left_paused: false });
                return Ok(());
            }
            TargetQemu::Incoming | TargetQemu::Loading(_) => {
                return Err("cont to a target that is not complete".to_owned());
            }
        }
        let source = at_stop.ok_or("cont on the target, but the source was never stopped")?;
        let differ = source.differences(&self.ram.copy());
        if differ > 0 {
            return Err(format!("the target starts with {differ} pages that differ"));
        }
        let fate = std::mem::replace(&mut self.cont_fate, ContFate::Runs);
        if fate == ContFate::Refused {
            self.tell(TargetEvent::ContFailed { never_left_paused: true });
            return Ok(());
        }
        self.qemu = TargetQemu::Running;
        self.has_run = true;
        self.tell(match fate {
            ContFate::Unheard => TargetEvent::ContFailed { never_left_paused: false },
            _ => TargetEvent::Resumed,
        });
        Ok(())
    }

    pub(super) fn next_event(&mut self, now: u64) -> Option<u64> {
        let loads = match self.qemu {
            TargetQemu::Loading(at) => Some(at),
            _ => None,
        };
        let engine = self.engine.as_mut().and_then(|engine| {
            let is_idle = engine.todo.is_empty() && engine.inbox.is_empty();
            let role = if !is_idle {
                Some(engine.ready_at_ns)
            } else {
                Some(engine.retry_at_ns).filter(|_| !engine.is_done())
            };
            let receiver = engine.receiver.as_mut();
            let receiver = receiver.and_then(|receiver| receiver.endpoint.next_event(now));
            [role, receiver].into_iter().flatten().min()
        });
        [loads, engine, self.restarts_at_ns].into_iter().flatten().min()
    }

    /// Whether the guest was, or may have been, lost with the target QEMU after `cont`.
    pub(super) fn is_lost(&self) -> bool {
        let phase = self.engine.as_ref().map(|engine| engine.role.phase());
        phase == Some(TargetPhase::Arrived(Arrival::Lost))
    }
}
