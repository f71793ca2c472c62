//! The challenge's text format, written.

use std::fmt::Write;

use super::model::Model;

/// An assignment as a file: machine numbers between spaces, one line.
#[must_use]
pub fn write_assignment(assignment: &[u32]) -> String {
    let mut text = String::with_capacity(assignment.len() * 5);
    for (at, machine) in assignment.iter().enumerate() {
        let gap = if at == 0 { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{gap}{machine}");
    }
    text.push('\n');
    text
}

/// A model as a file.
#[must_use]
pub fn write_model(model: &Model) -> String {
    let mut text = String::new();
    let (r, m) = (model.resources(), model.machines());
    row(&mut text, [r as i64]);
    for (transient, weight) in model.transient.iter().zip(&model.load_weight) {
        row(&mut text, [i64::from(*transient), *weight]);
    }
    row(&mut text, [m as i64]);
    for machine in 0..m {
        let head = [model.neighbourhood[machine].into(), model.location[machine].into()];
        let own = machine * r..(machine + 1) * r;
        let capacities = model.capacity[own.clone()].iter().chain(&model.safety[own]);
        let moves = &model.machine_move[machine * m..(machine + 1) * m];
        row(&mut text, head.iter().chain(capacities).chain(moves).copied());
    }
    row(&mut text, [model.services() as i64]);
    for (spread, list) in model.spread_min.iter().zip(&model.dependencies) {
        let head = [i64::from(*spread), list.len() as i64];
        row(&mut text, head.into_iter().chain(list.iter().map(|&on| on.into())));
    }
    row(&mut text, [model.processes() as i64]);
    for p in 0..model.processes() {
        let own = &model.requirement[p * r..(p + 1) * r];
        let service = [i64::from(model.service[p])];
        row(&mut text, service.iter().chain(own).chain([&model.process_move[p]]).copied());
    }
    row(&mut text, [model.balances.len() as i64]);
    for b in &model.balances {
        row(&mut text, [b.first.into(), b.second.into(), b.target, b.weight]);
    }
    let w = model.weights;
    row(&mut text, [w.process, w.service, w.machine]);
    text
}

fn row(text: &mut String, numbers: impl IntoIterator<Item = i64>) {
    for (at, number) in numbers.into_iter().enumerate() {
        let gap = if at == 0 { "" } else { " " };
        let _ = write!(text, "{gap}{number}");
    }
    text.push('\n');
}
