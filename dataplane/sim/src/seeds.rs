//! Which seeds a test runs: `DWCP_SEED` replays one, `DWCP_SEEDS` says how many; without either
//! the test's own number, or [`LONG_COUNT`] in the long form of the suites.

use std::ops::Range;

/// Variable that replays a single seed.
pub const ONE: &str = "DWCP_SEED";
/// Variable that sets how many seeds are run, from 0 on.
pub const COUNT: &str = "DWCP_SEEDS";
/// Variable that asks for the long form.
pub const LONG: &str = "DWCP_TEST_LONG";
/// Seeds of the long form.
pub const LONG_COUNT: u64 = 10_000;

/// The seeds to run; `default_count` of them unless the environment says otherwise.
///
/// # Panics
/// When a variable is no number: running other seeds than asked for would be a false pass.
#[must_use]
pub fn chosen(default_count: u64) -> Range<u64> {
    if let Some(seed) = number(ONE) {
        return seed..seed + 1;
    }
    let usual = if number(LONG) == Some(1) { LONG_COUNT } else { default_count };
    0..number(COUNT).unwrap_or(usual)
}

/// Whether a single seed is replayed, so that its story should be printed.
#[must_use]
pub fn is_replay() -> bool {
    number(ONE).is_some()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}
