//! What the engine's tests share: watched guests, `receive` with the QEMU it launches, `send` and its
//! phases. Everything ends with its owner.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use dwcp_engine::store::default_run_dir;
use dwcp_hwtest::engine::{self, Ended, Engine};
use dwcp_hwtest::guest::Guest;
use dwcp_hwtest::interrupt::wait_until;
use dwcp_hwtest::net::Host;
use dwcp_hwtest::probe::{self, QEMU_PROGRAM};
use dwcp_hwtest::qemu::{Qemu, QemuConfig, TICK_FILE};
use dwcp_hwtest::tick::TickReader;
use dwcp_hwtest::workdir::WorkDir;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::watch::Watch;

/// Limit of anything that normally takes a second or two.
pub const LIMIT: Duration = Duration::from_secs(60);
const PID_FILE: &str = "qemu.pid";
const WATCH_SOCKET: &str = "watch.sock";

/// The small guest, unless something is missing here.
pub fn guest() -> Option<Guest> {
    probe::guest_lab().map_err(|e| probe::skip(&format!("{e:#}"))).ok()
}

/// A folder on disk: records do not belong on tmpfs.
pub fn disk_dir() -> WorkDir {
    WorkDir::under(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A QEMU whose run state is watched.
#[derive(Debug)]
pub struct Machine {
    pub qemu: Qemu,
    pub watch: Watch,
    _watch_dir: Option<WorkDir>,
}

fn watched<'a>(config: &QemuConfig<'a>, dir: &Path) -> QemuConfig<'a> {
    let mut config = config.clone();
    let socket = format!("unix:{},server=on,wait=off", dir.join(WATCH_SOCKET).display());
    config.extra.extend(["-qmp".to_owned(), socket]);
    config
}

impl Machine {
    /// Boots a guest and waits for its ticks.
    pub fn boot(config: &QemuConfig<'_>) -> Self {
        Self::with(config, Qemu::boot)
    }

    /// Starts a QEMU that waits for a guest, or for a `cont`.
    pub fn start(config: &QemuConfig<'_>) -> Self {
        Self::with(config, Qemu::start)
    }

    fn with(config: &QemuConfig<'_>, start: impl FnOnce(&QemuConfig<'_>) -> Result<Qemu>) -> Self {
        let dir = WorkDir::new().unwrap();
        let qemu = start(&watched(config, dir.path())).unwrap();
        let watch = Watch::connect(&dir.join(WATCH_SOCKET)).unwrap();
        Self { qemu, watch, _watch_dir: Some(dir) }
    }

    /// Waits for a run state.
    pub fn await_status(&mut self, status: &str, limit: Duration) -> Result<()> {
        wait_until(&format!("run state {status}"), limit, || {
            Ok((self.qemu.status()? == status).then_some(()))
        })
    }

    /// The guest runs: ticks come.
    pub fn assert_ticks(&mut self) {
        self.qemu.ticks().wait_for(5, LIMIT).unwrap();
        assert_eq!(self.qemu.status().unwrap(), "running");
    }

    /// Migration capabilities and parameters, to see that a job put them back.
    pub fn settings(&mut self) -> Value {
        let capabilities = self.qemu.execute("query-migrate-capabilities", json!({})).unwrap();
        let parameters = self.qemu.execute("query-migrate-parameters", json!({})).unwrap();
        json!([capabilities, parameters])
    }
}

/// A running `receive`.
#[derive(Debug)]
pub struct Receiver {
    pub engine: Engine,
    pub address: SocketAddr,
    dir: WorkDir,
    launched: Unclaimed,
}

impl Receiver {
    /// `receive --launch` for this machine, on any free port.
    pub fn launch(config: &QemuConfig<'_>, flags: &[&str]) -> Self {
        let launched = WorkDir::new().unwrap();
        let dir = disk_dir();
        let config = watched(config, launched.path());
        fs::write(dir.join("launch"), config.launch_lines(&launched).unwrap()).unwrap();
        let launch = text(&dir.join("launch"));
        let flags = [&["--launch", launch.as_str()], flags].concat();
        Self::start(dir, "127.0.0.1:0", Some(launched), &flags).unwrap()
    }

    /// `receive --launch` whose QEMUs keep their things in their own job's folder: see [`Arrived`].
    pub fn launch_each(config: &QemuConfig<'_>) -> Self {
        let dir = disk_dir();
        let run = Path::new("{run}");
        let mut lines = vec![QEMU_PROGRAM.to_owned()];
        lines.extend(config.arguments(run));
        lines.extend(["-pidfile".to_owned(), text(&run.join(PID_FILE))]);
        fs::write(dir.join("launch"), lines.join("\n")).unwrap();
        let launch = text(&dir.join("launch"));
        Self::start(dir, "127.0.0.1:0", None, &["--launch", &launch]).unwrap()
    }

    /// `receive --qmp` beside a QEMU that waits.
    pub fn beside(qmp: &Path, flags: &[&str]) -> Self {
        let qmp = text(qmp);
        let flags = [&["--qmp", qmp.as_str()], flags].concat();
        Self::start(disk_dir(), "127.0.0.1:0", None, &flags).unwrap()
    }

    fn start(
        dir: WorkDir,
        listen: &str,
        launched: Option<WorkDir>,
        flags: &[&str],
    ) -> Result<Self> {
        let (engine, address) = start_receive(dir.path(), listen, flags)?;
        Ok(Self { engine, address, dir, launched: Unclaimed(launched) })
    }

    /// The folder of its records.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Takes the QEMU it launches for the next job, as soon as it is there.
    pub fn adopt(&mut self, config: &QemuConfig<'_>, send: &Send) -> Result<Machine> {
        let dir = self.launched.0.take().context("nothing was launched, or it was taken")?;
        let socket = dir.join(WATCH_SOCKET);
        let qemu = Qemu::adopt(config, dir, LIMIT, || {
            anyhow::ensure!(!send.engine.has_ended()?, "send ended: {}", send.said());
            Ok(())
        })?;
        let watch = Watch::connect(&socket)?;
        Ok(Machine { qemu, watch, _watch_dir: None })
    }

    /// kill -9, then starts again on the same port and records.
    pub fn restart(&mut self) {
        self.kill();
        let launch = text(&self.dir.join("launch"));
        let address = self.address.to_string();
        (self.engine, self.address) =
            start_receive(self.dir.path(), &address, &["--launch", &launch]).unwrap();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.engine.signal(Signal::KILL);
        wait_until("the end of receive", LIMIT, || Ok(self.engine.has_ended()?.then_some(())))
            .unwrap();
    }

    /// Waits for its end.
    pub fn wait(self) -> Ended {
        self.engine.wait(LIMIT).unwrap()
    }
}

fn start_receive(dir: &Path, listen: &str, flags: &[&str]) -> Result<(Engine, SocketAddr)> {
    let (ready, state) = (dir.join("ready"), text(&dir.join("state")));
    let _ = fs::remove_file(&ready);
    let ready_text = text(&ready);
    let common = ["receive", "--json", "--listen", listen, "--state", &state];
    let all = [&common[..], &["--ready-file", &ready_text], flags].concat();
    let mut engine = Engine::start(&engine::binary()?, &Host::Loopback, dir, &words(&all), false)?;
    let address = engine.ready(&ready)?.parse().context("the ready file")?;
    Ok((engine, address))
}

/// The folder of a QEMU that a `receive` launches, until a test takes it over.
#[derive(Debug, Default)]
struct Unclaimed(Option<WorkDir>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            end_qemu_of(dir.path());
        }
    }
}

/// Ends the QEMU whose pid file and other things are in `dir`.
fn end_qemu_of(dir: &Path) {
    let pid = fs::read_to_string(dir.join(PID_FILE)).ok().and_then(|t| t.trim().parse().ok());
    let Some(pid) = pid.and_then(Pid::from_raw) else { return };
    let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
    if line.is_ok_and(|line| line.contains(&text(dir))) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// A guest that arrived in a QEMU of [`Receiver::launch_each`].
#[derive(Debug)]
pub struct Arrived {
    pub ticks: TickReader,
    dir: PathBuf,
}

impl Arrived {
    /// The guest of this job.
    pub fn of(job: &str) -> Self {
        let dir = default_run_dir().join("receive").join(job);
        Self { ticks: TickReader::follow(&dir.join(TICK_FILE)).unwrap(), dir }
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        end_qemu_of(&self.dir);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A running `send`.
#[derive(Debug)]
pub struct Send {
    pub engine: Engine,
    dir: WorkDir,
}

impl Send {
    /// `send` from this QEMU, with records in `state`.
    pub fn start(qemu: &Qemu, to: SocketAddr, state: &Path, flags: &[&str]) -> Self {
        let (qmp, to) = (text(&qemu.engine_qmp()), to.to_string());
        Self::run(state, &[&["--qmp", &qmp, "--to", &to], flags].concat())
    }

    /// `send --resume`.
    pub fn resume(job: &str, state: &Path) -> Self {
        Self::run(state, &["--resume", job])
    }

    fn run(state: &Path, flags: &[&str]) -> Self {
        let dir = WorkDir::new().unwrap();
        let state = text(state);
        let all = [&["send", "--json", "--state", &state], flags].concat();
        let binary = engine::binary().unwrap();
        let engine =
            Engine::start(&binary, &Host::Loopback, dir.path(), &words(&all), false).unwrap();
        Self { engine, dir }
    }

    /// One that has nothing to do, to stand in for one that is waited for.
    pub fn finished() -> Self {
        let dir = WorkDir::new().unwrap();
        let binary = engine::binary().unwrap();
        let engine =
            Engine::start(&binary, &Host::Loopback, dir.path(), &words(&["--version"]), false);
        Self { engine: engine.unwrap(), dir }
    }

    /// Standard error so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.join("send.err")).unwrap_or_default()
    }

    /// Waits until the job has reached a phase.
    pub fn await_phase(&self, phase: &str) {
        wait_until(&format!("phase {phase}"), LIMIT, || {
            let said = self.said();
            if said.lines().any(|line| line == phase) {
                return Ok(Some(()));
            }
            anyhow::ensure!(!self.engine.has_ended()?, "send ended before {phase}: {said}");
            Ok(None)
        })
        .unwrap();
    }

    /// The process that moves the bytes.
    pub fn child(&self) -> Option<Pid> {
        let pid = self.engine.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    /// kill -9 of the process that moves the bytes.
    pub fn kill_child(&self) {
        kill_process(self.child().expect("send has a child"), Signal::KILL).unwrap();
    }

    /// kill -9 of both.
    pub fn kill_both(&self) {
        let child = self.child();
        self.engine.signal(Signal::KILL).unwrap();
        if let Some(child) = child {
            let _ = kill_process(child, Signal::KILL);
        }
    }

    /// Waits for the end.
    pub fn wait(self) -> Ended {
        self.engine.wait(LIMIT).unwrap()
    }
}

/// Runs `dwcp-engine` with these words to its end.
pub fn run(all: &[&str]) -> Ended {
    let dir = WorkDir::new().unwrap();
    let binary = engine::binary().unwrap();
    Engine::start(&binary, &Host::Loopback, dir.path(), &words(all), false)
        .unwrap()
        .wait(LIMIT)
        .unwrap()
}

/// The exit code and the report, for assertions that say what went wrong.
pub fn code(ended: &Ended) -> Option<i32> {
    ended.status.code()
}

/// The jobs that a state folder has records of: (side, state).
pub fn jobs(state: &Path) -> Vec<(String, String, String)> {
    let ended = run(&["jobs", "--json", "--state", &text(state)]);
    let word = |job: &Value, key: &str| job[key].as_str().unwrap_or_default().to_owned();
    let list = ended.report.as_array().cloned().unwrap_or_default();
    list.iter().map(|job| (word(job, "job"), word(job, "side"), word(job, "state"))).collect()
}
