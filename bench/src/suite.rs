//! `dwcp-bench tiny` and `dwcp-bench all`: every benchmark in turn, each in a process of its own so that one
//! that fails leaves the others alone.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use dwcp_hwtest::{interrupt, probe};

/// Benchmarks at their smallest: do they work, and does memory arrive whole?
const TINY: [(&str, &str); 5] = [
    (
        "migrate",
        "migrate --tiny --runs 1 --check-ram --link LINK --modes \
         qemu,qemu-multifd,qemu-multifd-zstd,qemu-xbzrle,dwcp,dwcp-return,limit,limit-multifd",
    ),
    ("raw", "raw --tiny"),
    ("placement", "placement --tiny"),
    ("prediction", "prediction --tiny"),
    ("demo", "demo --memory 80M"),
];
/// The real ones, recorded.
const ALL: [(&str, &str); 3] = [
    (
        "migrate at 500mbit",
        "migrate --record --link 500mbit --modes \
         qemu,qemu-multifd,qemu-multifd-zstd,qemu-xbzrle,dwcp,dwcp-image,dwcp-return",
    ),
    (
        "migrate unshaped",
        "migrate --record --link none --modes qemu,qemu-multifd,qemu-multifd-zstd,dwcp,limit,limit-multifd",
    ),
    ("raw", "raw --record"),
];
/// Namespaces are needed for these.
const NEEDS_NAMESPACES: [&str; 1] = ["raw"];

#[derive(Debug, Args)]
pub(crate) struct AllArgs {
    /// Rounds of each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
}

/// Prints one line per benchmark and a summary in the form of a test run.
pub(crate) fn tiny() -> Result<()> {
    interrupt::install()?;
    let namespaces = probe::namespaces();
    let (mut passed, mut failed) = (0, 0);
    for (name, words) in TINY {
        if let Err(reason) = &namespaces
            && NEEDS_NAMESPACES.contains(&name)
        {
            probe::skip(&format!("{name}: {reason:#}"));
            continue;
        }
        let words = words.replace("LINK", if namespaces.is_ok() { "500mbit" } else { "none" });
        let ok = child(&words)?;
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        if ok { passed += 1 } else { failed += 1 }
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed");
    if failed > 0 {
        bail!("{failed} benchmarks failed");
    }
    Ok(())
}

/// The benchmarks whose figures are kept.
pub(crate) fn all(args: &AllArgs) -> Result<()> {
    interrupt::install()?;
    let mut failed = Vec::new();
    for (name, words) in ALL {
        eprintln!("== {name}");
        if !child(&format!("{words} --runs {}", args.runs))? {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// This program with other words; it stays in our process group, so Ctrl-C reaches it too.
fn child(words: &str) -> Result<bool> {
    interrupt::check()?;
    let program = std::env::current_exe().context("our own path")?;
    let mut command = Command::new(program);
    command.args(words.split_whitespace()).stdin(Stdio::null());
    let status =
        interrupt::run_child(&mut command).with_context(|| format!("dwcp-bench {words}"))?;
    Ok(status.success())
}
