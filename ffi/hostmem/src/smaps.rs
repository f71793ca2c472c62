//! How much of a map really lies on huge pages, read from /proc/self/smaps.
//!
//! Set-up and report time only: reads a file and allocates.

use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::HostMemError;

const SMAPS: &str = "/proc/self/smaps";

/// Fields of smaps that count bytes on huge pages, whatever their kind.
const HUGE_FIELDS: [&str; 5] =
    ["AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:", "Shared_Hugetlb:", "Private_Hugetlb:"];

/// Bytes of `[start, start + len)` on huge pages. Exact when the range is a mapping of its own;
/// where the kernel merged it with a neighbour, at most `len`.
pub(crate) fn huge_bytes(start: usize, len: usize) -> Result<usize, HostMemError> {
    let failed = |source| HostMemError::Proc { path: Path::new(SMAPS).into(), source };
    let file = std::fs::File::open(SMAPS).map_err(failed)?;
    let mut inside = false;
    let mut bytes = 0usize;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(failed)?;
        if let Some((from, to)) = mapping(&line) {
            inside = from < start + len && start < to;
        } else if inside {
            bytes += huge_field(&line).unwrap_or(0);
        }
    }
    Ok(bytes.min(len))
}

fn mapping(line: &str) -> Option<(usize, usize)> {
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

fn huge_field(line: &str) -> Option<usize> {
    let value = HUGE_FIELDS.iter().find_map(|field| line.strip_prefix(field))?;
    let kib: usize = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaps_lines_are_told_apart() {
        let head = "7f0000000000-7f0000200000 rw-p 00000000 00:00 0";
        assert_eq!(mapping(head), Some((0x7f00_0000_0000, 0x7f00_0020_0000)));
        assert_eq!(mapping("AnonHugePages:      2048 kB"), None);
        assert_eq!(huge_field("AnonHugePages:      2048 kB"), Some(2 << 20));
        assert_eq!(huge_field("Rss:      2048 kB"), None);
    }
}
