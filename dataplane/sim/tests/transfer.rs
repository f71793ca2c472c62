//! Sessions against the faulty network, seed by seed.

use dwcp_sim::seeds;
use dwcp_sim::transfer::{NetworkKind, Report, run};

/// Seeds of a usual test run; see [`seeds`] for more, or for one.
const SEEDS: u64 = 300;

#[test]
fn every_slice_arrives_once_whatever_happens_to_the_rails() {
    let mut sum = Report::default();
    let chosen = seeds::chosen(SEEDS);
    for seed in chosen.clone() {
        let ended = run(seed, NetworkKind::Faulty, seeds::is_replay());
        let report = ended.unwrap_or_else(|failure| panic!("{failure}"));
        sum.slices += report.slices;
        sum.resent += report.resent;
        sum.duplicates += report.duplicates;
        sum.rails_lost += report.rails_lost;
        sum.stalled += report.stalled;
        sum.damage_found += report.damage_found;
        sum.outages += report.outages;
    }
    println!("{} seeds: {sum:?}", chosen.end - chosen.start);
    if !seeds::is_replay() && chosen.end >= SEEDS {
        let faults = [sum.resent, sum.duplicates, sum.stalled, sum.damage_found, sum.outages];
        assert!(faults.iter().all(|count| *count > SEEDS / 10), "the faults do something: {sum:?}");
    }
}

#[test]
fn a_good_network_loses_no_rail_and_sends_nothing_twice() {
    for seed in seeds::chosen(SEEDS / 3) {
        let ended = run(seed, NetworkKind::Good, seeds::is_replay());
        ended.unwrap_or_else(|failure| panic!("{failure}"));
    }
}
