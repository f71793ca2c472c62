//! The sending half: every unacked slice, the queues it waits in, and what an ack frees.
//!
//! Per channel a ring of `SEQ_SPAN` entries from the ack watermark on, and three queues: Control,
//! re-sends, and the rest in the order of submission. Called from the session only.

use std::collections::VecDeque;

use dwcp_wire::{
    AckInfo, CONTROL_ALLOWANCE_SLICES, Channel, RailId, SEQ_SPAN, SEQUENCED_CHANNELS, SliceFlags,
};

use crate::{SubmitError, Violation};

/// A slice the producer hands over; its bytes stay with the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundMeta {
    /// A numbered channel.
    pub channel: Channel,
    /// Number: the next one on Control and Skeleton, any unused one on Pages.
    pub seq: u64,
    /// Bytes of the body.
    pub bytes: u32,
    /// Flags of the slice; `LAST` ends the channel.
    pub flags: SliceFlags,
    /// Pages only: the slice is not sent before every Pages slice up to and including this
    /// number is acked. Must be below `seq`.
    pub not_before: Option<u64>,
}

/// Identity of a slice within one direction.
pub(crate) type Key = (Channel, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Waits for `not_before`.
    Held,
    /// In a queue: never sent, or to be re-sent.
    Queued,
    /// Being handed to the kernel; the shell cannot free the buffer.
    Sending(RailId),
    /// On its way.
    Sent(RailId),
    /// Acked by an earlier copy while a re-send still uses the buffer.
    AckedSending(RailId),
    /// Acked and released, beyond the watermark.
    Acked,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: u64,
    bytes: u32,
    /// How often it was posted.
    posts: u32,
    /// Acks of all Pages numbers below this come first.
    needs_acked_below: u64,
    state: State,
}

impl Entry {
    const FREE: Self =
        Self { seq: 0, bytes: 0, posts: 0, needs_acked_below: 0, state: State::Free };
}

/// One channel of the outbound direction.
struct Lane {
    channel: Channel,
    entries: Box<[Entry]>,
    /// Every number below is acked.
    acked_below: u64,
    /// Highest number submitted, plus one.
    end: u64,
    last: Option<u64>,
}

fn slot(seq: u64) -> usize {
    usize::try_from(seq % SEQ_SPAN).unwrap_or(0)
}

impl Lane {
    fn new(channel: Channel) -> Self {
        let entries = vec![Entry::FREE; slot(SEQ_SPAN - 1) + 1].into_boxed_slice();
        Self { channel, entries, acked_below: 0, end: 0, last: None }
    }

    fn entry(&mut self, seq: u64) -> Option<&mut Entry> {
        let entry = &mut self.entries[slot(seq)];
        (entry.seq == seq && entry.state != State::Free).then_some(entry)
    }

    fn check(&self, meta: &OutboundMeta) -> Result<(), SubmitError> {
        let OutboundMeta { channel, seq, .. } = *meta;
        let expected = if channel.is_ordered() { self.end } else { self.acked_below };
        if seq < expected || (channel.is_ordered() && seq > expected) {
            return Err(SubmitError::OutOfOrder { channel, seq, expected });
        }
        if let Some(last) = self.last.filter(|last| seq > *last || meta.flags.is_last()) {
            return Err(SubmitError::AfterLast { channel, seq, last });
        }
        if let Some(highest) = self.end.checked_sub(1).filter(|h| meta.flags.is_last() && seq < *h)
        {
            return Err(SubmitError::AfterLast { channel, seq, last: highest });
        }
        let entry = &self.entries[slot(seq)];
        if entry.state != State::Free && entry.seq == seq {
            return Err(SubmitError::OutOfOrder { channel, seq, expected: self.end });
        }
        if seq - self.acked_below >= SEQ_SPAN || entry.state != State::Free {
            return Err(SubmitError::Full { channel, seq });
        }
        Ok(())
    }

    /// Moves the watermark over what is acked; whether it moved.
    fn advance(&mut self) -> bool {
        let before = self.acked_below;
        while self.acked_below < self.end {
            let entry = &mut self.entries[slot(self.acked_below)];
            match entry.state {
                State::Acked if entry.seq == self.acked_below => entry.state = State::Free,
                State::AckedSending(_) if entry.seq == self.acked_below => {}
                _ => break,
            }
            self.acked_below += 1;
        }
        self.acked_below > before
    }
}

/// A slice that an ack took off a rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) rail: Option<RailId>,
    pub(crate) bytes: u32,
}

/// All channels of the outbound direction.
pub(crate) struct Outbound {
    lanes: [Lane; SEQUENCED_CHANNELS],
    control: VecDeque<u64>,
    resend: VecDeque<Key>,
    bulk: VecDeque<Key>,
    /// Pages slices that wait for `not_before`, in the order of submission.
    held: Vec<u64>,
    /// Lowest watermark at which one of `held` may go.
    held_until: u64,
    release: VecDeque<Key>,
    window_slices: u32,
    control_in_flight: u32,
    bulk_in_flight: u32,
    pub(crate) unacked_slices: u64,
    pub(crate) unacked_bytes: u64,
}

impl Outbound {
    pub(crate) fn new(window_slices: u32) -> Self {
        let span = slot(SEQ_SPAN - 1) + 1;
        Self {
            lanes: Channel::SEQUENCED.map(Lane::new),
            control: VecDeque::with_capacity(2 * span),
            resend: VecDeque::with_capacity(2 * span),
            bulk: VecDeque::with_capacity(2 * span),
            held: Vec::with_capacity(span),
            held_until: u64::MAX,
            release: VecDeque::with_capacity(2 * span),
            window_slices,
            control_in_flight: 0,
            bulk_in_flight: 0,
            unacked_slices: 0,
            unacked_bytes: 0,
        }
    }

    pub(crate) fn submit(&mut self, meta: &OutboundMeta) -> Result<(), SubmitError> {
        let OutboundMeta { channel, seq, bytes, .. } = *meta;
        let unsuitable = SubmitError::Unsuitable { channel, seq };
        let needs_acked_below = match meta.not_before {
            None => 0,
            Some(before) if channel == Channel::Pages && before < seq => before + 1,
            Some(_) => return Err(unsuitable),
        };
        let index = channel.index().ok_or(unsuitable)?;
        let lane = &mut self.lanes[index];
        lane.check(meta)?;
        let held = needs_acked_below > lane.acked_below;
        let state = if held { State::Held } else { State::Queued };
        lane.entries[slot(seq)] = Entry { seq, bytes, posts: 0, needs_acked_below, state };
        lane.end = lane.end.max(seq + 1);
        if meta.flags.is_last() {
            lane.last = Some(seq);
        }
        self.unacked_slices += 1;
        self.unacked_bytes += u64::from(bytes);
        match channel {
            _ if held => {
                self.held.push(seq);
                self.held_until = self.held_until.min(needs_acked_below);
            }
            Channel::Control => self.control.push_back(seq),
            _ => self.bulk.push_back((channel, seq)),
        }
        Ok(())
    }

    /// The slice that is next to go, as far as windows allow, and its body's bytes.
    pub(crate) fn head(&mut self) -> Option<(Key, u32)> {
        self.head_control().or_else(|| self.head_resend()).or_else(|| self.head_bulk())
    }

    fn head_control(&mut self) -> Option<(Key, u32)> {
        while let Some(&seq) = self.control.front() {
            if let Some(entry) = self.queued((Channel::Control, seq)) {
                let fits = entry.posts > 0 || self.control_in_flight < CONTROL_ALLOWANCE_SLICES;
                return fits.then_some(((Channel::Control, seq), entry.bytes));
            }
            self.control.pop_front();
        }
        None
    }

    fn head_resend(&mut self) -> Option<(Key, u32)> {
        while let Some(&key) = self.resend.front() {
            if let Some(entry) = self.queued(key) {
                return Some((key, entry.bytes));
            }
            self.resend.pop_front();
        }
        None
    }

    fn head_bulk(&mut self) -> Option<(Key, u32)> {
        let &key = self.bulk.front().filter(|_| self.bulk_in_flight < self.window_slices)?;
        let entry = self.queued(key).expect("bulk holds unsent slices, which cannot be acked");
        Some((key, entry.bytes))
    }

    /// The entry of a queued slice; `None` if it was acked meanwhile.
    fn queued(&mut self, (channel, seq): Key) -> Option<Entry> {
        let lane = &mut self.lanes[channel.index()?];
        lane.entry(seq).filter(|entry| entry.state == State::Queued).copied()
    }

    /// Takes the slice that [`Self::head`] named off its queue; whether it goes once more.
    pub(crate) fn start(&mut self, (channel, seq): Key, rail: RailId) -> bool {
        let is_resend = self.pop(channel, seq);
        let entry = self.expect_entry(channel, seq);
        entry.state = State::Sending(rail);
        entry.posts = entry.posts.saturating_add(1);
        if !is_resend {
            *self.in_flight_mut(channel) += 1;
        }
        is_resend
    }

    fn pop(&mut self, channel: Channel, seq: u64) -> bool {
        let posted = self.expect_entry(channel, seq).posts > 0;
        let popped = match (channel, posted) {
            (Channel::Control, _) => self.control.pop_front().map(|seq| (channel, seq)),
            (_, true) => self.resend.pop_front(),
            (_, false) => self.bulk.pop_front(),
        };
        assert_eq!(popped, Some((channel, seq)), "only the head of a queue is posted");
        posted
    }

    /// Whether a slice was given to a rail before.
    pub(crate) fn was_posted(&self, (channel, seq): Key) -> bool {
        let lane = channel.index().map(|index| &self.lanes[index]);
        lane.map(|lane| lane.entries[slot(seq)])
            .is_some_and(|entry| entry.seq == seq && entry.posts > 0)
    }

    fn expect_entry(&mut self, channel: Channel, seq: u64) -> &mut Entry {
        let index = channel.index().expect("numbered channel");
        self.lanes[index].entry(seq).expect("slice is known")
    }

    /// The kernel has taken the slice: its buffer is free to be released.
    pub(crate) fn sent(&mut self, (channel, seq): Key, rail: RailId) {
        let entry = self.expect_entry(channel, seq);
        match entry.state {
            State::Sending(on) if on == rail => entry.state = State::Sent(rail),
            State::AckedSending(on) if on == rail => self.release_acked(channel, seq),
            state => unreachable!("{channel:?} {seq} was sent on rail {rail} while {state:?}"),
        }
    }

    fn release_acked(&mut self, channel: Channel, seq: u64) {
        let index = channel.index().expect("numbered channel");
        let lane = &mut self.lanes[index];
        let beyond = seq >= lane.acked_below;
        lane.entries[slot(seq)].state = if beyond { State::Acked } else { State::Free };
        self.release.push_back((channel, seq));
    }

    /// Queues again whatever `rail` carried, oldest first; `sending` is what it was handing to
    /// the kernel.
    pub(crate) fn rail_lost(&mut self, rail: RailId, sending: Option<Key>) {
        if let Some((channel, seq)) = sending
            && self.expect_entry(channel, seq).state == State::AckedSending(rail)
        {
            self.release_acked(channel, seq);
        }
        for index in (0..SEQUENCED_CHANNELS).rev() {
            let lane = &self.lanes[index];
            let (channel, first, end) = (lane.channel, lane.acked_below, lane.end);
            for seq in (first..end).rev() {
                self.requeue(channel, seq, rail);
            }
        }
    }

    fn requeue(&mut self, channel: Channel, seq: u64, rail: RailId) {
        let index = channel.index().expect("numbered channel");
        let Some(entry) = self.lanes[index].entry(seq) else { return };
        match entry.state {
            State::Sending(on) | State::Sent(on) if on == rail => {
                entry.state = State::Queued;
                match channel {
                    Channel::Control => self.control.push_front(seq),
                    _ => self.resend.push_front((channel, seq)),
                }
            }
            _ => {}
        }
    }

    /// Applies an ack; `on_acked` sees every slice it newly covers.
    ///
    /// # Errors
    /// [`Violation::AckUnsent`]; what came before it in the ack stays applied.
    pub(crate) fn ack(
        &mut self,
        ack: &AckInfo,
        mut on_acked: impl FnMut(Acked),
    ) -> Result<(), Violation> {
        let applied = self.ack_ranges(ack, &mut on_acked);
        for lane in &mut self.lanes {
            let moved = lane.advance();
            if moved && lane.channel == Channel::Pages && lane.acked_below >= self.held_until {
                Self::wake_held(lane, &mut self.held, &mut self.held_until, &mut self.bulk);
            }
        }
        applied
    }

    fn ack_ranges(
        &mut self,
        ack: &AckInfo,
        on_acked: &mut impl FnMut(Acked),
    ) -> Result<(), Violation> {
        for (channel, watermark) in Channel::SEQUENCED.into_iter().zip(*ack.watermarks()) {
            self.ack_range(channel, 0, watermark, on_acked)?;
        }
        for range in ack.ranges() {
            let first = range.first.0;
            let end = first.saturating_add(u64::from(range.count));
            self.ack_range(range.channel, first, end, on_acked)?;
        }
        Ok(())
    }

    fn ack_range(
        &mut self,
        channel: Channel,
        first: u64,
        end: u64,
        on_acked: &mut impl FnMut(Acked),
    ) -> Result<(), Violation> {
        let index = channel.index().ok_or(Violation::WrongChannel { channel })?;
        let lane = &self.lanes[index];
        if end > lane.end {
            return Err(Violation::AckUnsent { channel, seq: end - 1 });
        }
        for seq in first.max(lane.acked_below)..end {
            if let Some(acked) = self.ack_one(channel, index, seq)? {
                on_acked(acked);
            }
        }
        Ok(())
    }

    fn ack_one(
        &mut self,
        channel: Channel,
        index: usize,
        seq: u64,
    ) -> Result<Option<Acked>, Violation> {
        let unsent = Violation::AckUnsent { channel, seq };
        let entry = self.lanes[index].entry(seq).filter(|entry| entry.posts > 0).ok_or(unsent)?;
        let bytes = entry.bytes;
        let rail = match entry.state {
            State::Acked | State::AckedSending(_) => return Ok(None),
            State::Sending(rail) => {
                entry.state = State::AckedSending(rail);
                Some(rail)
            }
            State::Sent(rail) => {
                self.release_acked(channel, seq);
                Some(rail)
            }
            State::Queued => {
                self.release_acked(channel, seq);
                None
            }
            State::Free | State::Held => return Err(unsent),
        };
        *self.in_flight_mut(channel) -= 1;
        self.unacked_slices -= 1;
        self.unacked_bytes -= u64::from(bytes);
        Ok(Some(Acked { rail, bytes }))
    }

    /// Puts the slices whose wait is over in front of the queue, oldest first.
    fn wake_held(lane: &mut Lane, held: &mut Vec<u64>, until: &mut u64, bulk: &mut VecDeque<Key>) {
        let reached = lane.acked_below;
        let mut next = u64::MAX;
        for &seq in held.iter().rev() {
            let entry = lane.entry(seq).expect("a held slice is unacked");
            if entry.needs_acked_below <= reached {
                entry.state = State::Queued;
                bulk.push_front((Channel::Pages, seq));
            } else {
                next = next.min(entry.needs_acked_below);
            }
        }
        held.retain(|&seq| lane.entry(seq).is_some_and(|entry| entry.state == State::Held));
        *until = next;
    }

    /// The next slice whose buffer the shell may free.
    pub(crate) fn next_release(&mut self) -> Option<Key> {
        self.release.pop_front()
    }

    pub(crate) fn acked_below(&self, channel: Channel) -> u64 {
        channel.index().map_or(0, |index| self.lanes[index].acked_below)
    }

    pub(crate) fn in_flight_slices(&self) -> u32 {
        self.control_in_flight + self.bulk_in_flight
    }

    fn in_flight_mut(&mut self, channel: Channel) -> &mut u32 {
        match channel {
            Channel::Control => &mut self.control_in_flight,
            _ => &mut self.bulk_in_flight,
        }
    }
}
