//! Compares all guest memory of two stopped guests through `pmemsave`.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use dwcp_engine::qmp::Qmp;
use serde_json::json;

use crate::qemu::Machine;
use crate::workdir::WorkDir;

const PAGE_BYTES: usize = 4096;
const CHUNK_BYTES: usize = 1 << 20;
/// Differing pages listed by number; all are counted.
const LISTED_MAX: usize = 32;
const SAVE_LIMIT: Duration = Duration::from_secs(120);
const GIB: u64 = 1 << 30;

/// Outcome of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct RamDiff {
    /// Pages compared.
    pub pages: u64,
    /// Pages that differ.
    pub differing: u64,
    /// The first of them, by guest physical page number.
    pub first: Vec<u64>,
    /// Pages that are not all zero.
    pub non_zero: u64,
}

impl RamDiff {
    /// Not one bit differs.
    #[must_use]
    pub fn identical(&self) -> bool {
        self.differing == 0 && self.pages > 0
    }
}

/// Guest physical ranges (start, bytes) that hold RAM: memory past the PCI hole continues at 4 GiB
/// (hw/i386/pc_piix.c, pc_q35.c: the split depends on machine and size).
#[must_use]
pub fn ram_ranges(machine: Machine, bytes: u64) -> Vec<(u64, u64)> {
    let (threshold, low) = match machine {
        Machine::Pc => (0xe000_0000, 3 * GIB),
        Machine::Q35 => (0xb000_0000, 2 * GIB),
    };
    if bytes < threshold {
        return vec![(0, bytes)];
    }
    vec![(0, low), (4 * GIB, bytes - low)]
}

/// Guest memory in files of a folder of its own.
#[derive(Debug)]
pub struct RamImage {
    files: Vec<(u64, PathBuf)>,
    _dir: WorkDir,
}

impl RamImage {
    /// Saves all RAM of a stopped guest.
    ///
    /// # Errors
    /// The guest runs, or QEMU cannot write the files.
    pub fn save(qmp: &mut Qmp, machine: Machine, bytes: u64) -> Result<Self> {
        let status = qmp.execute("query-status", json!({}))?;
        if status["running"].as_bool() != Some(false) {
            bail!("memory of a running guest cannot be compared");
        }
        let dir = WorkDir::new()?;
        // The QEMU may run as another user.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777))?;
        let mut files = Vec::new();
        for (start, size) in ram_ranges(machine, bytes) {
            let path = dir.join(&format!("{start:x}"));
            qmp.execute_within(
                "pmemsave",
                json!({"val": start, "size": size, "filename": path}),
                SAVE_LIMIT,
            )
            .with_context(|| format!("saving guest memory at {start:#x}"))?;
            files.push((start, path));
        }
        Ok(Self { files, _dir: dir })
    }

    /// Compares page by page.
    ///
    /// # Errors
    /// The images cover different ranges, or cannot be read.
    pub fn compare(&self, other: &Self) -> Result<RamDiff> {
        if self.files.len() != other.files.len() {
            bail!("the two guests have different memory ranges");
        }
        let mut diff = RamDiff::default();
        for ((start, a), (other_start, b)) in self.files.iter().zip(&other.files) {
            if start != other_start {
                bail!("the two guests have different memory ranges");
            }
            compare_files(a, b, start / PAGE_BYTES as u64, &mut diff)?;
        }
        Ok(diff)
    }
}

fn compare_files(a: &Path, b: &Path, first_page: u64, diff: &mut RamDiff) -> Result<()> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        bail!("the two memory images differ in size");
    }
    let mut left = a.metadata()?.len() as usize;
    let (mut x, mut y) = (vec![0u8; CHUNK_BYTES], vec![0u8; CHUNK_BYTES]);
    let mut page = first_page;
    while left > 0 {
        let n = left.min(CHUNK_BYTES);
        a.read_exact(&mut x[..n])?;
        b.read_exact(&mut y[..n])?;
        for (p, q) in x[..n].chunks(PAGE_BYTES).zip(y[..n].chunks(PAGE_BYTES)) {
            diff.count(page, p, q);
            page += 1;
        }
        left -= n;
    }
    Ok(())
}

impl RamDiff {
    fn count(&mut self, page: u64, a: &[u8], b: &[u8]) {
        self.pages += 1;
        self.non_zero += u64::from(a.iter().any(|byte| *byte != 0));
        if a != b {
            self.differing += 1;
            if self.first.len() < LISTED_MAX {
                self.first.push(page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_byte_is_found_by_page() {
        let dir = WorkDir::new().unwrap();
        let (a, b) = (dir.join("a"), dir.join("b"));
        let mut bytes = vec![0u8; CHUNK_BYTES + 3 * PAGE_BYTES];
        std::fs::write(&a, &bytes).unwrap();
        bytes[CHUNK_BYTES + PAGE_BYTES + 5] = 1;
        std::fs::write(&b, &bytes).unwrap();
        let mut diff = RamDiff::default();
        compare_files(&b, &a, 16, &mut diff).unwrap();
        assert_eq!((diff.pages, diff.differing, diff.non_zero), (259, 1, 1));
        assert_eq!(diff.first, [16 + 257]);
        assert!(!diff.identical());
    }

    #[test]
    fn memory_above_the_hole_starts_at_4_gib() {
        assert_eq!(ram_ranges(Machine::Pc, 2 * GIB), [(0, 2 * GIB)]);
        assert_eq!(ram_ranges(Machine::Pc, 8 * GIB), [(0, 3 * GIB), (4 * GIB, 5 * GIB)]);
        assert_eq!(ram_ranges(Machine::Q35, 8 * GIB), [(0, 2 * GIB), (4 * GIB, 6 * GIB)]);
    }
}
