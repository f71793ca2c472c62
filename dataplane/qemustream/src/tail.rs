//! The end of the stream, found in the tail: the tail is opaque, so this looks for the one place
//! with a shape of its own, a footer followed by EOF and the description in JSON.

use crate::layout::{SECTION_EOF, SECTION_FOOTER, VM_DESCRIPTION};

/// Longest description believed: QEMU 10 writes about 44 kB for a pc.
const DESCRIPTION_BYTES_MAX: u32 = 16 << 20;
/// Shortest: `{}`.
const DESCRIPTION_BYTES_MIN: u32 = 2;

/// Looks for `7e id(4) 00 06 length(4) {` and counts the description's bytes.
#[derive(Debug, Default)]
pub(crate) struct TailScanner {
    /// The last sixteen bytes, newest lowest.
    window: u128,
    description_left: usize,
}

impl TailScanner {
    /// Scans `bytes`; `Some(n)` if the description ended with the n-th of them. The caller calls
    /// again with what follows.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while self.description_left == 0 {
            let brace = self.advance(&bytes[at..])?;
            at += brace;
        }
        let here = self.description_left.min(bytes.len() - at);
        self.description_left -= here;
        (self.description_left == 0).then_some(at + here)
    }

    /// Moves to just behind the next description's opening brace.
    fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, &byte) in bytes.iter().enumerate() {
            self.window = self.window << 8 | u128::from(byte);
            if byte == b'{' && self.opens_description() {
                return Some(at + 1);
            }
        }
        None
    }

    fn opens_description(&mut self) -> bool {
        let bytes = self.window.to_be_bytes();
        let [.., footer, _, _, _, _, eof, kind, a, b, c, d, _] = bytes;
        let length = u32::from_be_bytes([a, b, c, d]);
        let opens = footer == SECTION_FOOTER
            && eof == SECTION_EOF
            && kind == VM_DESCRIPTION
            && (DESCRIPTION_BYTES_MIN..=DESCRIPTION_BYTES_MAX).contains(&length);
        if opens {
            self.description_left = length as usize - 1;
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(json: &str) -> Vec<u8> {
        let mut bytes = b"device state { with braces \x7e\0\0\0\x2a\x00\x06".to_vec();
        bytes.extend((json.len() as u32).to_be_bytes());
        bytes.extend(json.as_bytes());
        bytes
    }

    #[test]
    fn finds_the_end_at_every_cut() {
        let bytes = tail("{\"configuration\": {}}");
        for cut in 0..=bytes.len() {
            let mut scanner = TailScanner::default();
            let first = scanner.scan(&bytes[..cut]);
            let second = scanner.scan(&bytes[cut..]);
            let expected = if cut == bytes.len() {
                (Some(cut), None)
            } else {
                (None, Some(bytes.len() - cut))
            };
            assert_eq!((first, second), expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_description_cut_short_does_not_end() {
        let bytes = tail("{\"configuration\": {}}");
        assert_eq!(TailScanner::default().scan(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn without_a_footer_it_is_no_description() {
        let mut bytes = tail("{}");
        let at = bytes.iter().position(|&b| b == 0x7e).expect("footer");
        bytes[at] = 0x7d;
        assert_eq!(TailScanner::default().scan(&bytes), None);
    }
}
