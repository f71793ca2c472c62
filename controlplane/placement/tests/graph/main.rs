//! Task graphs: every schedule is checked against the graph's own rules, and small ones against the best.

use dwcp_placement::graph::{
    Edge, GraphError, GraphShape, Schedule, TaskGraph, exact, generate, heft, lower_bound,
    partition,
};
use dwcp_placement::reassign::{Budget, Inline, Iterations};
use proptest::prelude::*;

/// Rounding of sums of a few thousand terms.
const EPSILON: f64 = 1e-9;

fn shape(tasks: usize, nodes: usize, ccr: f64) -> GraphShape {
    GraphShape { tasks, nodes, alpha: 1.0, out_degree: 2, ccr, beta: 1.0 }
}

fn search(graph: &TaskGraph, seed: u64, builds: u64) -> Schedule {
    let budget = Budget::Iterations(Iterations::total_of(builds));
    partition(graph, seed, &budget, &Inline).schedule
}

/// Is a schedule possible, and does it end when it says?
fn check(graph: &TaskGraph, edges: &[Edge], s: &Schedule) -> Result<(), String> {
    let end = |t: usize| s.start[t] + graph.seconds(t, s.node[t] as usize);
    for edge in edges {
        let (from, to) = (edge.from as usize, edge.to as usize);
        let there = end(from) + graph.bring(edge.data, s.node[from] as usize, s.node[to] as usize);
        if s.start[to] + EPSILON * there < there {
            return Err(format!("task {to} starts before the data of {from} is there"));
        }
    }
    for a in 0..graph.tasks() {
        for b in 0..a {
            let apart =
                end(a) <= s.start[b] * (1.0 + EPSILON) || end(b) <= s.start[a] * (1.0 + EPSILON);
            if s.node[a] == s.node[b] && !apart {
                return Err(format!("tasks {b} and {a} overlap"));
            }
        }
    }
    let last = (0..graph.tasks()).map(end).fold(0.0, f64::max);
    if (last - s.makespan).abs() > EPSILON * last { Err("wrong makespan".into()) } else { Ok(()) }
}

/// A random graph whose edges we know, with links that differ.
fn random(seed: u64, tasks: usize, nodes: usize) -> (TaskGraph, Vec<Edge>) {
    let mut rng = dwcp_placement::Rng::new(seed);
    let mut edges = Vec::new();
    for to in 1..tasks {
        for _ in 0..rng.below(4) {
            let from = rng.below(to) as u32;
            edges.push(Edge { from, to: to as u32, data: rng.range(0.0, 20.0) });
        }
    }
    let compute = (0..tasks * nodes).map(|_| rng.range(0.0, 10.0)).collect();
    let transfer = (0..nodes * nodes).map(|_| rng.range(0.1, 2.0)).collect();
    (TaskGraph::new(nodes, compute, transfer, &edges).expect("a graph"), edges)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn schedules_are_possible_and_between_bound_and_heft(
        seed: u64, tasks in 1usize..60, nodes in 1usize..6
    ) {
        let (graph, edges) = random(seed, tasks, nodes);
        let plain = heft(&graph);
        let found = search(&graph, seed, 600);
        prop_assert_eq!(check(&graph, &edges, &plain), Ok(()));
        prop_assert_eq!(check(&graph, &edges, &found), Ok(()));
        prop_assert!(found.makespan <= plain.makespan);
        prop_assert!(found.makespan >= lower_bound(&graph) * (1.0 - EPSILON));
        prop_assert_eq!(&found, &search(&graph, seed, 600));
    }

    #[test]
    fn the_exact_schedule_is_possible_and_not_beaten(seed: u64, tasks in 1usize..7, nodes in 1usize..4) {
        let (graph, edges) = random(seed, tasks, nodes);
        let best = exact(&graph, heft(&graph), u64::MAX).expect("no limit");
        prop_assert_eq!(check(&graph, &edges, &best), Ok(()));
        let found = search(&graph, seed, 4_000);
        prop_assert!(found.makespan >= best.makespan * (1.0 - EPSILON));
        prop_assert!(found.makespan <= best.makespan * 1.10, "{} {}", found.makespan, best.makespan);
        prop_assert!(best.makespan >= lower_bound(&graph) * (1.0 - EPSILON));
    }
}

#[test]
fn the_example_of_the_heft_paper() {
    // Figure 2 and table 1 of Topcuoglu et al. 2002: HEFT's makespan is 80.
    let compute = [
        [14, 16, 9],
        [13, 19, 18],
        [11, 13, 19],
        [13, 8, 17],
        [12, 13, 10],
        [13, 16, 9],
        [7, 15, 11],
        [5, 11, 14],
        [18, 12, 20],
        [21, 7, 16],
    ];
    let edges = [
        (1, 2, 18),
        (1, 3, 12),
        (1, 4, 9),
        (1, 5, 11),
        (1, 6, 14),
        (2, 8, 19),
        (2, 9, 16),
        (3, 7, 23),
        (4, 8, 27),
        (4, 9, 23),
        (5, 9, 13),
        (6, 8, 15),
        (7, 10, 17),
        (8, 10, 11),
        (9, 10, 13),
    ]
    .map(|(from, to, data)| Edge { from: from - 1, to: to - 1, data: f64::from(data) });
    let compute = compute.iter().flatten().map(|&c| f64::from(c)).collect();
    let graph = TaskGraph::new(3, compute, vec![1.0; 9], &edges).expect("a graph");
    assert_eq!(heft(&graph).makespan, 80.0);
    let best = exact(&graph, heft(&graph), u64::MAX).expect("no limit");
    assert_eq!(check(&graph, &edges, &best), Ok(()));
    assert_eq!(search(&graph, 1, 4_000).makespan, best.makespan);
    assert!(best.makespan < 80.0);
}

#[test]
fn the_generator_keeps_its_promises() {
    for ccr in [0.1, 1.0, 10.0] {
        let graph = generate(&shape(400, 8, ccr), 5).expect("a graph");
        assert_eq!((graph.tasks(), graph.nodes()), (400, 8));
        assert_eq!(graph, generate(&shape(400, 8, ccr), 5).expect("a graph"));
        assert_ne!(graph, generate(&shape(400, 8, ccr), 6).expect("a graph"));
    }
    assert_eq!(generate(&shape(5, 0, 1.0), 1), Err(GraphError::NoNodes));
}

#[test]
fn what_is_no_graph_is_an_error() {
    let edge = |from, to| Edge { from, to, data: 1.0 };
    let two = |edges: &[Edge]| TaskGraph::new(1, vec![1.0, 1.0], vec![0.0], edges);
    assert_eq!(two(&[edge(0, 1), edge(1, 0)]), Err(GraphError::Cycle(0)));
    assert_eq!(two(&[edge(1, 1)]), Err(GraphError::Cycle(1)));
    assert_eq!(two(&[edge(0, 2)]), Err(GraphError::NoSuchTask(0)));
    let bad = TaskGraph::new(1, vec![1.0, f64::NAN], vec![0.0], &[]);
    assert_eq!(bad, Err(GraphError::Number { table: "compute times", at: 1 }));
    let overflow = TaskGraph::new(1, vec![1e300], vec![0.0], &[]);
    assert_eq!(overflow, Err(GraphError::Number { table: "compute times", at: 0 }));
    assert!(matches!(
        TaskGraph::new(2, vec![1.0; 3], vec![0.0; 4], &[]),
        Err(GraphError::Size { .. })
    ));
    let empty = TaskGraph::new(3, vec![], vec![0.0; 9], &[]).expect("no tasks");
    assert_eq!((heft(&empty).makespan, search(&empty, 1, 10).makespan), (0.0, 0.0));
    assert_eq!(lower_bound(&empty), 0.0);
}
