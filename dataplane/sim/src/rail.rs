//! One rail of the simulated network: two pipes, and at each end what a shell keeps per socket.

use std::collections::VecDeque;

use dwcp_wire::{Channel, HEADER_BYTES, PAYLOAD_MAX, RailId, SliceHeader, WireError};

use crate::pipe::{Pipe, PipeShape};

/// Identity of a slice within one direction.
pub(crate) type Key = (Channel, u64);

/// A message being written into a pipe.
struct Outgoing {
    slice: Option<Key>,
    bytes: Vec<u8>,
    written: usize,
}

/// What finished entering the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Link,
    Slice(Key),
}

/// A complete message that came out of a pipe.
pub(crate) struct Frame {
    pub(crate) header: SliceHeader,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndState {
    /// Handshake done on this side at that time.
    Opening(u64),
    Up,
    Down,
}

/// One end of a rail.
pub(crate) struct End {
    pub(crate) state: EndState,
    /// When this end learns that the connection is gone.
    pub(crate) reset_at_ns: Option<u64>,
    current: Option<Outgoing>,
    links: VecDeque<Vec<u8>>,
    slice: Option<(Key, Vec<u8>)>,
    received: Vec<u8>,
}

impl End {
    fn new(up_at_ns: u64) -> Self {
        Self {
            state: EndState::Opening(up_at_ns),
            reset_at_ns: None,
            current: None,
            links: VecDeque::new(),
            slice: None,
            received: Vec::new(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == EndState::Up
    }

    pub(crate) fn queue_link(&mut self, bytes: Vec<u8>) {
        self.links.push_back(bytes);
    }

    /// Link messages that have not entered the pipe completely.
    pub(crate) fn links_waiting(&self) -> usize {
        let current = self.current.as_ref().filter(|message| message.slice.is_none());
        self.links.len() + usize::from(current.is_some())
    }

    /// The slice this end was given and has not written completely.
    pub(crate) fn slice_waiting(&self) -> Option<Key> {
        let current = self.current.as_ref().and_then(|message| message.slice);
        current.or(self.slice.as_ref().map(|(key, _)| *key))
    }

    pub(crate) fn queue_slice(&mut self, key: Key, bytes: Vec<u8>) {
        self.slice = Some((key, bytes));
    }

    pub(crate) fn go_down(&mut self) {
        let (reset_at_ns, state) = (None, EndState::Down);
        *self = Self { state, reset_at_ns, ..Self::new(0) };
    }

    fn next_message(&mut self) -> Option<Outgoing> {
        if let Some(bytes) = self.links.pop_front() {
            return Some(Outgoing { slice: None, bytes, written: 0 });
        }
        let (key, bytes) = self.slice.take()?;
        Some(Outgoing { slice: Some(key), bytes, written: 0 })
    }

    /// Writes into the pipe; returns a message that is complete with this.
    pub(crate) fn write(&mut self, now: u64, pipe: &mut Pipe) -> Option<Written> {
        if self.current.is_none() {
            self.current = self.next_message();
        }
        let message = self.current.as_mut()?;
        message.written += pipe.write(now, &message.bytes[message.written..]);
        if message.written < message.bytes.len() {
            return None;
        }
        let slice = self.current.take()?.slice;
        Some(slice.map_or(Written::Link, Written::Slice))
    }

    /// Takes bytes that came out of the pipe.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The next complete message.
    ///
    /// # Errors
    /// What a shell would close the rail for.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let Some(head) = self.received.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = SliceHeader::decode(head, PAYLOAD_MAX)?;
        let end = HEADER_BYTES + usize::try_from(header.length).unwrap_or(usize::MAX);
        let Some(body) = self.received.get(HEADER_BYTES..end) else { return Ok(None) };
        header.check_body(body)?;
        let body = body.to_vec();
        self.received.drain(..end);
        Ok(Some(Frame { header, body }))
    }
}

/// Two pipes and two ends; index 0 is the source's side, pipe `i` carries what end `i` sends.
pub(crate) struct SimRail {
    pub(crate) id: RailId,
    pub(crate) pipes: [Pipe; 2],
    pub(crate) ends: [End; 2],
}

impl SimRail {
    pub(crate) fn new(id: RailId, shape: PipeShape, up_at_ns: [u64; 2]) -> Self {
        Self { id, pipes: [Pipe::new(shape), Pipe::new(shape)], ends: up_at_ns.map(End::new) }
    }

    /// Whether neither end will ever use it again.
    pub(crate) fn is_gone(&self) -> bool {
        self.ends.iter().all(|end| end.state == EndState::Down)
    }

    /// When something may happen on it next; what lies in the past is due.
    pub(crate) fn next_event(&self) -> Option<u64> {
        let ends = self.ends.iter().flat_map(|end| {
            let opening = match end.state {
                EndState::Opening(at) => Some(at),
                _ => None,
            };
            [opening, end.reset_at_ns.filter(|_| end.state != EndState::Down)]
        });
        let pipes = [0, 1].into_iter().flat_map(|side: usize| {
            let (writer, reader) = (&self.ends[side], &self.ends[1 - side]);
            let pipe = &self.pipes[side];
            let waits = writer.slice_waiting().is_some() || writer.links_waiting() > 0;
            let room = if waits { pipe.more_room_at() } else { None };
            [room, pipe.readable_at().filter(|_| reader.is_up())]
        });
        ends.chain(pipes).flatten().min()
    }
}
