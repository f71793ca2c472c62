//! The workspace as `cargo metadata --format-version 1 --no-deps` prints it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// When a dependency is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In the crate itself.
    Normal,
    /// In its build script.
    Build,
    /// In its tests, benches and examples alone.
    Dev,
}

/// A dependency as written in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The package's own name, not what the manifest calls it.
    pub name: String,
    /// When it is used.
    pub kind: Kind,
    /// Its folder relative to the workspace, if it comes from a path.
    pub room: Option<String>,
}

/// A crate root: `lib.rs`, `main.rs`, a file of `src/bin`, a test, a build script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The file.
    pub path: PathBuf,
    /// True for what is shipped: a library or a binary.
    pub shipped: bool,
}

/// One member of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crate {
    /// The package's name.
    pub name: String,
    /// Its folder, relative to the workspace.
    pub room: String,
    /// The folder itself.
    pub dir: PathBuf,
    /// What it depends on, directly.
    pub dependencies: Vec<Dependency>,
    /// Its crate roots.
    pub roots: Vec<Root>,
}

/// All members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// In the order cargo names them.
    pub crates: Vec<Crate>,
}

/// Metadata that does not say what we need; ask which cargo printed it.
#[derive(Debug, Error)]
pub enum MetadataError {
    /// Not JSON, or not of cargo's shape.
    #[error("not cargo metadata of format version 1")]
    Shape(#[from] serde_json::Error),
    /// A member outside the workspace folder has no room.
    #[error("{name} lies in {dir}, outside the workspace folder {root}: move it inside")]
    Outside {
        /// The package.
        name: String,
        /// Where it is.
        dir: PathBuf,
        /// Where it should be.
        root: PathBuf,
    },
}

#[derive(Deserialize)]
struct RawMetadata {
    packages: Vec<RawPackage>,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct RawPackage {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<RawDependency>,
    targets: Vec<RawTarget>,
}

#[derive(Deserialize)]
struct RawDependency {
    name: String,
    kind: Option<String>,
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct RawTarget {
    kind: Vec<String>,
    src_path: PathBuf,
}

impl Workspace {
    /// Reads the metadata's JSON.
    pub fn parse(json: &str) -> Result<Self, MetadataError> {
        let raw: RawMetadata = serde_json::from_str(json)?;
        let root = &raw.workspace_root;
        let crates = raw.packages.into_iter().map(|package| package.into_crate(root));
        Ok(Self { crates: crates.collect::<Result<_, _>>()? })
    }
}

impl RawPackage {
    fn into_crate(self, root: &Path) -> Result<Crate, MetadataError> {
        let dir = self.manifest_path.parent().unwrap_or(root).to_path_buf();
        let Some(room) = room_of(&dir, root) else {
            return Err(MetadataError::Outside { name: self.name, dir, root: root.into() });
        };
        let dependencies = self.dependencies.into_iter().map(|raw| raw.into_dependency(root));
        Ok(Crate {
            dependencies: dependencies.collect(),
            roots: self.targets.into_iter().map(RawTarget::into_root).collect(),
            name: self.name,
            room,
            dir,
        })
    }
}

impl RawDependency {
    fn into_dependency(self, root: &Path) -> Dependency {
        let kind = match self.kind.as_deref() {
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            _ => Kind::Normal,
        };
        // A path outside the workspace keeps its full form: no room is called that.
        let room = self.path.map(|p| room_of(&p, root).unwrap_or_else(|| p.display().to_string()));
        Dependency { name: self.name, kind, room }
    }
}

impl RawTarget {
    fn into_root(self) -> Root {
        let in_tests_only = ["test", "bench", "example", "custom-build"];
        let shipped = !self.kind.iter().any(|kind| in_tests_only.contains(&kind.as_str()));
        Root { path: self.src_path, shipped }
    }
}

fn room_of(dir: &Path, root: &Path) -> Option<String> {
    let relative = dir.strip_prefix(root).ok()?;
    Some(relative.to_string_lossy().replace('\\', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_becomes_rooms_dependencies_and_roots() {
        let workspace = Workspace::parse(
            r#"{"workspace_root": "/w", "packages": [{
                "name": "dwcp-a", "manifest_path": "/w/dataplane/a/Cargo.toml",
                "dependencies": [
                    {"name": "dwcp-b", "kind": null, "path": "/w/dataplane/b"},
                    {"name": "serde", "kind": "dev"},
                    {"name": "far", "kind": "build", "path": "/elsewhere/far"}],
                "targets": [
                    {"kind": ["lib"], "src_path": "/w/dataplane/a/src/lib.rs"},
                    {"kind": ["test"], "src_path": "/w/dataplane/a/tests/t.rs"}]}]}"#,
        )
        .unwrap();
        let [member] = &workspace.crates[..] else { panic!("one member") };
        assert_eq!(member.room, "dataplane/a");
        let rooms: Vec<_> =
            member.dependencies.iter().map(|d| (d.kind, d.room.as_deref())).collect();
        assert_eq!(
            rooms,
            [
                (Kind::Normal, Some("dataplane/b")),
                (Kind::Dev, None),
                (Kind::Build, Some("/elsewhere/far"))
            ]
        );
        assert_eq!(member.roots.iter().map(|r| r.shipped).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_member_outside_the_workspace_folder_is_refused() {
        let json = r#"{"workspace_root": "/w", "packages": [{"name": "x",
            "manifest_path": "/v/x/Cargo.toml", "dependencies": [], "targets": []}]}"#;
        assert!(matches!(Workspace::parse(json), Err(MetadataError::Outside { .. })));
        assert!(matches!(Workspace::parse("[]"), Err(MetadataError::Shape(_))));
    }
}
