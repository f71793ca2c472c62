//! The clock, the threads and the files of the offline commands.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dwcp_placement::reassign::{Deadline, Executor};

use crate::problem::{Exit, Problem};

/// A time limit from a moment on.
#[derive(Debug)]
pub struct Clock {
    /// When it began.
    pub start: Instant,
    /// What is allowed.
    pub allowed: Duration,
}

impl Deadline for Clock {
    fn used(&self) -> f64 {
        if self.allowed.is_zero() {
            return f64::INFINITY;
        }
        self.start.elapsed().as_secs_f64() / self.allowed.as_secs_f64()
    }
}

/// Runs jobs on at most so many threads.
#[derive(Debug)]
pub struct Threads(
    /// How many, at least one.
    pub usize,
);

impl Executor for Threads {
    fn run(&self, jobs: Vec<Box<dyn FnOnce() + Send + '_>>) {
        let lanes = self.0.clamp(1, jobs.len().max(1));
        let mut lists: Vec<Vec<_>> = (0..lanes).map(|_| Vec::new()).collect();
        for (at, job) in jobs.into_iter().enumerate() {
            lists[at % lanes].push(job);
        }
        std::thread::scope(|scope| {
            let own = lists.pop();
            for list in lists {
                scope.spawn(|| list.into_iter().for_each(|job| job()));
            }
            own.into_iter().flatten().for_each(|job| job());
        });
    }
}

/// A file's text.
///
/// # Errors
/// It is missing, cannot be read, or is no text.
pub fn read(path: &Path) -> Result<String, Problem> {
    fs::read_to_string(path).map_err(|e| {
        let exit = match e.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Local,
        };
        Problem::new(exit, format!("{}: {e}", path.display()))
    })
}

/// Writes a file beside its place and renames it, so that a reader sees all of it or none.
///
/// # Errors
/// The file system refuses.
pub fn write(path: &Path, text: &str) -> Result<(), Problem> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = fs::write(&part, text).and_then(|()| fs::rename(&part, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&part);
        Problem::local(format!("{}: {e}", path.display()))
    })
}

/// A file that holds something else than it should.
pub fn malformed(path: &Path, error: &dyn std::fmt::Display) -> Problem {
    Problem::new(Exit::Usage, format!("{}: {error}", path.display()))
}
