//! `dwcp-bench migrate`: the same warmed guest moved by each mode in turn, round by round.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use dwcp_hwtest::guest::{self, Guest, GuestSpec};
use dwcp_hwtest::net::{HostPair, Link};
use dwcp_hwtest::workdir::{WorkDir, cache_dir};
use dwcp_hwtest::{engine, interrupt, probe};
use serde_json::{Value, json};

use crate::migrate_mode::Mode;
use crate::migrate_report as report;
use crate::migrate_run::{self, Run, Setting};

/// QEMU warms up at least once over its dirty set at the bench guest's rate.
const WARM_UP: Duration = Duration::from_secs(15);
const WARM_UP_TINY: Duration = Duration::from_secs(1);
const RUN_LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Folder of a built guest [default: the 2 GiB guest, built on first use]
    #[arg(long, value_name = "DIR")]
    guest: Option<PathBuf>,
    /// Rate of the link between the two hosts, or none
    #[arg(long, default_value = "500mbit")]
    link: Link,
    /// qemu, qemu-multifd, qemu-multifd-zstd, qemu-xbzrle, dwcp, dwcp-image (the target holds the disk
    /// image), dwcp-return (the guest comes back), limit, limit-multifd
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "qemu,qemu-multifd,qemu-multifd-zstd,qemu-xbzrle,dwcp"
    )]
    modes: Vec<Mode>,
    /// Rounds; every round runs each mode once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// QEMU's multifd channels
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    channels: u8,
    /// QEMU's zstd level
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=20))]
    zstd_level: u8,
    /// Compare all guest memory after every run; the time it takes is not counted
    #[arg(long)]
    check_ram: bool,
    /// Follow the memory of our engines (Pss without guest RAM) and print its peak
    #[arg(long)]
    pss: bool,
    /// dwcp-engine [default: beside this program]
    #[arg(long, value_name = "FILE")]
    engine: Option<PathBuf>,
    /// Words added to `dwcp-engine send`, such as --send-arg=--streams=4
    #[arg(long = "send-arg", value_name = "WORD", allow_hyphen_values = true)]
    send_args: Vec<String>,
    /// The small guest, for a look whether everything works
    #[arg(long)]
    tiny: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Append to bench/record/MACHINE/migrate.csv
    #[arg(long)]
    record: bool,
}

pub(crate) fn run(args: &MigrateArgs) -> Result<()> {
    interrupt::install()?;
    let guest = load_guest(args)?;
    let pair = hosts(args.link)?;
    let warm_up = if args.tiny { WARM_UP_TINY } else { WARM_UP };
    let stores = WorkDir::under(&cache_dir())?;
    let setting = Setting {
        state: migrate_run::warm_state(&guest, &cache_dir(), warm_up)?,
        guest: &guest,
        pair: &pair,
        channels: args.channels,
        zstd_level: args.zstd_level,
        check_ram: args.check_ram,
        engine: find_engine(args)?,
        send_words: args.send_args.clone(),
        run_limit: RUN_LIMIT,
        pss: args.pss,
        stores: stores.path().to_owned(),
    };
    let facts = facts(args, &guest, pair.link)?;
    let runs = all_runs(args, &setting)?;
    let summaries = report::summarise(&args.modes, &runs);
    if args.record {
        let path = record_path()?;
        report::record(&path, &facts, &runs)?;
        eprintln!("recorded in {}", path.display());
    }
    if args.json {
        println!("{}", report::json(&facts, &summaries, &runs));
    } else {
        print!("{}", report::text(&summaries));
    }
    let whole = summaries.iter().all(|s| s.ticks_unbroken && s.ram_identical != Some(false));
    if !whole {
        bail!("a run lost ticks or memory");
    }
    Ok(())
}

fn load_guest(args: &MigrateArgs) -> Result<Guest> {
    match (&args.guest, args.tiny) {
        (Some(dir), _) => Guest::load(dir),
        (None, true) => Guest::small(),
        (None, false) => guest::build(&GuestSpec::bench(), &cache_dir()),
    }
}

/// Namespaces, or loopback where only that is possible and no rate was asked for.
fn hosts(link: Link) -> Result<HostPair> {
    match probe::namespaces() {
        Ok(()) => HostPair::namespaces(link),
        Err(reason) if link == Link::Unshaped => {
            eprintln!("on loopback without namespaces: {reason:#}");
            Ok(HostPair::loopback())
        }
        Err(reason) => Err(reason.context("a shaped link needs namespaces; or give --link none")),
    }
}

fn find_engine(args: &MigrateArgs) -> Result<Option<PathBuf>> {
    if !args.modes.iter().any(|mode| mode.is_ours()) {
        return Ok(None);
    }
    match &args.engine {
        Some(path) => Ok(Some(path.canonicalize().with_context(|| format!("{}", path.display()))?)),
        None => engine::binary().map(Some),
    }
}

fn all_runs(args: &MigrateArgs, setting: &Setting<'_>) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for round in 0..args.runs {
        for &mode in &args.modes {
            interrupt::check()?;
            let run = migrate_run::run(setting, mode, round)
                .with_context(|| format!("{mode}, round {}", round + 1))?;
            eprintln!(
                "round {}/{} {mode:<17} {:>7.2} s {:>6.0} MB  downtime {:>4.0} ms, client {:>4.0} ms  CPU {:>6.2} s",
                round + 1,
                args.runs,
                run.total_ms / 1000.0,
                run.wire_bytes() as f64 / 1e6,
                run.downtime_ms,
                run.client_downtime_ms.unwrap_or(f64::NAN),
                run.cpu_s(),
            );
            if let (Some(source), Some(target)) = (run.pss_source_bytes, run.pss_target_bytes) {
                eprintln!(
                    "    engine memory: source {} MB, target {} MB",
                    source >> 20,
                    target >> 20
                );
            }
            runs.push(run);
        }
    }
    Ok(runs)
}

fn facts(args: &MigrateArgs, guest: &Guest, link: Link) -> Result<Value> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output()?;
    Ok(json!({
        "date": String::from_utf8_lossy(&date.stdout).trim(),
        "commit": probe::commit(),
        "machine": probe::machine(),
        "host_kernel": release.trim(),
        "qemu": probe::qemu_version()?,
        "accel": "tcg",
        "kernel": guest.kernel_name,
        "guest_mb": guest.memory_mb,
        "dirty_mb": guest.workload.dirty_mb,
        "rate_mb": guest.workload.rate_mb,
        "link": link.to_string(),
        "channels": args.channels,
        "zstd_level": args.zstd_level,
        "check_ram": args.check_ram,
        "send_args": args.send_args,
        "load": probe::load_average(),
    }))
}

fn record_path() -> Result<PathBuf> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"))
        .canonicalize()
        .context("the source tree is not here; records are kept in it")?;
    Ok(tree.join("record").join(probe::machine()).join("migrate.csv"))
}
