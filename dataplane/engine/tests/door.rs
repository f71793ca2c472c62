//! The daemon's door without any QEMU: who gets in, what it answers, what it refuses, how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dwcp_engine::store::Store;
use dwcp_handover::{
    EndpointsDigest, Fence, JobId, Notes, Record, RunState, SourceRecord, SourceState, Ticket, VmId,
};
use dwcp_proto::engine_v3 as pb;
use pb::engine_client::EngineClient;
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const BINARY: &str = env!("CARGO_BIN_EXE_dwcp-engine");
const SERVICE: &str = "dwcp.engine.v3.Engine";
const LIMIT: Duration = Duration::from_secs(20);

/// A daemon in a folder of its own; both go when it is dropped.
struct Daemon {
    dir: PathBuf,
    child: Child,
}

impl Daemon {
    fn start() -> Self {
        Self::start_after(|_| ())
    }

    /// Starts one on a state folder that somebody has been at.
    fn start_after(prepare: impl FnOnce(&Path)) -> Self {
        // On disk: job records are refused on tmpfs.
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("d{}", uuid::Uuid::new_v4()));
        for folder in ["qmp", "launch"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        prepare(&dir.join("state"));
        let mut child = command(&dir, &["--ready-file", "ready"]).spawn().unwrap();
        let deadline = Instant::now() + LIMIT;
        while !dir.join("ready").exists() {
            assert!(Instant::now() < deadline, "not ready");
            assert!(child.try_wait().unwrap().is_none(), "ended: see {}/log", dir.display());
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { dir, child }
    }

    async fn channel(&self) -> Channel {
        let uri = format!("unix://{}", self.dir.join("e.sock").display());
        Endpoint::from_shared(uri).unwrap().connect().await.unwrap()
    }

    async fn engine(&self) -> EngineClient<Channel> {
        EngineClient::new(self.channel().await)
    }

    /// Asks it to end, and returns its exit code.
    fn end(&mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A daemon's command in `dir`, where short relative names keep the socket's path short.
fn command(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.current_dir(dir).args(["serve", "--socket", "e.sock", "--listen", "127.0.0.1:0"]);
    command.args(["--qmp-dir", "qmp", "--launch-dir", "launch", "--state", "state"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::options().append(true).create(true).open(dir.join("log")).unwrap());
    command
}

fn refused(dir: &Path, more: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command(dir, more).stderr(Stdio::piped()).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn source(qmp_socket: &str, target_address: &str) -> pb::RunSourceRequest {
    pb::RunSourceRequest {
        qmp_socket: qmp_socket.to_owned(),
        target_address: target_address.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn health_says_serving_and_reflection_lists_the_service() {
    let daemon = Daemon::start();
    let mut health = HealthClient::new(daemon.channel().await);
    for service in ["", SERVICE] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(daemon.channel().await)
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&SERVICE), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[tokio::test]
async fn the_socket_is_private_and_goes_with_its_daemon() {
    let mut daemon = Daemon::start();
    let socket = daemon.dir.join("e.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(daemon.end(), Some(0));
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_daemon_that_is_watched_still_ends() {
    let mut daemon = Daemon::start();
    let mut health = HealthClient::new(daemon.channel().await);
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let code = tokio::task::spawn_blocking(move || daemon.end()).await.unwrap();
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_the_first_lives_on() {
    let daemon = Daemon::start();
    let (code, words) = refused(&daemon.dir, &[]);
    assert_eq!(code, Some(5), "{words}");
    assert!(words.contains("e.sock"), "{words}");
    assert!(daemon.engine().await.status(pb::StatusRequest::default()).await.is_ok());
}

#[test]
fn a_killed_daemons_socket_is_replaced() {
    let mut daemon = Daemon::start();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    assert!(daemon.dir.join("e.sock").exists());
    fs::remove_file(daemon.dir.join("ready")).unwrap();
    daemon.child = command(&daemon.dir, &["--ready-file", "ready"]).spawn().unwrap();
    let deadline = Instant::now() + LIMIT;
    while !daemon.dir.join("ready").exists() {
        assert!(Instant::now() < deadline, "{:?}", daemon.child.try_wait());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn what_would_be_unsafe_is_refused_at_the_start() {
    let mut daemon = Daemon::start();
    daemon.end();
    let (code, words) = refused(&daemon.dir, &["--grpc", "127.0.0.1:8081"]);
    assert_eq!(code, Some(6), "{words}");
    assert!(words.contains("mutual TLS"), "{words}");
    let plain = Command::new(BINARY)
        .current_dir(&daemon.dir)
        .args(["serve", "--socket", "e.sock", "--state", "state", "--listen", "192.0.2.1:8085"])
        .output()
        .unwrap();
    assert_eq!(plain.status.code(), Some(6));
    assert!(!daemon.dir.join("e.sock").exists());
}

#[tokio::test]
async fn wrong_requests_are_refused_by_field() {
    let daemon = Daemon::start();
    let _socket = UnixListener::bind(daemon.dir.join("qmp/vm.sock")).unwrap();
    let mut engine = daemon.engine().await;
    let wrongs = [
        (source("../vm.sock", "127.0.0.1:1"), Code::InvalidArgument, "qmp_socket"),
        (source("other.sock", "127.0.0.1:1"), Code::NotFound, "qmp_socket"),
        (source("vm.sock", ""), Code::InvalidArgument, "target_address"),
        (source("vm.sock", "192.0.2.1:1"), Code::PermissionDenied, "target_address"),
        (
            pb::RunSourceRequest { streams: Some(999), ..source("vm.sock", "127.0.0.1:1") },
            Code::InvalidArgument,
            "streams",
        ),
    ];
    for (request, code, field) in wrongs {
        let status = engine.run_source(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(field), "{status}");
    }
    let none = pb::PrepareTargetRequest { qemu: None, leave_paused: false };
    assert_eq!(engine.prepare_target(none).await.unwrap_err().code(), Code::InvalidArgument);
    let cancel = |job: &str| pb::CancelRequest { job: job.to_owned() };
    assert_eq!(engine.cancel(cancel("x")).await.unwrap_err().code(), Code::InvalidArgument);
    let nobody = uuid::Uuid::nil().to_string();
    assert_eq!(engine.cancel(cancel(&nobody)).await.unwrap_err().code(), Code::NotFound);
    let status = pb::StatusRequest { job: nobody.clone() };
    assert_eq!(engine.status(status).await.unwrap_err().code(), Code::NotFound);
    let rate = |rate_bit_per_s| pb::SetRateRequest { job: nobody.clone(), rate_bit_per_s };
    assert_eq!(engine.set_rate(rate(1)).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(engine.set_rate(rate(8_000)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_launch_profile_gives_a_ticket_and_the_address() {
    let daemon = Daemon::start();
    fs::write(daemon.dir.join("launch/vm"), "qemu-system-x86_64\n-m\n64\n").unwrap();
    let mut engine = daemon.engine().await;
    let prepare = |name: &str| pb::PrepareTargetRequest {
        qemu: Some(pb::prepare_target_request::Qemu::LaunchProfile(name.to_owned())),
        leave_paused: false,
    };
    let first = engine.prepare_target(prepare("vm")).await.unwrap().into_inner();
    let second = engine.prepare_target(prepare("vm")).await.unwrap().into_inner();
    assert_ne!(first.ticket, second.ticket);
    assert_eq!(first.ticket_valid_s, 600);
    let ready = fs::read_to_string(daemon.dir.join("ready")).unwrap();
    assert_eq!(first.address, ready.trim());
    assert_eq!(engine.prepare_target(prepare("no")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_source_that_is_no_qemu_fails_in_its_stream_and_is_remembered() {
    let daemon = Daemon::start();
    let silent = UnixListener::bind(daemon.dir.join("qmp/vm.sock")).unwrap();
    let babbler = std::thread::spawn(move || {
        use std::io::Write;
        silent.accept().unwrap().0.write_all(b"hello, I am no monitor\n").unwrap();
    });
    let mut engine = daemon.engine().await;
    let mut events =
        engine.run_source(source("vm.sock", "127.0.0.1:1")).await.unwrap().into_inner();
    let first = events.message().await.unwrap().unwrap().event;
    let Some(pb::run_source_event::Event::Started(started)) = first else { panic!("{first:?}") };
    let status = events.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    babbler.join().unwrap();
    let request = pb::StatusRequest { job: started.job.clone() };
    let jobs = engine.status(request).await.unwrap().into_inner().jobs;
    assert_eq!((jobs.len(), jobs[0].running, jobs[0].state.as_str()), (1, false, "refused"));
    assert_eq!(jobs[0].reason, status.message());
    let cancel = pb::CancelRequest { job: started.job };
    assert_eq!(engine.cancel(cancel).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_job_that_a_dead_process_left_in_doubt_is_taken_up() {
    let job = uuid::Uuid::now_v7();
    let mut daemon = Daemon::start_after(|state| {
        let mut notes = Notes::default();
        // Nobody answers at either place: the outcome stays unknown.
        for (key, value) in [("qmp", "/nowhere/qmp"), ("to", "127.0.0.1:1"), ("vm", "web1")] {
            notes.set(key, value).unwrap();
        }
        let ticket = Ticket {
            job: JobId(job.into_bytes()),
            vm: VmId([7; 16]),
            fence: Fence::new(1, 3),
            endpoints: EndpointsDigest::default(),
        };
        let state_then = SourceState::InDoubt { prior: RunState::Running };
        let record = SourceRecord { ticket, state: state_then, notes };
        Store::open(state).unwrap().save(&format!("{job}.source"), &record.encode()).unwrap();
    });
    let mut engine = daemon.engine().await;
    let status = pb::StatusRequest { job: job.to_string() };
    let jobs = engine.status(status).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    let taken_up = &jobs[0];
    assert!(taken_up.running && taken_up.side() == pb::Side::Source, "{taken_up:?}");
    assert_eq!((taken_up.vm.as_str(), taken_up.state.as_str()), ("web1", "in_doubt"));
    let rate = pb::SetRateRequest { job: job.to_string(), rate_bit_per_s: 8_000 };
    assert_eq!(engine.set_rate(rate).await.unwrap_err().code(), Code::FailedPrecondition);
    // It holds nothing that must be waited for, and is said to be open.
    let code = tokio::task::spawn_blocking(move || daemon.end()).await.unwrap();
    assert_eq!(code, Some(9));
}
