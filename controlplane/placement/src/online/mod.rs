//! Online placement: where does one virtual machine go, now?
//!
//! [`Index`] keeps what is free and who is where, and is updated by arrivals and departures. A decision
//! narrows the nodes by bit sets (platform classes, zones, GPU types, groups), then looks at each node
//! that is left: no division, no allocation after the first decisions. The answer is the best score,
//! ties by the lowest node number, so it equals what scoring every node would give.

mod bits;
mod index;
mod node;
mod refusal;
mod request;
mod score;

pub use index::{Decision, Index, IndexError};
pub use node::{NodeSpec, Platform, RESOURCE_NAMES, RESOURCES, Zone};
pub use refusal::{REASONS, Reason, Refusal};
pub use request::{Gpu, PlatformNeed, Request, Spread};
pub use score::Score;
