//! What a job arrives in: the same target for all, or one prepared for it and named by a ticket that
//! works once. Locked for map operations only; no I/O, no knowledge of who prepares.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::QemuSource;
use crate::error::{Class, EngineError, Result};

/// How long a ticket waits for its job.
pub const TICKET_VALID: Duration = Duration::from_secs(600);
/// Tickets that may wait at a time.
const TICKETS_MAX: usize = 64;

/// A target that takes one job.
#[derive(Debug)]
pub struct PreparedTarget {
    /// Where its QEMU comes from.
    pub qemu: QemuSource,
    /// Leave the arrived guest paused.
    pub leave_paused: bool,
}

/// What jobs arrive in.
#[derive(Debug)]
pub enum Targets {
    /// The same for every job.
    Fixed(Arc<PreparedTarget>),
    /// A job brings the ticket of what was prepared for it.
    ByTicket(Mutex<HashMap<String, Waiting>>),
}

/// A prepared target that waits for its job.
#[derive(Debug)]
pub struct Waiting {
    target: Arc<PreparedTarget>,
    since: Instant,
}

impl Targets {
    /// No targets yet; jobs need tickets.
    #[must_use]
    pub fn by_ticket() -> Self {
        Self::ByTicket(Mutex::default())
    }

    /// The same target for every job.
    #[must_use]
    pub fn fixed(qemu: QemuSource, leave_paused: bool) -> Self {
        Self::Fixed(Arc::new(PreparedTarget { qemu, leave_paused }))
    }

    /// True when only one job can be served at a time.
    #[must_use]
    pub fn is_single(&self) -> bool {
        matches!(self, Self::Fixed(target) if matches!(target.qemu, QemuSource::Given(_)))
    }

    /// Keeps a target for the job that brings the returned ticket. A QEMU that was prepared before
    /// waits for the new ticket alone.
    ///
    /// # Errors
    /// Too many are waiting, or targets are fixed here.
    pub fn prepare(&self, target: PreparedTarget) -> Result<String> {
        let Self::ByTicket(waiting) = self else {
            return Err(EngineError::new(Class::Conflict, "this process serves one fixed target"));
        };
        let mut waiting = current(waiting);
        if let Some(path) = given(&target) {
            waiting.retain(|_, other| given(&other.target) != Some(path));
        }
        if waiting.len() >= TICKETS_MAX {
            let text = format!("{TICKETS_MAX} prepared targets wait for their jobs already");
            return Err(EngineError::new(Class::Limit, text));
        }
        // Random, not in order of time: it is a secret.
        let ticket = uuid::Uuid::new_v4().simple().to_string();
        waiting.insert(ticket.clone(), Waiting { target: Arc::new(target), since: Instant::now() });
        Ok(ticket)
    }

    /// The target for a job; its ticket is used up unless the job is a mere check.
    ///
    /// # Errors
    /// [`Class::Trust`] without a valid ticket where one is needed.
    pub fn take(&self, ticket: Option<&str>, check: bool) -> Result<Arc<PreparedTarget>> {
        let waiting = match self {
            Self::Fixed(target) => return Ok(Arc::clone(target)),
            Self::ByTicket(waiting) => waiting,
        };
        let refuse = |text: &str| Err(EngineError::new(Class::Trust, text));
        let Some(ticket) = ticket else {
            return refuse("this target takes jobs with a ticket only: PrepareTarget gives one");
        };
        let mut waiting = current(waiting);
        let found = match check {
            true => waiting.get(ticket).map(|w| Arc::clone(&w.target)),
            false => waiting.remove(ticket).map(|w| w.target),
        };
        match found {
            Some(target) => Ok(target),
            None => {
                refuse("the ticket is used up, too old or not of this target: prepare it again")
            }
        }
    }
}

/// The waiting targets, those that waited too long left out.
fn current(waiting: &Mutex<HashMap<String, Waiting>>) -> MutexGuard<'_, HashMap<String, Waiting>> {
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.retain(|_, w| w.since.elapsed() < TICKET_VALID);
    waiting
}

fn given(target: &PreparedTarget) -> Option<&PathBuf> {
    match &target.qemu {
        QemuSource::Given(path) => Some(path),
        QemuSource::Launch(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> PreparedTarget {
        PreparedTarget { qemu: QemuSource::Given(path.into()), leave_paused: true }
    }

    #[test]
    fn a_ticket_works_once_and_a_check_leaves_it() {
        let targets = Targets::by_ticket();
        let ticket = targets.prepare(target("a")).unwrap();
        assert!(targets.take(Some(&ticket), true).unwrap().leave_paused);
        assert!(targets.take(Some(&ticket), false).is_ok());
        assert_eq!(targets.take(Some(&ticket), false).unwrap_err().class(), Class::Trust);
    }

    #[test]
    fn without_a_ticket_nobody_comes_in() {
        let targets = Targets::by_ticket();
        targets.prepare(target("a")).unwrap();
        assert_eq!(targets.take(None, false).unwrap_err().class(), Class::Trust);
        assert_eq!(targets.take(Some(""), true).unwrap_err().class(), Class::Trust);
    }

    #[test]
    fn preparing_a_monitor_again_voids_its_first_ticket() {
        let targets = Targets::by_ticket();
        let (first, other) =
            (targets.prepare(target("a")).unwrap(), targets.prepare(target("b")).unwrap());
        let second = targets.prepare(target("a")).unwrap();
        assert!(targets.take(Some(&first), false).is_err());
        assert!(
            targets.take(Some(&second), false).is_ok() && targets.take(Some(&other), false).is_ok()
        );
    }

    #[test]
    fn waiting_targets_are_bounded() {
        let targets = Targets::by_ticket();
        for number in 0..TICKETS_MAX {
            targets.prepare(target(&number.to_string())).unwrap();
        }
        assert_eq!(targets.prepare(target("x")).unwrap_err().class(), Class::Limit);
    }

    #[test]
    fn fixed_targets_need_no_ticket() {
        let targets = Targets::fixed(QemuSource::Given("a".into()), false);
        assert!(targets.is_single() && targets.take(None, false).is_ok());
        assert_eq!(targets.prepare(target("b")).unwrap_err().class(), Class::Conflict);
    }
}
