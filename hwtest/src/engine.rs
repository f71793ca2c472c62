//! Runs `dwcp-engine` as an operator would: `receive` beside the target, `send` beside the source, and reads
//! the one JSON object each leaves on standard output.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use serde_json::Value;

use crate::cpu::CpuTime;
use crate::interrupt;
use crate::net::Host;
use crate::probe::Missing;
use crate::qemu::owned_command;

/// How long an engine that was asked to end may take before it is killed.
const END_LIMIT: Duration = Duration::from_secs(5);
const READY_LIMIT: Duration = Duration::from_secs(20);

/// The engine binary: `$DWCP_ENGINE`, else where [`program`] finds it.
///
/// # Errors
/// It is not there.
pub fn binary() -> Result<PathBuf> {
    match std::env::var_os("DWCP_ENGINE") {
        Some(path) => Ok(path.into()),
        None => program("dwcp-engine"),
    }
}

/// A binary of this product: beside this program, or for a test in the release folder of its build.
///
/// # Errors
/// It is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let folder = here.parent().context("a program without a folder")?;
    [folder.join(name), folder.join("../../release").join(name)]
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| {
            Missing(format!("no {name} beside {}: cargo build --release", here.display()))
        })
}

/// How an engine ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status.
    pub status: ExitStatus,
    /// The last line of standard output; null when it is no JSON.
    pub report: Value,
    /// Standard error, unless it was shown.
    pub errors: String,
    /// CPU of the process and the children it waited for, seconds.
    pub cpu_s: f64,
}

/// One engine process.
#[derive(Debug)]
pub struct Engine {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Engine {
    /// Starts `binary words...` in `host`; output goes to files in `dir`, or standard error to ours if `show`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        binary: &Path,
        host: &Host,
        dir: &Path,
        words: &[String],
        show: bool,
    ) -> Result<Self> {
        let name = words.first().cloned().unwrap_or_default();
        let (stdout, stderr) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.err")));
        let errors = if show { Stdio::inherit() } else { Stdio::from(File::create(&stderr)?) };
        let child = owned_command(Some(host), binary)
            .args(words)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        Ok(Self { child, name, stdout, stderr })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a `--ready-file` appears and returns its text.
    ///
    /// # Errors
    /// The engine ended first; the message carries its words.
    pub fn ready(&mut self, file: &Path) -> Result<String> {
        let text = interrupt::wait_until("the engine's ready file", READY_LIMIT, || {
            self.check_alive()?;
            Ok(fs::read_to_string(file).ok().filter(|t| !t.is_empty()))
        })?;
        Ok(text.trim().to_owned())
    }

    /// An error once the process has ended, with its words.
    ///
    /// # Errors
    /// It has.
    pub fn check_alive(&mut self) -> Result<()> {
        if self.has_ended()? {
            bail!("dwcp-engine {} ended: {}", self.name, self.words());
        }
        Ok(())
    }

    /// The process has ended but is still to be waited for.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn has_ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(rustix::process::waitid(WaitId::Pid(self.raw_pid()?), options)?.is_some())
    }

    /// Waits for the end and reads the report.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(mut self, limit: Duration) -> Result<Ended> {
        interrupt::wait_until(&format!("end of dwcp-engine {}", self.name), limit, || {
            Ok(self.has_ended()?.then_some(()))
        })?;
        // Read before the wait: afterwards the process is gone from /proc.
        let cpu_s = CpuTime::of(self.pid()).unwrap_or_default().total_s();
        let status = self.child.wait()?;
        let text = fs::read_to_string(&self.stdout).unwrap_or_default();
        let last = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
        let report = serde_json::from_str(last).unwrap_or(Value::Null);
        Ok(Ended { status, report, errors: self.words(), cpu_s })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::kill_process(self.raw_pid()?, signal)?;
        Ok(())
    }

    fn raw_pid(&self) -> Result<Pid> {
        Pid::from_raw(self.child.id() as i32).context("a process id of 0")
    }

    fn words(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.stderr) {
            let _ = file.read_to_string(&mut text);
        }
        text.trim().to_owned()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // SIGTERM first: an engine cleans up after itself and lets a paused guest go on.
        let _ = self.signal(Signal::TERM);
        let deadline = std::time::Instant::now() + END_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
