//! What the user sees while a job runs: a bar on a terminal, plain lines elsewhere. Standard error
//! only; standard output belongs to the result. A daemon's job has an observer instead.

use std::fmt;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use dwcp_handover::Fence;
use indicatif::{ProgressBar, ProgressStyle};

use crate::ipc::Counters;
use crate::report::Report;
use crate::source::Sample;
use crate::units::Bytes;

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the rate is measured anew.
const RATE_INTERVAL: Duration = Duration::from_millis(250);

/// How often an observer hears the counters.
const OBSERVED_INTERVAL: Duration = Duration::from_millis(200);

/// What an observer of a job hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The target takes the job.
    Accepted {
        /// The guest's name, else its UUID.
        vm: String,
        /// Incarnation and epoch of the attempt, as the ledger prints them.
        fence: String,
        /// Fencing token.
        epoch: u64,
        /// `direct` or `plain`.
        mode: String,
        /// Streams in use.
        streams: u32,
    },
    /// A phase has begun.
    Phase {
        /// Its name.
        name: String,
        /// Milliseconds since `migrate` was given to QEMU.
        at_ms: f64,
    },
    /// Counters, every 200 ms at most.
    Counters(Snapshot),
    /// Something the user should know.
    Note(String),
}

/// The counters of a running job and what QEMU says of the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The phase.
    pub phase: String,
    /// Our own counters.
    pub counters: Counters,
    /// QEMU's.
    pub sample: Sample,
    /// Predicted downtime if the guest were stopped now.
    pub predicted_downtime_ms: Option<f64>,
}

/// Who hears of a job's events; called from the job's own thread, so it must not wait.
struct Observer(Box<dyn Fn(Event) + Send>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// Shows the state of one job.
#[derive(Debug)]
pub struct Progress {
    observer: Option<Observer>,
    bar: Option<ProgressBar>,
    quiet: bool,
    phase: String,
    printed: Option<Instant>,
    measured: Option<(Instant, u64)>,
    wire_bytes_per_s: f64,
}

impl Progress {
    /// A bar when standard error is a terminal, else lines; `quiet` shows notes only.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{bar:24} {percent:>3} % {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style)
        });
        Self {
            observer: None,
            bar,
            quiet,
            phase: String::new(),
            printed: None,
            measured: None,
            wire_bytes_per_s: 0.0,
        }
    }

    /// Tells `observer` instead of standard error. It is called from the job's own thread and must
    /// not wait.
    #[must_use]
    pub fn observed(observer: impl Fn(Event) + Send + 'static) -> Self {
        Self { observer: Some(Observer(Box::new(observer))), bar: None, ..Self::new(true) }
    }

    /// The target takes the job.
    pub fn accepted(&self, report: &Report, fence: Fence) {
        if let Some(Observer(tell)) = &self.observer {
            tell(Event::Accepted {
                vm: report.vm.clone(),
                fence: fence.to_string(),
                epoch: report.epoch,
                mode: report.mode.clone(),
                streams: report.streams,
            });
        }
    }

    /// A phase has begun.
    pub fn phase(&mut self, name: &str, at_ms: f64) {
        name.clone_into(&mut self.phase);
        if let Some(Observer(tell)) = &self.observer {
            tell(Event::Phase { name: name.to_owned(), at_ms });
        }
        match &self.bar {
            Some(bar) => bar.set_message(self.phase.clone()),
            None if !self.quiet && !name.starts_with("round") => eprintln!("{name}"),
            None => {}
        }
    }

    /// Something the user should know.
    pub fn note(&self, line: &str) {
        match (&self.observer, &self.bar) {
            (Some(Observer(tell)), _) => tell(Event::Note(line.to_owned())),
            (None, Some(bar)) => bar.println(line),
            (None, None) => eprintln!("{line}"),
        }
    }

    /// New counters.
    pub fn show(&mut self, counters: &Counters, sample: &Sample, rest_ms: Option<f64>) {
        if self.observer.is_some() {
            return self.tell_counters(counters, sample, rest_ms);
        }
        self.measure(counters.wire_tx_bytes);
        if self.bar.is_none() && !self.is_due() {
            return;
        }
        let done = counters.guest_bytes;
        let remaining = sample.remaining_bytes;
        let ratio = done as f64 / counters.wire_tx_bytes.max(1) as f64;
        let rest = rest_ms.map_or_else(String::new, |ms| format!(", rest {ms:.0} ms if stopped"));
        let line = format!(
            "{}: {} sent as {} ({ratio:.1} : 1), {}/s on {} streams, level {}, {} left{rest}",
            self.phase,
            Bytes(done),
            Bytes(counters.wire_tx_bytes),
            Bytes(self.wire_bytes_per_s as u64),
            counters.streams,
            counters.level,
            Bytes(remaining),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_length((done + remaining).max(1));
                bar.set_position(done);
                bar.set_message(line);
            }
            None => eprintln!("{line}"),
        }
    }

    /// Nothing more will come.
    pub fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn tell_counters(&mut self, counters: &Counters, sample: &Sample, rest_ms: Option<f64>) {
        let Some(Observer(tell)) = &self.observer else { return };
        if self.printed.is_some_and(|at| at.elapsed() < OBSERVED_INTERVAL) {
            return;
        }
        self.printed = Some(Instant::now());
        tell(Event::Counters(Snapshot {
            phase: self.phase.clone(),
            counters: *counters,
            sample: *sample,
            predicted_downtime_ms: rest_ms,
        }));
    }

    fn is_due(&mut self) -> bool {
        let due = !self.quiet && self.printed.is_none_or(|at| at.elapsed() >= LINE_INTERVAL);
        if due {
            self.printed = Some(Instant::now());
        }
        due
    }

    fn measure(&mut self, wire_bytes: u64) {
        match self.measured {
            Some((at, before)) if at.elapsed() >= RATE_INTERVAL => {
                let seconds = at.elapsed().as_secs_f64();
                self.wire_bytes_per_s = wire_bytes.saturating_sub(before) as f64 / seconds;
                self.measured = Some((Instant::now(), wire_bytes));
            }
            Some(_) => {}
            None => self.measured = Some((Instant::now(), wire_bytes)),
        }
    }
}
