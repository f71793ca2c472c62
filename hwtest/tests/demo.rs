//! The demo as a user runs it: it works twice, and Ctrl-C at any moment leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use dwcp_hwtest::{engine, interrupt, probe};
use rustix::process::{Pid, Signal};
use serde_json::Value;

const DEMO_LIMIT: Duration = Duration::from_secs(300);
const END_LIMIT: Duration = Duration::from_secs(30);
const INTERRUPTED: i32 = 130;

/// Both binaries and a guest, or a skip.
fn lab() -> Option<PathBuf> {
    let found = probe::guest_lab()
        .and_then(|_| engine::binary())
        .and_then(|_| engine::program("dwcp-bench"));
    found.map_err(|e| probe::skip(&format!("{e:#}"))).ok()
}

/// Runs the demo with a /run/dwcp of its own where that is possible, so that what its engines leave there shows;
/// says the demo's process id first.
const SCRIPT: &str = r#"
[ "$(id -u)" = 0 ] && mkdir -p /run/dwcp && mount -t tmpfs none /run/dwcp || private=no
"$0" demo --memory 80M --json & demo=$!
echo "pid $demo" >&2
wait $demo; code=$?
[ "$private" = no ] || find /run/dwcp -mindepth 2 | sed 's/^/LEFT /' >&2
exit $code
"#;

/// A running demo.
struct Demo {
    shell: Child,
    /// The demo's own process.
    pid: u32,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Demo {
    fn start(bench: &Path) -> Self {
        let mut command = if probe::is_root() {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        command.args(["-c", SCRIPT]).arg(bench);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        let mut lines = BufReader::new(shell.stderr.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let pid = first.strip_prefix("pid ").unwrap().parse().unwrap();
        Self { shell, pid, lines }
    }

    /// Reads on until a line begins with `start`.
    fn reach(&mut self, start: &str) {
        let mut seen = Vec::new();
        for line in self.lines.by_ref().map_while(Result::ok) {
            if line.starts_with(start) {
                return;
            }
            seen.push(line);
        }
        panic!("the demo never came to {start:?}: {seen:#?}");
    }

    /// Exit code, standard output, and the rest of standard error.
    fn end(mut self) -> (Option<i32>, Vec<u8>, Vec<String>) {
        let errors: Vec<String> = self.lines.by_ref().map_while(Result::ok).collect();
        let mut output = Vec::new();
        self.shell.stdout.take().unwrap().read_to_end(&mut output).unwrap();
        let status =
            interrupt::wait_until("end of the demo", DEMO_LIMIT, || Ok(self.shell.try_wait()?));
        (status.unwrap().code(), output, errors)
    }
}

/// Everything on this machine that carries the demo's name.
fn leftovers(pid: u32) -> Vec<String> {
    let name = format!("{}{pid}-", dwcp_hwtest::workdir::PREFIX);
    let mut left = Vec::new();
    for folder in ["/tmp", "/run/netns", "/dev/shm"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&name) {
                left.push(entry.path().display().to_string());
            }
        }
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if words.contains(&name) {
            left.push(words.replace('\0', " "));
        }
    }
    left
}

#[test]
fn it_works_twice() {
    let Some(bench) = lab() else { return };
    for round in 0..2 {
        let demo = Demo::start(&bench);
        let pid = demo.pid;
        let (code, output, errors) = demo.end();
        assert_eq!(code, Some(0), "round {round}: {errors:#?}");
        let report: Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(report["ticks_unbroken"], true, "{report}");
        assert_eq!(report["dwcp"]["report"]["hash_root_match"], true, "{report}");
        assert!(report["dwcp"]["wire_bytes"].as_u64().unwrap() > 1_000_000, "{report}");
        assert!(report["qemu_multifd_zstd"].is_object(), "{errors:#?}");
        assert_eq!(leftovers(pid), Vec::<String>::new());
        assert!(!errors.iter().any(|line| line.starts_with("LEFT")), "{errors:#?}");
    }
}

#[test]
fn an_interrupt_leaves_nothing() {
    let Some(bench) = lab() else { return };
    for (moment, delay_ms) in [
        ("- booting", 300),
        ("- moving it by DWCP", 60),
        ("- moving it by DWCP", 500),
        ("- moving it back by QEMU", 60),
    ] {
        let mut demo = Demo::start(&bench);
        let pid = demo.pid;
        demo.reach(moment);
        std::thread::sleep(Duration::from_millis(delay_ms));
        rustix::process::kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::INT).unwrap();
        let (code, _, errors) = demo.end();
        assert_eq!(code, Some(INTERRUPTED), "{moment} {delay_ms}: {errors:#?}");
        let gone = interrupt::wait_until("leftovers to go", END_LIMIT, || {
            Ok(leftovers(pid).is_empty().then_some(()))
        });
        assert!(gone.is_ok(), "{moment} {delay_ms}: {:?}", leftovers(pid));
        assert!(!errors.iter().any(|line| line.starts_with("LEFT")), "{moment}: {errors:#?}");
    }
}
