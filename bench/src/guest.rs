//! `dwcp-bench guest build`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use dwcp_hwtest::guest::{self, GuestSpec, Workload};
use dwcp_hwtest::workdir::cache_dir;

#[derive(Debug, Subcommand)]
pub(crate) enum GuestCommand {
    /// Build a guest: Debian's kernel, an initramfs with the workload, optionally a disk
    Build(BuildArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Folder to leave kernel, initrd, image and guest.json in
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    guest: GuestArgs,
}

/// What a guest is made of; shared with the demo.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GuestArgs {
    /// Kernel image instead of Debian's
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Initramfs to add the workload to
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Disk image instead of a built one
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Guest memory, such as 80M or 2G; from 1G on the workload is the one of the benchmarks
    #[arg(long, value_name = "SIZE", value_parser = parse_size_mb)]
    pub(crate) memory: Option<u64>,
    /// Give the guest a disk of real files to read into its page cache
    #[arg(long)]
    pub(crate) disk: bool,
    /// Memory the guest rewrites for ever, MB
    #[arg(long, value_name = "MB")]
    pub(crate) dirty_mb: Option<u32>,
    /// How much of it per second, MB
    #[arg(long, value_name = "MB")]
    pub(crate) rate_mb: Option<u32>,
    /// What it is rewritten with
    #[arg(long, value_parser = ["random", "words", "mixed"])]
    pub(crate) kind: Option<String>,
}

/// From this size on the guest gets the large workload.
const BENCH_MEMORY_MB: u64 = 1024;

impl GuestArgs {
    pub(crate) fn spec(&self, default: &GuestSpec) -> GuestSpec {
        let memory_mb = self.memory.unwrap_or(default.memory_mb);
        // The default's disk fits the default's memory; another size has one only if asked for.
        let disk = self.disk || (self.memory.is_none() && default.disk);
        let mut workload = match self.memory {
            Some(mb) if mb >= BENCH_MEMORY_MB => Workload::bench(),
            Some(_) => Workload::default(),
            None => default.workload.clone(),
        };
        if !disk && self.image.is_none() {
            workload.warm_mb = 0;
        }
        workload.dirty_mb = self.dirty_mb.unwrap_or(workload.dirty_mb);
        workload.rate_mb = self.rate_mb.unwrap_or(workload.rate_mb);
        if let Some(kind) = &self.kind {
            workload.kind.clone_from(kind);
        }
        GuestSpec {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            image: self.image.clone(),
            disk,
            memory_mb,
            workload,
        }
    }
}

fn parse_size_mb(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size such as 80M or 2G");
    let (number, scale) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(scale).filter(|mb| (64..=1 << 20).contains(mb)).ok_or_else(wrong)
}

pub(crate) fn run(command: GuestCommand) -> Result<()> {
    let GuestCommand::Build(args) = command;
    let spec = args.guest.spec(&GuestSpec::small());
    let guest = guest::build_into(&spec, &cache_dir(), &args.out)
        .with_context(|| format!("building a guest in {}", args.out.display()))?;
    println!(
        "{}: {} with {} MB, {}{}",
        args.out.display(),
        guest.kernel_name,
        guest.memory_mb,
        guest.workload.append(),
        if guest.image.is_some() { ", disk image" } else { "" }
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(parse_size_mb("2G"), Ok(2048));
        assert_eq!(parse_size_mb("80M"), Ok(80));
        assert_eq!(parse_size_mb("512"), Ok(512));
        for text in ["", "G", "1M", "-2G", "99999999999999G", "2GB"] {
            assert!(parse_size_mb(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_large_guest_gets_the_large_workload() {
        let args = GuestArgs { memory: Some(2048), disk: true, ..GuestArgs::default() };
        assert_eq!(args.spec(&GuestSpec::small()).workload, Workload::bench());
        let plain = GuestArgs { memory: Some(2048), ..GuestArgs::default() };
        assert_eq!(plain.spec(&GuestSpec::small()).workload.warm_mb, 0);
    }
}
