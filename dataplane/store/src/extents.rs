//! Which parts of a source file hold content: everything but holes, or what qemu-img listed.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};

use crate::BLOCK;

/// Parts of a file in ascending order, in bytes, whole blocks.
pub(crate) enum Extents {
    /// All but the holes of a file of this length. File systems that know no holes have one part.
    Raw {
        /// Length in bytes, a multiple of a block.
        len: u64,
    },
    /// A list.
    Listed(std::vec::IntoIter<Range<u64>>),
}

impl Extents {
    /// The next part at or after `from`.
    pub(crate) fn next(&mut self, file: &File, from: u64) -> io::Result<Option<Range<u64>>> {
        match self {
            Self::Raw { len } => next_data(file, from, *len),
            Self::Listed(list) => Ok(list.next()),
        }
    }
}

fn next_data(file: &File, from: u64, len: u64) -> io::Result<Option<Range<u64>>> {
    if from >= len {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(from)) {
        Ok(start) => (start / BLOCK * BLOCK).max(from),
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => return Ok(Some(from..len)),
        Err(e) => return Err(e.into()),
    };
    let end = match seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end.div_ceil(BLOCK) * BLOCK,
        Err(_) => len,
    };
    // A file that shrinks meanwhile may answer with an end before the start.
    let end = end.min(len).max(start.saturating_add(BLOCK).min(len));
    Ok((start < end).then_some(start..end))
}
