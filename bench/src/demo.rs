//! `dwcp-bench demo`: boots a guest under stock QEMU, moves it live to another host by our engine and back by
//! QEMU itself, and reports what was seen from outside. Everything it starts ends with it, also after Ctrl-C.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use dwcp_hwtest::engine::{self, Engine};
use dwcp_hwtest::guest::{self, Guest, GuestSpec};
use dwcp_hwtest::migrate::{self, Method, QemuResult};
use dwcp_hwtest::net::{HostPair, Link, Traffic};
use dwcp_hwtest::qemu::{Qemu, QemuConfig, Start};
use dwcp_hwtest::tick::{Life, Trace};
use dwcp_hwtest::workdir::{WorkDir, cache_dir};
use dwcp_hwtest::{interrupt, probe};
use serde_json::Value;

use crate::demo_report::{self, Moved, Story};
use crate::guest::GuestArgs;

const PORT: u16 = 8085;
/// The link of the demo where namespaces can be made.
const LINK: Link = Link::Shaped { bits_per_s: 500_000_000 };
/// The peer: QEMU's best way over such a link.
const PEER: Method = Method { multifd: Some(8), zstd: Some(1), xbzrle_cache_bytes: None };
/// Ticks before the first move and between the two.
const TICKS_BETWEEN: u64 = 400;
const TICKS_LIMIT: Duration = Duration::from_secs(120);
const MOVE_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    guest: GuestArgs,
    /// Rate of the link between the two hosts, or none [default: 500mbit as root]
    #[arg(long)]
    link: Option<Link>,
    /// dwcp-engine [default: beside this program]
    #[arg(long, value_name = "FILE")]
    engine: Option<PathBuf>,
    /// Leave out QEMU's own migration
    #[arg(long)]
    no_peer: bool,
    /// Print one JSON object on standard output instead of the report
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    interrupt::install()?;
    let engine = match &args.engine {
        Some(path) => path.canonicalize().with_context(|| format!("{}", path.display()))?,
        None => engine::binary()?,
    };
    let qemu = probe::qemu_version()?;
    step("building the guest (cached after the first time)");
    let guest = guest::build(&args.guest.spec(&GuestSpec::demo()), &cache_dir())?;
    let pair = hosts(args.link)?;
    let config = QemuConfig {
        host: Some(&pair.source),
        accel: probe::accel(),
        ..QemuConfig::for_guest(&guest)
    };
    step(&format!(
        "booting {} with {} MB under QEMU {qemu} ({})",
        guest.kernel_name,
        guest.memory_mb,
        config.accel.name()
    ));
    let mut source = Qemu::boot(&config)?;
    source.ticks().wait_for(TICKS_BETWEEN, TICKS_LIMIT)?;

    step("moving it by DWCP, while it runs");
    let mut parts = Vec::new();
    let (mut arrived, ours) = by_engine(&engine, &config, &pair, &mut source)?;
    arrived.ticks().wait_for(TICKS_BETWEEN, TICKS_LIMIT)?;
    parts.push(source.ticks().trace());
    drop(source);

    let peer = if args.no_peer {
        Err(anyhow::anyhow!("left out"))
    } else {
        step("moving it back by QEMU itself (multifd x8, zstd)");
        back_by_qemu(&config, &pair, &mut arrived, &mut parts)
    };
    if peer.is_err() {
        interrupt::check()?;
        parts.push(arrived.ticks().trace());
    }
    let story = tell(&guest, &pair, &parts, ours, peer);
    if args.json {
        println!("{}", demo_report::json(&story));
    } else {
        print!("{}", demo_report::text(&story));
    }
    if !story.life.unbroken() {
        bail!("the guest's ticks are broken: {:?}", story.life.problems);
    }
    Ok(())
}

fn step(text: &str) {
    eprintln!("- {text}");
}

fn tell(
    guest: &Guest,
    pair: &HostPair,
    parts: &[Trace],
    mut ours: Moved,
    peer: Result<Moved>,
) -> Story {
    let life = Life::of(parts);
    let gap = |i: usize| life.switch_gaps.get(i).map(|g| g.as_secs_f64() * 1000.0);
    ours.client_downtime_ms = gap(0);
    let peer = peer.map(|moved| Moved { client_downtime_ms: gap(1), ..moved });
    Story { guest: guest.clone(), hosts: describe(pair), ours, peer, life }
}

fn describe(pair: &HostPair) -> String {
    match (&pair.source, pair.link) {
        (dwcp_hwtest::net::Host::Loopback, _) => {
            "this one, over loopback (no namespaces, no shaping; wire bytes by each mover's own count)".into()
        }
        (_, Link::Unshaped) => "two network namespaces, unshaped veth".into(),
        (_, link) => format!("two network namespaces, veth shaped to {link} each way"),
    }
}

/// Bytes both ways since `before`, where the link is ours alone.
fn counted(pair: &HostPair, before: Traffic) -> Result<Option<u64>> {
    let since = pair.traffic()?.since(before);
    Ok(pair.is_private().then(|| since.total_bytes()))
}

/// Namespaces where they can be made, else loopback; a rate that was asked for is not dropped silently.
fn hosts(link: Option<Link>) -> Result<HostPair> {
    match probe::namespaces() {
        Ok(()) => HostPair::namespaces(link.unwrap_or(LINK)),
        Err(reason) if link.is_none_or(|l| l == Link::Unshaped) => {
            step(&format!("using loopback, unshaped: {reason:#}"));
            Ok(HostPair::loopback())
        }
        Err(reason) => Err(reason.context("--link needs network namespaces")),
    }
}

fn by_engine(
    engine: &Path,
    config: &QemuConfig<'_>,
    pair: &HostPair,
    source: &mut Qemu,
) -> Result<(Qemu, Moved)> {
    let dir = WorkDir::new()?;
    let launched = WorkDir::new()?;
    let (launch, ready) = (dir.join("launch"), dir.join("ready"));
    let target = QemuConfig { host: Some(&pair.target), ..config.clone() };
    std::fs::write(&launch, target.launch_lines(&launched)?)?;
    let path = |p: &Path| p.display().to_string();
    let port = if matches!(pair.target, dwcp_hwtest::net::Host::Loopback) { 0 } else { PORT };
    let mut receive = Engine::start(
        engine,
        &pair.target,
        dir.path(),
        &[
            words("receive --once --json --tls off"),
            vec!["--listen".into(), format!("{}:{port}", pair.target.address())],
            vec!["--launch".into(), path(&launch), "--ready-file".into(), path(&ready)],
            vec!["--state".into(), path(&dir.join("target-state"))],
        ]
        .concat(),
        false,
    )?;
    let to = receive.ready(&ready)?;
    let before = pair.traffic()?;
    let mut send = Engine::start(
        engine,
        &pair.source,
        dir.path(),
        &[
            words("send --json --tls off --pause-timeout-ms 5000 --to"),
            vec![to, "--qmp".into(), path(&source.engine_qmp())],
            vec!["--state".into(), path(&dir.join("source-state"))],
        ]
        .concat(),
        true,
    )?;
    let arrived = Qemu::adopt(&target, launched, MOVE_LIMIT, || {
        if send.has_ended()? { send.check_alive() } else { receive.check_alive() }
    });
    let sent = send.wait(MOVE_LIMIT)?;
    let wire = counted(pair, before)?;
    if !sent.status.success() {
        bail!("dwcp-engine send: {}; the guest runs on where it was", sent.status);
    }
    let received = receive.wait(TICKS_LIMIT)?;
    let moved = Moved::of_engine(&sent.report, sent.cpu_s + received.cpu_s, wire);
    Ok((arrived?, moved))
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn back_by_qemu(
    config: &QemuConfig<'_>,
    pair: &HostPair,
    arrived: &mut Qemu,
    parts: &mut Vec<Trace>,
) -> Result<Moved> {
    let config = QemuConfig { start: Start::IncomingRunning, ..config.clone() };
    let mut home = Qemu::start(&config)?;
    migrate::configure(arrived, PEER)?;
    migrate::configure(&mut home, PEER)?;
    let port = if matches!(pair.source, dwcp_hwtest::net::Host::Loopback) { 0 } else { PORT };
    migrate::listen(&mut home, &format!("tcp:{}:{port}", pair.source.address()))?;
    let uri = migrate::listening_uri(&mut home)?;
    let before = pair.traffic()?;
    let since = Instant::now();
    migrate::start(arrived, &uri)?;
    let result: QemuResult = migrate::finish(arrived, MOVE_LIMIT)?;
    let wire = counted(pair, before)?;
    home.ticks()
        .wait_for(TICKS_BETWEEN / 2, TICKS_LIMIT)
        .with_context(|| format!("{} s after QEMU began", since.elapsed().as_secs()))?;
    parts.push(arrived.ticks().trace());
    parts.push(home.ticks().trace());
    Ok(Moved {
        total_ms: result.total_ms as f64,
        downtime_ms: result.downtime_ms as f64,
        wire_bytes: wire.unwrap_or(result.transferred_bytes),
        report: serde_json::to_value(&result).unwrap_or(Value::Null),
        ..Moved::default()
    })
}
