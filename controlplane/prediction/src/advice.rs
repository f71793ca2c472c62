//! Go now, wait, or leave early; and who may use how much of a link.
//!
//! Pure arithmetic on the caller's thread, bounded loops. Advice only: a migration that hears nothing in
//! time goes on without it.

use crate::forecast::{Curve, HORIZON_MAX_S, HORIZON_MIN_S};
use crate::transfer::{Road, Seconds, seconds_to_move};

/// Distance of the moments at which a start is considered, in seconds.
pub const START_STEP_S: f64 = 30.0;
/// Share of the usual rate that P10 of the next 30 s must reach for a start.
pub const CAREFUL_SHARE: f64 = 0.45;
/// Share of the usual rate that the running mean must reach for a start.
pub const NOW_SHARE: f64 = 0.6;

/// A job that waits for its start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    /// Bytes to move.
    pub bytes: u64,
    /// What the link usually gives, in bytes per second, where it is known.
    pub usual_bytes_per_s: Option<f64>,
    /// What a second of waiting costs, in seconds on the link.
    pub wait_price: f64,
    /// Seconds that the start may still be put off; 0 or NaN: none.
    pub wait_max_s: f64,
    /// Seconds from now by which it must be done, if any.
    pub deadline_s: Option<f64>,
}

/// What to do with a job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Advice {
    /// Start.
    Go {
        /// Seconds it will take.
        seconds: Seconds,
    },
    /// Ask again after this time.
    DeferUntil {
        /// Seconds from now.
        in_s: f64,
        /// Seconds on the link that a start at the usual rate saves against the slow end (P90) of a start
        /// now.
        saves_s: f64,
    },
    /// Start although the link is bad: at P10 of its rate, a start at the end of the forecast would miss
    /// the deadline, and a start now does not.
    Evacuate {
        /// Seconds it will take.
        seconds: Seconds,
    },
}

/// What to do with a job on a link of which this is forecast and whose running mean (EWMA) is
/// `now_bytes_per_s`.
///
/// It waits while both are bad: P10 of the next 30 s below [`CAREFUL_SHARE`] and the running mean below
/// [`NOW_SHARE`] of what is usual, and the bold end of the job's time costs more than the wait. Both
/// shares were chosen by what they save on traces. Following the median's path to its cheapest start
/// saves less: the median always returns to the usual and cannot tell a dip from a bad hour. Without
/// a usual rate it goes.
pub fn advise(curve: &Curve, now_bytes_per_s: f64, job: &Job) -> Advice {
    let seconds = seconds_to_move(curve, job.bytes);
    let slow = Road::of(curve, 0);
    let late = slow.seconds(slow.bytes(HORIZON_MAX_S) + job.bytes as f64);
    let deadline = job.deadline_s.unwrap_or(f64::INFINITY);
    let careful = curve.at(HORIZON_MIN_S).p10;
    let usual = job.usual_bytes_per_s.filter(|rate| *rate > 0.0 && rate.is_finite());
    let Some(usual) = usual.filter(|_| job.wait_max_s >= START_STEP_S) else {
        return Advice::Go { seconds };
    };
    let saves_s = seconds.p90 - job.bytes as f64 / usual;
    let is_worth_it = saves_s > job.wait_price.max(0.0) * START_STEP_S;
    let is_bad = careful < CAREFUL_SHARE * usual && now_bytes_per_s < NOW_SHARE * usual;
    if !is_bad || !is_worth_it {
        return Advice::Go { seconds };
    }
    if late > deadline && seconds.p90 <= deadline {
        return Advice::Evacuate { seconds };
    }
    Advice::DeferUntil { in_s: START_STEP_S, saves_s }
}
