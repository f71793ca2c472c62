//! Task graphs of the published generator: our schedules beside plain HEFT, the lower bound, and the
//! optimum of small graphs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dwcp_placement::graph::{GraphShape, exact, generate, heft, lower_bound, partition};
use dwcp_placement::reassign::{Budget, Inline, Iterations};

use crate::placement::{Clock, Row, Threads};
use crate::table;

/// Mean transfer over mean compute time.
const RATIOS: [f64; 3] = [0.1, 1.0, 10.0];
/// Everything for one graph of 1,000 tasks.
const LIMIT: Duration = Duration::from_millis(950);
/// Builds of each searcher on small graphs.
const SMALL_BUILDS: u64 = 20_000;
/// Partial schedules that are looked at before a small graph counts as unsolved.
const EXACT_STEPS_MAX: u64 = 200_000_000;

/// Runs the seeds and prints medians.
pub(crate) fn run(tiny: bool) -> Result<Vec<Row>> {
    let (seeds, tasks, small) = if tiny { (2, 60, 3) } else { (100, 1_000, 200) };
    let (mut rows, mut shown) = (Vec::new(), Vec::new());
    for ratio in RATIOS {
        let shape =
            GraphShape { tasks, nodes: 8, alpha: 1.0, out_degree: 3, ccr: ratio, beta: 1.0 };
        let (mut of_heft, mut of_bound, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
        for seed in 1..=seeds {
            let graph = generate(&shape, seed)?;
            let start = Instant::now();
            let clock = Clock(start, LIMIT);
            let found = partition(&graph, seed, &Budget::Time(&clock), &Threads(2)).schedule;
            seconds.push(start.elapsed().as_secs_f64());
            of_heft.push(found.makespan / heft(&graph).makespan);
            of_bound.push(lower_bound(&graph) / found.makespan);
        }
        for list in [&mut of_heft, &mut of_bound, &mut seconds] {
            list.sort_by(f64::total_cmp);
        }
        let (middle, last) = ((of_heft.len() - 1) / 2, of_heft.len() - 1);
        let figures = [
            ("of_heft_median", of_heft[middle]),
            ("of_heft_max", of_heft[last]),
            ("bound_share_median", of_bound[middle]),
            ("bound_share_min", of_bound[0]),
            ("seconds_max", seconds[last]),
        ];
        let mut cells = vec![format!("{tasks} tasks, ratio {ratio}")];
        cells.extend(figures.map(|(_, value)| format!("{value:.4}")));
        shown.push(cells);
        for (figure, value) in figures {
            let (case, algorithm) = (format!("{tasks} tasks ratio {ratio}"), "search".to_owned());
            let seconds = LIMIT.as_secs_f64();
            rows.push(Row { part: "graphs", case, algorithm, seed: 0, seconds, figure, value });
        }
    }
    let header = ["graphs", "of HEFT", "worst", "bound / makespan", "worst", "seconds at most"];
    print!("{}", table::render(&header, &shown));
    small_graphs(small, &mut rows)?;
    Ok(rows)
}

fn small_graphs(count: u64, rows: &mut Vec<Row>) -> Result<()> {
    let (mut ratios, mut unsolved) = (Vec::new(), 0);
    for seed in 1..=count {
        let ccr = RATIOS[(seed % 3) as usize];
        let shape = GraphShape { tasks: 10, nodes: 3, alpha: 1.0, out_degree: 2, ccr, beta: 1.0 };
        let graph = generate(&shape, seed)?;
        let budget = Budget::Iterations(Iterations::total_of(SMALL_BUILDS));
        let found = partition(&graph, seed, &budget, &Inline).schedule;
        match exact(&graph, found.clone(), EXACT_STEPS_MAX) {
            Some(best) => ratios.push(found.makespan / best.makespan),
            None => unsolved += 1,
        }
    }
    ratios.sort_by(f64::total_cmp);
    let worst = *ratios.last().context("no small graph was solved")?;
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    println!(
        "{count} graphs of 10 tasks: {mean:.4} of the optimum on average, {worst:.4} at worst, {unsolved} unsolved"
    );
    for (figure, value) in [("of_optimum_mean", mean), ("of_optimum_max", worst)] {
        let (case, algorithm) = ("10 tasks".to_owned(), "search".to_owned());
        rows.push(Row { part: "graphs", case, algorithm, seed: 0, seconds: 0.0, figure, value });
    }
    Ok(())
}
