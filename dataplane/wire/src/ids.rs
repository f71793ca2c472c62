//! Identities that travel on the wire: jobs, epochs, slices, blocks, pages, rails.
//!
//! Plain newtypes, so that two integers of different meaning cannot be swapped.
//! Copying and comparing only; nothing here allocates except `Display`.

use std::fmt;
use std::str::FromStr;

/// Bytes in one guest page, the unit in which guest memory is counted.
pub const PAGE_BYTES: usize = 4096;

macro_rules! integer_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

integer_id! {
    /// Fencing token of one migration attempt of a VM: grows with every attempt.
    Epoch(u64)
}
integer_id! {
    /// Capture generation of the pages in a slice: grows when a page recurs within it.
    Generation(u32)
}
integer_id! {
    /// Number of a slice within its channel and direction, counted from 0.
    SliceSeq(u64)
}
integer_id! {
    /// A RAM block of the guest, numbered by the source in the order of the stream.
    BlockId(u16)
}
integer_id! {
    /// Index of a [`PAGE_BYTES`] page within its block.
    PageIndex(u64)
}
integer_id! {
    /// One connection (TCP stream or queue pair) of a session.
    RailId(u16)
}

/// Identity of a migration job: 128 bits chosen by whoever starts it, shown as a UUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub [u8; 16]);

/// The text is not a hyphenated UUID (`8-4-4-4-12` hexadecimal digits).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("job id is not a UUID of the form 8-4-4-4-12 hexadecimal digits ({length} bytes given)")]
pub struct ParseJobIdError {
    /// Length of the refused text in bytes.
    pub length: usize,
}

/// Bytes of a UUID after which its text form has a hyphen (RFC 9562, section 4).
const HYPHEN_AFTER_BYTE: [usize; 4] = [4, 6, 8, 10];
/// Length of a UUID's text form.
const UUID_TEXT_BYTES: usize = 36;

impl JobId {
    /// The first four bytes, as slice headers carry them to tell jobs apart on one rail.
    #[must_use]
    pub fn tag(self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_le_bytes([a, b, c, d])
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if HYPHEN_AFTER_BYTE.contains(&index) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for JobId {
    type Err = ParseJobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseJobIdError { length: text.len() };
        let bytes = text.as_bytes();
        if bytes.len() != UUID_TEXT_BYTES {
            return Err(refused());
        }
        let mut id = [0u8; 16];
        let mut at = 0;
        for (index, out) in id.iter_mut().enumerate() {
            if HYPHEN_AFTER_BYTE.contains(&index) {
                if bytes[at] != b'-' {
                    return Err(refused());
                }
                at += 1;
            }
            let high = hex_digit(bytes[at]).ok_or_else(refused)?;
            let low = hex_digit(bytes[at + 1]).ok_or_else(refused)?;
            *out = high << 4 | low;
            at += 2;
        }
        Ok(Self(id))
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_id_reads_what_it_prints() {
        let id = JobId(*b"\x01\x23\x45\x67\x89\xab\xcd\xef\x00\x11\x22\x33\x44\x55\x66\x77");
        assert_eq!(id.to_string(), "01234567-89ab-cdef-0011-223344556677");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("01234567-89AB-CDEF-0011-223344556677".parse(), Ok(id));
        assert_eq!(id.tag(), 0x6745_2301);
    }

    #[test]
    fn job_id_refuses_other_texts() {
        for text in [
            "",
            "0123456789abcdef0011223344556677",
            "01234567-89ab-cdef-0011-22334455667g",
            "01234567-89ab-cdef-0011+223344556677",
            "01234567-89ab-cdef-0011-2233445566777",
            "\u{e9}1234567-89ab-cdef-0011-22334455667",
        ] {
            assert_eq!(text.parse::<JobId>(), Err(ParseJobIdError { length: text.len() }));
        }
    }
}
