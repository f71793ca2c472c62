//! A TCP proxy that a test can cut, stall, or let break at the n-th byte in either direction.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often waiting threads look again.
const POLL: Duration = Duration::from_millis(2);
const CHUNK_BYTES: usize = 16 << 10;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the source to the target.
    Out = 0,
    /// From the target to the source.
    Back = 1,
}

#[derive(Debug, Default)]
struct Lane {
    passed: AtomicU64,
    stalled: AtomicBool,
    cut_at: AtomicU64,
}

#[derive(Debug)]
struct State {
    lanes: [Lane; 2],
    /// Connections are closed, and new ones at once.
    down: AtomicBool,
    heal_after: Option<Duration>,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// The proxy; everything ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Listens on loopback and passes connections on to `to`.
    pub fn start(to: SocketAddr) -> std::io::Result<Self> {
        Self::breaking(to, None, None)
    }

    /// As [`Proxy::start`]; breaks all connections when `cut.1` bytes have gone the way `cut.0`, and
    /// lets new ones through after `heal_after`.
    pub fn breaking(
        to: SocketAddr,
        cut: Option<(Way, u64)>,
        heal_after: Option<Duration>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            lanes: Default::default(),
            down: AtomicBool::new(false),
            heal_after,
            over: AtomicBool::new(false),
            open: Mutex::default(),
        });
        for lane in &state.lanes {
            lane.cut_at.store(u64::MAX, SeqCst);
        }
        if let Some((way, bytes)) = cut {
            state.lanes[way as usize].cut_at.store(bytes, SeqCst);
        }
        let shared = Arc::clone(&state);
        std::thread::spawn(move || shared.accept(&listener, to));
        Ok(Self { address, state })
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that went that way so far.
    pub fn passed(&self, way: Way) -> u64 {
        self.state.lanes[way as usize].passed.load(SeqCst)
    }

    /// Holds back what goes that way, also on new connections, or lets it go on.
    pub fn stall(&self, way: Way, stalled: bool) {
        self.state.lanes[way as usize].stalled.store(stalled, SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, SeqCst);
        self.state.cut();
    }
}

impl State {
    fn accept(self: &Arc<Self>, listener: &TcpListener, to: SocketAddr) {
        while !self.over.load(SeqCst) {
            let Ok((near, _)) = listener.accept() else {
                std::thread::sleep(POLL);
                continue;
            };
            if self.down.load(SeqCst) {
                continue;
            }
            let Ok(far) = TcpStream::connect(to) else { continue };
            for (from, to, way) in [(&near, &far, Way::Out), (&far, &near, Way::Back)] {
                let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                let _ = from.set_nonblocking(false);
                let _ = to.set_nodelay(true);
                let state = Arc::clone(self);
                std::thread::spawn(move || state.pump(from, to, way));
            }
            self.open().extend([near, far]);
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, way: Way) {
        let lane = &self.lanes[way as usize];
        let mut chunk = [0u8; CHUNK_BYTES];
        while let Ok(read @ 1..) = from.read(&mut chunk) {
            while lane.stalled.load(SeqCst) && !self.over.load(SeqCst) {
                std::thread::sleep(POLL);
            }
            let before = lane.passed.fetch_add(read as u64, SeqCst);
            let left = lane.cut_at.load(SeqCst).saturating_sub(before);
            let pass = read.min(usize::try_from(left).unwrap_or(usize::MAX));
            if to.write_all(&chunk[..pass]).is_err() {
                break;
            }
            if pass < read {
                lane.cut_at.store(u64::MAX, SeqCst);
                self.break_down();
                return;
            }
        }
        // One way closed closes both: these peers never half-close.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn break_down(&self) {
        self.cut();
        if let Some(after) = self.heal_after {
            std::thread::sleep(after);
            self.down.store(self.over.load(SeqCst), SeqCst);
        }
    }

    fn cut(&self) {
        self.down.store(true, SeqCst);
        for stream in self.open().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
