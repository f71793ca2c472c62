//! The target side: `receive`. One listener takes the streams of all jobs; each job prepares a QEMU,
//! takes the guest over and decides its outcome in this host's ledger. Threads per connection attempt
//! are bounded in number and time.

mod apply;
mod execute;
mod incoming;
mod job;
mod launch;
mod ledger;
mod memory;
mod prepared;
mod qemu;
mod recover;
mod return_path;
mod skeleton;

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use dwcp_handover::{AbortReason, Outcome};
use dwcp_hostmem::{Arena, HugePages};
use dwcp_tcp::{Endpoint, EndpointConfig, handshake};
use dwcp_wire::{
    ControlMessage, Epoch, Features, Hello, HelloReply, JobId, PAYLOAD_MAX, Purpose, RailId,
    ReasonCode,
};
use serde::Serialize;

use crate::ask;
use crate::content::ContentStore;
use crate::error::{Class, Doing, EngineError, Result};
use crate::ipc::Poll;
use crate::outcome;
use crate::signals::Interrupts;
use crate::store::Store;

use incoming::Incoming;
use job::JobCommand;
pub use launch::LaunchFile;
pub use ledger::{DurableLedger, load, read_all};
pub use memory::ram_dir;
pub use prepared::{PreparedTarget, TICKET_VALID, Targets};
pub use qemu::check_waiting;
pub use recover::{recover, settle};

/// Slices a source may have in flight: what a job's arena here holds.
pub const WINDOW: u32 = 48;
/// Slices a target may have in flight towards the source: control messages and answers.
pub const SOURCE_WINDOW: u32 = 8;
/// Silence after which a stream counts as dead. Long: on a host whose cores are all taken a poll loop
/// may not run for seconds, and the kernel's own time-out finds a broken path as well.
pub const STALL_NS: u64 = 8_000_000_000;
/// Jobs at a time.
const JOBS_MAX: usize = 16;
/// Handshakes at a time.
const HANDSHAKES_MAX: usize = 64;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the accept loop looks at the signals.
const ACCEPT_POLL: Duration = Duration::from_millis(20);
/// How long a job that was cancelled may take to end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Fact that asks for the preflight alone.
pub const CHECK_FACT: &str = "check-only";
/// Fact that refuses the plain mode.
pub const DIRECT_ONLY_FACT: &str = "direct-only";
/// Fact with the ticket of a prepared target.
pub const TICKET_FACT: &str = "ticket";
/// Fact of the target's word: pages may be asked for by their BLAKE3 hash.
pub const STORE_FACT: &str = "content-store";
/// Fact with the bytes of guest memory that really exist at the source.
pub const RESIDENT_FACT: &str = "resident-bytes";

/// Where target QEMUs come from.
#[derive(Debug)]
pub enum QemuSource {
    /// One that waits at this monitor; it serves one job.
    Given(PathBuf),
    /// A fresh one for every job.
    Launch(LaunchFile),
}

/// How a finished job looked from here.
#[derive(Debug, Clone, Serialize)]
pub struct JobSummary {
    /// Version of these keys.
    pub schema: u32,
    /// The job.
    pub job: String,
    /// The guest's name.
    pub vm: String,
    /// Its fencing token, 0 when it was refused.
    pub epoch: u64,
    /// `completed`, `aborted`, `refused`, `checked` or `in_doubt`.
    pub status: String,
    /// How it arrived, or why not.
    pub reason: String,
    /// Bytes received on all streams.
    pub rx_bytes: u64,
    /// Pages written to guest memory.
    pub pages: u64,
    /// CPU seconds of this process meanwhile.
    pub cpu_s: f64,
}

impl JobSummary {
    fn new(job: JobId) -> Self {
        Self {
            schema: crate::report::SCHEMA,
            job: job.to_string(),
            vm: String::new(),
            epoch: 0,
            status: "refused".to_owned(),
            reason: String::new(),
            rx_bytes: 0,
            pages: 0,
            cpu_s: 0.0,
        }
    }
}

/// What all jobs of one `receive` share.
pub struct Host {
    /// What jobs arrive in.
    pub targets: Targets,
    /// Decisions.
    pub ledger: DurableLedger,
    /// Folder for RAM files, when we launch.
    pub ram_dir: Option<PathBuf>,
    /// Folder for sockets.
    pub run_dir: PathBuf,
    /// User of launched QEMUs.
    pub user: Option<String>,
    /// Longest time without connections before an undecided job is aborted.
    pub link_timeout: Duration,
    /// How poll loops wait.
    pub poll: Poll,
    /// Where content lies that need not be sent.
    pub content: Option<ContentStore>,
    jobs: Mutex<HashMap<JobId, RunningJob>>,
    handshakes: AtomicUsize,
    summaries: (Sender<JobSummary>, Receiver<JobSummary>),
}

struct RunningJob {
    token: [u8; 16],
    commands: Sender<JobCommand>,
}

/// Settings of a [`Host`].
pub struct HostConfig {
    /// What jobs arrive in.
    pub targets: Targets,
    /// Folder of records.
    pub store: Store,
    /// Folder for RAM files, when we launch.
    pub ram_dir: Option<PathBuf>,
    /// Folder for sockets.
    pub run_dir: PathBuf,
    /// User of launched QEMUs.
    pub user: Option<String>,
    /// Longest time without connections.
    pub link_timeout: Duration,
    /// How poll loops wait.
    pub poll: Poll,
    /// Where content lies that need not be sent.
    pub content: Option<ContentStore>,
}

impl Host {
    /// Takes the state folder and settles what an earlier process left undecided there.
    ///
    /// # Errors
    /// The folder is taken or damaged.
    pub fn new(config: HostConfig) -> Result<Arc<Self>> {
        let host = Arc::new(Self {
            targets: config.targets,
            ledger: DurableLedger::open(config.store)?,
            ram_dir: config.ram_dir,
            run_dir: config.run_dir,
            user: config.user,
            link_timeout: config.link_timeout,
            poll: config.poll,
            content: config.content,
            jobs: Mutex::default(),
            handshakes: AtomicUsize::new(0),
            summaries: bounded(JOBS_MAX),
        });
        recover(&host.ledger)?;
        Ok(host)
    }

    /// Serves streams until `once` is satisfied or the user interrupts; finished jobs go to `show`.
    ///
    /// # Errors
    /// The listener fails.
    pub fn serve(
        self: &Arc<Self>,
        listener: &TcpListener,
        once: bool,
        interrupts: &Interrupts,
        mut show: impl FnMut(&JobSummary),
    ) -> Result<Option<JobSummary>> {
        listener.set_nonblocking(true).doing(|| "listening".to_owned())?;
        loop {
            match listener.accept() {
                Ok((stream, peer)) => self.greet(stream, peer),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(ACCEPT_POLL);
                }
                Err(e) if is_passing(&e) => std::thread::sleep(ACCEPT_POLL),
                Err(e) => return Err(EngineError::io("accepting connections", e)),
            }
            while let Ok(summary) = self.summaries.1.try_recv() {
                show(&summary);
                if once && summary.status != "checked" {
                    return Ok(Some(summary));
                }
            }
            if interrupts.count() > 0 {
                return self.cancel_all(show);
            }
        }
    }

    /// The jobs that run now.
    #[must_use]
    pub fn running(&self) -> Vec<JobId> {
        self.jobs().keys().copied().collect()
    }

    /// Asks a job to end; false when none of that id runs here.
    pub fn cancel(&self, job: JobId) -> bool {
        let commands = self.jobs().get(&job).map(|job| job.commands.clone());
        commands.is_some_and(|c| c.send_timeout(JobCommand::Cancel, ask::ASK_TIMEOUT).is_ok())
    }

    fn cancel_all(&self, mut show: impl FnMut(&JobSummary)) -> Result<Option<JobSummary>> {
        let mut open = 0;
        for job in self.jobs().values() {
            let _ = job.commands.try_send(JobCommand::Cancel);
            open += 1;
        }
        let mut last = None;
        for _ in 0..open {
            let Ok(summary) = self.summaries.1.recv_timeout(CANCEL_TIMEOUT) else { break };
            show(&summary);
            last = Some(summary);
        }
        Ok(last)
    }

    /// Hears a new connection out, in a thread of its own.
    fn greet(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if self.handshakes.fetch_add(1, Relaxed) >= HANDSHAKES_MAX {
            self.handshakes.fetch_sub(1, Relaxed);
            return;
        }
        let host = Arc::clone(self);
        let greeted = spawn("handshake", move || {
            if let Err(e) = host.handshake(stream) {
                eprintln!("{peer}: {e}");
            }
            host.handshakes.fetch_sub(1, Relaxed);
        });
        if greeted.is_err() {
            self.handshakes.fetch_sub(1, Relaxed);
        }
    }

    fn handshake(self: &Arc<Self>, mut stream: TcpStream) -> Result<()> {
        let hello = match handshake::read_hello(&mut stream, HANDSHAKE_TIMEOUT) {
            Ok(hello) => hello,
            Err(e) => {
                // A peer of another major learns why; to anything else these bytes mean nothing.
                refuse(&mut stream, ReasonCode::UnsupportedVersion, &e.to_string());
                return Err(EngineError::new(Class::Failed, format!("handshake: {e}")));
            }
        };
        let features = match Features::SUPPORTED.agree(hello.features) {
            Ok(features) => features,
            Err(e) => {
                refuse(&mut stream, ReasonCode::UnsupportedFeature, &e.to_string());
                return Err(EngineError::new(Class::Conflict, e.to_string()));
            }
        };
        match hello.purpose {
            Purpose::Open => self.open(stream, &hello, features),
            Purpose::Join => self.join(stream, &hello, features),
            Purpose::Query => self.answer(stream, &hello, features),
        }
    }

    fn open(
        self: &Arc<Self>,
        mut stream: TcpStream,
        hello: &Hello,
        features: Features,
    ) -> Result<()> {
        let (commands_in, commands) = bounded(64);
        let token = uuid::Uuid::new_v4().into_bytes();
        let known = self.ledger.get(dwcp_handover::JobId(hello.job.0)).is_some();
        {
            let mut jobs = self.jobs();
            let single = self.targets.is_single() && !jobs.is_empty();
            if single || jobs.len() >= JOBS_MAX {
                drop(jobs);
                refuse(
                    &mut stream,
                    ReasonCode::Busy,
                    "this receive has as many jobs as it can take",
                );
                return Ok(());
            }
            if known || jobs.contains_key(&hello.job) {
                drop(jobs);
                refuse(&mut stream, ReasonCode::Conflict, "a job of that id exists already");
                return Ok(());
            }
            jobs.insert(hello.job, RunningJob { token, commands: commands_in });
        }
        let started = self.start_job(stream, hello, features, token, commands);
        if started.is_err() {
            self.jobs().remove(&hello.job);
        }
        started
    }

    fn start_job(
        self: &Arc<Self>,
        mut stream: TcpStream,
        hello: &Hello,
        features: Features,
        token: [u8; 16],
        commands: Receiver<JobCommand>,
    ) -> Result<()> {
        let arena = Arena::new(WINDOW as usize, dwcp_tcp::SLOT_BYTES, HugePages::Auto)
            .map_err(|e| EngineError::new(Class::Resource, format!("the arena: {e}")));
        let arena = match arena {
            Ok(arena) => arena,
            Err(e) => {
                refuse(&mut stream, ReasonCode::NoMemory, &e.to_string());
                return Err(e);
            }
        };
        let mut config = EndpointConfig::new(hello.job.tag(), Epoch(0), arena);
        config.session.window_in_slices = WINDOW;
        config.session.window_out_slices = SOURCE_WINDOW;
        config.session.stall_ns = STALL_NS;
        config.poll = self.poll.to_tcp();
        "dwcp-target".clone_into(&mut config.label);
        let (endpoint, net) = Endpoint::start(config)
            .map_err(|e| EngineError::new(Class::Resource, format!("the network loop: {e}")))?;
        let reply = HelloReply::accepted(features, WINDOW, PAYLOAD_MAX, token);
        handshake::reply(&mut stream, &reply, HANDSHAKE_TIMEOUT)
            .map_err(|e| EngineError::new(Class::Unreachable, e.to_string()))?;
        endpoint
            .add_rail(stream, hello.rail)
            .map_err(|e| EngineError::new(Class::Unreachable, e.to_string()))?;
        let incoming = Incoming { host: Arc::clone(self), job: hello.job, endpoint, net, commands };
        let (host, job) = (Arc::clone(self), hello.job);
        spawn("job", move || {
            let summary = incoming.run();
            host.jobs().remove(&job);
            let _ = host.summaries.0.send_timeout(summary, CANCEL_TIMEOUT);
        })
    }

    fn join(&self, mut stream: TcpStream, hello: &Hello, features: Features) -> Result<()> {
        let commands = match self.jobs().get(&hello.job) {
            None => Err((ReasonCode::UnknownJob, "no such job runs here")),
            Some(job) if job.token != hello.token => {
                Err((ReasonCode::BadToken, "the token is not this job's"))
            }
            Some(job) => Ok(job.commands.clone()),
        };
        let commands = match commands {
            Ok(commands) => commands,
            Err((code, text)) => {
                refuse(&mut stream, code, text);
                return Ok(());
            }
        };
        let reply = HelloReply::accepted(features, WINDOW, PAYLOAD_MAX, hello.token);
        handshake::reply(&mut stream, &reply, HANDSHAKE_TIMEOUT)
            .map_err(|e| EngineError::new(Class::Unreachable, e.to_string()))?;
        let _ = commands.try_send(JobCommand::Rail(stream, RailId(hello.rail.0)));
        Ok(())
    }

    /// One question about a job's outcome, one answer.
    fn answer(&self, mut stream: TcpStream, hello: &Hello, features: Features) -> Result<()> {
        let reply = HelloReply::accepted(features, 1, PAYLOAD_MAX, hello.token);
        handshake::reply(&mut stream, &reply, HANDSHAKE_TIMEOUT)
            .map_err(|e| EngineError::new(Class::Unreachable, e.to_string()))?;
        let job = dwcp_handover::JobId(hello.job.0);
        let abort = match ask::read_message(&mut stream, hello.job)? {
            ControlMessage::RequestAbort { reason, .. } => {
                Some(AbortReason::from_name(&reason).unwrap_or(AbortReason::SourceAsked))
            }
            _ => None,
        };
        let running = self.jobs().get(&hello.job).map(|job| job.commands.clone());
        let outcome = match running {
            Some(commands) => self.ask_job(&commands, abort),
            None => recover::recorded_outcome(&self.ledger, job)?,
        };
        let message = ControlMessage::Outcome(outcome::to_wire(job, outcome));
        ask::write_message(&mut stream, hello.job, &message)
    }

    fn ask_job(&self, commands: &Sender<JobCommand>, abort: Option<AbortReason>) -> Outcome {
        let (answer_in, answer) = bounded(1);
        let command = match abort {
            None => JobCommand::Ask(answer_in),
            Some(reason) => JobCommand::RequestAbort(reason, answer_in),
        };
        let _ = commands.send_timeout(command, ask::ASK_TIMEOUT);
        answer.recv_timeout(ask::ASK_TIMEOUT).unwrap_or(Outcome::Undecided)
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, RunningJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(stream: &mut TcpStream, code: ReasonCode, text: &str) {
    let _ = handshake::reply(stream, &HelloReply::refused(code, text), HANDSHAKE_TIMEOUT);
}

/// Errors of one connection attempt, not of the listener.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(|_| ())
        .doing(|| "starting a thread".to_owned())
}
