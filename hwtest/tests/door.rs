//! The engine as a daemon on real QEMU: one door beside the source, one beside the target, and a client
//! that talks to both.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dwcp_hwtest::engine::{self, Engine};
use dwcp_hwtest::guest::Guest;
use dwcp_hwtest::net::Host;
use dwcp_hwtest::probe;
use dwcp_hwtest::qemu::{Qemu, QemuConfig, Ram};
use dwcp_hwtest::tick::Life;
use dwcp_hwtest::workdir::WorkDir;
use dwcp_proto::engine_v3 as pb;
use pb::engine_client::EngineClient;
use pb::prepare_target_request::Qemu as Target;
use pb::run_source_event::Event;
use rustix::process::Signal;
use tokio::sync::Mutex;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

const LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
/// SIGTERM to exit, as the contract says.
const END_LIMIT: Duration = Duration::from_secs(10);
/// The socket of a harness QEMU that is left to engines.
const QMP: &str = "qmp1.sock";
/// These tests are about the door, not about downtime: a busy machine may take its time.
const PAUSE_TIMEOUT_MS: u32 = 30_000;
/// So slow that a job takes minutes.
const SLOW_BIT_PER_S: u64 = 500_000;
/// Far less than a slow job takes, far more than a fast one.
const FAST_LIMIT: Duration = Duration::from_secs(30);

/// One test at a time: each has a handful of busy processes.
static ALONE: Mutex<()> = Mutex::const_new(());

fn lab() -> Option<Guest> {
    probe::guest_lab().map_err(|e| probe::skip(&format!("{e:#}"))).ok()
}

/// A daemon and a client at its door.
struct Daemon {
    engine: Engine,
    client: EngineClient<Channel>,
    _dir: WorkDir,
}

impl Daemon {
    /// Starts one whose requests may name QMP sockets in `qmp_dir`, and launch files in `launch_dir`.
    async fn start(qmp_dir: &Path, launch_dir: Option<&Path>) -> Self {
        let dir = WorkDir::under(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
        // A socket's path is short; the folder of the build may not be.
        let socket = std::env::temp_dir().join(format!("dwcp-{}.sock", unique(&dir)));
        let (ready, state) = (dir.join("ready"), dir.join("state"));
        let text = |path: &Path| path.display().to_string();
        let mut words: Vec<String> =
            ["serve", "--listen", "127.0.0.1:0", "--socket"].map(str::to_owned).to_vec();
        words.extend([text(&socket), "--qmp-dir".into(), text(qmp_dir)]);
        words.extend(["--state".into(), text(&state), "--ready-file".into(), text(&ready)]);
        if let Some(launch_dir) = launch_dir {
            words.extend(["--launch-dir".into(), text(launch_dir)]);
        }
        let binary = engine::binary().unwrap();
        let mut engine =
            Engine::start(&binary, &Host::Loopback, dir.path(), &words, false).unwrap();
        engine.ready(&ready).unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", text(&socket))).unwrap();
        let client = EngineClient::new(endpoint.connect().await.unwrap());
        Self { engine, client, _dir: dir }
    }

    async fn prepare(&mut self, target: Target) -> pb::PrepareTargetResponse {
        let request = pb::PrepareTargetRequest { qemu: Some(target), leave_paused: false };
        self.client.prepare_target(request).await.unwrap().into_inner()
    }

    async fn run(&mut self, request: pb::RunSourceRequest) -> Streaming<pb::RunSourceEvent> {
        self.client.run_source(request).await.unwrap().into_inner()
    }

    async fn job(&mut self, job: &str) -> pb::Job {
        let request = pb::StatusRequest { job: job.to_owned() };
        let mut jobs = self.client.status(request).await.unwrap().into_inner().jobs;
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs.remove(0)
    }

    async fn until_over(&mut self, job: &str) -> pb::Job {
        let deadline = Instant::now() + LIMIT;
        loop {
            let now = self.job(job).await;
            if !now.running {
                return now;
            }
            assert!(Instant::now() < deadline, "still running: {now:?}");
            tokio::time::sleep(POLL).await;
        }
    }
}

fn unique(dir: &WorkDir) -> String {
    dir.path().file_name().unwrap().to_string_lossy().into_owned()
}

fn request(prepared: &pb::PrepareTargetResponse) -> pb::RunSourceRequest {
    pb::RunSourceRequest {
        qmp_socket: QMP.into(),
        target_address: prepared.address.clone(),
        ticket: prepared.ticket.clone(),
        pause_timeout_ms: Some(PAUSE_TIMEOUT_MS),
        ..Default::default()
    }
}

fn slow(prepared: &pb::PrepareTargetResponse) -> pb::RunSourceRequest {
    pb::RunSourceRequest { rate_bit_per_s: Some(SLOW_BIT_PER_S), ..request(prepared) }
}

/// Reads until the target has accepted; returns the job's id.
async fn accepted(events: &mut Streaming<pb::RunSourceEvent>) -> String {
    let mut job = String::new();
    loop {
        match events.message().await.unwrap().unwrap().event.unwrap() {
            Event::Started(started) => job = started.job,
            Event::Accepted(_) => return job,
            _ => {}
        }
    }
}

/// A launch file for the target in a folder of its own, with the folder the QEMU will work in.
fn profile(config: &QemuConfig<'_>) -> (WorkDir, WorkDir) {
    let (launch_dir, qemu_dir) = (WorkDir::new().unwrap(), WorkDir::new().unwrap());
    fs::write(launch_dir.join("guest"), config.launch_lines(&qemu_dir).unwrap()).unwrap();
    (launch_dir, qemu_dir)
}

#[tokio::test]
async fn a_guest_moves_from_door_to_door_and_its_ticket_is_used_up() {
    let Some(guest) = lab() else { return };
    let _alone = ALONE.lock().await;
    let config = QemuConfig::for_guest(&guest);
    let files = WorkDir::under(Path::new("/dev/shm")).unwrap();
    let in_file = QemuConfig { ram: Ram::File(files.join("ram")), ..config.as_target() };
    let mut source = Qemu::boot(&config).unwrap();
    let mut target = Qemu::start(&in_file).unwrap();
    let mut from = Daemon::start(source.dir(), None).await;
    let mut to = Daemon::start(target.dir(), None).await;
    let prepared = to.prepare(Target::QmpSocket(QMP.into())).await;

    let check = pb::RunSourceRequest { check_only: true, ..request(&prepared) };
    let report = last_report(&mut from.run(check).await).await.0;
    assert_eq!((report.status(), report.exit_code), (pb::JobOutcome::Refused, 0), "{report:?}");
    let mut unticketed =
        from.run(pb::RunSourceRequest { ticket: String::new(), ..request(&prepared) }).await;
    let status = last_status(&mut unticketed).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(source.status().unwrap(), "running");

    let (report, events) = last_report(&mut from.run(request(&prepared)).await).await;
    assert_eq!(report.status(), pb::JobOutcome::Completed, "{report:?}");
    assert_eq!((report.exit_code, report.hash_root_match), (0, Some(true)), "{report:?}");
    assert!(matches!(events[0], Event::Started(_)), "{events:?}");
    let accepted = events.iter().find_map(|e| match e {
        Event::Accepted(accepted) => Some(accepted),
        _ => None,
    });
    assert_eq!(accepted.map(|a| a.mode.as_str()), Some("direct"), "{events:?}");
    let phases: Vec<&str> = events.iter().filter_map(phase).collect();
    for wanted in ["accepted", "migrate", "stop", "go", "committed"] {
        assert!(phases.contains(&wanted), "{wanted} is missing: {phases:?}");
    }
    assert!(events.iter().any(|e| matches!(e, Event::Progress(p) if p.guest_bytes > 0)));

    target.ticks().wait_for(20, LIMIT).unwrap();
    let life = Life::of(&[source.ticks().trace(), target.ticks().trace()]);
    assert!(life.unbroken(), "{:?}", life.problems);
    assert_eq!(target.status().unwrap(), "running");
    let (left, arrived) = (from.job(&report.job).await, to.job(&report.job).await);
    assert_eq!((left.side(), left.state.as_str()), (pb::Side::Source, "completed"));
    assert!(left.report.is_some());
    assert_eq!(arrived.side(), pb::Side::Target);
    assert!(arrived.state.starts_with("committed"), "{arrived:?}");

    let mut again = from.run(request(&prepared)).await;
    let status = last_status(&mut again).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let other = Qemu::boot(&config).unwrap();
    let mut other_from = Daemon::start(other.dir(), None).await;
    let mut reused = other_from.run(request(&prepared)).await;
    let status = last_status(&mut reused).await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

fn phase(event: &Event) -> Option<&str> {
    match event {
        Event::Phase(phase) => Some(&phase.name),
        _ => None,
    }
}

/// Reads a stream to its report, which is its end.
async fn last_report(events: &mut Streaming<pb::RunSourceEvent>) -> (pb::Report, Vec<Event>) {
    let mut before = Vec::new();
    loop {
        match events.message().await.unwrap().unwrap().event.unwrap() {
            Event::Report(report) => {
                assert!(events.message().await.unwrap().is_none(), "the report is the last event");
                return (report, before);
            }
            event => before.push(event),
        }
    }
}

/// Reads a stream of a job that does not start to its status.
async fn last_status(events: &mut Streaming<pb::RunSourceEvent>) -> Status {
    loop {
        match events.message().await {
            Ok(Some(message)) => assert!(
                !matches!(message.event, Some(Event::Report(_) | Event::Accepted(_))),
                "{message:?}"
            ),
            Ok(None) => panic!("the stream ended without a status"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn hanging_up_cancels_nothing_cancel_does_and_a_rate_changes_in_flight() {
    let Some(guest) = lab() else { return };
    let _alone = ALONE.lock().await;
    let config = QemuConfig::for_guest(&guest);
    let mut source = Qemu::boot(&config).unwrap();
    let (launch_dir, qemu_dir) = profile(&config);
    let mut from = Daemon::start(source.dir(), None).await;
    let mut to = Daemon::start(qemu_dir.path(), Some(launch_dir.path())).await;

    let prepared = to.prepare(Target::LaunchProfile("guest".into())).await;
    let mut events = from.run(slow(&prepared)).await;
    let job = accepted(&mut events).await;
    drop(events);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(from.job(&job).await.running);
    let arriving = to.job(&job).await;
    assert!(arriving.running && arriving.side() == pb::Side::Target, "{arriving:?}");
    let twice = from.client.run_source(slow(&prepared)).await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition, "{twice}");
    from.client.cancel(pb::CancelRequest { job: job.clone() }).await.unwrap();
    let over = from.until_over(&job).await;
    let report = over.report.unwrap();
    assert_eq!(report.status(), pb::JobOutcome::Aborted, "{report:?}");
    assert_eq!(report.exit_code, 130, "{report:?}");
    assert_eq!(source.status().unwrap(), "running");

    let before = source.ticks().count();
    let prepared = to.prepare(Target::LaunchProfile("guest".into())).await;
    let mut events = from.run(slow(&prepared)).await;
    let job = accepted(&mut events).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(from.job(&job).await.running);
    let rate = pb::SetRateRequest { job: job.clone(), rate_bit_per_s: 0 };
    from.client.set_rate(rate).await.unwrap();
    let mut target = Qemu::adopt(&config, qemu_dir, LIMIT, || Ok(())).unwrap();
    let (report, _) = tokio::time::timeout(FAST_LIMIT, last_report(&mut events)).await.unwrap();
    assert_eq!(report.status(), pb::JobOutcome::Completed, "{report:?}");
    assert!(source.ticks().count() > before);
    // At the slow rate these bytes would not have left in time.
    assert!(report.wire_tx_bytes * 8 > SLOW_BIT_PER_S * FAST_LIMIT.as_secs(), "{report:?}");
    target.ticks().wait_for(20, LIMIT).unwrap();
    let life = Life::of(&[source.ticks().trace(), target.ticks().trace()]);
    assert!(life.unbroken(), "{:?}", life.problems);
}

#[tokio::test]
async fn a_daemon_that_is_asked_to_end_leaves_the_guest_where_it_runs() {
    let Some(guest) = lab() else { return };
    let _alone = ALONE.lock().await;
    let config = QemuConfig::for_guest(&guest);
    let mut source = Qemu::boot(&config).unwrap();
    let (launch_dir, qemu_dir) = profile(&config);
    let mut from = Daemon::start(source.dir(), None).await;
    let mut to = Daemon::start(qemu_dir.path(), Some(launch_dir.path())).await;
    let prepared = to.prepare(Target::LaunchProfile("guest".into())).await;
    let mut events = from.run(slow(&prepared)).await;
    accepted(&mut events).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    from.engine.signal(Signal::TERM).unwrap();
    let (report, _) = last_report(&mut events).await;
    assert_eq!(report.status(), pb::JobOutcome::Aborted, "{report:?}");
    let ended = from.engine.wait(END_LIMIT).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert_eq!(source.status().unwrap(), "running");
    to.engine.signal(Signal::TERM).unwrap();
    assert_eq!(to.engine.wait(END_LIMIT).unwrap().status.code(), Some(0));
}
