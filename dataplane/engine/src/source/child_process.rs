//! The child as its parent sees it: a process, a pipe to it, and messages from it.

use std::io::BufReader;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, TrySendError, bounded};

use crate::error::{Doing, Result};
use crate::ipc::{self, FromChild, ToChild};

/// Messages that may wait for the parent.
const MESSAGES_MAX: usize = 256;
/// How long a child may take to close its sockets and go.
const EXIT_TIMEOUT: Duration = Duration::from_millis(1000);
const EXIT_POLL: Duration = Duration::from_millis(2);

/// The process that moves the bytes of one job.
#[derive(Debug)]
pub struct ChildProcess {
    process: Child,
    stdin: Option<ChildStdin>,
    messages: Receiver<FromChild>,
}

impl ChildProcess {
    /// Starts this very program as a child. It has its own process group, so that Ctrl-C reaches the
    /// parent alone.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start() -> Result<Self> {
        // Also when the file was replaced while we run.
        let program = "/proc/self/exe";
        let mut process = Command::new(program)
            .arg("send-bytes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .doing(|| "starting the process that moves the bytes".to_owned())?;
        let stdin = process.stdin.take();
        let (sender, messages) = bounded(MESSAGES_MAX);
        if let Some(stdout) = process.stdout.take() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stdout);
                while let Some(message) = ipc::read_line(&mut lines) {
                    // Counters are only news: a parent that is busy must not hold the child up.
                    let sent = match message {
                        FromChild::Progress(_) => {
                            !matches!(sender.try_send(message), Err(TrySendError::Disconnected(_)))
                        }
                        _ => sender.send(message).is_ok(),
                    };
                    if !sent {
                        return;
                    }
                }
                let _ = sender.send(FromChild::ChildGone);
            });
        }
        Ok(Self { process, stdin, messages })
    }

    /// Sends a message; a child that has gone shows as [`FromChild::ChildGone`].
    pub fn send(&mut self, message: &ToChild) {
        if let Some(stdin) = &mut self.stdin {
            let _ = ipc::write_line(stdin, message);
        }
    }

    /// The next message, or `None` after `limit`.
    pub fn receive(&self, limit: Duration) -> Option<FromChild> {
        match self.messages.recv_timeout(limit) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(limit);
                None
            }
        }
    }

    /// Asks the child to give up and waits until it is gone, killing it if it does not go: when this
    /// returns, its sockets are closed.
    pub fn end(&mut self, reason: &str) {
        self.send(&ToChild::Abort { reason: reason.to_owned() });
        self.wait_or_kill();
    }

    /// Closes the pipe and waits until the child is gone.
    pub fn finish(&mut self) {
        self.stdin = None;
        self.wait_or_kill();
    }

    fn wait_or_kill(&mut self) {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        while Instant::now() < deadline {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            // The reader thread must not block on a full queue while the child wants to go.
            while self.messages.try_recv().is_ok() {}
            std::thread::sleep(EXIT_POLL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
