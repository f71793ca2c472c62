//! Bodies of `dirty-bitmap` sections, which interleave with RAM's (migration/block-dirty-bitmap.c,
//! "format of migration"). They pass through; parsing only finds where they end.

use crate::error::StreamError;
use crate::layout::BITMAP_CHUNK_BYTES_MAX;
use crate::parser::{Flow, Parser, State};
use crate::run::{Fields, Run};
use crate::sink::Sink;

const EOS: u8 = 0x01;
const ZEROES: u8 = 0x02;
const BITMAP_NAME: u8 = 0x04;
const DEVICE_NAME: u8 = 0x08;
const START: u8 = 0x10;
const COMPLETE: u8 = 0x20;
const BITS: u8 = 0x40;
/// Flags of more than one byte: reserved by QEMU, written by no version.
const EXTRA_FLAGS: u8 = 0x80;

/// A chunk up to its buffer of bits.
struct Chunk {
    flags: u8,
    head_bytes: usize,
    buffer_bytes: u64,
}

fn chunk(input: &[u8]) -> Option<Chunk> {
    let mut fields = Fields::new(input);
    let flags = fields.u8()?;
    for name in [DEVICE_NAME, BITMAP_NAME] {
        if flags & name != 0 {
            fields.name()?;
        }
    }
    let mut buffer_bytes = 0;
    if flags & START != 0 {
        let _granularity = fields.be32()?;
        let _bitmap_flags = fields.u8()?;
    } else if flags & COMPLETE == 0 && flags & BITS != 0 {
        let _first_sector = fields.be64()?;
        let _sectors = fields.be32()?;
        if flags & ZEROES == 0 {
            buffer_bytes = fields.be64()?;
        }
    }
    Some(Chunk { flags, head_bytes: fields.taken, buffer_bytes })
}

impl Parser {
    pub(crate) fn bitmap_chunk<S: Sink>(
        &mut self,
        run: &mut Run<'_, '_, S>,
    ) -> Result<Flow, StreamError> {
        let Some(chunk) = chunk(run.rest()) else {
            return Ok(Flow::More);
        };
        if chunk.flags & EXTRA_FLAGS != 0 {
            return Err(self.unexpected("dirty-bitmap flags", chunk.flags, run));
        }
        self.bounded("dirty-bitmap chunk", chunk.buffer_bytes, BITMAP_CHUNK_BYTES_MAX, run)?;
        run.keep(chunk.head_bytes);
        self.skip_then(chunk.buffer_bytes, None);
        if chunk.flags & EOS != 0 {
            self.state = State::Footer;
        }
        Ok(Flow::Go)
    }
}
