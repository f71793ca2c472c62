//! QEMU's own live migration, as the peer to compare with, and its saved states.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use crate::interrupt;
use crate::qemu::Qemu;

/// Far above any link here; QEMU's default of 128 MiB/s would be the bottleneck.
const MAX_BANDWIDTH_BYTES_PER_S: u64 = 100 << 30;
/// QEMU's own default, set so that every mode has the same.
pub const DOWNTIME_LIMIT_MS: u64 = 300;
const LISTEN_LIMIT: Duration = Duration::from_secs(10);

/// How QEMU moves a guest by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Method {
    /// Number of multifd channels; `None` = one stream.
    pub multifd: Option<u8>,
    /// zstd level on the multifd channels.
    pub zstd: Option<u8>,
    /// Deltas of pages sent before, on one stream; cache size in bytes.
    pub xbzrle_cache_bytes: Option<u64>,
}

/// What QEMU's `query-migrate` said at the end.
#[derive(Debug, Clone, Default, Serialize)]
pub struct QemuResult {
    /// From `migrate` to completion.
    pub total_ms: u64,
    /// Its own figure.
    pub downtime_ms: u64,
    /// Rounds over the dirty bitmap.
    pub rounds: u64,
    /// Bytes of pages and their headers, by its own count.
    pub transferred_bytes: u64,
}

/// Sets the capabilities and parameters of a method on one side.
///
/// # Errors
/// This QEMU lacks one.
pub fn configure(qemu: &mut Qemu, method: Method) -> Result<()> {
    let capability = |name: &str, state: bool| json!({"capability": name, "state": state});
    qemu.execute(
        "migrate-set-capabilities",
        json!({"capabilities": [
            capability("events", true),
            capability("multifd", method.multifd.is_some()),
            capability("xbzrle", method.xbzrle_cache_bytes.is_some()),
        ]}),
    )?;
    let mut parameters = json!({
        "max-bandwidth": MAX_BANDWIDTH_BYTES_PER_S,
        "downtime-limit": DOWNTIME_LIMIT_MS,
        "multifd-compression": if method.zstd.is_some() { "zstd" } else { "none" },
    });
    if let Some(channels) = method.multifd {
        parameters["multifd-channels"] = channels.into();
    }
    if let Some(level) = method.zstd {
        parameters["multifd-zstd-level"] = level.into();
    }
    if let Some(bytes) = method.xbzrle_cache_bytes {
        parameters["xbzrle-cache-size"] = bytes.into();
    }
    qemu.execute("migrate-set-parameters", parameters)?;
    Ok(())
}

/// Lets a target started with `-incoming defer` listen.
///
/// # Errors
/// The address is taken.
pub fn listen(target: &mut Qemu, uri: &str) -> Result<()> {
    target.qmp().execute_within("migrate-incoming", json!({"uri": uri}), LISTEN_LIMIT)?;
    Ok(())
}

/// The address a listening target took, for an address with port 0.
///
/// # Errors
/// It does not listen.
pub fn listening_uri(target: &mut Qemu) -> Result<String> {
    let info = target.execute("query-migrate", json!({}))?;
    let address = info.pointer("/socket-address/0").context("the target does not listen")?;
    match (address["host"].as_str(), address["port"].as_str()) {
        (Some(host), Some(port)) => Ok(format!("tcp:{host}:{port}")),
        _ => bail!("the target listens on no TCP address: {address}"),
    }
}

/// Moves the running guest; both sides configured and the target listening. The guest runs on the target at
/// the end: `cont` is sent as soon as the target reports completion, as its `-S` asks for.
///
/// # Errors
/// The migration fails or takes longer than `limit`; the guest then runs on the source.
pub fn run(source: &mut Qemu, target: &mut Qemu, uri: &str, limit: Duration) -> Result<QemuResult> {
    start(source, uri)?;
    // The target's completion comes at the end of the downtime; waiting for its event rather than polling adds
    // nothing to it.
    wait_event(target, "completed", limit)?;
    target.execute("cont", json!({}))?;
    finish(source, limit)
}

/// Begins an outgoing migration.
///
/// # Errors
/// QEMU refuses.
pub fn start(source: &mut Qemu, uri: &str) -> Result<()> {
    source.execute("migrate", json!({"uri": uri}))?;
    Ok(())
}

fn wait_event(qemu: &mut Qemu, wanted: &str, limit: Duration) -> Result<()> {
    let step = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    loop {
        let event = qemu.qmp().next_event(step)?;
        let status = event.filter(|e| e.name == "MIGRATION").map(|e| e.data["status"].clone());
        match status.as_ref().and_then(Value::as_str) {
            Some(status) if status == wanted => return Ok(()),
            Some("failed") => bail!("QEMU's migration failed: {}", qemu.errors().trim()),
            Some(_) => {}
            None => waited += step,
        }
        interrupt::check()?;
        if waited > limit {
            bail!("QEMU's migration did not end within {} s", limit.as_secs());
        }
    }
}

/// Waits for the source's own end and reads its figures.
///
/// # Errors
/// The migration failed or did not end in time.
pub fn finish(source: &mut Qemu, limit: Duration) -> Result<QemuResult> {
    let info = interrupt::wait_until("end of QEMU's migration", limit, || {
        let info = source.execute("query-migrate", json!({}))?;
        match info["status"].as_str() {
            Some("completed") => Ok(Some(info)),
            Some("failed" | "cancelled") => {
                bail!("QEMU's migration failed: {}", info["error-desc"].as_str().unwrap_or("?"))
            }
            _ => Ok(None),
        }
    })?;
    let number = |pointer: &str| info.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    Ok(QemuResult {
        total_ms: number("/total-time"),
        downtime_ms: number("/downtime"),
        rounds: number("/ram/dirty-sync-count"),
        transferred_bytes: number("/ram/transferred"),
    })
}

/// Stops the guest and writes its whole state to a file.
///
/// # Errors
/// No space, or QEMU fails.
pub fn save_state(qemu: &mut Qemu, file: &Path, limit: Duration) -> Result<()> {
    qemu.execute("stop", json!({}))?;
    configure(qemu, Method::default())?;
    start(qemu, &format!("exec:cat > {}", file.display()))?;
    finish(qemu, limit).context("saving the guest's state")?;
    Ok(())
}

/// Loads a saved state into a target started with `-incoming defer`; the guest stays paused.
///
/// # Errors
/// The state is of another machine.
pub fn load_state(qemu: &mut Qemu, file: &Path, limit: Duration) -> Result<()> {
    configure(qemu, Method::default())?;
    listen(qemu, &format!("exec:cat {}", file.display()))?;
    wait_event(qemu, "completed", limit).context("restoring the guest's state")?;
    Ok(())
}
