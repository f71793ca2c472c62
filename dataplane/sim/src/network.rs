//! The network between two shells: rails, what moves on them, and what goes wrong with them.
//!
//! Time and chance come in; it calls the shells as a poll loop would.

use dwcp_session::Session;
use dwcp_wire::{LinkMessage, RailId};

use crate::endpoint::{EPOCH, JOB_TAG, link_bytes};
use crate::pipe::PipeShape;
use crate::rail::{EndState, Frame, Key, SimRail, Written};
use crate::{Broken, Rng};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Link messages the session may have handed to a rail.
const LINK_QUEUE_MAX: usize = 4;
/// Rails at a time.
pub(crate) const RAILS_MAX: usize = 8;
/// Rate of every pipe once the network is good.
const GOOD_RATE_BYTES_PER_S: u64 = 100_000_000;

/// One side of the network, as the network sees it.
pub(crate) trait Shell {
    /// Its session.
    fn session(&mut self) -> &mut Session;
    /// A complete message came in.
    fn receive(&mut self, now: u64, rail: RailId, frame: Frame) -> Result<(), Broken>;
    /// A rail is gone; nothing of it is in use any more.
    fn rail_lost(&mut self, rail: RailId);
}

/// What can happen to a rail.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RailFault {
    /// The connection dies; each end hears of it after its delay, or never.
    Kill {
        notice_ns: [Option<u64>; 2],
    },
    KillAll,
    Freeze {
        pipe: usize,
        for_ns: u64,
    },
    SlowDown {
        divisor: u64,
    },
    Damage {
        pipe: usize,
    },
    /// Bytes go in and never come out.
    Swallow {
        pipe: usize,
    },
    Join,
}

impl RailFault {
    pub(crate) fn any(rng: &mut Rng) -> Self {
        let pipe = rng.index(2);
        match rng.between(0, 12) {
            0..=3 => {
                let mut notice = || rng.chance(85).then(|| rng.log_between(US, 300 * MS));
                Self::Kill { notice_ns: [notice(), notice()] }
            }
            4 => Self::KillAll,
            5 | 6 => Self::Freeze { pipe, for_ns: rng.log_between(MS, 2_000 * MS) },
            7 => Self::SlowDown { divisor: rng.log_between(2, 1_000) },
            8 | 9 => Self::Damage { pipe },
            10 => Self::Swallow { pipe },
            _ => Self::Join,
        }
    }
}

/// Counters of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NetworkCounters {
    pub(crate) rails_lost: u64,
    pub(crate) damage_found: u64,
    pub(crate) outages: u64,
}

/// The rails between side 0 and side 1.
pub(crate) struct Network {
    pub(crate) rails: Vec<SimRail>,
    /// Rails that will come, by time.
    joins: Vec<u64>,
    next_rail: u16,
    shape: fn(&mut Rng) -> PipeShape,
    pub(crate) is_healed: bool,
    /// No rail can be opened.
    pub(crate) is_partitioned: bool,
    rng: Rng,
    pub(crate) counters: NetworkCounters,
    pub(crate) is_told: bool,
}

impl Network {
    pub(crate) fn new(rng: Rng, shape: fn(&mut Rng) -> PipeShape, is_told: bool) -> Self {
        Self {
            rails: Vec::new(),
            joins: Vec::new(),
            next_rail: 0,
            shape,
            is_healed: false,
            is_partitioned: false,
            rng,
            counters: NetworkCounters::default(),
            is_told,
        }
    }

    pub(crate) fn tell(&self, now: u64, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{:>12} us  {}", now / US, what());
        }
    }

    /// A rail is opened; its two ends come up one after the other.
    pub(crate) fn join(&mut self, now: u64) {
        let shape = (self.shape)(&mut self.rng);
        let handshake_ns = shape.delay_ns + self.rng.between(0, MS);
        let up_at_ns = [now + 2 * handshake_ns, now + handshake_ns];
        let id = RailId(self.next_rail);
        self.next_rail = self.next_rail.wrapping_add(1);
        self.rails.push(SimRail::new(id, shape, up_at_ns));
        if self.is_healed {
            self.speed_up();
        }
        self.tell(now, || format!("rail {id} joins: {shape:?}"));
    }

    /// Opens the rails whose time has come; whether there was one.
    pub(crate) fn open_due(&mut self, now: u64) -> bool {
        let before = self.joins.len();
        self.joins.retain(|at| *at > now);
        let due = before - self.joins.len();
        for _ in 0..due {
            if self.rails.len() < RAILS_MAX && !self.is_partitioned {
                self.join(now);
            }
        }
        due > 0
    }

    pub(crate) fn join_at(&mut self, at: u64) {
        self.joins.push(at);
    }

    /// Whether there is no rail, and none will come.
    pub(crate) fn is_idle(&self) -> bool {
        self.rails.is_empty() && self.joins.is_empty()
    }

    /// When something may happen next; what lies in the past is due.
    pub(crate) fn next_event(&self) -> Option<u64> {
        let rails = self.rails.iter().filter_map(SimRail::next_event);
        rails.chain(self.joins.iter().copied()).min()
    }

    /// Moves what can move on one side; whether anything did.
    pub(crate) fn move_side(
        &mut self,
        now: u64,
        side: usize,
        shell: &mut dyn Shell,
    ) -> Result<bool, Broken> {
        let mut moved = false;
        for index in 0..self.rails.len() {
            moved |= self.open(now, index, side, shell)?;
            moved |= self.reset(now, index, side, shell);
            moved |= self.write(now, index, side, shell);
            moved |= self.read(now, index, side, shell)?;
        }
        self.rails.retain(|rail| !rail.is_gone());
        Ok(moved)
    }

    fn open(
        &mut self,
        now: u64,
        index: usize,
        side: usize,
        shell: &mut dyn Shell,
    ) -> Result<bool, Broken> {
        let rail = &mut self.rails[index];
        let EndState::Opening(at) = rail.ends[side].state else { return Ok(false) };
        if at > now {
            return Ok(false);
        }
        rail.ends[side].state = EndState::Up;
        let up = shell.session().rail_up(now, rail.id);
        up.map(|()| true).map_err(|error| error.to_string())
    }

    fn reset(&mut self, now: u64, index: usize, side: usize, shell: &mut dyn Shell) -> bool {
        let due = self.rails[index].ends[side].reset_at_ns.is_some_and(|at| at <= now);
        due && self.drop_end(now, index, side, Some(shell))
    }

    /// The end is closed here; the other end hears of it unless its bytes are swallowed.
    fn drop_end(
        &mut self,
        now: u64,
        index: usize,
        side: usize,
        shell: Option<&mut dyn Shell>,
    ) -> bool {
        let rail = &mut self.rails[index];
        let was = rail.ends[side].state;
        rail.ends[side].go_down();
        if was == EndState::Down {
            return false;
        }
        let notice_ns = now + rail.pipes[side].delay_ns();
        let other = &mut rail.ends[1 - side];
        if other.state != EndState::Down && !rail.pipes[side].is_swallowing() {
            other.reset_at_ns = Some(other.reset_at_ns.map_or(notice_ns, |at| at.min(notice_ns)));
        }
        let id = rail.id;
        let rails_left = match shell {
            Some(shell) if was == EndState::Up => {
                self.counters.rails_lost += 1;
                shell.rail_lost(id);
                shell.session().stats().rails
            }
            _ => self.rails.iter().filter(|rail| rail.ends[side].is_up()).count(),
        };
        self.counters.outages += u64::from(rails_left == 0);
        self.tell(now, || format!("side {side}: rail {id} is down"));
        let joins = if self.is_healed { rails_left == 0 } else { self.rng.chance(30) };
        if joins {
            self.joins.push(now + self.rng.log_between(US, 500 * MS));
        }
        true
    }

    /// The process on one side is gone, and with it its ends of all rails.
    pub(crate) fn drop_side(&mut self, now: u64, side: usize) {
        for index in 0..self.rails.len() {
            self.drop_end(now, index, side, None);
        }
    }

    fn write(&mut self, now: u64, index: usize, side: usize, shell: &mut dyn Shell) -> bool {
        let rail = &mut self.rails[index];
        let mut moved = false;
        while let Some(written) = rail.ends[side].write(now, &mut rail.pipes[side]) {
            moved = true;
            match written {
                Written::Link => shell.session().link_sent(rail.id),
                Written::Slice((channel, seq)) => {
                    shell.session().slice_sent(rail.id, channel, seq);
                }
            }
        }
        moved
    }

    fn read(
        &mut self,
        now: u64,
        index: usize,
        side: usize,
        shell: &mut dyn Shell,
    ) -> Result<bool, Broken> {
        let rail = &mut self.rails[index];
        let mut moved = false;
        while rail.ends[side].is_up()
            && let Some(bytes) = rail.pipes[1 - side].read(now)
        {
            moved = true;
            rail.ends[side].receive(&bytes);
            shell.session().bytes_received(now, rail.id);
        }
        loop {
            let rail = &mut self.rails[index];
            let id = rail.id;
            match rail.ends[side].next_frame() {
                Ok(None) => return Ok(moved),
                Ok(Some(frame)) => {
                    let ours = frame.header.check_session(JOB_TAG, EPOCH);
                    ours.map_err(|error| error.to_string())?;
                    shell.receive(now, id, frame)?;
                }
                Err(error) => {
                    self.tell(now, || format!("side {side}: rail {id}: {error}"));
                    self.counters.damage_found += 1;
                    self.drop_end(now, index, side, Some(shell));
                }
            }
            moved = true;
        }
    }

    // ---- faults --------------------------------------------------------------------------------

    pub(crate) fn strike(&mut self, now: u64, fault: RailFault) {
        self.tell(now, || format!("{fault:?}"));
        let any = (!self.rails.is_empty()).then(|| self.rng.index(self.rails.len()));
        match (fault, any) {
            (RailFault::Kill { notice_ns }, Some(index)) => self.kill(now, index, notice_ns),
            (RailFault::KillAll, _) => self.kill_all(now),
            (RailFault::Freeze { pipe, for_ns }, Some(index)) => {
                self.rails[index].pipes[pipe].freeze(now + for_ns);
            }
            (RailFault::SlowDown { divisor }, Some(index)) => {
                self.rails[index].pipes.iter_mut().for_each(|pipe| pipe.slow_down(divisor));
            }
            (RailFault::Damage { pipe }, Some(index)) => self.damage(index, pipe),
            (RailFault::Swallow { pipe }, Some(index)) => self.rails[index].pipes[pipe].swallow(),
            (RailFault::Join, _) => self.join_at(now),
            (_, None) => {}
        }
    }

    pub(crate) fn kill_all(&mut self, now: u64) {
        for index in 0..self.rails.len() {
            let notice_ns = [0, 1].map(|_| Some(self.rng.log_between(US, 50 * MS)));
            self.kill(now, index, notice_ns);
        }
    }

    /// Cuts both pipes at any byte; an end without notice must find out by itself.
    fn kill(&mut self, now: u64, index: usize, notice_ns: [Option<u64>; 2]) {
        let rail = &mut self.rails[index];
        for side in 0..2 {
            let pipe = &mut rail.pipes[side];
            let keep = self.rng.between(0, pipe.in_flight_bytes() as u64);
            pipe.cut(usize::try_from(keep).unwrap_or(0));
            pipe.close();
            if let Some(notice_ns) = notice_ns[side] {
                rail.ends[side].reset_at_ns = Some(now + notice_ns);
            }
        }
    }

    fn damage(&mut self, index: usize, pipe: usize) {
        let pipe = &mut self.rails[index].pipes[pipe];
        let in_flight = pipe.in_flight_bytes();
        if in_flight > 0 {
            let bit = u32::try_from(self.rng.between(0, 7)).unwrap_or(0);
            pipe.damage(self.rng.index(in_flight), bit);
        }
    }

    /// From now on the network is good. What was swallowed or cut without notice stays so: the
    /// sessions have to find out. Rails come only where a side has none left, so that survivors
    /// must be enough where there are any.
    pub(crate) fn heal(&mut self, now: u64) {
        self.is_healed = true;
        self.is_partitioned = false;
        self.tell(now, || "the network is healed".to_owned());
        let is_cut_off =
            |side: usize| !self.rails.iter().any(|rail| rail.ends[side].state != EndState::Down);
        if is_cut_off(0) || is_cut_off(1) || self.rng.chance(50) {
            self.join_at(now);
            self.join_at(now);
        }
        self.speed_up();
    }

    pub(crate) fn speed_up(&mut self) {
        for pipe in self.rails.iter_mut().flat_map(|rail| &mut rail.pipes) {
            pipe.thaw();
            pipe.set_rate(GOOD_RATE_BYTES_PER_S);
        }
    }

    // ---- what a shell is told to do ------------------------------------------------------------

    fn index_of(&self, side: usize, rail: RailId) -> Result<usize, Broken> {
        let index = self.rails.iter().position(|known| known.id == rail);
        let up = index.filter(|index| self.rails[*index].ends[side].is_up());
        up.ok_or(format!("a command for rail {rail}, which is not up"))
    }

    pub(crate) fn post_link(
        &mut self,
        side: usize,
        rail: RailId,
        message: &LinkMessage,
    ) -> Result<(), Broken> {
        let index = self.index_of(side, rail)?;
        let end = &mut self.rails[index].ends[side];
        end.queue_link(link_bytes(message));
        if end.links_waiting() > LINK_QUEUE_MAX {
            return Err(format!("rail {rail} got too many link messages"));
        }
        Ok(())
    }

    pub(crate) fn post_slice(
        &mut self,
        side: usize,
        rail: RailId,
        key: Key,
        bytes: Vec<u8>,
    ) -> Result<(), Broken> {
        let index = self.index_of(side, rail)?;
        let end = &mut self.rails[index].ends[side];
        if let Some(busy) = end.slice_waiting() {
            return Err(format!("{key:?} posted on rail {rail}, which is sending {busy:?}"));
        }
        end.queue_slice(key, bytes);
        Ok(())
    }

    pub(crate) fn close_rail(
        &mut self,
        now: u64,
        side: usize,
        rail: RailId,
        shell: &mut dyn Shell,
    ) -> Result<(), Broken> {
        let index = self.index_of(side, rail)?;
        self.drop_end(now, index, side, Some(shell));
        Ok(())
    }

    /// The rail on which one side is sending a slice.
    pub(crate) fn sender_of(&self, side: usize, key: Key) -> Option<RailId> {
        let sending = self.rails.iter().find(|rail| rail.ends[side].slice_waiting() == Some(key));
        sending.map(|rail| rail.id)
    }
}
