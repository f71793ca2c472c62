//! Sessions against the faulty network, seed by seed.

use dwcp_sim::{seeds, transfer};

/// Seeds of a usual test run; see [`seeds`] for more, or for one.
const SEEDS: u64 = 1_000;

#[test]
fn every_slice_arrives_once_whatever_happens_to_the_rails() {
    let mut sum = transfer::Report::default();
    let chosen = seeds::chosen(SEEDS);
    for seed in chosen.clone() {
        let report =
            transfer::run(seed, seeds::is_replay()).unwrap_or_else(|failure| panic!("{failure}"));
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
