//! What this machine can do. A missing capability is a reported, counted skip, never a pass.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guest::Guest;
use crate::qemu::{Accel, Qemu, QemuConfig};
use crate::run;

/// The hypervisor binary, looked up in PATH.
pub const QEMU_PROGRAM: &str = "qemu-system-x86_64";
/// A guest under a usable KVM ticks long before this.
const KVM_PROBE_LIMIT: Duration = Duration::from_secs(4);

/// Something this machine lacks; the words say how to get it.
#[derive(Debug)]
pub struct Missing(pub String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

static SKIPS: AtomicUsize = AtomicUsize::new(0);

/// Reports a skip on standard error, past the test runner's capture, and counts it: in this process and as
/// a line of the file `$DWCP_SKIP_LOG`.
///
/// # Panics
/// When `$DWCP_NO_SKIP` is set: machines that have everything must not skip.
pub fn skip(reason: &str) {
    SKIPS.fetch_add(1, Ordering::Relaxed);
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let line = format!("SKIP: {test}: {reason}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("DWCP_SKIP_LOG")
        && let Ok(mut log) = OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = log.write_all(line.as_bytes());
    }
    assert!(std::env::var_os("DWCP_NO_SKIP").is_none(), "skipped where nothing may be: {reason}");
}

/// Skips reported by this process.
#[must_use]
pub fn skips() -> usize {
    SKIPS.load(Ordering::Relaxed)
}

/// `program` is in PATH.
#[must_use]
pub fn has_program(program: &str) -> bool {
    find_program(program).is_some()
}

fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
}

/// We run as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Why namespaces cannot be made here, if so.
///
/// # Errors
/// The reason.
pub fn namespaces() -> Result<()> {
    if !is_root() {
        bail!(Missing("network namespaces need root".into()));
    }
    for program in ["ip", "tc", "nsenter"] {
        if !has_program(program) {
            bail!(Missing(format!("{program} is not installed (make setup)")));
        }
    }
    let name = crate::workdir::unique_name();
    run::line(&format!("ip netns add {name}")).context("network namespaces")?;
    run::line(&format!("ip netns del {name}"))?;
    Ok(())
}

/// QEMU's version, for example `10.0.2`.
///
/// # Errors
/// It is not installed.
pub fn qemu_version() -> Result<String> {
    if !has_program(QEMU_PROGRAM) {
        bail!(Missing(format!("{QEMU_PROGRAM} is not installed (make setup)")));
    }
    let text = run::line(&format!("{QEMU_PROGRAM} --version"))?;
    let version = text.split_whitespace().nth(3).context("QEMU names no version")?;
    Ok(version.to_owned())
}

/// KVM when a real guest runs under it, else emulation. Probed once per boot of the host.
#[must_use]
pub fn accel() -> Accel {
    static ACCEL: OnceLock<Accel> = OnceLock::new();
    *ACCEL.get_or_init(|| {
        let writable = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if writable && remembered_kvm_probe() { Accel::Kvm } else { Accel::Tcg }
    })
}

/// The answer is kept in a file named by the boot, since a failing probe takes seconds.
fn remembered_kvm_probe() -> bool {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let memo = crate::workdir::cache_dir().join(format!("kvm-{}", boot.trim()));
    if let Ok(answer) = std::fs::read_to_string(&memo) {
        return answer == "usable";
    }
    let usable = kvm_runs_a_guest().is_ok();
    let _ = std::fs::write(&memo, if usable { "usable" } else { "unusable" });
    usable
}

fn kvm_runs_a_guest() -> Result<()> {
    let guest = Guest::small()?;
    let mut qemu = Qemu::start(&QemuConfig { accel: Accel::Kvm, ..QemuConfig::for_guest(&guest) })?;
    qemu.ticks().wait_for(1, KVM_PROBE_LIMIT).map(|_| ())
}

/// Everything a test with a real guest needs, or the reason to skip.
///
/// # Errors
/// What is missing.
pub fn guest_lab() -> Result<Guest> {
    qemu_version()?;
    Guest::small().context("no guest kernel")
}

/// Load average of the last minute.
#[must_use]
pub fn load_average() -> f64 {
    std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0)
}

/// The commit of the source tree this was built in, with `+` for local changes; empty when unknown.
#[must_use]
pub fn commit() -> String {
    let git = |args: &[&str]| {
        Command::new("git")
            .arg("-C")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")))
            .args(args)
            .stderr(Stdio::null())
            .output()
            .ok()
            .filter(|o| o.status.success())
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short", "HEAD"]) else { return String::new() };
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).unwrap_or_default();
    if dirty.is_empty() { head } else { format!("{head}+") }
}

/// A short name of this machine for records: processor count and model.
#[must_use]
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpus = info.lines().filter(|l| l.starts_with("processor")).count();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, m)| m.trim()))
        .unwrap_or("unknown");
    let model: String = model
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let parts: Vec<&str> = model.split('-').filter(|p| !p.is_empty()).take(6).collect();
    format!("{cpus}x-{}", parts.join("-"))
}
