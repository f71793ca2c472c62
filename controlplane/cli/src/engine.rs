//! The commands that talk to one engine's door.

use std::path::Path;
use std::process::ExitCode;

use dwcp_proto::engine_v3 as pb;
use serde::Serialize;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::args::{EngineArgs, EngineCommand, Hash, MigrateArgs, Mode, OnStall, Poll, PrepareArgs};
use crate::door;
use crate::follow::{Reached, Until, follow};
use crate::jobs::{self, Job};
use crate::output::{Output, Table};
use crate::problem::{Exit, Problem};

/// Name of the service whose health is asked.
const SERVICE: &str = "dwcp.engine.v3.Engine";

/// Runs one command.
///
/// # Errors
/// Nobody answers, or the engine's refusal.
pub async fn run(args: EngineArgs, output: &Output) -> Result<ExitCode, Problem> {
    let socket = args.socket.unwrap_or_else(door::default_socket);
    match args.command {
        EngineCommand::Status => status(&socket, output).await?,
        EngineCommand::Jobs { job } => list(&socket, job, output).await?,
        EngineCommand::Prepare(args) => prepare(&socket, args, output).await?,
        EngineCommand::Migrate(args) => return migrate(&socket, *args, output).await,
        EngineCommand::Cancel { job } => cancel(&socket, job, output).await?,
        EngineCommand::SetRate { job, rate } => {
            let rate_bit_per_s = rate.0.map_or(0, |rate| rate.bit_per_s);
            set_rate(&socket, job, rate_bit_per_s, output).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct EngineStatus {
    status: &'static str,
    socket: String,
    running_sources: usize,
    running_targets: usize,
    jobs: usize,
}

async fn status(socket: &Path, output: &Output) -> Result<(), Problem> {
    let channel = door::connect(socket).await?;
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let health = HealthClient::new(channel.clone()).check(request).await?.into_inner();
    let mut engine = pb::engine_client::EngineClient::new(channel);
    let jobs = engine.status(pb::StatusRequest::default()).await?.into_inner().jobs;
    let running = |side| jobs.iter().filter(|job| job.running && job.side() == side).count();
    let shown = EngineStatus {
        status: match health.status() {
            ServingStatus::Serving => "serving",
            ServingStatus::NotServing => "ending",
            ServingStatus::Unknown | ServingStatus::ServiceUnknown => "unknown",
        },
        socket: socket.display().to_string(),
        running_sources: running(pb::Side::Source),
        running_targets: running(pb::Side::Target),
        jobs: jobs.len(),
    };
    output.show(&shown, |s| {
        Table::pairs(vec![
            ("status", s.status.to_owned()),
            ("socket", s.socket.clone()),
            ("running_sources", s.running_sources.to_string()),
            ("running_targets", s.running_targets.to_string()),
            ("jobs", s.jobs.to_string()),
        ])
    })
}

#[derive(Serialize)]
struct Jobs {
    jobs: Vec<Job>,
}

async fn list(socket: &Path, job: Option<String>, output: &Output) -> Result<(), Problem> {
    if job.as_deref() == Some("") {
        return Err(Problem::new(Exit::Usage, "an empty job id names no job"));
    }
    let request = pb::StatusRequest { job: job.unwrap_or_default() };
    let response = door::engine(socket).await?.status(request).await?.into_inner();
    let jobs = Jobs { jobs: response.jobs.into_iter().map(Job::from).collect() };
    output.show(&jobs, |jobs| jobs::table(&jobs.jobs))
}

#[derive(Serialize)]
struct Prepared {
    address: String,
    ticket: String,
    ticket_valid_s: u32,
}

async fn prepare(socket: &Path, args: PrepareArgs, output: &Output) -> Result<(), Problem> {
    use pb::prepare_target_request::Qemu;
    let qemu = args.qmp.map(Qemu::QmpSocket).or(args.launch.map(Qemu::LaunchProfile));
    let request = pb::PrepareTargetRequest { qemu, leave_paused: args.leave_paused };
    let response = door::engine(socket).await?.prepare_target(request).await?.into_inner();
    let prepared = Prepared {
        address: response.address,
        ticket: response.ticket,
        ticket_valid_s: response.ticket_valid_s,
    };
    output.show(&prepared, |p| {
        Table::pairs(vec![
            ("address", p.address.clone()),
            ("ticket", p.ticket.clone()),
            ("ticket_valid_s", p.ticket_valid_s.to_string()),
        ])
    })
}

#[derive(Serialize)]
struct Accepted {
    job: String,
}

async fn migrate(socket: &Path, args: MigrateArgs, output: &Output) -> Result<ExitCode, Problem> {
    // A check is over as soon as it is accepted: its report is the answer.
    let until = if args.wait || args.check { Until::Ended } else { Until::Accepted };
    let events = door::engine(socket).await?.run_source(request(args)).await?.into_inner();
    match follow(events, until).await? {
        Reached::Accepted(job) => {
            output.show(&Accepted { job }, |a| Table::lines(vec![a.job.clone()]))?;
        }
        Reached::Ended(report) => {
            output.show(&*report, |report| report.table())?;
            return Ok(report.exit_code());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn request(args: MigrateArgs) -> pb::RunSourceRequest {
    pb::RunSourceRequest {
        qmp_socket: args.qmp,
        target_address: args.to,
        ticket: args.ticket,
        mode: match args.mode {
            Mode::Auto => pb::Mode::Unspecified,
            Mode::Direct => pb::Mode::Direct,
            Mode::Plain => pb::Mode::Plain,
        }
        .into(),
        streams: args.streams.0,
        level: args.level.0,
        rate_bit_per_s: args.rate.map(|rate| rate.bit_per_s),
        max_downtime_ms: args.max_downtime_ms,
        timeout_s: args.timeout,
        link_timeout_s: args.link_timeout,
        pause_timeout_ms: args.pause_timeout_ms,
        on_stall: match args.on_stall {
            OnStall::Abort => pb::OnStall::Abort,
            OnStall::Wait => pb::OnStall::Wait,
            OnStall::Force => pb::OnStall::Force,
        }
        .into(),
        hash: match args.hash {
            Hash::Xxh3 => pb::Hash::Xxh3,
            Hash::Blake3 => pb::Hash::Blake3,
        }
        .into(),
        poll: match args.poll {
            Poll::Adaptive => pb::Poll::Unspecified,
            Poll::Spin => pb::Poll::Spin,
            Poll::Sleep => pb::Poll::Sleep,
        }
        .into(),
        check_only: args.check,
    }
}

#[derive(Serialize)]
struct Cancelling {
    job: String,
    phase: String,
}

async fn cancel(socket: &Path, job: String, output: &Output) -> Result<(), Problem> {
    let request = pb::CancelRequest { job: job.clone() };
    let phase = door::engine(socket).await?.cancel(request).await?.into_inner().phase;
    output.show(&Cancelling { job, phase }, |c| {
        Table::lines(vec![format!("{} asked to end in phase {}", c.job, c.phase)])
    })
}

#[derive(Serialize)]
struct Ceiling {
    job: String,
    rate_bit_per_s: u64,
}

async fn set_rate(
    socket: &Path,
    job: String,
    rate_bit_per_s: u64,
    output: &Output,
) -> Result<(), Problem> {
    let request = pb::SetRateRequest { job: job.clone(), rate_bit_per_s };
    door::engine(socket).await?.set_rate(request).await?;
    output.show(&Ceiling { job, rate_bit_per_s }, |c| {
        let rate = match c.rate_bit_per_s {
            0 => "no ceiling".to_owned(),
            rate => format!("{rate} bit/s"),
        };
        Table::lines(vec![format!("{} {rate}", c.job)])
    })
}
