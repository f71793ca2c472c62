//! Starting a target QEMU from a file with one argument a line, without a shell: paused, waiting for
//! a migration, with its RAM in a file of ours. The process outlives the engine on purpose.

use std::fs::{self, File};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Class, Doing, EngineError, Result};
use crate::qmp::Qmp;

/// How long a fresh QEMU may take to open its monitor.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const START_POLL: Duration = Duration::from_millis(10);
/// How long a QEMU may take to go after `quit`, before it is killed.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
const LAUNCH_FILE_BYTES_MAX: u64 = 64 << 10;
const SAID_CHARS_MAX: usize = 300;
/// The user a launched QEMU runs as when we are root and it exists.
const DEFAULT_USER: &str = "dwcp-qemu";

/// The command of a launch file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFile {
    program: String,
    arguments: Vec<String>,
}

impl LaunchFile {
    /// Reads the file: first the program, then one argument a line; empty lines and lines that begin
    /// with `#` are left out.
    ///
    /// # Errors
    /// The file cannot be read, is empty, or holds what the engine sets itself.
    pub fn read(path: &Path) -> Result<Self> {
        let size = fs::metadata(path).doing(|| format!("--launch {}", path.display()))?.len();
        if size > LAUNCH_FILE_BYTES_MAX {
            return Err(usage(path, "is larger than any command line"));
        }
        let text = fs::read_to_string(path).doing(|| format!("--launch {}", path.display()))?;
        let mut lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned);
        let program = lines.next().ok_or_else(|| usage(path, "names no program"))?;
        let arguments: Vec<String> = lines.collect();
        for set_by_us in ["-incoming", "-daemonize"] {
            if arguments.iter().any(|a| a.trim_start_matches('-') == &set_by_us[1..]) {
                return Err(usage(path, &format!("must not hold {set_by_us}: the engine sets it")));
            }
        }
        Ok(Self { program, arguments })
    }

    /// True when the file names its own memory backend, so that we must not add one.
    fn has_backend(&self) -> bool {
        self.arguments.iter().any(|a| a.contains("memory-backend") || a.contains("memdev="))
    }
}

fn usage(path: &Path, what: &str) -> EngineError {
    EngineError::new(Class::Usage, format!("--launch {} {what}", path.display()))
}

/// Where a job's QEMU keeps its things.
#[derive(Debug, Clone)]
pub struct LaunchPlan<'a> {
    /// The job's id, also for `{job}` in the file.
    pub job: &'a str,
    /// Folder for sockets and logs of the job, also for `{run}` in the file.
    pub run_dir: &'a Path,
    /// Folder for RAM, also for `{ram}` in the file.
    pub ram_dir: &'a Path,
    /// Name and size in bytes of the guest's main RAM block.
    pub ram: Option<(&'a str, u64)>,
    /// The user QEMU runs as.
    pub user: Option<&'a str>,
}

/// A QEMU we started.
#[derive(Debug)]
pub struct Launched {
    child: Child,
    /// Its monitor.
    pub qmp_path: PathBuf,
    /// The RAM file we made, if we made one.
    pub ram_file: Option<PathBuf>,
}

impl Launched {
    /// Starts QEMU and waits for its monitor.
    ///
    /// # Errors
    /// The program cannot be started, or ends before its monitor opens; then its last words are in
    /// the error.
    pub fn start(file: &LaunchFile, plan: &LaunchPlan<'_>) -> Result<(Self, Qmp)> {
        fs::create_dir_all(plan.run_dir)
            .doing(|| format!("creating {}", plan.run_dir.display()))?;
        let user = user_ids(plan.user)?;
        let qmp_path = plan.run_dir.join("qmp.sock");
        let ram_file = match plan.ram {
            Some((name, bytes)) if !file.has_backend() => {
                Some((name, make_ram_file(plan, bytes, user)?, bytes))
            }
            _ => None,
        };
        if let Some((uid, gid)) = user {
            chown(plan.run_dir, Some(uid), Some(gid))
                .doing(|| format!("giving {} to QEMU's user", plan.run_dir.display()))?;
        }
        let log_path = plan.run_dir.join("qemu.log");
        let log = File::create(&log_path).doing(|| format!("creating {}", log_path.display()))?;
        let mut command = Command::new(&file.program);
        command.args(file.arguments.iter().map(|a| filled_in(a, plan)));
        if let Some((name, path, bytes)) = &ram_file {
            command.arg("-object").arg(format!(
                "memory-backend-file,id={name},size={bytes},mem-path={},share=on",
                path.display()
            ));
            command.arg("-machine").arg(format!("memory-backend={name}"));
        }
        if !file.arguments.iter().any(|a| a == "-sandbox") {
            command.args(["-sandbox", "on"]);
        }
        command.args(["-S", "-incoming", "defer", "-qmp"]);
        command.arg(format!("unix:{},server=on,wait=off", qmp_path.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().doing(|| format!("starting {}", file.program))?;
        let mut launched = Self { child, qmp_path, ram_file: ram_file.map(|(_, path, _)| path) };
        match launched.await_monitor(&log_path) {
            Ok(qmp) => Ok((launched, qmp)),
            Err(e) => {
                launched.destroy(None);
                Err(e)
            }
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The RAM file can be unlinked as soon as QEMU has it mapped and we do: nothing is left behind
    /// by a crash then.
    pub fn forget_ram_file(&mut self) {
        if let Some(path) = self.ram_file.take() {
            let _ = fs::remove_file(path);
        }
    }

    /// Ends this QEMU: `quit`, then SIGKILL. A target that failed is never used again.
    pub fn destroy(&mut self, qmp: Option<&mut Qmp>) {
        if let Some(qmp) = qmp {
            let _ = qmp.execute_within("quit", serde_json::json!({}), QUIT_TIMEOUT);
            let deadline = Instant::now() + QUIT_TIMEOUT;
            while Instant::now() < deadline {
                if matches!(self.child.try_wait(), Ok(Some(_))) {
                    break;
                }
                std::thread::sleep(START_POLL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.forget_ram_file();
    }

    fn await_monitor(&mut self, log_path: &Path) -> Result<Qmp> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                let text =
                    format!("the target QEMU ended at once ({status}): {}", last_words(log_path));
                return Err(EngineError::new(Class::Resource, text));
            }
            match Qmp::connect(&self.qmp_path) {
                Ok(qmp) => return Ok(qmp),
                Err(e) if Instant::now() > deadline => return Err(e.into()),
                Err(_) => std::thread::sleep(START_POLL),
            }
        }
    }
}

fn filled_in(argument: &str, plan: &LaunchPlan<'_>) -> String {
    argument
        .replace("{job}", plan.job)
        .replace("{run}", &plan.run_dir.to_string_lossy())
        .replace("{ram}", &plan.ram_dir.to_string_lossy())
}

fn make_ram_file(plan: &LaunchPlan<'_>, bytes: u64, user: Option<(u32, u32)>) -> Result<PathBuf> {
    let path = plan.ram_dir.join(format!("{}.ram", plan.job));
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .doing(|| format!("creating the guest's RAM file {}", path.display()))?;
    file.set_len(bytes).doing(|| format!("sizing {} to {bytes} bytes", path.display()))?;
    if let Some((uid, gid)) = user {
        chown(&path, Some(uid), Some(gid))
            .doing(|| format!("giving {} to QEMU", path.display()))?;
        // The folder itself stays closed to listing; its owner alone may walk through by name.
        let _ = fs::set_permissions(plan.ram_dir, fs::Permissions::from_mode(0o711));
    }
    Ok(path)
}

fn last_words(log: &Path) -> String {
    let said = fs::read_to_string(log).unwrap_or_default();
    let line = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
    line.chars().take(SAID_CHARS_MAX).collect()
}

/// The user to run as: the named one, else the default one if root finds it, else our own.
fn user_ids(name: Option<&str>) -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return match name {
            None => Ok(None),
            Some(name) => Err(EngineError::new(
                Class::Resource,
                format!("--user {name}: only root can start QEMU as another user"),
            )),
        };
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let find = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(wanted)).then_some(())?;
            let uid = fields.nth(1)?.parse().ok()?;
            Some((uid, fields.next()?.parse().ok()?))
        })
    };
    match name {
        None => Ok(find(DEFAULT_USER)),
        Some(name) => find(name).map(Some).ok_or_else(|| {
            EngineError::new(Class::NotFound, format!("--user {name}: no such user on this host"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dwcp-launch-{}", uuid::Uuid::new_v4()));
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn one_argument_a_line() {
        let file = LaunchFile::read(&write("qemu\n# a note\n\n-m\n 64\n-name\n{job} x\n")).unwrap();
        assert_eq!(file.program, "qemu");
        assert_eq!(file.arguments, ["-m", "64", "-name", "{job} x"]);
        assert!(!file.has_backend());
    }

    #[test]
    fn what_we_set_is_refused() {
        for wrong in ["", "# nothing\n", "qemu\n-incoming\ndefer\n", "qemu\n--daemonize\n"] {
            assert_eq!(
                LaunchFile::read(&write(wrong)).unwrap_err().class(),
                Class::Usage,
                "{wrong}"
            );
        }
    }

    #[test]
    fn last_words_are_reported() {
        let dir = std::env::temp_dir().join(format!("dwcp-run-{}", uuid::Uuid::new_v4()));
        let file = LaunchFile {
            program: "sh".into(),
            arguments: vec!["-c".into(), "echo no disk >&2; exit 1".into()],
        };
        let plan = LaunchPlan { job: "j", run_dir: &dir, ram_dir: &dir, ram: None, user: None };
        let error = Launched::start(&file, &plan).unwrap_err().to_string();
        assert!(error.contains("no disk"), "{error}");
    }
}
