//! Two sessions exchange slices over a network that does what it can to lose them.
//!
//! Invariants: every slice is delivered exactly once and unchanged, Control and Skeleton in order;
//! an ack (`Release`) only for what was consumed; `not_before`, window, ceiling and one slice per
//! rail hold; what is re-sent was on a rail that died; all buffers are free at the end; once the
//! network heals everything ends; no side ever spins, or has something to do before its deadline.

use std::collections::VecDeque;

use dwcp_session::{CloseReason, Command, OutboundMeta, SessionConfig};
use dwcp_wire::{Channel, RailId, SliceFlags};

use crate::endpoint::{ConsumerPace, EPOCH, Endpoint, JOB_TAG, link_bytes};
use crate::pipe::PipeShape;
use crate::rail::{EndState, Key, SimRail, Written};
use crate::{Broken, Failure, Rng};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// The network heals at most this late.
const TROUBLE_NS_MAX: u64 = 4 * SECOND;
/// What is left when it heals must be through after this.
const HEALED_NS_MAX: u64 = 60 * SECOND;
const HEALED_RATE_BYTES_PER_S: u64 = 100_000_000;
/// Turns at one instant after which a side is said to spin.
const TURNS_AT_ONCE_MAX: u32 = 10_000;
/// Link messages the session may have handed to a rail.
const LINK_QUEUE_MAX: usize = 4;
const RAILS_MAX: u64 = 8;
/// How often a side is woken before its deadline.
const EARLY_WAKES_PERCENT: u64 = 10;

/// What a run did, to see that the faults did something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Virtual time until everything was through, in nanoseconds.
    pub ends_ns: u64,
    /// Slices of both directions.
    pub slices: u64,
    /// Slices posted once more.
    pub resent: u64,
    /// Slices received once more.
    pub duplicates: u64,
    /// Rails that went down at an end.
    pub rails_lost: u64,
    /// Rails closed because they were silent.
    pub stalled: u64,
    /// Bytes that were damaged and found.
    pub damage_found: u64,
    /// Moments at which a side had no rail at all.
    pub outages: u64,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
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
    SetRate {
        side: usize,
        rate_bytes_per_s: Option<u64>,
    },
    PauseConsumer {
        side: usize,
        for_ns: u64,
    },
}

struct World {
    now: u64,
    rng: Rng,
    sides: [Endpoint; 2],
    expected: [usize; 2],
    rails: Vec<SimRail>,
    next_rail: u16,
    shape: PipeShape,
    faults: VecDeque<(u64, Fault)>,
    heals_ns: u64,
    is_healed: bool,
    report: Report,
    is_told: bool,
}

/// What the network does to a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Everything in [`Fault`].
    Faulty,
    /// Nothing: then no rail may be lost and nothing sent twice.
    Good,
}

/// Runs the scenario of `seed`; with `is_told` it prints what happens.
///
/// # Errors
/// The first broken invariant.
pub fn run(seed: u64, network: Network, is_told: bool) -> Result<Report, Failure> {
    let mut world = World::new(seed, network, is_told);
    let ended = world.run().and_then(|report| match network {
        Network::Good if report.rails_lost + report.resent + report.duplicates > 0 => {
            Err(format!("trouble on a good network: {report:?}"))
        }
        _ => Ok(report),
    });
    ended.map_err(|what| Failure { seed, at_ns: world.now, what })
}

/// Network shapes from a data center to a bad mobile link.
fn shape(rng: &mut Rng) -> PipeShape {
    PipeShape {
        rate_bytes_per_s: rng.log_between(200_000, 1_000_000_000),
        delay_ns: rng.log_between(10 * US, 150 * MS),
        buffer_bytes: rng.log_between(600, 200_000),
        chunk_bytes: if rng.chance(5) { rng.between(1, 50) } else { rng.log_between(200, 4_000) },
    }
}

/// Settings of one side that can work on every shape above.
fn config(rng: &mut Rng, window_out_slices: u32, window_in_slices: u32) -> SessionConfig {
    let ping_interval_ns = rng.log_between(10 * MS, 200 * MS);
    SessionConfig {
        window_out_slices,
        window_in_slices,
        rate_bytes_per_s: rate(rng),
        stall_ns: ping_interval_ns + rng.log_between(500 * MS, 2 * SECOND),
        ping_interval_ns,
        ack_every_slices: u32::try_from(rng.between(1, 8)).unwrap_or(1),
        ack_delay_ns: rng.log_between(10 * US, 20 * MS),
        ..SessionConfig::default()
    }
}

fn rate(rng: &mut Rng) -> Option<u64> {
    rng.chance(40).then(|| rng.log_between(300_000, 100_000_000))
}

/// The slices of one direction in the order in which their producer has them: each channel
/// numbered from 0, Pages slightly out of order and now and then waiting for others.
fn script(rng: &mut Rng, slices: u64) -> VecDeque<(u64, OutboundMeta)> {
    let mut next = [0_u64; 3];
    let mut at = 0;
    let gap_ns = rng.log_between(US, 20 * MS);
    let bytes_max = rng.log_between(1, 4_000);
    let mut all: Vec<(u64, OutboundMeta)> = Vec::new();
    for _ in 0..slices {
        let channel = Channel::SEQUENCED[[0, 1, 1, 2, 2, 2, 2, 2][rng.index(8)]];
        let index = channel.index().unwrap_or(0);
        let seq = next[index];
        next[index] += 1;
        at += rng.between(0, gap_ns);
        let bytes = u32::try_from(rng.between(0, bytes_max)).unwrap_or(0);
        let waits = channel == Channel::Pages && seq > 0 && rng.chance(10);
        let not_before = waits.then(|| seq - 1 - rng.between(0, (seq - 1).min(8)));
        let flags = SliceFlags::NONE;
        all.push((at, OutboundMeta { channel, seq, bytes, flags, not_before }));
    }
    end_channels(&mut all, next);
    shuffle_pages(rng, &mut all);
    all.into()
}

fn end_channels(all: &mut [(u64, OutboundMeta)], next: [u64; 3]) {
    for (_, meta) in all {
        let index = meta.channel.index().unwrap_or(0);
        if meta.channel != Channel::Control && meta.seq + 1 == next[index] {
            meta.flags = SliceFlags::LAST;
        }
    }
}

/// Swaps neighbouring Pages slices, as encoders that work side by side do. The last one stays.
fn shuffle_pages(rng: &mut Rng, all: &mut [(u64, OutboundMeta)]) {
    let pages: Vec<usize> =
        (0..all.len()).filter(|at| all[*at].1.channel == Channel::Pages).collect();
    for pair in pages.windows(2).take(pages.len().saturating_sub(2)) {
        if rng.chance(30) {
            let (first, second) = (all[pair[0]].1, all[pair[1]].1);
            all[pair[0]].1 = second;
            all[pair[1]].1 = first;
        }
    }
}

fn faults(rng: &mut Rng, heals_ns: u64) -> VecDeque<(u64, Fault)> {
    let count = rng.between(0, 25);
    let mut all: Vec<(u64, Fault)> =
        (0..count).map(|_| (rng.between(0, heals_ns), fault(rng))).collect();
    all.sort_by_key(|(at, _)| *at);
    all.into()
}

fn fault(rng: &mut Rng) -> Fault {
    let side = rng.index(2);
    match rng.between(0, 15) {
        0..=3 => {
            let mut notice = || rng.chance(85).then(|| rng.log_between(US, 300 * MS));
            Fault::Kill { notice_ns: [notice(), notice()] }
        }
        4 => Fault::KillAll,
        5 | 6 => Fault::Freeze { pipe: side, for_ns: rng.log_between(MS, 2 * SECOND) },
        7 => Fault::SlowDown { divisor: rng.log_between(2, 1_000) },
        8 | 9 => Fault::Damage { pipe: side },
        10 => Fault::Swallow { pipe: side },
        11 | 12 => Fault::Join,
        13 => Fault::SetRate { side, rate_bytes_per_s: rate(rng) },
        14 => Fault::SetRate { side, rate_bytes_per_s: Some(0) },
        _ => Fault::PauseConsumer { side, for_ns: rng.log_between(MS, 2 * SECOND) },
    }
}

impl World {
    fn new(seed: u64, network: Network, is_told: bool) -> Self {
        let mut rng = Rng::new(seed);
        let windows = [0, 1].map(|_| u32::try_from(rng.log_between(1, 64)).unwrap_or(1));
        let configs =
            [config(&mut rng, windows[0], windows[1]), config(&mut rng, windows[1], windows[0])];
        let low_ns = rng.log_between(US, MS);
        let pace = ConsumerPace { low_ns, high_ns: low_ns + rng.log_between(US, 20 * MS) };
        let mut sides = configs.map(|config| Endpoint::new(config, pace, rng.fork()));
        let counts = [rng.log_between(1, 400), rng.log_between(1, 60)];
        for (side, count) in sides.iter_mut().zip(counts) {
            side.script = script(&mut rng, count);
        }
        let heals_ns = rng.log_between(10 * MS, TROUBLE_NS_MAX);
        let mut world = Self {
            now: 0,
            expected: [1, 0].map(|peer: usize| sides[peer].script.len()),
            sides,
            rails: Vec::new(),
            next_rail: 0,
            shape: shape(&mut rng),
            faults: match network {
                Network::Faulty => faults(&mut rng, heals_ns),
                Network::Good => VecDeque::new(),
            },
            heals_ns,
            is_healed: network == Network::Good,
            report: Report { slices: counts.iter().sum(), ..Report::default() },
            rng,
            is_told,
        };
        for _ in 0..world.rng.between(1, RAILS_MAX) {
            world.join();
        }
        if network == Network::Good {
            world.speed_up();
        }
        world
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{:>12} us  {}", self.now / 1_000, what());
        }
    }

    fn run(&mut self) -> Result<Report, Broken> {
        let mut turns_at_once = 0;
        while !(self.is_healed && self.is_done() && self.now >= self.heals_ns) {
            let moved = self.turn()?;
            let next = self.next_event();
            turns_at_once += 1;
            if !moved && next.is_none_or(|next| next > self.now) {
                turns_at_once = 0;
                let next = next.ok_or("nothing will ever happen again")?;
                self.wake_early(next)?;
                self.now = next;
            }
            if turns_at_once > TURNS_AT_ONCE_MAX {
                return Err(format!("spins: due is {next:?}, and nothing is done"));
            }
            if self.now > self.heals_ns + HEALED_NS_MAX {
                return Err(format!("not through long after the network healed: {}", self.left()));
            }
        }
        for side in &self.sides {
            side.check_empty()?;
            let (resent, lost) = (side.session.stats().resent_slices, side.lost_slices);
            if resent > lost {
                return Err(format!("{resent} slices re-sent, {lost} were on rails that died"));
            }
        }
        Ok(self.final_report())
    }

    /// Wakes both sides for nothing: before its deadline a session has nothing to do.
    fn wake_early(&mut self, next: u64) -> Result<(), Broken> {
        if !self.rng.chance(EARLY_WAKES_PERCENT) {
            return Ok(());
        }
        self.now = self.rng.between(self.now, next - 1);
        for side in &mut self.sides {
            if let Some(command) = side.session.next_command(self.now) {
                return Err(format!("{command:?} before {next} ns, the next deadline"));
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.sides.iter().zip(self.expected).all(|(side, expected)| side.is_done(expected))
    }

    fn left(&self) -> String {
        let side = |side: &Endpoint| {
            let (script, held) = (side.script.len(), side.outgoing.len());
            format!("{script} to submit, {held} unacked, {:?}", side.session.stats())
        };
        self.sides.iter().map(side).collect::<Vec<_>>().join("; ")
    }

    fn final_report(&self) -> Report {
        let stats = self.sides.each_ref().map(|side| side.session.stats());
        Report {
            ends_ns: self.now,
            resent: stats.iter().map(|stats| stats.resent_slices).sum(),
            duplicates: stats.iter().map(|stats| stats.duplicate_slices).sum(),
            stalled: stats.iter().map(|stats| stats.stalled_rails).sum(),
            ..self.report
        }
    }

    fn next_event(&mut self) -> Option<u64> {
        let now = self.now;
        let rails = self.rails.iter().filter_map(SimRail::next_event).min();
        let sides = self.sides.iter_mut().flat_map(|side| {
            [side.next_event(now), side.session.next_deadline(now)].into_iter().flatten()
        });
        let sides = sides.min();
        let fault = self.faults.front().map(|(at, _)| *at);
        let heal = (!self.is_healed).then_some(self.heals_ns);
        [rails, sides, fault, heal].into_iter().flatten().min()
    }

    /// Everything that is due now, once; whether anything was done.
    fn turn(&mut self) -> Result<bool, Broken> {
        let mut moved = self.trouble();
        for side in 0..2 {
            moved |= self.sides[side].produce(self.now)?;
            moved |= self.sides[side].consume(self.now)?;
            moved |= self.move_rails(side)?;
            moved |= self.execute(side)?;
        }
        self.rails.retain(|rail| !rail.is_gone());
        Ok(moved)
    }

    // ---- the network ---------------------------------------------------------------------------

    fn move_rails(&mut self, side: usize) -> Result<bool, Broken> {
        let mut moved = false;
        for index in 0..self.rails.len() {
            moved |= self.open(index, side)?;
            moved |= self.reset(index, side);
            moved |= self.write(index, side);
            moved |= self.read(index, side)?;
        }
        Ok(moved)
    }

    fn open(&mut self, index: usize, side: usize) -> Result<bool, Broken> {
        let rail = &mut self.rails[index];
        let EndState::Opening(at) = rail.ends[side].state else { return Ok(false) };
        if at > self.now {
            return Ok(false);
        }
        rail.ends[side].state = EndState::Up;
        let up = self.sides[side].session.rail_up(self.now, rail.id);
        up.map(|()| true).map_err(|error| error.to_string())
    }

    fn reset(&mut self, index: usize, side: usize) -> bool {
        let due = self.rails[index].ends[side].reset_at_ns.is_some_and(|at| at <= self.now);
        due && self.drop_end(index, side)
    }

    /// The end is closed here; the other end hears of it unless its bytes are swallowed.
    fn drop_end(&mut self, index: usize, side: usize) -> bool {
        let rail = &mut self.rails[index];
        let was = rail.ends[side].state;
        rail.ends[side].go_down();
        if was == EndState::Down {
            return false;
        }
        let notice_ns = self.now + self.shape.delay_ns;
        let other = &mut rail.ends[1 - side];
        if other.state != EndState::Down && !rail.pipes[side].is_swallowing() {
            other.reset_at_ns = Some(other.reset_at_ns.map_or(notice_ns, |at| at.min(notice_ns)));
        }
        let id = rail.id;
        if was == EndState::Up {
            self.report.rails_lost += 1;
            self.sides[side].rail_lost(id);
            self.report.outages += u64::from(self.sides[side].session.stats().rails == 0);
        }
        self.tell(|| format!("side {side}: rail {id} is down"));
        let has_rails = self.sides[side].session.stats().rails > 0;
        let joins = if self.is_healed { !has_rails } else { self.rng.chance(30) };
        if joins {
            let at = self.now + self.rng.log_between(US, 500 * MS);
            let place = self.faults.partition_point(|(other, _)| *other <= at);
            self.faults.insert(place, (at, Fault::Join));
        }
        true
    }

    fn write(&mut self, index: usize, side: usize) -> bool {
        let rail = &mut self.rails[index];
        let mut moved = false;
        while let Some(written) = rail.ends[side].write(self.now, &mut rail.pipes[side]) {
            moved = true;
            match written {
                Written::Link => self.sides[side].session.link_sent(rail.id),
                Written::Slice((channel, seq)) => {
                    self.sides[side].session.slice_sent(rail.id, channel, seq);
                }
            }
        }
        moved
    }

    fn read(&mut self, index: usize, side: usize) -> Result<bool, Broken> {
        let rail = &mut self.rails[index];
        let mut moved = false;
        while rail.ends[side].is_up()
            && let Some(bytes) = rail.pipes[1 - side].read(self.now)
        {
            moved = true;
            rail.ends[side].receive(&bytes);
            self.sides[side].session.bytes_received(self.now, rail.id);
        }
        moved |= self.read_frames(index, side)?;
        Ok(moved)
    }

    fn read_frames(&mut self, index: usize, side: usize) -> Result<bool, Broken> {
        let mut moved = false;
        loop {
            let rail = &mut self.rails[index];
            match rail.ends[side].next_frame() {
                Ok(None) => return Ok(moved),
                Ok(Some(frame)) => {
                    frame.header.check_session(JOB_TAG, EPOCH).map_err(|e| e.to_string())?;
                    self.sides[side].receive(self.now, rail.id, frame)?;
                    self.check_held(side)?;
                }
                Err(error) => {
                    let id = rail.id;
                    self.tell(|| format!("side {side}: rail {id}: {error}"));
                    self.report.damage_found += 1;
                    self.drop_end(index, side);
                }
            }
            moved = true;
        }
    }

    fn check_held(&self, side: usize) -> Result<(), Broken> {
        let (held, window) = (self.sides[side].bulk_held, self.sides[1 - side].window as usize);
        if held > window {
            return Err(format!("{held} slices sent into a window of {window}"));
        }
        Ok(())
    }

    fn join(&mut self) {
        let shape = shape(&mut self.rng);
        let handshake_ns = shape.delay_ns + self.rng.between(0, MS);
        let up_at_ns = [self.now + 2 * handshake_ns, self.now + handshake_ns];
        self.rails.push(SimRail::new(RailId(self.next_rail), shape, up_at_ns));
        self.next_rail = self.next_rail.wrapping_add(1);
        let id = self.next_rail - 1;
        self.tell(|| format!("rail {id} joins: {shape:?}"));
    }

    // ---- faults --------------------------------------------------------------------------------

    fn trouble(&mut self) -> bool {
        let mut moved = false;
        while let Some((_, fault)) = self.faults.pop_front_if(|(at, _)| *at <= self.now) {
            self.tell(|| format!("{fault:?}"));
            self.strike(fault);
            moved = true;
        }
        if !self.is_healed && self.now >= self.heals_ns {
            self.heal();
            moved = true;
        }
        moved
    }

    fn strike(&mut self, fault: Fault) {
        let any = (!self.rails.is_empty()).then(|| self.rng.index(self.rails.len()));
        match (fault, any) {
            (Fault::Kill { notice_ns }, Some(index)) => self.kill(index, notice_ns),
            (Fault::KillAll, _) => {
                for index in 0..self.rails.len() {
                    self.kill(index, [Some(0), Some(self.shape.delay_ns)]);
                }
            }
            (Fault::Freeze { pipe, for_ns }, Some(index)) => {
                self.rails[index].pipes[pipe].freeze(self.now + for_ns);
            }
            (Fault::SlowDown { divisor }, Some(index)) => {
                let rate = (self.shape.rate_bytes_per_s / divisor).max(10_000);
                self.rails[index].pipes.iter_mut().for_each(|pipe| pipe.set_rate(rate));
            }
            (Fault::Damage { pipe }, Some(index)) => self.damage(index, pipe),
            (Fault::Swallow { pipe }, Some(index)) => self.rails[index].pipes[pipe].swallow(),
            (Fault::Join, _) if self.rails.len() < RAILS_MAX as usize => self.join(),
            (Fault::SetRate { side, rate_bytes_per_s }, _) => self.set_rate(side, rate_bytes_per_s),
            (Fault::PauseConsumer { side, for_ns }, _) => {
                self.sides[side].paused_until_ns = self.now + for_ns;
            }
            _ => {}
        }
    }

    /// Cuts both pipes at any byte; an end without notice must find out by itself.
    fn kill(&mut self, index: usize, notice_ns: [Option<u64>; 2]) {
        for side in 0..2 {
            let pipe = &mut self.rails[index].pipes[side];
            let keep = self.rng.between(0, pipe.in_flight_bytes() as u64);
            pipe.cut(usize::try_from(keep).unwrap_or(0));
            pipe.close();
            let end = &mut self.rails[index].ends[side];
            if let Some(notice_ns) = notice_ns[side] {
                end.reset_at_ns = Some(self.now + notice_ns);
            }
        }
    }

    fn damage(&mut self, index: usize, pipe: usize) {
        let pipe = &mut self.rails[index].pipes[pipe];
        let in_flight = pipe.in_flight_bytes();
        if in_flight > 0 {
            pipe.damage(self.rng.index(in_flight), 0);
        }
    }

    fn set_rate(&mut self, side: usize, rate_bytes_per_s: Option<u64>) {
        self.sides[side].session.set_rate(self.now, rate_bytes_per_s);
        self.sides[side].meter.set_rate(self.now, rate_bytes_per_s);
    }

    /// From now on the network is good. What was swallowed or cut without notice stays so: the
    /// sessions have to find out.
    fn heal(&mut self) {
        self.is_healed = true;
        self.faults.clear();
        for side in 0..2 {
            self.sides[side].paused_until_ns = 0;
            self.set_rate(side, None);
        }
        self.tell(|| "the network is healed".to_owned());
        // A side whose rails all survived must get through without a new one.
        if self.rng.chance(50) || self.sides.iter().any(|side| side.session.stats().rails == 0) {
            self.join();
            self.join();
        }
        self.speed_up();
    }

    fn speed_up(&mut self) {
        for pipe in self.rails.iter_mut().flat_map(|rail| &mut rail.pipes) {
            pipe.thaw();
            pipe.set_rate(HEALED_RATE_BYTES_PER_S);
        }
    }

    // ---- the session's commands ----------------------------------------------------------------

    fn execute(&mut self, side: usize) -> Result<bool, Broken> {
        let mut moved = false;
        while let Some(command) = self.sides[side].session.next_command(self.now) {
            moved = true;
            match command {
                Command::PostSlice { rail, channel, seq } => {
                    self.post(side, rail, (channel, seq))?
                }
                Command::PostLink { rail, message } => {
                    let index = self.rail_index(side, rail)?;
                    let end = &mut self.rails[index].ends[side];
                    end.queue_link(link_bytes(&message));
                    if end.links_waiting() > LINK_QUEUE_MAX {
                        return Err(format!("rail {rail} got too many link messages"));
                    }
                }
                Command::Release { channel, seq } => self.release(side, (channel, seq))?,
                Command::Deliver { channel, seq } => {
                    self.sides[side].deliver(self.now, (channel, seq))?;
                }
                Command::CloseRail { rail, reason: CloseReason::Stalled { .. } } => {
                    let index = self.rail_index(side, rail)?;
                    self.drop_end(index, side);
                }
                Command::CloseRail { rail, reason } => {
                    return Err(format!("rail {rail} of an honest peer closed: {reason}"));
                }
            }
        }
        Ok(moved)
    }

    fn rail_index(&self, side: usize, rail: RailId) -> Result<usize, Broken> {
        let index = self.rails.iter().position(|known| known.id == rail);
        let up = index.filter(|index| self.rails[*index].ends[side].is_up());
        up.ok_or(format!("a command for rail {rail}, which is not up"))
    }

    fn post(&mut self, side: usize, rail: RailId, key: Key) -> Result<(), Broken> {
        let index = self.rail_index(side, rail)?;
        if let Some(busy) = self.rails[index].ends[side].slice_waiting() {
            return Err(format!("{key:?} posted on rail {rail}, which is sending {busy:?}"));
        }
        let consumed_below = self.sides[1 - side].pages_consumed_below;
        let not_before = self.sides[side].not_before(key);
        if not_before.is_some_and(|before| consumed_below <= before) {
            return Err(format!("{key:?} posted; consumed below {consumed_below}, {not_before:?}"));
        }
        let bytes = self.sides[side].post(key, rail)?;
        self.sides[side].meter.post(self.now, key, bytes.len())?;
        self.rails[index].ends[side].queue_slice(key, bytes);
        let in_flight = self.sides[side].bulk_in_flight;
        let allowed = self.sides[side].window as usize + self.rails.len();
        if in_flight > allowed {
            return Err(format!("{in_flight} slices in flight, allowed are {allowed}"));
        }
        Ok(())
    }

    fn release(&mut self, side: usize, key: Key) -> Result<(), Broken> {
        if !self.sides[1 - side].consumed.contains(&key) {
            return Err(format!("{key:?} released, but its peer did not consume it"));
        }
        let sending = self.rails.iter().find(|rail| rail.ends[side].slice_waiting() == Some(key));
        if let Some(rail) = sending {
            return Err(format!("{key:?} released while rail {} sends it", rail.id));
        }
        self.sides[side].release(key)
    }
}
