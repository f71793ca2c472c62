//! A shell around one session: keeps the buffers, consumes what arrives, and checks each command
//! against what a shell can rely on.

use std::collections::{BTreeMap, BTreeSet};

use dwcp_session::{
    CloseReason, Command, OutboundMeta, Receipt, Session, SessionConfig, SubmitError,
};
use dwcp_wire::{
    Channel, Epoch, Generation, HEADER_BYTES, LINK_BYTES_MAX, LinkMessage, RailId, SliceHeader,
    SliceSeq, body_checksum,
};

use crate::network::{Network, Shell};
use crate::rail::{Frame, Key};
use crate::rate_meter::RateMeter;
use crate::{Broken, Rng};

/// Job tag and epoch of every simulated session.
pub(crate) const JOB_TAG: u32 = 0x0051_0a4d;
pub(crate) const EPOCH: Epoch = Epoch(7);

/// A slice whose buffer the shell holds until `Release`.
struct Held {
    meta: OutboundMeta,
    body: Vec<u8>,
    rail: Option<RailId>,
}

/// How long the consumer takes for a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConsumerPace {
    pub(crate) low_ns: u64,
    pub(crate) high_ns: u64,
}

/// One side of a session.
pub(crate) struct Endpoint {
    pub(crate) session: Session,
    side: usize,
    window_out: u32,
    window_in: u32,
    outgoing: BTreeMap<Key, Held>,
    /// Skeleton and Pages slices that were posted and not released.
    bulk_in_flight: usize,
    incoming: BTreeMap<Key, Vec<u8>>,
    /// Skeleton and Pages slices of the peer that are here and not consumed.
    bulk_held: usize,
    consuming: BTreeMap<(u64, u64), Key>,
    delivered: BTreeSet<Key>,
    consumed: BTreeSet<Key>,
    /// Every Pages slice below is consumed.
    pages_consumed_below: u64,
    pace: ConsumerPace,
    pub(crate) paused_until_ns: u64,
    rng: Rng,
    order: u64,
    meter: RateMeter,
    /// Slices that were on a rail when it died.
    pub(crate) lost_slices: u64,
}

/// What the peer of an endpoint has consumed, to judge acks by.
pub(crate) struct PeerView<'a> {
    consumed: &'a BTreeSet<Key>,
    pages_consumed_below: u64,
}

impl Endpoint {
    pub(crate) fn new(side: usize, config: SessionConfig, pace: ConsumerPace, rng: Rng) -> Self {
        Self {
            side,
            window_out: config.window_out_slices,
            window_in: config.window_in_slices,
            meter: RateMeter::new(config.rate_bytes_per_s),
            session: Session::new(config).expect("settings of the scenario"),
            outgoing: BTreeMap::new(),
            bulk_in_flight: 0,
            bulk_held: 0,
            incoming: BTreeMap::new(),
            consuming: BTreeMap::new(),
            delivered: BTreeSet::new(),
            consumed: BTreeSet::new(),
            pages_consumed_below: 0,
            pace,
            paused_until_ns: 0,
            rng,
            order: 0,
            lost_slices: 0,
        }
    }

    /// Hands a slice to the session; `false` when it has to wait.
    pub(crate) fn submit(&mut self, meta: OutboundMeta, body: Vec<u8>) -> Result<bool, Broken> {
        match self.session.submit(meta) {
            Ok(()) => {
                self.outgoing.insert((meta.channel, meta.seq), Held { meta, body, rail: None });
                Ok(true)
            }
            Err(SubmitError::Full { .. }) => Ok(false),
            Err(error) => Err(format!("submit refused: {error}")),
        }
    }

    pub(crate) fn set_rate(&mut self, now: u64, rate_bytes_per_s: Option<u64>) {
        self.session.set_rate(now, rate_bytes_per_s);
        self.meter.set_rate(now, rate_bytes_per_s);
    }

    pub(crate) fn view(&self) -> PeerView<'_> {
        PeerView { consumed: &self.consumed, pages_consumed_below: self.pages_consumed_below }
    }

    /// Does what the session says; whether it said anything. Without a view of the peer, whose
    /// process may be gone, acks are not judged.
    pub(crate) fn execute(
        &mut self,
        now: u64,
        network: &mut Network,
        peer: Option<&PeerView<'_>>,
    ) -> Result<bool, Broken> {
        let mut moved = false;
        while let Some(command) = self.session.next_command(now) {
            moved = true;
            match command {
                Command::PostSlice { rail, channel, seq } => {
                    let bytes = self.post(now, rail, (channel, seq), peer)?;
                    network.post_slice(self.side, rail, (channel, seq), bytes)?;
                }
                Command::PostLink { rail, message } => {
                    network.post_link(self.side, rail, &message)?;
                }
                Command::Release { channel, seq } => {
                    self.release((channel, seq), network, peer)?;
                }
                Command::Deliver { channel, seq } => self.deliver(now, (channel, seq))?,
                Command::CloseRail { rail, reason: CloseReason::Stalled { .. } } => {
                    network.close_rail(now, self.side, rail, self)?;
                }
                Command::CloseRail { rail, reason } => {
                    return Err(format!("rail {rail} of an honest peer closed: {reason}"));
                }
            }
        }
        Ok(moved)
    }

    /// Header and body of a slice that is to be posted.
    fn post(
        &mut self,
        now: u64,
        rail: RailId,
        key: Key,
        peer: Option<&PeerView<'_>>,
    ) -> Result<Vec<u8>, Broken> {
        let held = self.outgoing.get_mut(&key).ok_or(format!("{key:?} posted after release"))?;
        let not_before = held.meta.not_before;
        let consumed_below = peer.map_or(u64::MAX, |peer| peer.pages_consumed_below);
        if not_before.is_some_and(|before| consumed_below <= before) {
            return Err(format!("{key:?} posted; consumed below {consumed_below}, {not_before:?}"));
        }
        if key.0 != Channel::Control && held.rail.is_none() {
            self.bulk_in_flight += 1;
        }
        held.rail = Some(rail);
        let bytes = encode(held);
        let allowed = self.window_out as usize + crate::network::RAILS_MAX;
        if self.bulk_in_flight > allowed {
            return Err(format!("{} slices in flight, allowed are {allowed}", self.bulk_in_flight));
        }
        self.meter.post(now, key, bytes.len())?;
        Ok(bytes)
    }

    /// The slice is acked: its buffer is free.
    fn release(
        &mut self,
        key: Key,
        network: &Network,
        peer: Option<&PeerView<'_>>,
    ) -> Result<(), Broken> {
        if peer.is_some_and(|peer| !peer.consumed.contains(&key)) {
            return Err(format!("{key:?} released, but its peer did not consume it"));
        }
        if let Some(rail) = network.sender_of(self.side, key) {
            return Err(format!("{key:?} released while rail {rail} sends it"));
        }
        self.outgoing.remove(&key).ok_or(format!("{key:?} released twice"))?;
        self.bulk_in_flight -= usize::from(key.0 != Channel::Control);
        Ok(())
    }

    /// The session hands a slice on.
    fn deliver(&mut self, now: u64, key: Key) -> Result<(), Broken> {
        let (channel, seq) = key;
        if !self.delivered.insert(key) {
            return Err(format!("{key:?} delivered twice"));
        }
        if channel.is_ordered() && seq > 0 && !self.delivered.contains(&(channel, seq - 1)) {
            return Err(format!("{key:?} delivered before the one in front of it"));
        }
        if !self.incoming.contains_key(&key) {
            return Err(format!("{key:?} delivered, not received"));
        }
        let delay = self.rng.between(self.pace.low_ns, self.pace.high_ns);
        self.order += 1;
        self.consuming.insert((now.max(self.paused_until_ns) + delay, self.order), key);
        Ok(())
    }

    /// The next slice that the consumer is through with by now.
    pub(crate) fn consume(&mut self, now: u64) -> Result<Option<(Key, Vec<u8>)>, Broken> {
        let due = |(at, _): &(u64, u64)| (*at).max(self.paused_until_ns) <= now;
        let Some(entry) = self.consuming.first_entry().filter(|entry| due(entry.key())) else {
            return Ok(None);
        };
        let key = entry.remove();
        let body = self.incoming.remove(&key).ok_or(format!("{key:?} consumed, not held"))?;
        self.bulk_held -= usize::from(key.0 != Channel::Control);
        self.consumed.insert(key);
        while self.consumed.contains(&(Channel::Pages, self.pages_consumed_below)) {
            self.pages_consumed_below += 1;
        }
        self.session.consumed(now, key.0, key.1);
        Ok(Some((key, body)))
    }

    /// When the consumer or the session has something to do.
    pub(crate) fn next_event(&mut self, now: u64) -> Option<u64> {
        let consumer = self.consuming.first_key_value();
        let consumer = consumer.map(|((at, _), _)| (*at).max(self.paused_until_ns));
        consumer.into_iter().chain(self.session.next_deadline(now)).min()
    }

    pub(crate) fn slices_consumed(&self) -> usize {
        self.consumed.len()
    }

    pub(crate) fn slices_held(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether nothing is left to send, to receive or to free.
    pub(crate) fn check_empty(&self) -> Result<(), Broken> {
        let left = (self.outgoing.len(), self.incoming.len());
        if left != (0, 0) || self.session.unacked() != (0, 0) {
            let unacked = self.session.unacked();
            return Err(format!("left over: {left:?} buffers, {unacked:?} in the session"));
        }
        Ok(())
    }
}

impl Shell for Endpoint {
    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    fn receive(&mut self, now: u64, rail: RailId, frame: Frame) -> Result<(), Broken> {
        let SliceHeader { channel, seq, length, flags, .. } = frame.header;
        if channel == Channel::Link {
            let message = LinkMessage::decode(&frame.body).map_err(|error| error.to_string())?;
            let applied = self.session.link_received(now, rail, &message);
            return applied.map(|_| ()).map_err(|violation| format!("honest peer: {violation}"));
        }
        let key = (channel, seq.0);
        let foreseen = self.session.inspect(channel, seq.0, length, flags);
        let receipt = self.session.slice_received(now, rail, channel, seq.0, length, flags);
        if foreseen != receipt {
            return Err(format!("{key:?}: inspected as {foreseen:?}, received as {receipt:?}"));
        }
        match receipt {
            Receipt::Accepted => {
                if self.incoming.insert(key, frame.body).is_some() {
                    return Err(format!("{key:?} accepted twice"));
                }
                self.bulk_held += usize::from(channel != Channel::Control);
                if self.bulk_held > self.window_in as usize {
                    let window = self.window_in;
                    return Err(format!("{} slices in a window of {window}", self.bulk_held));
                }
                Ok(())
            }
            Receipt::Duplicate => Ok(()),
            Receipt::Violation(violation) => Err(format!("honest peer: {violation}")),
        }
    }

    fn rail_lost(&mut self, rail: RailId) {
        let on_rail = self.outgoing.values().filter(|held| held.rail == Some(rail));
        self.lost_slices += on_rail.count() as u64;
        self.session.rail_down(rail);
    }
}

fn encode(held: &Held) -> Vec<u8> {
    let header = SliceHeader {
        channel: held.meta.channel,
        flags: held.meta.flags,
        job_tag: JOB_TAG,
        epoch: EPOCH,
        generation: Generation(0),
        seq: SliceSeq(held.meta.seq),
        length: held.meta.bytes,
        checksum: body_checksum(&held.body),
    };
    [&header.encode()[..], &held.body].concat()
}

/// Header and body of a link message.
pub(crate) fn link_bytes(message: &LinkMessage) -> Vec<u8> {
    let mut out = [0; HEADER_BYTES + LINK_BYTES_MAX];
    let length = message.encode_framed(JOB_TAG, EPOCH, &mut out);
    out[..length].to_vec()
}
