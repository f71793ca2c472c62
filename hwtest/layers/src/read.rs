//! The only part that touches the machine: reads `layers.toml` and sources, asks cargo.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use thiserror::Error;

use crate::workspace::{Crate, MetadataError, Workspace};
use crate::{Rules, SourceFile, Violation, check_arrows, check_sources};

/// What keeps the check from being made; it says nothing about the rules.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `layers.toml` is not of its form.
    #[error("layers.toml: {0}")]
    Rules(#[from] toml::de::Error),
    /// cargo cannot be started: is it in PATH?
    #[error("cannot start cargo metadata")]
    Cargo(#[source] io::Error),
    /// cargo refuses the workspace.
    #[error("cargo metadata: {0}")]
    Refused(String),
    /// cargo says something else than expected.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Checks the workspace in `root` against its `layers.toml`.
pub fn check_workspace(root: &Path) -> Result<Vec<Violation>, ReadError> {
    let (rules, workspace) = (read_rules(root)?, read_metadata(root)?);
    let mut found = check_arrows(&rules, &workspace);
    for member in &workspace.crates {
        found.extend(check_sources(&rules, member, &read_sources(member)?));
    }
    Ok(found)
}

/// Reads `layers.toml` of the workspace in `root`.
pub fn read_rules(root: &Path) -> Result<Rules, ReadError> {
    Ok(Rules::parse(&read_text(&root.join("layers.toml"))?)?)
}

/// Asks cargo for the members of the workspace in `root`; downloads nothing.
pub fn read_metadata(root: &Path) -> Result<Workspace, ReadError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let answer = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .map_err(ReadError::Cargo)?;
    if !answer.status.success() {
        let text = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
        return Err(ReadError::Refused(text));
    }
    Ok(Workspace::parse(&String::from_utf8_lossy(&answer.stdout))?)
}

/// Reads every Rust file of a crate, but not of crates that lie inside it.
pub fn read_sources(member: &Crate) -> Result<Vec<SourceFile>, ReadError> {
    let (mut files, mut folders) = (Vec::new(), vec![member.dir.clone()]);
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        for path in entries.map_err(|e| failed(&folder, e))?.into_iter().map(|e| e.path()) {
            if path.is_dir() {
                // A build folder lies at the top; further down a module may be called target.
                if path != member.dir.join("target") && !path.join("Cargo.toml").exists() {
                    folders.push(path);
                }
            } else if path.extension() == Some("rs".as_ref()) {
                files.push(SourceFile { text: read_text(&path)?, path });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read_text(path: &Path) -> Result<String, ReadError> {
    fs::read_to_string(path).map_err(|e| failed(path, e))
}

fn failed(path: &Path, source: io::Error) -> ReadError {
    ReadError::File { path: path.into(), source }
}
