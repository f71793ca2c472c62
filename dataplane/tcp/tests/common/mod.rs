//! Two endpoints in one process, joined by loopback connections that a test can break.
#![allow(dead_code)] // Each test file uses its own part.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use dwcp_hostmem::{Arena, HugePages};
use dwcp_session::SessionConfig;
use dwcp_tcp::{
    Body, DownReason, Endpoint, EndpointConfig, HEADROOM_BYTES, Inbound, NetEvent, Outbound,
    PollMode,
};
use dwcp_wire::{Channel, Epoch, RailId, SliceFlags};

pub const JOB_TAG: u32 = 0xfeed;
pub const EPOCH: Epoch = Epoch(7);
pub const PAYLOAD: usize = 64 << 10;
pub const WINDOW: u32 = 8;
/// Nothing in these tests takes so long unless it hangs.
pub const HANG: Duration = Duration::from_secs(40);

pub struct Side {
    pub endpoint: Endpoint,
    pub events: Receiver<NetEvent>,
    pub arena_in: Arc<Arena>,
    pub arena_out: Arc<Arena>,
}

pub fn config() -> EndpointConfig {
    let arena = Arena::new(WINDOW as usize, HEADROOM_BYTES + PAYLOAD, HugePages::Never).unwrap();
    let session = SessionConfig {
        window_out_slices: WINDOW,
        window_in_slices: WINDOW,
        payload_max: PAYLOAD as u32,
        ..SessionConfig::default()
    };
    EndpointConfig { session, poll: PollMode::Sleep, ..EndpointConfig::new(JOB_TAG, EPOCH, arena) }
}

pub fn side(config: EndpointConfig) -> Side {
    let arena_in = Arc::clone(&config.arena);
    let arena_out = Arena::new(32, HEADROOM_BYTES + PAYLOAD, HugePages::Never).unwrap();
    let (endpoint, events) = Endpoint::start(config).unwrap();
    Side { endpoint, events, arena_in, arena_out }
}

pub fn pair() -> (Side, Side) {
    (side(config()), side(config()))
}

pub fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

pub fn connection() -> (TcpStream, TcpStream) {
    let (listener, addr) = listener();
    let near = TcpStream::connect(addr).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Joins the two sides by one more rail; the result breaks it.
pub fn join(a: &Side, b: &Side, id: u16) -> Breaker {
    let (near, far) = connection();
    let breaker = Breaker(near.try_clone().unwrap());
    a.endpoint.add_rail(near, RailId(id)).unwrap();
    b.endpoint.add_rail(far, RailId(id)).unwrap();
    breaker
}

pub struct Breaker(TcpStream);

impl Breaker {
    pub fn cut(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Bytes that depend on channel and number, so that a mix-up shows.
pub fn content(channel: Channel, seq: u64, len: usize) -> Vec<u8> {
    let mut state = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(channel.code());
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub fn len_of(channel: Channel, seq: u64) -> usize {
    let spread = content(channel, seq ^ 0x55, 4);
    let wide = u32::from_le_bytes([spread[0], spread[1], spread[2], spread[3]]) as usize;
    match channel {
        Channel::Control => wide % 300,
        _ if wide.is_multiple_of(9) => wide % 100,
        _ => wide % (PAYLOAD + 1),
    }
}

pub fn slice(side: &Side, channel: Channel, seq: u64, last: bool) -> Outbound {
    let bytes = content(channel, seq, len_of(channel, seq));
    let body = if channel == Channel::Control {
        Body::Small(bytes)
    } else {
        let mut slot = side.arena_out.take_timeout(HANG).expect("a free slot");
        let start = 64 + (seq as usize % 4000);
        slot[start..start + bytes.len()].copy_from_slice(&bytes);
        Body::Slot { slot, range: start..start + bytes.len() }
    };
    let flags = if last { SliceFlags::LAST } else { SliceFlags::NONE };
    Outbound { channel, seq, generation: seq as u32, flags, not_before: None, body }
}

/// Checks one delivered slice against what was sent.
pub fn check(slice: &Inbound) {
    let Inbound { channel, seq, generation, .. } = *slice;
    assert_eq!(generation, seq as u32);
    let expected = content(channel, seq, len_of(channel, seq));
    assert!(slice.body.bytes() == expected, "{channel:?} {seq} came with other bytes");
}

/// What a consumer saw.
#[derive(Default)]
pub struct Seen {
    pub counts: [u64; 3],
    pub down: Vec<DownReason>,
    pub all_down: usize,
    pub goodbye: bool,
    pages: std::collections::HashSet<u64>,
}

impl Seen {
    /// Takes one event; consumes slices at once. Panics on a repeat, a gap or wrong bytes.
    pub fn take(&mut self, endpoint: &Endpoint, event: NetEvent) {
        match event {
            NetEvent::Inbound(slice) => {
                check(&slice);
                let Inbound { channel, seq, .. } = slice;
                let index = channel.index().unwrap();
                if channel.is_ordered() {
                    assert_eq!(seq, self.counts[index], "{channel:?} out of order");
                } else {
                    assert!(self.pages.insert(seq), "{seq} came twice");
                }
                self.counts[index] += 1;
                drop(slice);
                endpoint.consumed(channel, seq);
            }
            NetEvent::RailDown { reason, .. } => self.down.push(reason),
            NetEvent::AllRailsDown => self.all_down += 1,
            NetEvent::PeerGoodbye { .. } => self.goodbye = true,
            NetEvent::RailUp { .. } => {}
            NetEvent::Fatal(error) => panic!("fatal: {error}"),
        }
    }

    /// Takes events until `done` or the hang limit.
    pub fn until(&mut self, side: &Side, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + HANG;
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "hangs with {:?} seen, {:?}",
                self.counts,
                side.endpoint.stats()
            );
            match side.events.recv_timeout(left.min(Duration::from_millis(100))) {
                Ok(event) => self.take(&side.endpoint, event),
                Err(crossbeam::channel::RecvTimeoutError::Timeout) => {}
                Err(gone) => panic!("{gone}"),
            }
        }
    }
}

pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANG;
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}
