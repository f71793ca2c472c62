//! Whole migrations, seed by seed.

use dwcp_sim::migration::run;
use dwcp_sim::seeds;

/// Seeds of a usual test run; see [`seeds`] for more, or for one.
const SEEDS: u64 = 300;

#[test]
fn one_copy_runs_with_all_its_memory_whatever_dies() {
    let (mut arrived, mut stayed, mut lost, mut resent, mut kills) = (0, 0, 0, 0, 0);
    let chosen = seeds::chosen(SEEDS);
    for seed in chosen.clone() {
        let ended = run(seed, seeds::is_replay());
        let report = ended.unwrap_or_else(|failure| panic!("{failure}"));
        arrived += u64::from(report.arrived);
        stayed += u64::from(report.stayed);
        lost += u64::from(report.lost);
        resent += report.resent;
        kills += report.kills;
    }
    let count = chosen.end - chosen.start;
    println!(
        "{count} seeds: {arrived} arrived, {stayed} stayed, {lost} lost with their QEMU; \
         {kills} kills, {resent} slices re-sent"
    );
    if !seeds::is_replay() && count >= SEEDS {
        assert!(arrived > count / 5 && stayed > count / 5, "both ends are reached");
        assert!(lost > 0 && kills > count / 4 && resent > count / 4, "the faults do something");
    }
}
