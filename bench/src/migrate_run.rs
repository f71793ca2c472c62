//! One measured migration: restore the warmed guest, watch it undisturbed, move it, read every counter.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dwcp_hwtest::cpu::CpuTime;
use dwcp_hwtest::guest::Guest;
use dwcp_hwtest::migrate::{self, Method};
use dwcp_hwtest::net::{HostPair, Traffic};
use dwcp_hwtest::probe;
use dwcp_hwtest::qemu::{Qemu, QemuConfig, Start};
use dwcp_hwtest::ram::RamImage;
use dwcp_hwtest::tick::Life;
use dwcp_hwtest::workdir::WorkDir;
use serde::Serialize;
use serde_json::{Value, json};

use crate::host_memory::Backed;
use crate::migrate_engine;
use crate::migrate_limit::NullSink;
use crate::migrate_mode::Mode;

pub(crate) const PORT: u16 = 8085;
/// How long the guest is watched before it is moved.
const UNDISTURBED: Duration = Duration::from_secs(2);
/// Memory that is freshly freed before a run, in guests: for the target and what moves it.
const BACKED_GUESTS: u64 = 2;
/// Ticks waited for on the target.
const TICKS_AFTER: u64 = 40;
pub(crate) const TICKS_LIMIT: Duration = Duration::from_secs(60);
const STATE_LIMIT: Duration = Duration::from_secs(300);

/// What stays the same for all runs.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) guest: &'a Guest,
    pub(crate) pair: &'a HostPair,
    /// Saved state of the warmed guest.
    pub(crate) state: PathBuf,
    pub(crate) channels: u8,
    pub(crate) zstd_level: u8,
    pub(crate) check_ram: bool,
    /// `dwcp-engine`, and words added to its `send`.
    pub(crate) engine: Option<PathBuf>,
    pub(crate) send_words: Vec<String>,
    pub(crate) run_limit: Duration,
    /// Follow the engines' memory; it costs a little time.
    pub(crate) pss: bool,
    /// Folder for content stores.
    pub(crate) stores: PathBuf,
}

/// What one run gave; absent figures do not exist for its mode.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Run {
    pub(crate) mode: Option<Mode>,
    pub(crate) round: u32,
    /// `migrate` to completion, by the mover's own count.
    pub(crate) total_ms: f64,
    /// The mover's own figure.
    pub(crate) downtime_ms: f64,
    /// Last tick of the source to first tick of the target as they arrived here.
    pub(crate) client_downtime_ms: Option<f64>,
    pub(crate) wire_tx_bytes: u64,
    pub(crate) wire_rx_bytes: u64,
    pub(crate) cpu_source_qemu_s: f64,
    pub(crate) cpu_target_qemu_s: f64,
    pub(crate) cpu_source_engine_s: f64,
    pub(crate) cpu_target_engine_s: f64,
    /// CPU loop of the guest during the move, relative to before.
    pub(crate) guest_work: Option<f64>,
    pub(crate) ticks_unbroken: Option<bool>,
    pub(crate) ram_identical: Option<bool>,
    /// Peak of each engine's Pss without guest RAM.
    pub(crate) pss_source_bytes: Option<u64>,
    pub(crate) pss_target_bytes: Option<u64>,
    pub(crate) load_before: f64,
    /// The engine's whole report, or QEMU's figures.
    pub(crate) detail: Value,
}

impl Run {
    pub(crate) fn cpu_s(&self) -> f64 {
        self.cpu_source_qemu_s
            + self.cpu_target_qemu_s
            + self.cpu_source_engine_s
            + self.cpu_target_engine_s
    }

    pub(crate) fn wire_bytes(&self) -> u64 {
        self.wire_tx_bytes + self.wire_rx_bytes
    }
}

/// Boots the guest, lets it warm up and saves it; returns at once when that was done before.
pub(crate) fn warm_state(guest: &Guest, dir: &Path, warm_up: Duration) -> Result<PathBuf> {
    let qemu = probe::qemu_version()?;
    let path = dir.join(format!("warm-{}-{qemu}.state", guest.key));
    if path.exists() {
        return Ok(path);
    }
    eprintln!("warming the guest up ({} s after its first tick)", warm_up.as_secs());
    let mut source = Qemu::boot(&QemuConfig::for_guest(guest))?;
    let goal = Instant::now() + warm_up;
    while Instant::now() < goal {
        source.ticks().wait_for(1, TICKS_LIMIT)?;
    }
    let work = WorkDir::under(dir)?;
    let partial = work.join("state");
    migrate::save_state(&mut source, &partial, STATE_LIMIT)?;
    std::fs::rename(&partial, &path)?;
    Ok(path)
}

/// The source side of every run, up to the moment before `migrate`.
pub(crate) struct Prepared {
    pub(crate) source: Qemu,
    /// When it began to run.
    pub(crate) running_since: Instant,
    /// Held until the move begins.
    pub(crate) memory: Option<Backed>,
}

impl Prepared {
    /// Lets a paused guest run, once the memory it will arrive in is there: touching it takes seconds.
    pub(crate) fn run(setting: &Setting<'_>, mut source: Qemu) -> Result<Self> {
        let memory = Some(Backed::take((setting.guest.memory_mb << 20) * BACKED_GUESTS));
        source.execute("cont", json!({}))?;
        source.ticks().wait_for(1, TICKS_LIMIT)?;
        Ok(Self { source, running_since: Instant::now(), memory })
    }
}

fn prepare(setting: &Setting<'_>) -> Result<Prepared> {
    let config = QemuConfig {
        host: Some(&setting.pair.source),
        ..QemuConfig::for_guest(setting.guest).as_target()
    };
    let mut source = Qemu::start(&config)?;
    migrate::load_state(&mut source, &setting.state, STATE_LIMIT)?;
    Prepared::run(setting, source)
}

/// Counters at the start of the move.
pub(crate) struct Mark {
    at: Instant,
    traffic: Traffic,
    source_cpu: CpuTime,
}

pub(crate) fn mark(setting: &Setting<'_>, source: &Qemu) -> Result<Mark> {
    let traffic = setting.pair.traffic()?;
    let source_cpu = CpuTime::of(source.pid())?;
    Ok(Mark { at: Instant::now(), traffic, source_cpu })
}

/// One run of `mode`.
pub(crate) fn run(setting: &Setting<'_>, mode: Mode, round: u32) -> Result<Run> {
    let load_before = probe::load_average();
    let prepared = prepare(setting)?;
    let mut run = match mode.method(setting.channels, setting.zstd_level) {
        Some(method) if mode.is_limit() => into_sink(setting, prepared, method)?,
        Some(method) => by_qemu(setting, prepared, method)?,
        None => migrate_engine::by_engine(setting, mode, prepared)?,
    };
    run.mode = Some(mode);
    run.round = round;
    run.load_before = load_before;
    Ok(run)
}

/// Watches the guest on its own; afterwards the memory it will arrive in is free and there.
pub(crate) fn watch_undisturbed(prepared: &mut Prepared) -> Result<()> {
    let goal = Instant::now() + UNDISTURBED;
    while Instant::now() < goal {
        prepared.source.ticks().wait_for(1, TICKS_LIMIT)?;
    }
    prepared.memory = None;
    Ok(())
}

fn by_qemu(setting: &Setting<'_>, mut prepared: Prepared, method: Method) -> Result<Run> {
    let start = if setting.check_ram { Start::Incoming } else { Start::IncomingRunning };
    let config = QemuConfig {
        host: Some(&setting.pair.target),
        start,
        ..QemuConfig::for_guest(setting.guest)
    };
    let mut target = Qemu::start(&config)?;
    migrate::configure(&mut prepared.source, method)?;
    migrate::configure(&mut target, method)?;
    let uri = format!("tcp:{}:{PORT}", setting.pair.target.address());
    migrate::listen(&mut target, &uri)?;
    watch_undisturbed(&mut prepared)?;
    let target_cpu = CpuTime::of(target.pid())?;
    let mark = mark(setting, &prepared.source)?;
    migrate::start(&mut prepared.source, &uri)?;
    let result = migrate::finish(&mut prepared.source, setting.run_limit)?;
    let mut run = Run {
        total_ms: result.total_ms as f64,
        downtime_ms: result.downtime_ms as f64,
        detail: serde_json::to_value(&result)?,
        ..Run::default()
    };
    // On a shaped link the source completes before the last bytes have left its socket buffers.
    wait_arrived(&mut target, setting.run_limit)?;
    read_counters(setting, &mark, &prepared.source, &mut run)?;
    if !setting.pair.is_private() {
        (run.wire_tx_bytes, run.wire_rx_bytes) = (result.transferred_bytes, 0);
    }
    run.cpu_target_qemu_s = CpuTime::of(target.pid())?.total_s() - target_cpu.total_s();
    observe(setting, &mut prepared, &mut target, &mark, &mut run)?;
    Ok(run)
}

fn wait_arrived(target: &mut Qemu, limit: Duration) -> Result<()> {
    dwcp_hwtest::interrupt::wait_until("the target's completion", limit, || {
        let info = target.execute("query-migrate", json!({}))?;
        match info["status"].as_str() {
            Some("completed") => Ok(Some(())),
            Some("failed") => bail!("the target failed: {}", target.errors().trim()),
            _ => Ok(None),
        }
    })
}

pub(crate) fn read_counters(
    setting: &Setting<'_>,
    mark: &Mark,
    source: &Qemu,
    run: &mut Run,
) -> Result<()> {
    let wire = setting.pair.traffic()?.since(mark.traffic);
    run.wire_tx_bytes = wire.tx_bytes;
    run.wire_rx_bytes = wire.rx_bytes;
    run.cpu_source_qemu_s = CpuTime::of(source.pid())?.total_s() - mark.source_cpu.total_s();
    Ok(())
}

/// Compares memory if asked to, lets the target run on, and reads downtime, work and ticks.
pub(crate) fn observe(
    setting: &Setting<'_>,
    prepared: &mut Prepared,
    target: &mut Qemu,
    mark: &Mark,
    run: &mut Run,
) -> Result<()> {
    let mut held = Duration::ZERO;
    if setting.check_ram {
        let since = Instant::now();
        run.ram_identical = Some(compare_ram(&mut prepared.source, target)?);
        target.execute("cont", json!({}))?;
        held = since.elapsed();
    }
    target.ticks().wait_for(TICKS_AFTER, TICKS_LIMIT)?;
    let source_trace = prepared.source.ticks().trace();
    let last_on_source = source_trace.last_at().context("the source never ticked")?;
    let life = Life::of(&[source_trace, target.ticks().trace()]);
    let gap = life.switch_gaps.first().context("no tick on the target")?;
    run.client_downtime_ms = Some(gap.saturating_sub(held).as_secs_f64() * 1000.0);
    run.ticks_unbroken = Some(life.unbroken());
    if !life.unbroken() {
        eprintln!("ticks: {:?}", life.problems);
    }
    let before = life.work_per_s(prepared.running_since, mark.at);
    let during = life.work_per_s(mark.at, last_on_source);
    run.guest_work = before.zip(during).map(|(before, during)| during / before);
    Ok(())
}

fn compare_ram(source: &mut Qemu, target: &mut Qemu) -> Result<bool> {
    let (machine, bytes) = (source.machine(), source.memory_bytes());
    let before = RamImage::save(source.qmp(), machine, bytes)?;
    let after = RamImage::save(target.qmp(), machine, bytes)?;
    let diff = before.compare(&after)?;
    if !diff.identical() {
        eprintln!("memory differs: {diff:?}");
    }
    Ok(diff.identical())
}

fn into_sink(setting: &Setting<'_>, mut prepared: Prepared, method: Method) -> Result<Run> {
    let dir = WorkDir::new()?;
    let socket = dir.join("sink.sock");
    let sink = NullSink::listen(&socket)?;
    migrate::configure(&mut prepared.source, method)?;
    watch_undisturbed(&mut prepared)?;
    let mark = mark(setting, &prepared.source)?;
    migrate::start(&mut prepared.source, &format!("unix:{}", socket.display()))?;
    let result = migrate::finish(&mut prepared.source, setting.run_limit)?;
    let mut run = Run {
        total_ms: result.total_ms as f64,
        downtime_ms: result.downtime_ms as f64,
        detail: serde_json::to_value(&result)?,
        ..Run::default()
    };
    read_counters(setting, &mark, &prepared.source, &mut run)?;
    run.wire_tx_bytes = sink.bytes();
    run.wire_rx_bytes = 0;
    Ok(run)
}
