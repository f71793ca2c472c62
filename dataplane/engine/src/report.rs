//! The receipt of a job: one JSON object with fixed keys, and the same for people.
//! Keys are only ever added.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Class;
use crate::units::Bytes;

/// Version of the report's keys.
pub const SCHEMA: u32 = 1;

/// How a job ended, or that it is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The guest runs on the target.
    Completed,
    /// The guest stays with the source.
    Aborted,
    /// Nobody can say yet; both copies are paused.
    InDoubt,
    /// The job did not start.
    Refused,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::Aborted => "aborted",
            Self::InDoubt => "in_doubt",
            Self::Refused => "refused",
        })
    }
}

/// Pages sent, by how they travelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageKinds {
    /// All-zero pages.
    pub zero: u64,
    /// Pages whose content the target held elsewhere in this guest.
    pub duplicate: u64,
    /// Pages whose content the target held already, at that place or in its store.
    pub known: u64,
    /// Pages sent as a difference to their last version.
    pub delta: u64,
    /// Pages sent whole, compressed.
    pub zstd: u64,
    /// Pages sent whole, as they are.
    pub raw: u64,
}

impl PageKinds {
    /// All pages.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.zero + self.duplicate + self.known + self.delta + self.zstd + self.raw
    }
}

/// Known pages, by where the target held them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBy {
    /// At that place, from this job.
    pub in_job: u64,
    /// In a disk image of its store.
    pub image: u64,
    /// In a checkpoint of its store.
    pub checkpoint: u64,
    /// In the memory of another guest there.
    pub sibling: u64,
}

impl KnownBy {
    /// All known pages.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.in_job + self.image + self.checkpoint + self.sibling
    }
}

/// CPU seconds of our own processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuSeconds {
    /// Both source processes.
    pub source: f64,
    /// The target process, during the job.
    pub target: f64,
}

/// One phase and when it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Milliseconds since `migrate` was given to QEMU; negative before.
    pub at_ms: f64,
}

/// The receipt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The job's id.
    pub job: String,
    /// The guest: its name, else its UUID.
    pub vm: String,
    /// The attempt's fencing token, 0 before the target gave one.
    pub epoch: u64,
    /// How it ended.
    pub status: Status,
    /// The phase it reached.
    pub phase: String,
    /// Why, when it did not complete.
    pub reason: String,
    /// From `migrate` to the decision.
    pub total_ms: f64,
    /// From our stop to RESUME as heard at the source; 0 when the guest was not stopped.
    pub downtime_ms: f64,
    /// From the target's loading done to the durable decision.
    pub decision_ms: f64,
    /// Bytes this side sent.
    pub wire_tx_bytes: u64,
    /// Bytes this side received.
    pub wire_rx_bytes: u64,
    /// Both.
    pub wire_bytes: u64,
    /// Guest memory taken over in all rounds, zero pages included.
    pub guest_bytes: u64,
    /// How pages travelled.
    pub pages: PageKinds,
    /// Where the target held what is counted as known.
    #[serde(default)]
    pub known_by: KnownBy,
    /// QEMU's dirty rounds.
    pub rounds: u64,
    /// TCP streams used.
    pub streams: u32,
    /// CPU seconds.
    pub cpu_s: CpuSeconds,
    /// Hash of leaves and root; `none` in plain mode.
    pub hash_alg: String,
    /// The source's root, hexadecimal.
    pub hash_root: String,
    /// Whether both roots were equal; absent when they were not compared.
    pub hash_root_match: Option<bool>,
    /// Phases with their times.
    pub phases: Vec<Phase>,
    /// `direct` or `plain`.
    pub mode: String,
    /// `on` or `off`.
    pub tls: String,
    /// Bytes sent again after a stream died.
    pub resent_bytes: u64,
    /// What the exit code says of a job that did not complete.
    #[serde(skip)]
    pub class: Option<Class>,
}

impl Report {
    /// An empty report of a job that has not started.
    #[must_use]
    pub fn new(job: &str) -> Self {
        Self {
            schema: SCHEMA,
            job: job.to_owned(),
            vm: String::new(),
            epoch: 0,
            status: Status::Refused,
            phase: "preflight".to_owned(),
            reason: String::new(),
            total_ms: 0.0,
            downtime_ms: 0.0,
            decision_ms: 0.0,
            wire_tx_bytes: 0,
            wire_rx_bytes: 0,
            wire_bytes: 0,
            guest_bytes: 0,
            pages: PageKinds::default(),
            known_by: KnownBy::default(),
            rounds: 0,
            streams: 0,
            cpu_s: CpuSeconds::default(),
            hash_alg: "none".to_owned(),
            hash_root: String::new(),
            hash_root_match: None,
            phases: Vec::new(),
            mode: String::new(),
            tls: "off".to_owned(),
            resent_bytes: 0,
            class: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "job       {} {}", self.job, self.status)?;
        if !self.reason.is_empty() {
            writeln!(f, "reason    {}", self.reason)?;
        }
        if self.status == Status::Refused {
            return Ok(());
        }
        writeln!(f, "time      {:.2} s, downtime {:.0} ms", self.total_ms / 1e3, self.downtime_ms)?;
        let ratio = self.guest_bytes as f64 / self.wire_bytes.max(1) as f64;
        writeln!(
            f,
            "bytes     {} of guest memory as {} on the wire ({ratio:.1} : 1), tls {}",
            Bytes(self.guest_bytes),
            Bytes(self.wire_bytes),
            self.tls
        )?;
        let p = &self.pages;
        writeln!(
            f,
            "pages     {} zero, {} duplicate, {} known, {} delta, {} zstd, {} raw",
            p.zero, p.duplicate, p.known, p.delta, p.zstd, p.raw
        )?;
        writeln!(
            f,
            "work      {} rounds over {} streams; CPU {:.2} s source, {:.2} s target",
            self.rounds, self.streams, self.cpu_s.source, self.cpu_s.target
        )?;
        let memory = match self.hash_root_match {
            Some(true) => "identical on both hosts",
            Some(false) => "DIFFERENT",
            None => "not compared",
        };
        writeln!(f, "memory    {memory} ({} {:.16})", self.hash_alg, self.hash_root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_keys_are_there() {
        let json = serde_json::to_value(Report::new("j")).unwrap();
        for key in [
            "schema",
            "job",
            "vm",
            "epoch",
            "status",
            "phase",
            "reason",
            "total_ms",
            "downtime_ms",
            "decision_ms",
            "wire_tx_bytes",
            "wire_rx_bytes",
            "wire_bytes",
            "guest_bytes",
            "pages",
            "rounds",
            "streams",
            "cpu_s",
            "hash_alg",
            "hash_root",
            "hash_root_match",
            "phases",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["status"], "refused");
        assert!(json["pages"].get("known").is_some() && json["cpu_s"].get("target").is_some());
    }
}
