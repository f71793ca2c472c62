//! What the user sees while a job runs: a bar on a terminal, plain lines elsewhere. Standard error
//! only; standard output belongs to the result.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::ipc::Counters;
use crate::source::Sample;
use crate::units::Bytes;

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the rate is measured anew.
const RATE_INTERVAL: Duration = Duration::from_millis(250);

/// Shows the state of one job.
#[derive(Debug)]
pub struct Progress {
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
            bar,
            quiet,
            phase: String::new(),
            printed: None,
            measured: None,
            wire_bytes_per_s: 0.0,
        }
    }

    /// A phase has begun.
    pub fn phase(&mut self, name: &str) {
        name.clone_into(&mut self.phase);
        match &self.bar {
            Some(bar) => bar.set_message(self.phase.clone()),
            None if !self.quiet && !name.starts_with("round") => eprintln!("{name}"),
            None => {}
        }
    }

    /// Something the user should know.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    /// New counters.
    pub fn show(&mut self, counters: &Counters, sample: &Sample, rest_ms: Option<f64>) {
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
