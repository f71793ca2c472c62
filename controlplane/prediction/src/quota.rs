//! Who may use how much of a link: a rate ceiling for each of several jobs.
//!
//! Pure; one pass of sorting and one of sharing.

use crate::history::RATE_MAX;

/// What a job wants of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Bytes that are left.
    pub bytes: u64,
    /// Seconds until it must be done, if ever.
    pub deadline_s: Option<f64>,
    /// Its share beside others; NaN and below zero count as 0.
    pub weight: f64,
    /// Most that it can use, in bytes per second.
    pub ceiling_bytes_per_s: f64,
}

/// Rate ceilings in bytes per second, in the order of the jobs.
///
/// `capacity` is the careful forecast of the link (P10 at the horizon of the jobs), of which the share
/// `reserve` (0..=1) stays free for others. First every job gets what its deadline takes, all cut
/// alike where that is more than there is; what is left goes by weight, to nobody more than its
/// ceiling. The sum is never more than the capacity without the reserve.
pub fn quotas(capacity_bytes_per_s: f64, reserve: f64, demands: &[Demand]) -> Vec<f64> {
    let sane = |value: f64, max: f64| if value > 0.0 { value.min(max) } else { 0.0 };
    let free = 1.0 - sane(reserve, 1.0);
    let capacity = sane(capacity_bytes_per_s, RATE_MAX) * free;
    // Less than a byte a second is nothing, and no number to divide.
    let capacity = if capacity < 1.0 { 0.0 } else { capacity };
    let ceilings: Vec<f64> =
        demands.iter().map(|d| sane(d.ceiling_bytes_per_s, RATE_MAX)).collect();
    let mut given: Vec<f64> = demands
        .iter()
        .zip(&ceilings)
        .map(|(demand, ceiling)| match demand.deadline_s {
            Some(left) if left > 0.0 => (demand.bytes as f64 / left).min(*ceiling),
            // Late already: all it can use.
            Some(_) => *ceiling,
            None => 0.0,
        })
        .collect();
    let needed: f64 = given.iter().sum();
    if needed > capacity {
        given.iter_mut().for_each(|rate| *rate *= capacity / needed);
        return given;
    }
    let mut left = capacity - needed;
    let weights: Vec<f64> = demands.iter().map(|d| sane(d.weight, 1e9)).collect();
    let room = |i: usize, given: &[f64]| ceilings[i] - given[i];
    // Those who need least for their weight are full first.
    let mut order: Vec<usize> = (0..demands.len()).filter(|&i| weights[i] > 0.0).collect();
    order.sort_by(|&a, &b| {
        (room(a, &given) / weights[a]).total_cmp(&(room(b, &given) / weights[b]))
    });
    let mut weight: f64 = order.iter().map(|&i| weights[i]).sum();
    for i in order {
        let share = (left * weights[i] / weight.max(1e-12)).min(room(i, &given)).max(0.0);
        given[i] += share;
        left -= share;
        weight -= weights[i];
    }
    given
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn job(weight: f64, ceiling: f64) -> Demand {
        Demand { bytes: 1_000, deadline_s: None, weight, ceiling_bytes_per_s: ceiling }
    }

    #[test]
    fn weights_share_what_deadlines_leave() {
        let urgent = Demand { deadline_s: Some(10.0), ..job(1.0, 1e9) };
        let given = quotas(1_000.0, 0.1, &[urgent, job(1.0, 1e9), job(2.0, 1e9)]);
        assert_eq!(given, [300.0, 200.0, 400.0]);
        assert_eq!(quotas(1_000.0, 0.0, &[job(1.0, 100.0), job(1.0, 1e9)]), [100.0, 900.0]);
        let late = Demand { deadline_s: Some(0.0), ..job(1.0, 600.0) };
        assert_eq!(quotas(600.0, 0.0, &[late, late]), [300.0, 300.0]);
        assert!(quotas(1e6, 0.0, &[]).is_empty());
    }

    proptest! {
        #[test]
        fn never_more_than_there_is(
            capacity in any::<f64>(), reserve in any::<f64>(),
            jobs in proptest::collection::vec(
                (any::<u64>(), proptest::option::of(any::<f64>()), any::<f64>(), any::<f64>()), 0..20),
        ) {
            let demands: Vec<Demand> = jobs
                .into_iter()
                .map(|(bytes, deadline_s, weight, ceiling_bytes_per_s)| {
                    Demand { bytes, deadline_s, weight, ceiling_bytes_per_s }
                })
                .collect();
            let given = quotas(capacity, reserve, &demands);
            prop_assert_eq!(given.len(), demands.len());
            let sum: f64 = given.iter().sum();
            prop_assert!(given.iter().all(|rate| rate.is_finite() && *rate >= 0.0));
            prop_assert!(sum <= capacity.clamp(0.0, RATE_MAX) * (1.0 + 1e-9) || sum == 0.0);
        }
    }
}
