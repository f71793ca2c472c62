//! What every solver owes: feasible, never worse than staying, repeatable.

use dwcp_placement::reassign::{
    Budget, Deadline, Executor, Inline, Iterations, Model, Outcome, SOLVERS, SolveError, Solver,
    Task, evaluate, violations, write_assignment, write_model,
};
use proptest::prelude::*;

use crate::checker::judge;
use crate::instances::instance;

/// Real threads, started in reverse.
struct Threads;

impl Executor for Threads {
    fn run(&self, jobs: Vec<Box<dyn FnOnce() + Send + '_>>) {
        std::thread::scope(|scope| {
            for job in jobs.into_iter().rev() {
                scope.spawn(job);
            }
        });
    }
}

fn solve(solver: &dyn Solver, model: &Model, home: &[u32], seed: u64, n: u64) -> Outcome {
    let budget = Budget::Iterations(Iterations::total_of(n));
    let task = Task { model, initial: home, pinned: &[], seed, budget };
    solver.solve(&task, &Inline).expect("feasible")
}

/// Enough iterations of a solver to move things on a small instance.
fn enough(solver: &dyn Solver) -> u64 {
    match solver.name() {
        "local_search" => 100_000,
        "genetic" => 40,
        _ => 10_000,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_answer_breaks_a_constraint_or_costs_more(seed: u64) {
        let (model, home) = instance(seed);
        let stay = evaluate(&model, &home, &home).total();
        for solver in SOLVERS {
            let outcome = solve(solver, &model, &home, seed, enough(solver));
            prop_assert!(violations(&model, &home, &outcome.assignment).is_empty());
            let texts = [write_assignment(&home), write_assignment(&outcome.assignment)];
            let cost = judge(&write_model(&model), &texts[0], &texts[1]);
            prop_assert_eq!(cost, Ok(i128::from(outcome.cost.total())));
            prop_assert!(outcome.cost.total() <= stay);
        }
    }

    #[test]
    fn one_thread_or_two_give_the_same_plan(seed: u64) {
        let (model, home) = instance(seed);
        for solver in SOLVERS {
            let budget = Budget::Iterations(Iterations::total_of(enough(solver) / 2));
            let task = Task { model: &model, initial: &home, pinned: &[], seed, budget };
            let one = solver.solve(&task, &Inline).expect("feasible");
            prop_assert_eq!(&one, &solver.solve(&task, &Threads).expect("feasible"));
        }
    }
}

/// A few milliseconds of the real clock.
struct Clock(std::time::Instant, f64);

impl Deadline for Clock {
    fn used(&self) -> f64 {
        self.0.elapsed().as_secs_f64() / self.1
    }
}

#[test]
fn the_printed_iterations_repeat_a_run_by_time() {
    for (seed, seconds) in [(3, 0.1), (4, 0.02), (5, 0.0005)] {
        let (model, home) = instance(seed);
        for solver in SOLVERS {
            let clock = Clock(std::time::Instant::now(), seconds);
            let task = Task {
                model: &model,
                initial: &home,
                pinned: &[],
                seed,
                budget: Budget::Time(&clock),
            };
            let timed = solver.solve(&task, &Inline).expect("feasible");
            let text = timed.iterations.to_string();
            let budget = Budget::Iterations(text.parse().expect(&text));
            let again = solver.solve(&Task { budget, ..task }, &Threads).expect("feasible");
            assert_eq!(timed.assignment, again.assignment, "{} {text}", solver.name());
        }
    }
}

#[test]
fn no_time_gives_the_initial_assignment() {
    struct Over;
    impl Deadline for Over {
        fn used(&self) -> f64 {
            f64::INFINITY
        }
    }
    let (model, home) = instance(9);
    for solver in SOLVERS {
        let task = Task {
            model: &model,
            initial: &home,
            pinned: &[],
            seed: 1,
            budget: Budget::Time(&Over),
        };
        let outcome = solver.solve(&task, &Inline).expect("feasible");
        assert_eq!(outcome.assignment, home, "{}", solver.name());
        assert_eq!(outcome.steps, 0);
    }
}

#[test]
fn a_broken_start_is_refused_with_its_reason() {
    let (model, home) = (0..)
        .map(instance)
        .find(|(model, _)| model.machines() > 1 && model.processes() > model.services())
        .expect("some");
    let all_on_one = vec![0; home.len()];
    for solver in SOLVERS {
        let budget = Budget::Iterations(Iterations::total_of(10));
        let task = Task { model: &model, initial: &all_on_one, pinned: &[], seed: 1, budget };
        let error = solver.solve(&task, &Inline).expect_err("refused");
        assert!(matches!(error, SolveError::Infeasible { count: 1.., .. }), "{error}");
    }
}

#[test]
fn iterations_as_text() {
    for text in ["0", "1000", "4096x16", "4096x16,2048x3"] {
        assert_eq!(text.parse::<Iterations>().expect(text).to_string(), text);
    }
    for text in ["", "x", "3x", "x3", "3x0", "1,2", "-1", "3x2,"] {
        assert!(text.parse::<Iterations>().is_err(), "{text}");
    }
    let n: Iterations = "10".parse().expect("a count");
    assert_eq!((0..4).map(|i| n.portion(i, 4)).sum::<u64>(), 10);
    let huge: Iterations = "18446744073709551615x4000000000".parse().expect("a list");
    assert_eq!(huge.total(), u64::MAX);
}
