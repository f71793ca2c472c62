//! This workspace against its own `layers.toml`.

use std::path::Path;

use dwcp_layers::{check_workspace, read_metadata, read_sources};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn the_workspace_keeps_to_layers_toml() {
    let found = check_workspace(root()).unwrap_or_else(|e| panic!("{e}"));
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} broken:\n{}", lines.len(), lines.join("\n"));
}

/// Guards the check above against passing because it looked at nothing.
#[test]
fn the_check_sees_this_crate_and_its_sources() {
    let workspace = read_metadata(root()).unwrap();
    let own = workspace.crates.iter().find(|c| c.room == "hwtest/layers").unwrap();
    let files = read_sources(own).unwrap();
    assert!(own.dependencies.iter().any(|d| d.name == "serde"));
    for root in &own.roots {
        assert!(files.iter().any(|file| file.path == root.path), "{}", root.path.display());
    }
    let hwtest = workspace.crates.iter().find(|c| c.room == "hwtest").unwrap();
    let inside = read_sources(hwtest).unwrap();
    assert!(inside.iter().all(|file| !file.path.starts_with(&own.dir)), "crates inside are apart");
}
