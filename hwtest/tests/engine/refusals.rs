//! Bad input: one clear line, an exit code by class, and a guest that did not notice.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use dwcp_hwtest::engine::Ended;
use dwcp_hwtest::qemu::{Machine as MachineType, QemuConfig};
use serde_json::Value;

use crate::lab::{self, Machine, Receiver, Send, code};

const CHECK: &[&str] = &["--check"];

/// Refused with this code and these words, in one line.
#[track_caller]
fn refused(ended: &Ended, exit: i32, words: &str) {
    assert_eq!(code(ended), Some(exit), "{}", ended.errors);
    let lines: Vec<&str> =
        ended.errors.lines().filter(|line| line.starts_with("dwcp-engine: ")).collect();
    assert_eq!(lines.len(), 1, "{}", ended.errors);
    assert!(lines[0].contains(words), "{words:?} is not in {:?}", lines[0]);
}

/// A guest, its settings, and that neither changes.
struct Bystander {
    machine: Machine,
    settings: Value,
}

impl Bystander {
    fn boot(config: &QemuConfig<'_>) -> Self {
        let mut machine = Machine::boot(config);
        let settings = machine.settings();
        Self { machine, settings }
    }

    /// `send`, then `send --check`: both are refused alike.
    #[track_caller]
    fn refuses(&mut self, to: SocketAddr, flags: &[&str], exit: i32, words: &str) {
        for flags in [[flags, &[]].concat(), [flags, CHECK].concat()] {
            let state = lab::disk_dir();
            let ended = Send::start(&self.machine.qemu, to, state.path(), &flags).wait();
            refused(&ended, exit, words);
            assert_eq!(ended.report["status"], "refused", "{}", ended.report);
        }
        self.unharmed();
    }

    #[track_caller]
    fn unharmed(&mut self) {
        self.machine.assert_ticks();
        assert_eq!(self.machine.watch.changes().len(), 1, "the guest was stopped");
        assert_eq!(self.machine.settings(), self.settings);
    }
}

fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A TCP server that does `what` to whoever connects.
fn server(what: fn(std::net::TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || what(stream));
        }
    });
    address
}

#[test]
fn targets_that_do_not_fit_are_refused() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let mut source = Bystander::boot(&config);
    let wrong = [
        (QemuConfig { machine: MachineType::Q35, ..config.clone() }, "machine type"),
        (QemuConfig { memory_mb: 96, ..config.clone() }, "pc.ram"),
        (QemuConfig { smp: 2, ..config.clone() }, "cpu"),
    ];
    for (target, words) in wrong {
        let target = Machine::start(&target.as_target());
        let receiver = Receiver::beside(&target.qemu.engine_qmp(), &[]);
        source.refuses(receiver.address, &[], 7, words);
    }
    // A QEMU that runs a guest of its own waits for none.
    let receiver = Receiver::beside(&source.machine.qemu.engine_qmp(), &[]);
    let mut other = Bystander::boot(&config);
    other.refuses(receiver.address, &[], 7, "-incoming defer");
    source.unharmed();
}

#[test]
fn peers_that_are_not_ours_are_refused() {
    let Some(guest) = lab::guest() else { return };
    let mut source = Bystander::boot(&QemuConfig::for_guest(&guest));
    source.refuses(nobody(), &[], 4, "connecting to");
    let garbage = server(|mut stream| {
        let _ = stream.write_all(&[b'x'; 512]);
        let _ = stream.read(&mut [0u8; 512]);
    });
    source.refuses(garbage, &[], 7, "is no receive of ours");
    let mute = server(|mut stream| while let Ok(1..) = stream.read(&mut [0u8; 512]) {});
    source.refuses(mute, &[], 4, "did not finish its hello");
    source.refuses(server(drop), &[], 4, "connecting to");
    let old = server(|mut stream| {
        let mut hello = b"DWCP\x02\x00\x00\x00".to_vec();
        hello.resize(512, 0);
        let _ = stream.write_all(&hello);
        let _ = stream.read(&mut [0u8; 512]);
    });
    source.refuses(old, &[], 7, "version");
}

#[test]
fn plaintext_must_be_asked_for() {
    let Some(guest) = lab::guest() else { return };
    let mut source = Bystander::boot(&QemuConfig::for_guest(&guest));
    source.refuses(nobody(), &["--tls", "on"], 6, "--tls");
    source.refuses("192.0.2.1:8085".parse().unwrap(), &[], 6, "--tls off");
}

#[test]
fn a_guest_that_cannot_migrate_is_refused() {
    let Some(guest) = lab::guest() else { return };
    let mut config = QemuConfig::for_guest(&guest);
    // Memory shared with other guests: QEMU itself blocks the migration.
    let memory = "memory-backend-ram,id=shm,size=1M,share=on";
    let shared = ["-object", memory, "-device", "ivshmem-plain,memdev=shm"];
    config.extra = shared.map(str::to_owned).to_vec();
    let mut source = Bystander::boot(&config);
    let receiver = Receiver::launch(&config, &[]);
    source.refuses(receiver.address, &[], 7, "cannot migrate");
}

#[test]
fn a_check_moves_nothing() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let mut source = Bystander::boot(&config);
    let mut target = Machine::start(&config.as_target());
    let settings = target.settings();
    let beside = Receiver::beside(&target.qemu.engine_qmp(), &[]);
    let launch = Receiver::launch(&config, &[]);
    for to in [launch.address, launch.address, beside.address, beside.address] {
        let state = lab::disk_dir();
        let ended = Send::start(&source.machine.qemu, to, state.path(), CHECK).wait();
        assert_eq!(code(&ended), Some(0), "{}", ended.errors);
        source.unharmed();
    }
    assert_eq!(target.qemu.status().unwrap(), "inmigrate");
    assert_eq!(target.settings(), settings);
}

#[test]
fn a_second_job_finds_the_target_busy() {
    let Some(guest) = lab::guest() else { return };
    let config = QemuConfig::for_guest(&guest);
    let mut first = Machine::boot(&config);
    let mut second = Bystander::boot(&config);
    let mut target = Machine::start(&config.as_target());
    let receiver = Receiver::beside(&target.qemu.engine_qmp(), &[]);
    let state = lab::disk_dir();
    let flags = ["--rate", "40mbit", "--pause-timeout-ms", "5000"];
    let send = Send::start(&first.qemu, receiver.address, state.path(), &flags);
    send.await_phase("migrate");
    second.refuses(receiver.address, &[], 8, "as many jobs as it can take");
    let sent = send.wait();
    assert_eq!(code(&sent), Some(0), "{}", sent.errors);
    target.assert_ticks();
    assert_eq!(first.qemu.status().unwrap(), "postmigrate");
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn what_is_no_monitor_is_named() {
    let (dir, state) = (lab::disk_dir(), lab::disk_dir());
    let (socket, state) = (dir.join("s"), text(state.path()));
    let run = |socket: &Path| {
        lab::run(&["send", "--qmp", &text(socket), "--to", "127.0.0.1:1", "--state", &state])
    };
    refused(&run(&dir.join("none")), 4, "is QEMU running with -qmp");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH\r\n");
            let _ = stream.read(&mut [0u8; 64]);
        }
    });
    refused(&run(&socket), 2, "is not a QMP socket");
}

#[test]
fn a_port_in_use_is_named_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (dir, state) = (lab::disk_dir(), lab::disk_dir());
    std::fs::write(dir.join("launch"), "qemu-system-x86_64\n").unwrap();
    let (launch, state) = (text(&dir.join("launch")), text(state.path()));
    let began = Instant::now();
    let ended =
        lab::run(&["receive", "--launch", &launch, "--listen", &address, "--state", &state]);
    assert!(began.elapsed() < Duration::from_secs(2));
    refused(&ended, 5, &format!("--listen {address}"));
}

#[test]
fn wrong_flags_are_usage() {
    for words in [
        &["send"][..],
        &["send", "--qmp", "q", "--to", "127.0.0.1:1", "--streams", "0"],
        &["send", "--qmp", "q", "--to", "127.0.0.1:1", "--level", "20"],
        &["send", "--qmp", "q", "--to", "127.0.0.1:1", "--rate", "fast"],
        &["send", "--qmp", "q", "--to", "127.0.0.1:1", "--on-stall", "cry"],
        &["send", "--qmp", "q", "--to", "nonsense"],
        &["receive"],
        &["receive", "--qmp", "q", "--launch", "f"],
        &["resolve", "--job", "j", "--commit", "--abort"],
        &["fly"],
    ] {
        let ended = lab::run(words);
        assert_eq!(code(&ended), Some(2), "{words:?}: {}", ended.errors);
        assert_ne!(ended.errors, "", "{words:?}");
    }
    let unknown = "01a1fe92-6a8c-7010-9ca3-e884b39e12e6";
    let state = lab::disk_dir();
    let ended = lab::run(&["resolve", "--job", unknown, "--state", &text(state.path())]);
    refused(&ended, 3, unknown);
    assert_eq!(lab::jobs(state.path()), []);
}
