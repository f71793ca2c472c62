//! Rows of `dwcp-bench placement` in `bench/record`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use dwcp_hwtest::probe;

use crate::placement::Row;

const HEADER: &str = "unix_s,commit,cores,load,part,case,algorithm,seed,seconds,figure,value\n";

/// Appends rows to this machine's record.
pub(crate) fn record(rows: &[Row]) -> Result<()> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tree.join("record").join(probe::machine());
    fs::create_dir_all(&folder)
        .with_context(|| format!("{}: records are kept in the source tree", folder.display()))?;
    let path = folder.join("placement.csv");
    let fresh = !path.exists();
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut text = if fresh { HEADER.to_owned() } else { String::new() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let commit = probe::commit();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let load = probe::load_average();
    for r in rows {
        text.push_str(&format!(
            "{now},{commit},{cores},{load},{},{},{},{},{:.3},{},{}\n",
            r.part, r.case, r.algorithm, r.seed, r.seconds, r.figure, r.value
        ));
    }
    file.write_all(text.as_bytes())?;
    eprintln!("recorded in {}", path.display());
    Ok(())
}
