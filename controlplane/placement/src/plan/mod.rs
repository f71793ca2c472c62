//! Plans that can be carried out: from an assignment to another by single live migrations, in time.
//!
//! A guest in flight occupies both machines with all its resources; its source is free once it has
//! arrived. At every moment capacities hold, no machine has (or awaits) two of a service, and spread
//! and dependencies hold both before and after each arrival.

mod ledger;
mod order;
mod policy;

pub use order::{Limits, Move, Plan, PlanError, Reason, order};
pub use policy::{Hysteresis, Trimmed, trim};
