//! Writing RAM records: for headers that must name their block again, and for pages of kept blocks
//! that came over multifd channels and go into the skeleton at a [`crate::SyncPoint`].

use crate::layout::{NAME_BYTES_MAX, PAGE_BYTES, PAGE_SHIFT, RAM_PAGE, RAM_ZERO, WORD_BYTES};

/// The longest header of a record: word, length byte, name.
pub const HEADER_BYTES_MAX: usize = WORD_BYTES + 1 + NAME_BYTES_MAX;

/// Appends a PAGE record that names its block. `name` is one from [`crate::RamBlock`].
pub fn page(name: &str, index: u64, content: &[u8; PAGE_BYTES], out: &mut Vec<u8>) {
    append_header(RAM_PAGE, index, name, out);
    out.extend_from_slice(content);
}

/// Appends a ZERO record that names its block. `name` is one from [`crate::RamBlock`].
pub fn zero(name: &str, index: u64, out: &mut Vec<u8>) {
    append_header(RAM_ZERO, index, name, out);
    out.push(0);
}

fn append_header(kind: u64, index: u64, name: &str, out: &mut Vec<u8>) {
    let mut header = [0; HEADER_BYTES_MAX];
    let bytes = named_header(kind, index, name, &mut header);
    out.extend_from_slice(&header[..bytes]);
}

/// Writes a header without CONTINUE and returns its length. Names come from the stream, where one
/// byte counts them; a longer one is a broken invariant.
pub(crate) fn named_header(
    kind: u64,
    index: u64,
    name: &str,
    out: &mut [u8; HEADER_BYTES_MAX],
) -> usize {
    let end = WORD_BYTES + 1 + name.len();
    out[..WORD_BYTES].copy_from_slice(&(index << PAGE_SHIFT | kind).to_be_bytes());
    out[WORD_BYTES] = name.len() as u8;
    out[WORD_BYTES + 1..end].copy_from_slice(name.as_bytes());
    end
}
