//! Random zones, nodes and requests that use every constraint.

use dwcp_placement::Rng;
use dwcp_placement::online::{Gpu, NodeSpec, Platform, PlatformNeed, Request, Spread, Zone};

pub fn zones(rng: &mut Rng) -> Vec<Zone> {
    let zone = |region| Zone {
        region,
        latency_us: (0..1 + rng.below(3)).map(|_| rng.below(1_000) as u32).collect(),
    };
    [0u16, 0, 1, 1, 2].map(zone).to_vec()
}

fn platform(rng: &mut Rng) -> Platform {
    Platform {
        architecture: rng.below(8) as u16 / 7,
        cpu_model: rng.below(3) as u16,
        cpu_flags: [0b111, 0b11, 0b101][rng.below(3)],
        machine_types: [0b11, 0b01][rng.below(2)],
        qemu: (7 + rng.below(4) as u16, 2),
        huge_pages: rng.below(4) as u16,
        storage: [0b11, 0b01, 0b11][rng.below(3)],
        devices: rng.below(2) as u64,
    }
}

pub fn nodes(rng: &mut Rng, count: usize) -> Vec<NodeSpec> {
    let platforms: Vec<Platform> = (0..4).map(|_| platform(rng)).collect();
    let node = |_| NodeSpec {
        zone: rng.below(5) as u32,
        capacity: [
            8_000 * (1 + rng.below(4) as u64),
            16_384 * (1 + rng.below(4) as u64),
            if rng.below(10) == 0 { 0 } else { 1_000 },
            10_000,
        ],
        memory_reserve_mib: 1_024,
        vms_max: 4 + rng.below(12) as u32,
        gpu_type: [None, None, Some(0), Some(1)][rng.below(4)],
        gpus: rng.below(5) as u16,
        platform: platforms[rng.below(4)].clone(),
    };
    (0..count).map(node).collect()
}

pub fn request(rng: &mut Rng, nodes: usize) -> Request {
    let rare = |rng: &mut Rng| rng.below(6) == 0;
    let mut wanted = Request {
        needs: [
            500 * (1 + rng.below(8) as u64),
            512 * (1 + rng.below(16) as u64),
            rng.below(60) as u64,
            rng.below(1_000) as u64,
        ],
        ..Request::default()
    };
    if rare(rng) {
        let kind = [None, Some(0), Some(1), Some(7)][rng.below(4)];
        wanted.gpu = Some(Gpu { kind, count: 1 + rng.below(2) as u16 });
    }
    wanted.groups = (0..rng.below(3)).map(|_| rng.below(12) as u32).collect();
    if rare(rng) {
        wanted.with.push(rng.below(12) as u32);
    }
    if rare(rng) {
        wanted.apart.push(rng.below(12) as u32);
    }
    if rare(rng) {
        let group = rng.below(12) as u32;
        wanted.spread = Some(Spread { group, skew_max: 1 + rng.below(2) as u32 });
    }
    if rare(rng) {
        wanted.required = (0..1 + rng.below(8)).map(|_| rng.below(nodes + 1) as u32).collect();
    }
    if rare(rng) {
        wanted.avoided = (0..rng.below(8)).map(|_| rng.below(nodes + 1) as u32).collect();
    }
    if rare(rng) {
        wanted.regions = vec![rng.below(3) as u16];
    }
    if rare(rng) {
        wanted.latency_us_max = vec![(rng.below(3) as u16, 200 + rng.below(800) as u32)];
    }
    if rare(rng) {
        wanted.platform = PlatformNeed {
            architecture: Some(0),
            cpu_model: [None, Some(1)][rng.below(2)],
            cpu_flags: [0, 0b1, 0b100][rng.below(3)],
            machine_types: 0b1,
            qemu_min: (8, 0),
            huge_pages: rng.below(2) as u16,
            storage: [0, 0b10][rng.below(2)],
            devices: rng.below(2) as u64,
        };
    }
    wanted
}
