//! The ring: submit, wait, complete, cancel, drain.
//!
//! Made with SINGLE_ISSUER and DEFER_TASKRUN where the kernel has them: completions then run
//! only when this thread asks, and never interrupt it. Older kernels get a plain ring.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dwcp_hostmem::Arena;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::io::Errno;

use crate::by_reference::{Pipe, block_broken_pipe_signal};
use crate::ops::{ByReference, InFlight, Kind, OpTable};
use crate::{Buffer, Completion, Event, OpId, Rejected, RingError, Waker};

/// Operation that watches the waker's eventfd.
const WAKE: u64 = u64::MAX;
/// Cancel requests; their outcome is told by the operation they cancel.
const CANCEL: u64 = u64::MAX - 1;

/// From `io_uring.h`: ask whether a zero-copy send was copied, and where the answer is.
const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;
const NOTIF_USAGE_ZC_COPIED: u32 = 1 << 31;

const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// Longest time that drop waits for operations it cancelled.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Longest single wait while draining.
const DRAIN_STEP: Duration = Duration::from_millis(50);

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Entries of the submission queue.
    pub entries: u32,
    /// Operations that can be in flight.
    pub ops_max: u32,
}

/// What the kernel gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingReport {
    /// SINGLE_ISSUER and DEFER_TASKRUN are on.
    pub defers_task_work: bool,
    /// The arena's slots are registered buffers.
    pub has_registered_buffers: bool,
}

/// How to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendMode {
    /// The kernel copies.
    Copy,
    /// The kernel sends from the buffer itself if the path allows; a `Notified` follows.
    ZeroCopy,
    /// The kernel sends a slot's own pages, without copying and without ever saying when it is
    /// done. `Sent` means handed over: what changes before the peer has it arrives changed.
    /// Buffers that are no slots are copied.
    ByReference,
}

/// One thread's ring. See the crate's documentation for who owns a buffer when.
pub struct Ring {
    ring: IoUring,
    ops: OpTable,
    waker: Waker,
    wake_armed: bool,
    arena: Option<Arc<Arena>>,
    defers_task_work: bool,
    /// Operations that ended without the kernel's ring.
    ended: VecDeque<Completion>,
    /// Empty pipes for sends by reference: one per send that was ever in flight at once.
    pipes: Vec<Pipe>,
    /// The kernel binds the ring to the thread that made it.
    _thread_bound: PhantomData<*mut ()>,
}

impl Ring {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// [`RingError::Setup`] or [`RingError::Waker`] when the kernel refuses.
    pub fn new(config: RingConfig) -> Result<Self, RingError> {
        let (ring, defers_task_work) = match Self::build(config, true) {
            Ok(ring) => (ring, true),
            Err(_) => (Self::build(config, false).map_err(RingError::Setup)?, false),
        };
        block_broken_pipe_signal();
        let waker = Waker::new().map_err(RingError::Waker)?;
        let mut ring = Self {
            ring,
            ops: OpTable::new(config.ops_max),
            waker,
            wake_armed: false,
            arena: None,
            defers_task_work,
            ended: VecDeque::with_capacity(config.ops_max as usize),
            pipes: Vec::new(),
            _thread_bound: PhantomData,
        };
        ring.arm_wake().map_err(RingError::Enter)?;
        Ok(ring)
    }

    fn build(config: RingConfig, defer: bool) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        // Two completions per zero-copy send, and the ring's own.
        builder.setup_clamp().setup_cqsize((config.ops_max * 2 + 16).next_power_of_two());
        builder.dontfork();
        if defer {
            builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        }
        builder.build(config.entries.next_power_of_two())
    }

    /// Registers every slot of `arena`, which saves zero-copy sends the pinning of pages.
    /// `false` when the kernel refuses (mostly RLIMIT_MEMLOCK): all goes on without.
    pub fn register_arena(&mut self, arena: &Arc<Arena>) -> bool {
        if self.arena.is_some() {
            return false;
        }
        let slots = (0..arena.slots()).map(|index| {
            let (start, len) = arena.slot_range(index);
            libc::iovec { iov_base: start.as_ptr().cast(), iov_len: len }
        });
        let slots: Vec<libc::iovec> = slots.collect();
        // SAFETY: the ranges stay mapped while the arena lives, and this ring keeps it alive
        // until after the kernel's ring is closed; registering does not access the bytes.
        let registered = unsafe { self.ring.submitter().register_buffers(&slots) }.is_ok();
        if registered {
            self.arena = Some(Arc::clone(arena));
        }
        registered
    }

    /// What the kernel gave.
    pub fn report(&self) -> RingReport {
        RingReport {
            defers_task_work: self.defers_task_work,
            has_registered_buffers: self.arena.is_some(),
        }
    }

    /// A handle for other threads to end this ring's sleep.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.ops.len()
    }

    // ---- operations --------------------------------------------------------------------------

    /// Sends `buffer[range]` whole: completes when all of it is handed to the (blocking) socket
    /// or the connection broke. It starts with the next `submit` or `wait`.
    ///
    /// # Errors
    /// [`Rejected`] with the buffer when the ring is full.
    ///
    /// # Panics
    /// When the range is empty, outside the buffer or above 4 GiB.
    pub fn send(
        &mut self,
        tag: u64,
        socket: &Arc<OwnedFd>,
        buffer: Buffer,
        range: Range<usize>,
        mode: SendMode,
    ) -> Result<OpId, Rejected> {
        if mode == SendMode::ByReference && matches!(buffer, Buffer::Slot(_)) {
            // Without a pipe (too many open files) it is copied.
            if let Some(pipe) = self.pipes.pop().or_else(|| Pipe::new().ok()) {
                return self.send_by_reference(tag, socket, buffer, range, pipe);
            }
        }
        if mode == SendMode::ZeroCopy {
            return self.send_zero_copy(tag, socket, buffer, range);
        }
        self.start(tag, socket, buffer, range, Kind::Send, |fd, start, len| {
            opcode::Send::new(fd, start, len).flags(SEND_FLAGS).build()
        })
    }

    fn send_zero_copy(
        &mut self,
        tag: u64,
        socket: &Arc<OwnedFd>,
        buffer: Buffer,
        range: Range<usize>,
    ) -> Result<OpId, Rejected> {
        let fixed = self.fixed_index(&buffer);
        self.start(tag, socket, buffer, range, Kind::SendZeroCopy, |fd, start, len| {
            opcode::SendZc::new(fd, start, len)
                .buf_index(fixed)
                .zc_flags(SEND_ZC_REPORT_USAGE)
                .flags(SEND_FLAGS)
                .build()
        })
    }

    fn send_by_reference(
        &mut self,
        tag: u64,
        socket: &Arc<OwnedFd>,
        buffer: Buffer,
        range: Range<usize>,
        pipe: Pipe,
    ) -> Result<OpId, Rejected> {
        check_range(&buffer, &range);
        // Room for the poll that may have to follow.
        if let Err(source) = self.make_room() {
            return Err(Rejected { buffer, source });
        }
        let state = ByReference { pipe, at: range.start, end: range.end, sent: 0 };
        let id = self.insert(InFlight {
            kind: Kind::SendByReference,
            by_reference: Some(state),
            tag,
            buffer,
            file: Arc::clone(socket),
        })?;
        self.hand_over(id);
        Ok(id)
    }

    /// Hands the socket what it takes; asks the ring to say when it takes more, or ends `id`.
    fn hand_over(&mut self, id: OpId) {
        let Some(op) = self.ops.get_mut(id) else { return };
        let InFlight { by_reference: Some(state), buffer: Buffer::Slot(slot), file, .. } = op
        else {
            return;
        };
        let result = state.pipe.send(slot, file, state.at..state.end);
        if let Ok(count) = result {
            state.at += count;
            state.sent += count;
        }
        let (is_done, sent) = (state.at == state.end, state.sent);
        let fd = types::Fd(file.as_raw_fd());
        match result {
            Ok(_) if is_done => self.end_send(id, Ok(sent)),
            Ok(_) | Err(Errno::AGAIN) => {
                if let Err(error) = self.make_room() {
                    return self.end_send(id, Err(error));
                }
                let poll = opcode::PollAdd::new(fd, libc::POLLOUT as u32).build();
                self.push(poll.user_data(id.to_user_data()));
            }
            Err(error) => self.end_send(id, Err(error.into())),
        }
    }

    fn end_send(&mut self, id: OpId, result: io::Result<usize>) {
        let Some(InFlight { tag, buffer, by_reference, .. }) = self.ops.remove(id) else { return };
        // A pipe with bytes in it would put them before those of the next operation.
        self.pipes.extend(by_reference.map(|state| state.pipe).filter(Pipe::is_empty));
        let event = Event::Sent { result, buffer: Some(buffer) };
        self.ended.push_back(Completion { op: id, tag, event });
    }

    fn insert(&mut self, op: InFlight) -> Result<OpId, Rejected> {
        self.ops.insert(op).map_err(|op| Rejected {
            buffer: op.buffer,
            source: io::Error::from_raw_os_error(libc::EBUSY),
        })
    }

    /// Fills `buffer[range]` whole from the (blocking) socket, or as far as the stream goes.
    ///
    /// # Errors
    /// [`Rejected`] with the buffer when the ring is full.
    ///
    /// # Panics
    /// When the range is empty, outside the buffer or above 4 GiB.
    pub fn recv(
        &mut self,
        tag: u64,
        socket: &Arc<OwnedFd>,
        buffer: Buffer,
        range: Range<usize>,
    ) -> Result<OpId, Rejected> {
        self.start(tag, socket, buffer, range, Kind::Recv, |fd, start, len| {
            opcode::Recv::new(fd, start, len).flags(libc::MSG_WAITALL).build()
        })
    }

    fn fixed_index(&self, buffer: &Buffer) -> Option<u16> {
        let (Buffer::Slot(slot), Some(arena)) = (buffer, &self.arena) else { return None };
        if !Arc::ptr_eq(slot.arena(), arena) {
            return None;
        }
        u16::try_from(slot.index()).ok()
    }

    fn start(
        &mut self,
        tag: u64,
        socket: &Arc<OwnedFd>,
        mut buffer: Buffer,
        range: Range<usize>,
        kind: Kind,
        entry: impl FnOnce(types::Fd, *mut u8, u32) -> squeue::Entry,
    ) -> Result<OpId, Rejected> {
        check_range(&buffer, &range);
        let len = u32::try_from(range.len()).expect("an operation is shorter than 4 GiB");
        let start = buffer.start().wrapping_add(range.start);
        let entry = entry(types::Fd(socket.as_raw_fd()), start, len);
        if let Err(source) = self.make_room() {
            return Err(Rejected { buffer, source });
        }
        let file = Arc::clone(socket);
        let id = self.insert(InFlight { kind, by_reference: None, tag, buffer, file })?;
        self.push(entry.user_data(id.to_user_data()));
        Ok(id)
    }

    /// Asks the kernel to end `op` early; its completion tells how far it came.
    pub fn cancel(&mut self, op: OpId) {
        if self.ops.get(op).is_none() || self.make_room().is_err() {
            return;
        }
        self.push(opcode::AsyncCancel::new(op.to_user_data()).build().user_data(CANCEL));
    }

    fn arm_wake(&mut self) -> io::Result<()> {
        self.make_room()?;
        let fd = types::Fd(self.waker.fd().as_raw_fd());
        self.push(
            opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build().user_data(WAKE),
        );
        self.wake_armed = true;
        Ok(())
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        if self.ring.submission().is_full() {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        Ok(())
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: buffer and file of the entry live in `ops` until its last completion (cancel
        // has neither, and the waker's eventfd lives as long as the ring).
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("make_room came first");
    }

    // ---- driving -----------------------------------------------------------------------------

    /// Starts what was queued and lets the kernel finish what is ready. Does not block.
    ///
    /// # Errors
    /// [`RingError::Enter`].
    pub fn submit(&mut self) -> Result<(), RingError> {
        self.rearm()?;
        entered(self.enter())
    }

    fn enter(&mut self) -> io::Result<usize> {
        let queue = self.ring.submission();
        if self.defers_task_work && queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(0);
        }
        drop(queue);
        self.ring.submit()
    }

    /// True when [`Ring::submit`] or [`Ring::next_completion`] has something to do. No system
    /// call: made for spinning.
    pub fn is_ready(&mut self) -> bool {
        self.has_completions() || self.ring.submission().taskrun()
    }

    fn has_completions(&mut self) -> bool {
        !self.ended.is_empty() || !self.ring.completion().is_empty()
    }

    /// Starts what was queued, then sleeps until a completion, a wake-up or `timeout`. Returns at
    /// once when `has_work` (asked after wakers were told that this thread sleeps) is true.
    ///
    /// # Errors
    /// [`RingError::Enter`].
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        has_work: impl FnOnce() -> bool,
    ) -> Result<(), RingError> {
        self.rearm()?;
        self.waker.set_asleep(true);
        let done =
            if has_work() || self.has_completions() { self.enter() } else { self.sleep(timeout) };
        self.waker.set_asleep(false);
        entered(done)
    }

    fn sleep(&self, timeout: Option<Duration>) -> io::Result<usize> {
        let timespec = timeout.map(types::Timespec::from);
        let mut args = types::SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        self.ring.submitter().submit_with_args(1, &args)
    }

    fn rearm(&mut self) -> Result<(), RingError> {
        if self.wake_armed {
            return Ok(());
        }
        self.waker.clear();
        self.arm_wake().map_err(RingError::Enter)
    }

    /// The next thing that happened, or `None`.
    pub fn next_completion(&mut self) -> Option<Completion> {
        loop {
            if let Some(ended) = self.ended.pop_front() {
                return Some(ended);
            }
            let entry = self.ring.completion().next()?;
            match entry.user_data() {
                WAKE => {
                    self.waker.clear();
                    self.wake_armed = cqueue::more(entry.flags());
                }
                CANCEL => {}
                data => {
                    if let Some(done) = self.complete(OpId::from_user_data(data), &entry) {
                        return Some(done);
                    }
                }
            }
        }
    }

    fn complete(&mut self, op: OpId, entry: &cqueue::Entry) -> Option<Completion> {
        let flags = entry.flags();
        if cqueue::notif(flags) {
            let InFlight { tag, buffer, .. } = self.ops.remove(op)?;
            let was_copied = entry.result() as u32 & NOTIF_USAGE_ZC_COPIED != 0;
            return Some(Completion { op, tag, event: Event::Notified { buffer, was_copied } });
        }
        let result = outcome(entry.result());
        if self.ops.get(op)?.kind == Kind::SendByReference {
            match result {
                // The socket takes more, or is broken, which the next attempt tells.
                Ok(_) => self.hand_over(op),
                Err(error) => self.end_send(op, Err(error)),
            }
            return None;
        }
        if cqueue::more(flags) {
            let tag = self.ops.get(op)?.tag;
            return Some(Completion { op, tag, event: Event::Sent { result, buffer: None } });
        }
        let InFlight { tag, buffer, kind, .. } = self.ops.remove(op)?;
        let event = match kind {
            Kind::Recv => Event::Received { result, buffer },
            _ => Event::Sent { result, buffer: Some(buffer) },
        };
        Some(Completion { op, tag, event })
    }

    /// Cancels everything and waits, bounded, for the kernel to let go.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN_MAX;
        let ids: Vec<OpId> = self.ops.ids().collect();
        for id in ids {
            self.cancel(id);
        }
        while self.ops.len() > 0 && Instant::now() < deadline {
            if self.wait(Some(DRAIN_STEP), || false).is_err() {
                return;
            }
            while self.next_completion().is_some() {}
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.drain();
        // Whatever the kernel still holds must never be reused: better lost than overwritten.
        self.ops.leak();
    }
}

fn check_range(buffer: &Buffer, range: &Range<usize>) {
    let bytes = buffer.len();
    assert!(range.start < range.end && range.end <= bytes, "{range:?} of {bytes} bytes");
}

fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Sorts out what only means "come again": a signal, the time-out, completions to be taken
/// first, memory short for a moment.
fn entered(done: io::Result<usize>) -> Result<(), RingError> {
    match done {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(RingError::Enter(error)),
        },
    }
}
