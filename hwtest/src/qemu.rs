//! Starts stock QEMU with a guest, two monitor sockets and a watched tick port; ends it on drop, by process id.
//! A QEMU also ends when the thread that started it does, so start it from a thread that lives as long.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dwcp_engine::qmp::Qmp;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::guest::Guest;
use crate::interrupt;
use crate::net::Host;
use crate::probe::{self, QEMU_PROGRAM};
use crate::tick::TickReader;
use crate::workdir::WorkDir;

/// How long QEMU may take from exec to its first greeting.
const START_LIMIT: Duration = Duration::from_secs(20);
/// A guest boots in 2-4 s under emulation; loaded machines are slower, and never is far off.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// What the guest's tick port writes, in the folder of its QEMU.
pub const TICK_FILE: &str = "ticks";
/// In the folder of a QEMU that somebody else starts for us.
pub(crate) const PID_FILE: &str = "qemu.pid";
const QUIT_LIMIT: Duration = Duration::from_secs(10);

/// How guest code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Hardware virtualisation.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Accel {
    /// QEMU's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Machine type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// i440FX.
    Pc,
    /// Q35.
    Q35,
}

impl Machine {
    /// QEMU's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pc => "pc",
            Self::Q35 => "q35",
        }
    }
}

/// What guest memory is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ram {
    /// Plain `-m`.
    Plain,
    /// One shared file on a tmpfs or hugetlbfs, backend `pc.ram`.
    File(PathBuf),
    /// Several NUMA nodes of equal size: private memory, or shared files in a folder.
    Nodes {
        /// How many.
        count: u64,
        /// Where their files go.
        files_in: Option<PathBuf>,
    },
}

/// Where the guest's state comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It boots.
    Boot,
    /// It boots as soon as somebody says `cont`.
    BootPaused,
    /// From a migration, and stays paused then.
    Incoming,
    /// From a migration, and runs by itself then.
    IncomingRunning,
}

/// How a QEMU is started; see [`QemuConfig::for_guest`] for the defaults.
#[derive(Debug, Clone)]
pub struct QemuConfig<'a> {
    /// What it boots.
    pub guest: &'a Guest,
    /// Where it runs; `None` = this host.
    pub host: Option<&'a Host>,
    /// Machine type.
    pub machine: Machine,
    /// Acceleration.
    pub accel: Accel,
    /// Memory size.
    pub memory_mb: u64,
    /// Memory kind.
    pub ram: Ram,
    /// Virtual processors.
    pub smp: u32,
    /// Booted or migrated.
    pub start: Start,
    /// Further arguments.
    pub extra: Vec<String>,
    /// Program instead of the one in PATH.
    pub program: PathBuf,
}

impl<'a> QemuConfig<'a> {
    /// `pc`, one processor, plain memory of the guest's default size, emulation.
    #[must_use]
    pub fn for_guest(guest: &'a Guest) -> Self {
        Self {
            guest,
            host: None,
            machine: Machine::Pc,
            accel: Accel::Tcg,
            memory_mb: guest.memory_mb,
            ram: Ram::Plain,
            smp: 1,
            start: Start::Boot,
            extra: Vec::new(),
            program: QEMU_PROGRAM.into(),
        }
    }

    /// The same machine as a migration target: `-S -incoming defer`.
    #[must_use]
    pub fn as_target(&self) -> Self {
        Self { start: Start::Incoming, ..self.clone() }
    }

    /// The arguments after the program, with sockets and logs in `dir`.
    #[must_use]
    pub fn arguments(&self, dir: &Path) -> Vec<String> {
        let path = |name: &str| dir.join(name).display().to_string();
        let mut args: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
        add(&["-name", "dwcp-guest", "-accel", self.accel.name(), "-display", "none"]);
        add(&["-nodefaults", "-no-reboot"]);
        if self.accel == Accel::Kvm {
            add(&["-cpu", "host"]);
        }
        add(&["-smp", &self.smp.to_string(), "-m", &format!("{}M", self.memory_mb)]);
        for words in self.memory_arguments() {
            add(&[&words]);
        }
        add(&["-kernel", &self.guest.kernel.display().to_string()]);
        add(&["-initrd", &self.guest.initrd.display().to_string()]);
        add(&["-append", &self.guest.command_line()]);
        if let Some(image) = &self.guest.image {
            let drive = format!("file={},format=raw,if=none,id=disk0,readonly=on", image.display());
            add(&["-drive", &drive, "-device", "virtio-blk-pci,drive=disk0"]);
        }
        add(&["-serial", &format!("file:{}", path("console.log"))]);
        let socket = |name: &str| format!("unix:{},server=on,wait=off", path(name));
        add(&["-serial", &format!("file:{}", path(TICK_FILE))]);
        add(&["-qmp", &socket("qmp0.sock"), "-qmp", &socket("qmp1.sock")]);
        add(match self.start {
            Start::Boot => &[],
            Start::BootPaused => &["-S"],
            Start::Incoming => &["-S", "-incoming", "defer"],
            Start::IncomingRunning => &["-incoming", "defer"],
        });
        args.extend(self.extra.iter().cloned());
        args
    }

    /// The launch file of `dwcp-engine receive`: program and arguments, one a line. The engine adds the memory
    /// backend, `-S` and `-incoming`; [`Qemu::adopt`] finds the process again in `dir`, which other users may
    /// write, since the engine may run QEMU as one.
    ///
    /// # Errors
    /// The folder's mode cannot be changed.
    pub fn launch_lines(&self, dir: &WorkDir) -> Result<String> {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777))?;
        let config = QemuConfig { start: Start::Boot, ram: Ram::Plain, ..self.clone() };
        let mut lines = vec![QEMU_PROGRAM.to_owned()];
        lines.extend(config.arguments(dir.path()));
        lines.extend(["-pidfile".into(), dir.join(PID_FILE).display().to_string()]);
        lines.push(String::new());
        Ok(lines.join("\n"))
    }

    fn memory_arguments(&self) -> Vec<String> {
        let machine = self.machine.name();
        let file = |id: &str, mb: u64, path: &Path| {
            let path = path.display();
            format!("memory-backend-file,id={id},size={mb}M,mem-path={path},share=on")
        };
        match &self.ram {
            Ram::Plain => vec!["-machine".into(), machine.into()],
            Ram::File(path) => vec![
                "-object".into(),
                file("pc.ram", self.memory_mb, path),
                "-machine".into(),
                format!("{machine},memory-backend=pc.ram"),
            ],
            Ram::Nodes { count, files_in } => {
                let mut args = vec!["-machine".into(), machine.into()];
                let mb = self.memory_mb / count;
                for node in 0..*count {
                    let id = format!("ram{node}");
                    let object = match files_in {
                        Some(dir) => file(&id, mb, &dir.join(&id)),
                        None => format!("memory-backend-ram,id={id},size={mb}M"),
                    };
                    args.extend(["-object".into(), object, "-numa".into()]);
                    args.push(format!("node,nodeid={node},memdev={id}"));
                }
                args
            }
        }
    }
}

/// `program` in `host`, in a process group of its own, killed with its parent thread.
#[must_use]
pub fn owned_command(host: Option<&Host>, program: &Path) -> Command {
    let here = Host::Loopback;
    let host = host.unwrap_or(&here);
    let mut command = if probe::has_program("setpriv") {
        let mut command = host.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        host.command(program)
    };
    command.process_group(0);
    command
}

/// A process that is ours, or one that an engine started for us.
#[derive(Debug)]
enum Process {
    Child(Child),
    Adopted {
        pid: Pid,
        /// The engine's folder for monitor and log, and its RAM file: left to whoever ends the guest.
        left: Vec<PathBuf>,
    },
}

/// A running QEMU.
#[derive(Debug)]
pub struct Qemu {
    process: Process,
    qmp: Qmp,
    ticks: TickReader,
    machine: Machine,
    memory_bytes: u64,
    dir: WorkDir,
}

impl Qemu {
    /// Starts it and connects to its first monitor and its tick port.
    ///
    /// # Errors
    /// It does not start; the message carries its own words.
    pub fn start(config: &QemuConfig<'_>) -> Result<Self> {
        let dir = WorkDir::new()?;
        let log = dir.join("stderr.log");
        let mut child = owned_command(config.host, &config.program)
            .args(config.arguments(dir.path()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("starting {}", config.program.display()))?;
        match connect(&mut child, dir.path(), &log) {
            Ok((qmp, ticks)) => Ok(Self {
                process: Process::Child(child),
                qmp,
                ticks,
                machine: config.machine,
                memory_bytes: config.memory_mb << 20,
                dir,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Takes over a QEMU that an engine starts with [`QemuConfig::launch_lines`] in `dir`, as soon as it is there.
    ///
    /// # Errors
    /// It does not appear within `limit`, or `cancelled` says that it never will.
    pub fn adopt(
        config: &QemuConfig<'_>,
        dir: WorkDir,
        limit: Duration,
        mut cancelled: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        let (qmp, pid) = interrupt::wait_until("the launched QEMU", limit, || {
            cancelled()?;
            let Some(pid) = read_pid(&dir.join(PID_FILE)) else { return Ok(None) };
            Ok(Qmp::connect(&dir.join("qmp0.sock")).ok().map(|qmp| (qmp, pid)))
        })?;
        let ticks = TickReader::follow(&dir.join(TICK_FILE))?;
        Ok(Self {
            process: Process::Adopted { pid, left: left_by_engine(pid, dir.path()) },
            qmp,
            ticks,
            machine: config.machine,
            memory_bytes: config.memory_mb << 20,
            dir,
        })
    }

    /// Starts a guest and waits for its first ticks.
    ///
    /// # Errors
    /// As [`Qemu::start`]; the guest does not come up: the message carries its console.
    pub fn boot(config: &QemuConfig<'_>) -> Result<Self> {
        let qemu = Self::start(config)?;
        if let Err(error) = qemu.ticks.wait_for(2, BOOT_LIMIT) {
            let console = fs::read_to_string(qemu.dir.join("console.log")).unwrap_or_default();
            let tail: Vec<&str> = console.lines().rev().take(3).collect();
            bail!("the guest did not come up: {error}; console: {tail:?}");
        }
        Ok(qemu)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match &self.process {
            Process::Child(child) => child.id(),
            Process::Adopted { pid, .. } => pid.as_raw_nonzero().get().unsigned_abs(),
        }
    }

    /// Its folder, with `console.log`, `stderr.log` and the sockets.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Socket of the second monitor, free for an engine.
    #[must_use]
    pub fn engine_qmp(&self) -> PathBuf {
        self.dir.join("qmp1.sock")
    }

    /// The first monitor, held by the harness.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// The tick port.
    #[must_use]
    pub fn ticks(&mut self) -> &TickReader {
        &self.ticks
    }

    /// Machine type.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// Guest memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Run state: `running`, `paused`, `postmigrate`, ...
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn status(&mut self) -> Result<String> {
        let status = self.qmp.execute("query-status", json!({}))?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Runs a QMP command.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        Ok(self.qmp.execute(command, arguments)?)
    }

    /// What QEMU wrote on standard error.
    #[must_use]
    pub fn errors(&self) -> String {
        fs::read_to_string(self.dir.join("stderr.log")).unwrap_or_default()
    }

    /// True while the process lives.
    pub fn is_alive(&mut self) -> bool {
        match &mut self.process {
            Process::Child(child) => matches!(child.try_wait(), Ok(None)),
            Process::Adopted { pid, .. } => rustix::process::test_kill_process(*pid).is_ok(),
        }
    }

    /// SIGKILL, as a crash.
    pub fn kill(&mut self) {
        match &mut self.process {
            Process::Child(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Adopted { pid, left } => {
                let _ = rustix::process::kill_process(*pid, Signal::KILL);
                for path in left.drain(..) {
                    let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
                }
            }
        }
    }

    /// Asks QEMU to end and waits for it.
    ///
    /// # Errors
    /// It does not end.
    pub fn quit(mut self) -> Result<()> {
        let _ = self.qmp.execute("quit", json!({}));
        interrupt::wait_until("end of QEMU", QUIT_LIMIT, || Ok((!self.is_alive()).then_some(())))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The process a pid file names.
pub(crate) fn read_pid(path: &Path) -> Option<Pid> {
    let text = fs::read_to_string(path).ok()?;
    Pid::from_raw(text.trim().parse().ok()?)
}

/// What a launched QEMU's command line names that the engine made: the folder of the monitor socket `qmp.sock`
/// and the RAM file.
fn left_by_engine(pid: Pid, ours: &Path) -> Vec<PathBuf> {
    let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let words = fs::read_to_string(path).unwrap_or_default();
    let monitor = words
        .split('\0')
        .filter_map(|word| word.strip_prefix("unix:")?.split(',').next())
        .map(Path::new)
        .filter(|path| path.file_name().is_some_and(|name| name == "qmp.sock"))
        .filter_map(Path::parent);
    let ram = words.split(['\0', ',']).filter_map(|word| word.strip_prefix("mem-path="));
    monitor.chain(ram.map(Path::new)).filter(|p| !p.starts_with(ours)).map(Path::to_owned).collect()
}

fn connect(child: &mut Child, dir: &Path, log: &Path) -> Result<(Qmp, TickReader)> {
    let socket = dir.join("qmp0.sock");
    let qmp = interrupt::wait_until("QEMU's monitor", START_LIMIT, || {
        if let Some(status) = child.try_wait()? {
            let words = fs::read_to_string(log).unwrap_or_default();
            bail!("QEMU ended with {status}: {}", words.trim());
        }
        Ok(Qmp::connect(&socket).ok())
    })?;
    let ticks = TickReader::follow(&dir.join(TICK_FILE))?;
    Ok((qmp, ticks))
}
