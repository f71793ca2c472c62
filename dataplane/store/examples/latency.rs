//! What a store costs: building speed of a file, then the time of a lookup and of a fetch with the
//! table in memory and with the index on disk. Everything is in the page cache.
//!
//! ```text
//! cargo run --release -p dwcp-store --example latency -- FILE
//! ```

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use dwcp_store::{BLOCK_BYTES, ContentHash, Limits, SourceKind, Store, content_hash};

/// Blocks that are asked for.
const ASKED: usize = 100_000;
/// Hashes looked up at once, as a batch of questions holds.
const BATCH: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("which file?")?;
    let file = File::open(&path)?;
    let blocks = file.metadata()?.len() / BLOCK_BYTES as u64;
    let mut held: Vec<ContentHash> = Vec::new();
    let mut block = [0; BLOCK_BYTES];
    let mut at = 1_u64;
    for _ in 0..ASKED {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.read_exact_at(&mut block, (at >> 16) % blocks * BLOCK_BYTES as u64)?;
        if block != [0; BLOCK_BYTES] {
            held.push(content_hash(&block));
        }
    }
    let absent: Vec<ContentHash> = held.iter().map(|hash| *blake3::hash(hash).as_bytes()).collect();
    let dir = std::env::temp_dir().join(format!("dwcp-store-latency-{}", std::process::id()));
    for (name, workers, table_bytes) in [("table", 1, 1 << 30), ("disk", 2, 0)] {
        let limits = Limits { workers, table_bytes, ..Limits::default() };
        let store = Store::open_with(&dir.join(name), "default", limits)?;
        let since = Instant::now();
        let added = store.add(path.as_ref(), SourceKind::Image, None, &mut |_| true)?;
        let seconds = since.elapsed().as_secs_f64();
        let megabytes = added.blocks as f64 * BLOCK_BYTES as f64 / 1e6;
        println!(
            "{name}: {workers} workers hashed {megabytes:.0} MB of content in {seconds:.2} s, {:.0} MB/s, index {} B, {:.3} % of it",
            megabytes / seconds,
            added.indexed_bytes,
            added.indexed_bytes as f64 / megabytes / 1e4,
        );
        let since = Instant::now();
        let mut reader = store.reader()?;
        println!("{name}: reader ready in {:.1} ms", since.elapsed().as_secs_f64() * 1e3);
        for (what, hashes) in [("held", &held), ("absent", &absent)] {
            for asked_first in [true, false] {
                let since = Instant::now();
                let mut found = 0;
                let mut looked_up = 0.0;
                for batch in hashes.chunks(BATCH) {
                    let since = Instant::now();
                    if asked_first {
                        reader.prefetch(batch);
                    }
                    looked_up += since.elapsed().as_secs_f64();
                    for hash in batch {
                        found += usize::from(reader.fetch(hash, &mut block).is_some());
                    }
                }
                let each = |seconds: f64| seconds * 1e6 / hashes.len() as f64;
                println!(
                    "{name}: {what}, prefetch {asked_first}: {found} of {} found, {:.2} us each, {:.2} us of it prefetch",
                    hashes.len(),
                    each(since.elapsed().as_secs_f64()),
                    each(looked_up),
                );
            }
        }
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
