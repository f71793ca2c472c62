//! Bounded little-endian reading and writing over byte slices.
//!
//! Every read checks what is left before it takes, every length is checked before allocation.
//! Used by the codecs of this crate only.

use crate::WireError;

/// Reads fields in order from the bytes of one message.
pub(crate) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(crate) fn take(&mut self, what: &'static str, count: usize) -> Result<&'a [u8], WireError> {
        let Some((head, rest)) = self.left.split_at_checked(count) else {
            return Err(WireError::Truncated { what, needed: count, left: self.left.len() });
        };
        self.left = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], WireError> {
        let Some((head, rest)) = self.left.split_first_chunk::<N>() else {
            return Err(WireError::Truncated { what, needed: N, left: self.left.len() });
        };
        self.left = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, WireError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(WireError::BadValue { what, value: u64::from(other) }),
        }
    }

    /// A u32 length, then that many bytes.
    pub(crate) fn bytes(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], WireError> {
        let length = self.length(what, max)?;
        self.take(what, length)
    }

    /// A u32 length, then UTF-8 text.
    pub(crate) fn text(&mut self, what: &'static str, max: usize) -> Result<String, WireError> {
        let bytes = self.bytes(what, max)?;
        utf8(what, bytes).map(str::to_owned)
    }

    /// A u32 count, then items of at least `item_bytes_min` bytes each.
    pub(crate) fn list<T>(
        &mut self,
        what: &'static str,
        max: usize,
        item_bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.length(what, max)?;
        let needed = count.saturating_mul(item_bytes_min);
        if needed > self.left.len() {
            return Err(WireError::Truncated { what, needed, left: self.left.len() });
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn length(&mut self, what: &'static str, max: usize) -> Result<usize, WireError> {
        let length = usize::try_from(self.u32(what)?).unwrap_or(usize::MAX);
        if length > max {
            return Err(WireError::TooLong { what, length, max });
        }
        Ok(length)
    }
}

/// `bytes` as text, or the place where it stops being text.
pub(crate) fn utf8<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a str, WireError> {
    std::str::from_utf8(bytes)
        .map_err(|error| WireError::NotUtf8 { what, valid_up_to: error.valid_up_to() })
}

/// Appends fields to a growing message; refuses what its peer would refuse.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn bytes(
        &mut self,
        what: &'static str,
        bytes: &[u8],
        max: usize,
    ) -> Result<(), WireError> {
        self.length(what, bytes.len(), max)?;
        self.raw(bytes);
        Ok(())
    }

    pub(crate) fn text(
        &mut self,
        what: &'static str,
        text: &str,
        max: usize,
    ) -> Result<(), WireError> {
        self.bytes(what, text.as_bytes(), max)
    }

    pub(crate) fn list<T>(
        &mut self,
        what: &'static str,
        items: &[T],
        max: usize,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        self.length(what, items.len(), max)?;
        items.iter().try_for_each(|item| write(self, item))
    }

    fn length(&mut self, what: &'static str, length: usize, max: usize) -> Result<(), WireError> {
        match u32::try_from(length) {
            Ok(value) if length <= max => {
                self.u32(value);
                Ok(())
            }
            _ => Err(WireError::TooLong { what, length, max }),
        }
    }
}
