//! The layout byte by byte, and when a frame stays in place, raw or outside of zstd.

use dwcp_wire::{BlockId, PageIndex};

use super::*;
use crate::plan::PlannedPage;

const HEADROOM: usize = 8192;
const GAP: usize = 8;
const GUARD: u32 = 0x1122_3344;

/// Two literals as QEMU's stream brings them, a zero run, two copies and a delta.
fn plan() -> Plan {
    let planned =
        |block, index, op| PlannedPage { block: BlockId(block), index: PageIndex(index), op };
    let copy = PageOp::Duplicate { block: BlockId(0), index: PageIndex(9), guard: GUARD };
    let second = u32::try_from(2 * GAP + PAGE_BYTES).unwrap();
    let mut plan = Plan::new();
    plan.pages = vec![
        planned(0, 3, PageOp::Literal { at: 8 }),
        planned(0, 4, PageOp::Literal { at: second }),
        planned(0, 5, PageOp::Zero { count: 300 }),
        planned(2, 1, copy),
        planned(2, 2, copy),
        planned(2, 9, PageOp::Delta { at: 0, length: 3, guard: GUARD }),
    ];
    plan.delta_bytes = vec![5, 1, 77];
    plan
}

fn slot() -> Vec<u8> {
    let mut slot = vec![0; HEADROOM];
    for fill in [1, 2] {
        slot.extend_from_slice(&[0xee; GAP]);
        slot.extend_from_slice(&[fill; PAGE_BYTES]);
    }
    slot
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn compact(plan: &Plan, bytes: &[u8], level: Level) -> (Framed, Vec<u8>) {
    let mut out = vec![0; FRAME_BODY_START + FRAME_BYTES_MAX];
    let framed = Framer::new(Level::Off).frame(plan, bytes, level, &mut out).unwrap();
    let body = out[framed.range.clone()].to_vec();
    (framed, body)
}

/// What travels must not change under the same version.
#[test]
fn the_compact_layout_is_what_it_was() {
    let (framed, body) = compact(&plan(), &slot()[HEADROOM..], Level::Off);
    let expected = [
        unhex("01 00 0000  17000000 03000000 1a000000"),
        unhex("32 06 01  20 ab02  7b 02 02 01 00 10 44332211  14 0c 03 44332211"),
        unhex("05 01 4d"),
        vec![1; PAGE_BYTES],
        vec![2; PAGE_BYTES],
    ];
    assert_eq!(framed.range.start, FRAME_BODY_START);
    assert!(body == expected.concat());
}

#[test]
fn the_layout_in_place_is_what_it_was() {
    let mut slot = slot();
    let end = slot.len();
    let range = Framer::new(Level::Off).raw_in_place(&plan(), &mut slot, HEADROOM..end).unwrap();
    let expected = [
        unhex("01 00 0000  18000000 03000000 1b000000"),
        unhex("12 06  42 08  20 ab02  7b 02 02 01 00 10 44332211  14 0c 03 44332211"),
        unhex("05 01 4d"),
        vec![1; PAGE_BYTES],
        vec![0xee; GAP],
        vec![2; PAGE_BYTES],
    ];
    assert_eq!(range.end, end);
    assert!(slot[range] == expected.concat());
}

#[test]
fn what_does_not_fit_in_place_is_left_alone() {
    let untouched = slot();
    let end = untouched.len();
    let mut framer = Framer::new(Level::Off);
    let mut refuse = |plan: &Plan, start: usize, end: usize| {
        let mut slot = untouched.clone();
        assert_eq!(framer.raw_in_place(plan, &mut slot, start..end), None);
        assert!(slot == untouched);
    };
    refuse(&plan(), HEADROOM, end - 1);
    let mut wasteful = plan();
    wasteful.pages.remove(0);
    wasteful.pages[0].op = PageOp::Literal { at: 8 };
    wasteful
        .pages
        .push(PlannedPage { op: PageOp::Literal { at: 4096 + 600 }, ..wasteful.pages[0] });
    refuse(&wasteful, 0, end);
    let mut backwards = plan();
    backwards.pages.swap(0, 1);
    refuse(&backwards, HEADROOM, end);
    let mut none = plan();
    none.pages.drain(..2);
    refuse(&none, HEADROOM, end);
    let mut no_room = untouched[HEADROOM - 80..].to_vec();
    let length = no_room.len();
    assert_eq!(framer.raw_in_place(&plan(), &mut no_room, 80..length), None);
}

#[test]
fn random_pages_stay_outside_and_others_are_compressed() {
    let mut bytes = slot()[HEADROOM..].to_vec();
    let mut state = 1u64;
    for byte in &mut bytes[GAP..GAP + PAGE_BYTES] {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        *byte = (state >> 40) as u8;
    }
    let (framed, body) = compact(&plan(), &bytes, Level::Zstd(1));
    assert_eq!(framed.hopeless, 1);
    assert!(framed.packed_out < 100 && framed.packed_in > PAGE_BYTES, "{framed:?}");
    assert_eq!(body[1], CODEC_ZSTD);
    assert_eq!(body[body.len() - PAGE_BYTES..], bytes[GAP..GAP + PAGE_BYTES]);
}

#[test]
fn what_zstd_does_not_shrink_goes_raw() {
    let mut plan = plan();
    plan.pages.drain(..2);
    plan.pages.truncate(2);
    plan.delta_bytes.clear();
    let op = PageOp::Delta { at: 0, length: 200, guard: 7 };
    plan.pages.push(PlannedPage { block: BlockId(3), index: PageIndex(0), op });
    let noise = (0..200u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8);
    plan.delta_bytes.extend(noise);
    let (framed, body) = compact(&plan, &[], Level::Zstd(3));
    assert_eq!(body[1], CODEC_RAW);
    assert!(framed.packed_in > 200 && framed.packed_out == framed.packed_in, "{framed:?}");
}

#[test]
fn short_slots_and_wrong_buffers_are_refused() {
    let slot = slot();
    let bytes = &slot[HEADROOM..];
    let mut framer = Framer::new(Level::Off);
    let needed = FRAME_BODY_START + FRAME_HEADER_BYTES + 26 + 2 * PAGE_BYTES;
    let mut out = vec![0; needed];
    assert!(framer.frame(&plan(), bytes, Level::Off, &mut out).is_ok());
    let refused = framer.frame(&plan(), bytes, Level::Off, &mut out[..needed - 1]);
    assert_eq!(refused, Err(FrameError::SlotTooSmall { needed, available: needed - 1 }));
    let length = bytes.len() - 1;
    let refused = framer.frame(&plan(), &bytes[..length], Level::Off, &mut out);
    assert_eq!(refused, Err(FrameError::WrongBuffer { length }));
}
