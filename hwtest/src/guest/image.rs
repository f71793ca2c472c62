//! An ext4 image filled from files of this host: the guest reads them into its page cache, as a server would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{run, workdir::WorkDir};

/// Where the files come from, in order; a folder that is missing is passed over.
const SOURCES: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/bin", "/usr/share"];
/// Room for ext4's own structures.
const OVERHEAD: f64 = 1.12;
/// Files outside of these sizes are passed over: tiny ones waste inodes, huge ones fill the image alone.
const FILE_BYTES: std::ops::Range<u64> = 16 << 10..96 << 20;

/// Makes an image holding about `content_bytes` of real files.
///
/// # Errors
/// mke2fs is missing or fails; not enough disk space.
pub fn build(path: &Path, content_bytes: u64) -> Result<()> {
    let parent = path.parent().context("the image has no folder")?;
    let work = WorkDir::under(parent)?;
    let staging = work.join("files");
    let mut taken = 0;
    for source in SOURCES {
        taken +=
            gather(Path::new(source), &staging.join(flat_name(source)), content_bytes - taken)?;
    }
    let blocks = (taken as f64 * OVERHEAD) as u64 / 4096 + 4096;
    let partial = work.join("image");
    run::output(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-m", "0", "-F", "-d"])
            .arg(&staging)
            .arg(&partial)
            .arg(blocks.to_string()),
    )?;
    fs::rename(&partial, path)?;
    Ok(())
}

fn flat_name(path: &str) -> String {
    path.trim_matches('/').replace('/', "_")
}

/// Links or copies files below `from` into the flat folder `to`, up to `budget` bytes; returns the bytes taken.
fn gather(from: &Path, to: &Path, budget: u64) -> Result<u64> {
    fs::create_dir_all(to)?;
    let mut pending = vec![from.to_owned()];
    let (mut taken, mut number) = (0, 0u32);
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                pending.push(path);
            } else if meta.is_file() && FILE_BYTES.contains(&meta.len()) {
                if taken + meta.len() > budget {
                    continue;
                }
                let target = to.join(format!("{number:05}"));
                if fs::hard_link(&path, &target).is_ok() || fs::copy(&path, &target).is_ok() {
                    taken += meta.len();
                    number += 1;
                }
            }
        }
    }
    Ok(taken)
}
