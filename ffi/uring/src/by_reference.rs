//! `sendfile` from an arena in a file, never blocking.
//!
//! The kernel asks the socket's own flag whether it may block (`splice_to_socket` in
//! `fs/splice.c`), while receives of the ring need that flag clear: so it is set around the call.
//! Both happen on the ring's thread, and the ring looks at the flag only when an operation is
//! submitted.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use dwcp_hostmem::Slot;
use rustix::io::{Errno, ioctl_fionbio};

/// Hands over as much of `slot[range]` as the socket takes now.
pub(crate) fn send(slot: &Slot, socket: &OwnedFd, range: Range<usize>) -> Result<usize, Errno> {
    ioctl_fionbio(socket, true)?;
    let sent = loop {
        match slot.send_by_reference(socket.as_fd(), range.clone()) {
            Err(Errno::INTR) => {}
            done => break done,
        }
    };
    ioctl_fionbio(socket, false)?;
    match sent {
        // A socket that takes nothing has said so; a file that gives nothing is ours, and long
        // enough.
        Ok(0) => Err(Errno::AGAIN),
        done => done,
    }
}

/// `sendfile` cannot be told not to raise SIGPIPE; the error says it all.
pub(crate) fn block_broken_pipe_signal() {
    // SAFETY: an all-zero sigset_t is a valid value, and sigemptyset makes it a proper one.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a sigset_t of ours.
    unsafe { libc::sigemptyset(&mut set) };
    // SAFETY: `set` was initialised above; SIGPIPE is a valid signal.
    unsafe { libc::sigaddset(&mut set, libc::SIGPIPE) };
    // SAFETY: changes only which signals this thread takes; `set` lives across the call.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
}
