use dwcp_placement::Rng;
use dwcp_placement::reassign::search::{anneal::*, problem::*, state::*};
use dwcp_placement::reassign::*;
use std::time::Instant;
fn arg(n: &str, d: f64) -> f64 {
    std::env::args().find_map(|a| a.strip_prefix(&format!("{n}=")).map(|v| v.parse().unwrap())).unwrap_or(d)
}
fn run<const D: usize>(model: &Model, home: &[u32], best: f64) {
    let start = Instant::now();
    let problem = Problem::<D>::new(model, home);
    let mut state = State::new(&problem, home);
    let initial = state.cost;
    println!("init {} exact {}", initial, evaluate(model, home, home).total());
    let log = LogTable::new();
    let mut rng = Rng::new(arg("seed", 1.0) as u64);
    let secs = arg("time", 20.0);
    let (t0, t1) = (arg("t0", 1e6), arg("t1", 10.0));
    let (l0, l1) = (arg("l0", 0.5), arg("l1", 0.0));
    let lend = arg("lend", 0.7);
    let mut b = (f64::MAX, Vec::new());
    let mut n = 0u64;
    let mut next = 0.0;
    loop {
        let f = start.elapsed().as_secs_f64() / secs;
        if f >= 1.0 { break; }
        let t = t0 * (t1 / t0 as f64).powf((f / 0.97).min(1.0));
        let price = if f < lend { l0 + (l1 - l0) * f / lend } else { 0.0 };
        anneal(&mut state, &mut rng, &log, Stretch { steps: 4096, temperature: t, price, swaps: arg("swaps", 128.0) as u64 }, &mut b);
        n += 4096;
        if f > next {
            let away = state.at.iter().zip(home).filter(|(a, b)| a != b).count();
            println!("f {f:.2} t {t:.0} price {price:.3} cost {} score {:.4}% away {away} it {n}", state.cost, (state.cost - best) / initial * 100.0);
            next += 0.1;
        }
    }
    let c = evaluate(model, home, &state.at);
    println!("end {} exact {} {:?} viol {:?} score {:.4}% it/s {:.2}M", state.cost, c.total(), c, violations(model, home, &state.at).first(), (state.cost - best) / initial * 100.0, n as f64 / secs / 1e6);
}
fn main() {
    let name = std::env::args().nth(1).unwrap();
    let dir = "/tmp/w/itp-data";
    let s = Instant::now();
    let model = parse_model(&std::fs::read_to_string(format!("{dir}/model_{name}.txt")).unwrap()).unwrap();
    let home = parse_assignment(&model, &std::fs::read_to_string(format!("{dir}/assignment_{name}.txt")).unwrap()).unwrap();
    println!("read {:?}", s.elapsed());
    let best = match name.as_str() {
        "b_1" => 3_339_186_879.0, "b_2" => 1_015_553_800.0, "b_3" => 156_835_787.0, "b_4" => 4_677_823_040.0,
        "b_5" => 923_092_380.0, "b_6" => 9_525_857_752.0, "b_8" => 1_214_458_817.0, "b_9" => 15_885_486_698.0,
        "a1_1" => 44_306_501.0, "a1_2" => 777_912_030.0, "a1_3" => 583_006_422.0, "a1_4" => 262_125_116.0, "a1_5" => 727_578_310.0,
        "a2_1" => 329.0, "a2_2" => 746_097_632.0, "a2_3" => 1_210_644_572.0, "a2_4" => 1_680_615_349.0, "a2_5" => 318_358_949.0, _ => 0.0 };
    match dimensions(&model) {
        0..=2 => run::<2>(&model, &home, best),
        3..=4 => run::<4>(&model, &home, best),
        5..=6 => run::<6>(&model, &home, best),
        7..=8 => run::<8>(&model, &home, best),
        9..=12 => run::<12>(&model, &home, best),
        _ => run::<14>(&model, &home, best),
    }
}
