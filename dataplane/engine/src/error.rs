//! One error type for the engine, sorted into the classes that become exit codes.
//! Every text says what is wrong and, where it is known, what to do.

use std::io;
use std::process::ExitCode;

use dwcp_wire::ReasonCode;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::qmp::QmpError;

/// Exit codes of all our binaries, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The operation ran and failed; the source guest runs.
    Failed = 1,
    /// The command line or its values are wrong.
    Usage = 2,
    /// The thing named does not exist.
    NotFound = 3,
    /// The other side cannot be reached, or a time limit passed.
    Unreachable = 4,
    /// This host lacks something: memory, a port, a file, a right.
    Resource = 5,
    /// Identity or trust is missing.
    Trust = 6,
    /// The state of things forbids it: another machine type, another job.
    Conflict = 7,
    /// A named limit is reached.
    Limit = 8,
    /// The outcome is not known yet; both copies stay paused.
    InDoubt = 9,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
}

impl Class {
    /// The process exit code.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// What stops a job or a command.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A monitor said no or went away.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// A file or socket of this host failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path or address.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Anything else, by class.
    #[error("{text}")]
    Other {
        /// Its class.
        class: Class,
        /// What happened and what to do.
        text: String,
    },
}

/// Result of the engine's own functions.
pub type Result<T> = std::result::Result<T, EngineError>;

impl EngineError {
    /// An error of the given class.
    pub fn new(class: Class, text: impl Into<String>) -> Self {
        Self::Other { class, text: text.into() }
    }

    /// An I/O failure with what was being done.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// The class, which is the exit code.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Qmp(QmpError::Refused { .. }) => Class::Failed,
            Self::Qmp(QmpError::NotQmp { .. }) => Class::Usage,
            Self::Qmp(_) => Class::Unreachable,
            Self::Io { .. } => Class::Resource,
            Self::Other { class, .. } => *class,
        }
    }

    /// The class's nearest reason on the wire.
    #[must_use]
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Qmp(_) => ReasonCode::QemuFailed,
            Self::Io { .. } => ReasonCode::NoMemory,
            Self::Other { class, .. } => match class {
                Class::Usage | Class::Conflict => ReasonCode::Incompatible,
                Class::NotFound => ReasonCode::UnknownJob,
                Class::Unreachable => ReasonCode::TimedOut,
                Class::Resource | Class::Limit => ReasonCode::NoMemory,
                Class::Trust => ReasonCode::NotAllowed,
                Class::Interrupted => ReasonCode::Cancelled,
                Class::Failed | Class::InDoubt => ReasonCode::Internal,
            },
        }
    }
}

/// The class of a reason that a peer gave.
#[must_use]
pub fn class_of(reason: ReasonCode) -> Class {
    match reason {
        ReasonCode::UnknownJob => Class::NotFound,
        ReasonCode::BadToken | ReasonCode::NotAllowed => Class::Trust,
        ReasonCode::Busy | ReasonCode::NoMemory => Class::Limit,
        ReasonCode::Conflict
        | ReasonCode::Incompatible
        | ReasonCode::UnsupportedVersion
        | ReasonCode::UnsupportedFeature => Class::Conflict,
        ReasonCode::TimedOut | ReasonCode::PeerLost => Class::Unreachable,
        ReasonCode::Cancelled => Class::Interrupted,
        _ => Class::Failed,
    }
}

/// Adds what was being done to an I/O result.
pub trait Doing<T> {
    /// Names the action; the path or address belongs into it.
    ///
    /// # Errors
    /// [`EngineError::Io`] with the name.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| EngineError::io(what(), source))
    }
}
