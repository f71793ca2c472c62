//! Online decisions against a plain scorer that keeps nothing but a list of guests.

mod plain;
mod world;

use dwcp_placement::Rng;
use dwcp_placement::online::{Index, IndexError, NodeSpec, Reason, Request, Zone};
use proptest::prelude::*;

use plain::Plain;
use world::{nodes, request, zones};

/// Arrivals and departures in both; every decision must be the same, node and score.
fn churn(seed: u64, count: usize, events: u64, checked_every: u64) -> (usize, usize) {
    let mut rng = Rng::new(seed);
    let (zones, nodes) = (zones(&mut rng), nodes(&mut rng, count));
    let mut index = Index::new(zones.clone(), &nodes).expect("sound nodes");
    let mut plain = Plain::new(zones, nodes);
    let (mut placed, mut refused) = (0, 0);
    let mut alive: Vec<u64> = Vec::new();
    for event in 0..events {
        if rng.below(20) == 0 {
            let until = [0, event + 50, u64::MAX][rng.below(3)];
            let node = rng.below(count) as u32;
            index.avoid(node, until).expect("a node");
            plain.avoid(node, until);
        }
        if !alive.is_empty() && rng.below(3) == 0 {
            let vm = alive.swap_remove(rng.below(alive.len()));
            index.remove(vm).expect("alive");
            plain.remove(vm);
            continue;
        }
        let wanted = request(&mut rng, count);
        let answer = index.decide(&wanted, event);
        if event % checked_every == 0 {
            let own = answer.as_ref().ok().map(|d| (d.score.total(), d.node));
            assert_eq!(own, plain.best(&wanted, event), "event {event} of seed {seed}");
        }
        match answer {
            Ok(decision) => {
                index.place(event, &wanted, decision.node).expect("it was offered");
                plain.place(event, &wanted, decision.node);
                alive.push(event);
                placed += 1;
            }
            Err(refusal) => {
                let sum: u32 = refusal.counts.iter().map(|&(_, n)| n).sum();
                assert_eq!(sum as usize, count, "every node has a reason: {refusal}");
                refused += 1;
            }
        }
    }
    assert_eq!(index.vms(), alive.len());
    (placed, refused)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_decision_is_the_plain_scorers(seed: u64, count in 1usize..140) {
        churn(seed, count, 250, 1);
    }
}

#[test]
fn a_long_churn_agrees_and_meets_refusals() {
    let (placed, refused) = churn(7, 60, 4_000, 4);
    assert!(placed > 500 && refused > 100, "{placed} placed, {refused} refused");
}

#[test]
fn after_everyone_left_all_is_free_again() {
    let mut rng = Rng::new(3);
    let (zones, nodes) = (zones(&mut rng), nodes(&mut rng, 50));
    let mut index = Index::new(zones, &nodes).expect("sound nodes");
    let before: Vec<_> = (0..50).map(|n| index.free(n)).collect();
    let mut alive = Vec::new();
    for vm in 0..400 {
        let wanted = request(&mut rng, 50);
        if let Ok(decision) = index.decide(&wanted, 0) {
            index.place(vm, &wanted, decision.node).expect("offered");
            alive.push(vm);
        }
    }
    assert!(alive.len() > 50);
    alive.into_iter().for_each(|vm| index.remove(vm).expect("alive"));
    assert_eq!(before, (0..50).map(|n| index.free(n)).collect::<Vec<_>>());
}

fn small(memory: u64) -> NodeSpec {
    NodeSpec { capacity: [8_000, memory, 100, 1_000], vms_max: 10, ..NodeSpec::default() }
}

#[test]
fn a_refusal_counts_nodes_and_says_until_when() {
    let nodes = [small(1_000), small(2_000), small(4_000)];
    let mut index = Index::new(vec![Zone::default()], &nodes).expect("sound");
    index.avoid(2, 14 * 3_600).expect("a node");
    let wanted = Request { needs: [1_000, 3_000, 1, 1], ..Request::default() };
    let refusal = index.decide(&wanted, 13 * 3_600).expect_err("none fits");
    assert_eq!(refusal.to_string(), "2 nodes lack memory, 1 is avoided until 14:00 UTC");
    assert_eq!(index.decide(&wanted, 14 * 3_600).map(|d| d.node), Ok(2));
    let none = Index::new(vec![], &[]).expect("sound").decide(&wanted, 0);
    assert_eq!(none.expect_err("nowhere").to_string(), "there are no nodes");
}

#[test]
fn the_memory_reserve_stays_free() {
    let node = NodeSpec { memory_reserve_mib: 300, ..small(1_000) };
    let mut index = Index::new(vec![Zone::default()], &[node]).expect("sound");
    let wanted = |mib| Request { needs: [1, mib, 1, 1], ..Request::default() };
    assert!(index.decide(&wanted(700), 0).is_ok());
    let refusal = index.decide(&wanted(701), 0).expect_err("reserved");
    assert_eq!(refusal.counts, vec![(Reason::Lacks(1), 1)]);
}

#[test]
fn contradictions_and_unknown_names_are_refusals() {
    let mut index = Index::new(vec![Zone::default()], &[small(1_000)]).expect("sound");
    let mut both = Request { required: vec![0], avoided: vec![0], ..Request::default() };
    assert!(index.decide(&both, 0).is_err());
    both = Request { required: vec![9_999], avoided: vec![77], ..Request::default() };
    assert!(index.decide(&both, 0).is_err());
    let far = Request { latency_us_max: vec![(3, 10)], ..Request::default() };
    assert_eq!(index.decide(&far, 0).expect_err("far").counts, vec![(Reason::Latency, 1)]);
    let huge = Request { needs: [u64::MAX; 4], ..Request::default() };
    assert!(index.decide(&huge, 0).is_err());
}

#[test]
fn what_cannot_be_indexed_is_an_error() {
    let error = Index::new(vec![], &[small(1)]).expect_err("no zone");
    assert_eq!(error, IndexError::NoSuchZone { node: 0, zone: 0 });
    let error = Index::new(vec![Zone::default()], &[small(u64::MAX)]).expect_err("too large");
    assert_eq!(error, IndexError::TooLarge(0));
    let mut index = Index::new(vec![Zone::default()], &[small(100)]).expect("sound");
    let wanted = Request { needs: [1, 60, 1, 1], ..Request::default() };
    assert_eq!(index.place(1, &wanted, 4), Err(IndexError::NoSuchNode(4)));
    assert_eq!(index.place(1, &wanted, 0), Ok(()));
    assert_eq!(index.place(1, &wanted, 0), Err(IndexError::VmExists(1)));
    let error = index.place(2, &wanted, 0).expect_err("full");
    assert_eq!(error, IndexError::DoesNotFit { node: 0, reason: Reason::Lacks(1) });
    assert_eq!(index.remove(2), Err(IndexError::NoSuchVm(2)));
    assert_eq!(index.avoid(9, 1), Err(IndexError::NoSuchNode(9)));
}
