//! Peers that are wrong, silent or hostile: one typed reason, and the session lives on.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{
    EPOCH, HANG, JOB_TAG, PAYLOAD, Seen, Side, config, connection, content, join, len_of, pair,
    side, slice,
};
use dwcp_session::{CloseReason, Violation};
use dwcp_tcp::{DownReason, FatalError, NetEvent};
use dwcp_wire::{
    Channel, Epoch, Generation, HEADER_BYTES, LinkMessage, RailId, SliceFlags, SliceHeader,
    SliceSeq, WireError, body_checksum,
};
use proptest::prelude::*;

fn raw_rail(side: &Side, id: u16) -> TcpStream {
    let (near, far) = connection();
    side.endpoint.add_rail(far, RailId(id)).unwrap();
    near
}

fn header(channel: Channel, seq: u64, body: &[u8]) -> SliceHeader {
    SliceHeader {
        channel,
        flags: SliceFlags::NONE,
        job_tag: JOB_TAG,
        epoch: EPOCH,
        generation: Generation(seq as u32),
        seq: SliceSeq(seq),
        length: body.len() as u32,
        checksum: body_checksum(body),
    }
}

fn frame(header: &SliceHeader, body: &[u8]) -> Vec<u8> {
    [&header.encode()[..], body].concat()
}

fn good(channel: Channel, seq: u64) -> Vec<u8> {
    let body = content(channel, seq, len_of(channel, seq));
    frame(&header(channel, seq, &body), &body)
}

fn reason_for(bytes: &[u8]) -> DownReason {
    let side = side(config());
    let mut peer = raw_rail(&side, 1);
    // Either fails when the endpoint was faster to close.
    let _ = peer.write_all(bytes);
    let _ = peer.shutdown(std::net::Shutdown::Write);
    let mut seen = Seen::default();
    seen.until(&side, |seen| seen.all_down == 1);
    assert_eq!(seen.down.len(), 1);
    // The session is as good as before.
    let mut better = raw_rail(&side, 2);
    better.write_all(&good(Channel::Pages, 4000)).unwrap();
    let pages = seen.counts[2];
    seen.until(&side, |seen| seen.counts[2] == pages + 1);
    seen.down.remove(0)
}

#[test]
fn each_kind_of_bad_bytes_has_its_reason() {
    use DownReason as Down;
    let body = vec![9; 500];
    let plain = header(Channel::Pages, 0, &body);
    assert!(matches!(reason_for(b""), Down::ClosedByPeer));
    assert!(matches!(
        reason_for(b"GET / HTTP/1.1\r\n"),
        Down::CutShort { received: 16, expected: 64 }
    ));
    let text = b"GET / HTTP/1.1\r\nHost: somewhere.example\r\nUser-Agent: something/1.0\r\n\r\n";
    assert!(matches!(reason_for(text), Down::Wire(WireError::BadValue { .. })));
    let other_job = SliceHeader { job_tag: 1, ..plain };
    assert!(matches!(
        reason_for(&frame(&other_job, &body)),
        Down::Wire(WireError::OtherSession { .. })
    ));
    let other_epoch = SliceHeader { epoch: Epoch(8), ..plain };
    assert!(matches!(
        reason_for(&frame(&other_epoch, &body)),
        Down::Wire(WireError::OtherSession { .. })
    ));
    let too_long = SliceHeader { length: PAYLOAD as u32 + 1, ..plain };
    assert!(matches!(reason_for(&too_long.encode()), Down::Wire(WireError::TooLong { .. })));
    let huge = SliceHeader { length: u32::MAX, ..plain };
    assert!(matches!(reason_for(&huge.encode()), Down::Wire(WireError::TooLong { .. })));
    let damaged = SliceHeader { checksum: 1, ..plain };
    assert!(matches!(reason_for(&frame(&damaged, &body)), Down::Wire(WireError::BadCheck { .. })));
    let cut = &frame(&plain, &body)[..300];
    assert!(matches!(reason_for(cut), Down::CutShort { received: 236, expected: 500 }));
    let far_ahead = header(Channel::Pages, 5000, &body);
    assert!(matches!(
        reason_for(&frame(&far_ahead, &body)),
        Down::Session(CloseReason::Violation(Violation::BeyondSpan { .. }))
    ));
    let no_message = header(Channel::Link, 0, &[]);
    assert!(matches!(reason_for(&no_message.encode()), Down::Wire(WireError::Truncated { .. })));
    let mut ack = [0; HEADER_BYTES + dwcp_wire::LINK_BYTES_MAX];
    let unsent = LinkMessage::Ack(dwcp_wire::AckInfo::new([0, 0, 3]));
    let len = unsent.encode_framed(JOB_TAG, EPOCH, &mut ack);
    assert!(matches!(
        reason_for(&ack[..len]),
        Down::Session(CloseReason::Violation(Violation::AckUnsent { .. }))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        max_shrink_iters: 20,
        failure_persistence: None,
        ..Default::default()
    })]

    /// One flipped bit anywhere in two good slices never delivers wrong bytes (`Seen` checks
    /// them) and never hangs or panics.
    #[test]
    fn a_flipped_bit_is_never_delivered(place in 0..100_000usize, bit in 0..8u32) {
        let mut bytes = good(Channel::Skeleton, 0);
        bytes.extend(good(Channel::Pages, 1));
        let place = place % bytes.len();
        bytes[place] ^= 1 << bit;
        // A flip in the reserved bytes of the header is caught by its check value as well.
        let reason = reason_for(&bytes);
        prop_assert!(matches!(reason, DownReason::Wire(_)), "{reason:?}");
    }

    #[test]
    fn random_bytes_end_the_rail(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let reason = reason_for(&bytes);
        prop_assert!(matches!(
            reason,
            DownReason::Wire(_) | DownReason::ClosedByPeer | DownReason::CutShort { .. }
        ), "{reason:?}");
    }
}

#[test]
fn more_than_the_window_is_refused() {
    let side = side(config());
    let mut peer = raw_rail(&side, 1);
    let window = config().session.window_in_slices as u64;
    for seq in 0..=window {
        let body = [1; 10];
        peer.write_all(&frame(&header(Channel::Pages, seq, &body), &body)).unwrap();
    }
    let mut delivered = 0;
    loop {
        match side.events.recv_timeout(HANG).unwrap() {
            NetEvent::Inbound(_) => delivered += 1,
            NetEvent::RailUp { .. } => {}
            NetEvent::RailDown { reason, .. } => {
                let DownReason::Session(CloseReason::Violation(violation)) = reason else {
                    panic!("{reason}")
                };
                assert!(matches!(violation, Violation::WindowExceeded { .. }));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(delivered, window);
}

#[test]
fn a_damaged_slice_is_sent_again_on_another_rail() {
    let (a, b) = pair();
    let (near, mut middle_near) = connection();
    let (mut middle_far, far) = connection();
    a.endpoint.add_rail(near, RailId(1)).unwrap();
    b.endpoint.add_rail(far, RailId(1)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut bytes = vec![0; 100_000];
            let mut passed = 0;
            while let Ok(count @ 1..) = middle_near.read(&mut bytes) {
                if (passed..passed + count).contains(&300_000) {
                    bytes[300_000 - passed] ^= 4;
                }
                passed += count;
                if middle_far.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
        });
        scope.spawn(|| {
            for seq in 0..100 {
                a.endpoint.submit(slice(&a, Channel::Pages, seq, false)).unwrap();
            }
        });
        let mut seen = Seen::default();
        seen.until(&b, |seen| !seen.down.is_empty());
        assert!(
            matches!(seen.down[0], DownReason::Wire(WireError::BadCheck { .. })),
            "{:?}",
            seen.down
        );
        let _second = join(&a, &b, 2);
        seen.until(&b, |seen| seen.counts[2] == 100);
    });
    assert!(a.endpoint.stats().resent_slices > 0);
}

#[test]
fn a_peer_that_stops_reading_is_given_up() {
    let mut settings = config();
    settings.session.ping_interval_ns = 50_000_000;
    settings.session.stall_ns = 700_000_000;
    let side = side(settings);
    let _peer = raw_rail(&side, 1);
    for seq in 0..u64::from(common::WINDOW) {
        side.endpoint.submit(slice(&side, Channel::Pages, seq, false)).unwrap();
    }
    let mut seen = Seen::default();
    seen.until(&side, |seen| seen.all_down == 1);
    assert!(
        matches!(seen.down[0], DownReason::Session(CloseReason::Stalled { .. })),
        "{:?}",
        seen.down
    );
}

#[test]
fn a_slow_body_is_no_stall() {
    let mut settings = config();
    settings.session.ping_interval_ns = 500_000_000;
    settings.session.stall_ns = 2_000_000_000;
    let side = side(settings);
    let mut peer = raw_rail(&side, 1);
    let seq = (0..).find(|seq| len_of(Channel::Pages, *seq) > 50_000).unwrap();
    for piece in good(Channel::Pages, seq).chunks(4_000) {
        peer.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut seen = Seen::default();
    seen.until(&side, |seen| seen.counts[2] == 1);
    assert!(seen.down.is_empty(), "{:?}", seen.down);
}

#[test]
fn a_rail_number_in_use_is_refused_and_the_first_stays() {
    let (a, b) = pair();
    let _first = join(&a, &b, 1);
    let _peer = raw_rail(&b, 1);
    let mut seen = Seen::default();
    seen.until(&b, |seen| !seen.down.is_empty());
    assert!(matches!(seen.down[0], DownReason::Refused(_)));
    a.endpoint.submit(slice(&a, Channel::Pages, 0, false)).unwrap();
    seen.until(&b, |seen| seen.counts[2] == 1);
    assert_eq!(seen.all_down, 0);
}

fn fatal(side: &Side) -> FatalError {
    loop {
        if let NetEvent::Fatal(error) = side.events.recv_timeout(HANG).unwrap() {
            return error;
        }
    }
}

#[test]
fn bugs_of_the_engine_end_the_endpoint_with_a_reason() {
    let first = side(config());
    first.endpoint.consumed(Channel::Pages, 3);
    assert!(matches!(fatal(&first), FatalError::Consumed { channel: Channel::Pages, seq: 3 }));
    let second = side(config());
    second.endpoint.submit(slice(&second, Channel::Skeleton, 1, false)).unwrap();
    assert!(matches!(fatal(&second), FatalError::Submit(_)));
    common::wait_for("the thread ends", || {
        second.endpoint.submit(slice(&second, Channel::Skeleton, 0, false)).is_err()
    });
}
