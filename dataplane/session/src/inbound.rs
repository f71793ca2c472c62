//! The receiving half: which slices came, which may be handed on, which are consumed.
//!
//! Per channel a watermark (everything below is consumed) and two bits per number beyond it.
//! Called from the session only; the peer's numbers are checked before anything is changed.

use std::collections::VecDeque;

use dwcp_wire::{
    AckInfo, AckRange, CONTROL_ALLOWANCE_SLICES, Channel, SEQ_SPAN, SEQUENCED_CHANNELS, SliceFlags,
    SliceSeq,
};

use crate::Violation;
use crate::ring_bits::RingBits;

/// What the shell does with a slice that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// New: keep the buffer until its `Deliver`.
    Accepted,
    /// We have it already: drop the buffer.
    Duplicate,
    /// The peer broke the protocol: drop the buffer; a `CloseRail` follows.
    Violation(Violation),
}

/// One channel of the inbound direction.
struct Lane {
    channel: Channel,
    /// Every number below is consumed.
    watermark: u64,
    /// Highest number received, plus one.
    end: u64,
    /// Next number to deliver on an ordered channel.
    deliver_next: u64,
    /// Number of the slice flagged LAST.
    last: Option<u64>,
    received: RingBits,
    consumed: RingBits,
}

impl Lane {
    fn new(channel: Channel) -> Self {
        Self {
            channel,
            watermark: 0,
            end: 0,
            deliver_next: 0,
            last: None,
            received: RingBits::new(),
            consumed: RingBits::new(),
        }
    }

    fn has(&self, seq: u64) -> bool {
        seq < self.watermark || (seq < self.end && self.received.contains(seq))
    }

    fn check_last(&self, seq: u64, flags: SliceFlags) -> Result<(), Violation> {
        let channel = self.channel;
        match self.last {
            Some(last) if seq > last || (flags.is_last() && seq != last) => {
                Err(Violation::BadLast { channel, seq, end: last })
            }
            None if flags.is_last() && seq + 1 < self.end => {
                Err(Violation::BadLast { channel, seq, end: self.end - 1 })
            }
            _ => Ok(()),
        }
    }

    fn insert(&mut self, seq: u64, flags: SliceFlags) {
        self.received.insert(seq);
        self.end = self.end.max(seq + 1);
        if flags.is_last() {
            self.last = Some(seq);
        }
    }

    fn consume(&mut self, seq: u64) {
        let known = seq >= self.watermark && seq < self.end && self.received.contains(seq);
        assert!(known && !self.consumed.contains(seq), "consumed {seq} of {:?}", self.channel);
        self.consumed.insert(seq);
        let reached = self.consumed.find(self.watermark, self.end, false);
        for done in self.watermark..reached {
            self.consumed.remove(done);
            self.received.remove(done);
        }
        self.watermark = reached;
    }

    /// Adds the ranges consumed beyond the watermark; `false` when the ack is full.
    fn report(&self, ack: &mut AckInfo) -> bool {
        let mut from = self.watermark;
        loop {
            let first = self.consumed.find(from, self.end, true);
            if first == self.end {
                return true;
            }
            from = self.consumed.find(first, self.end, false);
            let count = u32::try_from(from - first).unwrap_or(u32::MAX);
            if !ack.push(AckRange { channel: self.channel, first: SliceSeq(first), count }) {
                return false;
            }
        }
    }
}

/// All channels of the inbound direction.
pub(crate) struct Inbound {
    lanes: [Lane; SEQUENCED_CHANNELS],
    /// Pages slices in the order they came.
    pages_arrived: VecDeque<u64>,
    window_slices: u32,
    payload_max: u32,
    control_held: u32,
    bulk_held: u32,
}

impl Inbound {
    pub(crate) fn new(window_slices: u32, payload_max: u32) -> Self {
        Self {
            lanes: Channel::SEQUENCED.map(Lane::new),
            pages_arrived: VecDeque::with_capacity(usize::try_from(window_slices).unwrap_or(0)),
            window_slices,
            payload_max,
            control_held: 0,
            bulk_held: 0,
        }
    }

    /// What would become of a slice, without taking it.
    pub(crate) fn check(
        &self,
        channel: Channel,
        seq: u64,
        bytes: u32,
        flags: SliceFlags,
    ) -> Receipt {
        match self.admit(channel, seq, bytes, flags) {
            Ok(true) => Receipt::Accepted,
            Ok(false) => Receipt::Duplicate,
            Err(violation) => Receipt::Violation(violation),
        }
    }

    /// Takes a slice whose body is complete and verified.
    pub(crate) fn take(
        &mut self,
        channel: Channel,
        seq: u64,
        bytes: u32,
        flags: SliceFlags,
    ) -> Receipt {
        let receipt = self.check(channel, seq, bytes, flags);
        if let (Receipt::Accepted, Some(index)) = (receipt, channel.index()) {
            self.lanes[index].insert(seq, flags);
            *self.held_mut(channel) += 1;
            if channel == Channel::Pages {
                self.pages_arrived.push_back(seq);
            }
        }
        receipt
    }

    fn admit(
        &self,
        channel: Channel,
        seq: u64,
        bytes: u32,
        flags: SliceFlags,
    ) -> Result<bool, Violation> {
        let Some(index) = channel.index() else {
            return Err(Violation::WrongChannel { channel });
        };
        if bytes > self.payload_max {
            return Err(Violation::TooLong { channel, seq, bytes, max: self.payload_max });
        }
        let lane = &self.lanes[index];
        let limit = lane.watermark.saturating_add(SEQ_SPAN);
        if seq >= limit {
            return Err(Violation::BeyondSpan { channel, seq, limit });
        }
        lane.check_last(seq, flags)?;
        if lane.has(seq) {
            return Ok(false);
        }
        let (held, window) = match channel {
            Channel::Control => (self.control_held, CONTROL_ALLOWANCE_SLICES),
            _ => (self.bulk_held, self.window_slices),
        };
        if held >= window {
            return Err(Violation::WindowExceeded { channel, seq, window });
        }
        Ok(true)
    }

    /// The next slice that may be handed on.
    pub(crate) fn next_delivery(&mut self) -> Option<(Channel, u64)> {
        for lane in self.lanes.iter_mut().filter(|lane| lane.channel.is_ordered()) {
            let seq = lane.deliver_next;
            if seq < lane.end && lane.received.contains(seq) {
                lane.deliver_next += 1;
                return Some((lane.channel, seq));
            }
        }
        self.pages_arrived.pop_front().map(|seq| (Channel::Pages, seq))
    }

    pub(crate) fn consume(&mut self, channel: Channel, seq: u64) {
        let index = channel.index().expect("only numbered channels deliver");
        self.lanes[index].consume(seq);
        *self.held_mut(channel) -= 1;
    }

    pub(crate) fn ack(&self) -> AckInfo {
        let mut ack = AckInfo::new([0, 1, 2].map(|index: usize| self.lanes[index].watermark));
        for lane in &self.lanes {
            if !lane.report(&mut ack) {
                break;
            }
        }
        ack
    }

    /// Skeleton and Pages slices that are here and not consumed.
    pub(crate) fn bulk_held(&self) -> u32 {
        self.bulk_held
    }

    /// Whether the peer's LAST slice of a channel and all before it are consumed.
    pub(crate) fn is_finished(&self, channel: Channel) -> bool {
        let lane = channel.index().map(|index| &self.lanes[index]);
        lane.is_some_and(|lane| lane.last.is_some_and(|last| lane.watermark > last))
    }

    fn held_mut(&mut self, channel: Channel) -> &mut u32 {
        match channel {
            Channel::Control => &mut self.control_held,
            _ => &mut self.bulk_held,
        }
    }
}
