//! Bodies of the `ram` section: the block list and the page records (migration/ram.c,
//! ram_save_setup and ram_load_precopy). The loop over taken-out pages is the hot path.

use crate::error::{Capability, StreamError};
use crate::layout::*;
use crate::options::{BlockRule, DirectOptions, Mode};
use crate::parser::{Flow, Parser, State};
use crate::record;
use crate::run::{Fields, Run, printable};
use crate::section::unsupported;
use crate::sink::{Inserted, Mark, RamBlock, Sink, SyncPoint};

/// What the RAM section remembers between records.
#[derive(Debug, Default)]
pub(crate) struct Ram {
    pub(crate) blocks: Vec<RamBlock>,
    listed: bool,
    /// The block that CONTINUE means in the source's stream.
    last_in: Option<u16>,
    /// The block that CONTINUE means in the skeleton.
    last_out: Option<u16>,
    /// The source has `x-ignore-shared` (plain mode): each block is followed by its address.
    pub(crate) addresses_follow: bool,
    /// The source announced postcopy: a block on huge pages is followed by its page size.
    pub(crate) page_sizes_may_follow: bool,
}

impl Ram {
    fn named(&self, name: &[u8]) -> Option<u16> {
        let same = |block: &RamBlock| block.name.as_bytes() == name;
        match self.last_in {
            Some(last) if same(&self.blocks[usize::from(last)]) => Some(last),
            _ => self.blocks.iter().position(same).map(|block| block as u16),
        }
    }

    /// The block of the last record and its pages, if they are taken out.
    fn taken_out(&self) -> Option<(u16, u64)> {
        let last = self.last_in?;
        let block = &self.blocks[usize::from(last)];
        block.taken_out.then(|| (last, block.pages()))
    }
}

/// A page record's header: which block, which page, how long.
struct RecordHeader {
    block: u16,
    index: u64,
    continues: bool,
    bytes: usize,
}

impl Parser {
    /// A run of records of the taken-out block that the last record named, then one record of any
    /// other kind.
    pub(crate) fn ram_records<S: Sink>(
        &mut self,
        run: &mut Run<'_, '_, S>,
    ) -> Result<Flow, StreamError> {
        if let Some((block, pages)) = self.ram.taken_out() {
            self.take_out_run(block, pages, run)?;
        }
        let Some(word) = run.rest().first_chunk().map(|word| u64::from_be_bytes(*word)) else {
            return Ok(Flow::More);
        };
        match word & FLAG_MASK & !RAM_CONTINUE {
            RAM_PAGE | RAM_ZERO | RAM_XBZRLE | RAM_COMPRESS_PAGE => self.page_record(word, run),
            RAM_EOS => Ok(self.sync_word(SyncPoint::Eos, run)),
            RAM_MULTIFD_FLUSH => Ok(self.sync_word(SyncPoint::Flush, run)),
            RAM_MEM_SIZE if self.ram.listed => {
                Err(self.unexpected("second MEM_SIZE word", word, run))
            }
            RAM_MEM_SIZE => {
                self.ram.listed = true;
                self.state = State::MemSize { left_bytes: word & !FLAG_MASK };
                run.keep(WORD_BYTES);
                Ok(Flow::Go)
            }
            flags if flags & RAM_HOOK != 0 => Err(unsupported(Capability::Rdma)),
            _ => Err(self.unexpected("RAM word", word, run)),
        }
    }

    /// The hot path: PAGE and ZERO records that continue a taken-out block.
    #[inline]
    fn take_out_run<S: Sink>(
        &self,
        block: u16,
        pages: u64,
        run: &mut Run<'_, '_, S>,
    ) -> Result<(), StreamError> {
        const PAGE: u64 = RAM_PAGE | RAM_CONTINUE;
        const ZERO: u64 = RAM_ZERO | RAM_CONTINUE;
        run.flush();
        let mut pos = run.pos;
        let outside = loop {
            let rest = &run.input[pos..];
            let Some(word) = rest.first_chunk().map(|word| u64::from_be_bytes(*word)) else {
                break None;
            };
            let index = word >> PAGE_SHIFT;
            match word & FLAG_MASK {
                ZERO if rest.get(WORD_BYTES) == Some(&0) => {
                    if index >= pages {
                        break Some(index);
                    }
                    run.sink.zero(block, index);
                    pos += WORD_BYTES + 1;
                }
                PAGE if rest.len() >= WORD_BYTES + PAGE_BYTES => {
                    if index >= pages {
                        break Some(index);
                    }
                    run.sink.page(block, index, pos + WORD_BYTES);
                    pos += WORD_BYTES + PAGE_BYTES;
                }
                _ => break None,
            }
        };
        run.dropped_to(pos);
        outside.map_or(Ok(()), |index| Err(self.outside(block, index)))
    }

    fn page_record<S: Sink>(
        &mut self,
        word: u64,
        run: &mut Run<'_, '_, S>,
    ) -> Result<Flow, StreamError> {
        let Some(header) = self.record_header(word, run)? else {
            return Ok(Flow::More);
        };
        let kind = word & FLAG_MASK & !RAM_CONTINUE;
        if self.ram.blocks[usize::from(header.block)].taken_out {
            self.take_out_record(kind, &header, run)
        } else {
            self.keep_record(kind, &header, run)
        }
    }

    fn record_header<S: Sink>(
        &self,
        word: u64,
        run: &Run<'_, '_, S>,
    ) -> Result<Option<RecordHeader>, StreamError> {
        let continues = word & RAM_CONTINUE != 0;
        let index = word >> PAGE_SHIFT;
        let unlisted =
            |name: &[u8]| StreamError::UnlistedBlock { name: printable(name), at: self.at(run) };
        if continues {
            let block = self.ram.last_in.ok_or_else(|| unlisted(b""))?;
            return Ok(Some(RecordHeader { block, index, continues, bytes: WORD_BYTES }));
        }
        let mut fields = Fields::new(&run.rest()[WORD_BYTES..]);
        let Some(name) = fields.name() else {
            return Ok(None);
        };
        let block = self.ram.named(name).ok_or_else(|| unlisted(name))?;
        Ok(Some(RecordHeader { block, index, continues, bytes: WORD_BYTES + fields.taken }))
    }

    fn take_out_record<S: Sink>(
        &mut self,
        kind: u64,
        header: &RecordHeader,
        run: &mut Run<'_, '_, S>,
    ) -> Result<Flow, StreamError> {
        let payload_bytes = match kind {
            RAM_PAGE => PAGE_BYTES,
            RAM_ZERO => 1,
            RAM_XBZRLE => return Err(unsupported(Capability::Xbzrle)),
            _ => return Err(unsupported(Capability::Compress)),
        };
        let payload_at = run.pos + header.bytes;
        let Some(payload) = run.input.get(payload_at..payload_at + payload_bytes) else {
            return Ok(Flow::More);
        };
        if header.index >= self.ram.blocks[usize::from(header.block)].pages() {
            return Err(self.outside(header.block, header.index));
        }
        if kind == RAM_ZERO && payload != [0] {
            return Err(self.unexpected("fill byte of a ZERO record", payload[0], run));
        }
        run.drop_bytes(header.bytes + payload_bytes);
        self.ram.last_in = Some(header.block);
        match kind {
            RAM_PAGE => run.sink.page(header.block, header.index, payload_at),
            _ => run.sink.zero(header.block, header.index),
        }
        Ok(Flow::Go)
    }

    fn keep_record<S: Sink>(
        &mut self,
        kind: u64,
        header: &RecordHeader,
        run: &mut Run<'_, '_, S>,
    ) -> Result<Flow, StreamError> {
        let mut fields = Fields::new(&run.rest()[header.bytes..]);
        let payload_bytes = match kind {
            RAM_PAGE => Some(PAGE_BYTES as u64),
            RAM_ZERO => Some(1),
            RAM_XBZRLE => self.xbzrle_bytes(&mut fields, run)?,
            _ => self.compressed_bytes(&mut fields, run)?,
        };
        let Some(payload_bytes) = payload_bytes else {
            return Ok(Flow::More);
        };
        if self.direct() && header.continues && self.ram.last_out != Some(header.block) {
            self.name_again(kind, header, run);
        } else {
            run.keep(header.bytes);
        }
        self.ram.last_in = Some(header.block);
        self.ram.last_out = Some(header.block);
        run.keep(fields.taken);
        self.skip_then(payload_bytes, None);
        Ok(Flow::Go)
    }

    /// CONTINUE would mean another block in the skeleton: write the name in full.
    fn name_again<S: Sink>(&self, kind: u64, header: &RecordHeader, run: &mut Run<'_, '_, S>) {
        let name = &self.ram.blocks[usize::from(header.block)].name;
        let mut named = [0; record::HEADER_BYTES_MAX];
        let bytes = record::named_header(kind, header.index, name, &mut named);
        run.insert(&named[..bytes]);
        run.drop_bytes(header.bytes);
    }

    fn xbzrle_bytes<S: Sink>(
        &self,
        fields: &mut Fields<'_>,
        run: &Run<'_, '_, S>,
    ) -> Result<Option<u64>, StreamError> {
        let Some((encoding, length)) = fields.u8().zip(fields.be16()) else {
            return Ok(None);
        };
        if encoding != XBZRLE_ENCODING {
            return Err(self.unexpected("XBZRLE encoding", encoding, run));
        }
        self.bounded("XBZRLE length", length, PAGE_BYTES as u64, run)?;
        Ok(Some(length.into()))
    }

    fn compressed_bytes<S: Sink>(
        &self,
        fields: &mut Fields<'_>,
        run: &Run<'_, '_, S>,
    ) -> Result<Option<u64>, StreamError> {
        let Some(length) = fields.be32() else {
            return Ok(None);
        };
        self.bounded("compressed page length", length, COMPRESSED_PAGE_BYTES_MAX, run)?;
        Ok(Some(length.into()))
    }

    fn sync_word<S: Sink>(&mut self, point: SyncPoint, run: &mut Run<'_, '_, S>) -> Flow {
        run.flush();
        if self.direct() && run.sink.before_sync(point) == Inserted::Records {
            self.ram.last_out = None;
        }
        run.keep(WORD_BYTES);
        match point {
            SyncPoint::Flush => run.mark(Mark::Flush),
            SyncPoint::Eos => {
                run.mark(Mark::Eos);
                self.state = State::Footer;
            }
        }
        Flow::Go
    }

    /// One block of MEM_SIZE, or the end of the list.
    pub(crate) fn mem_size<S: Sink>(
        &mut self,
        left_bytes: u64,
        run: &mut Run<'_, '_, S>,
    ) -> Result<Flow, StreamError> {
        if left_bytes == 0 {
            return self.blocks_complete(run);
        }
        let mut fields = Fields::new(run.rest());
        let Some((name, used_bytes)) = fields.name().zip(fields.be64()) else {
            return Ok(Flow::More);
        };
        self.bounded("RAM block length", used_bytes, left_bytes.min(BLOCK_BYTES_MAX), run)?;
        self.bounded(
            "count of RAM blocks",
            self.ram.blocks.len() as u64 + 1,
            BLOCKS_MAX as u64,
            run,
        )?;
        let Ok(name) = std::str::from_utf8(name) else {
            return Err(self.unexpected(
                "bytes in a RAM block's name of length",
                name.len() as u64,
                run,
            ));
        };
        let left_bytes = left_bytes - used_bytes;
        let Some(page_bytes) = self.page_size(&mut fields, left_bytes == 0) else {
            return Ok(Flow::More);
        };
        let (taken_out, target_addr) = self.block_rule(name, used_bytes)?;
        run.keep(fields.taken);
        if let Some(target_addr) = target_addr {
            run.insert(&target_addr.to_be_bytes());
        }
        self.ram.blocks.push(RamBlock { name: name.to_owned(), used_bytes, page_bytes, taken_out });
        self.state = State::MemSize { left_bytes };
        Ok(Flow::Go)
    }

    /// The optional fields behind a block's length. A page size is told from what else could stand
    /// there: no name is empty, and every RAM word has flags.
    fn page_size(&self, fields: &mut Fields<'_>, last: bool) -> Option<u64> {
        if self.ram.addresses_follow {
            fields.be64()?;
        } else if self.ram.page_sizes_may_follow {
            let before = fields.taken;
            let next = fields.be64()?;
            let fits =
                if last { next & FLAG_MASK == 0 } else { next >> (u64::BITS - u8::BITS) == 0 };
            if fits && next.is_power_of_two() && next > PAGE_BYTES as u64 {
                return Some(next);
            }
            fields.taken = before;
        }
        Some(PAGE_BYTES as u64)
    }

    /// Whether the block is taken out, and the address to append for the target.
    fn block_rule(&self, name: &str, used_bytes: u64) -> Result<(bool, Option<u64>), StreamError> {
        let Mode::Direct(options) = &self.mode else {
            return Ok((false, None));
        };
        let name_owned = || name.to_owned();
        match options.rule(name) {
            BlockRule::TakeOut { .. } if !used_bytes.is_multiple_of(PAGE_BYTES as u64) => {
                Err(StreamError::UnevenBlock { name: name_owned(), used_bytes })
            }
            BlockRule::TakeOut { target_addr } => Ok((true, Some(target_addr))),
            BlockRule::Keep { target_addr } => Ok((false, Some(target_addr))),
            BlockRule::Refuse => Err(StreamError::UnknownBlock { name: name_owned(), used_bytes }),
        }
    }

    fn blocks_complete<S: Sink>(&mut self, run: &mut Run<'_, '_, S>) -> Result<Flow, StreamError> {
        if let Mode::Direct(options) = &self.mode {
            all_present(options, &self.ram.blocks)?;
        }
        run.flush();
        run.sink.blocks(&self.ram.blocks);
        self.state = State::Ram;
        Ok(Flow::Go)
    }

    fn outside(&self, block: u16, index: u64) -> StreamError {
        let name = self.ram.blocks[usize::from(block)].name.clone();
        StreamError::PageOutOfRange { name, index }
    }
}

fn all_present(options: &DirectOptions, blocks: &[RamBlock]) -> Result<(), StreamError> {
    let taken = |rule: &BlockRule| matches!(rule, BlockRule::TakeOut { .. });
    let wanted = options.blocks.iter().filter(|(_, rule)| taken(rule));
    for (name, _) in wanted {
        if !blocks.iter().any(|block| block.name == *name) {
            return Err(StreamError::MissingBlock { name: name.clone() });
        }
    }
    Ok(())
}
