//! Ridge regression by Cholesky's decomposition, in f64.

use dwcp_prediction::FEATURES;

use crate::windows::Table;

const N: usize = FEATURES + 1;

/// Weights of the features and the constant, last; `penalty` per row and unit of the feature.
pub(crate) fn fit(table: &Table, penalty: f64) -> [f32; N] {
    let mut square = [[0f64; N]; N];
    let mut side = [0f64; N];
    let mut total = 0.0;
    for ((input, &truth), &weight) in table.inputs.iter().zip(&table.truths).zip(&table.weights) {
        let weight = f64::from(weight);
        total += weight;
        let at = |i: usize| if i == FEATURES { 1.0 } else { f64::from(input[i]) };
        for (i, (row, side)) in square.iter_mut().zip(&mut side).enumerate() {
            let x = weight * at(i);
            *side += x * f64::from(truth);
            for (j, cell) in row.iter_mut().enumerate().take(i + 1) {
                *cell += x * at(j);
            }
        }
    }
    for (i, row) in square.iter_mut().enumerate() {
        // The constant is not held back.
        row[i] += if i == FEATURES { 1e-9 } else { penalty * total + 1e-9 };
    }
    solve(square, side).map(|w| w as f32)
}

/// Solves a symmetric positive system of which only the lower half is set.
fn solve(mut a: [[f64; N]; N], mut x: [f64; N]) -> [f64; N] {
    for i in 0..N {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| a[i][k] * a[j][k]).sum();
            let rest = a[i][j] - dot;
            a[i][j] = if i == j { rest.max(1e-12).sqrt() } else { rest / a[j][j] };
        }
    }
    for i in 0..N {
        let dot: f64 = (0..i).map(|k| a[i][k] * x[k]).sum();
        x[i] = (x[i] - dot) / a[i][i];
    }
    for i in (0..N).rev() {
        let dot: f64 = (i + 1..N).map(|k| a[k][i] * x[k]).sum();
        x[i] = (x[i] - dot) / a[i][i];
    }
    x
}
