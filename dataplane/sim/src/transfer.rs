//! Two sessions exchange slices over a network that does what it can to lose them.
//!
//! Invariants: every slice is delivered exactly once and unchanged, Control and Skeleton in order;
//! an ack (`Release`) only for what was consumed; `not_before`, window, ceiling and one slice per
//! rail hold; what is re-sent was on a rail that died; all buffers are free at the end; once the
//! network heals everything ends; no side ever spins, or has something to do before its deadline.

use std::collections::VecDeque;

use dwcp_session::{OutboundMeta, SessionConfig};
use dwcp_wire::{Channel, SliceFlags};

use crate::endpoint::{ConsumerPace, Endpoint};
use crate::network::{Network, RAILS_MAX, RailFault};
use crate::pipe::PipeShape;
use crate::{Broken, Failure, Rng};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// The network heals at most this late.
const TROUBLE_NS_MAX: u64 = 4 * SECOND;
/// What is left when it heals must be through after this.
const HEALED_NS_MAX: u64 = 60 * SECOND;
/// Turns at one instant after which a side is said to spin.
const TURNS_AT_ONCE_MAX: u32 = 10_000;
/// How often a side is woken before its deadline.
const EARLY_WAKES_PERCENT: u64 = 10;

/// What the network does to a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// Rails die, freeze, slow down, damage and swallow bytes.
    Faulty,
    /// Nothing happens: then no rail may be lost and nothing sent twice.
    Good,
}

/// What a run did, to see that the faults did something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
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
    /// Damaged bytes that were found.
    pub damage_found: u64,
    /// Times a side had no rail left.
    pub outages: u64,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Rail(RailFault),
    SetRate { side: usize, rate_bytes_per_s: Option<u64> },
    PauseConsumer { side: usize, for_ns: u64 },
}

/// Slices of one direction, with the time their producer has them.
type Script = VecDeque<(u64, OutboundMeta)>;

struct World {
    now: u64,
    rng: Rng,
    sides: [Endpoint; 2],
    scripts: [Script; 2],
    /// Slices each side will have consumed in the end.
    expected: [usize; 2],
    network: Network,
    faults: VecDeque<(u64, Fault)>,
    heals_ns: u64,
}

/// Runs the scenario of `seed`; with `is_told` it prints what happens.
///
/// # Errors
/// The first broken invariant.
pub fn run(seed: u64, kind: NetworkKind, is_told: bool) -> Result<Report, Failure> {
    let mut world = World::new(seed, kind, is_told);
    let ended = world.run().and_then(|report| match kind {
        NetworkKind::Good if report.rails_lost + report.resent + report.duplicates > 0 => {
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
pub(crate) fn config(rng: &mut Rng, window_out: u32, window_in: u32) -> SessionConfig {
    let ping_interval_ns = rng.log_between(10 * MS, 200 * MS);
    SessionConfig {
        window_out_slices: window_out,
        window_in_slices: window_in,
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
fn script(rng: &mut Rng, slices: u64) -> Script {
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

/// Bytes of a slice, which follow from its identity.
fn content(channel: Channel, seq: u64, bytes: usize) -> Vec<u8> {
    let mut rng = Rng::new(seq << 8 | u64::from(channel.code()));
    let words = std::iter::repeat_with(|| rng.bits().to_le_bytes());
    words.flatten().take(bytes).collect()
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
        0 => Fault::SetRate { side, rate_bytes_per_s: rate(rng) },
        1 => Fault::SetRate { side, rate_bytes_per_s: Some(0) },
        2 => Fault::PauseConsumer { side, for_ns: rng.log_between(MS, 2 * SECOND) },
        _ => Fault::Rail(RailFault::any(rng)),
    }
}

impl World {
    fn new(seed: u64, kind: NetworkKind, is_told: bool) -> Self {
        let mut rng = Rng::new(seed);
        let windows = [0, 1].map(|_| u32::try_from(rng.log_between(1, 64)).unwrap_or(1));
        let low_ns = rng.log_between(US, MS);
        let pace = ConsumerPace { low_ns, high_ns: low_ns + rng.log_between(US, 20 * MS) };
        let sides = [0, 1].map(|side: usize| {
            let config = config(&mut rng, windows[side], windows[1 - side]);
            Endpoint::new(side, config, pace, rng.fork())
        });
        let counts = [rng.log_between(1, 400), rng.log_between(1, 60)];
        let scripts = counts.map(|count| script(&mut rng, count));
        let heals_ns = rng.log_between(10 * MS, TROUBLE_NS_MAX);
        let mut network = Network::new(rng.fork(), shape, is_told);
        for _ in 0..rng.between(1, RAILS_MAX as u64) {
            network.join(0);
        }
        let faults = match kind {
            NetworkKind::Faulty => faults(&mut rng, heals_ns),
            NetworkKind::Good => VecDeque::new(),
        };
        if kind == NetworkKind::Good {
            network.is_healed = true;
            network.speed_up();
        }
        let expected = [1, 0].map(|peer: usize| scripts[peer].len());
        Self { now: 0, rng, sides, scripts, expected, network, faults, heals_ns }
    }

    fn run(&mut self) -> Result<Report, Broken> {
        let slices = self.expected.iter().sum::<usize>() as u64;
        let mut turns_at_once = 0;
        while !(self.network.is_healed && self.is_done() && self.now >= self.heals_ns) {
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
        Ok(self.report(slices))
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
        (0..2).all(|side| {
            let endpoint = &self.sides[side];
            self.scripts[side].is_empty()
                && endpoint.slices_held() == 0
                && endpoint.slices_consumed() == self.expected[side]
        })
    }

    fn left(&self) -> String {
        let side = |side: usize| {
            let endpoint = &self.sides[side];
            let (script, stats) = (self.scripts[side].len(), endpoint.session.stats());
            format!("{script} to submit, {} unacked, {stats:?}", endpoint.slices_held())
        };
        format!("{}; {}", side(0), side(1))
    }

    fn report(&self, slices: u64) -> Report {
        let stats = self.sides.each_ref().map(|side| side.session.stats());
        Report {
            slices,
            resent: stats.iter().map(|stats| stats.resent_slices).sum(),
            duplicates: stats.iter().map(|stats| stats.duplicate_slices).sum(),
            stalled: stats.iter().map(|stats| stats.stalled_rails).sum(),
            rails_lost: self.network.counters.rails_lost,
            damage_found: self.network.counters.damage_found,
            outages: self.network.counters.outages,
        }
    }

    fn next_event(&mut self) -> Option<u64> {
        let now = self.now;
        let sides = self.sides.each_mut().map(|side| side.next_event(now));
        let scripts = self.scripts.iter().flat_map(|script| script.front());
        let produced = scripts.map(|(at, _)| *at).filter(|at| *at > now).min();
        let fault = self.faults.front().map(|(at, _)| *at);
        let heal = (!self.network.is_healed).then_some(self.heals_ns);
        let [first, second] = sides;
        [first, second, produced, fault, heal, self.network.next_event()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Everything that is due now, once; whether anything was done.
    fn turn(&mut self) -> Result<bool, Broken> {
        let mut moved = self.trouble();
        moved |= self.network.open_due(self.now);
        for side in 0..2 {
            moved |= self.produce(side)?;
            moved |= self.consume(side)?;
            moved |= self.network.move_side(self.now, side, &mut self.sides[side])?;
            let [first, second] = &mut self.sides;
            let (own, peer) = if side == 0 { (first, second) } else { (second, first) };
            moved |= own.execute(self.now, &mut self.network, Some(&peer.view()))?;
        }
        Ok(moved)
    }

    fn produce(&mut self, side: usize) -> Result<bool, Broken> {
        let mut taken = false;
        while let Some((_, meta)) = self.scripts[side].front().filter(|(at, _)| *at <= self.now) {
            let bytes = usize::try_from(meta.bytes).unwrap_or(0);
            let body = content(meta.channel, meta.seq, bytes);
            if !self.sides[side].submit(*meta, body)? {
                break;
            }
            self.scripts[side].pop_front();
            taken = true;
        }
        Ok(taken)
    }

    fn consume(&mut self, side: usize) -> Result<bool, Broken> {
        let mut done = false;
        while let Some(((channel, seq), body)) = self.sides[side].consume(self.now)? {
            if body != content(channel, seq, body.len()) {
                return Err(format!("{channel:?} {seq} arrived with other bytes than were sent"));
            }
            done = true;
        }
        Ok(done)
    }

    fn trouble(&mut self) -> bool {
        let mut moved = false;
        while let Some((_, fault)) = self.faults.pop_front_if(|(at, _)| *at <= self.now) {
            match fault {
                Fault::Rail(fault) => self.network.strike(self.now, fault),
                Fault::SetRate { side, rate_bytes_per_s } => {
                    self.sides[side].set_rate(self.now, rate_bytes_per_s);
                }
                Fault::PauseConsumer { side, for_ns } => {
                    self.sides[side].paused_until_ns = self.now + for_ns;
                }
            }
            moved = true;
        }
        if !self.network.is_healed && self.now >= self.heals_ns {
            self.network.heal(self.now);
            for side in &mut self.sides {
                side.paused_until_ns = 0;
                side.set_rate(self.now, None);
            }
            moved = true;
        }
        moved
    }
}
