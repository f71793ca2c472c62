//! Everything around section bodies: configuration, commands, section headers and footers.

use crate::error::{Capability, StreamError};
use crate::layout::*;
use crate::parser::{Body, Current, Flow, Parser, State};
use crate::run::{Fields, Run, printable};
use crate::sink::{Mark, Sink};

const CAPABILITIES: &[u8] = b"configuration/capabilities";
const TARGET_PAGE_BITS: &[u8] = b"configuration/target-page-bits";
const UUID: &[u8] = b"configuration/uuid";
const UUID_BYTES: usize = 16;
/// What a source with `x-ignore-shared` writes behind the machine name (savevm.c,
/// vmstate_capabilites): the target compares it with its own capability.
const IGNORE_SHARED_SUBSECTION: &[u8] =
    b"\x05\x1aconfiguration/capabilities\0\0\0\x01\0\0\0\x01\x0fx-ignore-shared";

const RAM_NAME: &[u8] = b"ram";
const BITMAP_NAME: &[u8] = b"dirty-bitmap";
const BITMAP_VERSION: u32 = 1;
/// The end of the id of virtio-mem's early state; the device's path stands before it.
const VIRTIO_MEM_NAME: &[u8] = b"virtio-mem-device-early";
const VIRTIO_MEM_VERSION: u32 = 1;

/// A START or FULL section's header.
struct SectionHeader<'i> {
    id: u32,
    name: &'i [u8],
    version: u32,
    bytes: usize,
}

impl SectionHeader<'_> {
    fn unsupported(&self) -> StreamError {
        StreamError::UnsupportedSection { name: printable(self.name), version: self.version }
    }
}

fn section_header(input: &[u8]) -> Option<SectionHeader<'_>> {
    let mut fields = Fields::new(input);
    fields.u8()?;
    let id = fields.be32()?;
    let name = fields.name()?;
    let _instance = fields.be32()?;
    let version = fields.be32()?;
    Some(SectionHeader { id, name, version, bytes: fields.taken })
}

impl Parser {
    pub(crate) fn section<S: Sink>(
        &mut self,
        run: &mut Run<'_, '_, S>,
    ) -> Result<Flow, StreamError> {
        let Some(&kind) = run.rest().first() else {
            return Ok(Flow::More);
        };
        match (kind, self.state) {
            (CONFIGURATION, State::Start) => return self.configuration(run),
            (SUBSECTION, State::Configured) => return self.configuration_subsection(run),
            (_, State::Start) if self.direct() => return Err(StreamError::NoConfiguration),
            _ => {}
        }
        let flow = match kind {
            COMMAND => self.command(run)?,
            SECTION_START => self.section_start(run)?,
            SECTION_FULL => self.section_full(run)?,
            SECTION_PART | SECTION_END => self.section_again(run, kind == SECTION_END)?,
            _ => return Err(self.unexpected("section type", kind, run)),
        };
        if flow == Flow::Go && matches!(self.state, State::Start | State::Configured) {
            self.state = State::Sections;
        }
        Ok(flow)
    }

    fn configuration<S: Sink>(&mut self, run: &mut Run<'_, '_, S>) -> Result<Flow, StreamError> {
        let mut fields = Fields::new(&run.rest()[1..]);
        let Some(length) = fields.be32() else {
            return Ok(Flow::More);
        };
        self.bounded("machine name length", length, MACHINE_NAME_BYTES_MAX as u64, run)?;
        if fields.bytes(length as usize).is_none() {
            return Ok(Flow::More);
        }
        run.keep(1 + fields.taken);
        if self.direct() {
            run.insert(IGNORE_SHARED_SUBSECTION);
        }
        self.state = State::Configured;
        Ok(Flow::Go)
    }

    fn configuration_subsection<S: Sink>(
        &mut self,
        run: &mut Run<'_, '_, S>,
    ) -> Result<Flow, StreamError> {
        let mut fields = Fields::new(&run.rest()[1..]);
        let Some((name, _version)) = fields.name().zip(fields.be32()) else {
            return Ok(Flow::More);
        };
        let body = match name {
            TARGET_PAGE_BITS => fields.be32().map(drop),
            UUID => fields.bytes(UUID_BYTES).map(drop),
            CAPABILITIES => self.capabilities(&mut fields, run)?,
            _ => return Err(StreamError::UnsupportedConfiguration { name: printable(name) }),
        };
        if body.is_none() {
            return Ok(Flow::More);
        }
        run.keep(1 + fields.taken);
        Ok(Flow::Go)
    }

    fn capabilities<S: Sink>(
        &mut self,
        fields: &mut Fields<'_>,
        run: &Run<'_, '_, S>,
    ) -> Result<Option<()>, StreamError> {
        let Some(count) = fields.be32() else {
            return Ok(None);
        };
        self.bounded("capability count", count, CAPABILITIES_MAX, run)?;
        let mut ignore_shared = false;
        for _ in 0..count {
            let Some(name) = fields.name() else {
                return Ok(None);
            };
            match name {
                b"x-ignore-shared" if !self.direct() => ignore_shared = true,
                b"x-ignore-shared" => return Err(unsupported(Capability::IgnoreShared)),
                b"mapped-ram" => return Err(unsupported(Capability::MappedRam)),
                _ => return Err(StreamError::UnsupportedConfiguration { name: printable(name) }),
            }
        }
        self.ram.addresses_follow = ignore_shared;
        Ok(Some(()))
    }

    fn command<S: Sink>(&mut self, run: &mut Run<'_, '_, S>) -> Result<Flow, StreamError> {
        let mut fields = Fields::new(&run.rest()[1..]);
        let Some((command, length)) = fields.be16().zip(fields.be16()) else {
            return Ok(Flow::More);
        };
        let mut header_bytes = COMMAND_HEADER_BYTES;
        let mut data_bytes = u64::from(length);
        match command {
            COMMAND_POSTCOPY_ADVISE if length > 0 => self.postcopy_advised()?,
            COMMAND_PACKAGED if usize::from(length) != PACKAGED_LENGTH_BYTES => {
                return Err(self.unexpected("length of PACKAGED", length, run));
            }
            COMMAND_PACKAGED => {
                let Some(package_bytes) = fields.be32() else {
                    return Ok(Flow::More);
                };
                header_bytes += PACKAGED_LENGTH_BYTES;
                data_bytes = u64::from(package_bytes);
            }
            _ => {}
        }
        run.keep(header_bytes);
        self.skip_then(data_bytes, Some(Mark::Command(command)));
        Ok(Flow::Go)
    }

    /// ADVISE with data announces RAM postcopy (without: dirty bitmaps only).
    fn postcopy_advised(&mut self) -> Result<(), StreamError> {
        if self.direct() {
            return Err(unsupported(Capability::PostcopyRam));
        }
        self.ram.page_sizes_may_follow = true;
        Ok(())
    }

    fn section_start<S: Sink>(&mut self, run: &mut Run<'_, '_, S>) -> Result<Flow, StreamError> {
        let Some(header) = section_header(run.rest()) else {
            return Ok(Flow::More);
        };
        let (body, slot) = match (header.name, header.version) {
            (RAM_NAME, RAM_VERSION) => (Body::Ram, &mut self.ram_section),
            (BITMAP_NAME, BITMAP_VERSION) => (Body::Bitmap, &mut self.bitmap_section),
            _ => return Err(header.unsupported()),
        };
        if slot.replace(header.id).is_some() {
            return Err(self.unexpected("second START of section", header.id, run));
        }
        if self.ram_section == self.bitmap_section {
            return Err(self.unexpected("id of two sections", header.id, run));
        }
        run.keep(header.bytes);
        self.enter(header.id, body, false);
        Ok(Flow::Go)
    }

    /// virtio-mem's early state: fixed fields, then a bitmap of its blocks (virtio-mem.c,
    /// vmstate_virtio_mem_device_early).
    fn section_full<S: Sink>(&mut self, run: &mut Run<'_, '_, S>) -> Result<Flow, StreamError> {
        let Some(header) = section_header(run.rest()) else {
            return Ok(Flow::More);
        };
        if !header.name.ends_with(VIRTIO_MEM_NAME) || header.version != VIRTIO_MEM_VERSION {
            return Err(header.unsupported());
        }
        let Some(fixed) = run.rest()[header.bytes..].first_chunk::<VIRTIO_MEM_FIXED_BYTES>() else {
            return Ok(Flow::More);
        };
        let mut fields = Fields::new(&fixed[8..]);
        let sizes = fields.be64().zip(fields.be64());
        let (region_bytes, block_bytes) = sizes.unwrap_or_default();
        self.bounded("virtio-mem region", region_bytes, BLOCK_BYTES_MAX, run)?;
        if block_bytes < PAGE_BYTES as u64 {
            return Err(self.unexpected("virtio-mem block size", block_bytes, run));
        }
        let bitmap_words = (region_bytes / block_bytes).div_ceil(u64::BITS.into());
        run.keep(header.bytes + VIRTIO_MEM_FIXED_BYTES);
        self.enter(header.id, Body::Early, false);
        self.skip_then(bitmap_words * WORD_BYTES as u64, None);
        Ok(Flow::Go)
    }

    fn section_again<S: Sink>(
        &mut self,
        run: &mut Run<'_, '_, S>,
        last: bool,
    ) -> Result<Flow, StreamError> {
        let mut fields = Fields::new(&run.rest()[1..]);
        let Some(id) = fields.be32() else {
            return Ok(Flow::More);
        };
        let body = match Some(id) {
            known if known == self.ram_section => Body::Ram,
            known if known == self.bitmap_section => Body::Bitmap,
            _ => return Err(self.unexpected("id of a section never started", id, run)),
        };
        run.keep(1 + fields.taken);
        self.enter(id, body, last);
        Ok(Flow::Go)
    }

    fn enter(&mut self, id: u32, body: Body, last: bool) {
        self.current = Current { id, body, last };
        self.state = match body {
            Body::Ram => State::Ram,
            Body::Bitmap => State::Bitmap,
            Body::Early => State::Footer,
        };
    }

    pub(crate) fn footer<S: Sink>(
        &mut self,
        run: &mut Run<'_, '_, S>,
    ) -> Result<Flow, StreamError> {
        let Some([magic, id @ ..]) = run.rest().first_chunk::<FOOTER_BYTES>() else {
            return Ok(Flow::More);
        };
        if *magic != SECTION_FOOTER {
            return Err(StreamError::NoFooters { section_id: self.current.id });
        }
        let id = u32::from_be_bytes(*id);
        if id != self.current.id {
            return Err(self.unexpected("footer of another section", id, run));
        }
        run.keep(FOOTER_BYTES);
        if self.current.last && self.current.body == Body::Ram {
            run.mark(Mark::RamEnd);
            self.state = State::Tail;
        } else {
            self.state = State::Sections;
        }
        Ok(Flow::Go)
    }
}

pub(crate) fn unsupported(capability: Capability) -> StreamError {
    StreamError::UnsupportedCapability { capability }
}
