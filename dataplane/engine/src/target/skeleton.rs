//! Writes the ordered bytes of the stream into the target QEMU's socket. One thread per job; it
//! blocks on QEMU, and confirms a slice when QEMU has taken it.

use std::io::Write;
use std::os::unix::net::UnixStream;

use crossbeam::channel::{Receiver, Sender};
use dwcp_encode::bytes::Unpacker;
use dwcp_tcp::{Endpoint, Inbound};
use dwcp_wire::PAYLOAD_MAX;

use super::job::JobEvent;
use crate::error::{Class, EngineError};

/// What the thread works with.
pub struct SkeletonWriter {
    /// Slices, in order.
    pub slices: Receiver<Inbound>,
    /// QEMU's socket.
    pub stream: UnixStream,
    /// The session.
    pub endpoint: Endpoint,
    /// To the job.
    pub events: Sender<JobEvent>,
}

impl SkeletonWriter {
    /// Writes until the job drops its end.
    pub fn run(mut self) {
        let mut unpacker = Unpacker::new();
        let mut bytes = vec![0u8; PAYLOAD_MAX as usize];
        while let Ok(slice) = self.slices.recv() {
            let length = match unpacker.unpack(slice.body.bytes(), &mut bytes) {
                Ok(length) => length,
                Err(e) => {
                    let error = EngineError::new(Class::Failed, format!("skeleton slice: {e}"));
                    let _ = self.events.send(JobEvent::Failed(error));
                    return;
                }
            };
            if slice.flags.is_last() {
                // Before QEMU has it: its answer must not overtake this.
                let _ = self.events.send(JobEvent::TailPassed);
            }
            // A QEMU that has gone shows on the return path.
            if self.stream.write_all(&bytes[..length]).is_err() {
                return;
            }
            let (channel, seq) = (slice.channel, slice.seq);
            drop(slice);
            self.endpoint.consumed(channel, seq);
        }
    }
}
