//! The engine as a daemon: gRPC on a local socket for those who may use it, streams of arriving guests
//! on one TCP port. tokio lives in this module alone; jobs run in threads of their own, and generated
//! types end in `orders` and `convert`. It must not know how a job moves its bytes.

mod convert;
mod jobs;
mod names;
mod orders;
mod service;
mod socket;
mod status;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dwcp_proto::engine_v3::engine_server::EngineServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use self::jobs::SourceJobs;
use self::names::Folder;
use self::orders::Checks;
use self::service::Door;
use self::socket::DoorSocket;
use crate::cli::{ServeArgs, checked_address};
use crate::content::ContentStore;
use crate::error::{Class, Doing, EngineError, Result};
use crate::records;
use crate::signals::Interrupts;
use crate::store::{Store, default_run_dir, default_state_dir};
use crate::target::{Host, HostConfig, Targets, ram_dir};

/// Threads of the door; it moves no bytes.
const WORKERS: usize = 1;
/// Calls that may block at a time: QMP, name resolution, files.
const BLOCKING_MAX: usize = 16;
/// Connections accepted and not yet taken by the server.
const ACCEPTED_MAX: usize = 16;
/// How long to wait after the door's listener failed, as it does when no file descriptors are left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often signals are looked at.
const SIGNAL_POLL: Duration = Duration::from_millis(20);
/// How often those who wait for our end hear what we wait for.
const DRAIN_NOTE_INTERVAL: Duration = Duration::from_secs(5);
/// How long open calls may take to end once no job runs.
const HANG_UP_LIMIT: Duration = Duration::from_secs(1);

/// How a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// No job is left behind.
    Settled,
    /// It was made to end while the outcome of a job was not known.
    InDoubt,
}

/// Checked settings.
#[derive(Debug)]
pub struct Config {
    socket: PathBuf,
    listen: SocketAddr,
    advertise: Option<String>,
    checks: Checks,
    args: ServeArgs,
}

impl Config {
    /// Checks the command line.
    ///
    /// # Errors
    /// A flag that is wrong, or a folder that is not there.
    pub fn checked(args: ServeArgs) -> Result<Self> {
        if let Some(address) = &args.grpc {
            let text = format!(
                "--grpc {address}: the door opens on TCP with mutual TLS only, which this version has not; use --socket, over SSH from elsewhere"
            );
            return Err(EngineError::new(Class::Trust, text));
        }
        let listen = checked_address("--listen", &args.listen, args.tls)?;
        if listen.ip().is_unspecified() && args.advertise.is_none() {
            let text = format!(
                "--listen {listen} takes every address of this host, and sources must be told one: give --advertise HOST:PORT"
            );
            return Err(EngineError::new(Class::Usage, text));
        }
        if let Some(advertise) = &args.advertise {
            checked_address("--advertise", advertise, args.tls)?;
        }
        let checks = Checks {
            qmp: Folder::open("--qmp-dir", args.qmp_dir.as_deref())?,
            launch: Folder::open("--launch-dir", args.launch_dir.as_deref())?,
            tls: args.tls,
            state: args.state.clone().unwrap_or_else(default_state_dir),
        };
        let socket = args.socket.clone();
        let socket = socket.unwrap_or_else(|| default_run_dir().join("engine.sock"));
        Ok(Self { socket, listen, advertise: args.advertise.clone(), checks, args })
    }
}

/// Serves until a signal comes and the jobs have ended.
///
/// # Errors
/// A port, socket or folder that is taken; nothing was started then.
pub fn serve(config: Config, signals: &Interrupts) -> Result<Served> {
    let socket = DoorSocket::bind(&config.socket)?;
    let listener = TcpListener::bind(config.listen).map_err(|source| {
        EngineError::io(format!("listening on --listen {}", config.listen), source)
    })?;
    let bound = listener.local_addr().doing(|| "asking for the listening address".to_owned())?;
    let host = new_host(&config)?;
    let jobs = SourceJobs::default();
    let door = Door {
        jobs: jobs.clone(),
        host: Arc::clone(&host),
        address: config.advertise.unwrap_or_else(|| bound.to_string()),
        checks: Arc::new(config.checks),
    };
    jobs.take_up(&door.checks.state)?;
    let state = door.checks.state.clone();
    let receiver = receive(host, listener, signals.clone())?;
    let open = || {
        records::announce(&state, config.args.ready_file.as_deref(), bound)?;
        eprintln!("serving on {}, receiving on {bound}", config.socket.display());
        Ok(())
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_MAX)
        .thread_name("door")
        .enable_all()
        .build()
        .doing(|| "starting the door's threads".to_owned())?;
    let served = runtime.block_on(run(door, &socket, signals, open));
    // A blocked call ends with the process.
    runtime.shutdown_background();
    let served = served?;
    if served == Served::Settled {
        let _ = receiver.join();
    }
    Ok(served)
}

fn new_host(config: &Config) -> Result<Arc<Host>> {
    let run_dir = default_run_dir().join("receive");
    std::fs::create_dir_all(&run_dir).doing(|| format!("creating {}", run_dir.display()))?;
    let ram_dir = match config.checks.launch.is_given() {
        true => Some(ram_dir(config.args.arrival.ram_dir.as_deref())?),
        false => None,
    };
    Host::new(HostConfig {
        targets: Targets::by_ticket(),
        store: Store::open(&config.checks.state)?,
        ram_dir,
        run_dir,
        user: config.args.arrival.user.clone(),
        link_timeout: Duration::from_secs(config.args.arrival.link_timeout),
        poll: config.args.arrival.poll,
        content: config
            .args
            .arrival
            .store
            .as_deref()
            .map(|dir| ContentStore::new(dir, &config.args.arrival.tenant.tenant))
            .transpose()?,
    })
}

/// Takes arriving guests in a thread of its own, until a signal; then it ends what is undecided.
fn receive(
    host: Arc<Host>,
    listener: TcpListener,
    signals: Interrupts,
) -> Result<std::thread::JoinHandle<()>> {
    let work = move || {
        let served = host.serve(&listener, false, &signals, |summary| {
            eprintln!("job {}: {} {}", summary.job, summary.status, summary.reason);
        });
        if let Err(error) = served {
            eprintln!("dwcp-engine: {error}: no more guests can arrive until a restart");
        }
    };
    std::thread::Builder::new()
        .name("receive".to_owned())
        .spawn(work)
        .doing(|| "starting a thread".to_owned())
}

async fn run(
    door: Door,
    socket: &DoorSocket,
    signals: &Interrupts,
    open: impl FnOnce() -> Result<()>,
) -> Result<Served> {
    let listener = UnixListener::from_std(socket.listener()?)
        .doing(|| "listening on the door's socket".to_owned())?;
    let jobs = door.jobs.clone();
    let (health, health_server) = tonic_health::server::health_reporter();
    health.set_serving::<EngineServer<Door>>().await;
    let (hang_up, hung_up) = watch::channel(false);
    let server = Server::builder()
        .add_service(health_server)
        .add_service(reflection().build_v1().map_err(no_reflection)?)
        .add_service(reflection().build_v1alpha().map_err(no_reflection)?)
        .add_service(EngineServer::new(door))
        .serve_with_incoming_shutdown(visitors(listener), until(hung_up));
    let mut server = tokio::spawn(server);
    open()?;
    loop {
        tokio::select! {
            ended = &mut server => {
                let text = format!("the door's server ended by itself: {ended:?}");
                return Err(EngineError::new(Class::Failed, text));
            }
            () = tokio::time::sleep(SIGNAL_POLL) => {}
        }
        if signals.count() > 0 {
            break;
        }
    }
    health.set_not_serving::<EngineServer<Door>>().await;
    let served = drain(&jobs, signals).await;
    let _ = hang_up.send(true);
    // Some calls, such as a watch on health, end only when they are cut off.
    let _ = tokio::time::timeout(HANG_UP_LIMIT, &mut server).await;
    server.abort();
    Ok(served)
}

/// Ends the source jobs: those before the last slice at once, the others when they are decided. Jobs
/// that were taken up hold nothing and are taken up again by the next daemon.
async fn drain(jobs: &SourceJobs, signals: &Interrupts) -> Served {
    let asked = signals.count();
    jobs.drain();
    let mut noted = Instant::now();
    loop {
        let (moving, waiting) = jobs.counts();
        if moving == 0 {
            return if waiting == 0 { Served::Settled } else { Served::InDoubt };
        }
        if signals.count() > asked {
            eprintln!(
                "ending now: {moving} jobs whose outcome is not known are taken up at the next start"
            );
            return Served::InDoubt;
        }
        if noted.elapsed() >= DRAIN_NOTE_INTERVAL {
            noted = Instant::now();
            eprintln!("waiting for the outcome of {moving} jobs; a second signal ends at once");
        }
        tokio::time::sleep(SIGNAL_POLL).await;
    }
}

async fn until(mut flag: watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}

/// Those connections whose peer may enter.
fn visitors(listener: UnixListener) -> ReceiverStream<std::io::Result<UnixStream>> {
    let (admitted, visitors) = mpsc::channel(ACCEPTED_MAX);
    tokio::spawn(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            match stream.peer_cred() {
                Ok(peer) if socket::may_enter(peer.uid()) => {
                    if admitted.send(Ok(stream)).await.is_err() {
                        return;
                    }
                }
                Ok(peer) => eprintln!("refused user {} at the door", peer.uid()),
                Err(error) => eprintln!("refused a peer without credentials at the door: {error}"),
            }
        }
    });
    ReceiverStream::new(visitors)
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(dwcp_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn no_reflection(error: tonic_reflection::server::Error) -> EngineError {
    EngineError::new(Class::Failed, format!("the contract's own description: {error}"))
}
