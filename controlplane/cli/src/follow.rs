//! Following a source job: its events go to standard error, its end comes back. Hanging up leaves the
//! job alone.

use std::time::{Duration, Instant};

use dwcp_proto::engine_v3 as pb;
use pb::run_source_event::Event;
use tonic::Streaming;

use crate::jobs::Report;
use crate::problem::{Exit, Problem};

/// How often a line of progress is printed.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
const MEGA: f64 = 1e6;

/// How far to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The target takes the job.
    Accepted,
    /// It is over.
    Ended,
}

/// What is known when following stops.
#[derive(Debug)]
pub enum Reached {
    /// The target has taken the job of this id.
    Accepted(String),
    /// It is over.
    Ended(Box<Report>),
}

/// Follows the events of a job.
///
/// # Errors
/// The job did not start, the engine has gone, or Ctrl-C.
pub async fn follow(
    mut events: Streaming<pb::RunSourceEvent>,
    until: Until,
) -> Result<Reached, Problem> {
    let (mut job, mut printed) = (String::new(), None);
    loop {
        let message = tokio::select! {
            message = events.message() => message.map_err(Problem::from)?,
            _ = tokio::signal::ctrl_c() => return Err(hung_up(&job)),
        };
        let Some(event) = message.and_then(|m| m.event) else {
            let text =
                format!("the engine ended; dwcp-cli engine jobs {job} will tell, once it is back");
            return Err(Problem::new(Exit::Unreachable, text));
        };
        match event {
            Event::Started(started) => {
                eprintln!("job {}", started.job);
                job = started.job;
            }
            Event::Accepted(accepted) => {
                eprintln!("accepted: {} in {} mode", accepted.vm, accepted.mode);
                if until == Until::Accepted {
                    return Ok(Reached::Accepted(job));
                }
            }
            Event::Phase(phase) if phase.name.starts_with("round") => {}
            Event::Phase(phase) => eprintln!("{} at {:.0} ms", phase.name, phase.at_ms),
            Event::Progress(progress) => show(&progress, &mut printed),
            Event::Note(note) => eprintln!("{}", note.text),
            Event::Report(report) => return Ok(Reached::Ended(Box::new(report.into()))),
        }
    }
}

fn hung_up(job: &str) -> Problem {
    let text = format!("hung up; job {job} goes on: end it with dwcp-cli engine cancel {job}");
    Problem::new(Exit::Interrupted, text)
}

fn show(progress: &pb::Progress, printed: &mut Option<Instant>) {
    if printed.is_some_and(|at| at.elapsed() < LINE_INTERVAL) {
        return;
    }
    *printed = Some(Instant::now());
    let rest = progress.predicted_downtime_ms;
    let rest = rest.map_or_else(String::new, |ms| format!(", rest {ms:.0} ms if stopped"));
    eprintln!(
        "{}: {:.1} MB sent as {:.1} MB on {} streams, level {}, {:.1} MB left{rest}",
        progress.phase,
        progress.guest_bytes as f64 / MEGA,
        progress.wire_tx_bytes as f64 / MEGA,
        progress.streams,
        progress.level,
        progress.remaining_bytes as f64 / MEGA,
    );
}
