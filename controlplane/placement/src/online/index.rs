//! The incremental index.

use std::collections::BTreeMap;

use super::bits::Bits;
use super::node::{NodeSpec, Platform, RESOURCES, Zone};
use super::refusal::{REASONS, Reason, Refusal};
use super::request::Request;
use super::score::{FULL, Score};

/// Most nodes of an index.
const NODES_MAX: usize = 1_000_000;
/// No amount may be larger; keeps shares within 64 bits.
const AMOUNT_MAX: u64 = 1 << 46;
/// Fixed-point digits of a reciprocal.
const SHARE_BITS: u32 = 62;

/// What cannot be indexed or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Too many nodes.
    #[error("{0} nodes, at most {NODES_MAX} are supported")]
    TooManyNodes(usize),
    /// A node names a zone that is not there.
    #[error("node {node} is in zone {zone}, which does not exist")]
    NoSuchZone {
        /// Node.
        node: usize,
        /// Zone.
        zone: u32,
    },
    /// An amount is beyond 2^46.
    #[error("node {0} has an amount above 2^46: scale its unit up")]
    TooLarge(usize),
    /// The node is not there.
    #[error("there is no node {0}")]
    NoSuchNode(u32),
    /// The guest is not there.
    #[error("there is no guest {0} in the index")]
    NoSuchVm(u64),
    /// The guest is there already.
    #[error("guest {0} is in the index already")]
    VmExists(u64),
    /// The node has not enough left for it.
    #[error("node {node} does not take it: {reason:?}")]
    DoesNotFit {
        /// Node.
        node: u32,
        /// First reason.
        reason: Reason,
    },
}

/// The answer for one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The node.
    pub node: u32,
    /// Why it.
    pub score: Score,
}

#[derive(Debug, Clone)]
struct Node {
    free: [u64; RESOURCES],
    capacity: [u64; RESOURCES],
    /// 2^62 / capacity; 0 for a resource the node does not have.
    reciprocal: [u64; RESOURCES],
    vms_left: u32,
    gpus_free: u16,
    zone: u32,
}

#[derive(Debug, Clone, Default)]
struct Group {
    /// (node, members), by node.
    nodes: Vec<(u32, u32)>,
    /// Members by zone.
    zones: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Placed {
    node: u32,
    needs: [u64; RESOURCES],
    gpus: u16,
    groups: Vec<u32>,
}

/// All nodes, what is free on them and who is there.
#[derive(Debug, Clone)]
pub struct Index {
    nodes: Vec<Node>,
    zones: Vec<Zone>,
    zone_sets: Vec<Bits>,
    classes: Vec<(Platform, Bits)>,
    class_of: Vec<u32>,
    gpu_types: Vec<(u16, Bits)>,
    gpu_type_of: Vec<Option<u16>>,
    groups: BTreeMap<u32, Group>,
    vms: BTreeMap<u64, Placed>,
    avoided: BTreeMap<u32, u64>,
    candidates: Bits,
    other: Bits,
}

impl Index {
    /// An index of empty nodes.
    ///
    /// # Errors
    /// A node's zone does not exist, an amount is beyond 2^46, or there are too many nodes.
    pub fn new(zones: Vec<Zone>, specs: &[NodeSpec]) -> Result<Self, IndexError> {
        let count = specs.len();
        if count > NODES_MAX {
            return Err(IndexError::TooManyNodes(count));
        }
        let mut index = Self {
            nodes: Vec::with_capacity(count),
            zone_sets: vec![Bits::none(count); zones.len()],
            zones,
            classes: Vec::new(),
            class_of: Vec::new(),
            gpu_types: Vec::new(),
            gpu_type_of: Vec::new(),
            groups: BTreeMap::new(),
            vms: BTreeMap::new(),
            avoided: BTreeMap::new(),
            candidates: Bits::none(count),
            other: Bits::none(count),
        };
        for (at, spec) in specs.iter().enumerate() {
            index.add(at, spec, count)?;
        }
        Ok(index)
    }

    fn add(&mut self, at: usize, spec: &NodeSpec, count: usize) -> Result<(), IndexError> {
        let Some(zone) = self.zone_sets.get_mut(spec.zone as usize) else {
            return Err(IndexError::NoSuchZone { node: at, zone: spec.zone });
        };
        zone.insert(at);
        let mut capacity = spec.capacity;
        if capacity.iter().any(|&c| c > AMOUNT_MAX) {
            return Err(IndexError::TooLarge(at));
        }
        capacity[1] = capacity[1].saturating_sub(spec.memory_reserve_mib);
        self.nodes.push(Node {
            free: capacity,
            capacity,
            reciprocal: capacity.map(|c| (1u64 << SHARE_BITS).checked_div(c).unwrap_or(0)),
            vms_left: spec.vms_max,
            gpus_free: if spec.gpu_type.is_some() { spec.gpus } else { 0 },
            zone: spec.zone,
        });
        let known = self.classes.iter().position(|(platform, _)| *platform == spec.platform);
        let class = known.unwrap_or_else(|| {
            self.classes.push((spec.platform.clone(), Bits::none(count)));
            self.classes.len() - 1
        });
        self.classes[class].1.insert(at);
        self.class_of.push(class as u32);
        self.gpu_type_of.push(spec.gpu_type);
        if let Some(kind) = spec.gpu_type {
            let known = self.gpu_types.iter().position(|(k, _)| *k == kind);
            let row = known.unwrap_or_else(|| {
                self.gpu_types.push((kind, Bits::none(count)));
                self.gpu_types.len() - 1
            });
            self.gpu_types[row].1.insert(at);
        }
        Ok(())
    }

    /// Number of nodes.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Number of guests.
    #[must_use]
    pub fn vms(&self) -> usize {
        self.vms.len()
    }

    /// The node of a guest.
    #[must_use]
    pub fn node_of(&self, vm: u64) -> Option<u32> {
        self.vms.get(&vm).map(|placed| placed.node)
    }

    /// What is free on a node, the memory reserve not counted.
    #[must_use]
    pub fn free(&self, node: u32) -> Option<[u64; RESOURCES]> {
        self.nodes.get(node as usize).map(|n| n.free)
    }

    /// Keeps new guests off a node until a time in Unix seconds; `u64::MAX` for good, 0 to end it.
    ///
    /// # Errors
    /// There is no such node.
    pub fn avoid(&mut self, node: u32, until_s: u64) -> Result<(), IndexError> {
        if node as usize >= self.nodes.len() {
            return Err(IndexError::NoSuchNode(node));
        }
        if until_s == 0 {
            self.avoided.remove(&node);
        } else {
            self.avoided.insert(node, until_s);
        }
        Ok(())
    }

    /// The best node for a guest at a time in Unix seconds. Changes nothing but scratch space.
    ///
    /// # Errors
    /// No node takes it: how many fell to which reason.
    pub fn decide(&mut self, request: &Request, now_s: u64) -> Result<Decision, Refusal> {
        self.narrow(request, now_s);
        let mut best: Option<(i64, u32)> = None;
        for at in self.candidates.iter() {
            let node = &self.nodes[at];
            if self.shortage(node, request).is_some() {
                continue;
            }
            let total = self.score(node, request).total();
            if best.is_none_or(|(score, _)| total > score) {
                best = Some((total, at as u32));
            }
        }
        match best {
            Some((_, node)) => {
                Ok(Decision { node, score: self.score(&self.nodes[node as usize], request) })
            }
            None => Err(self.explain(request, now_s)),
        }
    }

    /// Records a guest on a node. Only amounts, GPUs and the VM cap are checked: a guest that runs
    /// already is recorded wherever it is.
    ///
    /// # Errors
    /// The guest is known already, the node is not, or the node has too little left.
    pub fn place(&mut self, vm: u64, request: &Request, node: u32) -> Result<(), IndexError> {
        if self.vms.contains_key(&vm) {
            return Err(IndexError::VmExists(vm));
        }
        let target = self.nodes.get(node as usize).ok_or(IndexError::NoSuchNode(node))?;
        if let Some(reason) = self.shortage(target, request) {
            return Err(IndexError::DoesNotFit { node, reason });
        }
        let gpus = request.gpu.map_or(0, |gpu| gpu.count);
        let target = &mut self.nodes[node as usize];
        for (free, need) in target.free.iter_mut().zip(request.needs) {
            *free -= need;
        }
        target.vms_left -= 1;
        target.gpus_free -= gpus;
        let (zone, zones) = (target.zone as usize, self.zones.len());
        let mut groups = request.groups.clone();
        groups.sort_unstable();
        groups.dedup();
        for &group in &groups {
            let group = self.groups.entry(group).or_default();
            group.zones.resize(zones, 0);
            group.zones[zone] += 1;
            match group.nodes.binary_search_by_key(&node, |&(n, _)| n) {
                Ok(at) => group.nodes[at].1 += 1,
                Err(at) => group.nodes.insert(at, (node, 1)),
            }
        }
        self.vms.insert(vm, Placed { node, needs: request.needs, gpus, groups });
        Ok(())
    }

    /// Takes a guest out.
    ///
    /// # Errors
    /// It is not in the index.
    pub fn remove(&mut self, vm: u64) -> Result<(), IndexError> {
        let placed = self.vms.remove(&vm).ok_or(IndexError::NoSuchVm(vm))?;
        let node = &mut self.nodes[placed.node as usize];
        for (free, need) in node.free.iter_mut().zip(placed.needs) {
            *free += need;
        }
        node.vms_left += 1;
        node.gpus_free += placed.gpus;
        let zone = node.zone as usize;
        for name in placed.groups {
            let Some(group) = self.groups.get_mut(&name) else { continue };
            group.zones[zone] -= 1;
            if let Ok(at) = group.nodes.binary_search_by_key(&placed.node, |&(n, _)| n) {
                group.nodes[at].1 -= 1;
                if group.nodes[at].1 == 0 {
                    group.nodes.remove(at);
                }
            }
            if group.nodes.is_empty() {
                self.groups.remove(&name);
            }
        }
        Ok(())
    }

    /// Leaves in `candidates` the nodes that fail at nothing but amounts.
    fn narrow(&mut self, request: &Request, now_s: u64) {
        let (mut set, mut other) =
            (std::mem::take(&mut self.candidates), std::mem::take(&mut self.other));
        set.clear();
        let fewest = self.fewest(request);
        for (zone, nodes) in self.zone_sets.iter().enumerate() {
            if self.zone_fault(zone, request).is_none() && !self.crowded(zone, request, fewest) {
                set.join(nodes);
            }
        }
        other.clear();
        for (platform, nodes) in &self.classes {
            if request.platform.fits(platform) {
                other.join(nodes);
            }
        }
        set.meet(&other);
        if let Some(kind) = request.gpu.and_then(|gpu| gpu.kind) {
            match self.gpu_types.iter().find(|(k, _)| *k == kind) {
                Some((_, nodes)) => set.meet(nodes),
                None => set.clear(),
            }
        }
        if !request.required.is_empty() {
            other.clear();
            let inside = |n: &&u32| (**n as usize) < self.nodes.len();
            request.required.iter().filter(inside).for_each(|&n| other.insert(n as usize));
            set.meet(&other);
        }
        for group in request.with.iter().filter_map(|g| self.groups.get(g)) {
            other.clear();
            group.nodes.iter().for_each(|&(n, _)| other.insert(n as usize));
            set.meet(&other);
        }
        for group in request.apart.iter().filter_map(|g| self.groups.get(g)) {
            group.nodes.iter().for_each(|&(n, _)| set.remove(n as usize));
        }
        let inside = request.avoided.iter().filter(|&&n| (n as usize) < self.nodes.len());
        inside.for_each(|&n| set.remove(n as usize));
        let still = self.avoided.iter().filter(|&(_, &until)| until > now_s);
        still.for_each(|(&n, _)| set.remove(n as usize));
        (self.candidates, self.other) = (set, other);
    }

    /// Why a zone is out, whatever its nodes have.
    fn zone_fault(&self, zone: usize, request: &Request) -> Option<Reason> {
        let zone = &self.zones[zone];
        if !request.regions.is_empty() && !request.regions.contains(&zone.region) {
            return Some(Reason::Region);
        }
        let far = |&(site, max): &(u16, u32)| {
            zone.latency_us.get(usize::from(site)).is_none_or(|&us| us > max)
        };
        request.latency_us_max.iter().any(far).then_some(Reason::Latency)
    }

    /// Members of the spread group in the allowed zone that has fewest.
    fn fewest(&self, request: &Request) -> u32 {
        let Some(group) = request.spread.and_then(|s| self.groups.get(&s.group)) else { return 0 };
        let allowed = (0..self.zones.len()).filter(|&z| {
            self.zone_fault(z, request).is_none() && self.zone_sets[z].0.iter().any(|&w| w != 0)
        });
        allowed.map(|z| group.zones[z]).min().unwrap_or(0)
    }

    fn crowded(&self, zone: usize, request: &Request, fewest: u32) -> bool {
        request.spread.is_some_and(|spread| {
            self.members(spread.group, zone) + 1 > fewest.saturating_add(spread.skew_max.max(1))
        })
    }

    fn members(&self, group: u32, zone: usize) -> u32 {
        self.groups.get(&group).map_or(0, |g| g.zones[zone])
    }

    /// What a node has too little of.
    #[inline]
    fn shortage(&self, node: &Node, request: &Request) -> Option<Reason> {
        if node.vms_left == 0 {
            return Some(Reason::VmCap);
        }
        if request.gpu.is_some_and(|gpu| gpu.count > node.gpus_free) {
            return Some(Reason::Gpus);
        }
        (0..RESOURCES).find(|&r| request.needs[r] > node.free[r]).map(Reason::Lacks)
    }

    #[inline]
    fn score(&self, node: &Node, request: &Request) -> Score {
        let mut shares = [FULL; RESOURCES];
        for (r, share) in shares.iter_mut().enumerate() {
            // used < 2^46 and reciprocal <= 2^62: the product needs 128 bits, the share 17.
            let used = node.capacity[r] - node.free[r] + request.needs[r];
            let product = u128::from(used) * u128::from(node.reciprocal[r]);
            if node.capacity[r] > 0 {
                *share = (product >> (SHARE_BITS - 16)) as i64;
            }
        }
        let members = request.spread.map_or(0, |s| self.members(s.group, node.zone as usize));
        Score::of(shares, members, node.gpus_free > 0 && request.gpu.is_none())
    }

    /// Counts the first reason of every node.
    fn explain(&self, request: &Request, now_s: u64) -> Refusal {
        let mut counts = [0u32; REASONS.len()];
        let fewest = self.fewest(request);
        let mut until: Option<u64> = None;
        for at in 0..self.nodes.len() {
            let Some(reason) = self.reason(at, request, now_s, fewest) else { continue };
            let own = self.avoided.get(&(at as u32)).copied().filter(|&u| u > now_s);
            if let (Reason::Avoided, Some(end)) = (reason, own) {
                until = Some(until.map_or(end, |u| u.min(end)));
            }
            if let Some(row) = REASONS.iter().position(|&r| r == reason) {
                counts[row] += 1;
            }
        }
        let counted = REASONS.iter().copied().zip(counts).filter(|&(_, count)| count > 0);
        let mut counts: Vec<(Reason, u32)> = counted.collect();
        counts.sort_by_key(|&(reason, count)| (std::cmp::Reverse(count), reason));
        Refusal { counts, avoided_until_s: until.filter(|&u| u != u64::MAX) }
    }

    /// The first reason for which a node does not take a guest.
    fn reason(&self, at: usize, request: &Request, now_s: u64, fewest: u32) -> Option<Reason> {
        let (node, name) = (&self.nodes[at], at as u32);
        let zone = node.zone as usize;
        if !request.required.is_empty() && !request.required.contains(&name) {
            return Some(Reason::NotRequired);
        }
        let barred = self.avoided.get(&name).is_some_and(|&until| until > now_s);
        if barred || request.avoided.contains(&name) {
            return Some(Reason::Avoided);
        }
        if let Some(fault) = self.zone_fault(zone, request) {
            return Some(fault);
        }
        if !request.platform.fits(&self.classes[self.class_of[at] as usize].0) {
            return Some(Reason::Platform);
        }
        let wanted = request.gpu.and_then(|gpu| gpu.kind);
        if wanted.is_some() && wanted != self.gpu_type_of[at] {
            return Some(Reason::GpuType);
        }
        let runs = |g: &Group| g.nodes.binary_search_by_key(&name, |&(n, _)| n).is_ok();
        if request.with.iter().filter_map(|g| self.groups.get(g)).any(|g| !runs(g)) {
            return Some(Reason::NotWith);
        }
        if request.apart.iter().filter_map(|g| self.groups.get(g)).any(runs) {
            return Some(Reason::NotApart);
        }
        if self.crowded(zone, request, fewest) {
            return Some(Reason::Spread);
        }
        self.shortage(node, request)
    }
}
