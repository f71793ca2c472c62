//! Compiles the guest's workload (`guest/`) into one static file that the library embeds, so that the
//! harness needs no compiler when it runs.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo:rerun-if-changed=guest/src");
    println!("cargo:rerun-if-changed=build.rs");
    let var = |name: &str| env::var_os(name).unwrap_or_default();
    let out = PathBuf::from(var("OUT_DIR")).join("dwcp-guest");
    let status = Command::new(var("RUSTC"))
        .args(["--edition", "2024", "--crate-name", "dwcp_guest", "-O"])
        .args(["-C", "target-feature=+crt-static", "-C", "panic=abort", "-C", "strip=symbols"])
        .arg("-o")
        .arg(&out)
        .arg("guest/src/main.rs")
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => {
            eprintln!("compiling the guest workload failed: {other:?}");
            exit(1);
        }
    }
}
