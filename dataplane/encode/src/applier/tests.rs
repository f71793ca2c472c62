//! Frames that are damaged, forged, or made against another version of a page.

use proptest::prelude::*;

use super::*;
use crate::frame::{FRAME_BODY_START, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Framer};
use crate::level::Level;
use crate::plan::{PageOp, Plan, PlannedPage};

const RAM: BlockId = BlockId(0);
const PAGES: u64 = 16;

/// Pages of one block; panics when asked for any other.
struct Small(Vec<Page>);

impl PageStore for Small {
    fn read(&self, block: BlockId, index: PageIndex, out: &mut Page) {
        assert_eq!(block, RAM);
        *out = self.0[index.0 as usize];
    }
    fn write(&mut self, block: BlockId, index: PageIndex, content: &Page) {
        assert_eq!(block, RAM);
        self.0[index.0 as usize] = *content;
    }
    fn zero(&mut self, block: BlockId, index: PageIndex) {
        self.write(block, index, &ZERO_PAGE);
    }
}

fn applier() -> Applier<Small> {
    let store = Small(vec![ZERO_PAGE; PAGES as usize]);
    let mut applier = Applier::new(HashAlgorithm::Xxh3, 1, store);
    applier.add_block(RAM, "pc.ram", PAGES).unwrap();
    applier
}

fn planned(index: u64, op: PageOp) -> PlannedPage {
    PlannedPage { block: RAM, index: PageIndex(index), op }
}

/// A frame with these pages, whatever they are; literals come from one page of ones.
fn forge(pages: &[PlannedPage], delta_bytes: &[u8], level: Level) -> Vec<u8> {
    let mut plan = Plan::new();
    plan.pages.extend_from_slice(pages);
    plan.delta_bytes.extend_from_slice(delta_bytes);
    let mut out = vec![0; FRAME_BODY_START + FRAME_BYTES_MAX];
    let framed = Framer::new(Level::Off).frame(&plan, &[1; PAGE_BYTES], level, &mut out).unwrap();
    out[framed.range].to_vec()
}

const LITERAL: PageOp = PageOp::Literal { at: 0 };

fn guard_of(content: &Page) -> u32 {
    PageHasher::new(HashAlgorithm::Xxh3, 1).guard(content)
}

#[test]
fn a_copy_of_another_version_is_refused() {
    let guard = guard_of(&[1; PAGE_BYTES]);
    let copy = |guard| {
        let op = PageOp::Duplicate { block: RAM, index: PageIndex(0), guard };
        forge(&[planned(1, op)], &[], Level::Off)
    };
    let mut applier = applier();
    applier.apply(0, &forge(&[planned(0, LITERAL)], &[], Level::Off)).unwrap();
    applier.apply(1, &copy(guard)).unwrap();
    assert_eq!(applier.store().0[1], [1; PAGE_BYTES]);
    let refused = applier.apply(2, &copy(guard ^ 1));
    let expected = guard ^ 1;
    let wrong =
        DecodeError::WrongVersion { block: RAM, index: PageIndex(0), expected, found: guard };
    assert_eq!(refused, Err(wrong));
}

#[test]
fn a_delta_against_another_version_is_refused() {
    let guard = guard_of(&ZERO_PAGE);
    let delta =
        forge(&[planned(3, PageOp::Delta { at: 0, length: 3, guard })], &[5, 1, 77], Level::Off);
    let mut applier = applier();
    let mut other = applier.target.store.0[3];
    applier.apply(4, &delta).unwrap();
    other[5] = 77;
    assert_eq!(applier.store().0[3], other);
    let refused = applier.apply(5, &delta);
    assert!(matches!(refused, Err(DecodeError::WrongVersion { index: PageIndex(3), .. })));
    assert_eq!(applier.apply(3, &delta).map(|stats| stats.dropped), Ok(1), "older: dropped");
}

#[test]
fn a_source_that_somebody_else_wrote_is_refused() {
    let guard = guard_of(&[1; PAGE_BYTES]);
    let op = PageOp::Duplicate { block: RAM, index: PageIndex(0), guard };
    let mut applier = applier();
    applier.apply(0, &forge(&[planned(0, LITERAL)], &[], Level::Off)).unwrap();
    applier.store_mut().0[0][9] = 9;
    let refused = applier.apply(1, &forge(&[planned(1, op)], &[], Level::Off));
    assert!(matches!(refused, Err(DecodeError::WrongVersion { .. })));
}

#[test]
fn pages_that_do_not_exist_are_refused() {
    for page in [
        planned(PAGES, LITERAL),
        planned(1 << 40, LITERAL),
        planned(PAGES - 1, PageOp::Zero { count: 2 }),
        planned(1, PageOp::Duplicate { block: BlockId(9), index: PageIndex(0), guard: 0 }),
        planned(1, PageOp::Duplicate { block: RAM, index: PageIndex(PAGES), guard: 0 }),
        PlannedPage { block: BlockId(1), index: PageIndex(0), op: LITERAL },
    ] {
        let refused = applier().apply(0, &forge(&[page], &[], Level::Off));
        assert!(matches!(refused, Err(DecodeError::NoSuchPage { .. })), "{page:?}: {refused:?}");
    }
}

#[test]
fn more_pages_than_a_frame_may_hold_are_refused() {
    let guard = guard_of(&ZERO_PAGE);
    let copy = PageOp::Duplicate { block: RAM, index: PageIndex(1), guard };
    let pages = vec![planned(0, copy); FRAME_PAGES_MAX + 1];
    let refused = applier().apply(0, &forge(&pages, &[], Level::Off));
    assert!(matches!(refused, Err(DecodeError::Bound { what: "pages in the frame", .. })));
    let run = PageOp::Zero { count: FRAME_ZERO_PAGES_MAX };
    let mut applier = applier();
    applier.add_block(BlockId(1), "large", u64::from(FRAME_ZERO_PAGES_MAX)).unwrap();
    let run = PlannedPage { block: BlockId(1), index: PageIndex(0), op: run };
    let once = forge(&[run], &[], Level::Off);
    assert_eq!(applier.apply(0, &once).unwrap().zero, u64::from(FRAME_ZERO_PAGES_MAX));
    let twice = forge(&[run, planned(0, LITERAL), run], &[], Level::Off);
    assert!(matches!(applier.apply(1, &twice), Err(DecodeError::Bound { .. })));
}

#[test]
fn every_cut_and_every_tail_is_refused() {
    for level in [Level::Off, Level::Zstd(1)] {
        let body = forge(&[planned(1, LITERAL), planned(2, LITERAL)], &[], level);
        applier().apply(0, &body).unwrap();
        for length in (0..FRAME_HEADER_BYTES + 8).chain([body.len() - 1]) {
            let cut = &body[..length.min(body.len() - 1)];
            assert!(applier().apply(0, cut).is_err(), "{level:?} cut to {length}");
        }
        let longer = [&body[..], &[0]].concat();
        assert!(applier().apply(0, &longer).is_err());
    }
}

#[test]
fn lengths_and_versions_of_the_header_are_checked() {
    let body = forge(&[planned(1, LITERAL)], &[], Level::Zstd(1));
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = body.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        applier().apply(0, &changed).unwrap_err()
    };
    assert_eq!(with(0, &[2]), DecodeError::Version(2));
    assert!(matches!(with(1, &[2]), DecodeError::Unknown { .. }));
    assert!(matches!(with(2, &[1]), DecodeError::Unknown { .. }));
    for at in [4, 8, 12] {
        assert!(matches!(with(at, &u32::MAX.to_le_bytes()), DecodeError::Bound { .. }));
    }
    assert!(matches!(with(8, &4097u32.to_le_bytes()), DecodeError::Zstd { .. }));
    assert!(matches!(with(20, &[0xff; 4]), DecodeError::Zstd { .. }));
    assert_eq!(applier().apply(SEQ_MAX + 1, &body), Err(DecodeError::SeqTooLarge(SEQ_MAX + 1)));
}

#[test]
fn pages_written_by_others_show_in_the_root() {
    let mut applier = applier();
    let clean = applier.root();
    applier.store_mut().0[5][0] = 1;
    assert_eq!(applier.root(), clean);
    assert!(applier.rehash(RAM, PageIndex(5)));
    assert_ne!(applier.root(), clean);
    assert_eq!(applier.last_seq(RAM, PageIndex(5)), None);
    assert!(!applier.rehash(RAM, PageIndex(PAGES)));
    let zero = planned(5, PageOp::Zero { count: 1 });
    applier.apply(0, &forge(&[zero], &[], Level::Off)).unwrap();
    assert_eq!(applier.root(), clean);
}

/// Loses every write.
struct Deaf;

impl PageStore for Deaf {
    fn read(&self, _: BlockId, _: PageIndex, out: &mut Page) {
        *out = ZERO_PAGE;
    }
    fn write(&mut self, _: BlockId, _: PageIndex, _: &Page) {}
    fn zero(&mut self, _: BlockId, _: PageIndex) {}
}

#[test]
fn the_root_is_over_what_the_store_holds() {
    let body = forge(&[planned(1, LITERAL)], &[], Level::Off);
    let mut deaf = Applier::new(HashAlgorithm::Xxh3, 1, Deaf);
    deaf.add_block(RAM, "pc.ram", PAGES).unwrap();
    let mut good = applier();
    let empty = good.root();
    deaf.apply(0, &body).unwrap();
    good.apply(0, &body).unwrap();
    assert_eq!(deaf.root(), empty);
    assert_ne!(good.root(), empty);
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(
        tail in prop::collection::vec(any::<u8>(), 0..400),
        lengths: [u8; 3],
        codec in 0..2u8,
    ) {
        let mut body = vec![1, codec, 0, 0];
        for length in lengths {
            body.extend_from_slice(&u32::from(length).to_le_bytes());
        }
        body.extend_from_slice(&tail);
        let _ = applier().apply(0, &body);
        let _ = applier().apply(0, &tail);
    }

    #[test]
    fn damaged_frames_never_panic(
        level in prop_oneof![Just(Level::Off), Just(Level::Zstd(1))],
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let guard = guard_of(&ZERO_PAGE);
        let pages = [
            planned(1, LITERAL),
            planned(2, PageOp::Zero { count: 3 }),
            planned(7, PageOp::Duplicate { block: RAM, index: PageIndex(9), guard }),
            planned(8, PageOp::Delta { at: 0, length: 3, guard }),
        ];
        let mut body = forge(&pages, &[5, 1, 77], level);
        for (at, value) in damage {
            let at = at.index(body.len().min(80));
            body[at] ^= value;
        }
        let _ = applier().apply(0, &body);
    }
}
