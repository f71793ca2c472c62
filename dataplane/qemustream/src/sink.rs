//! Where the parser puts what it finds.

/// One RAM block of the source, as MEM_SIZE lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBlock {
    /// QEMU's id string, for example `pc.ram`. At most 255 bytes.
    pub name: String,
    /// Length in bytes (QEMU's used_length).
    pub used_bytes: u64,
    /// The source's host page size for this block in bytes; only given under postcopy and when it
    /// is not the ordinary one, otherwise 4096.
    pub page_bytes: u64,
    /// Whether its pages are taken out of the stream.
    pub taken_out: bool,
}

impl RamBlock {
    /// Length in whole 4 KiB pages.
    pub fn pages(&self) -> u64 {
        self.used_bytes / crate::PAGE_BYTES as u64
    }
}

/// A place in the stream. It is reported after the bytes that lead to it went to
/// [`Sink::skeleton`], so what the sink holds at that moment may be flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// RAM's end of a section: a page may recur after it.
    Eos,
    /// MULTIFD_FLUSH: pages before it on the channels are older than pages after it.
    Flush,
    /// A SYNC packet on a multifd channel: the pages of this channel before it belong before the
    /// next [`SyncPoint`] of the main stream.
    ChannelSync,
    /// A command with its data (QEMU's MIG_CMD number).
    Command(u16),
    /// RAM's last section is complete with its footer; what follows is the opaque tail.
    RamEnd,
    /// The description at the end of the stream was seen to its last byte. Advice, not proof: the
    /// tail has no lengths, and a source with `suppress-vmdesc` never brings it.
    StreamEnd,
    /// Plain mode only: something unknown came, from here everything passes unparsed and no
    /// further mark will come.
    Opaque,
}

/// A place where the pages that travelled on multifd channels must be in the skeleton.
///
/// Which of the two is paired with [`Mark::ChannelSync`] on every channel is told by the first one
/// in the stream: `Flush` in setup means at each `Flush` (QEMU 8.1 and later), `Eos` means at each
/// `Eos` (older QEMUs and machine types).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPoint {
    /// Before RAM's EOS word.
    Eos,
    /// Before a MULTIFD_FLUSH word.
    Flush,
}

/// Whether a sink put RAM records of its own into the skeleton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It did not.
    Nothing,
    /// It did: the next record of the stream must name its block again.
    Records,
}

/// Receives what [`crate::Parser::parse`] and [`crate::multifd::Channel::parse`] find, in stream
/// order. `at` offsets count from the start of the slice given to that call.
pub trait Sink {
    /// Bytes for the target QEMU, in order.
    fn skeleton(&mut self, bytes: &[u8]);
    /// The source's RAM blocks; `block` ids below are indices into this slice.
    fn blocks(&mut self, blocks: &[RamBlock]);
    /// A page whose 4096 bytes lie at `at` in the input.
    fn page(&mut self, block: u16, index: u64, at: usize);
    /// A page that is all zero.
    fn zero(&mut self, block: u16, index: u64);
    /// A place in the stream was reached.
    fn mark(&mut self, mark: Mark);
    /// A sync point lies ahead: everything before it is in the skeleton, the sync word is not. A
    /// sink that has pages of kept blocks from multifd channels writes them now, as records made
    /// by [`crate::record`]. Not called in plain mode.
    fn before_sync(&mut self, point: SyncPoint) -> Inserted {
        let _ = point;
        Inserted::Nothing
    }
}
