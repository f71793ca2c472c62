//! Properties over generated streams, and over the same streams damaged.

mod common;

use common::generate::{stream, taken_out};
use common::model;
use common::{Event, Fed, feed, feed_whole};
use dwcp_qemustream::layout::BLOCKS_MAX;
use dwcp_qemustream::{BlockRule, DirectOptions, Mark, Mode, Parser, StreamError};
use proptest::prelude::*;

fn addr(name: &str) -> u64 {
    (name.len() as u64) << 12
}

fn direct(stream: &model::Stream) -> Mode {
    let rule = |name: &str| match taken_out(name) {
        true => BlockRule::TakeOut { target_addr: addr(name) },
        false => BlockRule::Keep { target_addr: addr(name) },
    };
    let blocks = stream.blocks().iter().map(|block| (block.name.clone(), rule(&block.name)));
    Mode::Direct(DirectOptions { blocks: blocks.collect(), others: BlockRule::Refuse })
}

fn healthy(mode: Mode, bytes: &[u8]) -> Fed {
    let fed = feed_whole(&mut Parser::new(mode), bytes);
    assert_eq!((&fed.result, fed.left), (&Ok(()), 0));
    fed
}

/// What the rewrite inserts: the subsection and one address per block; and a record may get a
/// name where it had none.
fn skeleton_bound(input_bytes: usize) -> usize {
    const SUBSECTION_BYTES: usize = 52;
    SUBSECTION_BYTES + 8 * BLOCKS_MAX + input_bytes * 256 / 9 + input_bytes
}

/// Feeds bytes that may be anything: no panic, nothing invented.
fn hostile(mode: Mode, bytes: &[u8], pieces: &[usize]) -> Result<(), StreamError> {
    let plain = mode == Mode::Plain;
    let mut parser = Parser::new(mode.clone());
    let fed = feed(&mut parser, bytes, pieces);
    let skeleton = fed.collector.skeleton_bytes();
    assert!(parser.blocks().len() <= BLOCKS_MAX);
    if plain {
        assert!(bytes.starts_with(&skeleton));
        assert!(fed.result.is_err() || skeleton.len() + fed.left == bytes.len());
    } else {
        assert!(skeleton.len() <= skeleton_bound(bytes.len()));
    }
    for event in &fed.collector.events {
        if let Event::Page { block, index, .. } | Event::Zero { block, index } = event {
            let block = &parser.blocks()[usize::from(*block)];
            assert!(block.taken_out && *index < block.pages());
        }
    }
    if let Err(error) = &fed.result {
        let mut sink = common::Collector::default();
        assert_eq!(parser.parse(bytes, &mut sink).as_ref(), Err(error), "errors are final");
        assert!(sink.events.is_empty());
    }
    fed.result
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1..12usize, 1..9000usize], 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_model_is_its_own_inverse(stream in stream()) {
        prop_assert_eq!(model::load(&model::save(&stream)), stream);
    }

    #[test]
    fn plain_mode_changes_nothing(stream in stream()) {
        let bytes = model::save(&stream);
        let fed = healthy(Mode::Plain, &bytes);
        prop_assert_eq!(fed.collector.skeleton_bytes(), bytes);
        prop_assert!(fed.collector.marks().ends_with(&[Mark::RamEnd, Mark::StreamEnd]));
        prop_assert_eq!(fed.collector.blocks_seen().len(), stream.blocks().len());
    }

    /// Taking out and putting back gives the stream again: the records in their places, and with
    /// QEMU's rule for CONTINUE the very bytes.
    #[test]
    fn taken_out_and_put_back_is_the_same_stream(stream in stream()) {
        let bytes = model::save(&stream);
        let fed = healthy(direct(&stream), &bytes);
        let skeleton = fed.collector.skeleton_bytes();
        let left_in = model::load(&skeleton);
        prop_assert!(left_in.records().all(|record| !taken_out(&record.block)));
        let mut merged = model::load_with(&skeleton, &fed.collector.taken());
        prop_assert_eq!(&merged, &model::rewritten(&stream, addr));
        merged.subsections.remove(0);
        for item in &mut merged.items {
            if let model::Item::MemSize(blocks) = item {
                blocks.iter_mut().for_each(|block| block.addr = None);
            }
        }
        prop_assert_eq!(model::save(&merged), bytes);
    }

    /// The skeleton is a stream itself: it parses, unchanged, with the same places in it.
    #[test]
    fn the_rewrite_parses(stream in stream()) {
        let fed = healthy(direct(&stream), &model::save(&stream));
        let skeleton = fed.collector.skeleton_bytes();
        let again = healthy(Mode::Plain, &skeleton);
        prop_assert_eq!(again.collector.marks(), fed.collector.marks());
        prop_assert_eq!(again.collector.skeleton_bytes(), skeleton);
    }

    #[test]
    fn chunking_makes_no_difference(stream in stream(), pieces in pieces()) {
        let bytes = model::save(&stream);
        for mode in [Mode::Plain, direct(&stream)] {
            let fed = feed(&mut Parser::new(mode.clone()), &bytes, &pieces);
            prop_assert_eq!((&fed.result, fed.left), (&Ok(()), 0));
            prop_assert_eq!(&fed.collector.events, &healthy(mode, &bytes).collector.events);
        }
    }

    #[test]
    fn a_truncated_stream_is_incomplete(stream in stream(), cut in any::<prop::sample::Index>()) {
        let bytes = model::save(&stream);
        let bytes = &bytes[..cut.index(bytes.len())];
        for mode in [Mode::Plain, direct(&stream)] {
            prop_assert_eq!(hostile(mode, bytes, &[1 << 20]), Ok(()));
        }
    }

    #[test]
    fn damaged_streams_never_panic(
        stream in stream(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6),
        pieces in pieces(),
    ) {
        let mut bytes = model::save(&stream);
        for (at, value, kind) in damage {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = value,
                1 => bytes.insert(at, value),
                _ => drop(bytes.remove(at)),
            }
        }
        for mode in [Mode::Plain, direct(&stream)] {
            let whole = hostile(mode.clone(), &bytes, &[1 << 20]);
            prop_assert_eq!(hostile(mode, &bytes, &pieces), whole, "chunking decides");
        }
    }

    #[test]
    fn any_bytes_behind_a_header_never_panic(
        head in 0..4usize,
        noise in prop::collection::vec(prop_oneof![0..9u8, any::<u8>()], 0..300),
    ) {
        let heads: [&[u8]; 4] = [
            b"",
            b"QEVM\0\0\0\x03",
            b"QEVM\0\0\0\x03\x07\0\0\0\x02pc",
            b"QEVM\0\0\0\x03\x07\0\0\0\x02pc\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04\
              \0\0\0\0\0\0\x20\x04\x01t\0\0\0\0\0\0\x20\0",
        ];
        let bytes = [heads[head], &noise].concat();
        let rule = BlockRule::TakeOut { target_addr: 0 };
        let others = BlockRule::Keep { target_addr: 0 };
        let direct = Mode::Direct(DirectOptions { blocks: vec![("t".into(), rule)], others });
        for mode in [Mode::Plain, direct] {
            let _ = hostile(mode, &bytes, &[1 << 20]);
        }
    }
}

#[test]
fn the_block_list_is_bounded() {
    let mut bytes = b"QEVM\0\0\0\x03\x07\0\0\0\x02pc".to_vec();
    bytes.extend(b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04\0\0\x01\0\0\0\0\x04");
    for _ in 0..=BLOCKS_MAX {
        bytes.extend(b"\x01k\0\0\0\0\0\0\0\0");
    }
    let error = hostile(Mode::Plain, &bytes, &[1 << 20]);
    assert!(matches!(error, Err(StreamError::TooLarge { what: "count of RAM blocks", .. })));
}
