//! When a model should be trained anew: by age and by accuracy.
//!
//! Pure: ages and figures are arguments.

/// When to train anew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetrainPolicy {
    /// Oldest model in seconds.
    pub age_max_s: f64,
    /// Least share of forecasts within 30 % of the truth.
    pub accuracy_min: f64,
    /// Forecasts that must have been judged before the accuracy counts.
    pub judged_min: u64,
}

impl Default for RetrainPolicy {
    fn default() -> Self {
        Self { age_max_s: 30.0 * 86_400.0, accuracy_min: 0.7, judged_min: 500 }
    }
}

/// Why a model should be trained anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is too old.
    Age,
    /// It is not good enough any more.
    Accuracy,
}

impl RetrainPolicy {
    /// Is it time? Figures that are no numbers are no reason.
    pub fn due(&self, age_s: f64, accuracy: f64, judged: u64) -> Option<Why> {
        if judged >= self.judged_min && accuracy < self.accuracy_min {
            Some(Why::Accuracy)
        } else {
            (age_s > self.age_max_s).then_some(Why::Age)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_and_accuracy_are_reasons_and_nonsense_is_none() {
        let policy = RetrainPolicy::default();
        assert_eq!(policy.due(1.0, 0.9, 1_000), None);
        assert_eq!(policy.due(1e9, 0.9, 1_000), Some(Why::Age));
        assert_eq!(policy.due(1.0, 0.6, 1_000), Some(Why::Accuracy));
        assert_eq!(policy.due(1.0, 0.6, 10), None);
        assert_eq!(policy.due(f64::NAN, f64::NAN, 1_000), None);
    }
}
