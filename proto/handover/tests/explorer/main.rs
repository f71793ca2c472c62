//! Explores every interleaving of one handover, with every combination of a bounded number of
//! faults, on the production roles and a model of QEMU, wire and disks.
//!
//! Every message may be lost, delayed, repeated and reordered for free. A fault is a crash (parent,
//! child, target engine, target QEMU), a cut, a cancel, a deadline, a refused or unheard `cont`, a
//! failed load, differing page hashes, or a guest that suspends. After every state four things
//! must hold: the invariants of `invariants.rs`; before GO the source alone gets its guest running
//! again; and once nothing fails any more, exactly one copy runs.
//!
//! Planted bugs (`mutation.rs`) change the shells, never the crate, and must each be found.

mod actions;
mod explore;
mod heal;
mod invariants;
mod mutation;
mod source_host;
mod target_host;
mod world;

use dwcp_handover::{AbortReason, Arrival};

use explore::{Found, Seen, explore};
use mutation::Mutation;
use world::World;

/// Faults per run in the everyday test.
const FAULTS: u8 = 2;
/// Faults per run in the long test.
const FAULTS_LONG: u8 = 3;
/// A planted bug is found with at most this many faults.
const FAULTS_TO_FIND: u8 = 3;

/// Variants of `SourcePhase` and `TargetPhase`.
const SOURCE_PHASES: usize = 11;
const TARGET_PHASES: usize = 13;
/// Reasons that the modelled faults must lead to.
const REASONS: &[AbortReason] = &[
    AbortReason::Cancelled,
    AbortReason::Deadline,
    AbortReason::LinkLost,
    AbortReason::ChildDied,
    AbortReason::MigrationFailed,
    AbortReason::SourceLost,
    AbortReason::EarlySwitchover,
    AbortReason::RootsDiffer,
    AbortReason::SourceAsked,
    AbortReason::LoadFailed,
    AbortReason::TargetLost,
    AbortReason::TargetRestarted,
    AbortReason::HandedBack,
];

fn assert_sound(faults: u8) {
    match explore(World::new(Mutation::None, faults)) {
        Ok(seen) => {
            println!("{faults} faults: {} states, deepest at {} steps", seen.states, seen.depth);
            assert_everything_was_reached(&seen);
        }
        Err(found) => panic!("{found}"),
    }
}

/// A search that misses a phase proves nothing about it.
fn assert_everything_was_reached(seen: &Seen) {
    assert_eq!(seen.source_phases.len(), SOURCE_PHASES - 1, "all but Forcing");
    assert_eq!(seen.target_phases.len(), TARGET_PHASES);
    for arrival in [Arrival::Running, Arrival::LeftPaused, Arrival::Lost] {
        assert!(seen.arrivals.contains(&arrival), "{arrival}");
    }
    for reason in REASONS {
        assert!(seen.reasons.contains(reason), "{reason}");
    }
}

/// One fault more makes seven times the states: for `make test-long`.
#[test]
fn no_bounded_run_breaks_the_rule_of_one() {
    let long = std::env::var_os("DWCP_TEST_LONG").is_some();
    assert_sound(if long { FAULTS_LONG } else { FAULTS });
}

fn first_violation(mutation: Mutation) -> Option<Found> {
    (0..=FAULTS_TO_FIND).find_map(|faults| explore(World::new(mutation, faults)).err())
}

#[test]
fn every_planted_bug_is_found() {
    for &mutation in Mutation::PLANTED {
        let found = first_violation(mutation);
        let found = found.unwrap_or_else(|| panic!("{mutation:?} was not found"));
        println!("{mutation:?}: {:?} ({} steps)", found.what, found.trace.len());
        assert!(
            mutation.expected().contains(&found.what),
            "{mutation:?} was found, but not for its own sake: {found}"
        );
    }
}

/// The operator's way out is a risk on purpose: this is the risk that `Force::risk` names.
#[test]
fn forcing_abort_can_make_two_copies_run() {
    let found = first_violation(Mutation::OperatorForcesAbort).expect("the risk is real");
    println!("{found}");
}
