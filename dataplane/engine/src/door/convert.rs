//! Our values as the contract's messages.

use dwcp_proto::engine_v3 as pb;
use pb::run_source_event::Event as Sent;

use super::jobs::{Ended, Seen};
use crate::error::Class;
use crate::progress::{Event, Snapshot};
use crate::records::JobLine;
use crate::report::{PageKinds, Report, Status};

/// One event of a job's stream.
pub fn event(event: Event) -> pb::RunSourceEvent {
    let sent = match event {
        Event::Accepted { vm, epoch, mode, streams, fence: _ } => {
            Sent::Accepted(pb::Accepted { vm, epoch, mode, streams })
        }
        Event::Phase { name, at_ms } => Sent::Phase(pb::PhaseBegan { name, at_ms }),
        Event::Counters(snapshot) => Sent::Progress(progress(&snapshot)),
        Event::Note(text) => Sent::Note(pb::Note { text }),
    };
    pb::RunSourceEvent { event: Some(sent) }
}

/// The first event of a job's stream.
pub fn started(job: uuid::Uuid) -> pb::RunSourceEvent {
    let started = pb::Started { job: job.to_string() };
    pb::RunSourceEvent { event: Some(Sent::Started(started)) }
}

/// The last event of a job's stream.
pub fn last(ended: &Report) -> pb::RunSourceEvent {
    pb::RunSourceEvent { event: Some(Sent::Report(report(ended))) }
}

/// A source job that runs here.
pub fn running_source(job: uuid::Uuid, seen: Seen) -> pb::Job {
    pb::Job {
        progress: seen.snapshot.as_ref().map(progress),
        job: job.to_string(),
        side: pb::Side::Source.into(),
        vm: seen.vm,
        running: true,
        state: seen.phase,
        fence: seen.fence,
        ..Default::default()
    }
}

/// A source job that ended in this daemon's life.
pub fn ended_source(ended: Ended) -> pb::Job {
    let mut job = pb::Job {
        job: ended.job.to_string(),
        side: pb::Side::Source.into(),
        vm: ended.seen.vm,
        fence: ended.seen.fence,
        ..Default::default()
    };
    match ended.result {
        Ok(receipt) => {
            job.vm.clone_from(&receipt.vm);
            job.state = match (receipt.status, receipt.class) {
                (Status::Refused, None) => "checked".to_owned(),
                (status, _) => status.to_string(),
            };
            job.reason.clone_from(&receipt.reason);
            job.report = Some(report(&receipt));
        }
        Err(reason) => {
            job.state = Status::Refused.to_string();
            job.reason = reason;
        }
    }
    job
}

/// A target job that runs here and has no record yet.
pub fn running_target(job: String) -> pb::Job {
    let state = "preparing".to_owned();
    pb::Job { job, side: pb::Side::Target.into(), running: true, state, ..Default::default() }
}

/// A job that this host has a record of.
pub fn recorded(line: JobLine, running: bool) -> pb::Job {
    let side = if line.side == "source" { pb::Side::Source } else { pb::Side::Target };
    pb::Job {
        job: line.job,
        side: side.into(),
        vm: line.vm,
        running,
        state: line.state,
        fence: line.fence,
        ..Default::default()
    }
}

fn progress(snapshot: &Snapshot) -> pb::Progress {
    let (counters, sample) = (&snapshot.counters, &snapshot.sample);
    pb::Progress {
        phase: snapshot.phase.clone(),
        guest_bytes: counters.guest_bytes,
        wire_tx_bytes: counters.wire_tx_bytes,
        wire_rx_bytes: counters.wire_rx_bytes,
        resent_bytes: counters.resent_bytes,
        remaining_bytes: sample.remaining_bytes,
        rounds: sample.rounds,
        dirty_bytes_per_s: sample.dirty_bytes_per_s,
        rtt_us: counters.rtt_us,
        streams: counters.streams,
        level: counters.level,
        pages: Some(pages(counters.pages)),
        predicted_downtime_ms: snapshot.predicted_downtime_ms,
    }
}

fn pages(kinds: PageKinds) -> pb::Pages {
    let PageKinds { zero, duplicate, known, delta, zstd, raw } = kinds;
    pb::Pages { zero, duplicate, known, delta, zstd, raw }
}

fn outcome(status: Status) -> pb::JobOutcome {
    match status {
        Status::Completed => pb::JobOutcome::Completed,
        Status::Aborted => pb::JobOutcome::Aborted,
        Status::InDoubt => pb::JobOutcome::InDoubt,
        Status::Refused => pb::JobOutcome::Refused,
    }
}

/// A job that did not start has no report, so that one which was refused without a reason is a check.
fn exit_code(report: &Report) -> u32 {
    match (report.status, report.class) {
        (Status::Completed, _) | (Status::Refused, None) => 0,
        (_, class) => class.unwrap_or(Class::Failed) as u32,
    }
}

fn report(report: &Report) -> pb::Report {
    let phases = report.phases.iter();
    pb::Report {
        schema: report.schema,
        job: report.job.clone(),
        vm: report.vm.clone(),
        epoch: report.epoch,
        status: outcome(report.status).into(),
        phase: report.phase.clone(),
        reason: report.reason.clone(),
        total_ms: report.total_ms,
        downtime_ms: report.downtime_ms,
        decision_ms: report.decision_ms,
        wire_tx_bytes: report.wire_tx_bytes,
        wire_rx_bytes: report.wire_rx_bytes,
        wire_bytes: report.wire_bytes,
        guest_bytes: report.guest_bytes,
        pages: Some(pages(report.pages)),
        rounds: report.rounds,
        streams: report.streams,
        cpu_source_s: report.cpu_s.source,
        cpu_target_s: report.cpu_s.target,
        hash_alg: report.hash_alg.clone(),
        hash_root: report.hash_root.clone(),
        hash_root_match: report.hash_root_match,
        phases: phases.map(|p| pb::PhaseBegan { name: p.name.clone(), at_ms: p.at_ms }).collect(),
        mode: report.mode.clone(),
        tls: report.tls.clone(),
        resent_bytes: report.resent_bytes,
        exit_code: exit_code(report),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: Status, class: Option<Class>) -> pb::Job {
        let job = uuid::Uuid::nil();
        let mut receipt = Report::new(&job.to_string());
        (receipt.status, receipt.class) = (status, class);
        ended_source(Ended { job, seen: Seen::default(), result: Ok(receipt) })
    }

    #[test]
    fn how_a_job_ended_is_its_state_and_its_exit_code() {
        for (status, class, state, exit_code) in [
            (Status::Completed, None, "completed", 0),
            (Status::Refused, None, "checked", 0),
            (Status::Aborted, Some(Class::Interrupted), "aborted", 130),
            (Status::Aborted, None, "aborted", 1),
            (Status::InDoubt, Some(Class::InDoubt), "in_doubt", 9),
        ] {
            let job = ended(status, class);
            assert_eq!(job.state, state);
            assert_eq!(job.report.unwrap().exit_code, exit_code, "{state}");
        }
    }

    #[test]
    fn a_job_that_did_not_start_tells_why() {
        let result = Err("no such guest".to_owned());
        let job = ended_source(Ended { job: uuid::Uuid::nil(), seen: Seen::default(), result });
        assert_eq!((job.state.as_str(), job.reason.as_str()), ("refused", "no such guest"));
        assert!(job.report.is_none() && !job.running);
    }
}
