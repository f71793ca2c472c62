//! Names of jobs and guests, and the fence that orders handovers of one guest.
//! Pure values; nothing here allocates except `Display`.

use std::fmt;
use std::str::FromStr;

use crate::hex;

const ID_BYTES: usize = 16;
/// Length of the hyphenated text form of a 128-bit id.
pub(crate) const ID_TEXT_BYTES: usize = 36;
const HYPHENS_AT: [usize; 4] = [8, 13, 18, 23];

/// A text that is not an id or fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {what}: expected {expected}; check the value and give it again")]
pub struct IdError {
    /// What was being read.
    pub what: &'static str,
    /// The form it must have.
    pub expected: &'static str,
}

macro_rules! uuid_like {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; ID_BYTES]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt_id(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt_id(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_id(text)
                    .map(Self)
                    .ok_or(IdError { what: $what, expected: "a hyphenated UUID" })
            }
        }
    };
}

uuid_like!(
    /// One migration job.
    JobId, "job id"
);
uuid_like!(
    /// One guest, by its UUID.
    VmId, "VM id"
);

fn fmt_id(bytes: &[u8; ID_BYTES], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

fn parse_id(text: &str) -> Option<[u8; ID_BYTES]> {
    let text = text.as_bytes();
    if text.len() != ID_TEXT_BYTES || HYPHENS_AT.iter().any(|&at| text[at] != b'-') {
        return None;
    }
    let mut digits = text.iter().enumerate().filter(|(at, _)| !HYPHENS_AT.contains(at));
    let mut bytes = [0; ID_BYTES];
    for byte in &mut bytes {
        let high = hex::digit(*digits.next()?.1)?;
        let low = hex::digit(*digits.next()?.1)?;
        *byte = high << 4 | low;
    }
    Some(bytes)
}

/// A life of the ledger: restore, emergency bootstrap and reset begin a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// Counts the handovers of one guest; never runs back within or across incarnations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// The fencing token of one handover, ordered by incarnation, then epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence {
    /// Life of the ledger that gave it.
    pub incarnation: Incarnation,
    /// Handover of the guest.
    pub epoch: Epoch,
}

impl Fence {
    /// Below every fence that a ledger gives: what a guest has that never moved.
    pub const NONE: Fence = Fence { incarnation: Incarnation(0), epoch: Epoch(0) };

    /// A fence from its two numbers.
    pub const fn new(incarnation: u64, epoch: u64) -> Self {
        Fence { incarnation: Incarnation(incarnation), epoch: Epoch(epoch) }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation.0, self.epoch.0)
    }
}

impl FromStr for Fence {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let read = |(incarnation, epoch): (&str, &str)| {
            Some(Fence::new(incarnation.parse().ok()?, epoch.parse().ok()?))
        };
        text.split_once('.')
            .and_then(read)
            .ok_or(IdError { what: "fence", expected: "INCARNATION.EPOCH" })
    }
}

/// Digest of the two endpoints that a job was opened for; computed by the caller.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct EndpointsDigest(pub [u8; 32]);

impl fmt::Debug for EndpointsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// The right to hand one guest over once: what the source may give and the target may take.
///
/// It is issued when the ledger opens the job, and every record and outcome repeats it. A holder
/// obeys an outcome only for its own job, guest and fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The job it was issued for.
    pub job: JobId,
    /// The guest that moves.
    pub vm: VmId,
    /// The handover of that guest.
    pub fence: Fence,
    /// The two ends that may use it.
    pub endpoints: EndpointsDigest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let job = JobId(*b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\xfe\xff");
        assert_eq!(job.to_string(), "00010203-0405-0607-0809-0a0b0c0dfeff");
        assert_eq!(job.to_string().parse(), Ok(job));
        assert_eq!(Fence::new(3, 7).to_string().parse(), Ok(Fence::new(3, 7)));
    }

    #[test]
    fn malformed_ids_are_refused() {
        let bad = [
            "",
            "00010203-0405-0607-0809-0a0b0c0dfef",
            "00010203x0405-0607-0809-0a0b0c0dfeff",
            "0001020g-0405-0607-0809-0a0b0c0dfeff",
            "00010203-0405-0607-0809-0a0b0c0dfef\u{e9}",
        ];
        for text in bad {
            assert!(text.parse::<VmId>().is_err(), "{text}");
        }
        for text in ["", "1", "1.", ".1", "1.x", "1.2.3", "-1.2"] {
            assert!(text.parse::<Fence>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_new_incarnation_fences_every_older_epoch() {
        assert!(Fence::new(1, 900) < Fence::new(2, 1));
        assert!(Fence::new(2, 1) < Fence::new(2, 2));
        assert!(Fence::NONE < Fence::new(0, 1));
    }
}
