//! `dwcp-bench placement`: solvers on the public instances beside the listed best costs, online
//! decisions, and task graphs.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use dwcp_hwtest::probe::{self, Missing};
use dwcp_placement::plan::{Limits, order};
use dwcp_placement::reassign::{
    Assignment, Budget, Deadline, Executor, Model, SOLVERS, Solver, Task, evaluate,
    parse_assignment, parse_model,
};

use crate::placement_record::record;
use crate::{placement_graphs, placement_online, table};

/// Instances and the best costs listed for them (shared data's README).
const LISTED: [(&str, i64); 18] = [
    ("a1_1", 44_306_501),
    ("a1_2", 777_912_030),
    ("a1_3", 583_006_422),
    ("a1_4", 262_125_116),
    ("a1_5", 727_578_310),
    ("a2_1", 329),
    ("a2_2", 746_097_632),
    ("a2_3", 1_210_644_572),
    ("a2_4", 1_680_615_349),
    ("a2_5", 318_358_949),
    ("b_1", 3_339_186_879),
    ("b_2", 1_015_553_800),
    ("b_3", 156_835_787),
    ("b_4", 4_677_823_040),
    ("b_5", 923_092_380),
    ("b_6", 9_525_857_752),
    ("b_8", 1_214_458_817),
    ("b_9", 15_885_486_698),
];
/// Seconds of a migration per unit of the first resource, for plans.
const SECONDS_PER_UNIT: f64 = 0.001;

/// Parts of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Solvers on the public instances
    Reassign,
    /// Decisions for one guest
    Online,
    /// Task graphs
    Graphs,
}

#[derive(Debug, Args)]
pub(crate) struct PlacementArgs {
    /// Parts to run
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Reassign, Part::Online, Part::Graphs])]
    parts: Vec<Part>,
    /// Public instances, such as b_1,a1_2 [default: all 18]
    #[arg(long, value_delimiter = ',')]
    instances: Vec<String>,
    /// Solvers [default: all]
    #[arg(long, value_delimiter = ',')]
    algorithms: Vec<String>,
    /// Seconds for each run of a solver
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Seeds
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3])]
    seeds: Vec<u64>,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The smallest size, to see that it works
    #[arg(long)]
    tiny: bool,
    /// Append to bench/record/MACHINE/placement.csv
    #[arg(long, conflicts_with = "tiny")]
    record: bool,
}

/// Time from a moment on.
pub(crate) struct Clock(pub(crate) Instant, pub(crate) Duration);

impl Deadline for Clock {
    fn used(&self) -> f64 {
        self.0.elapsed().as_secs_f64() / self.1.as_secs_f64().max(1e-9)
    }
}

/// Two lanes or one.
pub(crate) struct Threads(pub(crate) usize);

impl Executor for Threads {
    fn run(&self, jobs: Vec<Box<dyn FnOnce() + Send + '_>>) {
        if self.0 < 2 {
            return jobs.into_iter().for_each(|job| job());
        }
        std::thread::scope(|scope| jobs.into_iter().for_each(|job| drop(scope.spawn(job))));
    }
}

/// Runs the parts and prints their tables.
pub(crate) fn run(args: &PlacementArgs) -> Result<()> {
    for part in &args.parts {
        if let (true, Part::Reassign, Err(error)) = (args.tiny, part, texts("a1_1"))
            && error.downcast_ref::<Missing>().is_some()
        {
            probe::skip(&format!("placement on public instances: {error:#}"));
            continue;
        }
        let rows = match part {
            Part::Reassign => reassign(args)?,
            Part::Online => placement_online::run(args.tiny)?,
            Part::Graphs => placement_graphs::run(args.tiny)?,
        };
        if args.record {
            record(&rows)?;
        }
    }
    Ok(())
}

/// One recorded figure.
pub(crate) struct Row {
    pub(crate) part: &'static str,
    pub(crate) case: String,
    pub(crate) algorithm: String,
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) figure: &'static str,
    pub(crate) value: f64,
}

fn reassign(args: &PlacementArgs) -> Result<Vec<Row>> {
    let names: Vec<String> = match (&args.instances[..], args.tiny) {
        ([], true) => vec!["a1_1".to_owned()],
        ([], false) => LISTED.iter().map(|(name, _)| (*name).to_owned()).collect(),
        (given, _) => given.to_vec(),
    };
    let (seconds, seeds) =
        if args.tiny { (0.3, &[1][..]) } else { (args.seconds, &args.seeds[..]) };
    let chosen = |s: &&dyn Solver| {
        args.algorithms.is_empty() || args.algorithms.iter().any(|a| a == s.name())
    };
    let solvers: Vec<&dyn Solver> = SOLVERS.into_iter().filter(chosen).collect();
    let (mut rows, mut shown) = (Vec::new(), Vec::new());
    for name in &names {
        let Some((_, listed)) = LISTED.iter().find(|(known, _)| known == name) else {
            bail!("{name} is not among the public instances");
        };
        for solver in &solvers {
            let mut scores = Vec::new();
            for &seed in seeds {
                let run = one(name, *solver, seed, seconds, args.threads)?;
                let score = 100.0 * (run.cost - listed) as f64 / run.initial as f64;
                eprintln!("{name} {} seed {seed}: {} ({score:+.4} %)", solver.name(), run.cost);
                let mut row = |figure, value| {
                    let (case, algorithm) = (name.clone(), solver.name().to_owned());
                    let seconds = run.seconds;
                    rows.push(Row {
                        part: "reassign",
                        case,
                        algorithm,
                        seed,
                        seconds,
                        figure,
                        value,
                    });
                };
                row("cost", run.cost as f64);
                row("score_percent", score);
                row("plan_cost", run.plan_cost as f64);
                row("plan_dropped", run.dropped as f64);
                scores.push((score, run));
            }
            scores.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (score, run) = &scores[(scores.len() - 1) / 2];
            shown.push(vec![
                name.clone(),
                solver.name().to_owned(),
                run.cost.to_string(),
                listed.to_string(),
                format!("{score:+.4}"),
                run.moves.to_string(),
                run.dropped.to_string(),
                format!("{:+.4}", 100.0 * (run.plan_cost - run.cost) as f64 / run.cost as f64),
            ]);
        }
    }
    let header =
        ["instance", "algorithm", "cost", "listed", "score %", "moves", "dropped", "plan cost %"];
    print!("{}", table::render(&header, &shown));
    sums(&solvers, &shown);
    Ok(rows)
}

/// Sums of the scores on the B set, each instance counted at least 0, and raw.
fn sums(solvers: &[&dyn Solver], shown: &[Vec<String>]) {
    for solver in solvers {
        let own = shown.iter().filter(|row| row[1] == solver.name() && row[0].starts_with("b_"));
        let scores: Vec<f64> = own.filter_map(|row| row[4].parse().ok()).collect();
        if !scores.is_empty() {
            let counted: f64 = scores.iter().map(|s| s.max(0.0)).sum();
            let raw: f64 = scores.iter().sum();
            println!(
                "{}: sum over {} B instances {counted:.4} %, raw {raw:+.4} %",
                solver.name(),
                scores.len()
            );
        }
    }
}

struct Run {
    cost: i64,
    initial: i64,
    seconds: f64,
    moves: usize,
    dropped: usize,
    plan_cost: i64,
}

fn one(name: &str, solver: &dyn Solver, seed: u64, seconds: f64, threads: usize) -> Result<Run> {
    let (model_text, assignment_text) = texts(name)?;
    let start = Instant::now();
    let (model, initial) = parse(&model_text, &assignment_text)?;
    let clock = Clock(start, Duration::from_secs_f64(seconds));
    let budget = Budget::Time(&clock);
    let task = Task { model: &model, initial: &initial, pinned: &[], seed, budget };
    let outcome = solver.solve(&task, &Threads(threads))?;
    let seconds = start.elapsed().as_secs_f64();
    let forecast = |p: u32, _: u32, _: u32| {
        model.requirement[p as usize * model.resources()] as f64 * SECONDS_PER_UNIT
    };
    let plan = order(&model, &initial, &outcome.assignment, Limits::default(), &forecast)?;
    Ok(Run {
        cost: outcome.cost.total(),
        initial: evaluate(&model, &initial, &initial).total(),
        seconds,
        moves: plan.moves.len(),
        dropped: plan.dropped.len(),
        plan_cost: plan.end_cost,
    })
}

fn parse(model: &str, assignment: &str) -> Result<(Model, Assignment)> {
    let model = parse_model(model)?;
    let assignment = parse_assignment(&model, assignment)?;
    Ok((model, assignment))
}

/// Model and assignment text of a public instance.
fn texts(name: &str) -> Result<(String, String)> {
    let near = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var_os("DWCP_DATA").map_or(near, PathBuf::from);
    let archive = folder.join("roadef2012/instances.tar.xz");
    if !archive.exists() {
        let text = format!("no {}: set DWCP_DATA", archive.display());
        return Err(Missing(text).into());
    }
    let unpack = |file: String| -> Result<String> {
        let mut tar = Command::new("tar");
        tar.arg("-xJOf").arg(&archive).args(["--wildcards", &format!("*{file}")]);
        let output = tar.output().context("tar")?;
        if !output.status.success() {
            bail!("{file} is not in {}", archive.display());
        }
        Ok(String::from_utf8(output.stdout)?)
    };
    Ok((unpack(format!("model_{name}.txt"))?, unpack(format!("assignment_{name}.txt"))?))
}
