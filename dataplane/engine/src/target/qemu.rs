//! The target QEMU of one job: launched by us or given by its monitor. Preparing it, setting it
//! running, looking at it, ending it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dwcp_handover::{Notes, QemuState};
use serde_json::{Value, json};

use super::launch::Launched;
use crate::error::{Class, Doing, EngineError, Result};
use crate::qemu::Tuning;
use crate::qmp::{Qmp, QmpError};

/// How long the guest may take to resume after `cont`.
const RESUME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long QEMU may take to end after `quit`.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// How `cont` went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// RESUME was seen.
    Running,
    /// It was refused.
    Refused {
        /// The guest is, and was throughout, paused.
        never_left_paused: bool,
    },
    /// The process is gone.
    Gone,
}

/// The target QEMU of one job.
#[derive(Debug)]
pub struct TargetQemu {
    qmp: Option<Qmp>,
    qmp_path: PathBuf,
    launched: Option<Launched>,
    process: Option<ProcessId>,
    tuning: Tuning,
    run_dir: Option<PathBuf>,
    /// Started for a job that has not come about: it ends with this value.
    provisional: bool,
}

impl Drop for TargetQemu {
    fn drop(&mut self) {
        if self.provisional {
            self.destroy();
        }
    }
}

/// A process, told apart from a later one with the same number by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProcessId {
    pid: u32,
    started: u64,
}

impl ProcessId {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name may hold anything; the fields after its closing bracket are counted.
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn kill(self) {
        if self.is_alive()
            && let Some(pid) = rustix::process::Pid::from_raw(self.pid as i32)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

impl TargetQemu {
    /// A QEMU of our own.
    #[must_use]
    pub fn launched(launched: Launched, qmp: Qmp, tuning: Tuning, run_dir: PathBuf) -> Self {
        Self {
            qmp_path: launched.qmp_path.clone(),
            process: ProcessId::of(launched.pid()),
            qmp: Some(qmp),
            launched: Some(launched),
            tuning,
            run_dir: Some(run_dir),
            provisional: true,
        }
    }

    /// A QEMU that somebody else started.
    #[must_use]
    pub fn given(qmp: Qmp, tuning: Tuning) -> Self {
        let qmp_path = qmp.path().to_owned();
        Self {
            qmp: Some(qmp),
            qmp_path,
            launched: None,
            process: None,
            tuning,
            run_dir: None,
            provisional: false,
        }
    }

    /// A QEMU as a record names it.
    #[must_use]
    pub fn recorded(notes: &Notes) -> Self {
        let number = |key: &str| notes.get(key).and_then(|v| v.parse().ok());
        let qmp_path = PathBuf::from(notes.get("qmp").unwrap_or_default());
        let process = match (number("pid"), number("started")) {
            (Some(pid), Some(started)) => Some(ProcessId { pid: pid as u32, started }),
            _ => None,
        };
        Self {
            qmp: Qmp::connect(&qmp_path).ok(),
            qmp_path,
            launched: None,
            process,
            tuning: Tuning::from_text(notes.get("tuning").unwrap_or_default()),
            run_dir: notes.get("run").map(PathBuf::from),
            provisional: false,
        }
    }

    /// What a record must hold to find this QEMU again.
    #[must_use]
    pub fn notes(&self) -> Vec<(&'static str, String)> {
        let mut notes = vec![
            ("qmp", self.qmp_path.to_string_lossy().into_owned()),
            ("tuning", self.tuning.to_text()),
        ];
        if let Some(process) = self.process {
            notes.push(("pid", process.pid.to_string()));
            notes.push(("started", process.started.to_string()));
        }
        if let Some(dir) = &self.run_dir {
            notes.push(("run", dir.to_string_lossy().into_owned()));
        }
        notes
    }

    /// The monitor.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn qmp(&mut self) -> Result<&mut Qmp> {
        match self.qmp {
            Some(ref mut qmp) => Ok(qmp),
            None => Ok(self.qmp.insert(Qmp::connect(&self.qmp_path)?)),
        }
    }

    /// Lets QEMU listen for the stream and connects to it.
    ///
    /// # Errors
    /// QEMU's refusal, or the socket's failure.
    pub fn open_stream(&mut self, socket: &Path, direct: bool) -> Result<UnixStream> {
        let tuning = self.tuning.clone();
        let qmp = self.qmp()?;
        tuning.prepare_target(qmp, direct)?;
        let uri = format!("unix:{}", socket.display());
        qmp.execute("migrate-incoming", json!({"uri": uri}))?;
        let stream = UnixStream::connect(socket)
            .doing(|| format!("connecting to the target QEMU at {}", socket.display()))?;
        let _ = fs::remove_file(socket);
        Ok(stream)
    }

    /// True when QEMU says that the whole guest has been loaded.
    ///
    /// # Errors
    /// The monitor's failure.
    pub fn is_loaded(&mut self) -> Result<bool> {
        let migration = self.qmp()?.execute("query-migrate", json!({}))?;
        Ok(migration.get("status").and_then(Value::as_str) == Some("completed"))
    }

    /// Sets the guest running and waits for RESUME.
    pub fn cont(&mut self) -> Started {
        let Ok(qmp) = self.qmp() else { return Started::Gone };
        while let Ok(Some(_)) = qmp.next_event(Duration::ZERO) {}
        match qmp.execute_within("cont", json!({}), RESUME_TIMEOUT) {
            Ok(_) => {}
            Err(QmpError::Refused { .. }) => {
                let paused = status(qmp).is_ok_and(|s| is_paused(&s));
                return Started::Refused { never_left_paused: paused };
            }
            Err(e) if e.is_gone() => return Started::Gone,
            Err(_) => return Started::Refused { never_left_paused: false },
        }
        match qmp.wait_event(RESUME_TIMEOUT, |event| event.name == "RESUME") {
            Ok(Some(_)) => Started::Running,
            Err(e) if e.is_gone() => Started::Gone,
            _ => match status(qmp) {
                Ok(s) if s == "running" => Started::Running,
                _ => Started::Refused { never_left_paused: false },
            },
        }
    }

    /// What QEMU does now.
    pub fn inspect(&mut self) -> QemuState {
        let Ok(qmp) = self.qmp() else {
            return match self.process {
                // Its monitor is busy or slow; to say "gone" would be a guess.
                Some(process) if process.is_alive() => QemuState::Paused,
                _ => QemuState::Gone,
            };
        };
        match status(qmp) {
            Ok(s) if s == "running" || s == "suspended" => QemuState::Running,
            Ok(s) if is_paused(&s) => QemuState::Paused,
            _ => QemuState::Gone,
        }
    }

    /// Tells the network where the guest is now.
    pub fn announce(&mut self) {
        if let Ok(qmp) = self.qmp() {
            let timing = json!({"initial": 50, "max": 550, "rounds": 5, "step": 100});
            let _ = qmp.execute("announce-self", timing);
        }
    }

    /// Puts capabilities and parameters back, and `x-ignore-shared` off whatever it was: the
    /// guest's next migration would leave its RAM behind.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn restore(&mut self) -> Result<()> {
        let tuning = self.tuning.clone();
        let qmp = self.qmp()?;
        tuning.restore(qmp)?;
        let off = json!([{"capability": "x-ignore-shared", "state": false}]);
        qmp.execute("migrate-set-capabilities", json!({"capabilities": off}))?;
        Ok(())
    }

    /// Ends the process; true once it has ended.
    pub fn destroy(&mut self) -> bool {
        if let Some(mut launched) = self.launched.take() {
            launched.destroy(self.qmp.as_mut());
        } else if let Ok(qmp) = self.qmp() {
            let _ = qmp.execute_within("quit", json!({}), QUIT_TIMEOUT);
            let deadline = Instant::now() + QUIT_TIMEOUT;
            while Instant::now() < deadline && status(qmp).is_ok() {
                std::thread::sleep(POLL);
            }
        }
        self.qmp = None;
        if let Some(process) = self.process {
            process.kill();
        }
        if let Some(dir) = &self.run_dir {
            let _ = fs::remove_dir_all(dir);
        }
        let gone = self.process.is_none_or(|process| !process.is_alive());
        gone && Qmp::connect(&self.qmp_path).is_err()
    }

    /// From here on the job's commit role says what becomes of it.
    pub fn adopt(&mut self) {
        self.provisional = false;
    }

    /// The arrived guest lives on by itself: its RAM file needs no name any more.
    pub fn release(&mut self) {
        if let Some(launched) = &mut self.launched {
            launched.forget_ram_file();
        }
    }
}

fn status(qmp: &mut Qmp) -> std::result::Result<String, QmpError> {
    let status = qmp.execute("query-status", json!({}))?;
    Ok(status.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
}

fn is_paused(status: &str) -> bool {
    matches!(status, "paused" | "prelaunch" | "postmigrate" | "io-error" | "suspended")
}

/// Checks that a given QEMU waits for a guest.
///
/// # Errors
/// [`Class::Conflict`] with its state.
pub fn check_waiting(qmp: &mut Qmp) -> Result<()> {
    match status(qmp)?.as_str() {
        "inmigrate" => Ok(()),
        other => Err(EngineError::new(
            Class::Conflict,
            format!("the target QEMU is in state {other}: start it with -S -incoming defer"),
        )),
    }
}
