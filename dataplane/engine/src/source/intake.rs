//! The intake: reads QEMU's stream from its unix socket into arena slots, takes the pages out, plans
//! them and hands whole slots on. One thread; after arming it allocates nothing per page. It blocks
//! on QEMU, on a free slot or on the encoders, never on the network itself.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use dwcp_encode::{Framer, Level, Plan, Planner};
use dwcp_hostmem::{Arena, Slot};
use dwcp_qemustream::Parser;
use dwcp_tcp::{Body, Endpoint, Outbound};
use dwcp_wire::{Channel, SliceFlags};

use super::asking::{Asking, Settled};
use super::encoder::{EncodeJob, Sample};
use super::gate::Gate;
use super::keeping::Keeping;
use super::levels::LevelChoice;
use super::shared::Shared;
use super::sink::{PARSE_BYTES_MAX, StreamSink};
use super::skeleton::SkeletonSender;
use crate::error::{Class, Doing, EngineError, Result};
use crate::slots::{HEADROOM, STREAM_BYTES_MAX};

/// Pages in one batch once the guest is stopped: small batches keep every stage busy.
const TAIL_BATCH_PAGES: usize = 32;
/// The level of pages that the target was asked for and does not hold, when no other is chosen.
const LEVEL_OF_MISSING: Level = Level::Zstd(1);
/// How long QEMU may be silent before what is gathered goes on.
const IDLE: Duration = Duration::from_millis(1);
/// How long one wait for QEMU's bytes lasts before the abort flag is looked at.
const WAIT: Duration = Duration::from_millis(50);
/// Least time between two RAM sections before the stop. With the switch-over held and little left to
/// send, QEMU goes through thousands of them a second, each under its big lock: monitor and guest
/// starve. A full section takes tens of milliseconds.
const SECTION_INTERVAL: Duration = Duration::from_millis(1);
/// What is read at once while sections come faster than that: the socket holds the rest, and QEMU waits.
const HELD_READ_BYTES: usize = 4 << 10;
/// Longest part of a pause between two looks at the flags.
const PAUSE_STEP: Duration = Duration::from_millis(1);
/// How long the tail may pause before it counts as whole: a machine with `suppress-vmdesc` gives no
/// other sign of its end.
const TAIL_IDLE: Duration = Duration::from_millis(200);

/// What the intake tells the child's main thread.
pub enum IntakeEvent {
    /// RAM has ended: this is its root, and every page slice below `pages` was planned.
    RamEnd {
        /// The root over all pages that were taken out.
        root: dwcp_encode::Root,
        /// Page slices planned.
        slices: u64,
    },
    /// The device state, whole, waiting for GO.
    Tail {
        /// Its bytes.
        bytes: Vec<u8>,
        /// The number of its first skeleton slice.
        seq: u64,
    },
    /// QEMU has closed its socket.
    Closed {
        /// What the guest may leave behind here.
        keeping: Keeping,
    },
    /// The stream cannot be carried, or the socket failed.
    Failed(EngineError),
}

/// Everything the intake works with.
pub struct Intake {
    /// QEMU's migration socket.
    pub stream: UnixStream,
    /// The parser, already told which blocks to take out.
    pub parser: Parser,
    /// What the parser finds.
    pub sink: StreamSink,
    /// Per-page knowledge.
    pub planner: Planner,
    /// Slots for the stream.
    pub arena: Arc<Arena>,
    /// The session.
    pub endpoint: Endpoint,
    /// Batches for the workers.
    pub jobs: Sender<EncodeJob>,
    /// Plans that come back from the workers.
    pub plans: Receiver<Plan>,
    /// The workers' speeds.
    pub samples: Receiver<Sample>,
    /// Chooses the level.
    pub control: LevelChoice,
    /// Pages the target is asked for.
    pub asking: Asking,
    /// What the guest leaves behind here.
    pub keeping: Keeping,
    /// Skeleton slices.
    pub skeleton: SkeletonSender,
    /// Holds back what the link cannot take yet.
    pub gate: Arc<Gate>,
    /// The whole stream is skeleton: its bytes are the guest's.
    pub plain: bool,
    /// Flags and counters.
    pub shared: Arc<Shared>,
    /// To the main thread.
    pub events: Sender<IntakeEvent>,
}

/// A slot being filled: stream bytes from [`HEADROOM`] to `filled`, of which those up to `parsed`
/// have been looked at.
struct Filling {
    slot: Slot,
    parsed: usize,
    filled: usize,
}

enum Got {
    Bytes,
    Silence,
    End,
}

impl Intake {
    /// Runs until QEMU closes the socket, the stream is refused or the job is aborted.
    pub fn run(mut self) {
        let event = match self.pump() {
            Ok(()) => IntakeEvent::Closed { keeping: self.keeping },
            Err(error) => IntakeEvent::Failed(error),
        };
        let _ = self.events.send(event);
    }

    fn pump(&mut self) -> Result<()> {
        let first = self.arena.take_timeout(WAIT).ok_or_else(closed)?;
        let mut state = Progress::new(first);
        loop {
            if self.shared.aborted() {
                return Ok(());
            }
            self.follow_up(&mut state, false)?;
            let owes = state.owes(&self.sink) || !self.asking.is_settled();
            let wait = if owes { IDLE } else { WAIT };
            let most = if state.held { HELD_READ_BYTES } else { STREAM_BYTES_MAX };
            match self.read(&mut state.filling, most, wait)? {
                Got::End => return Ok(()),
                Got::Silence => self.on_silence(&mut state, wait)?,
                Got::Bytes => self.on_bytes(&mut state)?,
            }
        }
    }

    fn on_bytes(&mut self, state: &mut Progress) -> Result<()> {
        state.quiet = Duration::ZERO;
        if self.shared.stopped.load(Relaxed) {
            self.sink.batch.limit_pages(TAIL_BATCH_PAGES);
        }
        loop {
            // Before the next piece: a batch may also be full since the limit fell.
            if self.sink.batch_is_full() {
                self.ship(state)?;
            }
            if !self.parse(&mut state.filling)? {
                break;
            }
        }
        if self.sink.tail_at.is_some() && !state.ram_ended {
            state.ram_ended = true;
            self.end_of_ram(state)?;
        }
        if state.filling.is_full() {
            self.ship(state)?;
        }
        if self.sink.skeleton_is_full() && !state.ram_ended {
            self.send_skeleton()?;
        }
        if self.sink.stream_ended { self.finish_tail(state) } else { self.hold_back(state) }
    }

    /// Sections that come too fast are paid for with a pause: QEMU fills the socket and waits.
    fn hold_back(&mut self, state: &mut Progress) -> Result<()> {
        let sections = std::mem::take(&mut self.sink.sections);
        let due = u32::try_from(sections).map_or(Duration::MAX, |n| SECTION_INTERVAL * n);
        let pause = due.saturating_sub(state.sections_at.elapsed());
        state.held = !pause.is_zero() && !self.shared.stopped.load(Relaxed);
        if state.held {
            self.ship(state)?;
            self.send_skeleton()?;
            self.pause(Instant::now() + pause);
        }
        if sections > 0 {
            state.sections_at = Instant::now();
        }
        Ok(())
    }

    /// Does nothing until `end`, the stop or the abort.
    fn pause(&self, end: Instant) {
        while !self.shared.stopped.load(Relaxed) && !self.shared.aborted() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(PAUSE_STEP));
        }
    }

    /// QEMU is silent: what is gathered must not wait for it, or a handshake would never end.
    fn on_silence(&mut self, state: &mut Progress, wait: Duration) -> Result<()> {
        state.quiet += wait;
        if !state.ram_ended {
            self.ship(state)?;
            return self.send_skeleton();
        }
        if state.quiet >= TAIL_IDLE { self.finish_tail(state) } else { Ok(()) }
    }

    fn read(&self, filling: &mut Filling, most: usize, wait: Duration) -> Result<Got> {
        self.stream
            .set_read_timeout(Some(wait))
            .doing(|| "waiting for QEMU's stream".to_owned())?;
        let filled = filling.filled;
        let end = (HEADROOM + STREAM_BYTES_MAX).min(filled + most);
        match (&self.stream).read(&mut filling.slot[filled..end]) {
            Ok(0) => Ok(Got::End),
            Ok(n) => {
                filling.filled += n;
                Ok(Got::Bytes)
            }
            Err(e) => match e.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(Got::Silence),
                ErrorKind::Interrupted => Ok(Got::Bytes),
                ErrorKind::ConnectionReset => Ok(Got::End),
                _ => Err(EngineError::io("reading QEMU's stream", e)),
            },
        }
    }

    /// Parses the next piece; false when nothing whole is left.
    fn parse(&mut self, filling: &mut Filling) -> Result<bool> {
        self.sink.base = filling.parsed;
        let end = filling.filled.min(filling.parsed + PARSE_BYTES_MAX);
        let input = &filling.slot[filling.parsed..end];
        let taken = self.parser.parse(input, &mut self.sink).map_err(|e| {
            EngineError::new(Class::Conflict, format!("QEMU's migration stream: {e}"))
        })?;
        filling.parsed += taken;
        match self.sink.failure.take() {
            Some(text) => Err(EngineError::new(Class::Conflict, text)),
            None => Ok(taken > 0),
        }
    }

    /// Plans the pages of the slot and hands it on; goes on with a fresh one.
    fn ship(&mut self, state: &mut Progress) -> Result<()> {
        if self.sink.batch.is_empty() {
            // Nothing but skeleton: the slot can be used again from its start.
            state.filling.restart();
            return Ok(());
        }
        let fresh = self.next_slot(state)?;
        let full = state.filling.replace(fresh);
        self.plan(full, state)
    }

    fn plan(&mut self, slot: Slot, state: &mut Progress) -> Result<()> {
        let mut plan = self.spare_plan(state);
        let seq = state.next_seq;
        let acked_below = self.settled_below();
        // Not in the pause: an answer costs a round trip.
        let stopped = self.shared.stopped.load(Relaxed);
        let fast_link = self.shared.level.load(Relaxed) == 0;
        self.planner.set_asking(!stopped && self.asking.is_worthwhile(fast_link));
        // Contents kept for deltas pay only while bytes are dearer than CPU.
        self.planner.set_caching(self.shared.level.load(Relaxed) != 0);
        self.planner
            .plan(seq, acked_below, &slot, &self.sink.batch, &mut plan)
            .map_err(|e| EngineError::new(Class::Failed, format!("planning pages: {e}")))?;
        self.keeping.add(&self.sink.batch, &slot);
        let pages = self.sink.clear_batch();
        self.shared.pages_in.fetch_add(pages, Relaxed);
        if plan.is_empty() {
            self.shared.count(plan.counts(), false);
            state.spare.push(plan);
            return Ok(());
        }
        let asks = plan.counts().asked > 0;
        let level = self.choose_level();
        if level == Level::Off && !asks {
            return self.send_in_place(state, slot, plan);
        }
        let slot = Arc::new(slot);
        if asks {
            self.asking.add(seq, &slot, &plan);
        }
        self.enqueue(state, slot, plan, level)
    }

    /// A plan to fill: one that was used before, where there is one.
    fn spare_plan(&self, state: &mut Progress) -> Plan {
        state.spare.pop().or_else(|| self.plans.try_recv().ok()).unwrap_or_default()
    }

    /// What the planner may count on: acked, and answered if it asked.
    fn settled_below(&self) -> u64 {
        self.endpoint.acked_below(Channel::Pages).min(self.asking.settled_below())
    }

    /// Handles the answers that are there; waits a moment for one when told to.
    fn follow_up(&mut self, state: &mut Progress, wait: bool) -> Result<()> {
        let mut wait = wait;
        while let Some(settled) = self.asking.next(wait, &self.shared)? {
            self.follow(state, settled)?;
            wait = false;
        }
        Ok(())
    }

    /// Sends what the target does not hold of a slice that asked.
    fn follow(&mut self, state: &mut Progress, settled: Settled) -> Result<()> {
        let Settled { asked_in, slot, missing } = settled;
        let mut plan = self.spare_plan(state);
        let acked_below = self.settled_below();
        self.planner
            .follow(state.next_seq, acked_below, asked_in, &slot, missing.into_iter(), &mut plan)
            .map_err(|e| EngineError::new(Class::Failed, format!("planning pages: {e}")))?;
        if plan.is_empty() {
            state.spare.push(plan);
            return Ok(());
        }
        // While most is found the link idles, which says nothing about what is not found.
        let level = match self.choose_level() {
            Level::Off if !self.control.is_forced() => LEVEL_OF_MISSING,
            level => level,
        };
        self.enqueue(state, slot, plan, level)
    }

    /// With the codec off the slot itself goes on the wire, unless too little of it is wanted.
    fn send_in_place(&mut self, state: &mut Progress, mut slot: Slot, plan: Plan) -> Result<()> {
        // The plan's offsets count from the slot's start.
        let payload = 0..slot.len();
        let Some(range) = state.framer.raw_in_place(&plan, &mut slot, payload) else {
            return self.enqueue(state, Arc::new(slot), plan, Level::Off);
        };
        self.shared.count(plan.counts(), false);
        let out = Outbound {
            channel: Channel::Pages,
            seq: state.next_seq,
            generation: self.sink.generation().0,
            flags: SliceFlags::NONE,
            not_before: plan.not_before(),
            body: Body::Slot { slot, range },
        };
        state.next_seq += 1;
        let bytes = plan.raw_bytes() as u64;
        self.shared.unencoded_bytes.fetch_add(bytes, Relaxed);
        let sent = self.gate.submit(&self.endpoint, &self.shared, out).map_err(|_| closed());
        self.shared.unencoded_bytes.fetch_sub(bytes, Relaxed);
        state.spare.push(plan);
        sent
    }

    /// Gives a plan and the buffer it was made over to the encoders, under the next number.
    fn enqueue(
        &mut self,
        state: &mut Progress,
        slot: Arc<Slot>,
        plan: Plan,
        level: Level,
    ) -> Result<()> {
        let bytes = plan.raw_bytes() as u64;
        self.shared.unencoded_bytes.fetch_add(bytes, Relaxed);
        let (seq, generation) = (state.next_seq, self.sink.generation().0);
        state.next_seq += 1;
        self.jobs
            .send(EncodeJob { slot, plan, seq, generation, level, bytes })
            .map_err(|_| closed())
    }

    fn choose_level(&mut self) -> Level {
        for sample in self.samples.try_iter() {
            self.control.observe(&sample);
        }
        let level = self.control.choose(&self.endpoint.stats(), self.jobs.len());
        let number = match level {
            Level::Off => 0,
            Level::Zstd(n) => n,
        };
        self.shared.level.store(number, Relaxed);
        level
    }

    fn end_of_ram(&mut self, state: &mut Progress) -> Result<()> {
        self.ship(state)?;
        self.send_skeleton()?;
        while !self.asking.is_settled() && !self.shared.aborted() {
            self.follow_up(state, true)?;
        }
        let event = IntakeEvent::RamEnd { root: self.planner.root(), slices: state.next_seq };
        self.events.send(event).map_err(|_| closed())
    }

    fn finish_tail(&mut self, state: &mut Progress) -> Result<()> {
        if state.tail_sent {
            return Ok(());
        }
        state.tail_sent = true;
        let tail = self.sink.take_tail();
        let event = IntakeEvent::Tail { bytes: tail, seq: self.skeleton.next_seq };
        self.events.send(event).map_err(|_| closed())
    }

    fn send_skeleton(&mut self) -> Result<()> {
        let bytes = self.sink.before_tail();
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = self.skeleton.send(bytes, false);
        if self.plain {
            let pages = bytes.len() / dwcp_wire::PAGE_BYTES;
            self.shared.pages_in.fetch_add(pages as u64, Relaxed);
        }
        self.sink.clear_before_tail();
        sent
    }

    /// A free slot; slots that wait for an answer come back meanwhile.
    fn next_slot(&mut self, state: &mut Progress) -> Result<Slot> {
        loop {
            if self.shared.aborted() {
                return Err(closed());
            }
            let full = self.asking.is_full();
            self.follow_up(state, full)?;
            let wait = if self.asking.is_settled() { WAIT } else { IDLE };
            if let (false, Some(slot)) = (full, self.arena.take_timeout(wait)) {
                return Ok(slot);
            }
        }
    }
}

fn closed() -> EngineError {
    EngineError::new(Class::Unreachable, "the session has ended")
}

/// Where the intake stands.
struct Progress {
    filling: Filling,
    framer: Framer,
    spare: Vec<Plan>,
    next_seq: u64,
    quiet: Duration,
    /// When the last RAM section ended.
    sections_at: Instant,
    /// Sections come too fast: QEMU is held back.
    held: bool,
    ram_ended: bool,
    tail_sent: bool,
}

impl Progress {
    fn new(slot: Slot) -> Self {
        Self {
            filling: Filling { slot, parsed: HEADROOM, filled: HEADROOM },
            framer: Framer::new(Level::Off),
            spare: Vec::with_capacity(2),
            next_seq: 0,
            quiet: Duration::ZERO,
            sections_at: Instant::now(),
            held: false,
            ram_ended: false,
            tail_sent: false,
        }
    }

    /// True when something is gathered that must not wait long.
    fn owes(&self, sink: &StreamSink) -> bool {
        !sink.batch.is_empty() || !sink.skeleton.is_empty()
    }
}

impl Filling {
    fn is_full(&self) -> bool {
        self.filled >= HEADROOM + STREAM_BYTES_MAX
    }

    /// Moves the bytes of an unfinished record to the start of this slot.
    fn restart(&mut self) {
        self.slot.copy_within(self.parsed..self.filled, HEADROOM);
        self.filled = HEADROOM + self.filled - self.parsed;
        self.parsed = HEADROOM;
    }

    /// Takes the slot out; an unfinished record moves to the start of the fresh one.
    fn replace(&mut self, mut fresh: Slot) -> Slot {
        let rest = self.filled - self.parsed;
        fresh[HEADROOM..HEADROOM + rest].copy_from_slice(&self.slot[self.parsed..self.filled]);
        self.filled = HEADROOM + rest;
        self.parsed = HEADROOM;
        std::mem::replace(&mut self.slot, fresh)
    }
}
