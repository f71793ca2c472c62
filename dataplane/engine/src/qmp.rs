//! A small blocking QMP client: one socket, commands in turn, events kept in a bounded queue.
//! Runs on the control threads of a job, never in a poll loop; every call has a deadline.
//! It knows JSON and sockets, not migrations.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use thiserror::Error;

/// How long a monitor may take to greet us; QEMU serves one client per socket and leaves others waiting.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a command may take before it counts as unanswered.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest line accepted from a monitor.
const LINE_BYTES_MAX: usize = 8 << 20;
/// Events kept while nobody reads them; the oldest go first.
const EVENTS_MAX: usize = 1024;
const READ_CHUNK_BYTES: usize = 16 << 10;

/// What can go wrong on a monitor socket.
#[derive(Debug, Error)]
pub enum QmpError {
    /// The socket could not be opened.
    #[error(
        "QMP socket {path}: {source}; is QEMU running with -qmp unix:{path},server=on,wait=off?"
    )]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// No greeting arrived: another client holds the monitor.
    #[error(
        "QMP socket {0}: no greeting within 2 s: monitor busy (libvirt?): add a second -qmp to that QEMU"
    )]
    Busy(PathBuf),
    /// The peer does not speak QMP.
    #[error("{path} is not a QMP socket: it said {said:?}")]
    NotQmp {
        /// The socket's path.
        path: PathBuf,
        /// The start of what it said.
        said: String,
    },
    /// The monitor closed the connection: QEMU has gone.
    #[error("QEMU closed the QMP socket {0}")]
    Closed(PathBuf),
    /// The command was not answered in time.
    #[error("QMP command {command} was not answered within {seconds} s")]
    Timeout {
        /// The command's name.
        command: String,
        /// How long we waited.
        seconds: u64,
    },
    /// QEMU refused the command.
    #[error("QMP command {command}: {description}")]
    Refused {
        /// The command's name.
        command: String,
        /// QEMU's error class, for example `CommandNotFound`.
        class: String,
        /// QEMU's words.
        description: String,
    },
    /// The socket failed.
    #[error("QMP socket {path}: {source}")]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl QmpError {
    /// True when QEMU itself can no longer be reached through this socket.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Closed(_) | Self::Connect { .. } | Self::Io { .. })
    }
}

/// One event of the monitor.
#[derive(Debug, Clone)]
pub struct QmpEvent {
    /// Its name, for example `STOP`.
    pub name: String,
    /// Its data, `null` when it has none.
    pub data: Value,
}

/// A monitor connection.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    path: PathBuf,
    buffer: Vec<u8>,
    events: VecDeque<QmpEvent>,
    next_id: u64,
    version: (u32, u32, u32),
}

impl Qmp {
    /// Opens the socket, reads the greeting and leaves negotiation mode.
    ///
    /// # Errors
    /// [`QmpError::Busy`] when no greeting arrives within [`GREETING_TIMEOUT`].
    pub fn connect(path: &Path) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| QmpError::Connect { path: path.to_owned(), source })?;
        let mut qmp = Self {
            stream,
            path: path.to_owned(),
            buffer: Vec::with_capacity(READ_CHUNK_BYTES),
            events: VecDeque::new(),
            next_id: 0,
            version: (0, 0, 0),
        };
        let greeting = qmp
            .read_value(Instant::now() + GREETING_TIMEOUT)?
            .ok_or_else(|| QmpError::Busy(path.to_owned()))?;
        let version = greeting
            .pointer("/QMP/version/qemu")
            .ok_or_else(|| qmp.not_qmp(&greeting.to_string()))?;
        let part = |name| version.get(name).and_then(Value::as_u64).unwrap_or(0) as u32;
        qmp.version = (part("major"), part("minor"), part("micro"));
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// QEMU's version as (major, minor, micro).
    #[must_use]
    pub fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    /// The process at the other end, when the kernel tells.
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&self.stream).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs one command with [`COMMAND_TIMEOUT`] and returns its `return` value.
    ///
    /// # Errors
    /// [`QmpError::Refused`] with QEMU's words, or the socket's failure.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_within(command, arguments, COMMAND_TIMEOUT)
    }

    /// As [`Qmp::execute`], with the caller's time limit. A reply that comes later is dropped.
    ///
    /// # Errors
    /// As [`Qmp::execute`], and [`QmpError::Timeout`].
    pub fn execute_within(
        &mut self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        self.next_id += 1;
        let id = self.next_id;
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        self.write_line(line.as_bytes(), limit)?;
        let deadline = Instant::now() + limit;
        loop {
            let Some(reply) = self.read_value(deadline)? else {
                return Err(QmpError::Timeout {
                    command: command.to_owned(),
                    seconds: limit.as_secs(),
                });
            };
            if self.keep_event(&reply) || reply.get("id").and_then(Value::as_u64) != Some(id) {
                continue;
            }
            return Self::outcome(command, reply);
        }
    }

    /// A human monitor command's text.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn human(&mut self, line: &str) -> Result<String, QmpError> {
        let text = self.execute("human-monitor-command", json!({"command-line": line}))?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// The next event, waiting at most `limit`; `None` when none came.
    ///
    /// # Errors
    /// The socket's failure.
    pub fn next_event(&mut self, limit: Duration) -> Result<Option<QmpEvent>, QmpError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.read_value(deadline)? {
                Some(value) => _ = self.keep_event(&value),
                None => return Ok(None),
            }
        }
    }

    /// Waits for an event that `wanted` accepts; others are dropped. `None` after `limit`.
    ///
    /// # Errors
    /// The socket's failure.
    pub fn wait_event(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&QmpEvent) -> bool,
    ) -> Result<Option<QmpEvent>, QmpError> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next_event(left)? {
                Some(event) if wanted(&event) => return Ok(Some(event)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn outcome(command: &str, mut reply: Value) -> Result<Value, QmpError> {
        if let Some(value) = reply.get_mut("return") {
            return Ok(value.take());
        }
        let text = |name: &str| {
            reply
                .pointer(&format!("/error/{name}"))
                .and_then(Value::as_str)
                .unwrap_or("no reason given")
                .to_owned()
        };
        Err(QmpError::Refused {
            command: command.to_owned(),
            class: text("class"),
            description: text("desc"),
        })
    }

    fn keep_event(&mut self, value: &Value) -> bool {
        let Some(name) = value.get("event").and_then(Value::as_str) else { return false };
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        let data = value.get("data").cloned().unwrap_or(Value::Null);
        self.events.push_back(QmpEvent { name: name.to_owned(), data });
        true
    }

    fn write_line(&mut self, line: &[u8], limit: Duration) -> Result<(), QmpError> {
        let io = |source| QmpError::Io { path: self.path.clone(), source };
        self.stream.set_write_timeout(Some(limit)).map_err(io)?;
        (&self.stream).write_all(line).map_err(|source| match source.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                QmpError::Closed(self.path.clone())
            }
            _ => QmpError::Io { path: self.path.clone(), source },
        })
    }

    /// One JSON line, or `None` at the deadline.
    fn read_value(&mut self, deadline: Instant) -> Result<Option<Value>, QmpError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|_| self.not_qmp(&String::from_utf8_lossy(&line)));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(self.not_qmp("a line of more than 8 MiB"));
            }
            if !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Reads once; false at the deadline.
    fn fill(&mut self, deadline: Instant) -> Result<bool, QmpError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let io = |source| QmpError::Io { path: self.path.clone(), source };
        // A zero time-out means "for ever" to the socket; one millisecond polls.
        self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).map_err(io)?;
        let mut chunk = [0u8; READ_CHUNK_BYTES];
        match (&self.stream).read(&mut chunk) {
            Ok(0) => Err(QmpError::Closed(self.path.clone())),
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(true)
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                Err(QmpError::Closed(self.path.clone()))
            }
            Err(source) => Err(QmpError::Io { path: self.path.clone(), source }),
        }
    }

    fn not_qmp(&self, said: &str) -> QmpError {
        QmpError::NotQmp { path: self.path.clone(), said: said.chars().take(80).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn monitor(script: &'static [u8]) -> (PathBuf, std::thread::JoinHandle<()>) {
        let dir = std::env::temp_dir().join(format!("dwcp-qmp-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(script).unwrap();
            let mut sink = Vec::new();
            let _ = peer.read_to_end(&mut sink);
        });
        (path, serve)
    }

    const GREETING: &str =
        r#"{"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 2}}}}"#;

    #[test]
    fn a_reply_is_found_behind_events_and_stale_replies() {
        let script = format!(
            "{GREETING}\n{{\"return\":{{}},\"id\":1}}\n{{\"event\":\"STOP\"}}\n{{\"return\":1,\"id\":9}}\n{{\"return\":{{\"a\":1}},\"id\":2}}\n"
        );
        let (path, _serve) = monitor(script.leak().as_bytes());
        let mut qmp = Qmp::connect(&path).unwrap();
        assert_eq!(qmp.version(), (10, 0, 2));
        assert_eq!(qmp.execute("query-status", json!({})).unwrap(), json!({"a": 1}));
        assert_eq!(qmp.next_event(Duration::ZERO).unwrap().unwrap().name, "STOP");
    }

    #[test]
    fn what_is_no_monitor_is_named() {
        let (path, _serve) = monitor(b"SSH-2.0-OpenSSH\r\n");
        assert!(matches!(Qmp::connect(&path), Err(QmpError::NotQmp { .. })));
        let (path, _serve) = monitor(b"");
        assert!(matches!(Qmp::connect(&path), Err(QmpError::Busy(_))));
        assert!(matches!(Qmp::connect(Path::new("/nowhere/q")), Err(QmpError::Connect { .. })));
    }
}
