//! A peer that sends any numbers at all: typed violations, never a panic, never more than the
//! window held, never a slice delivered twice.

mod common;

use std::collections::BTreeSet;

use common::*;
use dwcp_session::{Command, OutboundMeta, Receipt, SessionConfig};
use dwcp_wire::{
    AckInfo, AckRange, CONTROL_ALLOWANCE_SLICES, Channel, LinkMessage, PAYLOAD_MAX, RailId,
    SEQ_SPAN, SliceFlags, SliceSeq,
};
use proptest::prelude::*;

const WINDOW: u32 = 8;

#[derive(Clone, Debug)]
enum Event {
    Slice { rail: u16, channel: Channel, seq: u64, bytes: u32, last: bool },
    Ack { rail: u16, watermarks: [u64; 3], ranges: Vec<(Channel, u64, u32)> },
    Ping { rail: u16, nonce: u64 },
    Pong { rail: u16, nonce: u64, sent_ns: u64 },
    RailUp(u16),
    RailDown(u16),
    Submit { channel: Channel, ahead: u64, before: Option<u64> },
    Consume,
    Wait(u64),
}

fn channel() -> impl Strategy<Value = Channel> {
    prop_oneof![
        2 => Just(Channel::Control),
        2 => Just(Channel::Skeleton),
        4 => Just(Channel::Pages),
        1 => Just(Channel::Link),
    ]
}

fn seq() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..20_u64,
        1 => SEQ_SPAN - 3..SEQ_SPAN + 3,
        1 => any::<u64>(),
        1 => Just(u64::MAX),
    ]
}

fn count() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..9_u32, 1 => any::<u32>()]
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = prop_oneof![9 => 0..2_000_u32, 1 => PAYLOAD_MAX - 1..PAYLOAD_MAX + 2];
    let ranges = proptest::collection::vec((channel(), seq(), count()), 0..4);
    let rail = 0..3_u16;
    prop_oneof![
        8 => (rail.clone(), channel(), seq(), bytes, proptest::bool::weighted(0.05)).prop_map(
            |(rail, channel, seq, bytes, last)| Event::Slice { rail, channel, seq, bytes, last }
        ),
        4 => (rail.clone(), [seq(), seq(), seq()], ranges)
            .prop_map(|(rail, watermarks, ranges)| Event::Ack { rail, watermarks, ranges }),
        1 => (rail.clone(), any::<u64>()).prop_map(|(rail, nonce)| Event::Ping { rail, nonce }),
        1 => (rail.clone(), 0..4_u64, any::<u64>())
            .prop_map(|(rail, nonce, sent_ns)| Event::Pong { rail, nonce, sent_ns }),
        2 => rail.clone().prop_map(Event::RailUp),
        1 => rail.prop_map(Event::RailDown),
        6 => (channel(), 0..4_u64, proptest::option::of(seq()))
            .prop_map(|(channel, ahead, before)| Event::Submit { channel, ahead, before }),
        6 => Just(Event::Consume),
        3 => (0..400 * MS).prop_map(Event::Wait),
    ]
}

struct Shell {
    session: dwcp_session::Session,
    now: u64,
    next: [u64; 4],
    held: BTreeSet<(Channel, u64)>,
    to_consume: Vec<(Channel, u64)>,
    ever: BTreeSet<(Channel, u64)>,
}

impl Shell {
    fn new() -> Self {
        let config = SessionConfig {
            ping_interval_ns: 50 * MS,
            stall_ns: 300 * MS,
            window_in_slices: WINDOW,
            ..quiet()
        };
        Self {
            session: session_on(config, &[]),
            now: 0,
            next: [0; 4],
            held: BTreeSet::new(),
            to_consume: Vec::new(),
            ever: BTreeSet::new(),
        }
    }

    fn feed(&mut self, event: Event) {
        match event {
            Event::Slice { rail, channel, seq, bytes, last } => {
                let flags = if last { SliceFlags::LAST } else { SliceFlags::NONE };
                let rail = RailId(rail);
                let receipt =
                    self.session.slice_received(self.now, rail, channel, seq, bytes, flags);
                if receipt == Receipt::Accepted {
                    assert!(self.held.insert((channel, seq)), "accepted twice");
                }
            }
            Event::Ack { rail, watermarks, ranges } => {
                let mut ack = AckInfo::new(watermarks);
                for (channel, first, count) in ranges {
                    ack.push(AckRange { channel, first: SliceSeq(first), count });
                }
                self.link(rail, LinkMessage::Ack(ack));
            }
            Event::Ping { rail, nonce } => self.link(rail, LinkMessage::Ping { nonce, sent_ns: 1 }),
            Event::Pong { rail, nonce, sent_ns } => {
                self.link(rail, LinkMessage::Pong { nonce, sent_ns });
            }
            Event::RailUp(rail) => drop(self.session.rail_up(self.now, RailId(rail))),
            Event::RailDown(rail) => self.session.rail_down(RailId(rail)),
            Event::Submit { channel, ahead, before } => self.submit(channel, ahead, before),
            Event::Consume => {
                if let Some(key) = self.to_consume.pop() {
                    self.held.remove(&key);
                    self.session.consumed(self.now, key.0, key.1);
                }
            }
            Event::Wait(ns) => self.now += ns,
        }
    }

    fn link(&mut self, rail: u16, message: LinkMessage) {
        let _ = self.session.link_received(self.now, RailId(rail), &message);
    }

    fn submit(&mut self, channel: Channel, ahead: u64, not_before: Option<u64>) {
        let next = &mut self.next[usize::from(channel.code())];
        let seq = *next + ahead;
        if self.session.submit(OutboundMeta { not_before, ..meta(channel, seq) }).is_ok() {
            *next = (*next).max(seq + 1);
        }
    }

    fn execute(&mut self) {
        while let Some(command) = self.session.next_command(self.now) {
            match command {
                Command::PostSlice { rail, channel, seq } => {
                    self.session.slice_sent(rail, channel, seq);
                }
                Command::PostLink { rail, .. } => self.session.link_sent(rail),
                Command::Deliver { channel, seq } => {
                    assert!(self.ever.insert((channel, seq)), "{channel:?} {seq} delivered twice");
                    self.to_consume.push((channel, seq));
                }
                Command::CloseRail { rail, .. } => self.session.rail_down(rail),
                Command::Release { .. } => {}
            }
        }
    }

    fn check(&self) {
        let control = self.held.iter().filter(|(channel, _)| *channel == Channel::Control).count();
        assert!(control <= CONTROL_ALLOWANCE_SLICES as usize);
        assert!(self.held.len() - control <= WINDOW as usize);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_peer_is_survived(events in proptest::collection::vec(event(), 1..120)) {
        let mut shell = Shell::new();
        for event in events {
            shell.feed(event);
            shell.execute();
            shell.check();
        }
    }
}
