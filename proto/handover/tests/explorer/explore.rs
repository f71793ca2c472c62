//! Breadth-first search over all interleavings.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::mem::{Discriminant, discriminant};

use dwcp_handover::*;
use xxhash_rust::xxh3::Xxh3;

use crate::actions::Action;
use crate::invariants::What;
use crate::world::World;

/// What was seen in a search without a violation.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) states: usize,
    pub(crate) depth: usize,
    pub(crate) source_phases: HashSet<Discriminant<SourcePhase>>,
    pub(crate) target_phases: HashSet<Discriminant<TargetPhase>>,
    pub(crate) reasons: HashSet<AbortReason>,
    pub(crate) arrivals: HashSet<Arrival>,
}

impl Seen {
    fn note(&mut self, world: &World) {
        if let Some(phase) = world.source_phase() {
            self.source_phases.insert(discriminant(&phase));
            if let SourcePhase::Done(Ending::Aborted { reason, .. }) = phase {
                self.reasons.insert(reason);
            }
        }
        if let Some(phase) = world.target_phase() {
            self.target_phases.insert(discriminant(&phase));
            if let TargetPhase::Arrived(arrival) = phase {
                self.arrivals.insert(arrival);
            }
        }
    }
}

/// A violation and the shortest way to it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) what: What,
    pub(crate) trace: Vec<Action>,
    /// Seen while the run was continued without faults, after the trace.
    pub(crate) healing: bool,
    last: Box<World>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} after {} steps:", self.what, self.trace.len())?;
        for (at, action) in self.trace.iter().enumerate() {
            writeln!(f, "{at:4} {action:?}")?;
        }
        let world = &self.last;
        writeln!(f, "source {:?}, {:?}", world.source_phase(), world.source_qemu)?;
        writeln!(f, "source disk {:?}", world.source_disk.as_ref().map(|record| record.state))?;
        writeln!(f, "target {:?}, {:?}", world.target_phase(), world.target_qemu)?;
        writeln!(f, "ledger disk {:?}", world.decision_disk.state)?;
        writeln!(f, "target disk {:?}", world.arrival_disk.as_ref().map(|record| record.state))?;
        writeln!(f, "{:?}", world.wire)?;
        write!(f, "healing: {}", self.healing)
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are written as u128")
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

type Fingerprints = HashSet<u128, BuildHasherDefault<Identity>>;

fn fingerprint(world: &World) -> u128 {
    let mut hasher = Xxh3::new();
    world.hash(&mut hasher);
    hasher.digest128()
}

/// Where each state was first reached from: (index of the state before, action).
type Origins = Vec<(usize, Action)>;

/// Visits every reachable state once; ends at the first violation.
pub(crate) fn explore(start: World) -> Result<Seen, Found> {
    let mut seen = Seen::default();
    let mut visited = Fingerprints::default();
    let mut healed = Fingerprints::default();
    let mut origins = Origins::new();
    visited.insert(fingerprint(&start));
    // The start is state 0 and has no origin; state n has origins[n - 1].
    let mut level = vec![(0, start)];
    while !level.is_empty() {
        let mut next = Vec::new();
        for (index, world) in level {
            seen.states += 1;
            seen.note(&world);
            if let Some((what, healing)) = check(&world, &mut healed) {
                let trace = trace(&origins, index);
                return Err(Found { what, trace, healing, last: Box::new(world) });
            }
            for action in world.actions() {
                let mut after = world.clone();
                after.apply(action);
                if visited.insert(fingerprint(&after)) {
                    origins.push((index, action));
                    next.push((origins.len(), after));
                }
            }
        }
        level = next;
        seen.depth += 1;
    }
    Ok(seen)
}

/// What is wrong with a state, and whether it shows only when the run is continued.
fn check(world: &World, healed: &mut Fingerprints) -> Option<(What, bool)> {
    if let Some(what) = world.violation().or_else(|| world.resume_violation()) {
        return Some((what, false));
    }
    let mut on_the_way = Vec::new();
    let bad = world.clone().heal(|state| {
        let print = fingerprint(state);
        on_the_way.push(print);
        healed.contains(&print)
    });
    if bad.is_none() {
        healed.extend(on_the_way);
    }
    bad.map(|what| (what, true))
}

fn trace(origins: &Origins, mut index: usize) -> Vec<Action> {
    let mut trace = Vec::new();
    while index > 0 {
        let (before, action) = origins[index - 1];
        trace.push(action);
        index = before;
    }
    trace.reverse();
    trace
}
