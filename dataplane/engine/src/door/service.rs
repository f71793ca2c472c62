//! The calls of `dwcp.engine.v3.Engine`. Handlers check a request, hand it to threads that may block,
//! and turn the answer into messages; they hold no state of their own and touch no bytes of guests.

use std::collections::HashSet;
use std::sync::Arc;

use dwcp_proto::engine_v3 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert;
use super::jobs::{News, SourceJobs};
use super::orders::{self, Checks};
use super::status::status;
use crate::error::{Class, EngineError, Result};
use crate::qmp::Qmp;
use crate::records;
use crate::target::{Host, PreparedTarget, QemuSource, TICKET_VALID, check_waiting};

/// Events that may wait for a slow client; it misses later ones, but never the report.
const EVENTS_MAX: usize = 256;

/// The engine behind the door.
#[derive(Clone)]
pub struct Door {
    /// Source jobs.
    pub jobs: SourceJobs,
    /// Target jobs.
    pub host: Arc<Host>,
    /// What requests are checked against.
    pub checks: Arc<Checks>,
    /// Where sources send to.
    pub address: String,
}

type Answer<T> = std::result::Result<Response<T>, Status>;

/// Runs work that may block, and answers with its result.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(Response::new(value)),
        Ok(Err(error)) => Err(status(&error)),
        Err(_) => Err(Status::internal("this call broke; the engine goes on")),
    }
}

#[tonic::async_trait]
impl pb::engine_server::Engine for Door {
    async fn prepare_target(
        &self,
        request: Request<pb::PrepareTargetRequest>,
    ) -> Answer<pb::PrepareTargetResponse> {
        let (door, request) = (self.clone(), request.into_inner());
        blocking(move || {
            let target = door.checks.target(&request)?;
            check_ready(&target)?;
            let ticket = door.host.targets.prepare(target)?;
            let ticket_valid_s = TICKET_VALID.as_secs() as u32;
            Ok(pb::PrepareTargetResponse { address: door.address, ticket, ticket_valid_s })
        })
        .await
    }

    type RunSourceStream = ReceiverStream<std::result::Result<pb::RunSourceEvent, Status>>;

    async fn run_source(
        &self,
        request: Request<pb::RunSourceRequest>,
    ) -> Answer<Self::RunSourceStream> {
        let (door, request) = (self.clone(), request.into_inner());
        blocking(move || {
            let options = door.checks.source(&request)?;
            let (events, heard) = mpsc::channel(EVENTS_MAX);
            let _ = events.try_send(Ok(convert::started(options.job)));
            // A client that hung up or reads slowly must not hold the job up.
            let listener = move |news| match news {
                News::Event(event) => drop(events.try_send(Ok(convert::event(event)))),
                News::Ended(Ok(report)) => drop(events.blocking_send(Ok(convert::last(&report)))),
                News::Ended(Err(error)) => drop(events.blocking_send(Err(status(&error)))),
            };
            door.jobs.start(options, Arc::new(listener))?;
            Ok(ReceiverStream::new(heard))
        })
        .await
    }

    async fn cancel(&self, request: Request<pb::CancelRequest>) -> Answer<pb::CancelResponse> {
        let (door, request) = (self.clone(), request.into_inner());
        blocking(move || door.cancel_job(&request.job)).await
    }

    async fn set_rate(&self, request: Request<pb::SetRateRequest>) -> Answer<pb::SetRateResponse> {
        let (door, request) = (self.clone(), request.into_inner());
        blocking(move || {
            let bytes_per_s = orders::new_rate(request.rate_bit_per_s)?;
            door.jobs.set_rate(orders::job(&request.job)?, bytes_per_s)?;
            Ok(pb::SetRateResponse {})
        })
        .await
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        let (door, request) = (self.clone(), request.into_inner());
        blocking(move || door.tell(&request.job)).await
    }
}

/// A given QEMU must wait for a guest now; whether it is the right one shows when the job arrives.
fn check_ready(target: &PreparedTarget) -> Result<()> {
    match &target.qemu {
        QemuSource::Given(path) => check_waiting(&mut Qmp::connect(path)?),
        QemuSource::Launch(_) => Ok(()),
    }
}

impl Door {
    fn cancel_job(&self, text: &str) -> Result<pb::CancelResponse> {
        let job = orders::job(text)?;
        let source = self.jobs.cancel(job);
        // A guest that moves within this host has both ends here: the source's asks the other.
        if let Some(phase) = source {
            return Ok(pb::CancelResponse { phase });
        }
        if self.host.cancel(dwcp_wire::JobId(job.into_bytes())) {
            return Ok(pb::CancelResponse { phase: "target".to_owned() });
        }
        let known = self.tell(text)?;
        let states: Vec<&str> = known.jobs.iter().map(|job| job.state.as_str()).collect();
        let text = format!("job {job} does not run here any more: {}", states.join(", "));
        Err(EngineError::new(Class::Conflict, text))
    }

    fn tell(&self, job: &str) -> Result<pb::StatusResponse> {
        let wanted = match job {
            "" => None,
            text => Some(orders::job(text)?.to_string()),
        };
        let mut jobs = self.all_jobs()?;
        if let Some(wanted) = wanted {
            jobs.retain(|job| job.job == wanted);
            if jobs.is_empty() {
                let text = format!("job {wanted} is not known on this host");
                return Err(EngineError::new(Class::NotFound, text));
            }
        }
        Ok(pb::StatusResponse { jobs })
    }

    /// Running jobs, then those that ended lately, then what only records tell; each once a side.
    fn all_jobs(&self) -> Result<Vec<pb::Job>> {
        let running = self.jobs.running().into_iter();
        let mut jobs: Vec<pb::Job> =
            running.map(|(job, seen)| convert::running_source(job, seen)).collect();
        let arriving: HashSet<String> =
            self.host.running().iter().map(ToString::to_string).collect();
        let records = records::list(&self.checks.state)?;
        let is_target = |line: &records::JobLine| line.side == "target";
        let recorded: HashSet<&str> =
            records.iter().filter(|l| is_target(l)).map(|l| l.job.as_str()).collect();
        let unrecorded = arriving.iter().filter(|job| !recorded.contains(job.as_str()));
        jobs.extend(unrecorded.cloned().map(convert::running_target));
        jobs.extend(self.jobs.ended().into_iter().map(convert::ended_source));
        let sources: HashSet<String> = jobs
            .iter()
            .filter(|job| job.side() == pb::Side::Source)
            .map(|job| job.job.clone())
            .collect();
        for line in records {
            let target = is_target(&line);
            if target || !sources.contains(&line.job) {
                let running = target && arriving.contains(&line.job);
                jobs.push(convert::recorded(line, running));
            }
        }
        // Stable: within each half the order above stays.
        jobs.sort_by_key(|job| !job.running);
        Ok(jobs)
    }
}
