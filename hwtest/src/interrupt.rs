//! Ctrl-C and SIGTERM as a flag that waiting loops look at, so that owners still drop and clean up.

use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How often a waiting loop looks at its condition.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT, SIGTERM and SIGHUP set the flag instead of ending the process.
///
/// # Errors
/// The handlers cannot be installed.
pub fn install() -> Result<()> {
    let flag = FLAG.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// A signal has come.
#[must_use]
pub fn requested() -> bool {
    FLAG.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// An error once a signal has come.
///
/// # Errors
/// "interrupted".
pub fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs a program of ours to its end; a signal that comes meanwhile is passed on to it as SIGTERM.
///
/// # Errors
/// It cannot be started, or we were asked to end.
pub fn run_child(command: &mut Command) -> Result<ExitStatus> {
    let mut child = command.spawn()?;
    while !requested() {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    child.wait()?;
    bail!("interrupted")
}

/// Polls `done` until it gives a value; `what` names the wait in the time-out's message.
///
/// # Errors
/// The condition's own error, the time-out, or a signal.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        check()?;
        if Instant::now() >= deadline {
            bail!("{what}: nothing within {} s", limit.as_secs_f64());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
