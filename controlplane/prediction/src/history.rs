//! What one link did lately: means of 5 s, bounded, with every kind of bad input answered.
//!
//! Runs on the caller's thread; allocates once, never blocks, and has no clock: every sample says
//! when it was taken. It must not know forecasters.

use std::collections::VecDeque;

/// Length of one step in milliseconds: the grid that every forecaster works on.
pub const STEP_MS: u64 = 5_000;
/// Length of one step in seconds.
pub const STEP_S: f64 = 5.0;
/// Steps kept: one hour.
pub const STEPS_MAX: usize = 720;
/// Steps that a forecaster looks at in detail: 300 s.
pub const WINDOW: usize = 60;
/// Longest gap, in steps, that is filled with the value before it (300 s). A longer one starts anew.
pub const GAP_STEPS_MAX: u64 = 60;
/// Samples in a row that must lie before the present step until the clock counts as set back.
pub const BACKWARDS_MAX: u32 = 3;
/// Rates above this (80 Tbit/s, in bytes per second) are refused: no link has them.
pub const RATE_MAX: f64 = 1e13;
/// Rates count as at least this (8 kbit/s, in bytes per second) where a logarithm is taken.
pub const RATE_FLOOR: f64 = 1e3;

const _: () = assert!(WINDOW <= STEPS_MAX && GAP_STEPS_MAX as usize <= STEPS_MAX);

/// One measurement of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkSample {
    /// When, in milliseconds since any fixed start; since the Unix epoch where hours of the day matter.
    pub at_ms: u64,
    /// Bytes per second that arrived, 0..=[`RATE_MAX`].
    pub goodput_bytes_per_s: f64,
    /// Round trip in seconds, where measured.
    pub rtt_s: Option<f64>,
    /// Share of lost packets, 0..=1, where measured.
    pub loss: Option<f64>,
    /// Variation of the round trip in seconds, where measured.
    pub jitter_s: Option<f64>,
}

impl LinkSample {
    /// A sample of the rate alone.
    pub fn rate(at_ms: u64, goodput_bytes_per_s: f64) -> Self {
        Self { at_ms, goodput_bytes_per_s, rtt_s: None, loss: None, jitter_s: None }
    }
}

/// Why a sample was not taken. The history stays as it was; go on with the next sample.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// Not a number, negative, or beyond what a link can have.
    #[error("{what} of {value} is not possible: drop the sample")]
    Absurd {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// Older than the present step: the clock went backwards, or samples came late.
    #[error("the sample is {behind_ms} ms older than the present step: drop it")]
    Backwards {
        /// How far it lies behind the start of the present step.
        behind_ms: u64,
    },
}

/// What taking a sample did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It belongs to the present step, whose mean changed.
    SameStep,
    /// A step is over: this many entered the history, filled ones included.
    Advanced {
        /// Steps that entered, at least one.
        steps: u64,
    },
    /// The history began anew with this sample: the first one, a long gap, or a clock set back.
    Restarted,
}

/// Mean of one optional measurement over a step.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count = self.count.saturating_add(1);
    }

    fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

/// Bounded history of one link on a grid of [`STEP_MS`].
///
/// A step enters when a sample of a later one arrives; until then it is open and no forecaster
/// sees it. Empty steps repeat the one before.
#[derive(Debug, Clone)]
pub struct History {
    rates: VecDeque<f64>,
    /// Number of the open step: `at_ms / STEP_MS`.
    open: Option<u64>,
    /// Step of the latest sample; never after the open one.
    heard: u64,
    rate: Mean,
    rtt: Mean,
    loss: Mean,
    jitter: Mean,
    path: PathState,
    backwards: u32,
}

/// The latest closed step's measurements beside the rate.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PathState {
    /// Round trip in seconds.
    pub rtt_s: Option<f64>,
    /// Share of lost packets.
    pub loss: Option<f64>,
    /// Variation of the round trip in seconds.
    pub jitter_s: Option<f64>,
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl History {
    /// An empty history; allocates all it will ever use.
    pub fn new() -> Self {
        let none = Mean::default();
        Self {
            rates: VecDeque::with_capacity(STEPS_MAX),
            open: None,
            heard: 0,
            rate: none,
            rtt: none,
            loss: none,
            jitter: none,
            path: PathState::default(),
            backwards: 0,
        }
    }

    /// Takes a sample.
    ///
    /// # Errors
    /// [`SampleError`]: the sample is refused and nothing changed, except that after
    /// [`BACKWARDS_MAX`] samples in a row from before the open step the clock counts as set back:
    /// the next such sample starts the history anew.
    pub fn push(&mut self, sample: &LinkSample) -> Result<Taken, SampleError> {
        check(sample)?;
        let step = sample.at_ms / STEP_MS;
        let Some(open) = self.open else {
            self.restart(step);
            self.add(sample);
            return Ok(Taken::Restarted);
        };
        if step < open {
            if self.backwards >= BACKWARDS_MAX {
                self.restart(step);
                self.add(sample);
                return Ok(Taken::Restarted);
            }
            self.backwards += 1;
            let behind_ms = (open * STEP_MS).saturating_sub(sample.at_ms);
            return Err(SampleError::Backwards { behind_ms });
        }
        self.backwards = 0;
        let taken = self.move_to(step);
        self.heard = step;
        self.add(sample);
        Ok(taken)
    }

    /// Says what time it is, so that steps close although no sample came: call it when a forecast is
    /// asked for. A time before the open step does nothing.
    pub fn advance(&mut self, now_ms: u64) -> Taken {
        let step = now_ms / STEP_MS;
        if self.open.is_some_and(|open| step > open) { self.move_to(step) } else { Taken::SameStep }
    }

    /// Rates of the closed steps in bytes per second, oldest first; at most [`STEPS_MAX`].
    pub fn rates(&self) -> impl DoubleEndedIterator<Item = f64> + ExactSizeIterator + '_ {
        self.rates.iter().copied()
    }

    /// Closed steps.
    pub fn len(&self) -> usize {
        self.rates.len()
    }

    /// Is no step closed yet?
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty()
    }

    /// Round trip, loss and jitter of the latest closed step.
    pub fn path(&self) -> PathState {
        self.path
    }

    /// Number of the open step, in units of [`STEP_MS`] since the clock's start.
    pub fn open_step(&self) -> Option<u64> {
        self.open
    }

    fn restart(&mut self, step: u64) {
        self.rates.clear();
        self.backwards = 0;
        self.open = Some(step);
        self.heard = step;
        self.path = PathState::default();
        self.clear_open();
    }

    /// Makes a step, not before the open one, the open one.
    fn move_to(&mut self, step: u64) -> Taken {
        if step - self.heard > GAP_STEPS_MAX {
            self.restart(step);
            return Taken::Restarted;
        }
        let steps = step - self.open.unwrap_or(step);
        self.open = Some(step);
        if steps == 0 || !self.close(steps) { Taken::SameStep } else { Taken::Advanced { steps } }
    }

    fn add(&mut self, sample: &LinkSample) {
        self.rate.add(sample.goodput_bytes_per_s);
        let optional = [
            (&mut self.rtt, sample.rtt_s),
            (&mut self.loss, sample.loss),
            (&mut self.jitter, sample.jitter_s),
        ];
        for (mean, value) in optional {
            if let Some(value) = value {
                mean.add(value);
            }
        }
    }

    fn clear_open(&mut self) {
        for mean in [&mut self.rate, &mut self.rtt, &mut self.loss, &mut self.jitter] {
            *mean = Mean::default();
        }
    }

    /// Closes the open step and repeats it over the gap, if any. Returns whether anything is known.
    fn close(&mut self, steps: u64) -> bool {
        let Some(value) = self.rate.value().or_else(|| self.rates.back().copied()) else {
            return false;
        };
        self.path = PathState {
            rtt_s: self.rtt.value(),
            loss: self.loss.value(),
            jitter_s: self.jitter.value(),
        };
        for _ in 0..steps {
            if self.rates.len() == STEPS_MAX {
                self.rates.pop_front();
            }
            self.rates.push_back(value);
        }
        self.clear_open();
        true
    }
}

fn check(sample: &LinkSample) -> Result<(), SampleError> {
    let bounded = |what, value: f64, max: f64| {
        if (0.0..=max).contains(&value) { Ok(()) } else { Err(SampleError::Absurd { what, value }) }
    };
    bounded("goodput", sample.goodput_bytes_per_s, RATE_MAX)?;
    bounded("round trip", sample.rtt_s.unwrap_or(0.0), 3_600.0)?;
    bounded("loss", sample.loss.unwrap_or(0.0), 1.0)?;
    bounded("jitter", sample.jitter_s.unwrap_or(0.0), 3_600.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push(history: &mut History, at_s: u64, rate: f64) -> Result<Taken, SampleError> {
        history.push(&LinkSample::rate(at_s * 1_000, rate))
    }

    fn rates(history: &History) -> Vec<f64> {
        history.rates().collect()
    }

    #[test]
    fn a_step_is_the_mean_of_its_samples_and_enters_when_it_is_over() {
        let mut history = History::new();
        assert_eq!(push(&mut history, 0, 1e6), Ok(Taken::Restarted));
        assert_eq!(push(&mut history, 4, 3e6), Ok(Taken::SameStep));
        assert!(history.is_empty());
        assert_eq!(push(&mut history, 5, 9e6), Ok(Taken::Advanced { steps: 1 }));
        assert_eq!(rates(&history), [2e6]);
    }

    #[test]
    fn gaps_repeat_the_value_before_and_long_ones_start_anew() {
        let mut history = History::new();
        for at in [0, 20] {
            let _ = push(&mut history, at, 7e5);
        }
        assert_eq!(rates(&history), [7e5; 4]);
        assert_eq!(push(&mut history, 20 + 5 * 61, 1e6), Ok(Taken::Restarted));
        assert!(history.is_empty());
    }

    #[test]
    fn time_alone_closes_steps_until_the_link_was_silent_for_too_long() {
        let mut history = History::new();
        assert_eq!(history.advance(1_000_000), Taken::SameStep);
        let _ = push(&mut history, 0, 1e6);
        assert_eq!(history.advance(4_999), Taken::SameStep);
        assert_eq!(history.advance(5_000), Taken::Advanced { steps: 1 });
        assert_eq!(history.advance(0), Taken::SameStep);
        assert_eq!(push(&mut history, 7, 3e6), Ok(Taken::SameStep));
        assert_eq!(history.advance(15_000), Taken::Advanced { steps: 2 });
        assert_eq!(rates(&history), [1e6, 3e6, 3e6]);
        for step in 4..=61 {
            assert_eq!(history.advance(step * STEP_MS), Taken::Advanced { steps: 1 });
        }
        assert_eq!(history.advance(62 * STEP_MS), Taken::Restarted);
        assert_eq!(push(&mut history, 320, 1e6), Ok(Taken::SameStep));
        assert!(history.is_empty());
    }

    #[test]
    fn late_samples_are_dropped_and_a_clock_set_back_starts_anew() {
        let mut history = History::new();
        for at in [1_000, 1_005, 1_010] {
            let _ = push(&mut history, at, 1e6);
        }
        for _ in 0..BACKWARDS_MAX {
            let refused = push(&mut history, 500, 2e6);
            assert_eq!(refused, Err(SampleError::Backwards { behind_ms: 510_000 }));
            assert_eq!(history.len(), 2);
        }
        assert_eq!(push(&mut history, 505, 2e6), Ok(Taken::Restarted));
        assert_eq!(push(&mut history, 510, 2e6), Ok(Taken::Advanced { steps: 1 }));
        assert_eq!(rates(&history), [2e6]);
    }

    #[test]
    fn absurd_values_are_refused_by_name() {
        let mut history = History::new();
        for rate in [f64::NAN, f64::INFINITY, -1.0, 2e13] {
            assert!(matches!(push(&mut history, 0, rate), Err(SampleError::Absurd { .. })));
        }
        let sample = LinkSample { loss: Some(1.5), ..LinkSample::rate(0, 1.0) };
        assert!(matches!(history.push(&sample), Err(SampleError::Absurd { what: "loss", .. })));
        assert_eq!(history.open_step(), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_it_stays_bounded_and_finite(
            samples in proptest::collection::vec((any::<u64>(), any::<f64>()), 0..200),
            jumps in proptest::collection::vec(0u64..700_000, 0..400),
        ) {
            let mut history = History::new();
            for (at_ms, rate) in samples {
                let _ = history.push(&LinkSample::rate(at_ms, rate));
            }
            let mut at_ms = 0u64;
            for jump in jumps {
                at_ms += jump;
                let _ = history.push(&LinkSample::rate(at_ms, jump as f64));
            }
            prop_assert!(history.len() <= STEPS_MAX);
            prop_assert!(history.rates().all(|r| (0.0..=RATE_MAX).contains(&r)));
        }
    }
}
