//! Migration capabilities and parameters: what a job needs set, and the way back.
//! A job remembers each value it changes, and every outcome puts all of them back.

use std::collections::{BTreeMap, BTreeSet};

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
/// Capabilities that a job may switch on.
const WANTED: [&str; 4] = ["return-path", "events", "switchover-ack", "late-block-activate"];
/// Parameters that a job may change.
const PARAMETERS: [&str; 3] = ["max-bandwidth", "downtime-limit", "announce-rounds"];

/// What one QEMU had before the job, of the things a job may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    known: BTreeSet<String>,
    on: BTreeSet<String>,
    parameters: BTreeMap<String, u64>,
}

impl Tuning {
    /// Reads all capabilities and parameters that a job may change.
    ///
    /// # Errors
    /// The monitor's failure.
    pub fn read(qmp: &mut Qmp) -> Result<Self, QmpError> {
        let mut tuning = Self::default();
        let listed = qmp.execute("query-migrate-capabilities", json!({}))?;
        for entry in listed.as_array().into_iter().flatten() {
            let Some(name) = entry.get("capability").and_then(Value::as_str) else { continue };
            if !UNWANTED.contains(&name) && !WANTED.contains(&name) {
                continue;
            }
            tuning.known.insert(name.to_owned());
            if entry.get("state").and_then(Value::as_bool) == Some(true) {
                tuning.on.insert(name.to_owned());
            }
        }
        let parameters = qmp.execute("query-migrate-parameters", json!({}))?;
        for name in PARAMETERS {
            if let Some(value) = parameters.get(name).and_then(Value::as_u64) {
                tuning.parameters.insert(name.to_owned(), value);
            }
        }
        Ok(tuning)
    }

    /// One line for a job's record.
    #[must_use]
    pub fn to_text(&self) -> String {
        let join = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(",");
        let parameters: Vec<String> =
            self.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{};{};{}", join(&self.known), join(&self.on), parameters.join(","))
    }

    /// Reads [`Tuning::to_text`]'s line; what is not understood is left out.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut parts = text.split(';');
        let mut set = || -> BTreeSet<String> {
            let part = parts.next().unwrap_or_default();
            part.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        let (known, on) = (set(), set());
        let parameters = set()
            .iter()
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect();
        Self { known, on, parameters }
    }

    /// True when this QEMU can hold a switch-over until the return path allows it (8.1 and later).
    #[must_use]
    pub fn can_hold_switchover(&self) -> bool {
        self.known.contains("switchover-ack")
    }

    /// Prepares the source: plain main stream, return path, held switch-over where there is one.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn prepare_source(&self, qmp: &mut Qmp, max_downtime_ms: u64) -> Result<(), QmpError> {
        let mut wanted: Vec<(&str, bool)> = UNWANTED.map(|name| (name, false)).to_vec();
        wanted.extend([("return-path", true), ("events", true), ("switchover-ack", true)]);
        self.set_capabilities(qmp, &wanted)?;
        // Without a held switch-over a tiny limit keeps QEMU iterating until we have stopped the guest.
        let limit = match self.can_hold_switchover() {
            true => max_downtime_ms.clamp(1, DOWNTIME_LIMIT_MS_MAX),
            false => 1,
        };
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
        wanted.extend(WANTED.map(|name| (name, true)));
        wanted.push(("x-ignore-shared", direct));
        if qmp.version().0 >= 10 {
            wanted.retain(|(name, _)| *name != "late-block-activate");
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
        let mut back: Vec<(&str, bool)> =
            self.known.iter().map(|name| (name.as_str(), self.on.contains(name))).collect();
        // What a job switched on goes off first: some capabilities exclude each other.
        back.sort_by_key(|(_, on)| *on);
        self.set_capabilities(qmp, &back)?;
        let parameters: Map<String, Value> =
            self.parameters.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        qmp.execute("migrate-set-parameters", Value::Object(parameters))?;
        Ok(())
    }

    fn set_capabilities(&self, qmp: &mut Qmp, wanted: &[(&str, bool)]) -> Result<(), QmpError> {
        // The last word on a name counts; QEMU takes each once.
        let mut states: BTreeMap<&str, bool> = BTreeMap::new();
        states.extend(wanted.iter().copied().filter(|(name, _)| self.known.contains(*name)));
        let list: Vec<Value> = states
            .iter()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_line_reads_back_and_fits() {
        let mut tuning = Tuning::default();
        tuning.known.extend(UNWANTED.iter().chain(&WANTED).map(|n| (*n).to_owned()));
        tuning.on.insert("events".to_owned());
        for name in PARAMETERS {
            tuning.parameters.insert(name.to_owned(), u64::MAX);
        }
        let text = tuning.to_text();
        assert_eq!(Tuning::from_text(&text), tuning);
        assert!(text.len() <= dwcp_handover::NOTE_VALUE_BYTES_MAX, "{}", text.len());
        assert_eq!(Tuning::from_text(""), Tuning::default());
    }
}
