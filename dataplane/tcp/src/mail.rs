//! The mailboxes between the engine's threads and the poll thread. All are bounded.
//!
//! Each channel has a mailbox of its own: a full Pages window must not hold up Control.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use dwcp_wire::{CONTROL_ALLOWANCE_SLICES, Channel, RailId, ReasonCode, SEQUENCED_CHANNELS};

use crate::config::{MAILBOX_REQUESTS, MAILBOX_SLICES};
use crate::rail::RailBuffers;
use crate::slice::Prepared;
use crate::table::Key;

/// A connection that passed its handshake.
pub(crate) struct NewRail {
    pub(crate) id: RailId,
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) peer: Option<SocketAddr>,
    /// Allocated by the caller, so that the loop need not.
    pub(crate) buffers: RailBuffers,
}

/// Whatever is neither slice nor rail.
pub(crate) enum Request {
    SetRate(Option<u64>),
    Close { code: ReasonCode, drain_max: Duration },
}

/// The engine's side.
pub(crate) struct Outbox {
    pub(crate) slices: [Sender<Prepared>; SEQUENCED_CHANNELS],
    pub(crate) consumed: Sender<Key>,
    pub(crate) rails: Sender<NewRail>,
    pub(crate) requests: Sender<Request>,
}

/// The loop's side.
pub(crate) struct Inbox {
    pub(crate) slices: [Receiver<Prepared>; SEQUENCED_CHANNELS],
    pub(crate) consumed: Receiver<Key>,
    /// Apart from the requests: rails may have to wait for room in the event queue.
    pub(crate) rails: Receiver<NewRail>,
    pub(crate) requests: Receiver<Request>,
}

/// Slices that can be delivered and not yet consumed.
pub(crate) fn deliveries_max(window_in_slices: u32) -> usize {
    (window_in_slices + CONTROL_ALLOWANCE_SLICES) as usize
}

pub(crate) fn mailboxes(window_in_slices: u32) -> (Outbox, Inbox) {
    let [control, skeleton, pages] = Channel::SEQUENCED.map(|_| bounded(MAILBOX_SLICES));
    let (consumed_in, consumed_out) = bounded(deliveries_max(window_in_slices));
    let (rails_in, rails_out) = bounded(MAILBOX_REQUESTS);
    let (requests_in, requests_out) = bounded(MAILBOX_REQUESTS);
    let outbox = Outbox {
        slices: [control.0, skeleton.0, pages.0],
        consumed: consumed_in,
        rails: rails_in,
        requests: requests_in,
    };
    let inbox = Inbox {
        slices: [control.1, skeleton.1, pages.1],
        consumed: consumed_out,
        rails: rails_out,
        requests: requests_out,
    };
    (outbox, inbox)
}
