//! Sending: one slice or link message at a time per rail.

use std::io;

use dwcp_uring::{Buffer, OpId, SendMode};
use dwcp_wire::{LinkMessage, RailId};

use super::{Outgoing, Poll};
use crate::DownReason;
use crate::rail::{LINK_FRAME_BYTES, LinkFrame, Tx, ZeroCopyState};
use crate::table::Key;

impl Poll {
    pub(super) fn post_slice(&mut self, rail: RailId, key: Key) {
        let Some(index) = self.rail_index(rail) else { return };
        if let Some(rail) = self.rail_mut(index) {
            rail.slice_next = Some(key);
        }
        self.feed(index);
    }

    pub(super) fn post_link(&mut self, rail: RailId, message: &LinkMessage) {
        if let Some(index) = self.rail_index(rail) {
            self.queue_link(index, message);
            self.feed(index);
        }
    }

    pub(super) fn queue_link(&mut self, index: usize, message: &LinkMessage) {
        let (job_tag, epoch) = (self.config.job_tag, self.config.epoch);
        let Some(rail) = self.rail_mut(index).filter(|rail| rail.is_live()) else { return };
        // The session queues fewer than there are buffers; a goodbye comes once.
        let mut bytes = rail.link_free.pop().expect("a free link buffer");
        let frame: &mut [u8; LINK_FRAME_BYTES] =
            bytes.as_mut_slice().try_into().expect("link buffers have one size");
        let len = message.encode_framed(job_tag, epoch, frame);
        let is_goodbye = matches!(message, LinkMessage::Goodbye { .. });
        rail.links.push_back(LinkFrame { bytes, len, is_goodbye });
    }

    /// Starts the next send of a rail that is free.
    pub(super) fn feed(&mut self, index: usize) {
        let Some(rail) = self.rail_mut(index) else { return };
        if !rail.is_live() || rail.tx != Tx::Idle {
            return;
        }
        if let Some(frame) = rail.links.pop_front() {
            self.send_link(index, frame);
        } else if let Some(key) = rail.slice_next.take() {
            self.send_slice(index, key);
        }
    }

    fn send_link(&mut self, index: usize, frame: LinkFrame) {
        let LinkFrame { bytes, len, is_goodbye } = frame;
        let Some(rail) = self.rails[index].as_mut() else { return };
        let sent =
            self.ring.send(index as u64, &rail.socket, Buffer::Heap(bytes), 0..len, SendMode::Copy);
        match sent {
            Ok(op) => rail.tx = Tx::Link { len, is_goodbye, op },
            Err(rejected) => self.close_rail(index, DownReason::Io(rejected.source)),
        }
    }

    fn send_slice(&mut self, index: usize, key: Key) {
        let Some(rail) = self.rails[index].as_mut() else { return };
        let outgoing = self.outgoing.get_mut(key).expect("a posted slice is here");
        let buffer = outgoing.buffer.take().expect("a slice is sent on one rail at a time");
        let wire = outgoing.wire.clone();
        let len = wire.len();
        let mode = rail.send_mode(&buffer, len, self.config.by_reference);
        match self.ring.send(index as u64, &rail.socket, buffer, wire, mode) {
            Ok(op) => {
                rail.tx = Tx::Slice { key, len, op };
                if mode == SendMode::ZeroCopy && rail.zero_copy == ZeroCopyState::ToProbe {
                    rail.zero_copy = ZeroCopyState::Probing;
                }
            }
            Err(rejected) => {
                outgoing.buffer = Some(rejected.buffer);
                self.close_rail(index, DownReason::Io(rejected.source));
            }
        }
    }

    pub(super) fn on_sent(
        &mut self,
        index: usize,
        result: io::Result<usize>,
        buffer: Option<Buffer>,
    ) {
        let Some(rail) = self.rails.get_mut(index).and_then(Option::as_mut) else { return };
        if let Ok(bytes) = result {
            self.stats.tx_bytes += bytes as u64;
        }
        let expected = match std::mem::replace(&mut rail.tx, Tx::Idle) {
            Tx::Idle => return,
            Tx::Link { len, is_goodbye, .. } => {
                if let Some(Buffer::Heap(bytes)) = buffer {
                    rail.link_free.push(bytes);
                }
                if matches!(result, Ok(sent) if sent == len) {
                    self.on_link_sent(index, is_goodbye);
                }
                len
            }
            Tx::Slice { key, len, op } => {
                match buffer {
                    Some(buffer) => self.take_back(key, buffer),
                    None => rail.unnotified.push((op, key)),
                }
                if matches!(result, Ok(sent) if sent == len) {
                    self.on_slice_sent(index, key);
                }
                len
            }
        };
        match result {
            Err(error) => self.close_rail(index, DownReason::Io(error)),
            Ok(received) if received < expected => {
                self.close_rail(index, DownReason::CutShort { received, expected });
            }
            Ok(_) => self.feed(index),
        }
    }

    fn on_slice_sent(&mut self, index: usize, (channel, seq): Key) {
        let Some(rail) = self.rail_mut(index) else { return };
        let id = rail.id;
        self.session.slice_sent(id, channel, seq);
    }

    fn on_link_sent(&mut self, index: usize, is_goodbye: bool) {
        let Some(rail) = self.rail_mut(index) else { return };
        let id = rail.id;
        if is_goodbye {
            // Whatever comes of it, the peer's end of stream or the deadline ends the rail.
            let _ = rustix::net::shutdown(&rail.socket, rustix::net::Shutdown::Write);
        } else {
            self.session.link_sent(id);
        }
    }

    pub(super) fn on_notified(&mut self, index: usize, op: OpId, buffer: Buffer, was_copied: bool) {
        let Some(rail) = self.rails.get_mut(index).and_then(Option::as_mut) else { return };
        let Some(at) = rail.unnotified.iter().position(|(known, _)| *known == op) else { return };
        let (_, key) = rail.unnotified.swap_remove(at);
        if was_copied {
            rail.zero_copy = ZeroCopyState::Off;
        } else {
            self.stats.zero_copy_sends += 1;
            if rail.zero_copy == ZeroCopyState::Probing {
                rail.zero_copy = ZeroCopyState::On;
            }
        }
        self.take_back(key, buffer);
    }

    /// The kernel has let go of a slice's buffer.
    fn take_back(&mut self, key: Key, buffer: Buffer) {
        let outgoing = self.outgoing.get_mut(key).expect("a slice in flight is here");
        if outgoing.is_released {
            self.outgoing.remove(key);
        } else {
            outgoing.buffer = Some(buffer);
        }
    }

    /// The peer has consumed a slice: its buffer goes, at once or when the kernel lets go.
    pub(super) fn release(&mut self, key: Key) {
        let outgoing: &mut Outgoing =
            self.outgoing.get_mut(key).expect("the session releases what was submitted");
        if outgoing.buffer.is_some() {
            self.outgoing.remove(key);
        } else {
            outgoing.is_released = true;
        }
    }
}
