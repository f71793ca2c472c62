//! Rails come, are watched, and go.
//!
//! A rail that dies is first stripped of its operations; only when the kernel has let go of all
//! its buffers does the session hear of it and send its slices elsewhere.

use std::time::Duration;

use dwcp_uring::tcp_info;
use dwcp_wire::RailId;

use super::{Phase, Poll, nanos};
use crate::config::PROGRESS_INTERVAL;
use crate::mail::NewRail;
use crate::rail::Rail;
use crate::{DownReason, NetEvent};

impl Poll {
    pub(super) fn rail_mut(&mut self, index: usize) -> Option<&mut Rail> {
        self.rails.get_mut(index)?.as_mut()
    }

    pub(super) fn rail_index(&self, id: RailId) -> Option<usize> {
        let is_it = |rail: &Option<Rail>| rail.as_ref().is_some_and(|r| r.is_known && r.id == id);
        self.rails.iter().position(is_it)
    }

    pub(super) fn add_rail(&mut self, new: NewRail) {
        let rail = Rail::new(new, self.config.zero_copy);
        let (id, peer) = (rail.id, rail.peer);
        if self.phase != Phase::Running {
            return self.tell(NetEvent::RailDown { rail: id, reason: DownReason::Closing });
        }
        if let Err(error) = self.session.rail_up(self.now, id) {
            let reason = DownReason::Refused(error);
            return self.tell(NetEvent::RailDown { rail: id, reason });
        }
        let index = self.place(rail);
        self.tell(NetEvent::RailUp { rail: id, peer });
        self.receive_header(index);
    }

    fn place(&mut self, mut rail: Rail) -> usize {
        rail.is_known = true;
        match self.rails.iter().position(Option::is_none) {
            Some(index) => {
                self.rails[index] = Some(rail);
                index
            }
            None => {
                self.rails.push(Some(rail));
                self.rails.len() - 1
            }
        }
    }

    /// Begins the end of a rail; the first reason stays.
    pub(super) fn close_rail(&mut self, index: usize, reason: DownReason) {
        let Some(rail) = self.rail_mut(index) else { return };
        if rail.down.is_some() {
            return;
        }
        rail.down = Some(reason);
        // Wakes operations that wait; what is queued in the socket must not linger and reach the
        // peer after its slices went another way.
        let _ = rustix::net::sockopt::set_socket_linger(&rail.socket, Some(Duration::ZERO));
        let _ = rustix::net::shutdown(&rail.socket, rustix::net::Shutdown::Both);
        for op in rail.cancellable().into_iter().flatten() {
            self.ring.cancel(op);
        }
        self.stop_waiting(index);
        self.finish_if_idle(index);
    }

    /// Ends a dying rail when the kernel has let go of its buffers.
    pub(super) fn finish_if_idle(&mut self, index: usize) {
        let is_done = |rail: &mut Rail| !rail.is_live() && !rail.has_operations();
        if !self.rail_mut(index).is_some_and(is_done) {
            return;
        }
        let Some(Rail { id, down: Some(reason), .. }) = self.rails[index].take() else { return };
        self.session.rail_down(id);
        self.tell(NetEvent::RailDown { rail: id, reason });
        if self.rails.iter().all(Option::is_none) {
            self.tell(NetEvent::AllRailsDown);
        }
    }

    /// Asks the kernel now and then whether bytes move on each connection: a slice may take
    /// longer than the session's patience, and moving bytes are a sign of life.
    pub(super) fn check_progress(&mut self) {
        if self.now < self.progress_due {
            return;
        }
        self.progress_due = self.now.saturating_add(nanos(PROGRESS_INTERVAL));
        for rail in self.rails.iter_mut().flatten().filter(|rail| rail.is_live()) {
            let Ok(info) = tcp_info(&rail.socket) else { continue };
            let moved = info.acked_bytes.wrapping_add(info.received_bytes);
            if moved != rail.progress_bytes {
                rail.progress_bytes = moved;
                self.session.bytes_received(self.now, rail.id);
            }
        }
    }

    /// Breaks every connection that is left; the ring's drop waits for the kernel.
    pub(super) fn abort_rails(&mut self) {
        for rail in self.rails.iter().flatten() {
            let _ = rustix::net::sockopt::set_socket_linger(&rail.socket, Some(Duration::ZERO));
            let _ = rustix::net::shutdown(&rail.socket, rustix::net::Shutdown::Both);
        }
    }
}
