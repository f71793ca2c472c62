//! Task graphs: a directed acyclic graph of tasks with data between them, over unlike nodes and links.
//!
//! [`heft`] is the list heuristic of Topcuoglu, Hariri and Wu (2002) with insertion; [`partition`]
//! searches on from it and from its relatives; [`lower_bound`] says how far the best can be; [`exact`]
//! solves small graphs. Times are seconds, data is in any unit that `transfer` is a rate of.

mod bound;
mod build;
mod exact;
mod generate;
mod model;
mod search;

pub use bound::lower_bound;
pub use build::heft;
pub use exact::exact;
pub use generate::{GraphShape, generate};
pub use model::{Edge, GraphError, Schedule, TASKS_MAX, TaskGraph};
pub use search::{Partition, partition};
