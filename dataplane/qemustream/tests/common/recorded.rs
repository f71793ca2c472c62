//! The recorded streams in `streams/` (see `record-streams.sh`).

use std::path::Path;

/// The largest recording is 3 MB; more would be a mistake in the script.
const RECORDING_BYTES_MAX: usize = 8 << 20;

/// The names of all recordings of a kind: `main`, `return` or `channel0`.
pub(crate) fn names(kind: &str) -> Vec<String> {
    let ending = format!(".{kind}.zst");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("streams");
    let entries = std::fs::read_dir(folder).expect("the folder of recordings");
    let files = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> =
        files.filter_map(|file| file.to_str()?.strip_suffix(&ending).map(str::to_owned)).collect();
    names.sort();
    assert!(!names.is_empty(), "no recordings of kind {kind}");
    names
}

/// One recording, unpacked.
pub(crate) fn load(name: &str, kind: &str) -> Vec<u8> {
    let file = format!("{}/streams/{name}.{kind}.zst", env!("CARGO_MANIFEST_DIR"));
    let packed = std::fs::read(&file).expect("the recording");
    let mut stream = Vec::with_capacity(RECORDING_BYTES_MAX);
    zstd_safe::decompress(&mut stream, &packed).expect("an intact recording");
    stream
}
