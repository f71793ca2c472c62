//! One link with every forecaster on it, and the selector that answers for it.
//!
//! Runs on the caller's thread. After construction only the window handed to the forecasters is
//! copied; nothing blocks. It must not know where samples come from.

use std::sync::Arc;

use crate::advice::{Advice, Job, advise};
use crate::baseline::{Seasonal, Simple};
use crate::features::{Features, mean};
use crate::forecast::{Curve, Forecaster, KNOTS, Kind, Moment};
use crate::history::{History, LinkSample, STEPS_MAX, SampleError, Taken};
use crate::lstm::Lstm;
use crate::model::Model;
use crate::ridge::Ridge;
use crate::score::Recent;
use crate::selector::Selector;
use crate::trees::Trees;

/// A link under observation.
pub struct Link {
    history: History,
    /// The history's rates in one piece, with room to grow before the oldest are dropped.
    rates: Vec<f64>,
    forecasters: Vec<Box<dyn Forecaster + Send>>,
    selector: Selector,
    steps: u64,
}

impl Link {
    /// With the forecasters of a model: all that it has weights for.
    pub fn new(model: &Model) -> Self {
        let [last, ewma, mean300] = model.residuals;
        let mut forecasters: Vec<Box<dyn Forecaster + Send>> = vec![
            Box::new(Simple::new(Kind::Last, last)),
            Box::new(Simple::new(Kind::Ewma, ewma)),
            Box::new(Simple::new(Kind::Mean300, mean300)),
            Box::new(Seasonal::new(mean300)),
            Box::new(Ridge::new(Arc::clone(&model.ridge))),
            Box::new(Trees::new(Arc::clone(&model.trees))),
        ];
        if let Some(lstm) = &model.lstm {
            forecasters.push(Box::new(Lstm::new(Arc::clone(lstm))));
        }
        let kinds: Vec<Kind> = forecasters.iter().map(|f| f.kind()).collect();
        Self {
            history: History::new(),
            rates: Vec::with_capacity(2 * STEPS_MAX),
            selector: Selector::new(&kinds, model),
            forecasters,
            steps: 0,
        }
    }

    /// Takes a sample; when it closes steps, every forecaster is told of each.
    ///
    /// # Errors
    /// [`SampleError`]: the sample is refused, forecasts stay as they were.
    pub fn push(&mut self, sample: &LinkSample) -> Result<Taken, SampleError> {
        let before = self.history.open_step();
        let taken = self.history.push(sample)?;
        self.follow(taken, before);
        Ok(taken)
    }

    /// Says what time it is: steps that are over count although no sample of a later one came.
    pub fn advance(&mut self, now_ms: u64) -> Taken {
        let before = self.history.open_step();
        let taken = self.history.advance(now_ms);
        self.follow(taken, before);
        taken
    }

    fn follow(&mut self, taken: Taken, before: Option<u64>) {
        match taken {
            Taken::SameStep => {}
            Taken::Restarted => {
                self.rates.clear();
                self.selector.restart();
                self.forecasters.iter_mut().for_each(|f| f.restart());
            }
            Taken::Advanced { steps } => {
                let rate = self.history.rates().next_back().unwrap_or(0.0);
                for step in 0..steps {
                    self.close(rate, before.unwrap_or(0).saturating_add(step));
                }
            }
        }
    }

    /// What the selector says of the coming time.
    pub fn curve(&self) -> Curve {
        self.selector.curve()
    }

    /// What one forecaster says; `None` where the model has no weights for it.
    pub fn curve_of(&self, kind: Kind) -> Option<Curve> {
        if kind == Kind::Selector {
            return Some(self.selector.curve());
        }
        self.forecasters.iter().find(|f| f.kind() == kind).map(|f| f.curve())
    }

    /// What to do with a job, if this is what is forecast. Where the job does not say what is usual on
    /// this link, the mean of its history (an hour at most) is.
    pub fn advise(&self, curve: &Curve, job: &Job) -> Advice {
        let usual_bytes_per_s = job.usual_bytes_per_s.or_else(|| {
            let rates = &self.rates[self.rates.len().saturating_sub(STEPS_MAX)..];
            (!rates.is_empty()).then(|| mean(rates))
        });
        let now = self.curve_of(Kind::Ewma).map_or(0.0, |ewma| ewma.at(0.0).p50);
        advise(curve, now, &Job { usual_bytes_per_s, ..*job })
    }

    /// The forecaster that weighs most now, at every knot.
    pub fn leaders(&self) -> [Kind; KNOTS] {
        self.selector.leaders()
    }

    /// How well the selector did lately, at every knot.
    pub fn recent(&self) -> [Recent; KNOTS] {
        self.selector.recent()
    }

    /// The history.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Steps seen since the beginning, restarts included.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    fn close(&mut self, rate: f64, step: u64) {
        if self.rates.len() == 2 * STEPS_MAX {
            self.rates.drain(..=STEPS_MAX);
        }
        self.rates.push(rate);
        self.steps += 1;
        let rates = &self.rates[self.rates.len().saturating_sub(STEPS_MAX)..];
        let Some(features) = Features::of(rates) else { return };
        let moment = Moment { rates, features: &features, step };
        for forecaster in &mut self.forecasters {
            forecaster.observe(&moment);
        }
        self.selector.observe(&moment, |i| self.forecasters[i].curve());
    }
}
