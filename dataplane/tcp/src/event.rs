//! What the poll thread tells the engine.

use std::net::SocketAddr;

use dwcp_wire::{RailId, ReasonCode};

use crate::{DownReason, FatalError, Inbound};

/// Events of one endpoint, in order. Read them promptly: slices are acked when consumed.
#[derive(Debug)]
pub enum NetEvent {
    /// A slice has come; call [`crate::Endpoint::consumed`] when its bytes are used up.
    Inbound(Inbound),
    /// A connection carries slices from now on.
    RailUp {
        /// The rail.
        rail: RailId,
        /// Its other end, if the kernel knows.
        peer: Option<SocketAddr>,
    },
    /// A connection is gone.
    RailDown {
        /// The rail.
        rail: RailId,
        /// Why.
        reason: DownReason,
    },
    /// The last connection is gone. Nothing is lost: [`crate::Endpoint::add_rail`] resumes.
    AllRailsDown,
    /// The peer has ended the session; its connections close now.
    PeerGoodbye {
        /// Why.
        code: ReasonCode,
    },
    /// The poll thread ends by itself. Last event.
    Fatal(FatalError),
}
