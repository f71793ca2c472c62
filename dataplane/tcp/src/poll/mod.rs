//! The poll loop: completions and mail in, commands of the session out.
//!
//! Runs on one thread, its own. Sleeps in the ring only. Allocates for Control bodies and when a
//! rail dies; takes no lock of ours and writes no log.

mod leave;
mod rails;
mod receive;
mod transmit;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError};
use dwcp_session::{Command, OutboundMeta, Session, SubmitError};
use dwcp_uring::{Buffer, Completion, Event, Ring, RingConfig, Waker};
use dwcp_wire::{Channel, SEQUENCED_CHANNELS};

use crate::clock::Clock;
use crate::config::{
    COMPLETIONS_PER_TURN, EVENTS_PER_RAIL, FEW_CORES, MAILS_PER_TURN, PROGRESS_INTERVAL,
    RING_ENTRIES, RING_OPS, SLOT_RETRY, SPIN,
};
use crate::mail::{Inbox, Request, deliveries_max};
use crate::rail::Rail;
use crate::slice::{Inbound, Prepared};
use crate::stats::Published;
use crate::table::{Key, Table};
use crate::{
    DownReason, EndpointConfig, FatalError, NetEvent, NetStats, PagesSink, PollMode, StartError,
};

/// How long to sleep at most when something must be looked at again that wakes nobody.
const RETRY: Duration = Duration::from_millis(10);

/// An outbound slice from submission to release.
struct Outgoing {
    /// `None` while the kernel has it.
    buffer: Option<Buffer>,
    wire: Range<usize>,
    /// The session is done with it; it goes when the kernel gives it back.
    is_released: bool,
}

/// An inbound slice from receipt to consumption.
enum Incoming {
    /// Waits for its turn to be delivered.
    Held(Inbound),
    /// The engine has it.
    Delivered,
}

/// How far closing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Waits for the last acks.
    Draining {
        code: dwcp_wire::ReasonCode,
        deadline: u64,
    },
    /// Goodbye is said; waits for the peer to close.
    Leaving {
        deadline: u64,
    },
    Ended,
}

/// Where what comes in goes.
pub(crate) struct Outlets {
    pub(crate) events: Sender<NetEvent>,
    pub(crate) sink: Option<PagesSink>,
    pub(crate) published: Arc<Published>,
}

pub(crate) struct Poll {
    config: EndpointConfig,
    session: Session,
    ring: Ring,
    inbox: Inbox,
    events: Sender<NetEvent>,
    sink: Option<PagesSink>,
    published: Arc<Published>,
    rails: Vec<Option<Rail>>,
    outgoing: Table<Outgoing>,
    incoming: Table<Incoming>,
    /// Per channel, a slice the session has no room for yet.
    pending: [Option<Prepared>; SEQUENCED_CHANNELS],
    stats: NetStats,
    clock: Clock,
    /// Nanoseconds of `clock` at the start of this turn.
    now: u64,
    spin: Duration,
    phase: Phase,
    progress_due: u64,
    consumed_last: u64,
    slot_waiters: usize,
    /// Slices that were delivered and are not consumed.
    delivered: usize,
    goodbye_heard: bool,
}

impl Poll {
    pub(crate) fn new(
        config: EndpointConfig,
        session: Session,
        inbox: Inbox,
        outlets: Outlets,
    ) -> Result<Self, StartError> {
        let Outlets { events, sink, published } = outlets;
        let mut ring = Ring::new(RingConfig { entries: RING_ENTRIES, ops_max: RING_OPS })?;
        if config.zero_copy == crate::ZeroCopy::Probe {
            // Without it zero-copy works as well, pinning pages at every send.
            let _ = ring.register_arena(&config.arena);
        }
        let spin = match config.poll {
            PollMode::Sleep => Duration::ZERO,
            PollMode::Spin => Duration::MAX,
            PollMode::Adaptive if dwcp_hostmem::online_cores().len() <= FEW_CORES => Duration::ZERO,
            PollMode::Adaptive => SPIN,
        };
        Ok(Self {
            config,
            session,
            ring,
            inbox,
            events,
            sink,
            published,
            rails: Vec::with_capacity(dwcp_session::RAILS_MAX),
            outgoing: Table::new(),
            incoming: Table::new(),
            pending: [const { None }; SEQUENCED_CHANNELS],
            stats: NetStats::default(),
            clock: Clock::new(),
            now: 0,
            spin,
            phase: Phase::Running,
            progress_due: 0,
            consumed_last: 0,
            slot_waiters: 0,
            delivered: 0,
            goodbye_heard: false,
        })
    }

    pub(crate) fn waker(&self) -> Waker {
        self.ring.waker()
    }

    pub(crate) fn run(mut self) {
        while self.phase != Phase::Ended {
            if let Err(fatal) = self.turn() {
                // Nobody listening is as good as told.
                let _ = self.events.try_send(NetEvent::Fatal(fatal));
                self.phase = Phase::Ended;
            }
        }
        self.abort_rails();
        self.publish();
    }

    fn turn(&mut self) -> Result<(), FatalError> {
        let slept = self.idle()?;
        self.now = self.clock.advance(slept);
        self.stats.turns += 1;
        self.take_completions();
        self.execute_commands();
        self.take_mail()?;
        self.execute_commands();
        self.retry_slots();
        self.check_progress();
        self.leave_if_closing();
        self.publish();
        Ok(())
    }

    // ---- waiting -----------------------------------------------------------------------------

    /// Waits for something to do, at most for the time it returns.
    fn idle(&mut self) -> Result<Duration, FatalError> {
        let timeout = self.timeout();
        if self.spin > Duration::ZERO && self.spins(timeout)? {
            return Ok(timeout);
        }
        let takes_rails = self.takes_rails();
        self.published.set_hungry(self.is_hungry());
        let Self { ring, inbox, pending, published, .. } = self;
        let has_work = || published.is_abandoned() || has_mail(inbox, pending, takes_rails);
        ring.wait(Some(timeout), has_work)?;
        Ok(timeout)
    }

    /// Whether a new slice could be sent at once: none is waiting already. With one waiting, an
    /// event must come that lets it go (a send's end, an ack, a rail, the rate's deadline), and
    /// then the mailboxes are looked at.
    fn is_hungry(&self) -> bool {
        let (unacked, _) = self.session.unacked();
        unacked <= u64::from(self.session.stats().in_flight_slices)
    }

    /// Looks for work without a system call, for a bounded time; whether there is some.
    fn spins(&mut self, timeout: Duration) -> Result<bool, FatalError> {
        self.ring.submit()?;
        let started = Instant::now();
        loop {
            if self.ring.is_ready() {
                self.ring.submit()?;
                return Ok(true);
            }
            let takes_rails = self.takes_rails();
            if self.published.is_abandoned() || has_mail(&self.inbox, &self.pending, takes_rails) {
                return Ok(true);
            }
            let spun = started.elapsed();
            if spun >= timeout {
                return Ok(true);
            }
            if spun >= self.spin {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    /// Time until something must be done although nothing happened.
    fn timeout(&mut self) -> Duration {
        let now = self.now;
        let mut due = now.saturating_add(nanos(PROGRESS_INTERVAL));
        if let Some(deadline) = self.session.next_deadline(now) {
            due = due.min(deadline);
        }
        if self.slot_waiters > 0 {
            due = due.min(now + nanos(SLOT_RETRY));
        }
        if !self.takes_rails() {
            due = due.min(now + nanos(RETRY));
        }
        if let Some(deadline) = self.leave_deadline() {
            due = due.min(deadline);
        }
        Duration::from_nanos(due.saturating_sub(now))
    }

    // ---- completions -------------------------------------------------------------------------

    fn take_completions(&mut self) {
        for _ in 0..COMPLETIONS_PER_TURN {
            let Some(Completion { op, tag, event }) = self.ring.next_completion() else { return };
            let index = tag as usize;
            match event {
                Event::Sent { result, buffer } => self.on_sent(index, result, buffer),
                Event::Notified { buffer, was_copied } => {
                    self.on_notified(index, op, buffer, was_copied);
                }
                Event::Received { result, buffer } => self.on_received(index, result, buffer),
            }
            self.finish_if_idle(index);
        }
    }

    // ---- mail --------------------------------------------------------------------------------

    fn take_mail(&mut self) -> Result<(), FatalError> {
        for _ in 0..self.inbox.consumed.len() {
            let Ok(key) = self.inbox.consumed.try_recv() else { break };
            self.on_consumed(key)?;
        }
        for index in 0..SEQUENCED_CHANNELS {
            self.take_slices(index)?;
        }
        while self.takes_rails() {
            let Ok(new) = self.inbox.rails.try_recv() else { break };
            self.add_rail(new);
        }
        for _ in 0..MAILS_PER_TURN {
            match self.inbox.requests.try_recv() {
                Ok(request) => self.on_request(request),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.phase = Phase::Ended;
                    break;
                }
            }
        }
        Ok(())
    }

    fn on_consumed(&mut self, key: Key) -> Result<(), FatalError> {
        let (channel, seq) = key;
        if !matches!(self.incoming.get_mut(key), Some(Incoming::Delivered)) {
            return Err(FatalError::Consumed { channel, seq });
        }
        self.incoming.remove(key);
        self.delivered -= 1;
        self.session.consumed(self.now, channel, seq);
        self.consumed_last = self.now;
        Ok(())
    }

    fn take_slices(&mut self, index: usize) -> Result<(), FatalError> {
        for _ in 0..MAILS_PER_TURN {
            let next =
                self.pending[index].take().or_else(|| self.inbox.slices[index].try_recv().ok());
            let Some(slice) = next else { break };
            if let Some(slice) = self.submit(slice)? {
                self.pending[index] = Some(slice);
                break;
            }
        }
        Ok(())
    }

    /// Gives the session a slice; gives it back when there is no room yet.
    fn submit(&mut self, slice: Prepared) -> Result<Option<Prepared>, FatalError> {
        let Prepared { channel, seq, flags, not_before, bytes, .. } = slice;
        if self.outgoing.is_taken((channel, seq)) {
            return Ok(Some(slice));
        }
        let meta = OutboundMeta { channel, seq, bytes, flags, not_before };
        match self.session.submit(meta) {
            Ok(()) => {
                let Prepared { buffer, wire, .. } = slice;
                let outgoing = Outgoing { buffer: Some(buffer), wire, is_released: false };
                self.outgoing.insert((channel, seq), outgoing);
                Ok(None)
            }
            Err(SubmitError::Full { .. }) => Ok(Some(slice)),
            Err(error) => Err(FatalError::Submit(error)),
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::SetRate(rate) => self.session.set_rate(self.now, rate),
            Request::Close { code, drain_max } => {
                if self.phase == Phase::Running {
                    let deadline = self.now.saturating_add(nanos(drain_max));
                    self.phase = Phase::Draining { code, deadline };
                }
            }
        }
    }

    // ---- commands ----------------------------------------------------------------------------

    fn execute_commands(&mut self) {
        while let Some(command) = self.session.next_command(self.now) {
            match command {
                Command::PostSlice { rail, channel, seq } => self.post_slice(rail, (channel, seq)),
                Command::PostLink { rail, message } => self.post_link(rail, &message),
                Command::Release { channel, seq } => self.release((channel, seq)),
                Command::Deliver { channel, seq } => self.deliver((channel, seq)),
                Command::CloseRail { rail, reason } => {
                    if let Some(index) = self.rail_index(rail) {
                        self.close_rail(index, DownReason::Session(reason));
                    }
                }
            }
        }
    }

    fn deliver(&mut self, key: Key) {
        let held = self.incoming.get_mut(key).expect("the session delivers what was received");
        if let Incoming::Held(slice) = std::mem::replace(held, Incoming::Delivered) {
            if key.0 == Channel::Pages && self.sink.as_mut().is_some_and(|sink| sink(&slice)) {
                // Before the ack can go out: the slot is the next slice's.
                drop(slice);
                self.incoming.remove(key);
                self.session.consumed(self.now, key.0, key.1);
                self.consumed_last = self.now;
                return;
            }
            self.delivered += 1;
            self.published.on_delivered();
            self.tell(NetEvent::Inbound(slice));
        }
    }

    /// Whether a further rail's events would find room beside those of the rails that are here
    /// and of every slice the peer may still send.
    fn takes_rails(&self) -> bool {
        let room = self.events.capacity().unwrap_or(0).saturating_sub(self.events.len());
        let slices = deliveries_max(self.config.session.window_in_slices) - self.delivered;
        room > slices + EVENTS_PER_RAIL * (self.rails.iter().flatten().count() + 1)
    }

    /// There is always room: for slices by the window, for the rest by `takes_rails`.
    fn tell(&mut self, event: NetEvent) {
        match self.events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(_)) => self.phase = Phase::Ended,
            Err(TrySendError::Full(event)) => unreachable!("no room was kept for {event:?}"),
        }
    }

    fn publish(&mut self) {
        self.stats.set_session(&self.session.stats());
        for channel in Channel::SEQUENCED {
            self.published.set_acked_below(channel, self.session.acked_below(channel));
        }
        self.published.publish(self.stats);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether there is mail that the loop would take now.
fn has_mail(
    inbox: &Inbox,
    pending: &[Option<Prepared>; SEQUENCED_CHANNELS],
    takes_rails: bool,
) -> bool {
    let fresh = |(mail, waits): (&Receiver<Prepared>, &Option<Prepared>)| {
        waits.is_none() && !mail.is_empty()
    };
    !inbox.consumed.is_empty()
        || inbox.slices.iter().zip(pending).any(fresh)
        || !inbox.requests.is_empty()
        || (takes_rails && !inbox.rails.is_empty())
}
