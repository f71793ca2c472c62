//! Slots to sockets by reference: `vmsplice` into a pipe, `splice` out of it, never blocking.
//!
//! The kernel asks the socket's own flag whether it may block (`splice_to_socket` in
//! `fs/splice.c`), while receives of the ring need that flag clear: so it is set around the call.
//! Both happen on the ring's thread, and the ring looks at the flag only when an operation is
//! submitted. `sendfile` from a memory file was rejected: it hands over single small pages, which
//! costs both ends more than copying saves.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use dwcp_hostmem::Slot;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Capacity asked for: what an unprivileged process may have by default (`pipe-max-size`). With
/// less a slice takes more calls.
const PIPE_BYTES: usize = 1 << 20;

/// The way of one operation's bytes; between operations it is empty.
#[derive(Debug)]
pub(crate) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    /// Bytes that went in and not out.
    filled: usize,
}

impl Pipe {
    pub(crate) fn new() -> Result<Self, Errno> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused to a user with many pipes; the smaller one works as well.
        let _ = fcntl_setpipe_size(&into, PIPE_BYTES);
        Ok(Self { out, into, filled: 0 })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Hands over as much of `slot[range]` as the socket takes now. What is in the pipe already
    /// is the beginning of `range`.
    pub(crate) fn send(
        &mut self,
        slot: &Slot,
        socket: &OwnedFd,
        range: Range<usize>,
    ) -> Result<usize, Errno> {
        ioctl_fionbio(socket, true)?;
        let mut at = range.start;
        let ended = loop {
            if at == range.end {
                break Ok(());
            }
            match self.step(slot, socket, at..range.end) {
                Ok(count) => at += count,
                Err(Errno::INTR) => {}
                Err(error) => break Err(error),
            }
        };
        ioctl_fionbio(socket, false)?;
        let sent = at - range.start;
        if sent > 0 { Ok(sent) } else { ended.map(|()| 0) }
    }

    fn step(&mut self, slot: &Slot, socket: &OwnedFd, range: Range<usize>) -> Result<usize, Errno> {
        if self.filled == 0 {
            self.filled = slot.lend_to_pipe(self.into.as_fd(), range.clone())?;
        }
        let mut flags = SpliceFlags::NONBLOCK;
        if self.filled < range.len() {
            flags |= SpliceFlags::MORE;
        }
        let count = splice(&self.out, None, socket, None, self.filled, flags)?;
        self.filled -= count;
        Ok(count)
    }
}

/// `splice` cannot be told not to raise SIGPIPE; the error says it all.
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
