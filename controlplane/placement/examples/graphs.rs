use dwcp_placement::graph::*;
use dwcp_placement::reassign::*;
use std::time::Instant;
struct C(Instant, f64);
impl Deadline for C {
    fn used(&self) -> f64 {
        self.0.elapsed().as_secs_f64() / self.1
    }
}
struct T;
impl Executor for T {
    fn run(&self, jobs: Vec<Box<dyn FnOnce() + Send + '_>>) {
        std::thread::scope(|s| {
            for j in jobs {
                s.spawn(j);
            }
        })
    }
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n: u64 = a[1].parse().unwrap();
    for ccr in [0.1, 1.0, 10.0] {
        let (mut r, mut l, mut it) = (Vec::new(), Vec::new(), 0);
        for seed in 1..=n {
            let g = generate(
                &GraphShape { tasks: 1000, nodes: 8, alpha: 1.0, out_degree: 3, ccr, beta: 1.0 },
                seed,
            )
            .unwrap();
            let h = heft(&g).makespan;
            let c = C(Instant::now(), 0.9);
            let p = partition(&g, seed, &Budget::Time(&c), &T);
            it = p.iterations.total();
            r.push(p.schedule.makespan / h);
            l.push(lower_bound(&g) / p.schedule.makespan);
        }
        r.sort_by(f64::total_cmp);
        l.sort_by(f64::total_cmp);
        println!(
            "ccr {ccr}: vs heft median {:.3} max {:.3}; lb/makespan median {:.3} min {:.3} iters {it}",
            r[r.len() / 2],
            r[r.len() - 1],
            l[l.len() / 2],
            l[0]
        );
    }
    let mut worst = 0.0f64;
    let mut none = 0;
    let mut v = vec![];
    let s = Instant::now();
    for seed in 1..=(n * 4) {
        let ccr = [0.1, 1.0, 10.0][seed as usize % 3];
        let g = generate(
            &GraphShape { tasks: 10, nodes: 3, alpha: 1.0, out_degree: 2, ccr, beta: 1.0 },
            seed,
        )
        .unwrap();
        let p = partition(&g, seed, &Budget::Iterations(Iterations::total_of(20000)), &Inline);
        match exact(&g, p.schedule.clone(), 20_000_000) {
            Some(e) => {
                v.push(p.schedule.makespan / e.makespan);
                worst = worst.max(p.schedule.makespan / e.makespan)
            }
            None => none += 1,
        }
    }
    println!(
        "10 tasks: mean {:.4} worst {worst:.4} unsolved {none} {:?}",
        v.iter().sum::<f64>() / v.len() as f64,
        s.elapsed()
    );
}
