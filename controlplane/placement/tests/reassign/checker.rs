//! A second reading of the challenge's problem definition, straight from the text of the files and
//! sharing no code with the crate. Slow and plain on purpose.

use std::collections::{BTreeMap, BTreeSet};

/// The cost of an assignment, or the first broken constraint in words.
#[expect(clippy::too_many_lines, reason = "one reading of the definition, from top to bottom")]
pub fn judge(model: &str, initial: &str, proposed: &str) -> Result<i128, String> {
    let mut numbers = model.split_whitespace().map(|w| w.parse::<i128>().expect("a number"));
    let mut next = || numbers.next().expect("a number");
    let machine_list = |text: &str| -> Vec<usize> {
        text.split_whitespace().map(|w| w.parse().expect("a machine")).collect()
    };
    let (old, new) = (machine_list(initial), machine_list(proposed));

    let resources: Vec<(bool, i128)> = (0..next()).map(|_| (next() == 1, next())).collect();
    let machine_count = next();
    struct Machine {
        area: i128,
        place: i128,
        capacity: Vec<i128>,
        safety: Vec<i128>,
        distance: Vec<i128>,
    }
    let machines: Vec<Machine> = (0..machine_count)
        .map(|_| Machine {
            area: next(),
            place: next(),
            capacity: resources.iter().map(|_| next()).collect(),
            safety: resources.iter().map(|_| next()).collect(),
            distance: (0..machine_count).map(|_| next()).collect(),
        })
        .collect();
    let services: Vec<(i128, Vec<usize>)> = (0..next())
        .map(|_| {
            let spread = next();
            (spread, (0..next()).map(|_| next() as usize).collect())
        })
        .collect();
    let processes: Vec<(usize, Vec<i128>, i128)> = (0..next())
        .map(|_| (next() as usize, resources.iter().map(|_| next()).collect(), next()))
        .collect();
    let balances: Vec<[i128; 4]> = (0..next()).map(|_| [next(), next(), next(), next()]).collect();
    let weights = [next(), next(), next()];
    assert!(numbers.next().is_none(), "numbers after the end");
    if new.len() != processes.len() || new.iter().any(|&m| m >= machines.len()) {
        return Err("not an assignment of these processes".to_owned());
    }

    let mut cost = 0;
    for (m, machine) in machines.iter().enumerate() {
        let mut free = Vec::new();
        for (r, &(transient, weight)) in resources.iter().enumerate() {
            let (mut used, mut held) = (0, 0);
            for (p, (_, need, _)) in processes.iter().enumerate() {
                used += if new[p] == m { need[r] } else { 0 };
                held += if new[p] == m || (transient && old[p] == m) { need[r] } else { 0 };
            }
            if held > machine.capacity[r] {
                return Err(format!("machine {m} is over its capacity of resource {r}"));
            }
            cost += weight * 0.max(used - machine.safety[r]);
            free.push(machine.capacity[r] - used);
        }
        for [first, second, target, weight] in &balances {
            cost += weight * 0.max(target * free[*first as usize] - free[*second as usize]);
        }
    }
    let mut machines_of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut moved: BTreeMap<usize, i128> = BTreeMap::new();
    for (p, (service, _, move_cost)) in processes.iter().enumerate() {
        machines_of.entry(*service).or_default().push(new[p]);
        cost += weights[2] * machines[old[p]].distance[new[p]];
        if old[p] != new[p] {
            cost += weights[0] * move_cost;
            *moved.entry(*service).or_default() += 1;
        }
    }
    cost += weights[1] * moved.values().max().unwrap_or(&0);
    for (s, (spread, needs)) in services.iter().enumerate() {
        let on = machines_of.get(&s).cloned().unwrap_or_default();
        if on.iter().collect::<BTreeSet<_>>().len() != on.len() {
            return Err(format!("service {s} is twice on a machine"));
        }
        let places: BTreeSet<i128> = on.iter().map(|&m| machines[m].place).collect();
        if (places.len() as i128) < *spread {
            return Err(format!("service {s} is in too few locations"));
        }
        for &m in &on {
            for need in needs {
                let near = machines_of.get(need).is_some_and(|list| {
                    list.iter().any(|&other| machines[other].area == machines[m].area)
                });
                if !near {
                    return Err(format!("service {s} misses service {need}"));
                }
            }
        }
    }
    Ok(cost)
}
