//! What the parent (who holds QMP and decides) and the child (who moves bytes) tell each other:
//! one JSON object a line over the child's standard input and output.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::content::ContentStore;
use crate::error::Class;
use crate::qemu::{GuestFacts, RamBlockInfo};
use crate::report::{KnownBy, PageKinds};

/// Longest line accepted.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// How the poll loop waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Poll {
    /// Spin for a bounded time, then sleep in the ring.
    #[default]
    Adaptive,
    /// Spin always: a core is given to the loop.
    Spin,
    /// Sleep at once when there is nothing to do.
    Sleep,
}

impl Poll {
    /// The network loop's own word for it.
    #[must_use]
    pub fn to_tcp(self) -> dwcp_tcp::PollMode {
        match self {
            Self::Adaptive => dwcp_tcp::PollMode::Adaptive,
            Self::Spin => dwcp_tcp::PollMode::Spin,
            Self::Sleep => dwcp_tcp::PollMode::Sleep,
        }
    }
}

/// How pages shall travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum WantedMode {
    /// Direct where the target's RAM can be mapped, else plain.
    #[default]
    Auto,
    /// Direct or refuse.
    Direct,
    /// The whole stream through the target QEMU.
    Plain,
}

/// Hash of page leaves and root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Hash {
    /// Seeded xxh3-128: finds accidents.
    #[default]
    Xxh3,
    /// BLAKE3: counts as evidence.
    Blake3,
}

impl Hash {
    /// The wire's word for it.
    #[must_use]
    pub fn to_wire(self) -> dwcp_wire::HashAlgorithm {
        match self {
            Self::Xxh3 => dwcp_wire::HashAlgorithm::Xxh3,
            Self::Blake3 => dwcp_wire::HashAlgorithm::Blake3,
        }
    }
}

/// Everything the child needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChildPlan {
    /// The job's id.
    pub job: String,
    /// The target's `host:port`.
    pub to: String,
    /// Unix socket on which the child awaits QEMU's stream.
    pub listen: PathBuf,
    /// Streams; `None` lets the child choose.
    pub streams: Option<u16>,
    /// Forced level, 0 is off; `None` adapts.
    pub level: Option<i64>,
    /// Rate ceiling in bytes per second.
    pub rate_bytes_per_s: Option<u64>,
    /// How the poll loop waits.
    pub poll: Poll,
    /// How pages shall travel.
    pub mode: WantedMode,
    /// Hash of leaves and root.
    pub hash: Hash,
    /// Longest time without any connection, in milliseconds.
    pub link_timeout_ms: u64,
    /// Downtime budget, in milliseconds.
    pub max_downtime_ms: u64,
    /// What lets the job in at a target that was prepared for it.
    pub ticket: Option<String>,
    /// Only ask whether the target would take the job.
    pub check_only: bool,
    /// Epochs up to this one are used up for the guest.
    pub min_epoch: u64,
    /// Where the guest's memory is kept when it has moved, if it shall be.
    pub checkpoint: Option<ContentStore>,
    /// The guest.
    pub facts: GuestFacts,
    /// Its RAM blocks.
    pub blocks: Vec<RamBlockInfo>,
}

/// Parent to child.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToChild {
    /// The first message.
    Start(Box<ChildPlan>),
    /// The guest is stopped: let QEMU switch over.
    AllowSwitchover {
        /// The guest was not running before the stop.
        start_paused: bool,
    },
    /// The tail may leave.
    Go,
    /// The target runs: tell QEMU that all is well.
    ReleaseShut,
    /// Give up: close the migration socket, tell the target.
    Abort {
        /// Why.
        reason: String,
    },
    /// A new rate ceiling, 0 for none.
    SetRate {
        /// Bytes per second.
        bytes_per_s: u64,
    },
    /// The pipe has closed: never sent, only seen.
    ParentGone,
}

/// Counters of a running job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Guest bytes taken over.
    pub guest_bytes: u64,
    /// Pages by kind.
    pub pages: PageKinds,
    /// Known pages by where they are known from.
    pub known_by: KnownBy,
    /// Bytes sent on all streams.
    pub wire_tx_bytes: u64,
    /// Bytes received on all streams.
    pub wire_rx_bytes: u64,
    /// Bytes sent again.
    pub resent_bytes: u64,
    /// Encoded bytes the target has not confirmed.
    pub unacked_bytes: u64,
    /// Guest bytes taken from QEMU and not yet handed to the session.
    pub unencoded_bytes: u64,
    /// Smoothed round-trip time, in microseconds.
    pub rtt_us: u64,
    /// Live streams.
    pub streams: u32,
    /// CPU time of the child, in microseconds.
    pub cpu_us: u64,
    /// Compression level in use; 0 is off.
    pub level: i32,
}

/// An outcome as it passes through the pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeLine {
    decision: u8,
    incarnation: u64,
    epoch: u64,
    reason: String,
}

impl OutcomeLine {
    /// From the wire's form.
    #[must_use]
    pub fn new(outcome: &dwcp_wire::Outcome) -> Self {
        Self {
            decision: outcome.decision.code(),
            incarnation: outcome.incarnation,
            epoch: outcome.epoch.0,
            reason: outcome.reason.clone(),
        }
    }

    /// As the commit roles know it.
    #[must_use]
    pub fn to_outcome(&self) -> dwcp_handover::Outcome {
        crate::outcome::from_wire(&dwcp_wire::Outcome {
            job: dwcp_wire::JobId::default(),
            decision: dwcp_wire::Decision::from_code(self.decision)
                .unwrap_or(dwcp_wire::Decision::Undecided),
            incarnation: self.incarnation,
            epoch: dwcp_wire::Epoch(self.epoch),
            reason: self.reason.clone(),
        })
    }
}

/// Child to parent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromChild {
    /// The target takes the job; QEMU may be pointed at the socket.
    Accepted {
        /// Life of the target's ledger.
        incarnation: u64,
        /// Fencing token.
        epoch: u64,
        /// `direct` or `plain`.
        mode: String,
        /// Streams in use.
        streams: u32,
    },
    /// The job cannot start.
    Refused {
        /// Its class.
        class: Class,
        /// Why.
        text: String,
    },
    /// Counters, every [`crate::source::PROGRESS_INTERVAL`].
    Progress(Counters),
    /// Guest RAM has been sent to its end.
    RamEnd,
    /// The roots were compared.
    Roots {
        /// Whether they are equal.
        matches: bool,
        /// The source's root, hexadecimal.
        root: String,
        /// Its algorithm.
        algorithm: String,
    },
    /// Everything but the tail is applied on the target: may the tail leave?
    GoWanted,
    /// The ledger has decided and, when committed, the guest runs there.
    Decided {
        /// The outcome.
        outcome: OutcomeLine,
        /// Target: loading, deciding and resuming, in microseconds.
        decide_us: u64,
        /// CPU time of the target engine for this job, in microseconds.
        target_cpu_us: u64,
    },
    /// All connections are gone; the child tries to join again.
    LinkDown {
        /// The last stream's reason.
        reason: String,
    },
    /// A connection is back.
    LinkUp,
    /// The child cannot go on.
    Failed {
        /// Its class.
        class: Class,
        /// Why.
        text: String,
    },
    /// QEMU has closed its socket after SHUT: the last counters.
    Finished(Counters),
    /// What became of the checkpoint that was asked for; the last word.
    Kept {
        /// In words.
        text: String,
    },
    /// The pipe has closed: never sent, only seen.
    ChildGone,
}

/// Writes one message.
///
/// # Errors
/// The pipe's failure.
pub fn write_line<T: Serialize>(mut pipe: impl Write, message: &T) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    pipe.write_all(&line)?;
    pipe.flush()
}

/// Reads one message; `None` when the pipe has closed or said something else.
pub fn read_line<T: DeserializeOwned>(pipe: &mut impl BufRead) -> Option<T> {
    let mut line = Vec::new();
    std::io::Read::take(&mut *pipe, LINE_BYTES_MAX).read_until(b'\n', &mut line).ok()?;
    serde_json::from_slice(&line).ok()
}
