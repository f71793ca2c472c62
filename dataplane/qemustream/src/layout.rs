//! Numbers of the stream, as QEMU writes them (migration/savevm.h, ram.c, block-dirty-bitmap.c).
//! Bounds of ours stand beside the QEMU constant they are derived from.

/// Bytes of one guest page in the stream (TARGET_PAGE_SIZE on x86).
pub const PAGE_BYTES: usize = 4096;
/// Low bits of a RAM word that carry flags.
pub(crate) const PAGE_SHIFT: u32 = 12;
pub(crate) const FLAG_MASK: u64 = (1 << PAGE_SHIFT) - 1;

/// "QEVM", the first word of a stream.
pub const FILE_MAGIC: u32 = 0x5145_564d;
/// The only stream version QEMU 2.x and later write.
pub const FILE_VERSION: u32 = 3;
pub(crate) const FILE_HEADER_BYTES: usize = 8;

/// Section type: end of the stream, followed by the description (QEMU_VM_EOF).
pub const SECTION_EOF: u8 = 0x00;
/// Section type: an iterable's first section (QEMU_VM_SECTION_START).
pub const SECTION_START: u8 = 0x01;
/// Section type: an iterable's further section (QEMU_VM_SECTION_PART).
pub const SECTION_PART: u8 = 0x02;
/// Section type: an iterable's last section (QEMU_VM_SECTION_END).
pub const SECTION_END: u8 = 0x03;
/// Section type: a device in one piece (QEMU_VM_SECTION_FULL).
pub const SECTION_FULL: u8 = 0x04;
/// A subsection inside a section (QEMU_VM_SUBSECTION).
pub const SUBSECTION: u8 = 0x05;
/// The description of the stream in JSON (QEMU_VM_VMDESCRIPTION).
pub const VM_DESCRIPTION: u8 = 0x06;
/// The configuration section (QEMU_VM_CONFIGURATION).
pub const CONFIGURATION: u8 = 0x07;
/// A command (QEMU_VM_COMMAND).
pub const COMMAND: u8 = 0x08;
/// The footer of a section (QEMU_VM_SECTION_FOOTER).
pub const SECTION_FOOTER: u8 = 0x7e;
pub(crate) const FOOTER_BYTES: usize = 5;

/// Command: the source opens the return path.
pub const COMMAND_OPEN_RETURN_PATH: u16 = 1;
/// Command: answer with a PONG.
pub const COMMAND_PING: u16 = 2;
/// Command: postcopy may follow (MIG_CMD_POSTCOPY_ADVISE).
pub const COMMAND_POSTCOPY_ADVISE: u16 = 3;
/// Command: a package of raw bytes follows.
pub const COMMAND_PACKAGED: u16 = 7;
/// Command: the switch-over begins (10.0 and later).
pub const COMMAND_SWITCHOVER_START: u16 = 11;
pub(crate) const COMMAND_HEADER_BYTES: usize = 5;
pub(crate) const PACKAGED_LENGTH_BYTES: usize = 4;

pub(crate) const RAM_ZERO: u64 = 0x02;
pub(crate) const RAM_MEM_SIZE: u64 = 0x04;
pub(crate) const RAM_PAGE: u64 = 0x08;
pub(crate) const RAM_EOS: u64 = 0x10;
pub(crate) const RAM_CONTINUE: u64 = 0x20;
pub(crate) const RAM_XBZRLE: u64 = 0x40;
pub(crate) const RAM_HOOK: u64 = 0x80;
/// Pages compressed by QEMU's old `compress` capability (removed in 9.1).
pub(crate) const RAM_COMPRESS_PAGE: u64 = 0x100;
pub(crate) const RAM_MULTIFD_FLUSH: u64 = 0x200;
/// The only version of the `ram` section any QEMU since 0.12 writes.
pub(crate) const RAM_VERSION: u32 = 4;
pub(crate) const WORD_BYTES: usize = 8;
pub(crate) const XBZRLE_ENCODING: u8 = 1;
/// zlib's compressBound(4096), rounded up: QEMU refuses more.
pub(crate) const COMPRESSED_PAGE_BYTES_MAX: u32 = 4096 + 64;

/// An id in the stream is counted by one byte.
pub const NAME_BYTES_MAX: usize = 255;
/// RAM blocks of one guest: QEMU has at most a few dozen (ROMs, DIMMs, NUMA nodes, vram).
pub const BLOCKS_MAX: usize = 1024;
/// Guest RAM in one block: x86's 52 physical address bits.
pub const BLOCK_BYTES_MAX: u64 = 1 << 52;
/// Longest machine name believed ("pc-i440fx-10.0" has 14 bytes).
pub const MACHINE_NAME_BYTES_MAX: usize = 256;
/// Capabilities that QEMU compares between the ends: two in 10.0.
pub(crate) const CAPABILITIES_MAX: u32 = 8;

/// A chunk of a dirty bitmap: QEMU's reader refuses more than 10 times CHUNK_SIZE.
pub(crate) const BITMAP_CHUNK_BYTES_MAX: u64 = 10 << 10;

/// Bytes of virtio-mem's early fields before its bitmap: addr, region size, block size (be64),
/// node (be32), plugged size (be64).
pub(crate) const VIRTIO_MEM_FIXED_BYTES: usize = 8 + 8 + 8 + 4 + 8;

/// The largest piece that is parsed as one: a named PAGE record. A caller whose buffer holds this
/// many bytes always makes progress.
pub const LOOKAHEAD_MAX: usize = WORD_BYTES + 1 + NAME_BYTES_MAX + PAGE_BYTES;

const _: () = {
    let named = 1 + NAME_BYTES_MAX;
    assert!(5 + MACHINE_NAME_BYTES_MAX <= LOOKAHEAD_MAX);
    assert!(1 + named + 8 + CAPABILITIES_MAX as usize * named <= LOOKAHEAD_MAX);
    assert!(1 + 4 + named + 8 + VIRTIO_MEM_FIXED_BYTES <= LOOKAHEAD_MAX);
    assert!(1 + 2 * named + 8 + 4 + 8 <= LOOKAHEAD_MAX);
    assert!(BLOCKS_MAX <= u16::MAX as usize);
    assert!(1 << PAGE_SHIFT == PAGE_BYTES);
};
