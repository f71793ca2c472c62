//! Receiving: a header, then the body it announced, then the next header.
//!
//! Everything here is the peer's word: each field is checked before it is used, and what is
//! wrong closes the rail it came by.

use std::io;

use dwcp_session::{CloseReason, Receipt};
use dwcp_uring::Buffer;
use dwcp_wire::{Channel, HEADER_BYTES, LinkMessage, ReasonCode, SliceHeader};

use super::{Incoming, Poll};
use crate::rail::Rx;
use crate::slice::{Body, HEADROOM_BYTES, Inbound};
use crate::{DownReason, NetEvent, checksum};

impl Poll {
    /// Waits for the next header on a rail.
    pub(super) fn receive_header(&mut self, index: usize) {
        let Some(rail) = self.rails[index].as_mut().filter(|rail| rail.is_live()) else { return };
        let buffer = Buffer::Heap(rail.header.take().expect("the header buffer is back"));
        match self.ring.recv(index as u64, &rail.socket, buffer, 0..HEADER_BYTES) {
            Ok(op) => rail.rx = Rx::Header { op },
            Err(rejected) => self.close_rail(index, DownReason::Io(rejected.source)),
        }
    }

    pub(super) fn on_received(&mut self, index: usize, result: io::Result<usize>, buffer: Buffer) {
        let Some(rail) = self.rails.get_mut(index).and_then(Option::as_mut) else { return };
        let id = rail.id;
        let was = std::mem::replace(&mut rail.rx, Rx::Idle);
        if !rail.is_live() {
            return;
        }
        let expected = match was {
            Rx::Header { .. } => HEADER_BYTES,
            Rx::Link { header, .. } | Rx::Body { header, .. } => header.length as usize,
            Rx::NeedsSlot { .. } | Rx::Idle => return,
        };
        let received = match result {
            Ok(received) => received,
            Err(error) => return self.close_rail(index, DownReason::Io(error)),
        };
        self.stats.rx_bytes += received as u64;
        if received < expected {
            return self.close_rail(index, ended(&was, received, expected));
        }
        self.session.bytes_received(self.now, id);
        match was {
            Rx::Header { .. } => self.on_header(index, buffer),
            Rx::Link { header, .. } => self.on_link(index, &header, buffer),
            Rx::Body { header, .. } => self.on_body(index, &header, buffer),
            Rx::NeedsSlot { .. } | Rx::Idle => {}
        }
    }

    fn on_header(&mut self, index: usize, buffer: Buffer) {
        let payload_max = self.config.session.payload_max;
        let decoded = match buffer.first_chunk::<HEADER_BYTES>() {
            Some(bytes) => SliceHeader::decode(bytes, payload_max),
            None => return,
        };
        if let (Some(rail), Buffer::Heap(bytes)) = (self.rail_mut(index), buffer) {
            rail.header = Some(bytes);
        }
        let checked = decoded.and_then(|header| {
            header.check_session(self.config.job_tag, self.config.epoch).map(|()| header)
        });
        match checked {
            Err(error) => self.close_rail(index, DownReason::Wire(error)),
            Ok(header) if header.channel == Channel::Link => self.receive_link(index, header),
            Ok(header) => self.receive_body(index, header),
        }
    }

    fn receive_link(&mut self, index: usize, header: SliceHeader) {
        let Some(rail) = self.rails[index].as_mut().filter(|rail| rail.is_live()) else { return };
        let bytes = rail.link.take().expect("the link buffer is back");
        let len = header.length as usize;
        if len == 0 {
            // Its decoder says what is missing.
            return self.on_link(index, &header, Buffer::Heap(bytes));
        }
        match self.ring.recv(index as u64, &rail.socket, Buffer::Heap(bytes), 0..len) {
            Ok(op) => rail.rx = Rx::Link { header, op },
            Err(rejected) => self.close_rail(index, DownReason::Io(rejected.source)),
        }
    }

    fn receive_body(&mut self, index: usize, header: SliceHeader) {
        let SliceHeader { channel, seq, length, flags, .. } = header;
        if let Receipt::Violation(violation) = self.session.inspect(channel, seq.0, length, flags) {
            let reason = CloseReason::Violation(violation);
            self.stats.violations += 1;
            return self.close_rail(index, DownReason::Session(reason));
        }
        if length == 0 {
            return self.on_body(index, &header, Buffer::Heap(Vec::new()));
        }
        let buffer = if channel == Channel::Control {
            Some(Buffer::Heap(vec![0; length as usize]))
        } else {
            self.config.arena.take().map(Buffer::Slot)
        };
        match buffer {
            Some(buffer) => self.receive_into(index, header, buffer),
            None => self.wait_for_slot(index, header),
        }
    }

    fn receive_into(&mut self, index: usize, header: SliceHeader, buffer: Buffer) {
        let Some(rail) = self.rails[index].as_mut().filter(|rail| rail.is_live()) else { return };
        let start = body_start(&buffer);
        let range = start..start + header.length as usize;
        match self.ring.recv(index as u64, &rail.socket, buffer, range) {
            Ok(op) => rail.rx = Rx::Body { header, op },
            Err(rejected) => self.close_rail(index, DownReason::Io(rejected.source)),
        }
    }

    fn wait_for_slot(&mut self, index: usize, header: SliceHeader) {
        self.stats.slot_waits += 1;
        self.slot_waiters += 1;
        if let Some(rail) = self.rail_mut(index) {
            rail.rx = Rx::NeedsSlot { header };
        }
    }

    /// Gives rails that wait for a slot another chance.
    pub(super) fn retry_slots(&mut self) {
        for index in 0..self.rails.len() {
            if self.slot_waiters == 0 {
                return;
            }
            let waits = self.rail_mut(index).is_some_and(|r| matches!(r.rx, Rx::NeedsSlot { .. }));
            if !waits {
                continue;
            }
            let Some(slot) = self.config.arena.take() else { return };
            if let Some(header) = self.stop_waiting(index) {
                self.receive_into(index, header, Buffer::Slot(slot));
            }
        }
    }

    /// Takes the header off a rail that waits for a slot.
    pub(super) fn stop_waiting(&mut self, index: usize) -> Option<SliceHeader> {
        let rail = self.rail_mut(index)?;
        let Rx::NeedsSlot { header } = rail.rx else { return None };
        rail.rx = Rx::Idle;
        self.slot_waiters -= 1;
        Some(header)
    }

    fn on_link(&mut self, index: usize, header: &SliceHeader, buffer: Buffer) {
        let body = &buffer[..header.length as usize];
        let decoded = header.check_body(body).and_then(|()| LinkMessage::decode(body));
        let Some(rail) = self.rail_mut(index) else { return };
        let id = rail.id;
        if let Buffer::Heap(bytes) = buffer {
            rail.link = Some(bytes);
        }
        let message = match decoded {
            Ok(message) => message,
            Err(error) => return self.close_rail(index, DownReason::Wire(error)),
        };
        match self.session.link_received(self.now, id, &message) {
            Ok(Some(code)) => self.on_goodbye(index, code),
            Ok(None) => self.receive_header(index),
            Err(violation) => {
                let reason = CloseReason::Violation(violation);
                self.close_rail(index, DownReason::Session(reason));
            }
        }
    }

    fn on_goodbye(&mut self, index: usize, code: ReasonCode) {
        if !self.goodbye_heard {
            self.goodbye_heard = true;
            self.tell(NetEvent::PeerGoodbye { code });
        }
        self.close_rail(index, DownReason::Goodbye(code));
    }

    fn on_body(&mut self, index: usize, header: &SliceHeader, buffer: Buffer) {
        let Some(rail) = self.rail_mut(index) else { return };
        let id = rail.id;
        let SliceHeader { channel, flags, length, .. } = *header;
        let seq = header.seq.0;
        let start = body_start(&buffer);
        let range = start..start + length as usize;
        if let Err(error) = checksum::verify(header, &buffer[range.clone()]) {
            return self.close_rail(index, DownReason::Wire(error));
        }
        match self.session.slice_received(self.now, id, channel, seq, length, flags) {
            Receipt::Accepted => {
                let body = match buffer {
                    Buffer::Slot(slot) => Body::Slot { slot, range },
                    Buffer::Heap(bytes) => Body::Small(bytes),
                };
                let generation = header.generation.0;
                let slice = Inbound { channel, seq, generation, flags, body };
                self.incoming.insert((channel, seq), Incoming::Held(slice));
            }
            Receipt::Duplicate => {}
            // The session asks for the rail's end itself.
            Receipt::Violation(_) => return,
        }
        self.receive_header(index);
    }
}

fn body_start(buffer: &Buffer) -> usize {
    match buffer {
        Buffer::Slot(_) => HEADROOM_BYTES,
        Buffer::Heap(_) => 0,
    }
}

fn ended(was: &Rx, received: usize, expected: usize) -> DownReason {
    match (was, received) {
        (Rx::Header { .. }, 0) => DownReason::ClosedByPeer,
        _ => DownReason::CutShort { received, expected },
    }
}
