//! Sends processes home whose move is not worth it.

use super::cost::{evaluate, violations};
use super::model::{Assignment, Model};
use super::search::problem::Problem;
use super::search::state::State;
use super::search::steps::shift_change;
use super::search::with_dimensions;
use super::solver::SolveError;

/// Passes over the moves; what one sends home may free the way home of another.
const PASSES: usize = 4;

/// Sends home what gains less than `gain_min` by being away, least gain first, and goes on while there
/// are more than `moves_max` moves (0: no limit) and the way home is free. Gives the assignment, its
/// gain, and the present cost.
pub fn trim_moves(
    model: &Model,
    present: &[u32],
    wished: &[u32],
    gain_min: i64,
    moves_max: usize,
) -> Result<(Assignment, i64, i64), SolveError> {
    model.check_assignment(present)?;
    model.check_assignment(wished)?;
    for assignment in [present, wished] {
        let found = violations(model, present, assignment);
        if let Some(&first) = found.first() {
            return Err(SolveError::Infeasible { count: found.len(), first });
        }
    }
    let trimmed = with_dimensions!(model, trim(model, present, wished, gain_min, moves_max));
    let before = evaluate(model, present, present).total();
    let gain = before - evaluate(model, present, &trimmed).total();
    Ok((trimmed, gain, before))
}

fn trim<const D: usize>(
    model: &Model,
    present: &[u32],
    wished: &[u32],
    gain_min: i64,
    moves_max: usize,
) -> Assignment {
    let problem = Problem::<D>::new(model, present, &[]);
    let mut state = State::new(&problem, wished);
    let mut moves = state.at.iter().zip(present).filter(|(a, b)| a != b).count();
    for _ in 0..PASSES {
        let worth = |p: usize| shift_change(&state, p, present[p] as usize);
        let away = (0..present.len()).filter(|&p| state.at[p] != present[p]);
        let mut order: Vec<(f64, usize)> = away.map(|p| (worth(p), p)).collect();
        order.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.cmp(&y.1)));
        let before = moves;
        for (_, p) in order {
            let home = present[p] as usize;
            let worth = shift_change(&state, p, home);
            let surplus = moves_max > 0 && moves > moves_max;
            if worth.is_finite() && (surplus || worth < gain_min as f64) {
                state.shift(p, home);
                moves -= 1;
            }
        }
        if moves == before {
            break;
        }
    }
    state.at
}
