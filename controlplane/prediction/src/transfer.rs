//! From rates to time: how long moving bytes takes, and how a pre-copy migration goes.
//!
//! Pure arithmetic on the caller's thread; loops are bounded. It must not know forecasters.

use crate::forecast::{Curve, KNOT_STEPS, KNOTS};
use crate::history::{RATE_FLOOR, STEP_S};

/// Longest time that is told: ten years. What takes longer takes "for ever".
pub const SECONDS_MAX: f64 = 315_576_000.0;
/// Most rounds of a pre-copy that are followed.
pub const ROUNDS_MAX: u32 = 64;
/// A round that is not at least this much shorter than the one before counts as standing still.
const PROGRESS_MIN: f64 = 0.02;
/// Rounds without progress until the pre-copy counts as stalled.
const STALLED_ROUNDS: u32 = 3;

/// A time with its interval, in seconds: `p10 <= p50 <= p90`, all within 0..=[`SECONDS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds {
    /// One time of ten it is shorter.
    pub p10: f64,
    /// Half of the time it is shorter.
    pub p50: f64,
    /// One time of ten it is longer.
    pub p90: f64,
}

/// Bytes that a link has moved by a time, at one quantile of its rate: linear between the knots, and
/// beyond the last at its mean rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Road {
    /// Seconds and bytes at the knots; both never fall.
    knots: [(f64, f64); KNOTS],
    /// Bytes per second after the last.
    beyond: f64,
}

impl Road {
    /// At P10, P50 or P90 of the rate: `quantile` 0, 1 or 2 (more counts as 2).
    pub fn of(curve: &Curve, quantile: usize) -> Self {
        let mut knots = [(0.0, 0.0); KNOTS];
        let (mut most, mut beyond) = (0f64, RATE_FLOOR);
        for (knot, steps) in knots.iter_mut().zip(KNOT_STEPS) {
            let seconds = steps as f64 * STEP_S;
            beyond = curve.at(seconds).quantiles()[quantile.min(2)];
            most = most.max(beyond * seconds);
            *knot = (seconds, most);
        }
        Self { knots, beyond }
    }

    /// Seconds until this many bytes have moved. Nothing and NaN take none.
    pub fn seconds(&self, bytes: f64) -> f64 {
        if bytes.is_nan() || bytes <= 0.0 {
            return 0.0;
        }
        let mut before = (0.0, 0.0);
        for knot in self.knots {
            if bytes <= knot.1 {
                let share = (bytes - before.1) / (knot.1 - before.1).max(1e-9);
                return (before.0 + share * (knot.0 - before.0)).min(knot.0);
            }
            before = knot;
        }
        (before.0 + (bytes - before.1) / self.beyond).min(SECONDS_MAX)
    }

    /// Bytes moved after this many seconds.
    pub fn bytes(&self, seconds: f64) -> f64 {
        if seconds.is_nan() || seconds <= 0.0 {
            return 0.0;
        }
        let mut before = (0.0, 0.0);
        for knot in self.knots {
            if seconds <= knot.0 {
                return before.1 + (seconds - before.0) / (knot.0 - before.0) * (knot.1 - before.1);
            }
            before = knot;
        }
        before.1 + (seconds.min(SECONDS_MAX) - before.0) * self.beyond
    }
}

/// Time to move this many bytes over a link of which this is forecast. Proportional: ten times the rate
/// and ten times the bytes take the same time.
pub fn seconds_to_move(curve: &Curve, bytes: u64) -> Seconds {
    let [p90, p50, p10] = [0, 1, 2].map(|q| Road::of(curve, q).seconds(bytes as f64));
    Seconds { p10: p10.min(p50), p50, p90: p90.max(p50) }
}

/// A guest that is to move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guest {
    /// Bytes to send in the first round, as they are on the wire.
    pub bytes: u64,
    /// Bytes a second that the guest makes anew, as they would be on the wire.
    pub dirty_bytes_per_s: f64,
    /// Most that can be dirty at once: its working set, as it would be on the wire.
    pub working_set_bytes: u64,
    /// Longest pause that is allowed.
    pub downtime_budget_s: f64,
}

/// How a pre-copy goes at one quantile of the rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreCopy {
    /// Rounds before the stop, at least 1; 0 when there is nothing to move.
    pub rounds: u32,
    /// Seconds from the start to the end of the pause.
    pub total_s: f64,
    /// Seconds of the pause.
    pub downtime_s: f64,
    /// Does the rest come to fit the budget? If not, rounds, time and pause are those of a stop
    /// where it stalls.
    pub converges: bool,
}

/// How a migration is expected to go: at the slow end (P10 of the rate), in the middle, at the fast end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// At P10 of the rate.
    pub slow: PreCopy,
    /// At P50.
    pub middle: PreCopy,
    /// At P90.
    pub fast: PreCopy,
}

/// Follows the rounds of a pre-copy: each sends what the one before left dirty, until the rest fits the
/// budget. A dirty rate that is no number counts as the working set every second.
pub fn outlook(curve: &Curve, guest: &Guest) -> Outlook {
    let [slow, middle, fast] = [0, 1, 2].map(|q| pre_copy(&Road::of(curve, q), guest));
    Outlook { slow, middle, fast }
}

fn pre_copy(road: &Road, guest: &Guest) -> PreCopy {
    let working_set = guest.working_set_bytes as f64;
    let dirty = guest.dirty_bytes_per_s;
    let dirty = if dirty.is_nan() { working_set } else { dirty.max(0.0) };
    let budget = guest.downtime_budget_s.max(0.0);
    let (mut sent, mut now, mut rest) = (0.0, 0.0, guest.bytes as f64);
    let (mut rounds, mut stalled, mut before) = (0, 0, f64::INFINITY);
    if guest.bytes == 0 {
        return PreCopy { rounds, total_s: 0.0, downtime_s: 0.0, converges: true };
    }
    loop {
        let end = road.seconds(sent + rest);
        let took = (end - now).max(0.0);
        (sent, now, rounds) = (sent + rest, end, rounds + 1);
        rest = (dirty * took).min(working_set);
        let pause = (road.seconds(sent + rest) - now).max(0.0);
        stalled = if rest > before * (1.0 - PROGRESS_MIN) { stalled + 1 } else { 0 };
        let converges = pause <= budget;
        let is_over = converges || stalled >= STALLED_ROUNDS || rounds == ROUNDS_MAX;
        if is_over || now >= SECONDS_MAX {
            let total_s = (now + pause).min(SECONDS_MAX);
            return PreCopy { rounds, total_s, downtime_s: pause.min(total_s), converges };
        }
        before = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flat(rates: [f64; 3]) -> Curve {
        Curve([rates.map(|r| r.ln() as f32); KNOTS])
    }

    fn guest(bytes: u64, dirty: f64) -> Guest {
        Guest {
            bytes,
            dirty_bytes_per_s: dirty,
            working_set_bytes: bytes / 2,
            downtime_budget_s: 0.3,
        }
    }

    #[test]
    fn a_steady_link_takes_bytes_over_rate() {
        let time = seconds_to_move(&flat([1e6, 2e6, 4e6]), 100_000_000);
        for (seconds, expected) in [(time.p10, 25.0), (time.p50, 50.0), (time.p90, 100.0)] {
            assert!((seconds / expected - 1.0).abs() < 1e-4, "{seconds}");
        }
        let for_days = seconds_to_move(&flat([1e6; 3]), 1_000_000_000_000);
        assert!((for_days.p50 / 1e6 - 1.0).abs() < 1e-4);
        assert_eq!(seconds_to_move(&flat([1e3; 3]), u64::MAX).p90, SECONDS_MAX);
        assert_eq!(seconds_to_move(&flat([1e6; 3]), 0).p90, 0.0);
    }

    #[test]
    fn rounds_shrink_by_dirty_rate_over_link_rate() {
        // 100 s, then 10 s, 1 s, and the 0.1 s that remain fit the budget.
        let expected = PreCopy { rounds: 3, total_s: 111.1, downtime_s: 0.1, converges: true };
        let found = outlook(&flat([1e6; 3]), &guest(100_000_000, 1e5)).middle;
        assert_eq!((found.rounds, found.converges), (expected.rounds, expected.converges));
        assert!((found.total_s - expected.total_s).abs() < 0.1, "{found:?}");
        assert!((found.downtime_s - expected.downtime_s).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn a_guest_that_dirties_faster_than_the_link_stalls() {
        let found = outlook(&flat([1e6; 3]), &guest(100_000_000, 2e6)).slow;
        assert!(!found.converges && found.downtime_s > 10.0, "{found:?}");
        let idle = outlook(&flat([1e6; 3]), &guest(100_000_000, 0.0)).slow;
        assert_eq!((idle.rounds, idle.downtime_s, idle.converges), (1, 0.0, true));
        assert_eq!(outlook(&flat([1e6; 3]), &guest(0, 1e9)).slow.rounds, 0);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_the_answer_is_finite_and_in_order(
            logs in any::<[f32; 12]>(), bytes in any::<u64>(), set in any::<u64>(),
            dirty in any::<f64>(), budget in any::<f64>(),
        ) {
            let mut knots = [[0.0; 3]; KNOTS];
            for (i, log) in logs.into_iter().enumerate() {
                knots[i / 3][i % 3] = log;
            }
            let curve = Curve(knots);
            let time = seconds_to_move(&curve, bytes);
            prop_assert!(0.0 <= time.p10 && time.p10 <= time.p50);
            prop_assert!(time.p50 <= time.p90 && time.p90 <= SECONDS_MAX);
            let guest = Guest {
                bytes, dirty_bytes_per_s: dirty, working_set_bytes: set, downtime_budget_s: budget,
            };
            let all = outlook(&curve, &guest);
            for one in [all.slow, all.middle, all.fast] {
                prop_assert!(one.rounds <= ROUNDS_MAX);
                prop_assert!((0.0..=SECONDS_MAX).contains(&one.total_s));
                prop_assert!((0.0..=one.total_s).contains(&one.downtime_s));
            }
        }

        #[test]
        fn bytes_and_seconds_are_each_others_inverse(
            rates in proptest::collection::vec(1e4..1e9f64, 12), seconds in 0.1..2_000.0f64,
        ) {
            let mut knots = [[0.0; 3]; KNOTS];
            for (i, rate) in rates.into_iter().enumerate() {
                knots[i / 3][i % 3] = rate.ln() as f32;
            }
            let road = Road::of(&Curve(knots), 1);
            let bytes = road.bytes(seconds);
            prop_assert!(road.seconds(bytes) <= seconds * (1.0 + 1e-6) + 1e-6);
            let again = road.bytes(road.seconds(bytes));
            prop_assert!((again / bytes - 1.0).abs() < 1e-6);
        }
    }
}
