//! Where the content of a qcow2 image lies in its file, asked of `qemu-img`. We have no parser of
//! our own for a format that guests and uploads can shape.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::{Value, json};

use crate::BLOCK;
use crate::error::{Result, StoreError};
use crate::limits::{EXTENTS_MAX, TOOL_TEXT_BYTES_MAX};

const TOOL: &str = "qemu-img";
const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Whether the file begins as a qcow2 image does.
pub(crate) fn is_qcow2(file: &File) -> bool {
    let mut start = [0; MAGIC.len()];
    file.read_exact_at(&mut start, 0).is_ok() && start == MAGIC
}

/// What qemu-img says about an image.
pub(crate) struct Qcow2 {
    /// Parts of the file with content, ascending, whole blocks.
    pub(crate) extents: Vec<Range<u64>>,
    /// Bytes of content that has no such place.
    pub(crate) left_out_bytes: u64,
    /// The image it builds on.
    pub(crate) backing: Option<PathBuf>,
}

/// Asks qemu-img about the image. Its backing file is named, never opened: an image's own text
/// should not decide which further files we read.
pub(crate) fn ask(path: &Path) -> Result<Qcow2> {
    let text = path.to_str().ok_or_else(|| StoreError::Unsupported {
        path: path.to_owned(),
        text: "a qcow2 image must have a path in UTF-8, for qemu-img".to_owned(),
    })?;
    let backing = look(path)?;
    // `backing: null` leaves the chain closed, so every extent with data is this file's own.
    let image = json!({
        "driver": "qcow2", "backing": null, "file": {"driver": "file", "filename": text},
    });
    let mut child = start(path, &["map", "--output=json", "-U", &format!("json:{image}")])?;
    let mut extents = Extents::default();
    let listed = match child.stdout.take() {
        Some(out) => {
            serde_json::Deserializer::from_reader(BufReader::new(out)).deserialize_seq(&mut extents)
        }
        None => Ok(()),
    };
    let ended = end(path, child);
    match listed {
        // A tool that failed says why; one that we stopped listening to does not.
        Err(e) if ended.is_ok() || !e.is_eof() => {
            return Err(failed(path, format!("its map could not be read: {e}")));
        }
        _ => ended?,
    }
    let mut parts = extents.parts;
    parts.sort_unstable_by_key(|part| part.start);
    Ok(Qcow2 { extents: joined(parts), left_out_bytes: extents.left_out_bytes, backing })
}

/// Refuses what has no plain content in the file; returns the backing file.
fn look(path: &Path) -> Result<Option<PathBuf>> {
    let image = path.to_string_lossy();
    let mut child = start(path, &["info", "--output=json", "-U", "-f", "qcow2", &image])?;
    let mut text = Vec::new();
    if let Some(out) = child.stdout.take() {
        let read = out.take(TOOL_TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut text);
        read.map_err(|e| failed(path, e.to_string()))?;
    }
    end(path, child)?;
    let info: Value = serde_json::from_slice(&text)
        .map_err(|e| failed(path, format!("its description could not be read: {e}")))?;
    let unsupported =
        |text: &str| Err(StoreError::Unsupported { path: path.to_owned(), text: text.to_owned() });
    if info["encrypted"] == true {
        return unsupported("the image is encrypted, so its blocks equal no guest's memory");
    }
    if info["format-specific"]["data"].get("data-file").is_some() {
        return unsupported("the image keeps its content in a data file: add that one instead");
    }
    let named = info["full-backing-filename"].as_str().or(info["backing-filename"].as_str());
    Ok(named.map(|name| path.parent().unwrap_or(Path::new("/")).join(name)))
}

fn start(path: &Path, arguments: &[&str]) -> Result<Child> {
    Command::new(TOOL)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => StoreError::QemuImgMissing(path.to_owned()),
            _ => StoreError::io(format!("starting {TOOL} for {}", path.display()), e),
        })
}

/// Waits for the tool, whose output was read or is not wanted any more.
fn end(path: &Path, mut child: Child) -> Result<()> {
    let mut text = Vec::new();
    if let Some(err) = child.stderr.take() {
        let _ = err.take(TOOL_TEXT_BYTES_MAX as u64).read_to_end(&mut text);
    }
    let status = child.wait().map_err(|e| failed(path, e.to_string()))?;
    if status.success() {
        return Ok(());
    }
    Err(failed(path, format!("{} ({status})", String::from_utf8_lossy(&text).trim())))
}

fn failed(path: &Path, text: String) -> StoreError {
    StoreError::QemuImg { path: path.to_owned(), text }
}

/// Neighbours as one; what overlaps (two guest clusters may share a host one) is read once.
fn joined(parts: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for part in parts {
        match out.last_mut() {
            Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
            _ => out.push(part),
        }
    }
    out
}

/// One line of `qemu-img map --output=json`.
#[derive(serde::Deserialize)]
struct Extent {
    length: u64,
    data: bool,
    zero: bool,
    offset: Option<u64>,
    #[serde(default)]
    compressed: bool,
}

/// Takes the array one extent at a time.
#[derive(Default)]
struct Extents {
    parts: Vec<Range<u64>>,
    left_out_bytes: u64,
}

impl Extents {
    fn take(&mut self, extent: &Extent) -> std::result::Result<(), String> {
        if !extent.data || extent.zero {
            return Ok(());
        }
        let place = extent.offset.filter(|offset| offset % BLOCK == 0 && !extent.compressed);
        let Some(start) = place else {
            self.left_out_bytes = self.left_out_bytes.saturating_add(extent.length);
            return Ok(());
        };
        let end =
            start.checked_add(extent.length / BLOCK * BLOCK).ok_or("an extent without end")?;
        if start == end {
            return Ok(());
        }
        if let Some(last) = self.parts.last_mut().filter(|last| last.end == start) {
            last.end = end;
        } else if self.parts.len() == EXTENTS_MAX {
            return Err(format!("more than {EXTENTS_MAX} extents; add a raw copy"));
        } else {
            self.parts.push(start..end);
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for &mut Extents {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of extents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        while let Some(extent) = list.next_element::<Extent>()? {
            self.take(&extent).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}
