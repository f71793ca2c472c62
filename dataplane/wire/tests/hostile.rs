//! Bytes that no honest peer sends: each gives a typed error, none a panic or an allocation that
//! its sender could size.

mod common;

use common::{Sample, samples};
use dwcp_wire::*;
use proptest::prelude::*;

/// Everything any decoder makes of the bytes; must not panic.
fn decode_all(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk() {
        let _ = Hello::decode(head);
    }
    if let Some(head) = bytes.first_chunk() {
        let _ = HelloReply::decode(head);
    }
    if let Some(head) = bytes.first_chunk() {
        let _ = SliceHeader::decode(head, PAYLOAD_MAX);
    }
    if let Ok(message) = LinkMessage::decode(bytes) {
        let mut out = [0; LINK_BYTES_MAX];
        let length = message.encode_into(&mut out);
        assert_eq!(LinkMessage::decode(&out[..length]), Ok(message));
    }
    if let Ok(message) = ControlMessage::decode(bytes) {
        let mut out = Vec::new();
        message.encode(&mut out).expect("what was read is within the bounds");
        assert_eq!(ControlMessage::decode(&out), Ok(message));
    }
}

fn golden_bytes() -> impl Strategy<Value = Vec<u8>> {
    let all: Vec<_> = samples().into_iter().map(|(_, sample)| sample.encode()).collect();
    proptest::sample::select(all)
}

/// Puts a right check value back, so that what follows it is reached.
fn repair(bytes: &mut [u8]) {
    match bytes.len() {
        HELLO_BYTES if bytes.starts_with(b"DWSL") => {
            let check = xxhash_rust::xxh3::xxh3_64(&bytes[..60]).to_le_bytes();
            bytes[60..].copy_from_slice(&check[..4]);
        }
        length @ (HELLO_BYTES | HELLO_REPLY_BYTES) => {
            let check = xxhash_rust::xxh3::xxh3_64(&bytes[..length - 8]).to_le_bytes();
            bytes[length - 8..].copy_from_slice(&check);
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
        decode_all(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(
        mut bytes in golden_bytes(),
        hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        repaired: bool,
    ) {
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if repaired {
            repair(&mut bytes);
        }
        decode_all(&bytes);
    }

    #[test]
    fn a_flipped_bit_in_a_checked_message_is_found(
        which in 0..8_usize,
        bit in any::<prop::sample::Index>(),
    ) {
        let (name, sample) = samples().swap_remove(which);
        let mut bytes = sample.encode();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(sample.decode_like(&bytes).is_err(), "{} bit {}", name, bit);
    }

    #[test]
    fn headers_survive(
        channel in 0..4_u8, last: bool, job_tag: u32, epoch: u64, generation: u32, seq: u64,
        length in 0..=LINK_BYTES_MAX as u32, checksum: u64,
    ) {
        let header = SliceHeader {
            channel: Channel::from_code(channel).expect("known"),
            flags: if last { SliceFlags::LAST } else { SliceFlags::NONE },
            job_tag,
            epoch: Epoch(epoch),
            generation: Generation(generation),
            seq: SliceSeq(seq),
            length,
            checksum,
        };
        prop_assert_eq!(SliceHeader::decode(&header.encode(), PAYLOAD_MAX), Ok(header));
    }

    #[test]
    fn texts_and_lists_survive(
        text in ".{0,250}",
        facts in proptest::collection::vec((".{0,20}", ".{0,20}"), 0..40),
    ) {
        let Some((_, Sample::Control(ControlMessage::Open(mut open)))) =
            samples().into_iter().find(|(name, _)| *name == "control-open")
        else {
            panic!("a sample of the open message");
        };
        open.vm_name = text;
        open.facts = facts;
        let message = ControlMessage::Open(open);
        let mut bytes = Vec::new();
        message.encode(&mut bytes).expect("within bounds");
        prop_assert_eq!(ControlMessage::decode(&bytes), Ok(message));
    }
}

#[test]
fn a_message_cut_anywhere_says_so() {
    for (name, sample) in samples() {
        let bytes = sample.encode();
        let is_stream = matches!(sample, Sample::Link(_) | Sample::Control(_));
        for length in (0..bytes.len()).filter(|_| is_stream) {
            let error = sample.decode_like(&bytes[..length]).expect_err(name);
            assert!(matches!(error, WireError::Truncated { .. }), "{name} {length}: {error}");
        }
    }
}

#[test]
fn a_huge_count_is_refused_before_anything_is_allocated() {
    let blocks = |count: u32| [&2_u16.to_le_bytes()[..], &count.to_le_bytes()[..]].concat();
    assert_eq!(
        ControlMessage::decode(&blocks(u32::MAX)),
        Err(WireError::TooLong { what: "blocks", length: u32::MAX as usize, max: LIST_ITEMS_MAX })
    );
    assert!(matches!(
        ControlMessage::decode(&blocks(4096)),
        Err(WireError::Truncated { what: "blocks", left: 0, .. })
    ));
}

#[test]
fn what_a_peer_would_refuse_is_not_written() {
    let mut out = b"kept".to_vec();
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    let abort = ControlMessage::Abort { code: ReasonCode::Internal, text: long };
    assert!(matches!(abort.encode(&mut out), Err(WireError::TooLong { what: "reason", .. })));
    assert_eq!(out, b"kept");
    let block = BlockInfo {
        id: BlockId(0),
        name: "n".repeat(TEXT_BYTES_MAX),
        used_bytes: 0,
        page_bytes: 4096,
        taken_out: false,
    };
    let many = ControlMessage::Blocks(vec![block; 1024]);
    assert!(matches!(
        many.encode(&mut out),
        Err(WireError::TooLong { what: "control message", .. })
    ));
    assert_eq!(out, b"kept");
}

#[test]
fn other_protocols_and_majors_are_named() {
    assert_eq!(Hello::check_prefix(b"GET / HT"), Err(WireError::NotDwcp { found: *b"GET " }));
    let error = Hello::check_prefix(b"DWCP\x02\x00\x01\x00").expect_err("major 2");
    assert!(error.to_string().contains("DWCP 2.1"), "{error}");
}

#[test]
fn lengths_are_bounded_per_channel_and_grant() {
    let header = |channel, length| {
        let bare = SliceHeader {
            channel,
            flags: SliceFlags::NONE,
            job_tag: 1,
            epoch: Epoch(1),
            generation: Generation(0),
            seq: SliceSeq(0),
            length,
            checksum: 0,
        };
        bare.encode()
    };
    let decode = |channel, length, granted| SliceHeader::decode(&header(channel, length), granted);
    assert!(decode(Channel::Pages, 1000, 1000).is_ok());
    assert_eq!(
        decode(Channel::Pages, 1001, 1000),
        Err(WireError::TooLong { what: "slice body", length: 1001, max: 1000 })
    );
    assert!(decode(Channel::Pages, PAYLOAD_MAX + 1, u32::MAX).is_err());
    assert_eq!(
        decode(Channel::Link, 545, u32::MAX),
        Err(WireError::TooLong { what: "link message", length: 545, max: LINK_BYTES_MAX })
    );
}

#[test]
fn slices_of_other_sessions_and_damaged_bodies_are_named() {
    let Some((_, Sample::Header(header))) =
        samples().into_iter().find(|(name, _)| *name == "slice-header-pages")
    else {
        panic!("a sample header");
    };
    assert_eq!(header.check_session(header.job_tag, header.epoch), Ok(()));
    assert_eq!(
        header.check_session(header.job_tag, Epoch(8)),
        Err(WireError::OtherSession { what: "epoch", found: 9, expected: 8 })
    );
    assert!(header.check_session(0, header.epoch).is_err());
    assert_eq!(header.check_body(b"pages"), Ok(()));
    assert!(matches!(header.check_body(b"pagez"), Err(WireError::BadCheck { .. })));
    assert!(matches!(header.check_body(b"page"), Err(WireError::Truncated { .. })));
}

#[test]
fn acks_that_contradict_themselves_are_refused() {
    let encode = |watermark, ranges: &[(Channel, u64, u32)]| {
        let mut ack = AckInfo::new([0, 0, watermark]);
        for &(channel, first, count) in ranges {
            assert!(ack.push(AckRange { channel, first: SliceSeq(first), count }));
        }
        let mut out = [0; LINK_BYTES_MAX];
        let length = LinkMessage::Ack(ack).encode_into(&mut out);
        out[..length].to_vec()
    };
    let pages = Channel::Pages;
    assert!(LinkMessage::decode(&encode(5, &[(pages, 6, 2), (pages, 9, 1)])).is_ok());
    for ranges in [
        &[(pages, 5, 1)][..],
        &[(pages, 6, 0)],
        &[(pages, u64::MAX, 2)],
        &[(pages, 8, 1), (pages, 6, 1)],
        &[(pages, 6, 3), (pages, 8, 1)],
        &[(Channel::Link, 6, 1)],
    ] {
        let refused = LinkMessage::decode(&encode(5, ranges));
        assert!(matches!(refused, Err(WireError::BadValue { .. })), "{ranges:?}: {refused:?}");
    }
}

#[test]
fn framed_link_messages_carry_a_header_that_fits() {
    let message = LinkMessage::Ping { nonce: 1, sent_ns: 2 };
    let mut out = [0; HEADER_BYTES + LINK_BYTES_MAX];
    let length = message.encode_framed(7, Epoch(3), &mut out);
    let header = SliceHeader::decode(out.first_chunk().expect("64 bytes"), 0).expect("header");
    assert_eq!(header.check_session(7, Epoch(3)), Ok(()));
    let body = &out[HEADER_BYTES..length];
    assert_eq!(header.check_body(body), Ok(()));
    assert_eq!(LinkMessage::decode(body), Ok(message));
}

#[test]
fn a_long_refusal_is_cut_at_a_character() {
    let reply = HelloReply::refused(ReasonCode::Busy, &"\u{e9}".repeat(150));
    assert_eq!(reply.reason.len(), REASON_BYTES_MAX);
    let reply = HelloReply::refused(ReasonCode::Busy, &format!("x{}", "\u{e9}".repeat(150)));
    assert_eq!(reply.reason.len(), REASON_BYTES_MAX - 1);
    assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
}
