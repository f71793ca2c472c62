//! The bytes in `golden/` are the protocol: this build must write and read exactly them.
//!
//! A wanted change of the format bumps the version and is written with
//! `DWCP_WRITE_GOLDEN=1 cargo test -p dwcp-wire --test golden`.

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

#[test]
fn every_message_has_its_golden_bytes() {
    let rewrite = std::env::var_os("DWCP_WRITE_GOLDEN").is_some();
    for (name, sample) in common::samples() {
        let path = folder().join(name).with_extension("bin");
        if rewrite {
            std::fs::write(&path, sample.encode()).expect("write golden file");
        }
        let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(sample.encode(), golden, "{name}: what is written");
        assert_eq!(sample.decode_like(&golden).as_ref(), Ok(&sample), "{name}: what is read");
    }
}

#[test]
fn every_golden_file_has_its_message() {
    let named: BTreeSet<_> =
        common::samples().into_iter().map(|(name, _)| format!("{name}.bin")).collect();
    let found: BTreeSet<_> = std::fs::read_dir(folder())
        .expect("golden folder")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(found, named);
}
