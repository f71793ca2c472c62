//! The text format: round trip, and what an error names.

use dwcp_placement::Rng;
use dwcp_placement::reassign::{
    ModelError, evaluate, parse_assignment, parse_model, violations, write_assignment, write_model,
};
use proptest::prelude::*;

use crate::checker::judge;
use crate::instances::instance;

proptest! {
    #[test]
    fn what_is_written_is_read_back(seed: u64) {
        let (model, at) = instance(seed);
        let text = write_model(&model);
        let back = parse_model(&text).expect("our own text");
        prop_assert_eq!(&back, &model);
        prop_assert_eq!(parse_assignment(&model, &write_assignment(&at)).expect("ours"), at);
    }

    #[test]
    fn cost_and_verdict_equal_the_checkers_on_any_assignment(seed: u64, moves in 0usize..12) {
        let (model, home) = instance(seed);
        let mut rng = Rng::new(seed ^ 1);
        let mut at = home.clone();
        for _ in 0..moves {
            at[rng.below(home.len())] = rng.below(model.machines()) as u32;
        }
        let verdict = judge(&write_model(&model), &write_assignment(&home), &write_assignment(&at));
        let found = violations(&model, &home, &at);
        prop_assert_eq!(verdict.is_ok(), found.is_empty(), "{:?} {:?}", verdict, found);
        if let Ok(cost) = verdict {
            prop_assert_eq!(cost, i128::from(evaluate(&model, &home, &at).total()));
        }
    }

    #[test]
    fn a_damaged_text_is_an_error_or_an_instance_never_a_panic(
        seed: u64, at in 0.0f64..1.0, what in "[ -9a-z\\n.]{0,6}"
    ) {
        let mut text = write_model(&instance(seed % 64).0);
        let at = (at * text.len() as f64) as usize;
        let end = (at + what.len()).min(text.len());
        text.replace_range(at..end, &what);
        if let Err(error) = parse_model(&text) {
            prop_assert!(error.line >= 1 && error.line <= text.lines().count() + 1, "{}", error);
        }
    }
}

const SMALL: &str =
    "1\n1 10\n2\n0 0 100 50 0 1\n0 1 100 50 1 0\n1\n1 0\n2\n0 30 1\n0 20 1\n0\n1 10 100\n";

fn error(text: &str) -> (usize, String) {
    let error = parse_model(text).expect_err("refused");
    (error.line, error.to_string())
}

#[test]
fn an_error_names_line_and_field() {
    assert!(parse_model(SMALL).is_ok());
    let (line, text) = error(&SMALL.replace("0 1 100 50 1 0", "0 1 100 5x 1 0"));
    assert_eq!(line, 5);
    assert!(text.contains("safety capacity of resource 0 of machine 1"), "{text}");
    let (line, text) = error(&SMALL.replace("0 20 1", "1 20 1"));
    assert_eq!((line, text.contains("service of process 1")), (10, true), "{text}");
    let (line, text) = error(&SMALL[..SMALL.len() - 5]);
    assert!(line >= 12 && text.contains("number is missing"), "{line} {text}");
    let (_, text) = error(&format!("{SMALL} 7"));
    assert!(text.contains("more numbers"), "{text}");
    let (line, text) = error(&SMALL.replace("0 30 1", "0 -3 1"));
    assert_eq!((line, text.contains("requirement")), (9, true), "{text}");
    let (_, text) = error("");
    assert!(text.contains("number of resources"), "{text}");
}

#[test]
fn overflowing_weights_are_refused_by_name() {
    let (line, text) = error(&SMALL.replace("1 10\n2", "1 99999999999999999999\n2"));
    assert_eq!((line, text.contains("load weight of resource 0")), (2, true), "{text}");
    let (_, text) = error(&SMALL.replace("1 10\n2", "1 9007199254740992\n2"));
    assert!(text.contains("load cost") && text.contains("2^53"), "{text}");
}

#[test]
fn no_machines_is_an_error() {
    let (_, text) = error("1\n1 10\n0\n1\n1 0\n0\n0\n1 10 100\n");
    assert!(text.contains(&ModelError::NoMachines.to_string()), "{text}");
}

#[test]
fn an_assignment_to_a_missing_machine_names_the_process() {
    let model = parse_model(SMALL).expect("sound");
    let error = parse_assignment(&model, "0\n2\n").expect_err("refused");
    assert_eq!((error.line, error.field.as_str()), (2, "machine of process 1"));
    assert!(parse_assignment(&model, "0").is_err());
    assert!(parse_assignment(&model, "0 1 1").is_err());
}
