//! Jobs and reports as they are printed; keys as in `dwcp-engine send --json`, only ever added.

use std::process::ExitCode;

use dwcp_proto::engine_v3 as pb;
use serde::Serialize;

use crate::output::Table;
use crate::problem::Exit;

/// One job of a host.
#[derive(Debug, Serialize)]
pub struct Job {
    job: String,
    side: &'static str,
    vm: String,
    running: bool,
    state: String,
    reason: String,
    fence: String,
    progress: Option<Progress>,
    report: Option<Report>,
}

/// Counters of a running job.
#[derive(Debug, Serialize)]
struct Progress {
    phase: String,
    guest_bytes: u64,
    wire_tx_bytes: u64,
    wire_rx_bytes: u64,
    resent_bytes: u64,
    remaining_bytes: u64,
    rounds: u64,
    dirty_bytes_per_s: u64,
    rtt_us: u64,
    streams: u32,
    level: i32,
    pages: Pages,
    predicted_downtime_ms: Option<f64>,
}

/// Pages by how they travelled.
#[derive(Debug, Default, Serialize)]
struct Pages {
    zero: u64,
    duplicate: u64,
    known: u64,
    delta: u64,
    zstd: u64,
    raw: u64,
}

#[derive(Debug, Serialize)]
struct CpuSeconds {
    source: f64,
    target: f64,
}

#[derive(Debug, Serialize)]
struct Phase {
    name: String,
    at_ms: f64,
}

/// The receipt of a job.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    job: String,
    vm: String,
    epoch: u64,
    status: &'static str,
    phase: String,
    reason: String,
    total_ms: f64,
    downtime_ms: f64,
    decision_ms: f64,
    wire_tx_bytes: u64,
    wire_rx_bytes: u64,
    wire_bytes: u64,
    guest_bytes: u64,
    pages: Pages,
    rounds: u64,
    streams: u32,
    cpu_s: CpuSeconds,
    hash_alg: String,
    hash_root: String,
    hash_root_match: Option<bool>,
    phases: Vec<Phase>,
    mode: String,
    tls: String,
    resent_bytes: u64,
    #[serde(skip)]
    exit_code: u8,
}

impl From<pb::Job> for Job {
    fn from(job: pb::Job) -> Self {
        Self {
            side: match job.side() {
                pb::Side::Source => "source",
                pb::Side::Target => "target",
                pb::Side::Unspecified => "",
            },
            job: job.job,
            vm: job.vm,
            running: job.running,
            state: job.state,
            reason: job.reason,
            fence: job.fence,
            progress: job.progress.map(Progress::from),
            report: job.report.map(Report::from),
        }
    }
}

impl From<pb::Progress> for Progress {
    fn from(p: pb::Progress) -> Self {
        Self {
            phase: p.phase,
            guest_bytes: p.guest_bytes,
            wire_tx_bytes: p.wire_tx_bytes,
            wire_rx_bytes: p.wire_rx_bytes,
            resent_bytes: p.resent_bytes,
            remaining_bytes: p.remaining_bytes,
            rounds: p.rounds,
            dirty_bytes_per_s: p.dirty_bytes_per_s,
            rtt_us: p.rtt_us,
            streams: p.streams,
            level: p.level,
            pages: p.pages.unwrap_or_default().into(),
            predicted_downtime_ms: p.predicted_downtime_ms,
        }
    }
}

impl From<pb::Pages> for Pages {
    fn from(pages: pb::Pages) -> Self {
        let pb::Pages { zero, duplicate, known, delta, zstd, raw } = pages;
        Self { zero, duplicate, known, delta, zstd, raw }
    }
}

impl From<pb::Report> for Report {
    fn from(r: pb::Report) -> Self {
        let phases = r.phases.iter();
        Self {
            status: status_word(r.status()),
            schema: r.schema,
            phases: phases.map(|p| Phase { name: p.name.clone(), at_ms: p.at_ms }).collect(),
            job: r.job,
            vm: r.vm,
            epoch: r.epoch,
            phase: r.phase,
            reason: r.reason,
            total_ms: r.total_ms,
            downtime_ms: r.downtime_ms,
            decision_ms: r.decision_ms,
            wire_tx_bytes: r.wire_tx_bytes,
            wire_rx_bytes: r.wire_rx_bytes,
            wire_bytes: r.wire_bytes,
            guest_bytes: r.guest_bytes,
            pages: r.pages.unwrap_or_default().into(),
            rounds: r.rounds,
            streams: r.streams,
            cpu_s: CpuSeconds { source: r.cpu_source_s, target: r.cpu_target_s },
            hash_alg: r.hash_alg,
            hash_root: r.hash_root,
            hash_root_match: r.hash_root_match,
            mode: r.mode,
            tls: r.tls,
            resent_bytes: r.resent_bytes,
            exit_code: u8::try_from(r.exit_code).unwrap_or(Exit::Failed as u8),
        }
    }
}

fn status_word(status: pb::JobOutcome) -> &'static str {
    match status {
        pb::JobOutcome::Completed => "completed",
        pb::JobOutcome::Aborted => "aborted",
        pb::JobOutcome::InDoubt => "in_doubt",
        pb::JobOutcome::Refused | pb::JobOutcome::Unspecified => "refused",
    }
}

impl Report {
    /// What to exit with, as the engine says: its own codes are ours.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_code)
    }

    /// The receipt for people.
    pub fn table(&self) -> Table {
        let memory = match self.hash_root_match {
            Some(true) => "identical on both hosts",
            Some(false) => "DIFFERENT",
            None => "not compared",
        };
        let ratio = self.guest_bytes as f64 / self.wire_bytes.max(1) as f64;
        let mut pairs = vec![("job", self.job.clone()), ("status", self.status.to_owned())];
        if !self.reason.is_empty() {
            pairs.push(("reason", self.reason.clone()));
        }
        if self.status != "refused" {
            pairs.extend([
                ("vm", self.vm.clone()),
                ("total_ms", format!("{:.0}", self.total_ms)),
                ("downtime_ms", format!("{:.0}", self.downtime_ms)),
                ("guest_bytes", self.guest_bytes.to_string()),
                ("wire_bytes", format!("{} ({ratio:.1} : 1)", self.wire_bytes)),
                ("rounds", self.rounds.to_string()),
                ("memory", format!("{memory} ({})", self.hash_alg)),
                ("tls", self.tls.clone()),
            ]);
        }
        Table::pairs(pairs)
    }
}

/// Jobs for people.
pub fn table(jobs: &[Job]) -> Table {
    let mut table = Table::new(&["job", "side", "state", "vm", "fence", "reason"]);
    for job in jobs {
        let state = match job.running {
            true => format!("running: {}", job.state),
            false => job.state.clone(),
        };
        table.row(vec![
            job.job.clone(),
            job.side.to_owned(),
            state,
            job.vm.clone(),
            job.fence.clone(),
            job.reason.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: pb::JobOutcome, exit_code: u32) -> Report {
        pb::Report { status: status.into(), exit_code, ..Default::default() }.into()
    }

    #[test]
    fn a_report_has_the_keys_of_the_contract() {
        let json = serde_json::to_value(report(pb::JobOutcome::Completed, 0)).unwrap();
        for key in [
            "schema",
            "job",
            "vm",
            "epoch",
            "status",
            "phase",
            "reason",
            "total_ms",
            "downtime_ms",
            "decision_ms",
            "wire_tx_bytes",
            "wire_rx_bytes",
            "wire_bytes",
            "guest_bytes",
            "pages",
            "rounds",
            "streams",
            "cpu_s",
            "hash_alg",
            "hash_root",
            "hash_root_match",
            "phases",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["pages"]["zero"], 0);
    }

    #[test]
    fn the_engine_says_what_to_exit_with() {
        let exit = |status, code| format!("{:?}", report(status, code).exit_code());
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(exit(pb::JobOutcome::Completed, 0), code(0));
        assert_eq!(exit(pb::JobOutcome::Aborted, 130), code(130));
        assert_eq!(exit(pb::JobOutcome::InDoubt, 9), code(9));
        assert_eq!(
            exit(pb::JobOutcome::Aborted, 256),
            code(1),
            "what is no exit code is a failure"
        );
    }
}
