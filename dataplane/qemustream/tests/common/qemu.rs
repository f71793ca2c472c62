//! A QEMU process and its monitor, as little of it as the tests need.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const BINARY: &str = "qemu-system-x86_64";
/// Everything here takes under a second; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Why QEMU cannot be used here, if it cannot. With `DWCP_REQUIRE_QEMU` set that is a failure.
pub(crate) fn missing() -> Option<String> {
    let found = Command::new(BINARY).arg("--version").output();
    let reason = match found {
        Ok(output) if output.status.success() => return None,
        Ok(output) => format!("{BINARY} --version: {}", output.status),
        Err(error) => format!("{BINARY}: {error}"),
    };
    assert!(std::env::var_os("DWCP_REQUIRE_QEMU").is_none(), "{reason}");
    Some(reason)
}

/// A folder under the system's temporary one, removed at the end. (Cargo's own temporary folder can
/// be too deep for a socket's path.)
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dwcp-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct Qemu {
    process: Child,
    monitor: BufReader<UnixStream>,
}

impl Qemu {
    /// Starts QEMU under TCG without devices of its own and speaks to its monitor at `socket`.
    pub(crate) fn start(socket: &str, arguments: &[String]) -> Self {
        let process = Command::new(BINARY)
            .args(["-nodefaults", "-display", "none", "-accel", "tcg"])
            .args(["-qmp", &format!("unix:{socket},server=on,wait=off")])
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .expect("QEMU starts");
        let mut qemu = Self { process, monitor: BufReader::new(connect(socket)) };
        qemu.line();
        qemu.execute("qmp_capabilities", "");
        qemu
    }

    /// Runs a command and returns the reply's line.
    pub(crate) fn execute(&mut self, command: &str, arguments: &str) -> String {
        let arguments = if arguments.is_empty() { "{}" } else { arguments };
        let request = format!("{{\"execute\": \"{command}\", \"arguments\": {arguments}}}\n");
        self.monitor.get_mut().write_all(request.as_bytes()).expect("the monitor listens");
        loop {
            let line = self.line();
            assert!(!line.starts_with("{\"error\""), "{command}: {line}");
            if line.starts_with("{\"return\"") {
                return line;
            }
        }
    }

    pub(crate) fn switch_on(&mut self, capabilities: &[&str]) {
        for capability in capabilities {
            let switch = format!("{{\"capability\": \"{capability}\", \"state\": true}}");
            self.execute("migrate-set-capabilities", &format!("{{\"capabilities\": [{switch}]}}"));
        }
    }

    /// Waits until `query-migrate` says what is wanted.
    pub(crate) fn wait_for(&mut self, wanted: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let reply = self.execute("query-migrate", "");
            if reply.contains(wanted) {
                return;
            }
            let failed = reply.contains("\"status\": \"failed\"") || Instant::now() > until;
            assert!(!failed, "waiting for {wanted}: {reply}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Saves guest-physical memory from 0.
    pub(crate) fn memory(&mut self, file: &str, bytes: u64) -> Vec<u8> {
        let arguments = format!("{{\"val\": 0, \"size\": {bytes}, \"filename\": \"{file}\"}}");
        self.execute("pmemsave", &arguments);
        std::fs::read(file).expect("the saved memory")
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.monitor.read_line(&mut line).expect("the monitor answers");
        assert!(!line.is_empty(), "QEMU left");
        line
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Connects to a socket that QEMU is about to open.
pub(crate) fn connect(socket: &str) -> UnixStream {
    let until = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "{socket}: {error}"),
        }
        std::thread::sleep(PAUSE);
    }
}

/// A BIOS of 64 KiB whose real-mode program increments a word in each page from 0x20000 to
/// 0x90000 for ever, so that there is something to migrate again.
pub(crate) fn dirtying_bios(file: &str) {
    const ENTRY: usize = 0xf000;
    const RESET_VECTOR: usize = 0xfff0;
    const PROGRAM: &[u8] = b"\xb8\x00\x20\x8e\xd8\x0f\x01\x3e\x00\x00\xff\x06\x00\x00\
        \x05\x00\x01\x3d\x00\x90\x72\xed\xeb\xe8";
    const JUMP_TO_ENTRY: &[u8] = b"\xea\x00\xf0\x00\xf0";
    let mut image = vec![0; 64 << 10];
    image[ENTRY..][..PROGRAM.len()].copy_from_slice(PROGRAM);
    image[RESET_VECTOR..][..JUMP_TO_ENTRY.len()].copy_from_slice(JUMP_TO_ENTRY);
    std::fs::write(Path::new(file), image).expect("the BIOS is written");
}
