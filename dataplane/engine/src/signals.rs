//! Ctrl-C and termination, counted: the first asks, the second insists.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::error::{Doing, Result};

/// How often the user has asked us to end. A default one hears no signals, only [`Interrupts::raise`].
#[derive(Debug, Clone, Default)]
pub struct Interrupts(Arc<AtomicUsize>);

impl Interrupts {
    /// Takes SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    /// The handlers cannot be set.
    pub fn listen() -> Result<Self> {
        let interrupts = Self::default();
        let mut signals = signal_hook::iterator::Signals::new([
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGHUP,
        ])
        .doing(|| "setting signal handlers".to_owned())?;
        let count = Arc::clone(&interrupts.0);
        std::thread::spawn(move || {
            for _ in signals.forever() {
                count.fetch_add(1, Relaxed);
            }
        });
        Ok(interrupts)
    }

    /// Asks as a signal would: for a caller that cancels one job among several.
    pub fn raise(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}
