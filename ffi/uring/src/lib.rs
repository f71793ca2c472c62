//! An io_uring ring whose buffers belong to the operation in flight.
//!
//! One thread makes, drives and drops a [`Ring`]; only its [`Waker`] goes to other threads. It
//! allocates in `Ring::new` alone and blocks only in `Ring::wait` (and, bounded, in drop). It
//! must not know what the bytes mean.
//!
//! # Ownership
//! [`Ring::send`] and [`Ring::recv`] take a [`Buffer`] by value and give it back in the
//! completion, after the kernel's last access. There is no way to reach it in between:
//!
//! ```compile_fail,E0382
//! # use dwcp_uring::{Ring, Buffer, SendMode};
//! fn touch(ring: &mut Ring, socket: &std::sync::Arc<std::os::fd::OwnedFd>, mut bytes: Vec<u8>) {
//!     let end = bytes.len();
//!     let _ = ring.send(7, socket, Buffer::Heap(bytes), 0..end, SendMode::Copy);
//!     bytes[0] = 1; // the kernel may be reading it
//! }
//! ```
//!
//! A slot in flight cannot go back to its arena either:
//!
//! ```compile_fail,E0382
//! # use dwcp_uring::{Ring, Buffer};
//! # use dwcp_hostmem::Slot;
//! fn free(ring: &mut Ring, socket: &std::sync::Arc<std::os::fd::OwnedFd>, slot: Slot) {
//!     let _ = ring.recv(7, socket, Buffer::Slot(slot), 0..4096);
//!     drop(slot); // the kernel may be writing it
//! }
//! ```
//!
//! A view taken before cannot outlive the hand-over:
//!
//! ```compile_fail,E0505
//! # use dwcp_uring::{Ring, Buffer};
//! # use dwcp_hostmem::Slot;
//! fn look(ring: &mut Ring, socket: &std::sync::Arc<std::os::fd::OwnedFd>, slot: Slot) -> u8 {
//!     let view: &[u8] = &slot;
//!     let _ = ring.recv(7, socket, Buffer::Slot(slot), 0..4096);
//!     view[0]
//! }
//! ```
//!
//! Sent by reference, a buffer is in flight as well until its completion:
//!
//! ```compile_fail,E0382
//! # use dwcp_uring::{Ring, Buffer, SendMode};
//! # use dwcp_hostmem::Slot;
//! fn reuse(ring: &mut Ring, socket: &std::sync::Arc<std::os::fd::OwnedFd>, mut slot: Slot) {
//!     let _ = ring.send(7, socket, Buffer::Slot(slot), 0..4096, SendMode::ByReference);
//!     slot.fill(0);
//! }
//! ```
//!
//! And the ring stays on the thread that made it:
//!
//! ```compile_fail,E0277
//! fn needs_send<T: Send>() {}
//! needs_send::<dwcp_uring::Ring>();
//! ```
//!
//! The same calls with the buffer taken from the completion compile:
//!
//! ```
//! # use dwcp_uring::{Ring, Buffer, Event, SendMode};
//! fn turn(ring: &mut Ring, socket: &std::sync::Arc<std::os::fd::OwnedFd>, bytes: Vec<u8>) {
//!     let end = bytes.len();
//!     let _ = ring.send(7, socket, Buffer::Heap(bytes), 0..end, SendMode::Copy);
//!     while let Some(done) = ring.next_completion() {
//!         if let Event::Sent { buffer: Some(Buffer::Heap(mut bytes)), .. } = done.event {
//!             bytes[0] = 1;
//!         }
//!     }
//! }
//! ```

mod buffer;
mod by_reference;
mod error;
mod ops;
mod ring;
mod socket;
mod waker;

pub use buffer::Buffer;
pub use error::{Rejected, RingError};
pub use ops::{Completion, Event, OpId};
pub use ring::{Ring, RingConfig, RingReport, SendMode};
pub use socket::{TcpInfo, tcp_info};
pub use waker::Waker;
