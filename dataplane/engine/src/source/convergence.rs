//! When to stop the guest: how long would the rest take from here? Pure: samples and times come in.
//!
//! The rest is what QEMU still holds as dirty, what the guest has dirtied since QEMU last looked, and
//! what we have taken but the target has not confirmed. It leaves at the rates seen lately.

use std::collections::VecDeque;

/// How far back a rate may lie that we believe can be reached again.
const WINDOW_MS: f64 = 10_000.0;
/// Samples kept; one comes every 20 ms or more.
const SAMPLES_MAX: usize = 640;
/// A rate is measured over at least this long.
const RATE_SPAN_MS: f64 = 200.0;
/// What a switch-over costs besides the pages: device state, loading, the record, `cont`.
const FIXED_COST_MS: f64 = 60.0;
/// Rounds after the first fitting one in which a smaller rest may still be waited for.
const BETTER_ROUNDS: u64 = 2;
/// Rounds without progress that count as a stall.
const STALL_ROUNDS: u32 = 4;
/// A round counts as progress when it leaves at most this share of the best so far.
const PROGRESS: f64 = 0.9;

/// One look at QEMU and at our own counters.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// When, in milliseconds of any clock.
    pub at_ms: f64,
    /// Dirty guest bytes as QEMU counts them.
    pub remaining_bytes: u64,
    /// QEMU's dirty rate, in bytes per second.
    pub dirty_bytes_per_s: u64,
    /// QEMU's rounds.
    pub rounds: u64,
    /// Guest bytes taken so far, zero pages left out.
    pub guest_bytes: u64,
    /// Bytes sent so far.
    pub wire_bytes: u64,
    /// Encoded bytes not confirmed yet.
    pub unacked_bytes: u64,
    /// Guest bytes taken and not encoded yet.
    pub unencoded_bytes: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Advice {
    /// Let QEMU go on.
    Continue,
    /// The rest fits the budget.
    Stop,
    /// Rounds go by and the rest does not shrink.
    Stalled,
}

/// Follows one migration.
#[derive(Debug)]
pub struct Convergence {
    budget_ms: f64,
    samples: VecDeque<Sample>,
    round_began_ms: f64,
    fits_since_round: Option<u64>,
    best_rest: f64,
    rounds_without_progress: u32,
}

impl Convergence {
    /// For a downtime budget in milliseconds.
    #[must_use]
    pub fn new(budget_ms: f64) -> Self {
        Self {
            budget_ms,
            samples: VecDeque::with_capacity(SAMPLES_MAX),
            round_began_ms: 0.0,
            fits_since_round: None,
            best_rest: f64::INFINITY,
            rounds_without_progress: 0,
        }
    }

    /// Takes a sample and says what to do.
    pub fn observe(&mut self, sample: Sample) -> Advice {
        let new_round = self.samples.back().is_none_or(|last| last.rounds != sample.rounds);
        if new_round {
            self.round_began_ms = sample.at_ms;
        }
        self.keep(sample);
        if sample.rounds < 2 && sample.remaining_bytes > 0 {
            return Advice::Continue;
        }
        let Some(rest_ms) = self.predict_ms() else { return Advice::Continue };
        if rest_ms <= self.budget_ms {
            return self.fits(sample, rest_ms);
        }
        self.fits_since_round = None;
        if new_round { self.judge_round(rest_ms) } else { Advice::Continue }
    }

    /// The downtime to expect from a stop now, in milliseconds; `None` before any rate is known.
    #[must_use]
    pub fn predict_ms(&self) -> Option<f64> {
        let last = self.samples.back()?;
        let idle_ms = last.at_ms - self.round_began_ms;
        let unseen = last.dirty_bytes_per_s as f64 * idle_ms / 1e3;
        let dirty = last.remaining_bytes as f64 + unseen + last.unencoded_bytes as f64;
        let (guest_rate, wire_rate) = self.best_rates()?;
        let encode_ms = dirty / guest_rate;
        let wire_ms = (dirty * self.wire_share() + last.unacked_bytes as f64) / wire_rate;
        Some(encode_ms.max(wire_ms) + FIXED_COST_MS)
    }

    fn fits(&mut self, sample: Sample, rest_ms: f64) -> Advice {
        let since = *self.fits_since_round.get_or_insert(sample.rounds);
        let small = rest_ms <= FIXED_COST_MS + (self.budget_ms - FIXED_COST_MS) / 4.0;
        let waited = sample.rounds.saturating_sub(since) >= BETTER_ROUNDS
            || sample.at_ms - self.round_began_ms > self.budget_ms;
        if small || waited { Advice::Stop } else { Advice::Continue }
    }

    fn judge_round(&mut self, rest_ms: f64) -> Advice {
        if rest_ms <= self.best_rest * PROGRESS {
            self.rounds_without_progress = 0;
            self.best_rest = rest_ms;
        } else {
            self.rounds_without_progress += 1;
        }
        match self.rounds_without_progress >= STALL_ROUNDS {
            true => Advice::Stalled,
            false => Advice::Continue,
        }
    }

    fn keep(&mut self, sample: Sample) {
        let stale = |s: &Sample| sample.at_ms - s.at_ms > WINDOW_MS;
        while self.samples.len() == SAMPLES_MAX || self.samples.front().is_some_and(stale) {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The best rates over [`RATE_SPAN_MS`] within the window, in bytes per millisecond.
    fn best_rates(&self) -> Option<(f64, f64)> {
        let mut best: Option<(f64, f64)> = None;
        let mut from = 0;
        for to in &self.samples {
            while self.samples[from].at_ms + RATE_SPAN_MS < to.at_ms {
                let next = &self.samples[from + 1];
                if next.at_ms + RATE_SPAN_MS > to.at_ms {
                    break;
                }
                from += 1;
            }
            let first = &self.samples[from];
            let span = to.at_ms - first.at_ms;
            if span < RATE_SPAN_MS {
                continue;
            }
            let rate = |a: u64, b: u64| (b.saturating_sub(a)) as f64 / span;
            let guest = rate(first.guest_bytes, to.guest_bytes);
            let wire = rate(first.wire_bytes, to.wire_bytes);
            let (g, w) = best.unwrap_or((0.0, 0.0));
            best = Some((g.max(guest), w.max(wire)));
        }
        best.map(|(guest, wire)| (guest.max(1.0), wire.max(1.0)))
    }

    /// Wire bytes per guest byte lately.
    fn wire_share(&self) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 1.0;
        };
        let guest = last.guest_bytes.saturating_sub(first.guest_bytes);
        let wire = last.wire_bytes.saturating_sub(first.wire_bytes);
        if guest == 0 { 1.0 } else { (wire as f64 / guest as f64).min(1.1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model guest: `dirty` bytes/s against a link of `rate` bytes/s, sampled every 20 ms.
    fn run(budget_ms: f64, ram: f64, dirty: f64, rate: f64) -> (Advice, f64, f64) {
        let mut c = Convergence::new(budget_ms);
        let (mut remaining, mut unseen, mut rounds, mut sent) = (ram, 0.0, 1u64, 0.0f64);
        for tick in 0..30_000 {
            let at_ms = f64::from(tick) * 20.0;
            let step = (rate * 0.02).min(remaining);
            remaining -= step;
            sent += step;
            unseen = (unseen + dirty * 0.02).min(ram);
            if remaining <= 0.0 {
                (remaining, unseen) = (unseen, 0.0);
                rounds += 1;
            }
            let advice = c.observe(Sample {
                at_ms,
                remaining_bytes: remaining as u64,
                dirty_bytes_per_s: dirty as u64,
                rounds,
                guest_bytes: sent as u64,
                wire_bytes: sent as u64,
                ..Sample::default()
            });
            if advice != Advice::Continue {
                return (advice, at_ms, (remaining + unseen) / rate * 1e3);
            }
        }
        (Advice::Continue, 0.0, 0.0)
    }

    #[test]
    fn a_calm_guest_is_stopped_soon_after_the_first_round() {
        let (advice, at_ms, rest_ms) = run(300.0, 1e9, 1e6, 62.5e6);
        assert_eq!(advice, Advice::Stop);
        assert!((16_000.0..18_500.0).contains(&at_ms), "{at_ms}");
        assert!(rest_ms < 100.0, "{rest_ms}");
    }

    #[test]
    fn a_busy_guest_is_stopped_within_the_budget() {
        let (advice, _, rest_ms) = run(300.0, 1e9, 20e6, 62.5e6);
        assert_eq!(advice, Advice::Stop);
        assert!(rest_ms < 300.0, "{rest_ms}");
    }

    #[test]
    fn a_guest_faster_than_the_link_stalls() {
        let (advice, ..) = run(300.0, 1e9, 200e6, 62.5e6);
        assert_eq!(advice, Advice::Stalled);
    }
}
