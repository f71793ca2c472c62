//! What went wrong, with the exit code that all our binaries share.

use std::fmt;
use std::process::ExitCode;

use tonic::Code;

/// Exit codes of all our binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The operation failed.
    Failed = 1,
    /// Wrong flags or values.
    Usage = 2,
    /// No such thing.
    NotFound = 3,
    /// Unreachable, or a time limit passed.
    Unreachable = 4,
    /// This host lacks something.
    Local = 5,
    /// Identity or trust is missing.
    Trust = 6,
    /// The state of things forbids it.
    Conflict = 7,
    /// A limit is reached.
    Limit = 8,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
}

/// One line for the operator, and the exit code.
#[derive(Debug)]
pub struct Problem {
    exit: Exit,
    text: String,
}

impl Problem {
    /// Something of the given class.
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// This host lacks something.
    pub fn local(text: impl Into<String>) -> Self {
        Self::new(Exit::Local, text)
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<tonic::Status> for Problem {
    fn from(status: tonic::Status) -> Self {
        let text = match status.message() {
            "" => status.code().description(),
            text => text,
        };
        Self::new(exit_of(status.code()), text)
    }
}

/// The exit code that a gRPC code stands for.
fn exit_of(code: Code) -> Exit {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::Internal => Exit::Local,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Trust,
        Code::FailedPrecondition | Code::AlreadyExists => Exit::Conflict,
        Code::ResourceExhausted => Exit::Limit,
        Code::Cancelled => Exit::Interrupted,
        Code::Ok | Code::Unknown | Code::Aborted | Code::Unimplemented | Code::DataLoss => {
            Exit::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_the_exit_codes_of_the_contract() {
        let exit = |code| exit_of(code) as u8;
        assert_eq!(exit(Code::Aborted), 1);
        assert_eq!(exit(Code::InvalidArgument), 2);
        assert_eq!(exit(Code::NotFound), 3);
        assert_eq!(exit(Code::Unavailable), 4);
        assert_eq!(exit(Code::Internal), 5);
        assert_eq!(exit(Code::PermissionDenied), 6);
        assert_eq!(exit(Code::FailedPrecondition), 7);
        assert_eq!(exit(Code::ResourceExhausted), 8);
        assert_eq!(exit(Code::Cancelled), 130);
    }

    #[test]
    fn a_status_without_words_still_says_something() {
        let problem = Problem::from(tonic::Status::new(Code::NotFound, ""));
        assert!(!problem.to_string().is_empty());
    }
}
