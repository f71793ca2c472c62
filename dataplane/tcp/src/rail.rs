//! One connection as the loop sees it: what it sends, what it waits for, why it dies.
//!
//! At most one send and one receive are in flight. State only; the loop in `poll` acts.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dwcp_uring::{Buffer, OpId, SendMode};
use dwcp_wire::{HEADER_BYTES, LINK_BYTES_MAX, RailId, SliceHeader};

use crate::config::{BY_REFERENCE_BYTES_MIN, LINK_BUFFERS, ZERO_COPY_BYTES_MIN};
use crate::mail::NewRail;
use crate::table::Key;
use crate::{DownReason, ZeroCopy};

/// Bytes of a framed link message at most.
pub(crate) const LINK_FRAME_BYTES: usize = HEADER_BYTES + LINK_BYTES_MAX;

/// Zero-copy sends whose notification may be outstanding on one rail.
pub(crate) const UNNOTIFIED_MAX: usize = 128;

/// Everything a rail needs from the heap, made before it joins the loop.
pub(crate) struct RailBuffers {
    header: Vec<u8>,
    link: Vec<u8>,
    link_free: Vec<Vec<u8>>,
    links: VecDeque<LinkFrame>,
    unnotified: Vec<(OpId, Key)>,
}

impl RailBuffers {
    pub(crate) fn new() -> Self {
        Self {
            header: vec![0; HEADER_BYTES],
            link: vec![0; LINK_BYTES_MAX],
            link_free: (0..LINK_BUFFERS).map(|_| vec![0; LINK_FRAME_BYTES]).collect(),
            links: VecDeque::with_capacity(LINK_BUFFERS),
            unnotified: Vec::with_capacity(UNNOTIFIED_MAX),
        }
    }
}

/// A link message that waits for the socket.
#[derive(Debug)]
pub(crate) struct LinkFrame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) len: usize,
    pub(crate) is_goodbye: bool,
}

/// What the send in flight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tx {
    Idle,
    Slice { key: Key, len: usize, op: OpId },
    Link { len: usize, is_goodbye: bool, op: OpId },
}

/// What the receive in flight is, or why there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rx {
    /// Waits for the next header.
    Header { op: OpId },
    /// Waits for the body of a link message.
    Link { header: SliceHeader, op: OpId },
    /// Waits for the body of a slice.
    Body { header: SliceHeader, op: OpId },
    /// Has a header and needs a slot of the arena.
    NeedsSlot { header: SliceHeader },
    /// Nothing in flight.
    Idle,
}

/// Where the rail stands with zero-copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZeroCopyState {
    Off,
    /// The next slice that is large enough is the probe.
    ToProbe,
    /// The probe's notification is awaited; sends are copied meanwhile.
    Probing,
    On,
}

pub(crate) struct Rail {
    pub(crate) id: RailId,
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) tx: Tx,
    pub(crate) rx: Rx,
    /// Slice that goes when the socket is free.
    pub(crate) slice_next: Option<Key>,
    /// Link messages that go before it.
    pub(crate) links: VecDeque<LinkFrame>,
    pub(crate) link_free: Vec<Vec<u8>>,
    pub(crate) header: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) zero_copy: ZeroCopyState,
    /// Zero-copy sends that the kernel has not let go.
    pub(crate) unnotified: Vec<(OpId, Key)>,
    /// Set once: the rail only waits for its operations to end.
    pub(crate) down: Option<DownReason>,
    /// Whether the session knows it.
    pub(crate) is_known: bool,
    /// Bytes that moved at the kernel's last word.
    pub(crate) progress_bytes: u64,
}

impl Rail {
    pub(crate) fn new(new: NewRail, zero_copy: ZeroCopy) -> Self {
        let NewRail { id, socket, peer, buffers } = new;
        Self {
            id,
            socket,
            peer,
            tx: Tx::Idle,
            rx: Rx::Idle,
            slice_next: None,
            links: buffers.links,
            link_free: buffers.link_free,
            header: Some(buffers.header),
            link: Some(buffers.link),
            zero_copy: match zero_copy {
                ZeroCopy::Off => ZeroCopyState::Off,
                ZeroCopy::Probe => ZeroCopyState::ToProbe,
            },
            unnotified: buffers.unnotified,
            down: None,
            is_known: false,
            progress_bytes: 0,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.down.is_none()
    }

    /// Whether the kernel still works for this rail.
    pub(crate) fn has_operations(&self) -> bool {
        let receives = !matches!(self.rx, Rx::Idle | Rx::NeedsSlot { .. });
        receives || self.tx != Tx::Idle || !self.unnotified.is_empty()
    }

    /// How to send a slice of `len` bytes that lies in `buffer`.
    pub(crate) fn send_mode(&self, buffer: &Buffer, len: usize, by_reference: bool) -> SendMode {
        let probes = matches!(self.zero_copy, ZeroCopyState::ToProbe | ZeroCopyState::On);
        let is_slot = matches!(buffer, Buffer::Slot(_));
        if probes && len >= ZERO_COPY_BYTES_MIN && self.unnotified.len() < UNNOTIFIED_MAX {
            SendMode::ZeroCopy
        } else if by_reference && is_slot && len >= BY_REFERENCE_BYTES_MIN {
            SendMode::ByReference
        } else {
            SendMode::Copy
        }
    }

    /// Nothing to send and nothing being sent.
    pub(crate) fn is_quiet(&self) -> bool {
        self.tx == Tx::Idle && self.links.is_empty() && self.slice_next.is_none()
    }

    /// The operations to cancel when the rail dies.
    pub(crate) fn cancellable(&self) -> [Option<OpId>; 2] {
        let tx = match self.tx {
            Tx::Idle => None,
            Tx::Slice { op, .. } | Tx::Link { op, .. } => Some(op),
        };
        let rx = match self.rx {
            Rx::Header { op } | Rx::Link { op, .. } | Rx::Body { op, .. } => Some(op),
            Rx::NeedsSlot { .. } | Rx::Idle => None,
        };
        [tx, rx]
    }
}
