//! Replays a plan second by second and recounts everything at each start and each arrival.

use std::collections::BTreeMap;

use dwcp_placement::plan::{Limits, Move};
use dwcp_placement::reassign::{Model, violations};

/// Where everything is in the end, or the first thing that is wrong.
pub fn replay(
    model: &Model,
    home: &[u32],
    moves: &[Move],
    limits: Limits,
) -> Result<Vec<u32>, String> {
    let mut at = home.to_vec();
    // Arrivals come before starts of the same moment.
    let mut events: Vec<(f64, bool, &Move)> = Vec::new();
    for one in moves {
        if one.end_s <= one.start_s {
            return Err(format!("{one:?} takes no time"));
        }
        events.push((one.start_s, true, one));
        events.push((one.end_s, false, one));
    }
    events.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut flying: Vec<&Move> = Vec::new();
    for (_, starts, one) in events {
        let p = one.process as usize;
        if starts {
            if at[p] != one.from || flying.iter().any(|f| f.process == one.process) {
                return Err(format!("{one:?} does not start where it is"));
            }
            flying.push(one);
            occupied(model, &at, &flying)?;
            within(model, &flying, limits)?;
        } else {
            flying.retain(|f| *f != one);
            at[p] = one.to;
            // Nothing moves in this comparison, so that transient resources count once.
            if let Some(broken) = violations(model, &at, &at).first() {
                return Err(format!("after {one:?}: {broken}"));
            }
        }
    }
    Ok(at)
}

/// Capacities and conflicts with everything in flight on both machines.
fn occupied(model: &Model, at: &[u32], flying: &[&Move]) -> Result<(), String> {
    let r = model.resources();
    let mut used = vec![0i64; model.capacity.len()];
    let mut present: Vec<(u32, u32)> = Vec::new();
    let both = at
        .iter()
        .enumerate()
        .map(|(p, &m)| (p, m))
        .chain(flying.iter().map(|f| (f.process as usize, f.to)));
    for (p, m) in both {
        present.push((model.service[p], m));
        for i in 0..r {
            used[m as usize * r + i] += model.requirement[p * r + i];
        }
    }
    if used.iter().zip(&model.capacity).any(|(used, capacity)| used > capacity) {
        return Err("a machine is too full".to_owned());
    }
    present.sort_unstable();
    match present.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("service {} meets itself on {}", pair[0].0, pair[0].1)),
        None => Ok(()),
    }
}

fn within(model: &Model, flying: &[&Move], limits: Limits) -> Result<(), String> {
    let mut counts: BTreeMap<(u8, u32, u32), u32> = BTreeMap::new();
    for one in flying {
        let place = |m: u32| model.location[m as usize];
        *counts.entry((0, one.from, 0)).or_default() += 1;
        *counts.entry((1, one.to, 0)).or_default() += 1;
        if place(one.from) != place(one.to) {
            *counts.entry((2, place(one.from), place(one.to))).or_default() += 1;
        }
    }
    let most = |kind: u8| counts.iter().filter(|(k, _)| k.0 == kind).map(|(_, &n)| n).max();
    let over = |kind, limit| most(kind).is_some_and(|n| n > limit);
    let broken = over(0, limits.per_source)
        || over(1, limits.per_target)
        || over(2, limits.per_link)
        || flying.len() > limits.total as usize;
    if broken { Err("too many side by side".to_owned()) } else { Ok(()) }
}
