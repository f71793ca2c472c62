//! Holds slices back so that what is sent and not confirmed stays small in time: the round trip and
//! a little more. Otherwise QEMU would believe that the link is as fast as our buffers, and the rest
//! after the stop would be whatever lies in them.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use dwcp_tcp::{Endpoint, Outbound, SubmitError};

use super::shared::Shared;

/// Time for which sent bytes may wait beyond the round trip: a fifth of the default downtime.
const QUEUE_TIME: Duration = Duration::from_millis(60);
/// What may always be on its way: enough to measure a rate with.
const BYTES_MIN: u64 = 4 << 20;
/// How often the rate is measured.
const RATE_INTERVAL: Duration = Duration::from_millis(50);
/// A rate lasts this many intervals before a lower one replaces it.
const RATE_DECAY: f64 = 0.9;
/// How long one wait lasts: well below the queue time.
const WAIT: Duration = Duration::from_micros(300);

/// The gate in front of the session.
#[derive(Debug, Default)]
pub struct Gate {
    submitted_bytes: AtomicU64,
    limit_bytes: AtomicU64,
    measured: Mutex<Option<(Instant, u64, f64)>>,
}

impl Gate {
    /// Submits once there is room; gives up when the job is aborted.
    ///
    /// # Errors
    /// The session has ended, or the job is aborted.
    pub fn submit(
        &self,
        endpoint: &Endpoint,
        shared: &Shared,
        slice: Outbound,
    ) -> Result<(), SubmitError> {
        let bytes = slice.body.bytes().len() as u64;
        loop {
            if shared.aborted() {
                return Err(SubmitError::Closed);
            }
            let stats = endpoint.stats();
            self.measure(stats.acked_bytes, stats.rtt_us);
            let limit = self.limit_bytes.load(Relaxed).max(BYTES_MIN);
            let unacked = self.submitted_bytes.load(Relaxed).saturating_sub(stats.acked_bytes);
            if unacked == 0 || unacked + bytes <= limit {
                break;
            }
            std::thread::sleep(WAIT);
        }
        self.submitted_bytes.fetch_add(bytes, Relaxed);
        endpoint.submit(slice)
    }

    fn measure(&self, acked_bytes: u64, rtt_us: u64) {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let Some((at, before, rate)) = *measured else {
            *measured = Some((now, acked_bytes, 0.0));
            return;
        };
        let elapsed = now - at;
        if elapsed < RATE_INTERVAL {
            return;
        }
        let seen = acked_bytes.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        let rate = seen.max(rate * RATE_DECAY);
        *measured = Some((now, acked_bytes, rate));
        let time = QUEUE_TIME + Duration::from_micros(rtt_us);
        self.limit_bytes.store((rate * time.as_secs_f64()) as u64, Relaxed);
    }
}
