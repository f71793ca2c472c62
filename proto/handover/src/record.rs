//! Durable records: their values, and their text form with version and checksum.
//!
//! Pure; the shell writes the bytes (temporary file, fsync, rename, fsync of the directory) and
//! reads them back. Decoding is bounded and accepts canonical text only, so a torn, truncated or
//! edited file is an error and never a different record.
//!
//! ```text
//! dwcp-record 1 decision            kind: decision | source | target
//! job 00010203-0405-0607-0809-0a0b0c0d0e0f
//! vm 0f0e0d0c-0b0a-0908-0706-050403020100
//! fence 1.7                         incarnation.epoch
//! endpoints <64 digits>
//! state committed run               by kind, see `state.rs`
//! note qmp /run/vm/qmp.sock         source and target only; none or more, sorted by key
//! sum <16 digits>                   xxh3-64 of every byte before this line
//! ```

use std::fmt::Write as _;

use xxhash_rust::xxh3::xxh3_64;

use crate::decision::DecisionRecord;
use crate::hex;
use crate::ids::{EndpointsDigest, Ticket};
use crate::notes::Notes;
use crate::state::{ArrivalState, SourceState, StateText};

/// Version of the text form.
pub const RECORD_VERSION: u32 = 1;
/// No record is longer, in bytes.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

const MAGIC: &str = "dwcp-record";
const SUM_KEY: &str = "sum ";
const SUM_LINE_BYTES: usize = SUM_KEY.len() + 16 + 1;

const _: () = assert!(crate::notes::NOTES_TEXT_BYTES_MAX + 1024 <= RECORD_BYTES_MAX);

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than [`RECORD_BYTES_MAX`].
    #[error("record of {bytes} bytes is longer than {max}; it is not ours", max = RECORD_BYTES_MAX)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Torn, truncated or changed since it was written.
    #[error("record is damaged (checksum); restore it, or resolve the job by hand")]
    Damaged,
    /// Written by a later release.
    #[error("record has version {found}, this program reads {own}; use the newer program", own = RECORD_VERSION)]
    Version {
        /// Version in the record.
        found: u32,
    },
    /// A record of another role.
    #[error("record is of kind {found:?}, expected {expected}; check the file's folder")]
    Kind {
        /// Kind in the record.
        found: String,
        /// Kind asked for.
        expected: &'static str,
    },
    /// The checksum holds but the content makes no sense.
    #[error("record has no valid {line} line; it was not written by this program")]
    Malformed {
        /// The line that was expected.
        line: &'static str,
    },
}

/// The source parent's durable record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceRecord {
    /// Job, guest, fence and endpoints.
    pub ticket: Ticket,
    /// What is known of the outcome, and the run state to go back to.
    pub state: SourceState,
    /// The shell's own lines: target address, QMP socket, settings to restore.
    pub notes: Notes,
}

/// The target's durable record of the guest that arrives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetRecord {
    /// Job, guest, fence and endpoints.
    pub ticket: Ticket,
    /// How far the guest is.
    pub state: ArrivalState,
    /// The shell's own lines: QMP socket, process id, RAM file, settings to restore.
    pub notes: Notes,
}

/// A value with a durable text form.
pub trait Record: Sized {
    /// Name of the kind, as the first line has it.
    const KIND: &'static str;

    /// The bytes to store: UTF-8 text, at most [`RECORD_BYTES_MAX`].
    fn encode(&self) -> Vec<u8>;

    /// Reads what [`Record::encode`] wrote.
    ///
    /// # Errors
    /// Any byte string that `encode` does not produce.
    fn decode(bytes: &[u8]) -> Result<Self, RecordError>;
}

impl Record for DecisionRecord {
    const KIND: &'static str = "decision";

    fn encode(&self) -> Vec<u8> {
        seal(Self::KIND, &self.ticket, &self.state, &Notes::default())
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Parts { ticket, state, notes } = open(Self::KIND, bytes)?;
        let record = DecisionRecord { ticket, state };
        let has_notes = notes != Notes::default();
        if has_notes { Err(RecordError::Malformed { line: "sum" }) } else { Ok(record) }
    }
}

impl Record for SourceRecord {
    const KIND: &'static str = "source";

    fn encode(&self) -> Vec<u8> {
        seal(Self::KIND, &self.ticket, &self.state, &self.notes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Parts { ticket, state, notes } = open(Self::KIND, bytes)?;
        Ok(SourceRecord { ticket, state, notes })
    }
}

impl Record for TargetRecord {
    const KIND: &'static str = "target";

    fn encode(&self) -> Vec<u8> {
        seal(Self::KIND, &self.ticket, &self.state, &self.notes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Parts { ticket, state, notes } = open(Self::KIND, bytes)?;
        Ok(TargetRecord { ticket, state, notes })
    }
}

struct Parts<S> {
    ticket: Ticket,
    state: S,
    notes: Notes,
}

fn seal(kind: &str, ticket: &Ticket, state: &impl StateText, notes: &Notes) -> Vec<u8> {
    let mut text = format!(
        "{MAGIC} {RECORD_VERSION} {kind}\njob {}\nvm {}\nfence {}\nendpoints {}\nstate {}\n",
        ticket.job,
        ticket.vm,
        ticket.fence,
        hex::encode(&ticket.endpoints.0),
        state.to_text(),
    );
    notes.write(&mut text);
    let sum = xxh3_64(text.as_bytes());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{SUM_KEY}{sum:016x}");
    text.into_bytes()
}

fn open<S: StateText>(kind: &'static str, bytes: &[u8]) -> Result<Parts<S>, RecordError> {
    let text = checked_text(bytes)?;
    let mut lines = text.lines();
    check_head(lines.next().unwrap_or_default(), kind)?;
    let mut value = |key: &'static str| {
        let line = lines.next().and_then(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.ok_or(RecordError::Malformed { line: key })
    };
    let bad = |line| move |_| RecordError::Malformed { line };
    let job = value("job")?.parse().map_err(bad("job"))?;
    let vm = value("vm")?.parse().map_err(bad("vm"))?;
    let fence = value("fence")?.parse().map_err(bad("fence"))?;
    let endpoints = hex::decode(value("endpoints")?).map(EndpointsDigest);
    let endpoints = endpoints.ok_or(RecordError::Malformed { line: "endpoints" })?;
    let state = S::from_text(value("state")?).ok_or(RecordError::Malformed { line: "state" })?;
    let notes = Notes::read(lines).ok_or(RecordError::Malformed { line: "note" })?;
    let ticket = Ticket { job, vm, fence, endpoints };
    // Canonical text only: upper-case digits, leading zeros and the like are not ours.
    if seal(kind, &ticket, &state, &notes) != bytes {
        return Err(RecordError::Malformed { line: "canonical" });
    }
    Ok(Parts { ticket, state, notes })
}

/// The text before the checksum line, once the checksum holds.
fn checked_text(bytes: &[u8]) -> Result<&str, RecordError> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(RecordError::TooLong { bytes: bytes.len() });
    }
    let body_bytes = bytes.len().checked_sub(SUM_LINE_BYTES).ok_or(RecordError::Damaged)?;
    let (body, sum_line) = bytes.split_at(body_bytes);
    let expected = format!("{SUM_KEY}{:016x}\n", xxh3_64(body));
    if sum_line != expected.as_bytes() {
        return Err(RecordError::Damaged);
    }
    std::str::from_utf8(body).map_err(|_| RecordError::Damaged)
}

fn check_head(line: &str, kind: &'static str) -> Result<(), RecordError> {
    let malformed = RecordError::Malformed { line: MAGIC };
    let mut words = line.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(malformed);
    }
    let found = words.next().and_then(|word| word.parse().ok()).ok_or(malformed)?;
    if found != RECORD_VERSION {
        return Err(RecordError::Version { found });
    }
    match words.next() {
        Some(word) if word == kind => Ok(()),
        word => {
            Err(RecordError::Kind { found: word.unwrap_or_default().to_owned(), expected: kind })
        }
    }
}
