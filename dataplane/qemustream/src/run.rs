//! One call's view of the input: a cursor, and the bytes that pass through as they are.

use crate::sink::{Mark, Sink};

/// The cursor of one `parse` call. Bytes between `kept_from` and `pos` are owed to the skeleton;
/// they go out in one piece when something else has to be put in order after them.
pub(crate) struct Run<'i, 's, S> {
    pub(crate) input: &'i [u8],
    pub(crate) pos: usize,
    kept_from: usize,
    pub(crate) sink: &'s mut S,
}

impl<'i, 's, S: Sink> Run<'i, 's, S> {
    pub(crate) fn new(input: &'i [u8], sink: &'s mut S) -> Self {
        Self { input, pos: 0, kept_from: 0, sink }
    }

    pub(crate) fn rest(&self) -> &'i [u8] {
        &self.input[self.pos..]
    }

    /// The next `bytes` pass through.
    pub(crate) fn keep(&mut self, bytes: usize) {
        self.pos += bytes;
    }

    /// The next `bytes` do not reach the skeleton.
    pub(crate) fn drop_bytes(&mut self, bytes: usize) {
        self.flush();
        self.dropped_to(self.pos + bytes);
    }

    /// As [`Run::drop_bytes`], after a flush of one's own.
    pub(crate) fn dropped_to(&mut self, pos: usize) {
        self.pos = pos;
        self.kept_from = pos;
    }

    /// Bytes that are not in the input go to the skeleton.
    pub(crate) fn insert(&mut self, bytes: &[u8]) {
        self.flush();
        self.sink.skeleton(bytes);
    }

    pub(crate) fn flush(&mut self) {
        if self.kept_from < self.pos {
            self.sink.skeleton(&self.input[self.kept_from..self.pos]);
            self.kept_from = self.pos;
        }
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.flush();
        self.sink.mark(mark);
    }
}

/// Reads big-endian fields from the front of a slice; `None` means that more input is needed.
pub(crate) struct Fields<'i> {
    bytes: &'i [u8],
    pub(crate) taken: usize,
}

impl<'i> Fields<'i> {
    pub(crate) fn new(bytes: &'i [u8]) -> Self {
        Self { bytes, taken: 0 }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'i [u8]> {
        let field = self.bytes.get(self.taken..)?.get(..count)?;
        self.taken += count;
        Some(field)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let field = self.bytes.get(self.taken..)?.first_chunk::<N>()?;
        self.taken += N;
        Some(*field)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn be16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn be32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn be64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string counted by one byte.
    pub(crate) fn name(&mut self) -> Option<&'i [u8]> {
        let length = self.u8()?;
        self.bytes(length.into())
    }
}

/// A name from the stream, made fit for a message.
pub(crate) fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
