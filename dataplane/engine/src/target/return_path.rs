//! The return-path thread: splits what the target QEMU says to its source. SHUT stays here.

use std::io::Read;
use std::os::unix::net::UnixStream;

use crossbeam::channel::Sender;
use dwcp_qemustream::return_path::{Item, Message, ReturnPath};

use super::job::JobEvent;
use crate::error::{Class, EngineError};

/// Longest read of QEMU's return path; one control message carries as much.
const RETURN_PATH_CHUNK: usize = 1024;

/// Works until QEMU closes its socket or the job has gone.
pub(super) fn read_return_path(mut stream: UnixStream, events: &Sender<JobEvent>) {
    let (mut splitter, mut bytes) = (ReturnPath::new(), Vec::new());
    let mut chunk = [0u8; RETURN_PATH_CHUNK];
    loop {
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            _ => {
                let _ = events.send(JobEvent::QemuClosed);
                return;
            }
        }
        loop {
            let event = match splitter.next_item(&bytes) {
                Ok(Some(item)) => {
                    let range = item.bytes();
                    let message = bytes[range.clone()].to_vec();
                    bytes.drain(..range.end);
                    match item {
                        Item::Message { message: Message::Shut { error }, .. } => {
                            JobEvent::Shut(error)
                        }
                        _ => JobEvent::ReturnPath(message),
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    let text = format!("the target QEMU's return path: {e}");
                    let _ = events.send(JobEvent::Failed(EngineError::new(Class::Failed, text)));
                    return;
                }
            };
            if events.send(event).is_err() {
                return;
            }
        }
    }
}
