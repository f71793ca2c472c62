//! What the target says to pages that were asked for by their hash. Runs on the apply thread and on
//! the intake thread; allocates once, to its bound.
//!
//! ```text
//! 0   u8   version, 1
//! 1   u8   zero
//! 2   u16  pages asked for, 1 to 256                     little-endian
//! 4   u64  the slice that asked
//! 12       two bits a page, lowest first, in the order of asking: see [`Held`]; the rest is zero
//! ```

use crate::batch::FRAME_PAGES_MAX;
use crate::error::DecodeError;
use crate::varint::Cursor;

/// Bytes of the hash by which a page is asked for: BLAKE3.
pub const ASK_BYTES: usize = 32;
/// Version of the answer's format.
const ANSWER_VERSION: u8 = 1;
const HEADER_BYTES: usize = 12;
const PAGES_PER_BYTE: usize = 4;
/// Longest answer.
pub const ANSWER_BYTES_MAX: usize = HEADER_BYTES + FRAME_PAGES_MAX.div_ceil(PAGES_PER_BYTE);
/// Most answers in one message.
pub const ANSWERS_MAX: usize = 64;

/// Where the target found a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Held {
    /// Nowhere: the content must follow.
    #[default]
    Nothing,
    /// In a disk image.
    Image,
    /// In what this or another guest left behind.
    Checkpoint,
    /// In another guest's memory.
    Sibling,
    /// It was not looked for: the page holds a newer version already.
    Newer,
}

impl Held {
    /// `Newer` needs no word of its own: like a find, nothing follows.
    fn code(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Image | Self::Newer => 1,
            Self::Checkpoint => 2,
            Self::Sibling => 3,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Nothing,
            1 => Self::Image,
            2 => Self::Checkpoint,
            _ => Self::Sibling,
        }
    }
}

/// The answer to one slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    seq: u64,
    held: Vec<Held>,
}

impl Answer {
    pub(crate) fn begin(&mut self, seq: u64) {
        self.seq = seq;
        self.held.clear();
        self.held.reserve_exact(FRAME_PAGES_MAX);
    }

    pub(crate) fn push(&mut self, held: Held) {
        self.held.push(held);
    }

    /// The slice that asked.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// One word per page, in the order of [`Plan::asks`](crate::Plan::asks).
    #[must_use]
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// Appends the answer's bytes, at most [`ANSWER_BYTES_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let pages = u16::try_from(self.held.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&[ANSWER_VERSION, 0]);
        out.extend_from_slice(&pages.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        for four in self.held.chunks(PAGES_PER_BYTE) {
            let byte = four.iter().rev().fold(0, |byte, held| byte << 2 | held.code());
            out.push(byte);
        }
    }

    /// Reads answers that follow each other, at most [`ANSWERS_MAX`].
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Self::encode`] does not write.
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<Self>, DecodeError> {
        let mut cursor = Cursor::new(bytes);
        let mut answers = Vec::new();
        while !cursor.is_empty() {
            if answers.len() == ANSWERS_MAX {
                return Err(DecodeError::Length("more answers than slices may ask"));
            }
            answers.push(Self::read(&mut cursor)?);
        }
        Ok(answers)
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let version = cursor.byte("answer")?;
        if version != ANSWER_VERSION {
            return Err(DecodeError::Version(version));
        }
        let spare = cursor.byte("answer")?;
        if spare != 0 {
            return Err(DecodeError::Unknown { what: "answer", value: spare });
        }
        let pages = usize::from(u16::from_le_bytes(*cursor.array::<2>("answer")?));
        if pages == 0 || pages > FRAME_PAGES_MAX {
            let (value, limit) = (pages as u64, FRAME_PAGES_MAX as u64);
            return Err(DecodeError::Bound { what: "pages of the answer", value, limit });
        }
        let seq = u64::from_le_bytes(*cursor.array::<8>("answer")?);
        let bits = cursor.take(pages.div_ceil(PAGES_PER_BYTE), "answer")?;
        let held = (0..pages)
            .map(|page| bits[page / PAGES_PER_BYTE] >> (page % PAGES_PER_BYTE * 2) & 3)
            .map(Held::from_code)
            .collect();
        Ok(Self { seq, held })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn answers_come_back(
            list in prop::collection::vec((any::<u64>(), prop::collection::vec(0..4u8, 1..=FRAME_PAGES_MAX)), 0..4),
        ) {
            let mut bytes = Vec::new();
            let mut answers = Vec::new();
            for (seq, codes) in list {
                let mut answer = Answer::default();
                answer.begin(seq);
                codes.iter().for_each(|&code| answer.push(Held::from_code(code)));
                let before = bytes.len();
                answer.encode(&mut bytes);
                prop_assert!(bytes.len() - before <= ANSWER_BYTES_MAX);
                answers.push(answer);
            }
            prop_assert_eq!(Answer::decode_all(&bytes).unwrap(), answers);
        }

        #[test]
        fn hostile_answers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Answer::decode_all(&bytes);
        }
    }
}
