//! The guest's RAM blocks as the monitor tells them: names and sizes (`info ramblock`), offsets in
//! their containers (`info mtree`) and the files behind them (`query-memdev`, `qom-get`).

use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::qmp::{Qmp, QmpError};

/// Most RAM blocks a guest may have; real ones have about ten.
pub const RAM_BLOCKS_MAX: usize = 1024;

/// One RAM block of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamBlockInfo {
    /// QEMU's name for it, for example `pc.ram`.
    pub name: String,
    /// Bytes in use; what the stream's MEM_SIZE will say.
    pub used_bytes: u64,
}

/// A RAM block whose memory is a shared file: we can map it and write it ourselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamBacking {
    /// The block's name, which is its backend's id.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its offset in the container region: what the stream calls `mr->addr`.
    pub addr: u64,
}

/// Lists the guest's RAM blocks.
///
/// # Errors
/// The monitor's failure.
pub fn ram_blocks(qmp: &mut Qmp) -> Result<Vec<RamBlockInfo>, QmpError> {
    Ok(parse_ram_blocks(&qmp.human("info ramblock")?))
}

/// Lists the RAM blocks whose backend is a shared `memory-backend-file`.
///
/// # Errors
/// The monitor's failure.
pub fn shared_backings(qmp: &mut Qmp) -> Result<Vec<RamBacking>, QmpError> {
    let offsets = parse_offsets(&qmp.human("info mtree")?);
    let backends = qmp.execute("query-memdev", json!({}))?;
    let mut found = Vec::new();
    for backend in backends.as_array().into_iter().flatten().take(RAM_BLOCKS_MAX) {
        let Some(name) = backend.get("id").and_then(Value::as_str) else { continue };
        if backend.get("share").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        let object = format!("/objects/{name}");
        if object_property(qmp, &object, "type")?.as_str() != Some("memory-backend-file") {
            continue;
        }
        let Some(path) = object_property(qmp, &object, "mem-path")?.as_str().map(PathBuf::from)
        else {
            continue;
        };
        found.push(RamBacking {
            name: name.to_owned(),
            path,
            bytes: backend.get("size").and_then(Value::as_u64).unwrap_or(0),
            addr: offsets.get(name).copied().unwrap_or(0),
        });
    }
    Ok(found)
}

fn object_property(qmp: &mut Qmp, path: &str, property: &str) -> Result<Value, QmpError> {
    qmp.execute("qom-get", json!({"path": path, "property": property}))
}

fn parse_ram_blocks(text: &str) -> Vec<RamBlockInfo> {
    // Columns: name, page size and its unit, offset, used, total, address, protection.
    // A name may hold spaces, so the columns are counted from the right.
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let used = words.iter().position(|w| w.starts_with("0x"))? + 1;
            let used_bytes = hex(words.get(used)?)?;
            let name = words.get(..used.checked_sub(3)?)?.join(" ");
            (!name.is_empty()).then_some(RamBlockInfo { name, used_bytes })
        })
        .take(RAM_BLOCKS_MAX)
        .collect()
}

/// Offsets of RAM regions within their parents, from the tree that `info mtree` prints: a line's
/// parent is the nearest line above it that is indented less.
fn parse_offsets(text: &str) -> HashMap<String, u64> {
    let mut parents: Vec<(usize, u64)> = Vec::new();
    let mut offsets = HashMap::new();
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        let Some((start, name)) = region(line.trim_start()) else {
            parents.clear();
            continue;
        };
        while parents.last().is_some_and(|(d, _)| *d >= depth) {
            parents.pop();
        }
        if let Some(name) = name {
            let parent = parents.last().map_or(0, |(_, s)| *s);
            offsets.insert(name.to_owned(), start.wrapping_sub(parent));
        }
        parents.push((depth, start));
    }
    offsets
}

/// `start-end (prio N, kind): name` gives the start, and the name when the line is RAM itself and
/// no alias of it.
fn region(line: &str) -> Option<(u64, Option<&str>)> {
    let (start, rest) = line.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let name = rest
        .split_once(", ram): ")
        .map(|(_, name)| name.trim())
        .filter(|name| !name.starts_with("alias "));
    Some((start, name))
}

fn hex(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: &str = "\
              Block Name    PSize              Offset               Used              Total                HVA  RO
                      n0    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000 0x00007ff44fe00000  rw
    /rom@etc/acpi/tables    4 KiB  0x0000000018080000 0x0000000000020000 0x0000000000200000 0x00007ff49ce00000  ro
";
    const TREE: &str = "\
address-space: memory
  0000000000000000-ffffffffffffffff (prio 0, i/o): system
    0000000000000000-000000000fffffff (prio 0, i/o): alias ram-below-4g @pc.ram 0000000000000000-000000000fffffff
    0000000100000000-00000001afffffff (prio 0, i/o): device-memory
      0000000108000000-000000010fffffff (prio 0, ram): d0

memory-region: pc.ram
  0000000000000000-000000000fffffff (prio 0, i/o): pc.ram
    0000000000000000-0000000007ffffff (prio 0, ram): n0
    0000000008000000-000000000fffffff (prio 0, ram): n1
";

    #[test]
    fn blocks_are_read_from_the_monitor_table() {
        let blocks = parse_ram_blocks(BLOCKS);
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[1].name, "/rom@etc/acpi/tables");
        assert_eq!(blocks[1].used_bytes, 0x20000);
    }

    #[test]
    fn offsets_count_from_the_container() {
        let offsets = parse_offsets(TREE);
        assert_eq!(offsets["n1"], 0x800_0000);
        assert_eq!(offsets["d0"], 0x800_0000);
        assert_eq!(offsets["n0"], 0);
        assert!(!offsets.contains_key("alias ram-below-4g @pc.ram"));
    }
}
