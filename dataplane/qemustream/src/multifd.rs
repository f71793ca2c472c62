//! One multifd channel with `multifd-compression none` (migration/multifd.h, MultiFDInit_t and
//! MultiFDPacket_t). A channel carries nothing for the target QEMU once its pages are taken out.

use crate::error::{Capability, StreamError};
use crate::layout::{FILE_MAGIC, LOOKAHEAD_MAX, PAGE_BYTES};
use crate::run::{Fields, printable};
use crate::section::unsupported;
use crate::sink::{Mark, RamBlock, Sink};

/// First word of a channel and of each of its packets.
pub const MAGIC: u32 = 0x1122_3344;
/// The only version there has been.
pub const VERSION: u32 = 1;
/// Bytes of the hello that opens a channel.
pub const HELLO_BYTES: usize = 64;
/// Pages in one packet: MULTIFD_PACKET_SIZE (512 KiB) in target pages.
pub const PACKET_PAGES_MAX: usize = 128;
/// Bytes of a packet's header before its offsets.
pub const HEADER_BYTES: usize = 320;
/// Bytes of a packet before its pages.
pub const PACKET_BYTES: usize = HEADER_BYTES + PACKET_PAGES_MAX * 8;

const BLOCK_NAME_BYTES: usize = 256;
const RESERVED_BYTES: usize = 4 + 3 * 8;
const FLAG_SYNC: u32 = 1;
const FLAGS_COMPRESSION: u32 = 0x1f << 1;
const FLAG_DEVICE_STATE: u32 = 32 << 1;

const _: () = {
    assert!(PACKET_BYTES <= LOOKAHEAD_MAX);
    assert!(HEADER_BYTES == 3 * 4 + 3 * 4 + 8 + 4 + RESERVED_BYTES + BLOCK_NAME_BYTES);
};

/// What kind of connection the source opened, told from its first word. Channels may connect before
/// the main stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// The main stream: give it to [`crate::Parser`].
    Main,
    /// A multifd channel: give it to [`Channel`].
    Channel,
}

impl Connection {
    /// The kind of a connection that begins with `first`, if it is one of the two.
    pub fn of(first: [u8; 4]) -> Option<Self> {
        match u32::from_be_bytes(first) {
            FILE_MAGIC => Some(Self::Main),
            MAGIC => Some(Self::Channel),
            _ => None,
        }
    }
}

/// What a channel says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The guest's UUID; all zero if it has none.
    pub uuid: [u8; 16],
    /// The channel's number, from 0.
    pub id: u8,
}

// Where QEMU's versions differ: from 9.0 zero pages are listed behind the normal ones (7.2 leaves
// that field zero and sends zero pages on the main stream); in a packet without pages 7.2 leaves
// next_packet_size and the block's name stale and 10.0 leaves pages_alloc zero, yet the table of
// offsets always has its full length.

/// The packet whose pages are being read.
#[derive(Debug)]
struct Packet {
    block: u16,
    sync: bool,
    next: usize,
    normal: usize,
    indices: [u64; PACKET_PAGES_MAX],
}

/// Parses one channel, fed in pieces of any size. Memory: one table of 128 page indices.
#[derive(Debug)]
pub struct Channel {
    hello: Option<Hello>,
    packet: Packet,
    offset: u64,
    failure: Option<StreamError>,
}

impl Default for Channel {
    fn default() -> Self {
        Self::new()
    }
}

impl Channel {
    /// A parser at the first byte of a channel.
    pub fn new() -> Self {
        let indices = [0; PACKET_PAGES_MAX];
        let packet = Packet { block: 0, sync: false, next: 0, normal: 0, indices };
        Self { hello: None, packet, offset: 0, failure: None }
    }

    /// The channel's hello, once it was read.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// Parses as much of `input` as is complete and returns how many bytes were consumed; the rest
    /// (fewer than [`LOOKAHEAD_MAX`] bytes, unless `blocks` is empty) must come again.
    ///
    /// `blocks` is the main stream's list ([`crate::Parser::blocks`]). While it is empty the
    /// channel stops before the first packet with pages.
    ///
    /// Pages of all blocks go to [`Sink::page`] and [`Sink::zero`], also of those that are not
    /// taken out: the sink puts them into the skeleton at the next [`crate::SyncPoint`].
    /// [`Mark::ChannelSync`] ends what belongs before that point.
    ///
    /// # Errors
    /// Any [`StreamError`], final.
    pub fn parse<S: Sink>(
        &mut self,
        blocks: &[RamBlock],
        input: &[u8],
        sink: &mut S,
    ) -> Result<usize, StreamError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let mut consumed = 0;
        loop {
            match self.step(blocks, input, consumed, sink) {
                Ok(0) => break,
                Ok(bytes) => {
                    consumed += bytes;
                    self.offset += bytes as u64;
                }
                Err(failure) => {
                    self.failure = Some(failure.clone());
                    return Err(failure);
                }
            }
        }
        Ok(consumed)
    }

    /// One hello, packet header or run of pages; 0 if more input (or the block list) is needed.
    fn step<S: Sink>(
        &mut self,
        blocks: &[RamBlock],
        input: &[u8],
        at: usize,
        sink: &mut S,
    ) -> Result<usize, StreamError> {
        let rest = &input[at..];
        if self.hello.is_none() {
            return self.read_hello(rest);
        }
        if self.packet.next < self.packet.normal {
            return Ok(self.pages(rest.len(), at, sink));
        }
        let Some(packet) = rest.first_chunk::<PACKET_BYTES>() else {
            return Ok(0);
        };
        self.packet_header(packet, blocks, sink)
    }

    fn read_hello(&mut self, rest: &[u8]) -> Result<usize, StreamError> {
        let Some(hello) = rest.first_chunk::<HELLO_BYTES>() else {
            return Ok(0);
        };
        let mut fields = Fields::new(hello);
        self.magic_and_version(&mut fields)?;
        let uuid = fields.array().unwrap_or_default();
        let id = fields.u8().unwrap_or_default();
        self.hello = Some(Hello { uuid, id });
        Ok(HELLO_BYTES)
    }

    fn magic_and_version(&self, fields: &mut Fields<'_>) -> Result<(), StreamError> {
        for (what, expected) in [("multifd magic", MAGIC), ("multifd version", VERSION)] {
            let found = fields.be32().unwrap_or_default();
            if found != expected {
                return Err(self.unexpected(what, found));
            }
        }
        Ok(())
    }

    /// Pages as they become complete. A run longer than the input's pages goes on next time.
    fn pages<S: Sink>(&mut self, available: usize, at: usize, sink: &mut S) -> usize {
        let packet = &mut self.packet;
        let count = (available / PAGE_BYTES).min(packet.normal - packet.next);
        let indices = &packet.indices[packet.next..packet.next + count];
        for (page, index) in indices.iter().enumerate() {
            sink.page(packet.block, *index, at + page * PAGE_BYTES);
        }
        packet.next += count;
        if packet.next == packet.normal && packet.sync {
            sink.mark(Mark::ChannelSync);
        }
        count * PAGE_BYTES
    }

    fn packet_header<S: Sink>(
        &mut self,
        packet: &[u8; PACKET_BYTES],
        blocks: &[RamBlock],
        sink: &mut S,
    ) -> Result<usize, StreamError> {
        let mut fields = Fields::new(packet);
        self.magic_and_version(&mut fields)?;
        let sync = self.flags(fields.be32().unwrap_or_default())?;
        let _pages_alloc = fields.be32();
        let normal = self.count(fields.be32(), PACKET_PAGES_MAX)?;
        let pages_bytes = fields.be32().unwrap_or_default();
        let _packet_number = fields.be64();
        let zero = self.count(fields.be32(), PACKET_PAGES_MAX - normal)?;
        let _reserved = fields.bytes(RESERVED_BYTES);
        let name = fields.bytes(BLOCK_NAME_BYTES).unwrap_or_default();
        let has_pages = normal + zero > 0;
        if has_pages && blocks.is_empty() {
            return Ok(0);
        }
        if normal > 0 && pages_bytes as usize != normal * PAGE_BYTES {
            return Err(self.unexpected("length of a packet's pages", pages_bytes));
        }
        if has_pages {
            let block = self.block(name, blocks)?;
            self.indices(&mut fields, normal + zero, &blocks[usize::from(block)])?;
            self.packet.block = block;
            for index in &self.packet.indices[normal..normal + zero] {
                sink.zero(block, *index);
            }
        }
        (self.packet.normal, self.packet.next, self.packet.sync) = (normal, 0, sync);
        if normal == 0 && sync {
            sink.mark(Mark::ChannelSync);
        }
        Ok(PACKET_BYTES)
    }

    /// Whether the packet ends a round on this channel.
    fn flags(&self, flags: u32) -> Result<bool, StreamError> {
        match flags & !FLAG_SYNC {
            0 => Ok(flags & FLAG_SYNC != 0),
            FLAG_DEVICE_STATE => Err(unsupported(Capability::MultifdDeviceState)),
            other if other & !FLAGS_COMPRESSION == 0 => {
                Err(unsupported(Capability::MultifdCompression))
            }
            _ => Err(self.unexpected("multifd flags", flags)),
        }
    }

    fn count(&self, value: Option<u32>, max: usize) -> Result<usize, StreamError> {
        let value = value.unwrap_or_default() as usize;
        if value > max {
            let (what, value, max) = ("count of a packet's pages", value as u64, max as u64);
            return Err(StreamError::TooLarge { what, value, max, at: self.offset });
        }
        Ok(value)
    }

    fn block(&self, field: &[u8], blocks: &[RamBlock]) -> Result<u16, StreamError> {
        let length = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
        let name = &field[..length];
        let block = blocks.iter().position(|block| block.name.as_bytes() == name);
        let unlisted = || StreamError::UnlistedBlock { name: printable(name), at: self.offset };
        block.map(|block| block as u16).ok_or_else(unlisted)
    }

    fn indices(
        &mut self,
        fields: &mut Fields<'_>,
        count: usize,
        block: &RamBlock,
    ) -> Result<(), StreamError> {
        let pages = block.pages();
        for entry in 0..count {
            let offset = fields.be64().unwrap_or_default();
            let index = offset / PAGE_BYTES as u64;
            if !offset.is_multiple_of(PAGE_BYTES as u64) {
                return Err(self.unexpected("page offset", offset));
            }
            if index >= pages {
                return Err(StreamError::PageOutOfRange { name: block.name.clone(), index });
            }
            self.packet.indices[entry] = index;
        }
        Ok(())
    }

    fn unexpected(&self, what: &'static str, value: impl Into<u64>) -> StreamError {
        StreamError::Unexpected { what, value: value.into(), at: self.offset }
    }
}
