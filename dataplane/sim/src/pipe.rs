//! One direction of one rail: bytes in order, with a rate, a delay and a bounded send buffer.
//!
//! Behaves as a TCP connection does to its users: nothing is lost or reordered until it dies, and
//! then what was under way is cut at any byte. It can freeze, slow down, and damage a byte.

use std::collections::VecDeque;

/// No pipe is slower, in bytes per second.
const RATE_MIN: u64 = 10_000;
const NS_PER_S: u64 = 1_000_000_000;

struct Chunk {
    bytes: Vec<u8>,
    /// When the far end can read it.
    arrives_ns: u64,
}

/// How a pipe behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PipeShape {
    pub(crate) rate_bytes_per_s: u64,
    pub(crate) delay_ns: u64,
    pub(crate) buffer_bytes: u64,
    pub(crate) chunk_bytes: u64,
}

/// One direction of one rail.
pub(crate) struct Pipe {
    shape: PipeShape,
    chunks: VecDeque<Chunk>,
    /// What is in the send buffer: when it will have left, and its bytes.
    waiting: VecDeque<(u64, u64)>,
    waiting_bytes: u64,
    busy_until_ns: u64,
    frozen_until_ns: u64,
    /// Nothing that is in it or enters it comes out any more.
    is_swallowing: bool,
    /// What is in it comes out; what enters is lost.
    is_closed: bool,
}

impl Pipe {
    pub(crate) fn new(shape: PipeShape) -> Self {
        Self {
            shape,
            chunks: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            busy_until_ns: 0,
            frozen_until_ns: 0,
            is_swallowing: false,
            is_closed: false,
        }
    }

    /// Takes what fits of `bytes`; returns how many.
    pub(crate) fn write(&mut self, now: u64, bytes: &[u8]) -> usize {
        if self.is_closed {
            return 0;
        }
        let mut written = 0;
        self.settle(now);
        let mut room = self.shape.buffer_bytes.saturating_sub(self.waiting_bytes);
        while written < bytes.len() && room > 0 {
            let left = (bytes.len() - written) as u64;
            let size = left.min(room).min(self.shape.chunk_bytes);
            let end = written + usize::try_from(size).unwrap_or(0);
            self.push(now, &bytes[written..end]);
            written = end;
            room -= size;
        }
        written
    }

    fn push(&mut self, now: u64, bytes: &[u8]) {
        let start = now.max(self.busy_until_ns);
        let time = bytes.len() as u64 * NS_PER_S / self.shape.rate_bytes_per_s;
        self.busy_until_ns = start + time.max(1);
        let leaves_ns = self.busy_until_ns;
        let arrives_ns = leaves_ns + self.shape.delay_ns;
        self.chunks.push_back(Chunk { bytes: bytes.to_vec(), arrives_ns });
        self.waiting.push_back((leaves_ns, bytes.len() as u64));
        self.waiting_bytes += bytes.len() as u64;
    }

    /// Forgets what has left the send buffer by now.
    fn settle(&mut self, now: u64) {
        if self.is_swallowing || now < self.frozen_until_ns {
            return;
        }
        while let Some((_, bytes)) = self.waiting.pop_front_if(|(leaves_ns, _)| *leaves_ns <= now) {
            self.waiting_bytes -= bytes;
        }
    }

    /// The next bytes that the far end can read.
    pub(crate) fn read(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.is_swallowing || now < self.frozen_until_ns {
            return None;
        }
        self.chunks.pop_front_if(|chunk| chunk.arrives_ns <= now).map(|chunk| chunk.bytes)
    }

    /// When the far end can read next; what lies before `now` is due.
    pub(crate) fn readable_at(&self) -> Option<u64> {
        let front = self.chunks.front().filter(|_| !self.is_swallowing)?;
        Some(front.arrives_ns.max(self.frozen_until_ns))
    }

    /// When its send buffer has more room than now.
    pub(crate) fn more_room_at(&self) -> Option<u64> {
        let (leaves_ns, _) =
            self.waiting.front().filter(|_| !self.is_swallowing && !self.is_closed)?;
        Some((*leaves_ns).max(self.frozen_until_ns))
    }

    pub(crate) fn freeze(&mut self, until_ns: u64) {
        self.frozen_until_ns = self.frozen_until_ns.max(until_ns);
    }

    pub(crate) fn thaw(&mut self) {
        self.frozen_until_ns = 0;
    }

    pub(crate) fn delay_ns(&self) -> u64 {
        self.shape.delay_ns
    }

    pub(crate) fn slow_down(&mut self, divisor: u64) {
        self.shape.rate_bytes_per_s = (self.shape.rate_bytes_per_s / divisor).max(RATE_MIN);
    }

    pub(crate) fn set_rate(&mut self, rate_bytes_per_s: u64) {
        self.shape.rate_bytes_per_s = rate_bytes_per_s;
    }

    /// Nothing more can be written; what is under way still arrives.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    pub(crate) fn is_swallowing(&self) -> bool {
        self.is_swallowing
    }

    pub(crate) fn swallow(&mut self) {
        self.is_swallowing = true;
    }

    /// Keeps only the first `keep` bytes of what is under way, as a dying connection does.
    pub(crate) fn cut(&mut self, mut keep: usize) {
        for chunk in &mut self.chunks {
            chunk.bytes.truncate(keep);
            keep -= chunk.bytes.len();
        }
        self.chunks.retain(|chunk| !chunk.bytes.is_empty());
    }

    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.len()).sum()
    }

    /// Flips a bit of a byte under way; whether there was one.
    pub(crate) fn damage(&mut self, at: usize, bit: u32) -> bool {
        let mut skip = at;
        for chunk in &mut self.chunks {
            if let Some(byte) = chunk.bytes.get_mut(skip) {
                *byte ^= 1 << (bit % 8);
                return true;
            }
            skip -= chunk.bytes.len();
        }
        false
    }
}
