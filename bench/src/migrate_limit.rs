//! The limit: how fast QEMU hands its guest to a Unix socket that is only drained.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

const DRAIN_BYTES: usize = 1 << 20;

/// Accepts and drains connections until the program ends; counts the bytes.
#[derive(Debug)]
pub(crate) struct NullSink {
    drained: Arc<AtomicU64>,
}

impl NullSink {
    pub(crate) fn listen(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path)?;
        let drained = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&drained);
        // The threads end with the program or when QEMU closes; nothing waits for them.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                std::thread::spawn(move || drain(stream, &count));
            }
        });
        Ok(Self { drained })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.drained.load(Ordering::Relaxed)
    }
}

fn drain(mut stream: UnixStream, count: &AtomicU64) {
    let mut buffer = vec![0u8; DRAIN_BYTES];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        count.fetch_add(n as u64, Ordering::Relaxed);
    }
}
