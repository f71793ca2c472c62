//! The runs of our own engine: one migration, one towards a host that holds the guest's disk image,
//! one back to where the guest came from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use dwcp_hwtest::cpu::CpuTime;
use dwcp_hwtest::engine::Engine;
use dwcp_hwtest::net::Host;
use dwcp_hwtest::pss::PeakPss;
use dwcp_hwtest::qemu::{Qemu, QemuConfig};
use dwcp_hwtest::workdir::WorkDir;
use dwcp_store::{DEFAULT_TENANT, SourceKind, Store};

use crate::migrate_mode::Mode;
use crate::migrate_run::{
    PORT, Prepared, Run, Setting, TICKS_LIMIT, mark, observe, read_counters, watch_undisturbed,
};

/// From where to where, and which stores the two ends have.
struct Route<'a> {
    from: &'a Host,
    to: &'a Host,
    /// Keep a checkpoint here.
    keep: Option<PathBuf>,
    /// Look for content here.
    look: Option<PathBuf>,
}

/// One run of one of our modes.
pub(crate) fn by_engine(setting: &Setting<'_>, mode: Mode, prepared: Prepared) -> Result<Run> {
    let (here, there) = (&setting.pair.source, &setting.pair.target);
    let plain = Route { from: here, to: there, keep: None, look: None };
    match mode {
        Mode::DwcpImage => {
            let look = Some(image_store(setting)?);
            measured(setting, &Route { look, ..plain }, prepared)
        }
        Mode::DwcpReturn => {
            let store = WorkDir::under(&setting.stores)?;
            let keep = Some(store.path().to_owned());
            let mut prepared = prepared;
            let moved = transfer(setting, &Route { keep, ..plain }, &mut prepared)?;
            // It arrived paused. While it is watched before the way back, it rewrites at 20 MB/s about a
            // twentieth of its memory.
            let returning = Prepared::run(setting, moved.target)?;
            let look = Some(store.path().to_owned());
            measured(setting, &Route { from: there, to: here, keep: None, look }, returning)
        }
        _ => measured(setting, &plain, prepared),
    }
}

/// A store that knows the guest's disk image; made once.
fn image_store(setting: &Setting<'_>) -> Result<PathBuf> {
    let image =
        setting.guest.image.as_ref().context("mode dwcp-image needs a guest with a disk")?;
    let dir = setting.stores.join("image");
    let store = Store::open(&dir, DEFAULT_TENANT)?;
    store.add(image, SourceKind::Image, None, &mut |_| true)?;
    Ok(dir)
}

fn measured(setting: &Setting<'_>, route: &Route<'_>, mut prepared: Prepared) -> Result<Run> {
    watch_undisturbed(&mut prepared)?;
    let mark = mark(setting, &prepared.source)?;
    let Moved { mut target, mut run } = transfer(setting, route, &mut prepared)?;
    run.cpu_target_qemu_s = CpuTime::of(target.pid())?.total_s();
    let sent = (run.wire_tx_bytes, run.wire_rx_bytes);
    read_counters(setting, &mark, &prepared.source, &mut run)?;
    if !setting.pair.is_private() {
        (run.wire_tx_bytes, run.wire_rx_bytes) = sent;
    }
    observe(setting, &mut prepared, &mut target, &mark, &mut run)?;
    Ok(run)
}

/// A guest on its new host, and the engines' figures.
struct Moved {
    target: Qemu,
    run: Run,
}

fn transfer(setting: &Setting<'_>, route: &Route<'_>, prepared: &mut Prepared) -> Result<Moved> {
    let binary = setting.engine.as_deref().context("no dwcp-engine")?;
    let config = QemuConfig { host: Some(route.to), ..QemuConfig::for_guest(setting.guest) };
    let dir = WorkDir::new()?;
    let launched = WorkDir::new()?;
    let (launch, ready) = (dir.join("launch"), dir.join("ready"));
    std::fs::write(&launch, config.launch_lines(&launched)?)?;
    let words = receive_words(setting, route, &dir, &launch, &ready);
    let mut receive = Engine::start(binary, route.to, dir.path(), &words, false)?;
    receive.ready(&ready)?;
    let words = send_words(setting, route, &dir, &prepared.source);
    let mut send = Engine::start(binary, route.from, dir.path(), &words, false)?;
    let follow = |pid: u32| setting.pss.then(|| PeakPss::follow(pid));
    let (pss_source, pss_target) = (follow(send.pid()), follow(receive.pid()));
    let target = Qemu::adopt(&config, launched, setting.run_limit, || {
        // A `send` that refuses never lets the target start.
        if send.has_ended()? { send.check_alive() } else { receive.check_alive() }
    })?;
    let sent = send.wait(setting.run_limit)?;
    let received = receive.wait(TICKS_LIMIT)?;
    let (pss_source, pss_target) = (pss_source.map(PeakPss::end), pss_target.map(PeakPss::end));
    if !sent.status.success() {
        bail!("send: {}: {} / receive: {}", sent.status, sent.errors, received.errors);
    }
    let number = |key: &str| sent.report[key].as_f64().unwrap_or(0.0);
    let run = Run {
        total_ms: number("total_ms"),
        downtime_ms: number("downtime_ms"),
        wire_tx_bytes: number("wire_tx_bytes") as u64,
        wire_rx_bytes: number("wire_rx_bytes") as u64,
        cpu_source_engine_s: sent.cpu_s,
        cpu_target_engine_s: received.cpu_s,
        pss_source_bytes: pss_source,
        pss_target_bytes: pss_target,
        detail: sent.report.clone(),
        ..Run::default()
    };
    Ok(Moved { target, run })
}

fn receive_words(
    setting: &Setting<'_>,
    route: &Route<'_>,
    dir: &WorkDir,
    launch: &Path,
    ready: &Path,
) -> Vec<String> {
    let listen = format!("{}:{PORT}", route.to.address());
    let mut words = words(&["receive", "--once", "--json", "--tls", "off", "--listen", &listen]);
    let paths = [
        ("--launch", Some(launch.to_owned())),
        ("--ready-file", Some(ready.to_owned())),
        ("--state", Some(dir.join("target-state"))),
        ("--store", route.look.clone()),
    ];
    for (flag, path) in paths {
        words.extend(path.into_iter().flat_map(|p| [flag.to_owned(), p.display().to_string()]));
    }
    if setting.check_ram || route.keep.is_some() {
        words.push("--leave-paused".into());
    }
    words
}

fn send_words(
    setting: &Setting<'_>,
    route: &Route<'_>,
    dir: &WorkDir,
    source: &Qemu,
) -> Vec<String> {
    let to = format!("{}:{PORT}", route.to.address());
    let qmp = source.engine_qmp().display().to_string();
    let state = dir.join("source-state").display().to_string();
    let mut words =
        words(&["send", "--json", "--tls", "off", "--qmp", &qmp, "--to", &to, "--state", &state]);
    // Peers, guests and both ends share these cores: a late slice shall show as downtime.
    words.extend(["--pause-timeout-ms".to_owned(), "5000".to_owned()]);
    if let Some(store) = &route.keep {
        let store = store.display().to_string();
        words.extend(["--store".to_owned(), store, "--keep-checkpoint".to_owned()]);
    }
    words.extend(setting.send_words.iter().cloned());
    words
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}
