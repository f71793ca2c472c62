//! Migration capabilities and parameters: what a job needs set, and the way back.
//! A job remembers each value it changes, and every outcome puts all of them back.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::qmp::{Qmp, QmpError};

/// Bandwidth QEMU may use on its local socket: in effect no limit; the session holds the rate.
pub const LOCAL_BANDWIDTH_BYTES_PER_S: u64 = 1 << 42;
/// The longest downtime QEMU can be told (2000 s): used once the guest is stopped by us.
pub const DOWNTIME_LIMIT_MS_MAX: u64 = 2_000_000;

/// Capabilities that would change the stream into one we do not carry.
const UNWANTED: [&str; 12] = [
    "xbzrle",
    "multifd",
    "mapped-ram",
    "postcopy-ram",
    "postcopy-preempt",
    "background-snapshot",
    "x-colo",
    "zero-copy-send",
    "pause-before-switchover",
    "x-ignore-shared",
    "rdma-pin-all",
    "compress",
];

/// What one QEMU had before the job, as (name, value).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    capabilities: Map<String, Value>,
    parameters: Map<String, Value>,
}

impl Tuning {
    /// Reads all capabilities and parameters.
    ///
    /// # Errors
    /// The monitor's failure.
    pub fn read(qmp: &mut Qmp) -> Result<Self, QmpError> {
        let listed = qmp.execute("query-migrate-capabilities", json!({}))?;
        let mut capabilities = Map::new();
        for entry in listed.as_array().into_iter().flatten() {
            if let (Some(name), Some(state)) =
                (entry.get("capability").and_then(Value::as_str), entry.get("state"))
            {
                capabilities.insert(name.to_owned(), state.clone());
            }
        }
        let parameters = qmp.execute("query-migrate-parameters", json!({}))?;
        let parameters = parameters.as_object().cloned().unwrap_or_default();
        Ok(Self { capabilities, parameters })
    }

    /// True when this QEMU knows the capability.
    #[must_use]
    pub fn knows(&self, capability: &str) -> bool {
        self.capabilities.contains_key(capability)
    }

    /// Prepares the source: plain main stream, return path, held switch-over where there is one.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn prepare_source(&self, qmp: &mut Qmp, max_downtime_ms: u64) -> Result<(), QmpError> {
        let mut wanted = vec![("return-path", true), ("events", true)];
        let held = self.knows("switchover-ack");
        if held {
            wanted.push(("switchover-ack", true));
        }
        wanted.extend(UNWANTED.map(|name| (name, false)));
        self.set_capabilities(qmp, &wanted)?;
        // Without a held switch-over a tiny limit keeps QEMU iterating until we have stopped the guest.
        let limit = if held { max_downtime_ms.clamp(1, DOWNTIME_LIMIT_MS_MAX) } else { 1 };
        qmp.execute(
            "migrate-set-parameters",
            json!({"max-bandwidth": LOCAL_BANDWIDTH_BYTES_PER_S, "downtime-limit": limit}),
        )?;
        Ok(())
    }

    /// Prepares the target; `direct` leaves the shared RAM to us.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn prepare_target(&self, qmp: &mut Qmp, direct: bool) -> Result<(), QmpError> {
        let mut wanted: Vec<(&str, bool)> = UNWANTED.map(|name| (name, false)).to_vec();
        wanted.extend([("return-path", true), ("events", true), ("x-ignore-shared", direct)]);
        if self.knows("switchover-ack") {
            wanted.push(("switchover-ack", true));
        }
        if qmp.version().0 < 10 {
            wanted.push(("late-block-activate", true));
        }
        self.set_capabilities(qmp, &wanted)?;
        qmp.execute("migrate-set-parameters", json!({"announce-rounds": 0}))?;
        Ok(())
    }

    /// Puts back every capability and parameter that a job may have changed.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn restore(&self, qmp: &mut Qmp) -> Result<(), QmpError> {
        let mut wanted: Vec<(&str, bool)> = Vec::new();
        for name in UNWANTED.iter().copied().chain([
            "return-path",
            "events",
            "switchover-ack",
            "late-block-activate",
        ]) {
            if let Some(state) = self.capabilities.get(name).and_then(Value::as_bool) {
                wanted.push((name, state));
            }
        }
        // What a job switched on goes off first: some capabilities exclude each other.
        wanted.sort_by_key(|(_, on)| *on);
        self.set_capabilities(qmp, &wanted)?;
        let mut back = Map::new();
        for name in ["max-bandwidth", "downtime-limit", "announce-rounds"] {
            if let Some(value) = self.parameters.get(name) {
                back.insert(name.to_owned(), value.clone());
            }
        }
        qmp.execute("migrate-set-parameters", Value::Object(back))?;
        Ok(())
    }

    fn set_capabilities(&self, qmp: &mut Qmp, wanted: &[(&str, bool)]) -> Result<(), QmpError> {
        let list: Vec<Value> = wanted
            .iter()
            .filter(|(name, _)| self.knows(name))
            .map(|(name, state)| json!({"capability": name, "state": state}))
            .collect();
        qmp.execute("migrate-set-capabilities", json!({"capabilities": list}))?;
        Ok(())
    }
}

/// Lets QEMU switch over however much is left: the guest is stopped already.
///
/// # Errors
/// QEMU's refusal.
pub fn lift_downtime_limit(qmp: &mut Qmp) -> Result<(), QmpError> {
    qmp.execute("migrate-set-parameters", json!({"downtime-limit": DOWNTIME_LIMIT_MS_MAX}))?;
    Ok(())
}
