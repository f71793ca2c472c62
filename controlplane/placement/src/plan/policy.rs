//! What keeps plans from going to and fro: moves must be worth it, and a guest that moved rests.

use crate::reassign::{Assignment, Model, SolveError, trim_moves};

/// When a move is worth making.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hysteresis {
    /// A move that gains less than this is not made.
    pub move_gain_min: i64,
    /// A plan that gains less than this share of the present cost is not made at all.
    pub plan_gain_share_min: f64,
    /// Most moves; 0 for no limit.
    pub moves_max: usize,
    /// A guest that moved less than so many seconds ago stays.
    pub cooldown_s: u64,
}

impl Default for Hysteresis {
    fn default() -> Self {
        Self { move_gain_min: 0, plan_gain_share_min: 0.01, moves_max: 0, cooldown_s: 3_600 }
    }
}

impl Hysteresis {
    /// The guests that rest at a time: ascending, to be pinned in the search. `moved_s` lists guests
    /// and when they last moved.
    #[must_use]
    pub fn resting(&self, moved_s: &[(u32, u64)], now_s: u64) -> Vec<u32> {
        let rests = |&&(_, moved): &&(u32, u64)| now_s < moved.saturating_add(self.cooldown_s);
        let mut list: Vec<u32> = moved_s.iter().filter(rests).map(|&(p, _)| p).collect();
        list.sort_unstable();
        list.dedup();
        list
    }
}

/// What is left of a wished assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trimmed {
    /// The assignment; the present one when the plan is not worth it.
    pub assignment: Assignment,
    /// Moves that were not worth it.
    pub left_out: usize,
    /// Was the whole plan not worth it?
    pub refused: bool,
}

/// Takes moves that are not worth it out of a wished assignment. Both must be feasible.
///
/// # Errors
/// An assignment does not fit the model or breaks a hard constraint.
pub fn trim(
    model: &Model,
    present: &[u32],
    wished: &[u32],
    rules: &Hysteresis,
) -> Result<Trimmed, SolveError> {
    let count = |a: &[u32]| a.iter().zip(present).filter(|(now, before)| now != before).count();
    let (assignment, gain, before) =
        trim_moves(model, present, wished, rules.move_gain_min, rules.moves_max)?;
    let over = rules.moves_max > 0 && count(&assignment) > rules.moves_max;
    let share = gain as f64 / before.max(1) as f64;
    let wanted = count(wished);
    if gain <= 0 || over || share < rules.plan_gain_share_min {
        return Ok(Trimmed { assignment: present.to_vec(), left_out: wanted, refused: wanted > 0 });
    }
    Ok(Trimmed { left_out: wanted - count(&assignment), assignment, refused: false })
}
