//! Our errors as gRPC statuses: one table, exhaustive.

use tonic::{Code, Status};

use crate::error::{Class, EngineError};

/// The gRPC code of a class; `dwcp-cli` turns it back into the exit code.
pub fn code(class: Class) -> Code {
    match class {
        Class::Failed => Code::Aborted,
        Class::Usage => Code::InvalidArgument,
        Class::NotFound => Code::NotFound,
        Class::Unreachable => Code::Unavailable,
        Class::Resource => Code::Internal,
        Class::Trust => Code::PermissionDenied,
        Class::Conflict => Code::FailedPrecondition,
        Class::Limit => Code::ResourceExhausted,
        Class::InDoubt => Code::Unknown,
        Class::Interrupted => Code::Cancelled,
    }
}

/// An error as the client sees it: its code and our text.
pub fn status(error: &EngineError) -> Status {
    Status::new(code(error.class()), error.to_string())
}
