//! The challenge's public instances, if they are on this machine.

use std::path::PathBuf;
use std::process::Command;

use dwcp_placement::reassign::{
    Budget, Inline, Iterations, LocalSearch, Solver, Task, parse_assignment, parse_model,
    write_assignment,
};

use crate::checker::judge;

/// Model and assignment text of an instance, unpacked from the archive.
fn read(name: &str) -> Option<(String, String)> {
    let near = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("DWCP_DATA").map_or(near, PathBuf::from);
    let archive = folder.join("roadef2012/instances.tar.xz");
    if !archive.exists() {
        println!("SKIP: no {}: set DWCP_DATA", archive.display());
        return None;
    }
    let unpack = |file: String| {
        let mut tar = Command::new("tar");
        tar.arg("-xJOf").arg(&archive).args(["--wildcards", &format!("*{file}")]);
        let output = tar.output().expect("tar runs");
        assert!(output.status.success(), "{file}");
        String::from_utf8(output.stdout).expect("text")
    };
    Some((unpack(format!("model_{name}.txt")), unpack(format!("assignment_{name}.txt"))))
}

#[test]
fn a_public_instance_gets_much_cheaper_and_the_checker_agrees() {
    let Some((model_text, initial_text)) = read("a1_2") else { return };
    let model = parse_model(&model_text).expect("the public file");
    let initial = parse_assignment(&model, &initial_text).expect("the public file");
    let budget = Budget::Iterations(Iterations::total_of(3_000_000));
    let task = Task { model: &model, initial: &initial, pinned: &[], seed: 1, budget };
    let outcome = LocalSearch::DEFAULT.solve(&task, &Inline).expect("feasible");
    let cost = judge(&model_text, &initial_text, &write_assignment(&outcome.assignment));
    assert_eq!(cost, Ok(i128::from(outcome.cost.total())));
    let listed = 777_912_030;
    assert!(outcome.cost.total() < listed / 100 * 104, "{:?}", outcome.cost);
}
