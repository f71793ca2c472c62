//! The return path, from target to source: messages of be16 type, be16 length and data
//! (migration.c, source_return_path_thread), and after RECV_BITMAP a bitmap outside any message.

use std::ops::Range;

use crate::error::StreamError;
use crate::layout::BLOCK_BYTES_MAX;
use crate::run::Fields;

/// QEMU's own buffer for a message's data; it refuses more.
pub const PAYLOAD_BYTES_MAX: usize = 512;
/// Type and length.
pub const HEADER_BYTES: usize = 4;
/// One bit per 4 KiB page of the largest block.
const BITMAP_BYTES_MAX: u64 = BLOCK_BYTES_MAX / crate::PAGE_BYTES as u64 / 8;
/// The length before a bitmap and the ending word behind it.
const BITMAP_FRAME_BYTES: u64 = 8 + 8;

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// The target sends no more; 0 means that it has the guest.
    Shut {
        /// QEMU's error value.
        error: u32,
    },
    /// Answer to a PING.
    Pong {
        /// The PING's value.
        value: u32,
    },
    /// Postcopy: pages wanted, with the block's name in the payload.
    RequestPagesNamed,
    /// Postcopy: pages wanted of the block named last.
    RequestPages,
    /// Postcopy recovery: which pages were received; the bitmap follows as [`Item::Bitmap`].
    ReceivedBitmap,
    /// Postcopy recovery: go on.
    ResumeAck {
        /// QEMU's value, 1.
        value: u32,
    },
    /// The target agrees to the switch-over (8.1 and later).
    SwitchoverAck,
}

/// A piece of the return path; ranges are in the input given to [`ReturnPath::next_item`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A whole message: header and payload.
    Message {
        /// Its meaning.
        message: Message,
        /// All its bytes, header included.
        bytes: Range<usize>,
    },
    /// Bytes of the bitmap after [`Message::ReceivedBitmap`]; may come in several pieces.
    Bitmap {
        /// The bytes.
        bytes: Range<usize>,
    },
}

impl Item {
    /// The bytes of the item in the input; the next one begins at their end.
    pub fn bytes(&self) -> Range<usize> {
        match self {
            Self::Message { bytes, .. } | Self::Bitmap { bytes } => bytes.clone(),
        }
    }
}

/// Splits the return path into messages.
#[derive(Debug, Default)]
pub struct ReturnPath {
    bitmap: BitmapState,
    offset: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum BitmapState {
    #[default]
    None,
    LengthDue,
    Left(u64),
}

impl ReturnPath {
    /// A splitter at the first byte of a return path.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next item at the front of `input`, or `None` if it is not complete. The caller removes
    /// `item.bytes()` before the next call; what remains is at most [`HEADER_BYTES`] +
    /// [`PAYLOAD_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// An unknown type or a length that QEMU would refuse: abort the job.
    pub fn next_item(&mut self, input: &[u8]) -> Result<Option<Item>, StreamError> {
        let item = match self.bitmap {
            BitmapState::None => self.message(input)?,
            BitmapState::LengthDue => self.bitmap_length(input)?,
            BitmapState::Left(left) => self.bitmap_bytes(left, input),
        };
        self.offset += item.as_ref().map_or(0, |item| item.bytes().len() as u64);
        Ok(item)
    }

    fn message(&mut self, input: &[u8]) -> Result<Option<Item>, StreamError> {
        let mut fields = Fields::new(input);
        let Some((kind, length)) = fields.be16().zip(fields.be16()) else {
            return Ok(None);
        };
        self.check(kind, length)?;
        let Some(payload) = fields.bytes(length.into()) else {
            return Ok(None);
        };
        let value = Fields::new(payload).be32().unwrap_or_default();
        let message = match kind {
            1 => Message::Shut { error: value },
            2 => Message::Pong { value },
            3 => Message::RequestPagesNamed,
            4 => Message::RequestPages,
            5 => Message::ReceivedBitmap,
            6 => Message::ResumeAck { value },
            _ => Message::SwitchoverAck,
        };
        if message == Message::ReceivedBitmap {
            self.bitmap = BitmapState::LengthDue;
        }
        Ok(Some(Item::Message { message, bytes: 0..fields.taken }))
    }

    /// The lengths QEMU insists on (migration.c, rp_cmd_args).
    fn check(&self, kind: u16, length: u16) -> Result<(), StreamError> {
        let fits = match kind {
            1 | 2 | 6 => length == 4,
            3 => usize::from(length) > 12 && usize::from(length) <= PAYLOAD_BYTES_MAX,
            4 => length == 12,
            5 => length > 0 && usize::from(length) <= PAYLOAD_BYTES_MAX,
            7 => length == 0,
            _ => return Err(self.unexpected("return path message type", kind.into())),
        };
        if fits {
            Ok(())
        } else {
            Err(self.unexpected("return path message length", length.into()))
        }
    }

    fn bitmap_length(&mut self, input: &[u8]) -> Result<Option<Item>, StreamError> {
        let Some(bitmap_bytes) = Fields::new(input).be64() else {
            return Ok(None);
        };
        if bitmap_bytes > BITMAP_BYTES_MAX {
            let (value, max) = (bitmap_bytes, BITMAP_BYTES_MAX);
            let what = "received bitmap";
            return Err(StreamError::TooLarge { what, value, max, at: self.offset });
        }
        Ok(self.bitmap_bytes(bitmap_bytes + BITMAP_FRAME_BYTES, input))
    }

    fn bitmap_bytes(&mut self, left: u64, input: &[u8]) -> Option<Item> {
        let here = left.min(input.len() as u64);
        let left = left - here;
        self.bitmap = if left == 0 { BitmapState::None } else { BitmapState::Left(left) };
        (here > 0).then_some(Item::Bitmap { bytes: 0..here as usize })
    }

    fn unexpected(&self, what: &'static str, value: u64) -> StreamError {
        StreamError::Unexpected { what, value, at: self.offset }
    }
}
