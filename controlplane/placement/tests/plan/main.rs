//! Plans: every step is replayed by a checker that recounts everything.

#[path = "../reassign/instances.rs"]
mod instances;
mod replay;

use dwcp_placement::plan::{Hysteresis, Limits, PlanError, Reason, order, trim};
use dwcp_placement::reassign::{
    Budget, Inline, Iterations, LocalSearch, Model, Solver, Task, evaluate, parse_model, violations,
};
use proptest::prelude::*;

use instances::instance;
use replay::replay;

fn solve(model: &Model, home: &[u32], pinned: &[u32], seed: u64) -> Vec<u32> {
    let budget = Budget::Iterations(Iterations::total_of(60_000));
    let task = Task { model, initial: home, pinned, seed, budget };
    LocalSearch::DEFAULT.solve(&task, &Inline).expect("feasible").assignment
}

fn seconds(process: u32, from: u32, to: u32) -> f64 {
    1.0 + f64::from((process * 7 + from * 3 + to) % 11)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_step_of_a_plan_is_sound(seed: u64, one in 1u32..3, all in 1u32..6) {
        let (model, home) = instance(seed);
        let wished = solve(&model, &home, &[], seed);
        let limits = Limits { per_source: one, per_target: one, per_link: one, total: all };
        let plan = order(&model, &home, &wished, limits, &seconds).expect("sound");
        let end = replay(&model, &home, &plan.moves, limits);
        prop_assert_eq!(end.as_ref(), Ok(&plan.end));
        let late = (0..home.len()).filter(|&p| plan.end[p] != wished[p]);
        prop_assert_eq!(late.map(|p| p as u32).collect::<Vec<_>>(), plan.dropped.clone());
        prop_assert_eq!(plan.end_cost, evaluate(&model, &home, &plan.end).total());
    }

    #[test]
    fn pinned_guests_stay_and_trimmed_plans_are_worth_it(seed: u64, gain in 0i64..2_000) {
        let (model, home) = instance(seed);
        let pinned: Vec<u32> = (0..home.len() as u32).filter(|p| p % 3 == 0).collect();
        let wished = solve(&model, &home, &pinned, seed);
        prop_assert!(pinned.iter().all(|&p| wished[p as usize] == home[p as usize]));
        let rules = Hysteresis { move_gain_min: gain, moves_max: 5, ..Hysteresis::default() };
        let trimmed = trim(&model, &home, &wished, &rules).expect("sound");
        prop_assert!(violations(&model, &home, &trimmed.assignment).is_empty());
        let (before, after) =
            (evaluate(&model, &home, &home), evaluate(&model, &home, &trimmed.assignment));
        let moved = trimmed.assignment.iter().zip(&home).filter(|(a, b)| a != b).count();
        prop_assert!(moved <= 5);
        let gained = (before.total() - after.total()) as f64;
        prop_assert!(moved == 0 || gained >= 0.01 * before.total() as f64);
        // Asking again from where the plan ends moves nothing that rests.
        let rest = rules.resting(
            &(0..home.len() as u32).filter(|&p| trimmed.assignment[p as usize] != home[p as usize])
                .map(|p| (p, 1_000)).collect::<Vec<_>>(), 2_000);
        let again = solve(&model, &trimmed.assignment, &rest, seed);
        prop_assert!(rest.iter().all(|&p| again[p as usize] == trimmed.assignment[p as usize]));
    }
}

/// Two machines of 10 that hold 6 each, to be exchanged; a third one with `room`.
fn exchange(room: i64) -> Model {
    let moves = "0 1 1";
    parse_model(&format!(
        "1\n0 10\n3\n0 0 10 5 {moves}\n0 1 10 5 {moves}\n0 2 {room} 0 {moves}\n2\n1 0\n1 0\n2\n0 6 1\n1 6 1\n0\n1 10 100\n"
    ))
    .expect("sound")
}

#[test]
fn an_exchange_without_room_takes_a_detour() {
    let plan = order(&exchange(6), &[0, 1], &[1, 0], Limits::default(), &seconds).expect("sound");
    assert_eq!(plan.end, [1, 0]);
    assert_eq!(plan.moves.len(), 3);
    assert_eq!(plan.moves[0].reason, Reason::Detour);
    assert_eq!((plan.dropped.len(), plan.moves[0].to), (0, 2));
}

#[test]
fn an_exchange_that_cannot_be_is_dropped() {
    let plan = order(&exchange(5), &[0, 1], &[1, 0], Limits::default(), &seconds).expect("sound");
    assert_eq!((plan.moves.len(), plan.dropped), (0, vec![0, 1]));
}

#[test]
fn bad_input_is_an_error() {
    let model = exchange(6);
    let none = Limits { per_link: 0, ..Limits::default() };
    assert_eq!(order(&model, &[0, 1], &[1, 0], none, &seconds), Err(PlanError::Limits));
    let short = order(&model, &[0], &[1, 0], Limits::default(), &seconds);
    assert!(matches!(short, Err(PlanError::Model(_))));
    let broken = order(&model, &[0, 0], &[1, 0], Limits::default(), &seconds);
    assert!(matches!(broken, Err(PlanError::Start(_))));
    let odd = |_, _, _| f64::NAN;
    assert!(order(&model, &[0, 1], &[2, 1], Limits::default(), &odd).is_ok());
}

#[test]
fn a_guest_that_moved_rests() {
    let rules = Hysteresis { cooldown_s: 100, ..Hysteresis::default() };
    assert_eq!(rules.resting(&[(4, 50), (2, 149), (9, 40)], 149), vec![2, 4]);
    assert_eq!(rules.resting(&[(4, u64::MAX)], 149), vec![4]);
}
