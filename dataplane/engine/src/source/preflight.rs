//! What must hold before a guest is touched, on the source's side.

use crate::error::{Class, EngineError, Result};
use crate::qemu::ram::ram_blocks;
use crate::qemu::{GuestFacts, RamBlockInfo};
use crate::qmp::Qmp;

/// The oldest QEMU whose stream we know.
const QEMU_MIN: (u32, u32) = (7, 2);

/// Gathers the guest's facts and refuses what cannot be moved.
///
/// # Errors
/// The reason by name; nothing has been changed.
pub fn check(qmp: &mut Qmp) -> Result<(GuestFacts, Vec<RamBlockInfo>)> {
    let (major, minor, _) = qmp.version();
    let refuse = |text: String| Err(EngineError::new(Class::Conflict, text));
    if (major, minor) < QEMU_MIN {
        return refuse(format!("QEMU {major}.{minor} is too old: 7.2 is the first that we drive"));
    }
    let facts = GuestFacts::gather(qmp)?;
    if let Some(reason) = facts.blocked_reasons.first() {
        return refuse(format!("QEMU says that this guest cannot migrate: {reason}"));
    }
    match facts.status.as_str() {
        "running" | "paused" | "suspended" | "io-error" | "prelaunch" => {}
        "inmigrate" => {
            return refuse("this QEMU waits for a guest to arrive: --qmp wants the source".into());
        }
        "postmigrate" | "finish-migrate" => {
            return refuse(format!(
                "the guest has left this QEMU already (status {})",
                facts.status
            ));
        }
        other => return refuse(format!("a guest in state {other} cannot be moved")),
    }
    let migration = qmp.execute("query-migrate", serde_json::json!({}))?;
    let status = migration.get("status").and_then(serde_json::Value::as_str).unwrap_or("none");
    if matches!(status, "setup" | "active" | "device" | "pre-switchover" | "postcopy-active") {
        return refuse(format!("a migration of this guest is under way already (status {status})"));
    }
    let blocks = ram_blocks(qmp)?;
    if blocks.is_empty() {
        return refuse("QEMU lists no RAM blocks (info ramblock)".into());
    }
    Ok((facts, blocks))
}
