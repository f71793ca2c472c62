//! What the store's tests share: folders that go away, and files with known content.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use dwcp_store::{BLOCK_BYTES, BuildProgress};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder that goes away.
pub struct Folder(pub PathBuf);

impl Folder {
    /// Makes one.
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!("dwcp-store-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Content that depends on a number; 0 is the zero block.
pub fn block(number: u64) -> [u8; BLOCK_BYTES] {
    let mut out = [0; BLOCK_BYTES];
    if number > 0 {
        let mut state = number;
        for word in out.as_chunks_mut::<8>().0 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *word = (state ^ (state >> 29)).to_le_bytes();
        }
    }
    out
}

/// Writes a file of these blocks.
pub fn write(path: &Path, numbers: &[u64]) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| block(*number)).collect();
    fs::write(path, bytes).unwrap();
}

/// Never stops.
pub fn go(_: BuildProgress) -> bool {
    true
}
