//! Online decisions: how long one takes, and how full the nodes get.

use std::time::Instant;

use anyhow::Result;
use dwcp_placement::Rng;
use dwcp_placement::online::{Gpu, Index, NodeSpec, Platform, PlatformNeed, Request, Spread, Zone};

use crate::placement::Row;
use crate::table;

/// Guests per node that are there before decisions are timed.
const VMS_PER_NODE: usize = 100;
/// Decisions that are timed.
const DECISIONS: usize = 20_000;
/// Affinity groups.
const GROUPS: usize = 500;

/// Times decisions at 1,000 and 10,000 nodes.
pub(crate) fn run(tiny: bool) -> Result<Vec<Row>> {
    let (sizes, decisions) =
        if tiny { (&[50][..], 200) } else { (&[1_000, 10_000][..], DECISIONS) };
    let (mut rows, mut shown) = (Vec::new(), Vec::new());
    for &nodes in sizes {
        let outcome = time(nodes, decisions)?;
        let at = |share: f64| outcome.us[((outcome.us.len() - 1) as f64 * share) as usize];
        let figures = [
            ("p50_us", at(0.5)),
            ("p99_us", at(0.99)),
            ("max_us", at(1.0)),
            ("refused", outcome.refused as f64),
        ];
        for (figure, value) in figures {
            let (case, algorithm) = (format!("{nodes} nodes"), "index".to_owned());
            rows.push(Row {
                part: "online",
                case,
                algorithm,
                seed: 1,
                seconds: 0.0,
                figure,
                value,
            });
        }
        let mut cells = vec![nodes.to_string(), outcome.vms.to_string()];
        cells.extend(figures.map(|(_, value)| format!("{value:.1}")));
        shown.push(cells);
    }
    print!("{}", table::render(&["nodes", "VMs", "p50 us", "p99 us", "max us", "refused"], &shown));
    Ok(rows)
}

struct Timed {
    us: Vec<f64>,
    vms: usize,
    refused: usize,
}

fn time(nodes: usize, decisions: usize) -> Result<Timed> {
    let mut rng = Rng::new(1);
    let zone = |region| Zone { region, latency_us: vec![200, 800, 3_000] };
    let zones: Vec<Zone> = (0..10).map(|z| zone(z / 4)).collect();
    let specs: Vec<NodeSpec> = (0..nodes).map(|n| node(&mut rng, n)).collect();
    let mut index = Index::new(zones, &specs)?;
    let (mut vm, mut tries) = (0u64, 0);
    while index.vms() < nodes * VMS_PER_NODE && tries < 2 * nodes * VMS_PER_NODE {
        let wanted = request(&mut rng);
        if let Ok(decision) = index.decide(&wanted, 0) {
            index.place(vm, &wanted, decision.node)?;
            vm += 1;
        }
        tries += 1;
    }
    let (mut us, mut refused) = (Vec::with_capacity(decisions), 0);
    let mut oldest = 0;
    for _ in 0..decisions {
        let wanted = request(&mut rng);
        let start = Instant::now();
        let answer = index.decide(&wanted, 0);
        us.push(start.elapsed().as_secs_f64() * 1e6);
        match answer {
            Ok(decision) => {
                index.place(vm, &wanted, decision.node)?;
                index.remove(oldest)?;
                (vm, oldest) = (vm + 1, oldest + 1);
            }
            Err(_) => refused += 1,
        }
    }
    us.sort_by(f64::total_cmp);
    Ok(Timed { us, vms: index.vms(), refused })
}

fn node(rng: &mut Rng, n: usize) -> NodeSpec {
    let gpus = rng.below(5) == 0;
    NodeSpec {
        zone: (n % 10) as u32,
        capacity: [128_000, 524_288, 20_000, 25_000],
        memory_reserve_mib: 8_192,
        vms_max: 200,
        gpu_type: gpus.then_some((n % 2) as u16),
        gpus: 8,
        platform: Platform {
            cpu_model: (n % 3) as u16,
            cpu_flags: 0xff,
            machine_types: 0b111,
            qemu: (8, 2),
            huge_pages: 0b11,
            storage: 1 << (n % 4) | 1,
            ..Platform::default()
        },
    }
}

fn request(rng: &mut Rng) -> Request {
    let size = 1 + rng.below(3) as u64;
    let group = rng.below(GROUPS) as u32;
    let mut wanted = Request {
        needs: [500 * size, 2_048 * size, 40 * size, 100],
        groups: vec![group],
        platform: PlatformNeed { machine_types: 0b1, qemu_min: (7, 2), ..PlatformNeed::default() },
        ..Request::default()
    };
    match rng.below(8) {
        0 => wanted.with = vec![group],
        1 => wanted.apart = vec![group],
        2 | 3 => wanted.spread = Some(Spread { group, skew_max: 2 }),
        4 => wanted.gpu = Some(Gpu { kind: Some(rng.below(2) as u16), count: 1 }),
        5 => wanted.regions = vec![rng.below(3) as u16],
        6 => wanted.latency_us_max = vec![(1, 1_000)],
        _ => {}
    }
    wanted
}
