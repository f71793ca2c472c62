//! The sending half: what goes when, on which rail, and what comes back after a loss.

mod common;

use common::*;
use dwcp_session::{CloseReason, Command, OutboundMeta, SessionConfig, SubmitError, Violation};
use dwcp_wire::{
    AckInfo, AckRange, CONTROL_ALLOWANCE_SLICES, Channel, LinkMessage, RailId, SEQ_SPAN,
    SliceFlags, SliceSeq,
};

use Channel::{Control, Pages, Skeleton};

#[test]
fn a_free_rail_pulls_one_slice_at_a_time() {
    let mut session = session_on(quiet(), &[RAIL, OTHER_RAIL]);
    submit(&mut session, Pages, 0..3);
    let first = commands(&mut session, 0);
    assert_eq!(first.len(), 2, "{first:?}");
    session.slice_sent(
        OTHER_RAIL,
        Pages,
        if first[0] == post(OTHER_RAIL, Pages, 0) { 0 } else { 1 },
    );
    assert_eq!(commands(&mut session, 0), [post(OTHER_RAIL, Pages, 2)]);
}

#[test]
fn control_goes_first_then_resends_then_submit_order() {
    let mut session = session_on(quiet(), &[RAIL]);
    submit(&mut session, Pages, 0..2);
    submit(&mut session, Control, 0..1);
    assert_eq!(run_sends(&mut session, 0)[0], (RAIL, Control, 0));
    submit(&mut session, Skeleton, 0..1);
    submit(&mut session, Pages, 2..3);
    session.rail_down(RAIL);
    submit(&mut session, Control, 1..2);
    session.rail_up(0, OTHER_RAIL).expect("rail");
    let order: Vec<_> = run_sends(&mut session, 0).into_iter().map(|(_, c, s)| (c, s)).collect();
    let expected = [(Control, 0), (Control, 1), (Pages, 0), (Pages, 1), (Skeleton, 0), (Pages, 2)];
    assert_eq!(order, expected);
    let stats = session.stats();
    assert_eq!((stats.resent_slices, stats.posted_slices), (3, 9));
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    let mut session = session_on(quiet(), &[RAIL]);
    submit(&mut session, Pages, 0..20);
    assert_eq!(seqs(&run_sends(&mut session, 0)), (0..8).collect::<Vec<_>>());
    ack(&mut session, 0, [0, 0, 3]);
    for seq in 0..3 {
        assert_eq!(session.next_command(0), Some(release(Pages, seq)));
    }
    assert_eq!(seqs(&run_sends(&mut session, 0)), [8, 9, 10]);
    assert_eq!(session.acked_below(Pages), 3);
    assert_eq!(session.unacked(), (17, 17_000));
}

#[test]
fn control_has_its_own_allowance() {
    let mut session = session_on(quiet(), &[RAIL]);
    submit(&mut session, Pages, 0..9);
    submit(&mut session, Control, 0..u64::from(CONTROL_ALLOWANCE_SLICES) + 5);
    let posted = run_sends(&mut session, 0);
    let control = posted.iter().filter(|(_, channel, _)| *channel == Control).count();
    assert_eq!(control, CONTROL_ALLOWANCE_SLICES as usize);
    assert_eq!(posted.len() - control, 8);
}

#[test]
fn ranges_beyond_the_watermark_are_released_and_not_sent_again() {
    let mut session = session_on(quiet(), &[RAIL]);
    submit(&mut session, Pages, 0..6);
    run_sends(&mut session, 0);
    let mut info = AckInfo::new([0, 0, 1]);
    assert!(info.push(AckRange { channel: Pages, first: SliceSeq(3), count: 2 }));
    session.link_received(0, RAIL, &LinkMessage::Ack(info)).expect("ack");
    assert_eq!(session.acked_below(Pages), 1);
    let released = commands(&mut session, 0);
    assert_eq!(released, [release(Pages, 0), release(Pages, 3), release(Pages, 4)]);
    session.rail_down(RAIL);
    session.rail_up(0, OTHER_RAIL).expect("rail");
    assert_eq!(seqs(&run_sends(&mut session, 0)), [1, 2, 5]);
    ack(&mut session, 0, [0, 0, 6]);
    assert_eq!(session.acked_below(Pages), 6);
    assert_eq!(session.unacked(), (0, 0));
}

#[test]
fn an_old_copys_ack_does_not_free_the_buffer_that_a_resend_still_uses() {
    let mut session = session_on(quiet(), &[RAIL, OTHER_RAIL]);
    submit(&mut session, Pages, 0..1);
    let Some(Command::PostSlice { rail, .. }) = session.next_command(0) else { panic!() };
    session.slice_sent(rail, Pages, 0);
    session.rail_down(rail);
    let resend = commands(&mut session, 0);
    let Some(Command::PostSlice { rail: second, .. }) =
        resend.into_iter().find(|command| matches!(command, Command::PostSlice { .. }))
    else {
        panic!("a re-send is due");
    };
    session.link_received(0, second, &LinkMessage::Ack(AckInfo::new([0, 0, 1]))).expect("ack");
    assert_eq!(session.next_command(0), None, "the kernel still reads the buffer");
    assert_eq!(session.acked_below(Pages), 1);
    session.slice_sent(second, Pages, 0);
    assert_eq!(session.next_command(0), Some(release(Pages, 0)));
}

#[test]
fn a_rail_that_dies_while_sending_an_acked_slice_releases_it() {
    let mut session = session_on(quiet(), &[RAIL]);
    submit(&mut session, Pages, 0..1);
    assert_eq!(session.next_command(0), Some(post(RAIL, Pages, 0)));
    ack(&mut session, 0, [0, 0, 1]);
    assert_eq!(session.next_command(0), None);
    session.rail_down(RAIL);
    assert_eq!(session.next_command(0), Some(release(Pages, 0)));
    assert_eq!(session.next_command(0), None);
}

#[test]
fn an_acked_slice_in_the_resend_queue_is_skipped() {
    let mut session = session_on(quiet(), &[RAIL]);
    submit(&mut session, Pages, 0..3);
    run_sends(&mut session, 0);
    session.rail_down(RAIL);
    session.rail_up(0, OTHER_RAIL).expect("rail");
    let message = LinkMessage::Ack(AckInfo::new([0, 0, 2]));
    session.link_received(0, OTHER_RAIL, &message).expect("ack");
    assert_eq!(session.next_command(0), Some(release(Pages, 0)));
    assert_eq!(session.next_command(0), Some(release(Pages, 1)));
    assert_eq!(seqs(&run_sends(&mut session, 0)), [2]);
}

#[test]
fn not_before_waits_for_all_lower_acks_and_lets_others_pass() {
    let mut session = session_on(quiet(), &[RAIL]);
    submit(&mut session, Pages, 0..3);
    let waits = OutboundMeta { not_before: Some(1), ..meta(Pages, 3) };
    session.submit(waits).expect("room");
    submit(&mut session, Pages, 4..5);
    assert_eq!(seqs(&run_sends(&mut session, 0)), [0, 1, 2, 4]);
    let mut info = AckInfo::new([0, 0, 0]);
    assert!(info.push(AckRange { channel: Pages, first: SliceSeq(1), count: 1 }));
    session.link_received(0, RAIL, &LinkMessage::Ack(info)).expect("ack");
    assert_eq!(session.next_command(0), Some(release(Pages, 1)));
    assert_eq!(run_sends(&mut session, 0), [], "0 may still read what 3 overwrites");
    ack(&mut session, 0, [0, 0, 1]);
    assert_eq!(session.next_command(0), Some(release(Pages, 0)));
    assert_eq!(seqs(&run_sends(&mut session, 0)), [3]);
}

#[test]
fn woken_slices_keep_their_order() {
    let mut session = session_on(quiet(), &[RAIL]);
    submit(&mut session, Pages, 0..1);
    for seq in 1..4 {
        session.submit(OutboundMeta { not_before: Some(0), ..meta(Pages, seq) }).expect("room");
    }
    submit(&mut session, Pages, 4..6);
    let first = session.next_command(0);
    assert_eq!(first, Some(post(RAIL, Pages, 0)));
    ack(&mut session, 0, [0, 0, 1]);
    session.slice_sent(RAIL, Pages, 0);
    assert_eq!(session.next_command(0), Some(release(Pages, 0)));
    assert_eq!(seqs(&run_sends(&mut session, 0)), [1, 2, 3, 4, 5]);
}

#[test]
fn pages_may_be_submitted_out_of_order_but_others_not() {
    let mut session = session_on(quiet(), &[RAIL]);
    submit(&mut session, Pages, [2, 0]);
    assert_eq!(
        session.submit(meta(Pages, 2)),
        Err(SubmitError::OutOfOrder { channel: Pages, seq: 2, expected: 3 })
    );
    assert_eq!(
        session.submit(meta(Skeleton, 1)),
        Err(SubmitError::OutOfOrder { channel: Skeleton, seq: 1, expected: 0 })
    );
    run_sends(&mut session, 0);
    let message = LinkMessage::Ack(AckInfo::new([0, 0, 3]));
    assert_eq!(
        session.link_received(0, RAIL, &message),
        Err(Violation::AckUnsent { channel: Pages, seq: 1 })
    );
}

#[test]
fn a_full_span_refuses_until_acked() {
    let config = SessionConfig { window_out_slices: u32::MAX, ..quiet() };
    let mut session = session_on(config, &[RAIL]);
    submit(&mut session, Pages, 0..SEQ_SPAN);
    let full = SubmitError::Full { channel: Pages, seq: SEQ_SPAN };
    assert_eq!(session.submit(meta(Pages, SEQ_SPAN)), Err(full));
    assert_eq!(session.next_command(0), Some(post(RAIL, Pages, 0)));
    ack(&mut session, 0, [0, 0, 1]);
    assert_eq!(session.submit(meta(Pages, SEQ_SPAN)), Err(full), "slice 0 is still being sent");
    session.slice_sent(RAIL, Pages, 0);
    assert_eq!(session.submit(meta(Pages, SEQ_SPAN)), Ok(()));
}

#[test]
fn nothing_is_taken_after_the_last_slice() {
    let mut session = session_on(quiet(), &[RAIL]);
    let last = OutboundMeta { flags: SliceFlags::LAST, ..meta(Skeleton, 0) };
    session.submit(last).expect("room");
    assert_eq!(
        session.submit(meta(Skeleton, 1)),
        Err(SubmitError::AfterLast { channel: Skeleton, seq: 1, last: 0 })
    );
    submit(&mut session, Pages, [5]);
    let last = OutboundMeta { flags: SliceFlags::LAST, ..meta(Pages, 4) };
    assert_eq!(
        session.submit(last),
        Err(SubmitError::AfterLast { channel: Pages, seq: 4, last: 5 })
    );
}

#[test]
fn unsuitable_slices_are_refused() {
    let mut session = session_on(quiet(), &[RAIL]);
    for bad in [
        meta(Channel::Link, 0),
        OutboundMeta { not_before: Some(0), ..meta(Pages, 0) },
        OutboundMeta { not_before: Some(0), ..meta(Skeleton, 1) },
    ] {
        let (channel, seq) = (bad.channel, bad.seq);
        assert_eq!(session.submit(bad), Err(SubmitError::Unsuitable { channel, seq }));
    }
}

#[test]
fn an_ack_for_the_unsent_closes_the_rail() {
    let mut session = session_on(quiet(), &[RAIL]);
    submit(&mut session, Pages, 0..1);
    let violation = Violation::AckUnsent { channel: Pages, seq: 0 };
    let message = LinkMessage::Ack(AckInfo::new([0, 0, 1]));
    assert_eq!(session.link_received(0, RAIL, &message), Err(violation));
    let reason = CloseReason::Violation(violation);
    assert_eq!(session.next_command(0), Some(Command::CloseRail { rail: RAIL, reason }));
    assert_eq!(session.next_command(0), None, "a closing rail gets nothing");
    assert_eq!(session.stats().violations, 1);
}

#[test]
fn the_ceiling_holds_back_all_but_control() {
    let config = SessionConfig { rate_bytes_per_s: Some(106_400), ..quiet() };
    let mut session = session_on(config, &[RAIL]);
    submit(&mut session, Pages, 0..3);
    assert_eq!(seqs(&run_sends(&mut session, 0)), [0]);
    submit(&mut session, Control, 0..1);
    assert_eq!(run_sends(&mut session, 0), [(RAIL, Control, 0)]);
    let at = session.next_deadline(0).expect("the ceiling passes");
    assert_eq!(at, 20 * MS, "two slices of 1064 bytes are to be paid");
    assert_eq!(run_sends(&mut session, at - 1), []);
    assert_eq!(seqs(&run_sends(&mut session, at)), [1]);
    session.set_rate(at, None);
    assert_eq!(seqs(&run_sends(&mut session, at)), [2]);
}

#[test]
fn all_rails_lost_is_an_interruption_and_not_an_end() {
    let mut session = session_on(quiet(), &[RAIL, OTHER_RAIL]);
    submit(&mut session, Pages, 0..6);
    run_sends(&mut session, 0);
    session.rail_down(RAIL);
    session.rail_down(OTHER_RAIL);
    assert_eq!(commands(&mut session, 100 * MS), []);
    assert_eq!(session.next_deadline(100 * MS), None);
    session.rail_up(200 * MS, RailId(9)).expect("rail");
    let mut again = seqs(&run_sends(&mut session, 200 * MS));
    again.sort_unstable();
    assert_eq!(again, [0, 1, 2, 3, 4, 5]);
}

/// A rail on which one slice takes 100 ms, and which has eight of them unacked.
fn full_slow_rail() -> dwcp_session::Session {
    let config = SessionConfig { window_out_slices: 64, ..quiet() };
    let mut session = session_on(config, &[RAIL]);
    submit(&mut session, Skeleton, 0..12);
    let mut now = 0;
    for seq in 0..3 {
        assert_eq!(session.next_command(now), Some(post(RAIL, Skeleton, seq)));
        session.slice_sent(RAIL, Skeleton, seq);
        now += 100 * MS;
        ack(&mut session, now, [0, seq + 1, 0]);
        assert_eq!(session.next_command(now), Some(release(Skeleton, seq)));
    }
    assert_eq!(run_sends(&mut session, now).len(), 9);
    session
}

#[test]
fn a_resend_does_not_wait_for_rails_full_of_what_waits_for_it() {
    let mut session = full_slow_rail();
    session.rail_up(301 * MS, OTHER_RAIL).expect("rail");
    submit(&mut session, Skeleton, 12..14);
    let posted = run_sends(&mut session, 301 * MS);
    assert_eq!(posted, [(OTHER_RAIL, Skeleton, 12), (OTHER_RAIL, Skeleton, 13)]);
    session.rail_down(OTHER_RAIL);
    let again = run_sends(&mut session, 302 * MS);
    assert_eq!(again, [(RAIL, Skeleton, 12), (RAIL, Skeleton, 13)]);
}

#[test]
fn a_new_slice_waits_for_the_rail_with_room() {
    let mut session = full_slow_rail();
    session.rail_up(301 * MS, OTHER_RAIL).expect("rail");
    run_sends(&mut session, 301 * MS);
    submit(&mut session, Pages, 0..2);
    assert_eq!(commands(&mut session, 301 * MS), [post(OTHER_RAIL, Pages, 0)]);
    session.slice_sent(OTHER_RAIL, Pages, 0);
    assert_eq!(commands(&mut session, 301 * MS), [post(OTHER_RAIL, Pages, 1)]);
}
