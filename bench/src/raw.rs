//! `dwcp-bench raw`: our session against iperf3 over the same veth, in turn.
//!
//! Ours moves checksummed slices from an arena to an arena and counts what the target has
//! consumed; iperf3 moves one buffer and checks nothing. Each end is a process of its own, whose
//! CPU time is read when it has ended.

use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use dwcp_hostmem::online_cores;
use dwcp_hwtest::cpu::CpuTime;
use dwcp_hwtest::net::{HostPair, Link};
use dwcp_hwtest::qemu::owned_command;
use dwcp_hwtest::{interrupt, probe};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::Value;

use crate::raw_end::Shape;
use crate::raw_report as report;

const PORT: u16 = 5301;
const TINY_SECONDS: f64 = 0.3;
const TINY_RUNS: u32 = 1;
/// Time a run may take beyond its seconds.
const RUN_GRACE: Duration = Duration::from_secs(100);
const GB: f64 = 1e9;

/// Who moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mover {
    /// Our session.
    Dwcp,
    /// `iperf3 -C cubic -l 256K`.
    Iperf3,
    /// The same with `-Z` (sendfile from a memory file).
    Iperf3Z,
}

impl Mover {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dwcp => "dwcp",
            Self::Iperf3 => "iperf3",
            Self::Iperf3Z => "iperf3-Z",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RawArgs {
    /// Rounds; every round runs each mover once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Seconds of every run
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, value_delimiter = ',', default_value = "dwcp,iperf3,iperf3-z")]
    movers: Vec<Mover>,
    #[command(flatten)]
    shape: Shape,
    /// Rate of the link between the two hosts, or none
    #[arg(long, default_value = "none")]
    link: Link,
    /// One short round, for a look whether everything works
    #[arg(long)]
    tiny: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Append to bench/record/MACHINE/raw.csv
    #[arg(long)]
    record: bool,
}

/// What one run gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) round: u32,
    pub(crate) mover: Mover,
    /// Bytes that arrived, headers not counted.
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
    pub(crate) source_cpu_s: f64,
    pub(crate) target_cpu_s: f64,
    /// Both ways on the source's interface.
    pub(crate) wire_bytes: u64,
    pub(crate) load: f64,
}

impl Run {
    pub(crate) fn gbit_per_s(&self) -> f64 {
        self.bytes * 8.0 / GB / self.seconds
    }

    pub(crate) fn source_cpu_s_per_gb(&self) -> f64 {
        self.source_cpu_s / (self.bytes / GB)
    }

    pub(crate) fn target_cpu_s_per_gb(&self) -> f64 {
        self.target_cpu_s / (self.bytes / GB)
    }
}

pub(crate) fn run(args: &RawArgs) -> Result<()> {
    interrupt::install()?;
    probe::namespaces().context("two hosts are made of network namespaces")?;
    let uses_iperf3 = args.movers.iter().any(|mover| *mover != Mover::Dwcp);
    ensure!(!uses_iperf3 || probe::has_program("iperf3"), "iperf3 is missing: run make setup");
    let pair = HostPair::namespaces(args.link)?;
    let (rounds, seconds) =
        if args.tiny { (TINY_RUNS, TINY_SECONDS) } else { (args.runs, args.seconds) };
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for mover in &args.movers {
            interrupt::check()?;
            let run = measure(&pair, *mover, round, seconds, &args.shape)
                .with_context(|| format!("round {round}, {}", mover.name()))?;
            if !args.json {
                eprintln!("{}", report::line(&run));
            }
            runs.push(run);
        }
    }
    let facts = report::facts(args.link, seconds, &args.shape);
    if args.record {
        let path = report::record(&facts, &runs)?;
        eprintln!("recorded in {}", path.display());
    }
    report::print(&facts, &runs, args.json);
    Ok(())
}

fn measure(pair: &HostPair, mover: Mover, round: u32, seconds: f64, shape: &Shape) -> Result<Run> {
    let load = probe::load_average();
    let before = pair.traffic()?;
    let mut target = End::start(pair, mover, true, seconds, shape)?;
    if mover != Mover::Dwcp {
        target.wait_listening(pair)?;
    }
    let source = End::start(pair, mover, false, seconds, shape)?;
    let limit = Duration::from_secs_f64(seconds) + RUN_GRACE;
    let (source, source_cpu_s) = source.finish(limit)?;
    let (target, target_cpu_s) = target.finish(limit)?;
    let wire_bytes = pair.traffic()?.since(before).total_bytes();
    let (bytes, seconds) = moved(mover, &source, &target)?;
    Ok(Run { round, mover, bytes, seconds, source_cpu_s, target_cpu_s, wire_bytes, load })
}

/// Bytes that arrived and the seconds they took, by the ends' own words.
fn moved(mover: Mover, source: &Value, target: &Value) -> Result<(f64, f64)> {
    let number = |value: &Value, path: &str| {
        let found = value.pointer(path).and_then(Value::as_f64).filter(|number| *number > 0.0);
        found.with_context(|| format!("no {path} in {value}"))
    };
    if mover != Mover::Dwcp {
        let sum = "/end/sum_received";
        return Ok((
            number(source, &format!("{sum}/bytes"))?,
            number(source, &format!("{sum}/seconds"))?,
        ));
    }
    let (sent, arrived) = (number(source, "/bytes")?, number(target, "/bytes")?);
    ensure!(sent == arrived, "{sent} bytes were acked, {arrived} arrived");
    Ok((sent, number(source, "/seconds")?))
}

/// A process at one end; killed if the bench gives up.
struct End {
    child: Child,
    name: String,
}

impl End {
    fn start(
        pair: &HostPair,
        mover: Mover,
        is_target: bool,
        seconds: f64,
        shape: &Shape,
    ) -> Result<Self> {
        let host = if is_target { &pair.target } else { &pair.source };
        let address = pair.target.address();
        let program = match mover {
            Mover::Dwcp => std::env::current_exe()?,
            Mover::Iperf3 | Mover::Iperf3Z => Path::new("iperf3").to_owned(),
        };
        let mut command = owned_command(Some(host), &program);
        command.args(match mover {
            Mover::Dwcp => dwcp_words(address, is_target, seconds, shape),
            Mover::Iperf3 | Mover::Iperf3Z if is_target => iperf3_server_words(),
            Mover::Iperf3 => iperf3_words(address, seconds, shape),
            Mover::Iperf3Z => [iperf3_words(address, seconds, shape), words("-Z")].concat(),
        });
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name =
            format!("{} at the {}", mover.name(), if is_target { "target" } else { "source" });
        let child = command.spawn().with_context(|| format!("{name} does not start"))?;
        Ok(Self { child, name })
    }

    /// Waits until the port is open; looking from outside costs the server nothing.
    fn wait_listening(&mut self, pair: &HostPair) -> Result<()> {
        interrupt::wait_until("the iperf3 server", RUN_GRACE, || {
            let mut ss = pair.target.command("ss");
            let out = ss.args(["-Hltn", &format!("sport = :{PORT}")]).output()?;
            Ok((!out.stdout.is_empty()).then_some(()))
        })
    }

    /// Waits for its end; what it printed and the CPU seconds it used.
    fn finish(mut self, limit: Duration) -> Result<(Value, f64)> {
        let pid = Pid::from_child(&self.child);
        interrupt::wait_until(&self.name, limit, || {
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            Ok(waitid(WaitId::Pid(pid), look)?.map(|_| ()))
        })?;
        let cpu_s = CpuTime::of(self.child.id())?.total_s();
        let status = self.child.wait()?;
        let (text, errors) = (read(self.child.stdout.take())?, read(self.child.stderr.take())?);
        if !status.success() {
            bail!("{} failed ({status}): {}{}", self.name, text.trim(), errors.trim());
        }
        let value =
            serde_json::from_str(&text).with_context(|| format!("{}: {text}", self.name))?;
        Ok((value, cpu_s))
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn dwcp_words(address: IpAddr, is_target: bool, seconds: f64, shape: &Shape) -> Vec<String> {
    let Shape { streams, slice_bytes, window } = shape;
    let role = if is_target { "target" } else { "source" };
    let mut line = format!("raw-end --role {role} --address {address}:{PORT}");
    line += &format!(" --seconds {seconds} --streams {streams}");
    line += &format!(" --slice-bytes {slice_bytes} --window {window}");
    // Our poll threads are pinned wherever they run: each end has a core of its own.
    let cores = online_cores();
    let core = if is_target { cores.last() } else { cores.first() };
    if let Some(core) = core {
        line += &format!(" --core {core}");
    }
    words(&line)
}

fn iperf3_server_words() -> Vec<String> {
    words(&format!("-s -1 -J -p {PORT}"))
}

fn iperf3_words(address: IpAddr, seconds: f64, shape: &Shape) -> Vec<String> {
    let (seconds, streams) = (seconds.ceil(), shape.streams);
    words(&format!("-c {address} -p {PORT} -J -C cubic -l 256K -t {seconds} -P {streams}"))
}

impl Drop for End {
    fn drop(&mut self) {
        // Fails when it has ended and been waited for, which is the rule.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(pipe: Option<impl Read>) -> Result<String> {
    let mut text = String::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_string(&mut text)?;
    }
    Ok(text)
}
