//! What the solvers stand on: an instance prepared for search, an assignment with its sums, and steps.

pub(super) mod anneal;
pub(super) mod problem;
pub(super) mod state;
pub(super) mod steps;

/// Calls a function that is generic in the dimensions with the smallest size that holds the model.
macro_rules! with_dimensions {
    ($model:expr, $run:ident($($argument:expr),*)) => {
        match $crate::reassign::search::problem::dimensions($model) {
            0..=2 => $run::<2>($($argument),*),
            3..=4 => $run::<4>($($argument),*),
            5..=6 => $run::<6>($($argument),*),
            7..=8 => $run::<8>($($argument),*),
            9..=12 => $run::<12>($($argument),*),
            13..=16 => $run::<16>($($argument),*),
            _ => $run::<32>($($argument),*),
        }
    };
}
pub(super) use with_dimensions;
