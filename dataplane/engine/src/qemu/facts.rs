//! What must agree between two QEMUs before a guest can move, and what forbids a move at all.
//! Gathered on both hosts; the target compares and refuses by name.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::qmp::{Qmp, QmpError};

/// Longest text kept of any one fact; the wire's strings are bounded as well.
const FACT_CHARS_MAX: usize = 900;
const DISKS_MAX: usize = 64;

/// A guest as its monitor describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFacts {
    /// The guest's UUID, all zero when none was set.
    pub uuid: [u8; 16],
    /// Its name, possibly empty.
    pub name: String,
    /// QEMU's version as `major.minor.micro`.
    pub qemu_version: String,
    /// The machine type, for example `pc-i440fx-10.0-machine`.
    pub machine_type: String,
    /// The CPU model's QOM type.
    pub cpu_model: String,
    /// The CPU's feature words that are not zero.
    pub cpu_features: String,
    /// Number of vCPUs.
    pub cpus: usize,
    /// Block devices: name and virtual size in bytes.
    pub disks: Vec<(String, u64)>,
    /// The run state, for example `running`.
    pub status: String,
    /// Why QEMU says that this guest cannot migrate; empty when it can.
    pub blocked_reasons: Vec<String>,
    /// Bytes of memory that QEMU really holds; a sparse guest holds less than it was given.
    pub resident_bytes: Option<u64>,
}

impl GuestFacts {
    /// Asks the monitor for everything.
    ///
    /// # Errors
    /// The monitor's failure.
    pub fn gather(qmp: &mut Qmp) -> Result<Self, QmpError> {
        let (major, minor, micro) = qmp.version();
        let cpus = qmp.execute("query-cpus-fast", json!({}))?;
        let cpu =
            cpus.pointer("/0/qom-path").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self {
            uuid: uuid(qmp)?,
            name: text(&qmp.execute("query-name", json!({}))?, "name"),
            qemu_version: format!("{major}.{minor}.{micro}"),
            machine_type: property(qmp, "/machine", "type")?,
            cpu_model: property(qmp, &cpu, "type")?,
            cpu_features: cpu_features(qmp, &cpu),
            cpus: cpus.as_array().map_or(0, Vec::len),
            disks: disks(qmp)?,
            status: text(&qmp.execute("query-status", json!({}))?, "status"),
            blocked_reasons: blocked_reasons(qmp)?,
            resident_bytes: qmp.peer_pid().and_then(resident_bytes),
        })
    }

    /// The facts that travel, as name and value.
    #[must_use]
    pub fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs = vec![
            ("cpus".to_owned(), self.cpus.to_string()),
            ("cpu-features".to_owned(), self.cpu_features.clone()),
        ];
        for (name, bytes) in &self.disks {
            pairs.push((format!("disk {name}"), format!("{bytes} bytes")));
        }
        pairs
    }

    /// Names the first thing in which this target differs from what the source said.
    #[must_use]
    pub fn difference(
        &self,
        machine_type: &str,
        cpu_model: &str,
        pairs: &[(String, String)],
    ) -> Option<String> {
        let differs = |what: &str, theirs: &str, ours: &str| {
            (theirs != ours).then(|| format!("{what}: source has {theirs}, target has {ours}"))
        };
        differs("machine type", machine_type, &self.machine_type)
            .or_else(|| differs("CPU model", cpu_model, &self.cpu_model))
            .or_else(|| {
                let ours = self.pairs();
                pairs.iter().find_map(|(name, theirs)| {
                    let mine = ours.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
                    differs(name, theirs, mine.unwrap_or("none"))
                })
            })
    }
}

fn property(qmp: &mut Qmp, path: &str, property: &str) -> Result<String, QmpError> {
    let value = qmp.execute("qom-get", json!({"path": path, "property": property}))?;
    Ok(bounded(value.as_str().unwrap_or_default()))
}

/// Feature words exist on x86 only; elsewhere the CPU model alone is compared.
fn cpu_features(qmp: &mut Qmp, cpu: &str) -> String {
    let Ok(words) = qmp.execute("qom-get", json!({"path": cpu, "property": "feature-words"}))
    else {
        return String::new();
    };
    let number = |word: &Value, name: &str| word.get(name).and_then(Value::as_u64).unwrap_or(0);
    let mut parts: Vec<String> = words
        .as_array()
        .into_iter()
        .flatten()
        .filter(|word| number(word, "features") != 0)
        .map(|word| {
            format!(
                "{:x}.{:x}.{}={:x}",
                number(word, "cpuid-input-eax"),
                number(word, "cpuid-input-ecx"),
                word.get("cpuid-register").and_then(Value::as_str).unwrap_or("?"),
                number(word, "features")
            )
        })
        .collect();
    parts.sort();
    bounded(&parts.join(" "))
}

fn uuid(qmp: &mut Qmp) -> Result<[u8; 16], QmpError> {
    let value = text(&qmp.execute("query-uuid", json!({}))?, "UUID");
    Ok(uuid::Uuid::parse_str(&value).map_or([0; 16], uuid::Uuid::into_bytes))
}

fn disks(qmp: &mut Qmp) -> Result<Vec<(String, u64)>, QmpError> {
    let blocks = qmp.execute("query-block", json!({}))?;
    let mut disks: Vec<(String, u64)> = blocks
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|block| {
            let bytes = block.pointer("/inserted/image/virtual-size")?.as_u64()?;
            let device = text(block, "device");
            let name = if device.is_empty() { text(block, "qdev") } else { device };
            Some((bounded(&name), bytes))
        })
        .take(DISKS_MAX)
        .collect();
    disks.sort();
    Ok(disks)
}

fn blocked_reasons(qmp: &mut Qmp) -> Result<Vec<String>, QmpError> {
    let migrate = qmp.execute("query-migrate", json!({}))?;
    Ok(migrate
        .get("blocked-reasons")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|reason| reason.as_str().map(bounded))
        .collect())
}

/// Resident, swapped and huge-page memory of a process (proc_pid_status(5)).
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    match kib("VmRSS:") {
        0 => None,
        rss => Some((rss + kib("VmSwap:") + kib("HugetlbPages:")) << 10),
    }
}

fn text(value: &Value, name: &str) -> String {
    bounded(value.get(name).and_then(Value::as_str).unwrap_or_default())
}

fn bounded(text: &str) -> String {
    text.chars().take(FACT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> GuestFacts {
        GuestFacts {
            uuid: [0; 16],
            name: String::new(),
            qemu_version: "10.0.2".into(),
            machine_type: "pc".into(),
            cpu_model: "qemu64".into(),
            cpu_features: "1.0.ECX=1".into(),
            cpus: 2,
            disks: vec![("virtio0".into(), 1024)],
            status: "running".into(),
            blocked_reasons: vec![],
            resident_bytes: None,
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let target = facts();
        let pairs = facts().pairs();
        assert_eq!(target.difference("pc", "qemu64", &pairs), None);
        let other = target.difference("q35", "qemu64", &pairs).unwrap();
        assert_eq!(other, "machine type: source has q35, target has pc");
        let mut more = pairs;
        more.push(("disk virtio1".into(), "7 bytes".into()));
        assert!(target.difference("pc", "qemu64", &more).unwrap().contains("target has none"));
    }
}
