//! The operations in flight, each with the buffer and the file it uses.
//!
//! A table of fixed size with numbered places. A number carries a generation, so that a late
//! cancel cannot hit the next user of the place.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::Buffer;
use crate::by_reference::Pipe;

/// Names one operation; good for [`crate::Ring::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl OpId {
    pub(crate) fn to_user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_user_data(data: u64) -> Self {
        Self { index: data as u32, generation: (data >> 32) as u32 }
    }
}

/// What the ring has to say about one operation.
#[derive(Debug)]
pub struct Completion {
    /// The operation.
    pub op: OpId,
    /// What the caller gave with it.
    pub tag: u64,
    /// What happened.
    pub event: Event,
}

/// Outcome of an operation.
#[derive(Debug)]
pub enum Event {
    /// A send ended.
    Sent {
        /// Bytes handed to the socket; fewer than asked for when the connection broke.
        result: io::Result<usize>,
        /// The buffer, or `None` while the kernel still reads it: then `Notified` follows.
        buffer: Option<Buffer>,
    },
    /// The kernel has let go of a zero-copy send's buffer. Last event of the operation.
    Notified {
        /// The buffer.
        buffer: Buffer,
        /// The bytes were copied after all: this path gains nothing from zero-copy.
        was_copied: bool,
    },
    /// A receive ended.
    Received {
        /// Bytes received; fewer than asked for at the end of the stream.
        result: io::Result<usize>,
        /// The buffer.
        buffer: Buffer,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Send,
    SendZeroCopy,
    /// Handed over by this thread, piece by piece; the ring only waits for the socket.
    SendByReference,
    Recv,
}

/// Where a send by reference stands.
#[derive(Debug)]
pub(crate) struct ByReference {
    pub(crate) pipe: Pipe,
    /// First byte that was not handed over.
    pub(crate) at: usize,
    /// End of the bytes.
    pub(crate) end: usize,
    /// Bytes handed over.
    pub(crate) sent: usize,
}

#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) kind: Kind,
    pub(crate) by_reference: Option<ByReference>,
    pub(crate) tag: u64,
    pub(crate) buffer: Buffer,
    /// Keeps the descriptor's number from being reused before the kernel has looked it up.
    pub(crate) file: Arc<OwnedFd>,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    op: Option<InFlight>,
}

#[derive(Debug)]
pub(crate) struct OpTable {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl OpTable {
    pub(crate) fn new(ops_max: u32) -> Self {
        Self {
            places: (0..ops_max).map(|_| Place { generation: 0, op: None }).collect(),
            free: (0..ops_max).rev().collect(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Keeps `op`, or gives it back when the table is full.
    pub(crate) fn insert(&mut self, op: InFlight) -> Result<OpId, InFlight> {
        let Some(index) = self.free.pop() else { return Err(op) };
        let place = &mut self.places[index as usize];
        place.op = Some(op);
        Ok(OpId { index, generation: place.generation })
    }

    pub(crate) fn get(&self, id: OpId) -> Option<&InFlight> {
        let place = self.places.get(id.index as usize)?;
        place.op.as_ref().filter(|_| place.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: OpId) -> Option<&mut InFlight> {
        let place = self.places.get_mut(id.index as usize)?;
        place.op.as_mut().filter(|_| place.generation == id.generation)
    }

    pub(crate) fn remove(&mut self, id: OpId) -> Option<InFlight> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.generation != id.generation {
            return None;
        }
        let op = place.op.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(op)
    }

    /// The operations in flight.
    pub(crate) fn ids(&self) -> impl Iterator<Item = OpId> {
        let places = self.places.iter().enumerate();
        places
            .filter(|(_, place)| place.op.is_some())
            .map(|(index, place)| OpId { index: index as u32, generation: place.generation })
    }

    /// Gives up ownership of every buffer left, without freeing it.
    pub(crate) fn leak(&mut self) {
        for place in &mut self.places {
            std::mem::forget(place.op.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op() -> InFlight {
        let file = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        InFlight {
            kind: Kind::Send,
            by_reference: None,
            tag: 1,
            buffer: Buffer::Heap(vec![0; 8]),
            file: Arc::new(file),
        }
    }

    #[test]
    fn a_reused_place_has_another_name() {
        let mut table = OpTable::new(1);
        let first = table.insert(op()).unwrap();
        assert!(table.insert(op()).is_err());
        assert!(table.remove(first).is_some());
        let second = table.insert(op()).unwrap();
        assert_ne!(first, second);
        assert!(table.remove(first).is_none() && table.get(first).is_none());
        assert_eq!(OpId::from_user_data(second.to_user_data()), second);
        assert_eq!((table.len(), table.ids().collect::<Vec<_>>()), (1, vec![second]));
    }
}
