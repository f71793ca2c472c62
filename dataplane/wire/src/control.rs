//! What the two engines say to each other on the Control channel, as plain values.
//!
//! The bytes are in `control_codec`. Not a hot path: texts and lists allocate, after their
//! length was checked against the bounds below.

use crate::{BlockId, Decision, Epoch, HashAlgorithm, JobId, Mode, ReasonCode};

/// Longest text in a control message, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Longest list in a control message, in items.
pub const LIST_ITEMS_MAX: usize = 4096;
/// Longest piece of QEMU's return path in one message, in bytes.
pub const RETURN_PATH_BYTES_MAX: usize = 4096;
/// Longest control message, in bytes; it must fit one slice.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;

const _: () = assert!(CONTROL_BYTES_MAX <= crate::PAYLOAD_MAX as usize);
const _: () = assert!(RETURN_PATH_BYTES_MAX < CONTROL_BYTES_MAX);

/// One RAM block of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Number by which page records name it.
    pub id: BlockId,
    /// QEMU's idstr.
    pub name: String,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Page size of its backing, in bytes.
    pub page_bytes: u32,
    /// Whether its pages are carried by us instead of QEMU's stream.
    pub taken_out: bool,
}

/// What the source says about the VM and the job it wants to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobFacts {
    /// UUID of the VM; zero when it has none.
    pub vm_uuid: [u8; 16],
    /// Name of the VM.
    pub vm_name: String,
    /// Version of the source QEMU.
    pub qemu_version: String,
    /// Machine type with its version.
    pub machine_type: String,
    /// CPU model and flags.
    pub cpu_model: String,
    /// Where guest pages shall go.
    pub mode: Mode,
    /// Hash of page leaves and root.
    pub hash: HashAlgorithm,
    /// Seed of the hash as the source proposes it.
    pub hash_seed: u64,
    /// Further facts for the preflight, by name.
    pub facts: Vec<(String, String)>,
    /// RAM blocks known before the stream starts.
    pub blocks: Vec<BlockInfo>,
    /// Downtime the operator allows, in milliseconds.
    pub max_downtime_ms: u32,
    /// Lowest epoch the target may give this attempt.
    pub min_epoch: Epoch,
}

/// A block whose pages the target takes into its mapped RAM file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectBlock {
    /// QEMU's idstr.
    pub name: String,
    /// `mr->addr` that QEMU's MEM_SIZE record carries for it.
    pub address: u64,
    /// Bytes that the RAM file holds.
    pub bytes: u64,
}

/// The target takes the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Life of the target's ledger; orders before the epoch.
    pub incarnation: u64,
    /// Fencing token of this attempt.
    pub epoch: Epoch,
    /// Seed of the hash that both sides use.
    pub hash_seed: u64,
    /// Where guest pages go.
    pub mode: Mode,
    /// Version of the target QEMU.
    pub qemu_version: String,
    /// Blocks the target takes directly; empty in plain mode.
    pub direct_blocks: Vec<DirectBlock>,
    /// Further facts for the report, by name.
    pub facts: Vec<(String, String)>,
}

/// Root hash of one side over all pages carried by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Algorithm of leaves and root.
    pub algorithm: HashAlgorithm,
    /// The root; shorter digests are padded with zeros.
    pub root: [u8; 32],
    /// Pages under the root.
    pub pages: u64,
    /// Pages slices sent before it: the target compares once it has applied them all.
    pub slices: u64,
    /// Whether the guest was not running before the stop, and shall stay paused on the target.
    pub start_paused: bool,
}

/// The target's comparison of both roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootResult {
    /// Whether the target's memory is the source's.
    pub matches: bool,
    /// The target's own root.
    pub root: [u8; 32],
    /// Pages under it.
    pub pages: u64,
}

/// What the ledger holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The job the answer is about.
    pub job: JobId,
    /// The decision.
    pub decision: Decision,
    /// Life of the ledger that decided; orders before the epoch.
    pub incarnation: u64,
    /// Epoch it belongs to.
    pub epoch: Epoch,
    /// How far the arrival is when committed, why when aborted: a short name.
    pub reason: String,
}

/// The guest runs on the target: where the pause went, by the target's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// From the last slice's arrival until the target QEMU had loaded it, in microseconds.
    pub load_us: u64,
    /// Time the durable decision took, in microseconds.
    pub decide_us: u64,
    /// From `cont` until RESUME was seen, in microseconds.
    pub cont_us: u64,
}

/// What the source's end of the job has cost so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuReport {
    /// CPU time of the source engine, in microseconds.
    pub engine_cpu_us: u64,
    /// CPU time of the source QEMU's migration thread, in microseconds.
    pub qemu_cpu_us: u64,
}

/// What the target's end of the job has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// CPU time of the target engine, in microseconds.
    pub engine_cpu_us: u64,
    /// Bytes received on all rails.
    pub rx_bytes: u64,
    /// Pages written to guest memory.
    pub pages_written: u64,
    /// Bytes of guest memory on huge pages.
    pub huge_bytes: u64,
}

/// One message on the Control channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlMessage {
    /// Source: asks the target to take a job.
    Open(JobFacts),
    /// Source: the RAM blocks as QEMU's stream names them.
    Blocks(Vec<BlockInfo>),
    /// Source: root over its memory at the stop.
    Root(Root),
    /// Source: the job ends; the source keeps the VM.
    Abort {
        /// Class of the reason.
        code: ReasonCode,
        /// The reason in words.
        text: String,
    },
    /// Source: asks what the ledger holds about a job.
    Query {
        /// The job.
        job: JobId,
    },
    /// Source: asks the ledger to decide `aborted`, unless it has decided.
    RequestAbort {
        /// The job.
        job: JobId,
        /// Epoch that shall be aborted.
        epoch: Epoch,
        /// Why, for the record.
        reason: String,
    },
    /// Source: its costs, for the report.
    CpuReport(CpuReport),
    /// Target: takes the job.
    Accept(Accept),
    /// Target: does not take the job.
    Refuse {
        /// Class of the reason.
        code: ReasonCode,
        /// The reason in words.
        text: String,
    },
    /// Target: bytes of QEMU's return path.
    ReturnPath(Vec<u8>),
    /// Target: whether the roots are equal.
    RootResult(RootResult),
    /// Target: what the ledger holds.
    Outcome(Outcome),
    /// Target: the guest runs here.
    Resumed(Resumed),
    /// Target: cannot go on.
    Failed {
        /// Class of the reason.
        code: ReasonCode,
        /// The reason in words.
        text: String,
    },
    /// Target: its costs and progress, for the report.
    Stats(Stats),
}
