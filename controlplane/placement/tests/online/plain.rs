//! The rules written down once more, over a list of guests: slow, and without any state to get wrong.

use std::collections::BTreeMap;

use dwcp_placement::online::{NodeSpec, Request, Zone};

/// Everything there is.
pub struct Plain {
    zones: Vec<Zone>,
    nodes: Vec<NodeSpec>,
    guests: BTreeMap<u64, (Request, u32)>,
    avoided: BTreeMap<u32, u64>,
}

impl Plain {
    pub fn new(zones: Vec<Zone>, nodes: Vec<NodeSpec>) -> Self {
        Self { zones, nodes, guests: BTreeMap::new(), avoided: BTreeMap::new() }
    }

    pub fn avoid(&mut self, node: u32, until: u64) {
        self.avoided.insert(node, until);
    }

    pub fn place(&mut self, vm: u64, request: &Request, node: u32) {
        self.guests.insert(vm, (request.clone(), node));
    }

    pub fn remove(&mut self, vm: u64) {
        self.guests.remove(&vm);
    }

    /// (score, node) of the best node; of equal ones the first.
    pub fn best(&self, wanted: &Request, now: u64) -> Option<(i64, u32)> {
        let fitting = (0..self.nodes.len()).filter(|&n| self.takes(n, wanted, now));
        let scored = fitting.map(|n| (self.score(n, wanted), n as u32));
        scored.max_by_key(|&(score, node)| (score, std::cmp::Reverse(node)))
    }

    fn on(&self, node: usize) -> impl Iterator<Item = &Request> {
        self.guests.values().filter(move |(_, n)| *n as usize == node).map(|(r, _)| r)
    }

    fn used(&self, node: usize) -> [u64; 4] {
        let mut used = [0; 4];
        for guest in self.on(node) {
            (0..4).for_each(|r| used[r] += guest.needs[r]);
        }
        used
    }

    fn capacity(&self, node: usize) -> [u64; 4] {
        let mut capacity = self.nodes[node].capacity;
        capacity[1] = capacity[1].saturating_sub(self.nodes[node].memory_reserve_mib);
        capacity
    }

    fn gpus_free(&self, node: usize) -> u16 {
        let all = if self.nodes[node].gpu_type.is_some() { self.nodes[node].gpus } else { 0 };
        all - self.on(node).filter_map(|g| g.gpu).map(|gpu| gpu.count).sum::<u16>()
    }

    fn members(&self, group: u32, zone: u32) -> u32 {
        let there = self.guests.values().filter(|(guest, node)| {
            guest.groups.contains(&group) && self.nodes[*node as usize].zone == zone
        });
        there.count() as u32
    }

    fn reachable(&self, zone: u32, wanted: &Request) -> bool {
        let zone = &self.zones[zone as usize];
        (wanted.regions.is_empty() || wanted.regions.contains(&zone.region))
            && wanted
                .latency_us_max
                .iter()
                .all(|&(site, max)| zone.latency_us.get(site as usize).is_some_and(|&us| us <= max))
    }

    fn takes(&self, n: usize, wanted: &Request, now: u64) -> bool {
        let (node, name) = (&self.nodes[n], n as u32);
        let anywhere =
            |group: &u32| self.guests.values().any(|(guest, _)| guest.groups.contains(group));
        let here = |group: &u32| self.on(n).any(|guest| guest.groups.contains(group));
        let (need, has) = (&wanted.platform, &node.platform);
        let platform = need.architecture.is_none_or(|a| a == has.architecture)
            && need.cpu_model.is_none_or(|m| m == has.cpu_model)
            && need.cpu_flags & has.cpu_flags == need.cpu_flags
            && need.machine_types & has.machine_types == need.machine_types
            && has.qemu >= need.qemu_min
            && need.huge_pages & has.huge_pages == need.huge_pages
            && need.storage & has.storage == need.storage
            && need.devices & has.devices == need.devices;
        let spread = wanted.spread.is_none_or(|spread| {
            let zones = self.nodes.iter().map(|n| n.zone).filter(|&z| self.reachable(z, wanted));
            let fewest = zones.map(|z| self.members(spread.group, z)).min().unwrap_or(0);
            self.members(spread.group, node.zone) < fewest + spread.skew_max
        });
        let (used, capacity) = (self.used(n), self.capacity(n));
        (wanted.required.is_empty() || wanted.required.contains(&name))
            && !wanted.avoided.contains(&name)
            && self.avoided.get(&name).is_none_or(|&until| until <= now)
            && self.reachable(node.zone, wanted)
            && platform
            && wanted.gpu.is_none_or(|g| g.kind.is_none() || g.kind == node.gpu_type)
            && wanted.gpu.is_none_or(|g| g.count <= self.gpus_free(n))
            && wanted.with.iter().all(|g| !anywhere(g) || here(g))
            && !wanted.apart.iter().any(here)
            && spread
            && self.on(n).count() < node.vms_max as usize
            && (0..4).all(|r| used[r] + wanted.needs[r] <= capacity[r])
    }

    fn score(&self, n: usize, wanted: &Request) -> i64 {
        let (used, capacity) = (self.used(n), self.capacity(n));
        let share = |r: usize| match capacity[r] {
            0 => 65_536,
            c => {
                let product = u128::from(used[r] + wanted.needs[r]) * u128::from((1u64 << 62) / c);
                (product >> 46) as i64
            }
        };
        let shares = [share(0), share(1), share(2), share(3)];
        let high = shares.into_iter().max().expect("four");
        let low = shares.into_iter().min().expect("four");
        let members = wanted.spread.map_or(0, |s| self.members(s.group, self.nodes[n].zone));
        let beside = wanted.gpu.is_none() && self.gpus_free(n) > 0;
        4 * shares.iter().sum::<i64>() / 4
            - 3 * (high - low)
            - i64::from(members) * 16_384
            - if beside { 131_072 } else { 0 }
    }
}
