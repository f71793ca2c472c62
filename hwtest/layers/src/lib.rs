//! Holds the workspace to `layers.toml`: who imports whom, which crates are pure, where `unsafe`
//! may live, and what a crate may be called. Runs in tests, on one thread; allocates freely.
//! The rules and the graph are arguments; only `read` touches files and starts `cargo`.

#![forbid(unsafe_code)]

mod arrows;
mod code;
mod read;
mod rules;
mod sources;
mod workspace;

use std::fmt;

pub use arrows::check_arrows;
pub use read::{ReadError, check_workspace, read_metadata, read_rules, read_sources};
pub use rules::{Room, Rules};
pub use sources::{SourceFile, check_sources};
pub use workspace::{Crate, Dependency, Kind, MetadataError, Root, Workspace};

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The folder of the crate, relative to the workspace, or `layers.toml` itself.
    pub room: String,
    /// What is wrong, and where.
    pub text: String,
}

impl Violation {
    pub(crate) fn new(room: &str, text: impl Into<String>) -> Self {
        Self { room: room.to_owned(), text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.room, self.text)
    }
}
