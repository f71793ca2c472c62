//! Small enumerations that travel as one integer.
//!
//! Closed ones refuse a value without meaning; `ReasonCode` is open, so that an older peer can
//! still show what a newer one said.

use crate::WireError;

/// Declares an enum that travels as an integer and refuses unknown values.
macro_rules! closed_code {
    ($(#[$doc:meta])* $name:ident: $inner:ty, $what:literal,
     { $($(#[$vdoc:meta])* $variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr($inner)]
        pub enum $name { $($(#[$vdoc])* $variant = $value),+ }

        impl $name {
            /// The value on the wire.
            #[must_use]
            pub const fn code(self) -> $inner { self as $inner }

            /// The meaning of a value from the wire.
            ///
            /// # Errors
            /// [`WireError::BadValue`] for a value without meaning.
            pub const fn from_code(code: $inner) -> Result<Self, WireError> {
                match code {
                    $($value => Ok(Self::$variant),)+
                    other => Err(WireError::BadValue { what: $what, value: other as u64 }),
                }
            }
        }
    };
}
pub(crate) use closed_code;

closed_code! {
    /// Where guest pages go on the target.
    Mode: u8, "mode", {
        /// Pages are taken out of QEMU's stream and written into the target's mapped RAM file.
        Direct = 1,
        /// The whole stream is forwarded to the target QEMU.
        Plain = 2,
    }
}

closed_code! {
    /// Hash that page leaves and the root are made with.
    HashAlgorithm: u8, "hash algorithm", {
        /// Seeded xxh3-128: finds accidents, not forgery.
        Xxh3 = 1,
        /// BLAKE3: counts as evidence.
        Blake3 = 2,
    }
}

closed_code! {
    /// What the ledger holds about `(vm, epoch)`.
    Decision: u8, "decision", {
        /// Not decided yet: ask again.
        Undecided = 0,
        /// The target owns the VM.
        Committed = 1,
        /// The source owns the VM.
        Aborted = 2,
        /// The ledger has never heard of this job.
        Unknown = 3,
    }
}

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $variant:ident = $value:literal, $text:literal;)+) => {
        /// Why a hello was refused, a job ended or a session was left.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ReasonCode {
            $($(#[$doc])* $variant,)+
            /// A code of a newer peer.
            Other(u16),
        }

        impl ReasonCode {
            /// The value on the wire.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$variant => $value,)+ Self::Other(code) => code }
            }

            /// The meaning of a value from the wire; never fails.
            #[must_use]
            pub const fn from_code(code: u16) -> Self {
                match code { $($value => Self::$variant,)+ other => Self::Other(other) }
            }
        }

        impl std::fmt::Display for ReasonCode {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)+
                    Self::Other(code) => write!(f, "reason {code}"),
                }
            }
        }

        #[cfg(test)]
        const NAMED_REASONS: &[ReasonCode] = &[$(ReasonCode::$variant),+];
    };
}

reason_codes! {
    /// The job is done; nothing is wrong.
    Finished = 0, "finished";
    /// A broken invariant of the side that reports it.
    Internal = 1, "internal error";
    /// The versions do not fit.
    UnsupportedVersion = 2, "unsupported version";
    /// A required feature or stream section is not known.
    UnsupportedFeature = 3, "unsupported feature";
    /// Nothing is known about this job.
    UnknownJob = 4, "unknown job";
    /// The token is not the one given to this job.
    BadToken = 5, "bad token";
    /// A limit on jobs, rails or handshakes is reached: try later.
    Busy = 6, "busy";
    /// Another job or attempt holds the VM or the epoch.
    Conflict = 7, "conflict";
    /// The peer is not allowed to do this.
    NotAllowed = 8, "not allowed";
    /// Machine type, CPU, block names or sizes do not fit.
    Incompatible = 9, "incompatible";
    /// Memory, tmpfs or arena is too small for the job.
    NoMemory = 10, "not enough memory";
    /// The migration stream cannot be carried.
    BadStream = 11, "bad stream";
    /// The page-hash roots differ.
    RootMismatch = 12, "memory differs";
    /// A time limit passed.
    TimedOut = 13, "timed out";
    /// An operator or the control plane cancelled.
    Cancelled = 14, "cancelled";
    /// QEMU reported a failure.
    QemuFailed = 15, "QEMU failed";
    /// The peer is gone.
    PeerLost = 16, "peer lost";
    /// The peer broke the protocol.
    Protocol = 17, "protocol violation";
    /// The side that reports it is shutting down.
    ShuttingDown = 18, "shutting down";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_codes_are_distinct_and_survive() {
        for (index, reason) in NAMED_REASONS.iter().enumerate() {
            assert_eq!(usize::from(reason.code()), index);
            assert_eq!(ReasonCode::from_code(reason.code()), *reason);
        }
        assert_eq!(ReasonCode::from_code(999), ReasonCode::Other(999));
        assert_eq!(ReasonCode::Other(999).to_string(), "reason 999");
    }

    #[test]
    fn closed_codes_refuse_the_unknown() {
        assert_eq!(Mode::from_code(2), Ok(Mode::Plain));
        assert_eq!(Mode::from_code(0), Err(WireError::BadValue { what: "mode", value: 0 }));
        assert_eq!(Decision::from_code(3), Ok(Decision::Unknown));
        assert!(Decision::from_code(4).is_err());
    }
}
