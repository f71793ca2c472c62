//! Wakes a loop that sleeps in its ring; costs no system call while the loop is awake.
//!
//! Protocol: the sleeper says "asleep", then looks once more whether there is work; the waker
//! publishes work, then looks whether the sleeper is asleep. Both with sequential consistency,
//! so at least one of them sees the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// Handle to wake one [`crate::Ring`]; any thread may keep a clone, also after the ring is gone.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    event: OwnedFd,
    asleep: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner { event, asleep: AtomicBool::new(false) })))
    }

    /// Ends the loop's sleep, now or as soon as it tries. Call it after the work was published.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed) && self.0.asleep.swap(false, Ordering::SeqCst) {
            // Fails only when the counter is full, and then the loop is being woken anyway.
            let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
        }
    }

    pub(crate) fn set_asleep(&self, asleep: bool) {
        self.0.asleep.store(asleep, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Takes the wake-ups that came so far.
    pub(crate) fn clear(&self) {
        let mut count = [0; 8];
        // Fails only when there was none.
        let _ = rustix::io::read(&self.0.event, &mut count);
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
