//! A shell around one session: keeps the buffers, consumes what arrives, and checks each command
//! against what a shell can rely on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dwcp_session::{OutboundMeta, Receipt, Session, SessionConfig, SubmitError};
use dwcp_wire::{
    Channel, Epoch, Generation, HEADER_BYTES, LINK_BYTES_MAX, LinkMessage, RailId, SliceHeader,
    SliceSeq, body_checksum,
};

use crate::rail::{Frame, Key};
use crate::{Broken, Rng};

/// Job tag and epoch of every simulated session.
pub(crate) const JOB_TAG: u32 = 0x0051_0a4d;
pub(crate) const EPOCH: Epoch = Epoch(7);

/// A slice whose buffer the shell holds until `Release`.
pub(crate) struct Held {
    pub(crate) meta: OutboundMeta,
    pub(crate) body: Vec<u8>,
    pub(crate) rail: Option<RailId>,
}

/// How long the consumer takes for a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConsumerPace {
    pub(crate) low_ns: u64,
    pub(crate) high_ns: u64,
}

/// One side of the transfer.
pub(crate) struct Endpoint {
    pub(crate) session: Session,
    pub(crate) window: u32,
    /// Slices still to be submitted, with the time their producer has them.
    pub(crate) script: VecDeque<(u64, OutboundMeta)>,
    pub(crate) outgoing: BTreeMap<Key, Held>,
    /// Skeleton and Pages slices that were posted and not released.
    pub(crate) bulk_in_flight: usize,
    incoming: BTreeMap<Key, Vec<u8>>,
    /// Skeleton and Pages slices of the peer that are here and not consumed.
    pub(crate) bulk_held: usize,
    consuming: BTreeMap<(u64, u64), Key>,
    delivered: BTreeSet<Key>,
    pub(crate) consumed: BTreeSet<Key>,
    /// Every Pages slice below is consumed.
    pub(crate) pages_consumed_below: u64,
    pace: ConsumerPace,
    pub(crate) paused_until_ns: u64,
    rng: Rng,
    order: u64,
    pub(crate) meter: RateMeter,
    /// Slices that were on a rail when it died.
    pub(crate) lost_slices: u64,
}

impl Endpoint {
    pub(crate) fn new(config: SessionConfig, pace: ConsumerPace, rng: Rng) -> Self {
        Self {
            window: config.window_out_slices,
            meter: RateMeter::new(config.rate_bytes_per_s),
            session: Session::new(config).expect("settings of the scenario"),
            script: VecDeque::new(),
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

    /// Submits what its producer has by now; whether anything was taken.
    pub(crate) fn produce(&mut self, now: u64) -> Result<bool, Broken> {
        let mut taken = false;
        while let Some((_, meta)) = self.script.front().copied().filter(|(at, _)| *at <= now) {
            match self.session.submit(meta) {
                Ok(()) => {}
                Err(SubmitError::Full { .. }) => break,
                Err(error) => return Err(format!("submit refused: {error}")),
            }
            self.script.pop_front();
            let key = (meta.channel, meta.seq);
            self.outgoing.insert(key, Held { meta, body: body_of(&meta), rail: None });
            taken = true;
        }
        Ok(taken)
    }

    /// Header and body of a slice that is to be posted on `rail`.
    pub(crate) fn post(&mut self, key: Key, rail: RailId) -> Result<Vec<u8>, Broken> {
        let held = self.outgoing.get_mut(&key).ok_or(format!("{key:?} posted after release"))?;
        if key.0 != Channel::Control && held.rail.is_none() {
            self.bulk_in_flight += 1;
        }
        held.rail = Some(rail);
        let header = SliceHeader {
            channel: key.0,
            flags: held.meta.flags,
            job_tag: JOB_TAG,
            epoch: EPOCH,
            generation: Generation(0),
            seq: SliceSeq(key.1),
            length: held.meta.bytes,
            checksum: body_checksum(&held.body),
        };
        let bytes = [&header.encode()[..], &held.body].concat();
        Ok(bytes)
    }

    pub(crate) fn not_before(&self, key: Key) -> Option<u64> {
        self.outgoing.get(&key).and_then(|held| held.meta.not_before)
    }

    pub(crate) fn rail_lost(&mut self, rail: RailId) {
        let on_rail = self.outgoing.values().filter(|held| held.rail == Some(rail));
        self.lost_slices += on_rail.count() as u64;
        self.session.rail_down(rail);
    }

    /// A message came in on `rail`.
    pub(crate) fn receive(&mut self, now: u64, rail: RailId, frame: Frame) -> Result<(), Broken> {
        let SliceHeader { channel, seq, length, flags, .. } = frame.header;
        if channel == Channel::Link {
            let message = LinkMessage::decode(&frame.body).map_err(|e| e.to_string())?;
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
            Receipt::Accepted => match self.incoming.insert(key, frame.body) {
                None => {
                    self.bulk_held += usize::from(channel != Channel::Control);
                    Ok(())
                }
                Some(_) => Err(format!("{key:?} accepted twice")),
            },
            Receipt::Duplicate => Ok(()),
            Receipt::Violation(violation) => Err(format!("honest peer: {violation}")),
        }
    }

    /// The slice is acked: its buffer is free.
    pub(crate) fn release(&mut self, key: Key) -> Result<(), Broken> {
        self.outgoing.remove(&key).ok_or(format!("{key:?} released twice"))?;
        self.bulk_in_flight -= usize::from(key.0 != Channel::Control);
        Ok(())
    }

    /// The session hands a slice on.
    pub(crate) fn deliver(&mut self, now: u64, key: Key) -> Result<(), Broken> {
        let (channel, seq) = key;
        if !self.delivered.insert(key) {
            return Err(format!("{key:?} delivered twice"));
        }
        if channel.is_ordered() && seq > 0 && !self.delivered.contains(&(channel, seq - 1)) {
            return Err(format!("{key:?} delivered before the one in front of it"));
        }
        let body = self.incoming.get(&key).ok_or(format!("{key:?} delivered, not received"))?;
        if *body != content(channel, seq, body.len()) {
            return Err(format!("{key:?} arrived with other bytes than were sent"));
        }
        let delay = self.rng.between(self.pace.low_ns, self.pace.high_ns);
        self.order += 1;
        self.consuming.insert((now.max(self.paused_until_ns) + delay, self.order), key);
        Ok(())
    }

    /// Finishes what the consumer has done by now; whether there was anything.
    pub(crate) fn consume(&mut self, now: u64) -> Result<bool, Broken> {
        let mut done = false;
        while let Some(entry) = self.consuming.first_entry() {
            if entry.key().0.max(self.paused_until_ns) > now {
                break;
            }
            let key = entry.remove();
            self.incoming.remove(&key).ok_or(format!("{key:?} consumed, not held"))?;
            self.consumed.insert(key);
            self.bulk_held -= usize::from(key.0 != Channel::Control);
            while self.consumed.contains(&(Channel::Pages, self.pages_consumed_below)) {
                self.pages_consumed_below += 1;
            }
            self.session.consumed(now, key.0, key.1);
            done = true;
        }
        Ok(done)
    }

    /// When the producer or the consumer has something to do.
    pub(crate) fn next_event(&self, now: u64) -> Option<u64> {
        let consumer = self.consuming.first_key_value();
        let consumer = consumer.map(|((at, _), _)| (*at).max(self.paused_until_ns));
        let producer = self.script.front().map(|(at, _)| *at).filter(|at| *at > now);
        consumer.into_iter().chain(producer).min()
    }

    /// Whether nothing is left to send, to receive or to free.
    pub(crate) fn check_empty(&self) -> Result<(), Broken> {
        let left = (self.script.len(), self.outgoing.len(), self.incoming.len());
        if left != (0, 0, 0) || self.session.unacked() != (0, 0) {
            let unacked = self.session.unacked();
            return Err(format!("left over: {left:?} buffers, {unacked:?} in the session"));
        }
        Ok(())
    }

    pub(crate) fn is_done(&self, expected: usize) -> bool {
        self.script.is_empty() && self.outgoing.is_empty() && self.consumed.len() == expected
    }
}

/// Bytes of a slice, which follow from its identity.
fn content(channel: Channel, seq: u64, bytes: usize) -> Vec<u8> {
    let mut rng = Rng::new(seq << 8 | u64::from(channel.code()));
    let words = std::iter::repeat_with(|| rng.bits().to_le_bytes());
    words.flatten().take(bytes).collect()
}

fn body_of(meta: &OutboundMeta) -> Vec<u8> {
    content(meta.channel, meta.seq, usize::try_from(meta.bytes).unwrap_or(0))
}

/// Header and body of a link message.
pub(crate) fn link_bytes(message: &LinkMessage) -> Vec<u8> {
    let mut out = [0; HEADER_BYTES + LINK_BYTES_MAX];
    let length = message.encode_framed(JOB_TAG, EPOCH, &mut out);
    out[..length].to_vec()
}

/// A leaky bucket beside the session's own: how far above the ceiling the posted bytes are.
pub(crate) struct RateMeter {
    rate_bytes_per_s: Option<u64>,
    level_bytes: f64,
    burst_bytes: f64,
    at_ns: u64,
}

impl RateMeter {
    fn new(rate_bytes_per_s: Option<u64>) -> Self {
        let burst_bytes = burst(rate_bytes_per_s);
        Self { rate_bytes_per_s, level_bytes: 0.0, burst_bytes, at_ns: 0 }
    }

    pub(crate) fn set_rate(&mut self, now: u64, rate_bytes_per_s: Option<u64>) {
        self.drain(now);
        self.rate_bytes_per_s = rate_bytes_per_s;
        self.burst_bytes = self.burst_bytes.max(burst(rate_bytes_per_s));
    }

    fn drain(&mut self, now: u64) {
        let elapsed_s = now.saturating_sub(self.at_ns) as f64 / 1e9;
        let drained = self.rate_bytes_per_s.map_or(f64::INFINITY, |rate| rate as f64 * elapsed_s);
        self.level_bytes = (self.level_bytes - drained).max(0.0);
        self.at_ns = now;
    }

    pub(crate) fn post(&mut self, now: u64, key: Key, wire_bytes: usize) -> Result<(), Broken> {
        self.drain(now);
        if self.rate_bytes_per_s.is_none() {
            return Ok(());
        }
        if key.0 != Channel::Control && self.level_bytes > self.burst_bytes + 1.0 {
            let level = self.level_bytes;
            return Err(format!("{key:?} posted {level:.0} bytes above the ceiling"));
        }
        self.level_bytes += wire_bytes as f64;
        Ok(())
    }
}

/// What may be posted at once: a hundredth of a second's worth.
fn burst(rate_bytes_per_s: Option<u64>) -> f64 {
    rate_bytes_per_s.unwrap_or(0) as f64 / 100.0
}
