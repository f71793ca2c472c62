//! Runs helper programs and turns their failure into one line.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs to the end and returns standard output; an exit code other than 0 is an error with its last words.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let what = format!("{command:?}");
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{what} could not be started"))?;
    if !out.status.success() {
        let words = String::from_utf8_lossy(&out.stderr);
        bail!("{what}: {}: {}", out.status, words.trim().lines().last().unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// `output` for a program and its arguments given as one line without quoting.
pub(crate) fn line(words: &str) -> Result<String> {
    let mut parts = words.split_whitespace();
    let program = parts.next().context("an empty command")?;
    output(Command::new(program).args(parts))
}
