//! The handle that the engine's threads hold.
//!
//! Any thread; `submit` blocks while its mailbox is full, `close` until the session is left.
//! Dropping the last handle ends the poll thread without a goodbye.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use dwcp_hostmem::{favour_current_thread, pin_current_thread};
use dwcp_session::Session;
use dwcp_uring::Waker;
use dwcp_wire::{Channel, RailId, ReasonCode};

use crate::config::RAIL_EVENTS;
use crate::mail::{Inbox, NewRail, Outbox, Request, deliveries_max, mailboxes};
use crate::poll::{Outlets, Poll};
use crate::rail::RailBuffers;
use crate::stats::Published;
use crate::{
    Closed, EndpointConfig, HEADROOM_BYTES, Inbound, NetEvent, NetStats, Outbound, StartError,
    SubmitError,
};

/// Takes a Pages slice in the poll thread; `true` when it is used up. It must not block, and
/// while it works nothing is sent or received: a millisecond is much.
pub type PagesSink = Box<dyn FnMut(&Inbound) -> bool + Send>;

/// One side of a session over TCP. Clones are handles to the same poll thread.
#[derive(Clone)]
pub struct Endpoint(Arc<Handle>);

struct Handle {
    outbox: Option<Outbox>,
    waker: Waker,
    published: Arc<Published>,
    config: EndpointConfig,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Endpoint {
    /// Starts the poll thread. It has no connection yet: see [`Endpoint::add_rail`].
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: EndpointConfig) -> Result<(Self, Receiver<NetEvent>), StartError> {
        Self::launch(config, None)
    }

    /// Like [`Endpoint::start`], with a consumer of Pages slices that runs in the poll thread:
    /// the bytes still lie in its core's cache, and no other thread has to be woken. What the
    /// sink has used up is consumed; what it declines goes the usual way, as an event.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_with_sink(
        config: EndpointConfig,
        sink: PagesSink,
    ) -> Result<(Self, Receiver<NetEvent>), StartError> {
        Self::launch(config, Some(sink))
    }

    fn launch(
        config: EndpointConfig,
        sink: Option<PagesSink>,
    ) -> Result<(Self, Receiver<NetEvent>), StartError> {
        check_arena(&config)?;
        let session = Session::new(config.session.clone())?;
        let window_in = config.session.window_in_slices;
        let (outbox, inbox) = mailboxes(window_in);
        let (event_in, event_out) = bounded(deliveries_max(window_in) + RAIL_EVENTS);
        let published = Arc::new(Published::default());
        let (started_in, started_out) = bounded(1);
        let outlets = Outlets { events: event_in, sink, published: Arc::clone(&published) };
        let parts = (config.clone(), session, inbox, outlets);
        let thread = std::thread::Builder::new()
            .name(config.label.clone())
            .spawn(move || poll_thread(parts, &started_in))
            .map_err(StartError::Thread)?;
        let gone = || StartError::Thread(std::io::Error::other("the poll thread died"));
        let waker = started_out.recv().map_err(|_| gone())??;
        let thread = Mutex::new(Some(thread));
        let handle = Handle { outbox: Some(outbox), waker, published, config, thread };
        Ok((Self(Arc::new(handle)), event_out))
    }

    /// Gives the session a connection whose handshake is done. When the session does not take it
    /// (number in use, too many), a `RailDown` says so.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn add_rail(&self, stream: TcpStream, id: RailId) -> Result<(), Closed> {
        let peer = stream.peer_addr().ok();
        let socket = OwnedFd::from(stream);
        let timeout_ms = self.0.config.user_timeout.as_millis().try_into().unwrap_or(u32::MAX);
        // A connection that refuses these is broken, and its first operation will say so.
        let _ = rustix::io::ioctl_fionbio(&socket, false);
        let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&socket, timeout_ms);
        let buffers = RailBuffers::new();
        let rail = NewRail { id, socket: Arc::new(socket), peer, buffers };
        self.0.outbox().rails.send(rail).map_err(|_| Closed)?;
        self.0.waker.wake();
        Ok(())
    }

    /// Queues a slice; blocks while the mailbox of its channel is full. Writes header and
    /// checksum on the calling thread. Numbers must be submitted as the session demands: in
    /// order on Control and Skeleton.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn submit(&self, slice: Outbound) -> Result<(), SubmitError> {
        let EndpointConfig { job_tag, epoch, payload_max_out, .. } = self.0.config;
        let prepared = slice.prepare(job_tag, epoch, payload_max_out)?;
        let channel = prepared.channel;
        let index = channel.index().ok_or(SubmitError::Link)?;
        let sent = self.0.outbox().slices[index].send(prepared);
        sent.map_err(|_| SubmitError::Closed)?;
        // While others wait to be sent, whatever lets them go will find this one as well.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if channel == Channel::Control || self.0.published.is_hungry() {
            self.0.waker.wake();
        }
        Ok(())
    }

    /// Says that a delivered slice is used up: it will be acked. Drop its body first, then its
    /// slot is free when the peer sends the next slice.
    pub fn consumed(&self, channel: Channel, seq: u64) {
        // Fails only when the poll thread is gone, and then nobody waits for the ack.
        let consumed = &self.0.outbox().consumed;
        let _ = consumed.send((channel, seq));
        // An ack goes out for several slices; the loop need not run for each. The last one the
        // engine has always wakes it.
        let is_last = self.0.published.on_consumed() == 0;
        let ack_every = self.0.config.session.ack_every_slices as usize;
        if is_last || channel == Channel::Control || consumed.len() >= ack_every {
            self.0.waker.wake();
        }
    }

    /// Every slice of the channel below this number is acked by the peer.
    #[must_use]
    pub fn acked_below(&self, channel: Channel) -> u64 {
        self.0.published.acked_below(channel)
    }

    /// Slices and body bytes that the poll thread has taken and the peer has not acked. Slices
    /// still in a mailbox are not among them.
    #[must_use]
    pub fn unacked(&self) -> (u64, u64) {
        let stats = self.0.published.read();
        (stats.unacked_slices, stats.unacked_bytes)
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        self.0.published.read()
    }

    /// Changes the ceiling, in wire bytes per second; `Some(0)` pauses everything but Control.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn set_rate(&self, bytes_per_s: Option<u64>) -> Result<(), Closed> {
        self.request(Request::SetRate(bytes_per_s))
    }

    /// Waits up to `drain_max` until the peer has acked everything submitted so far, says goodbye
    /// with `code`, closes every connection and ends the poll thread. `true` when nothing was
    /// left unacked. Later calls return at once.
    pub fn close(&self, code: ReasonCode, drain_max: Duration) -> bool {
        let _ = self.request(Request::Close { code, drain_max });
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic there is a bug that was reported on its own thread.
            let _ = thread.join();
        }
        self.unacked().0 == 0
    }

    fn request(&self, request: Request) -> Result<(), Closed> {
        self.0.outbox().requests.send(request).map_err(|_| Closed)?;
        self.0.waker.wake();
        Ok(())
    }
}

impl Handle {
    fn outbox(&self) -> &Outbox {
        self.outbox.as_ref().expect("taken in drop only")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.outbox = None;
        self.published.abandon();
        self.waker.wake();
    }
}

type Parts = (EndpointConfig, Session, Inbox, Outlets);

fn poll_thread(parts: Parts, started: &Sender<Result<Waker, StartError>>) {
    let (config, session, inbox, outlets) = parts;
    favour_current_thread();
    let pinned = config.core.map_or(Ok(()), pin_current_thread).map_err(StartError::Pin);
    let poll = pinned.and_then(|()| Poll::new(config, session, inbox, outlets));
    match poll {
        Ok(poll) => {
            let _ = started.send(Ok(poll.waker()));
            poll.run();
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

fn check_arena(config: &EndpointConfig) -> Result<(), StartError> {
    let needed_slots = config.session.window_in_slices as usize;
    let needed_bytes = HEADROOM_BYTES + config.session.payload_max as usize;
    let (slots, slot_bytes) = (config.arena.slots(), config.arena.slot_bytes());
    if slots < needed_slots || slot_bytes < needed_bytes {
        return Err(StartError::Arena { slots, slot_bytes, needed_slots, needed_bytes });
    }
    Ok(())
}
