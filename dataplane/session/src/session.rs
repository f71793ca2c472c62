//! One end of a session: events in, commands out.
//!
//! Runs in the poll loop and allocates only in [`Session::new`]. Order of commands: close a rail,
//! release, deliver, link messages, slices (Control, re-sends, then in submit order).

use dwcp_wire::{Channel, HEADER_BYTES, LinkMessage, RailId, ReasonCode, SliceFlags};

use crate::acks::AckPolicy;
use crate::inbound::{Inbound, Receipt};
use crate::outbound::{Outbound, OutboundMeta};
use crate::rail::{Rail, RailStats};
use crate::rate::TokenBucket;
use crate::{
    CloseReason, ConfigError, RAILS_MAX, RailError, SessionConfig, SubmitError, Violation,
};

/// What the shell has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // An ack lives in place: this path does not allocate.
pub enum Command {
    /// Send the slice on the rail; report [`Session::slice_sent`] when its buffer is not in use
    /// any more, or [`Session::rail_down`].
    PostSlice {
        /// Rail that is free.
        rail: RailId,
        /// Channel of the slice.
        channel: Channel,
        /// Number of the slice.
        seq: u64,
    },
    /// Send the message on the rail, between two slices; report [`Session::link_sent`].
    PostLink {
        /// The rail.
        rail: RailId,
        /// The message.
        message: LinkMessage,
    },
    /// The slice is acked: free its buffer.
    Release {
        /// Channel of the slice.
        channel: Channel,
        /// Number of the slice.
        seq: u64,
    },
    /// Hand a received slice to its consumer, who reports [`Session::consumed`].
    Deliver {
        /// Channel of the slice.
        channel: Channel,
        /// Number of the slice.
        seq: u64,
    },
    /// Close the rail, cancel what it does, then report [`Session::rail_down`].
    CloseRail {
        /// The rail.
        rail: RailId,
        /// Why.
        reason: CloseReason,
    },
}

/// Counters since the start, and gauges of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Rails that are up.
    pub rails: usize,
    /// Slices submitted and not acked.
    pub unacked_slices: u64,
    /// Their body bytes.
    pub unacked_bytes: u64,
    /// Slices that were posted and are not acked.
    pub in_flight_slices: u32,
    /// Slices posted, re-sends included.
    pub posted_slices: u64,
    /// Their wire bytes, headers included.
    pub posted_bytes: u64,
    /// Slices posted once more.
    pub resent_slices: u64,
    /// Their wire bytes.
    pub resent_bytes: u64,
    /// Body bytes acked by the peer.
    pub acked_bytes: u64,
    /// New slices received.
    pub received_slices: u64,
    /// Their body bytes.
    pub received_bytes: u64,
    /// Slices received once more.
    pub duplicate_slices: u64,
    /// Rails closed because they were silent.
    pub stalled_rails: u64,
    /// Rails closed because the peer broke the protocol.
    pub violations: u64,
    /// Lowest smoothed round-trip time of a rail; 0 before the first answer.
    pub rtt_ns: u64,
}

/// One end of a session.
pub struct Session {
    config: SessionConfig,
    rails: Vec<Rail>,
    /// Rails to close, each at most once.
    closing: Vec<(RailId, CloseReason)>,
    outbound: Outbound,
    inbound: Inbound,
    acks: AckPolicy,
    bucket: TokenBucket,
    counters: SessionStats,
}

impl Session {
    /// A session without rails.
    ///
    /// # Errors
    /// [`ConfigError`] when the settings cannot work.
    pub fn new(config: SessionConfig) -> Result<Self, ConfigError> {
        let config = config.checked()?;
        Ok(Self {
            rails: Vec::with_capacity(RAILS_MAX),
            closing: Vec::with_capacity(RAILS_MAX),
            outbound: Outbound::new(config.window_out_slices),
            inbound: Inbound::new(config.window_in_slices, config.payload_max),
            acks: AckPolicy::new(
                config.ack_every_slices,
                config.ack_delay_ns,
                config.window_in_slices,
            ),
            bucket: TokenBucket::new(config.rate_bytes_per_s),
            counters: SessionStats::default(),
            config,
        })
    }

    // ---- producer and consumer -------------------------------------------------------------

    /// Queues a slice; its buffer stays with the shell until `Release`.
    ///
    /// # Errors
    /// [`SubmitError::Full`] asks to wait; the others are bugs of the caller.
    pub fn submit(&mut self, meta: OutboundMeta) -> Result<(), SubmitError> {
        self.outbound.submit(&meta)
    }

    /// The engine has used up a delivered slice; it will be acked.
    ///
    /// # Panics
    /// When the slice is not here: that is a bug of the caller.
    pub fn consumed(&mut self, now: u64, channel: Channel, seq: u64) {
        self.inbound.consume(channel, seq);
        self.acks.on_consumed(now);
    }

    /// Changes the ceiling; `None` removes it, `Some(0)` pauses everything but Control.
    pub fn set_rate(&mut self, now: u64, rate_bytes_per_s: Option<u64>) {
        self.bucket.set_rate(now, rate_bytes_per_s);
    }

    // ---- rails -------------------------------------------------------------------------------

    /// A rail passed its handshake and may carry slices.
    ///
    /// # Errors
    /// [`RailError`] when its number is in use or there are too many.
    pub fn rail_up(&mut self, now: u64, rail: RailId) -> Result<(), RailError> {
        if self.rails.iter().any(|known| known.id == rail) {
            return Err(RailError::InUse { rail });
        }
        if self.rails.len() == RAILS_MAX {
            return Err(RailError::TooMany { rail, max: RAILS_MAX });
        }
        self.rails.push(Rail::new(rail, now));
        self.acks.request_at_once();
        Ok(())
    }

    /// A rail is gone and none of its buffers is in use: what it carried is sent again.
    pub fn rail_down(&mut self, rail: RailId) {
        let Some(index) = self.rails.iter().position(|known| known.id == rail) else { return };
        let gone = self.rails.swap_remove(index);
        self.closing.retain(|(closing, _)| *closing != rail);
        self.outbound.rail_lost(rail, gone.sending);
        self.acks.request_at_once();
    }

    /// The buffer of the slice posted on `rail` is not in use by the kernel any more.
    pub fn slice_sent(&mut self, rail: RailId, channel: Channel, seq: u64) {
        let Some(known) = self.rail_mut(rail) else { return };
        assert_eq!(known.sending.take(), Some((channel, seq)), "what rail {rail} was sending");
        self.outbound.sent((channel, seq), rail);
    }

    /// A link message posted on `rail` has gone out.
    pub fn link_sent(&mut self, rail: RailId) {
        if let Some(known) = self.rail_mut(rail) {
            known.link_sent();
        }
    }

    // ---- what comes in -----------------------------------------------------------------------

    /// Some bytes came in on `rail`: it is alive although no message is complete.
    pub fn bytes_received(&mut self, now: u64, rail: RailId) {
        if let Some(known) = self.rail_mut(rail) {
            known.heard(now);
        }
    }

    /// What would become of a slice whose header has come, so that the shell can drop the body
    /// of a duplicate without a buffer. Changes nothing.
    #[must_use]
    pub fn inspect(&self, channel: Channel, seq: u64, bytes: u32, flags: SliceFlags) -> Receipt {
        self.inbound.check(channel, seq, bytes, flags)
    }

    /// A slice is complete and its checksum holds.
    pub fn slice_received(
        &mut self,
        now: u64,
        rail: RailId,
        channel: Channel,
        seq: u64,
        bytes: u32,
        flags: SliceFlags,
    ) -> Receipt {
        self.bytes_received(now, rail);
        let receipt = self.inbound.take(channel, seq, bytes, flags);
        match receipt {
            Receipt::Accepted => {
                self.counters.received_slices += 1;
                self.counters.received_bytes += u64::from(bytes);
                if channel != Channel::Control {
                    self.acks.on_received();
                }
            }
            Receipt::Duplicate => {
                self.counters.duplicate_slices += 1;
                self.acks.request_at_once();
            }
            Receipt::Violation(violation) => self.refuse(rail, violation),
        }
        receipt
    }

    /// A link message is complete; returns the peer's goodbye if it is one.
    ///
    /// # Errors
    /// A [`Violation`] in an ack; the rail will be closed.
    pub fn link_received(
        &mut self,
        now: u64,
        rail: RailId,
        message: &LinkMessage,
    ) -> Result<Option<ReasonCode>, Violation> {
        self.bytes_received(now, rail);
        match *message {
            LinkMessage::Ack(ref ack) => return self.ack_received(now, rail, ack).map(|()| None),
            LinkMessage::Ping { nonce, sent_ns } => {
                if let Some(known) = self.rail_mut(rail) {
                    known.pong_owed = Some((nonce, sent_ns));
                }
            }
            LinkMessage::Pong { nonce, sent_ns } => {
                if let Some(known) = self.rail_mut(rail) {
                    known.pong(now, nonce, sent_ns);
                }
            }
            LinkMessage::Goodbye { code } => return Ok(Some(code)),
        }
        Ok(None)
    }

    fn ack_received(
        &mut self,
        now: u64,
        rail: RailId,
        ack: &dwcp_wire::AckInfo,
    ) -> Result<(), Violation> {
        let Self { outbound, rails, counters, .. } = self;
        let applied = outbound.ack(ack, |acked| {
            counters.acked_bytes += u64::from(acked.bytes);
            let carrier = rails.iter_mut().find(|known| Some(known.id) == acked.rail);
            if let Some(carrier) = carrier {
                carrier.slice_acked(now, acked.bytes);
            }
        });
        applied.inspect_err(|violation| self.refuse(rail, *violation))
    }

    fn refuse(&mut self, rail: RailId, violation: Violation) {
        self.counters.violations += 1;
        self.close(rail, CloseReason::Violation(violation));
    }

    fn close(&mut self, rail: RailId, reason: CloseReason) {
        let Some(known) = self.rail_mut(rail) else { return };
        if !known.is_closing {
            known.is_closing = true;
            self.closing.push((rail, reason));
        }
    }

    fn rail_mut(&mut self, rail: RailId) -> Option<&mut Rail> {
        self.rails.iter_mut().find(|known| known.id == rail)
    }

    // ---- commands ----------------------------------------------------------------------------

    /// The next thing to do, or `None` until an event or [`Self::next_deadline`].
    pub fn next_command(&mut self, now: u64) -> Option<Command> {
        self.find_stalled(now);
        if let Some((rail, reason)) = self.closing.pop() {
            return Some(Command::CloseRail { rail, reason });
        }
        if let Some((channel, seq)) = self.outbound.next_release() {
            return Some(Command::Release { channel, seq });
        }
        if let Some((channel, seq)) = self.inbound.next_delivery() {
            return Some(Command::Deliver { channel, seq });
        }
        self.next_link(now).or_else(|| self.next_slice(now))
    }

    fn find_stalled(&mut self, now: u64) {
        let Self { rails, closing, counters, config, .. } = self;
        for rail in rails.iter_mut().filter(|rail| !rail.is_closing && rail.owes_answer()) {
            let silent_ns = now.saturating_sub(rail.progress_ns());
            if silent_ns >= config.stall_ns {
                rail.is_closing = true;
                counters.stalled_rails += 1;
                closing.push((rail.id, CloseReason::Stalled { silent_ns }));
            }
        }
    }

    fn next_link(&mut self, now: u64) -> Option<Command> {
        self.next_pong().or_else(|| self.next_ack(now)).or_else(|| self.next_ping(now))
    }

    fn next_pong(&mut self) -> Option<Command> {
        let owes = |rail: &&mut Rail| rail.takes_link() && rail.pong_owed.is_some();
        let rail = self.rails.iter_mut().find(owes)?;
        let (nonce, sent_ns) = rail.pong_owed.take()?;
        rail.link_posted();
        Some(Command::PostLink { rail: rail.id, message: LinkMessage::Pong { nonce, sent_ns } })
    }

    fn next_ack(&mut self, now: u64) -> Option<Command> {
        self.acks.due_at().filter(|due| *due <= now)?;
        let rail = Self::rail_for_ack(&mut self.rails)?;
        rail.link_posted();
        let message = LinkMessage::Ack(self.inbound.ack());
        self.acks.on_posted(self.inbound.bulk_held());
        Some(Command::PostLink { rail: rail.id, message })
    }

    /// A rail that is not busy with a slice, else any; among those the one heard last.
    fn rail_for_ack(rails: &mut [Rail]) -> Option<&mut Rail> {
        rails
            .iter_mut()
            .filter(|rail| rail.takes_link())
            .max_by_key(|rail| (rail.sending.is_none(), rail.progress_ns()))
    }

    fn next_ping(&mut self, now: u64) -> Option<Command> {
        let is_due = |rail: &&mut Rail| rail.ping_due().is_some_and(|due| due <= now);
        let rail = self.rails.iter_mut().find(is_due)?;
        let nonce = rail.ping_posted(now, self.config.ping_interval_ns);
        rail.link_posted();
        Some(Command::PostLink {
            rail: rail.id,
            message: LinkMessage::Ping { nonce, sent_ns: now },
        })
    }

    fn next_slice(&mut self, now: u64) -> Option<Command> {
        let (key, bytes) = self.outbound.head()?;
        let (channel, seq) = key;
        if channel != Channel::Control && !self.bucket.is_ready(now) {
            return None;
        }
        let index = self.rail_for_slice(key, bytes)?;
        let rail = &mut self.rails[index];
        rail.slice_posted(now, key, bytes);
        let is_resend = self.outbound.start(key, rail.id);
        let wire_bytes = u64::from(bytes) + HEADER_BYTES as u64;
        self.bucket.charge(now, wire_bytes);
        self.counters.posted_slices += 1;
        self.counters.posted_bytes += wire_bytes;
        if is_resend {
            self.counters.resent_slices += 1;
            self.counters.resent_bytes += wire_bytes;
        }
        Some(Command::PostSlice { rail: rail.id, channel, seq })
    }

    /// The free rail on which the slice would be through first. A new slice rather waits for a
    /// rail with room than join a long queue, as long as there is one; re-sends and Control never
    /// wait, because what fills the queues may be waiting for them.
    fn rail_for_slice(&self, (channel, seq): (Channel, u64), bytes: u32) -> Option<usize> {
        let is_urgent = channel == Channel::Control || self.outbound.was_posted((channel, seq));
        let open = self.rails.iter().filter(|rail| !rail.is_closing);
        let picky = !is_urgent && open.clone().any(|rail| rail.has_room(bytes));
        let free = self.rails.iter().enumerate().filter(|(_, rail)| {
            !rail.is_closing && rail.sending.is_none() && (!picky || rail.has_room(bytes))
        });
        free.min_by_key(|(_, rail)| rail.finish_ns(bytes)).map(|(index, _)| index)
    }

    /// When [`Self::next_command`] should be asked again although no event came.
    pub fn next_deadline(&mut self, now: u64) -> Option<u64> {
        let stall_ns = self.config.stall_ns;
        let open = self.rails.iter().filter(|rail| !rail.is_closing);
        let rails = open.flat_map(|rail| {
            let stall = rail.owes_answer().then(|| rail.progress_ns().saturating_add(stall_ns));
            [stall, rail.ping_due()]
        });
        let can_ack = self.rails.iter().any(Rail::takes_link);
        let ack = self.acks.due_at().filter(|_| can_ack);
        let earliest = rails.flatten().chain(ack).min();
        let paced = self.paced_until(now);
        earliest.into_iter().chain(paced).min()
    }

    /// When the ceiling lets the next slice go, if nothing else is in its way.
    fn paced_until(&mut self, now: u64) -> Option<u64> {
        let (key, bytes) = self.outbound.head()?;
        let waits = key.0 != Channel::Control && !self.bucket.is_ready(now);
        let has_rail = self.rail_for_slice(key, bytes).is_some();
        if waits && has_rail { self.bucket.ready_at() } else { None }
    }

    // ---- what others read --------------------------------------------------------------------

    /// Every slice of the channel below this number is acked.
    #[must_use]
    pub fn acked_below(&self, channel: Channel) -> u64 {
        self.outbound.acked_below(channel)
    }

    /// Slices and body bytes that were submitted and are not acked.
    #[must_use]
    pub fn unacked(&self) -> (u64, u64) {
        (self.outbound.unacked_slices, self.outbound.unacked_bytes)
    }

    /// Whether the peer's last slice of the channel and all before it are consumed.
    #[must_use]
    pub fn is_finished(&self, channel: Channel) -> bool {
        self.inbound.is_finished(channel)
    }

    /// Measurements of one rail.
    #[must_use]
    pub fn rail_stats(&self, rail: RailId) -> Option<RailStats> {
        self.rails.iter().find(|known| known.id == rail).map(Rail::stats)
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        let rtts = self.rails.iter().map(|rail| rail.stats().rtt_smoothed_ns);
        SessionStats {
            rails: self.rails.len(),
            unacked_slices: self.outbound.unacked_slices,
            unacked_bytes: self.outbound.unacked_bytes,
            in_flight_slices: self.outbound.in_flight_slices(),
            rtt_ns: rtts.filter(|rtt| *rtt > 0).min().unwrap_or(0),
            ..self.counters
        }
    }
}
