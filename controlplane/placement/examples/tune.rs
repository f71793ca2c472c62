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
    let name = &a[1];
    let secs: f64 = a[2].parse().unwrap();
    let seed: u64 = a[3].parse().unwrap();
    let dir = "/tmp/w/itp-data";
    let start = Instant::now();
    let model =
        parse_model(&std::fs::read_to_string(format!("{dir}/model_{name}.txt")).unwrap()).unwrap();
    let home = parse_assignment(
        &model,
        &std::fs::read_to_string(format!("{dir}/assignment_{name}.txt")).unwrap(),
    )
    .unwrap();
    let best = match name.as_str() {
        "b_1" => 3_339_186_879.0,
        "b_2" => 1_015_553_800.0,
        "b_3" => 156_835_787.0,
        "b_4" => 4_677_823_040.0,
        "b_5" => 923_092_380.0,
        "b_6" => 9_525_857_752.0,
        "b_8" => 1_214_458_817.0,
        "b_9" => 15_885_486_698.0,
        "a1_1" => 44_306_501.0,
        "a1_2" => 777_912_030.0,
        "a1_3" => 583_006_422.0,
        "a1_4" => 262_125_116.0,
        "a1_5" => 727_578_310.0,
        "a2_1" => 329.0,
        "a2_2" => 746_097_632.0,
        "a2_3" => 1_210_644_572.0,
        "a2_4" => 1_680_615_349.0,
        "a2_5" => 318_358_949.0,
        _ => 0.0,
    };
    let clock = C(start, secs);
    let initial = evaluate(&model, &home, &home).total() as f64;
    let budget = match a.get(4) {
        Some(n) => Budget::Iterations(n.parse().unwrap()),
        None => Budget::Time(&clock),
    };
    let g = |k: &str, d: f64| std::env::var(k).map_or(d, |v| v.parse().unwrap());
    let mut ls = LocalSearch::default();
    for c in &mut ls.characters {
        c.warmth *= g("W", 1.0);
        c.price *= g("PR", 1.0);
    }
    let o = ls
        .solve(
            &Task { model: &model, initial: &home, pinned: &[], seed, budget },
            if a.len() > 5 { &Inline } else { &T },
        )
        .unwrap();
    let h = o.assignment.iter().fold(7u64, |h, &x| h.wrapping_mul(31).wrapping_add(x.into()));
    println!(
        "{name} seed {seed} {:.2}s {:?} total {} score {:+.5}% steps {}M acc {}M hash {h:x} iters {}",
        start.elapsed().as_secs_f64(),
        o.cost,
        o.cost.total(),
        (o.cost.total() as f64 - best) / initial * 100.0,
        o.steps / 1000000,
        o.accepted / 1000000,
        if a.len() > 6 { o.iterations.to_string() } else { String::new() }
    );
}
