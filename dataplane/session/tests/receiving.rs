//! The receiving half and the rails themselves: delivery, acks, keepalive, stalls, violations.

mod common;

use common::*;
use dwcp_session::{
    CloseReason, Command, ConfigError, RAILS_MAX, RailError, Receipt, Session, SessionConfig,
    Violation,
};
use dwcp_wire::{
    AckInfo, Channel, LinkMessage, RailId, ReasonCode, SEQ_SPAN, SliceFlags, SliceSeq,
};

use Channel::{Control, Pages, Skeleton};

fn deliver(channel: Channel, seq: u64) -> Command {
    Command::Deliver { channel, seq }
}

fn next_ack(session: &mut Session, now: u64) -> Option<AckInfo> {
    match session.next_command(now) {
        Some(Command::PostLink { message: LinkMessage::Ack(info), rail }) => {
            session.link_sent(rail);
            Some(info)
        }
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

#[test]
fn ordered_channels_wait_and_pages_do_not() {
    let mut session = session_on(quiet(), &[RAIL]);
    receive(&mut session, 0, Skeleton, 1);
    receive(&mut session, 0, Pages, 4);
    assert_eq!(commands(&mut session, 0), [deliver(Pages, 4)]);
    receive(&mut session, 0, Skeleton, 0);
    assert_eq!(commands(&mut session, 0), [deliver(Skeleton, 0), deliver(Skeleton, 1)]);
}

#[test]
fn a_slice_is_acked_only_when_consumed() {
    let config = SessionConfig { ack_every_slices: 1, ..quiet() };
    let mut session = session_on(config, &[RAIL]);
    receive(&mut session, 0, Pages, 0);
    receive(&mut session, 0, Pages, 2);
    assert_eq!(commands(&mut session, 0), [deliver(Pages, 0), deliver(Pages, 2)]);
    assert_eq!(commands(&mut session, 3_600 * MS), []);
    session.consumed(5 * MS, Pages, 2);
    let info = next_ack(&mut session, 5 * MS).expect("an ack is due");
    assert_eq!(info.watermarks(), &[0, 0, 0]);
    assert_eq!((info.ranges()[0].first, info.ranges()[0].count), (SliceSeq(2), 1));
    session.consumed(5 * MS, Pages, 0);
    let info = next_ack(&mut session, 5 * MS).expect("an ack is due");
    assert_eq!((info.watermarks(), info.ranges().len()), (&[0, 0, 1], 1));
}

#[test]
fn acks_are_coalesced_until_the_delay() {
    let config =
        SessionConfig { window_in_slices: 100, ack_every_slices: 3, ack_delay_ns: MS, ..quiet() };
    let mut session = session_on(config, &[RAIL]);
    for seq in 0..3 {
        receive(&mut session, 0, Pages, seq);
    }
    commands(&mut session, 0);
    session.consumed(10, Pages, 0);
    assert_eq!(next_ack(&mut session, 10), None);
    assert_eq!(session.next_deadline(10), Some(10 + MS));
    assert!(next_ack(&mut session, 10 + MS).is_some());
    session.consumed(2 * MS, Pages, 1);
    session.consumed(2 * MS, Pages, 2);
    assert_eq!(next_ack(&mut session, 2 * MS), None);
    receive(&mut session, 2 * MS, Pages, 3);
    commands(&mut session, 2 * MS);
    session.consumed(2 * MS, Pages, 3);
    assert_eq!(next_ack(&mut session, 2 * MS).expect("three").watermarks(), &[0, 0, 4]);
}

#[test]
fn a_duplicate_is_dropped_and_acked_at_once() {
    let mut session = session_on(quiet(), &[RAIL]);
    receive(&mut session, 0, Pages, 0);
    assert_eq!(receive(&mut session, 0, Pages, 0), Receipt::Duplicate, "held");
    assert_eq!(session.next_command(0), Some(deliver(Pages, 0)));
    assert_eq!(next_ack(&mut session, 0).expect("at once").watermarks(), &[0, 0, 0]);
    session.consumed(0, Pages, 0);
    assert_eq!(session.inspect(Pages, 0, 1_000, SliceFlags::NONE), Receipt::Duplicate);
    assert_eq!(receive(&mut session, 0, Pages, 0), Receipt::Duplicate, "consumed");
    assert_eq!(next_ack(&mut session, 0).expect("at once").watermarks(), &[0, 0, 1]);
    assert_eq!(session.stats().duplicate_slices, 2);
}

#[test]
fn acks_are_repeated_when_rails_change() {
    let mut session = session_on(quiet(), &[RAIL]);
    receive(&mut session, 0, Pages, 0);
    commands(&mut session, 0);
    session.consumed(0, Pages, 0);
    assert!(next_ack(&mut session, MS).is_some());
    session.rail_down(RAIL);
    assert_eq!(session.next_command(2 * MS), None);
    session.rail_up(3 * MS, OTHER_RAIL).expect("rail");
    let info = next_ack(&mut session, 3 * MS).expect("the one before may be lost");
    assert_eq!(info.watermarks(), &[0, 0, 1]);
}

#[test]
fn peers_that_break_the_rules_lose_the_rail() {
    let seq = SEQ_SPAN;
    type Offence = (Channel, u64, u32, SliceFlags, Violation);
    let offences: [Offence; 5] = [
        (Channel::Link, 0, 1, SliceFlags::NONE, Violation::WrongChannel { channel: Channel::Link }),
        (
            Pages,
            0,
            2_000_000,
            SliceFlags::NONE,
            Violation::TooLong { channel: Pages, seq: 0, bytes: 2_000_000, max: 1_114_112 },
        ),
        (
            Pages,
            seq,
            1,
            SliceFlags::NONE,
            Violation::BeyondSpan { channel: Pages, seq, limit: SEQ_SPAN },
        ),
        (
            Skeleton,
            7,
            1,
            SliceFlags::NONE,
            Violation::BadLast { channel: Skeleton, seq: 7, end: 6 },
        ),
        (
            Skeleton,
            5,
            1,
            SliceFlags::LAST,
            Violation::BadLast { channel: Skeleton, seq: 5, end: 6 },
        ),
    ];
    for (channel, seq, bytes, flags, violation) in offences {
        let mut session = session_on(quiet(), &[RAIL]);
        session.slice_received(0, RAIL, Skeleton, 6, 1, SliceFlags::LAST);
        let receipt = session.slice_received(0, RAIL, channel, seq, bytes, flags);
        assert_eq!(receipt, Receipt::Violation(violation));
        let reason = CloseReason::Violation(violation);
        assert_eq!(session.next_command(0), Some(Command::CloseRail { rail: RAIL, reason }));
    }
}

#[test]
fn a_last_slice_below_others_is_a_violation() {
    let mut session = session_on(quiet(), &[RAIL]);
    receive(&mut session, 0, Pages, 3);
    assert_eq!(
        session.slice_received(0, RAIL, Pages, 2, 1, SliceFlags::LAST),
        Receipt::Violation(Violation::BadLast { channel: Pages, seq: 2, end: 3 })
    );
}

#[test]
fn more_slices_than_granted_are_a_violation() {
    let mut session = session_on(quiet(), &[RAIL]);
    for seq in 0..4 {
        assert_eq!(receive(&mut session, 0, Pages, seq), Receipt::Accepted);
        assert_eq!(receive(&mut session, 0, Skeleton, seq), Receipt::Accepted);
    }
    assert_eq!(
        receive(&mut session, 0, Pages, 4),
        Receipt::Violation(Violation::WindowExceeded { channel: Pages, seq: 4, window: 8 })
    );
    assert_eq!(receive(&mut session, 0, Control, 0), Receipt::Accepted, "its own allowance");
}

#[test]
fn finished_means_all_up_to_the_last_slice_consumed() {
    let mut session = session_on(quiet(), &[RAIL]);
    session.slice_received(0, RAIL, Skeleton, 1, 10, SliceFlags::LAST);
    receive(&mut session, 0, Skeleton, 0);
    commands(&mut session, 0);
    session.consumed(0, Skeleton, 1);
    assert!(!session.is_finished(Skeleton));
    session.consumed(0, Skeleton, 0);
    assert!(session.is_finished(Skeleton));
    assert!(!session.is_finished(Pages));
}

#[test]
fn pings_are_answered_and_measured() {
    let config = SessionConfig { ping_interval_ns: 50 * MS, stall_ns: 500 * MS, ..quiet() };
    let mut session = session_on(config, &[RAIL]);
    session.link_received(0, RAIL, &LinkMessage::Ping { nonce: 5, sent_ns: 77 }).expect("ping");
    let pong = LinkMessage::Pong { nonce: 5, sent_ns: 77 };
    assert_eq!(session.next_command(0), Some(Command::PostLink { rail: RAIL, message: pong }));
    session.link_sent(RAIL);
    let at = session.next_deadline(0).expect("a ping is due");
    assert_eq!(at, 50 * MS);
    let Some(Command::PostLink { message: LinkMessage::Ping { nonce, sent_ns }, .. }) =
        session.next_command(at)
    else {
        panic!("a ping is due");
    };
    session.link_received(at + 30 * MS, RAIL, &LinkMessage::Pong { nonce, sent_ns }).expect("pong");
    let stats = session.rail_stats(RAIL).expect("rail");
    assert!(stats.rtt_smoothed_ns > 0 && stats.rtt_smoothed_ns <= 30 * MS, "{stats:?}");
}

#[test]
fn a_silent_rail_is_closed_and_its_slices_move() {
    let config = SessionConfig { ping_interval_ns: 50 * MS, stall_ns: 200 * MS, ..quiet() };
    let mut session = session_on(config, &[RAIL]);
    submit(&mut session, Pages, 0..1);
    run_sends(&mut session, 10 * MS);
    session.bytes_received(100 * MS, RAIL);
    run_sends(&mut session, 299 * MS);
    let reason = CloseReason::Stalled { silent_ns: 200 * MS };
    assert_eq!(session.next_deadline(299 * MS), Some(300 * MS));
    let close = Command::CloseRail { rail: RAIL, reason };
    assert_eq!(session.next_command(300 * MS), Some(close));
    assert_eq!(session.next_command(300 * MS), None);
    session.rail_up(301 * MS, OTHER_RAIL).expect("rail");
    assert_eq!(run_sends(&mut session, 301 * MS), [], "the shell may still hold the buffer");
    session.rail_down(RAIL);
    assert_eq!(run_sends(&mut session, 302 * MS), [(OTHER_RAIL, Pages, 0)]);
}

#[test]
fn a_rail_that_answers_pings_is_not_stalled_by_a_slow_consumer() {
    let config = SessionConfig { ping_interval_ns: 50 * MS, stall_ns: 200 * MS, ..quiet() };
    let mut session = session_on(config, &[RAIL]);
    submit(&mut session, Pages, 0..1);
    for tick in 0..100 {
        let now = tick * 10 * MS;
        while let Some(command) = session.next_command(now) {
            match command {
                Command::PostSlice { rail, channel, seq } => session.slice_sent(rail, channel, seq),
                Command::PostLink { rail, message: LinkMessage::Ping { nonce, sent_ns } } => {
                    session.link_sent(rail);
                    let pong = LinkMessage::Pong { nonce, sent_ns };
                    session.link_received(now, rail, &pong).expect("pong");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(session.stats().stalled_rails, 0);
}

#[test]
fn a_goodbye_is_passed_on() {
    let mut session = session_on(quiet(), &[RAIL]);
    let message = LinkMessage::Goodbye { code: ReasonCode::Finished };
    assert_eq!(session.link_received(0, RAIL, &message), Ok(Some(ReasonCode::Finished)));
}

#[test]
fn rails_are_bounded_and_distinct() {
    let mut session = Session::new(quiet()).expect("settings");
    for rail in 0..RAILS_MAX {
        session.rail_up(0, RailId(u16::try_from(rail).expect("small"))).expect("room");
    }
    assert_eq!(session.rail_up(0, RAIL), Err(RailError::InUse { rail: RAIL }));
    let rail = RailId(999);
    assert_eq!(session.rail_up(0, rail), Err(RailError::TooMany { rail, max: RAILS_MAX }));
    session.rail_down(RailId(0));
    session.rail_up(0, rail).expect("room again");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let max = u32::try_from(SEQ_SPAN).expect("small");
    let refused = |config| Session::new(config).err();
    let no_window = SessionConfig { window_out_slices: 0, ..quiet() };
    assert_eq!(refused(no_window), Some(ConfigError::NoWindow));
    let window_in = SessionConfig { window_in_slices: max + 1, ..quiet() };
    assert_eq!(refused(window_in), Some(ConfigError::WindowIn { window: max + 1, max }));
    let payload = SessionConfig { payload_max: 0, ..quiet() };
    assert!(matches!(refused(payload), Some(ConfigError::Payload { bytes: 0, .. })));
    let stall = SessionConfig { stall_ns: 5, ping_interval_ns: 5, ..quiet() };
    assert!(matches!(refused(stall), Some(ConfigError::Stall { .. })));
}
