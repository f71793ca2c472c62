//! The content store as jobs use it: what a target looks into, and what a source leaves behind.

use std::path::{Path, PathBuf};

use dwcp_store::{Reader, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::error::{Class, EngineError, Result};

/// Which store: its folder and whose part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentStore {
    dir: PathBuf,
    tenant: String,
}

impl ContentStore {
    /// Opens it once, so that a bad folder shows at the start.
    ///
    /// # Errors
    /// The folder cannot be used, or the tenant's name is no such name.
    pub fn new(dir: &Path, tenant: &str) -> Result<Self> {
        let content = Self { dir: dir.to_owned(), tenant: tenant.to_owned() };
        content.open()?;
        Ok(content)
    }

    /// The tenant's part, to be changed.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(&self) -> Result<Store> {
        Store::open(&self.dir, &self.tenant).map_err(|e| {
            EngineError::new(class_of(&e), format!("--store {}: {e}", self.dir.display()))
        })
    }

    /// What is there now, or `None` when nothing is: then nothing is asked for.
    #[must_use]
    pub fn reader(&self) -> Option<Reader> {
        let reader = self.open().ok()?.reader().ok()?;
        (!reader.is_empty()).then_some(reader)
    }
}

/// The class of a store's failure.
#[must_use]
pub fn class_of(error: &StoreError) -> Class {
    match error {
        StoreError::Tenant(_) | StoreError::Vm(_) | StoreError::NotAFile(_) => Class::Usage,
        StoreError::Missing(_) | StoreError::NotFound(_) => Class::NotFound,
        StoreError::Unsupported { .. } => Class::Conflict,
        StoreError::Limit { .. } => Class::Limit,
        StoreError::DiskFull { .. } | StoreError::QemuImgMissing(_) | StoreError::Io { .. } => {
            Class::Resource
        }
        StoreError::QemuImg { .. } | StoreError::NoSuchPage { .. } => Class::Failed,
        StoreError::Stopped => Class::Interrupted,
    }
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        Self::new(class_of(&error), error.to_string())
    }
}
