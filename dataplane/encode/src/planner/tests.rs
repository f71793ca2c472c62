//! One call at a time: which way a page goes, and when it falls back to going whole.

use dwcp_wire::PAGE_BYTES;

use super::*;

const RAM: BlockId = BlockId(0);
const PAGES: u64 = 64;

fn planner(delta_cache_bytes: usize, dedup_bytes: usize) -> Planner {
    let hash = HashAlgorithm::Xxh3;
    let mut planner = Planner::new(PlannerConfig { hash, seed: 1, delta_cache_bytes, dedup_bytes });
    planner.add_block(RAM, "pc.ram", PAGES).unwrap();
    planner
}

/// Plans pages given as (index, content).
fn plan(planner: &mut Planner, seq: u64, acked_below: u64, pages: &[(u64, Page)]) -> Plan {
    let mut batch = PageBatch::new();
    let mut bytes = Vec::new();
    for (index, content) in pages {
        let at = u32::try_from(bytes.len()).unwrap();
        batch.push_page(RAM, PageIndex(*index), at).unwrap();
        bytes.extend_from_slice(content);
    }
    let mut out = Plan::new();
    planner.plan(seq, acked_below, &bytes, &batch, &mut out).unwrap();
    out
}

fn fill(value: u8) -> Page {
    [value; PAGE_BYTES]
}

fn ops(plan: &Plan) -> Vec<PageOp> {
    plan.pages.iter().map(|page| page.op).collect()
}

const MUCH: usize = 1 << 20;

#[test]
fn copies_need_a_source_that_the_target_holds() {
    let mut planner = planner(0, MUCH);
    let first = plan(&mut planner, 0, 0, &[(1, fill(1)), (2, fill(1))]);
    assert!(matches!(
        ops(&first)[..],
        [PageOp::Literal { .. }, PageOp::Duplicate { index: PageIndex(1), .. }]
    ));
    let in_flight = plan(&mut planner, 1, 0, &[(3, fill(1))]);
    assert!(matches!(ops(&in_flight)[..], [PageOp::Literal { .. }]));
    assert_eq!(in_flight.counts().unacked, 1);
    let acked = plan(&mut planner, 2, 1, &[(4, fill(1))]);
    assert!(matches!(ops(&acked)[..], [PageOp::Duplicate { index: PageIndex(1), .. }]));
    assert_eq!(acked.not_before(), None);
}

#[test]
fn overwriting_a_source_waits_for_its_readers() {
    let mut planner = planner(0, MUCH);
    plan(&mut planner, 0, 0, &[(1, fill(1))]);
    plan(&mut planner, 1, 1, &[(2, fill(1))]);
    plan(&mut planner, 5, 1, &[(3, fill(1))]);
    assert_eq!(plan(&mut planner, 6, 1, &[(1, fill(2))]).not_before(), Some(5));
    assert_eq!(plan(&mut planner, 7, 1, &[(1, ZERO)]).not_before(), Some(5));
    assert_eq!(plan(&mut planner, 8, 5, &[(1, fill(4))]).not_before(), Some(5));
    assert_eq!(plan(&mut planner, 9, 6, &[(1, fill(5))]).not_before(), None);
}

#[test]
fn a_reader_in_the_same_frame_does_not_make_it_wait_for_itself() {
    let mut planner = planner(0, MUCH);
    plan(&mut planner, 0, 0, &[(1, fill(1))]);
    let pages = [(2, fill(1)), (1, fill(2))];
    assert_eq!(plan(&mut planner, 3, 3, &pages).not_before(), None);
    let pages = [(4, fill(2)), (1, fill(3))];
    assert_eq!(plan(&mut planner, 9, 4, &pages).not_before(), Some(8));
}

const ZERO: Page = [0; PAGE_BYTES];

#[test]
fn deltas_need_an_acked_base_in_the_cache() {
    let mut changed = fill(1);
    changed[100] = 9;
    for (cache, acked, delta, unacked) in [(MUCH, 1, 1, 0), (MUCH, 0, 0, 1), (0, 1, 0, 0)] {
        let mut planner = planner(cache, 0);
        plan(&mut planner, 0, 0, &[(1, fill(1))]);
        let second = plan(&mut planner, 1, acked, &[(1, changed)]);
        let counts = second.counts();
        assert_eq!((counts.delta, counts.literal, counts.unacked), (delta, 1 - delta, unacked));
    }
}

#[test]
fn deltas_that_are_no_gain_go_whole() {
    let mut planner = planner(MUCH, 0);
    plan(&mut planner, 0, 0, &[(1, fill(1)), (2, fill(2))]);
    assert_eq!(plan(&mut planner, 1, 1, &[(1, fill(9))]).counts().literal, 1);
    plan(&mut planner, 2, 2, &[(2, ZERO)]);
    let mut nearly_zero = ZERO;
    nearly_zero[0] = 1;
    assert_eq!(plan(&mut planner, 3, 3, &[(2, nearly_zero)]).counts().literal, 1);
}

#[test]
fn without_caching_old_versions_serve_once() {
    let mut planner = planner(MUCH, 0);
    plan(&mut planner, 0, 0, &[(1, fill(1))]);
    planner.set_caching(false);
    for (seq, delta) in [(1, 1), (2, 0), (3, 0)] {
        let mut changed = fill(1);
        changed[7] = 100 + u8::try_from(seq).unwrap();
        assert_eq!(plan(&mut planner, seq, seq, &[(1, changed)]).counts().delta, delta, "{seq}");
    }
}

#[test]
fn what_the_target_has_costs_nothing() {
    let mut planner = planner(MUCH, MUCH);
    let fresh = plan(&mut planner, 0, 0, &[(1, ZERO)]);
    assert!(fresh.is_empty());
    assert_eq!(fresh.counts().zero_skipped, 1);
    plan(&mut planner, 0, 0, &[(1, fill(1))]);
    let same = plan(&mut planner, 1, 0, &[(1, fill(1))]);
    assert!(same.is_empty());
    assert_eq!(same.counts().unchanged, 1);
    let zeroed = plan(&mut planner, 1, 0, &[(1, ZERO), (2, ZERO)]);
    assert_eq!((zeroed.counts().zero, zeroed.counts().zero_skipped), (1, 1));
}

#[test]
fn zero_runs_are_one_entry() {
    let mut planner = planner(0, 0);
    let pages: Vec<_> = (0..10).map(|index| (index, fill(index as u8 + 1))).collect();
    plan(&mut planner, 0, 0, &pages);
    let mut batch = PageBatch::new();
    for index in 0..20 {
        batch.push_zero(RAM, PageIndex(index)).unwrap();
    }
    let mut out = Plan::new();
    planner.plan(1, 1, &[], &batch, &mut out).unwrap();
    assert_eq!(ops(&out), [PageOp::Zero { count: 10 }]);
    assert_eq!(out.counts().zero_skipped, 10);
}

#[test]
fn a_broken_contract_is_refused() {
    let mut planner = planner(0, 0);
    plan(&mut planner, 4, 0, &[(1, fill(1))]);
    let mut batch = PageBatch::new();
    let mut out = Plan::new();
    for (seq, acked_below) in [(4, 0), (3, 0), (5, 6), (SEQ_MAX + 1, 0)] {
        let refused = planner.plan(seq, acked_below, &[], &batch, &mut out);
        assert_eq!(refused, Err(PlanError::BadSeq { seq, last: Some(4), acked_below }));
    }
    batch.push_page(RAM, PageIndex(1), 1).unwrap();
    let refused = planner.plan(5, 0, &[0; PAGE_BYTES], &batch, &mut out);
    assert_eq!(refused, Err(PlanError::OutOfBuffer { at: 1, length: PAGE_BYTES }));
    batch.clear();
    batch.push_page(RAM, PageIndex(PAGES), 0).unwrap();
    let refused = planner.plan(5, 0, &[0; PAGE_BYTES], &batch, &mut out);
    assert!(matches!(refused, Err(PlanError::NoSuchPage { .. })));
    assert_eq!(planner.add_block(BlockId(1), "late", 1), Err(BlockError::TooLate(BlockId(1))));
}
