//! The first message on every rail and its answer, both of fixed size.
//!
//! Read the first [`HELLO_PREFIX_BYTES`] and check them with [`Hello::check_prefix`] before
//! waiting for the rest: a peer of another major may send a hello of another length.
//! Reserved bytes are sent as zero and ignored on receipt.

use xxhash_rust::xxh3::xxh3_64;

use crate::codec::{Reader, utf8};
use crate::codes::closed_code;
use crate::{CURRENT, Features, JobId, RailId, ReasonCode, Version, WireError};

/// Magic and version: enough to tell whether the peer can be talked to.
pub const HELLO_PREFIX_BYTES: usize = 8;
/// Bytes of a [`Hello`].
pub const HELLO_BYTES: usize = 64;
/// Bytes of a [`HelloReply`].
pub const HELLO_REPLY_BYTES: usize = 256;
/// Bytes of the token that joins a rail to its job.
pub const TOKEN_BYTES: usize = 16;
/// Longest reason text in a [`HelloReply`].
pub const REASON_BYTES_MAX: usize = 200;

const MAGIC: [u8; 4] = *b"DWCP";
const CHECK_BYTES: usize = 8;
const REPLY_REASON_AT: usize = 48;
const _: () = assert!(REPLY_REASON_AT + REASON_BYTES_MAX + CHECK_BYTES == HELLO_REPLY_BYTES);

closed_code! {
    /// What a rail is for.
    Purpose: u8, "hello purpose", {
        /// First rail of a new job; the answer carries a fresh token.
        Open = 1,
        /// A further rail of a running job; needs its token.
        Join = 2,
        /// Only asks what became of a job.
        Query = 3,
    }
}

/// First message on a rail, from the side that connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version the sender speaks.
    pub version: Version,
    /// Features the sender knows.
    pub features: Features,
    /// What the rail is for.
    pub purpose: Purpose,
    /// The job it is about.
    pub job: JobId,
    /// Number the sender gives this rail.
    pub rail: RailId,
    /// Token from the first rail's answer; zero for [`Purpose::Open`] and [`Purpose::Query`].
    pub token: [u8; TOKEN_BYTES],
}

impl Hello {
    /// A hello of this build.
    #[must_use]
    pub fn new(purpose: Purpose, job: JobId, rail: RailId, token: [u8; TOKEN_BYTES]) -> Self {
        Self { version: CURRENT, features: Features::SUPPORTED, purpose, job, rail, token }
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        put_prefix(&mut out, self.version, self.features);
        out[16] = self.purpose.code();
        out[18..20].copy_from_slice(&self.rail.0.to_le_bytes());
        out[24..40].copy_from_slice(&self.job.0);
        out[40..56].copy_from_slice(&self.token);
        put_check(&mut out);
        out
    }

    /// Whether the first bytes of a hello or its answer come from a peer of our major.
    ///
    /// # Errors
    /// [`WireError::NotDwcp`], [`WireError::OtherMajor`].
    pub fn check_prefix(prefix: &[u8; HELLO_PREFIX_BYTES]) -> Result<Version, WireError> {
        let [a, b, c, d, major_0, major_1, minor_0, minor_1] = *prefix;
        if [a, b, c, d] != MAGIC {
            return Err(WireError::NotDwcp { found: [a, b, c, d] });
        }
        let version = Version {
            major: u16::from_le_bytes([major_0, major_1]),
            minor: u16::from_le_bytes([minor_0, minor_1]),
        };
        version.check_major().map(|()| version)
    }

    /// Reads a hello. Whether its features fit is for [`Features::agree`] to say.
    ///
    /// # Errors
    /// Another protocol, another major, a bad check value or an unknown purpose.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, WireError> {
        let mut fields = Reader::new(bytes);
        let version = Self::check_prefix(&fields.array("hello")?)?;
        check(bytes, "hello")?;
        let features = Features(fields.u64("features")?);
        let purpose = Purpose::from_code(fields.u8("purpose")?)?;
        fields.take("reserved", 1)?;
        let rail = RailId(fields.u16("rail")?);
        fields.take("reserved", 4)?;
        let job = JobId(fields.array("job")?);
        let token = fields.array("token")?;
        Ok(Self { version, features, purpose, job, rail, token })
    }
}

/// Whether a rail was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloStatus {
    /// The rail may carry slices.
    Accepted,
    /// The rail will be closed.
    Refused(ReasonCode),
}

/// Answer to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// Version the answering side speaks.
    pub version: Version,
    /// Features both sides know.
    pub features: Features,
    /// Whether the rail was let in.
    pub status: HelloStatus,
    /// Unacked Skeleton and Pages slices that the peer may have in flight at most.
    pub window_slices: u32,
    /// Longest slice body the answering side takes, in bytes.
    pub payload_max: u32,
    /// Token for further rails of this job.
    pub token: [u8; TOKEN_BYTES],
    /// Why, in words for an operator; at most [`REASON_BYTES_MAX`] bytes.
    pub reason: String,
}

impl HelloReply {
    /// An acceptance by this build.
    #[must_use]
    pub fn accepted(
        features: Features,
        window_slices: u32,
        payload_max: u32,
        token: [u8; TOKEN_BYTES],
    ) -> Self {
        let status = HelloStatus::Accepted;
        let reason = String::new();
        Self { version: CURRENT, features, status, window_slices, payload_max, token, reason }
    }

    /// A refusal by this build; a longer `reason` is cut at a character boundary.
    #[must_use]
    pub fn refused(code: ReasonCode, reason: &str) -> Self {
        Self {
            version: CURRENT,
            features: Features::SUPPORTED,
            status: HelloStatus::Refused(code),
            window_slices: 0,
            payload_max: 0,
            token: [0; TOKEN_BYTES],
            reason: cut(reason).to_owned(),
        }
    }

    /// The bytes on the wire; a reason longer than its bound is cut at a character boundary.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_REPLY_BYTES] {
        let mut out = [0; HELLO_REPLY_BYTES];
        put_prefix(&mut out, self.version, self.features);
        if let HelloStatus::Refused(code) = self.status {
            out[16] = 1;
            out[18..20].copy_from_slice(&code.code().to_le_bytes());
        }
        out[20..24].copy_from_slice(&self.window_slices.to_le_bytes());
        out[24..28].copy_from_slice(&self.payload_max.to_le_bytes());
        out[28..44].copy_from_slice(&self.token);
        let reason = cut(&self.reason).as_bytes();
        let length = u16::try_from(reason.len()).unwrap_or(0);
        out[44..46].copy_from_slice(&length.to_le_bytes());
        out[REPLY_REASON_AT..REPLY_REASON_AT + reason.len()].copy_from_slice(reason);
        put_check(&mut out);
        out
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// Another protocol, another major, a bad check value, an unknown status or a bad reason.
    pub fn decode(bytes: &[u8; HELLO_REPLY_BYTES]) -> Result<Self, WireError> {
        let mut fields = Reader::new(bytes);
        let version = Hello::check_prefix(&fields.array("hello reply")?)?;
        check(bytes, "hello reply")?;
        let features = Features(fields.u64("features")?);
        let status = fields.u8("status")?;
        fields.take("reserved", 1)?;
        let code = ReasonCode::from_code(fields.u16("reason code")?);
        let status = match status {
            0 => HelloStatus::Accepted,
            1 => HelloStatus::Refused(code),
            other => {
                return Err(WireError::BadValue { what: "status", value: u64::from(other) });
            }
        };
        let window_slices = fields.u32("window")?;
        let payload_max = fields.u32("payload bound")?;
        let token = fields.array("token")?;
        let reason = Self::decode_reason(&mut fields)?;
        Ok(Self { version, features, status, window_slices, payload_max, token, reason })
    }

    fn decode_reason(fields: &mut Reader<'_>) -> Result<String, WireError> {
        let length = usize::from(fields.u16("reason length")?);
        if length > REASON_BYTES_MAX {
            return Err(WireError::TooLong { what: "reason", length, max: REASON_BYTES_MAX });
        }
        fields.take("reserved", 2)?;
        utf8("reason", fields.take("reason", length)?).map(str::to_owned)
    }
}

fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

fn put_prefix(out: &mut [u8], version: Version, features: Features) {
    out[..4].copy_from_slice(&MAGIC);
    out[4..6].copy_from_slice(&version.major.to_le_bytes());
    out[6..8].copy_from_slice(&version.minor.to_le_bytes());
    out[8..16].copy_from_slice(&features.0.to_le_bytes());
}

fn put_check<const N: usize>(out: &mut [u8; N]) {
    let (covered, value) = out.split_at_mut(N - CHECK_BYTES);
    value.copy_from_slice(&xxh3_64(covered).to_le_bytes());
}

fn check<const N: usize>(bytes: &[u8; N], what: &'static str) -> Result<(), WireError> {
    let (covered, value) = bytes.split_at(N - CHECK_BYTES);
    let found = Reader::new(value).u64(what)?;
    let computed = xxh3_64(covered);
    if found == computed {
        return Ok(());
    }
    Err(WireError::BadCheck { what, found, computed })
}
