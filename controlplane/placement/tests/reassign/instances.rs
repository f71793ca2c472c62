//! Random small instances whose initial assignment is feasible.

use dwcp_placement::Rng;
use dwcp_placement::reassign::{Balance, Model, Weights};

/// An instance and its initial assignment.
#[expect(clippy::too_many_lines, reason = "one table after the other; none is used elsewhere")]
pub fn instance(seed: u64) -> (Model, Vec<u32>) {
    let mut rng = Rng::new(seed);
    let resources = 1 + rng.below(4);
    let machines = 1 + rng.below(8);
    let services = 1 + rng.below(12);
    let areas = 1 + rng.below(3);
    let neighbourhood: Vec<u32> = (0..machines).map(|_| rng.below(areas) as u32 * 7).collect();
    let location: Vec<u32> = (0..machines).map(|_| rng.below(4) as u32).collect();
    let (mut service, mut at) = (Vec::new(), Vec::new());
    for s in 0..services {
        let mut places: Vec<u32> = (0..machines as u32).collect();
        rng.shuffle(&mut places);
        let count = 1 + rng.below(machines.min(5));
        for &machine in &places[..count] {
            service.push(s as u32);
            at.push(machine);
        }
    }
    let processes = service.len();
    let requirement: Vec<i64> = (0..processes * resources).map(|_| rng.below(50) as i64).collect();
    let mut used = vec![0i64; machines * resources];
    for p in 0..processes {
        for r in 0..resources {
            used[at[p] as usize * resources + r] += requirement[p * resources + r];
        }
    }
    let capacity: Vec<i64> = used.iter().map(|&u| u + rng.below(80) as i64).collect();
    let safety = capacity.iter().map(|&c| c * rng.below(100) as i64 / 100).collect();
    let distinct = |s: u32, of: &[u32]| {
        let mut seen: Vec<u32> =
            (0..processes).filter(|&p| service[p] == s).map(|p| of[at[p] as usize]).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    let spread_min =
        (0..services as u32).map(|s| 1 + rng.below(distinct(s, &location).len()) as u32).collect();
    let mut dependencies = vec![Vec::new(); services];
    for (s, list) in dependencies.iter_mut().enumerate() {
        let own = distinct(s as u32, &neighbourhood);
        for on in 0..services as u32 {
            let there = distinct(on, &neighbourhood);
            if rng.below(3) == 0 && own.iter().all(|n| there.contains(n)) {
                list.push(on);
            }
        }
    }
    let balances = (0..rng.below(3))
        .map(|_| Balance {
            first: rng.below(resources) as u32,
            second: rng.below(resources) as u32,
            target: rng.below(4) as i64,
            weight: rng.below(11) as i64,
        })
        .collect();
    let model = Model {
        transient: (0..resources).map(|_| rng.below(2) == 0).collect(),
        load_weight: (0..resources).map(|_| rng.below(3) as i64 * 5).collect(),
        balances,
        machine_move: (0..machines * machines)
            .map(|i| if i % (machines + 1) == 0 { 0 } else { rng.below(3) as i64 })
            .collect(),
        process_move: (0..processes).map(|_| rng.below(3) as i64).collect(),
        weights: Weights { process: 1, service: 10, machine: 100 },
        neighbourhood,
        location,
        capacity,
        safety,
        spread_min,
        dependencies,
        service,
        requirement,
    };
    (model.checked().expect("a sound instance"), at)
}
