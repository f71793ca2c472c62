//! Fetches Debian's kernel through apt and takes out of it what a guest needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::bzimage;
use crate::workdir::WorkDir;
use crate::{probe, run};

/// The meta package; its dependency names the kernel's package.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// Modules the bench guest loads, by file name; the rest is built into this kernel.
const MODULES: [&str; 1] = ["virtio_blk"];

/// A kernel ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// ELF file for direct boot, or the compressed image where it could not be taken apart.
    pub image: PathBuf,
    /// Package or file name.
    pub name: String,
    /// Uncompressed modules in load order.
    pub modules: Vec<PathBuf>,
}

impl Kernel {
    /// Debian's newest cloud kernel among the configured suites, cached under `cache`.
    ///
    /// # Errors
    /// No apt, no network on a first run, or an unexpected package.
    pub fn debian(cache: &Path) -> Result<Self> {
        let parent = cache.join("kernel");
        if let Some(kernel) = newest_cached(&parent) {
            return Ok(kernel);
        }
        let package = resolve_package()?;
        let dir = parent.join(&package);
        fs::create_dir_all(&parent)?;
        let staging = WorkDir::under(&parent)?;
        let made = staging.join("made");
        fs::create_dir(&made)?;
        fetch(&package, &made)?;
        fs::rename(&made, &dir).with_context(|| format!("moving to {}", dir.display()))?;
        load(&dir).context("the fetched kernel is incomplete")
    }

    /// A kernel file the user gave; taken apart into `dir` if it can be.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn given(file: &Path, dir: &Path) -> Result<Self> {
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        fs::create_dir_all(dir)?;
        let image = dir.join("kernel");
        fs::write(&image, bzimage::extract_elf(&bytes).unwrap_or(bytes))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { image, name, modules: Vec::new() })
    }
}

fn newest_cached(parent: &Path) -> Option<Kernel> {
    let mut dirs: Vec<PathBuf> =
        fs::read_dir(parent).ok()?.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    dirs.iter().rev().find_map(|dir| load(dir))
}

fn load(dir: &Path) -> Option<Kernel> {
    let image = dir.join("kernel");
    let modules: Vec<PathBuf> = MODULES.iter().map(|m| dir.join(format!("{m}.ko"))).collect();
    let whole = image.exists() && modules.iter().all(|m| m.exists());
    let name = dir.file_name()?.to_str()?.to_owned();
    (whole && name.starts_with("linux-image-")).then_some(Kernel { image, name, modules })
}

fn resolve_package() -> Result<String> {
    if !probe::has_program("apt-get") {
        bail!("apt-get is not installed: give --kernel and --initrd");
    }
    let versions = run::line(&format!("apt-cache madison {META_PACKAGE}"))?;
    let newest = versions
        .lines()
        .filter_map(|l| l.split('|').nth(1))
        .map(str::trim)
        .next()
        .with_context(|| format!("apt knows no {META_PACKAGE}; run apt-get update"))?;
    let depends = run::line(&format!("apt-cache depends {META_PACKAGE}={newest}"))?;
    depends
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: "))
        .find(|p| p.starts_with("linux-image-"))
        .map(str::to_owned)
        .with_context(|| format!("{META_PACKAGE} {newest} names no kernel"))
}

/// Leaves `kernel` and the modules in `dir`.
fn fetch(package: &str, dir: &Path) -> Result<()> {
    run::output(
        Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
            .current_dir(dir),
    )?;
    let deb = find(dir, &|name| name.ends_with(".deb")).context("apt-get left no package")?;
    let tree = dir.join("tree");
    run::output(Command::new("dpkg").arg("-x").arg(&deb).arg(&tree))?;
    let packed = find(&tree.join("boot"), &|name| name.starts_with("vmlinuz"))
        .context("the package holds no kernel")?;
    let bytes = fs::read(packed)?;
    fs::write(dir.join("kernel"), bzimage::extract_elf(&bytes).unwrap_or(bytes))?;
    for module in MODULES {
        let file = find(&tree, &|name| name.starts_with(&format!("{module}.ko")))
            .with_context(|| format!("the package holds no module {module}"))?;
        fs::write(dir.join(format!("{module}.ko")), unpack_module(&file)?)?;
    }
    fs::remove_dir_all(&tree)?;
    fs::remove_file(&deb)?;
    Ok(())
}

fn unpack_module(file: &Path) -> Result<Vec<u8>> {
    match file.extension().and_then(|e| e.to_str()) {
        Some("ko") => Ok(fs::read(file)?),
        Some("xz") => {
            let out = Command::new("busybox").arg("xzcat").arg(file).output()?;
            if !out.status.success() {
                bail!("busybox xzcat {}: {}", file.display(), out.status);
            }
            Ok(out.stdout)
        }
        _ => bail!("{}: unknown module compression", file.display()),
    }
}

fn find(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(dir).ok()?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().ok()?.is_dir() {
            if let Some(found) = find(&path, wanted) {
                return Some(found);
            }
        } else if entry.file_name().to_str().is_some_and(wanted) {
            return Some(path);
        }
    }
    None
}
