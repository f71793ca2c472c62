//! After it was created a session allocates nothing, also while rails die.

mod common;

use common::*;
use dwcp_session::{Command, OutboundMeta, Session, SessionConfig};
use dwcp_wire::{Channel, LinkMessage, RailId, SliceFlags};

const SLICES: u64 = 20_000;

/// One lossless pipe between two sessions, with a rail that is lost now and then.
fn exchange(source: &mut Session, target: &mut Session) {
    let mut next = 0;
    let mut now = 0;
    while source.acked_below(Channel::Pages) < SLICES {
        now += MS;
        assert!(now < 60_000 * MS, "the exchange goes on");
        while next < SLICES && source.submit(meta_of(next)).is_ok() {
            next += 1;
        }
        step(now, source, target);
        step(now, target, source);
        if dies_at(now) {
            source.rail_down(RAIL);
            target.rail_down(RAIL);
            source.rail_up(now, RAIL).expect("rail");
            target.rail_up(now, RAIL).expect("rail");
        }
    }
}

fn dies_at(now: u64) -> bool {
    now.is_multiple_of(97 * MS)
}

fn meta_of(seq: u64) -> OutboundMeta {
    let not_before = (seq.is_multiple_of(7) && seq > 20).then(|| seq - 20);
    OutboundMeta { not_before, ..meta(Channel::Pages, seq) }
}

fn step(now: u64, from: &mut Session, to: &mut Session) {
    while let Some(command) = from.next_command(now) {
        match command {
            Command::PostSlice { rail, channel, seq } => {
                from.slice_sent(rail, channel, seq);
                // What the rail carries just when it dies is lost.
                if rail != RAIL || !dies_at(now) {
                    to.slice_received(now, rail, channel, seq, 1_000, SliceFlags::NONE);
                }
            }
            Command::PostLink { rail, message } => {
                from.link_sent(rail);
                to.link_received(now, rail, &message).expect("an honest peer");
            }
            Command::Deliver { channel, seq } => from.consumed(now, channel, seq),
            Command::Release { .. } => {}
            Command::CloseRail { rail, reason } => panic!("{rail}: {reason}"),
        }
        let _ = from.next_deadline(now);
    }
}

#[test]
fn nothing_is_allocated_after_creation() {
    let config = SessionConfig { window_out_slices: 64, window_in_slices: 64, ..quiet() };
    let mut source = session_on(config.clone(), &[RAIL, OTHER_RAIL, RailId(3)]);
    let mut target = session_on(config, &[RAIL, OTHER_RAIL, RailId(3)]);
    let ping = LinkMessage::Ping { nonce: 0, sent_ns: 0 };
    target.link_received(0, RAIL, &ping).expect("ping");
    let seen = allocation_counter::measure(|| exchange(&mut source, &mut target));
    assert_eq!(seen.count_total, 0, "{seen:?}");
    assert!(source.stats().resent_slices > 0, "rails were lost with slices on them");
}
