//! Builds guests: Debian's kernel, an initramfs with the workload, and for the large one a disk image.
//! Built once per content under the cache folder; a second call returns at once.

pub mod bzimage;
pub mod cpio;
pub mod image;
pub mod kernel;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use self::kernel::Kernel;
use crate::workdir::cache_dir;

/// The static workload program, compiled by build.rs from `guest/`.
const WORKLOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dwcp-guest"));
const MANIFEST: &str = "guest.json";
const SCHEMA: u32 = 1;
/// Raised when the way a guest is put together changes.
const RECIPE: u32 = 1;
/// The init of a guest with a disk: mounts it where the workload reads it, then becomes the workload.
const INIT_WITH_DISK: &str = "#!/bin/busybox sh
/bin/busybox insmod /virtio_blk.ko
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t ext4 -o ro,noload /dev/vda /image
exec /bin/workload
";
/// Kernel words of every guest: quiet, quick to boot under emulation, and QEMU ends when it panics.
const APPEND_COMMON: &str = "console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0 \
     apparmor=0 selinux=0 tsc=reliable";
/// Start-up work a guest of 80 MiB neither needs nor has the memory for.
const APPEND_SMALL: &str = "transparent_hugepage=never ftrace=nop initcall_blacklist=\
     slab_sysfs_init,event_trace_init,load_module_cert,init_trusted_keyring,\
     load_system_certificate_list,x509_key_init,hugetlb_init,crypto_algapi_init,jent_mod_init,\
     bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init,trace_eval_init";
/// Real files in the disk image beyond those the guest reads, so that the choice is not always "all".
const IMAGE_SPARE_MB: u32 = 170;

/// What the workload does; handed over on the kernel's command line. Sizes and rates in the unit of the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workload {
    /// Microseconds between two ticks.
    pub tick_us: u32,
    /// Memory that is rewritten for ever.
    pub dirty_mb: u32,
    /// How much of it per second.
    pub rate_mb: u32,
    /// `random`, `words` or `mixed`.
    pub kind: String,
    /// Memory written once, compressible.
    pub anon_mb: u32,
    /// Memory written once with random bytes and verified for ever.
    pub check_kb: u32,
    /// Files read into the page cache.
    pub warm_mb: u32,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            tick_us: 5000,
            dirty_mb: 4,
            rate_mb: 1,
            kind: "mixed".into(),
            anon_mb: 0,
            check_kb: 512,
            warm_mb: 0,
        }
    }
}

impl Workload {
    /// The large guest's: 931 MB of non-zero pages, 256 MB of them dirtied at 20 MB/s.
    #[must_use]
    pub fn bench() -> Self {
        Self {
            dirty_mb: 256,
            rate_mb: 20,
            anon_mb: 158,
            check_kb: 4096,
            warm_mb: 430,
            ..Self::default()
        }
    }

    /// The demo's: smaller, so that a move takes seconds.
    #[must_use]
    pub fn demo() -> Self {
        Self {
            dirty_mb: 96,
            rate_mb: 12,
            anon_mb: 64,
            check_kb: 2048,
            warm_mb: 100,
            ..Self::default()
        }
    }

    /// As words of the kernel's command line.
    #[must_use]
    pub fn append(&self) -> String {
        format!(
            "tick_us={} dirty_mb={} rate_mb={} kind={} anon_mb={} check_kb={} warm_mb={}",
            self.tick_us,
            self.dirty_mb,
            self.rate_mb,
            self.kind,
            self.anon_mb,
            self.check_kb,
            self.warm_mb
        )
    }
}

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct GuestSpec {
    /// Kernel image instead of Debian's.
    pub kernel: Option<PathBuf>,
    /// Initramfs to which the workload is added.
    pub initrd: Option<PathBuf>,
    /// Disk image instead of a built one.
    pub image: Option<PathBuf>,
    /// Give the guest a disk and read it into its page cache.
    pub disk: bool,
    /// Guest memory; 0 = the size's default.
    pub memory_mb: u64,
    /// What runs inside.
    pub workload: Workload,
}

impl GuestSpec {
    /// 80 MiB, first tick about two seconds after the start under emulation.
    #[must_use]
    pub fn small() -> Self {
        Self { memory_mb: 80, ..Self::default() }
    }

    /// 2 GiB with a disk: the guest of the benchmarks.
    #[must_use]
    pub fn bench() -> Self {
        Self { memory_mb: 2048, disk: true, workload: Workload::bench(), ..Self::default() }
    }

    /// 512 MiB with a disk, about half of it in use and 96 MB of that rewritten for ever: the guest of the demo.
    #[must_use]
    pub fn demo() -> Self {
        Self { memory_mb: 512, disk: true, workload: Workload::demo(), ..Self::default() }
    }

    fn has_disk(&self) -> bool {
        self.disk || self.image.is_some()
    }
}

/// A built guest; paths are absolute.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Guest {
    schema: u32,
    /// ELF kernel or kernel image.
    pub kernel: PathBuf,
    /// Kernel package or file.
    pub kernel_name: String,
    /// Initramfs.
    pub initrd: PathBuf,
    /// Read-only ext4 disk.
    pub image: Option<PathBuf>,
    /// Default memory size.
    pub memory_mb: u64,
    /// Kernel words without the workload's.
    pub append: String,
    /// The workload's.
    pub workload: Workload,
    /// Changes when anything the guest boots from changes.
    pub key: String,
}

impl Guest {
    /// The guest of the tests, built on first use.
    ///
    /// # Errors
    /// The kernel cannot be fetched.
    pub fn small() -> Result<Self> {
        build(&GuestSpec::small(), &cache_dir())
    }

    /// Reads a folder that [`build_into`] filled.
    ///
    /// # Errors
    /// There is no guest in that folder, or one of another format.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "{}: no guest there; dwcp-bench guest build --out {}",
                path.display(),
                dir.display()
            )
        })?;
        let mut guest: Self =
            serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?;
        if guest.schema != SCHEMA {
            bail!("{}: format {} is not {SCHEMA}; build it again", path.display(), guest.schema);
        }
        let dir = dir.canonicalize()?;
        guest.kernel = dir.join(&guest.kernel);
        guest.initrd = dir.join(&guest.initrd);
        guest.image = guest.image.map(|i| dir.join(i));
        Ok(guest)
    }

    /// The whole kernel command line.
    #[must_use]
    pub fn command_line(&self) -> String {
        format!("{} {}", self.append, self.workload.append())
    }
}

/// Builds into the cache, or returns what is there.
///
/// # Errors
/// A part cannot be fetched or made; the message names it.
pub fn build(spec: &GuestSpec, cache: &Path) -> Result<Guest> {
    fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
    let lock = File::create(cache.join("guest.lock"))?;
    lock.lock()?;
    let kernel = match &spec.kernel {
        Some(file) => Kernel::given(file, &cache.join("kernel-given"))?,
        None => Kernel::debian(cache)?,
    };
    let initrd = initramfs(spec, &kernel)?;
    let key = key_of(spec, &kernel, &initrd)?;
    let dir = cache.join("guest").join(&key);
    if let Ok(guest) = Guest::load(&dir) {
        return Ok(guest);
    }
    fs::create_dir_all(&dir)?;
    assemble(spec, &kernel, &initrd, key, cache, &dir)?;
    Guest::load(&dir)
}

/// Builds (cached) and leaves the guest in `out`, as links or copies.
///
/// # Errors
/// As [`build`].
pub fn build_into(spec: &GuestSpec, cache: &Path, out: &Path) -> Result<Guest> {
    let built = build(spec, cache)?;
    let from = built.initrd.parent().context("the guest has no folder")?;
    fs::create_dir_all(out)?;
    if from.canonicalize()? != out.canonicalize()? {
        for entry in fs::read_dir(from)?.flatten() {
            let target = out.join(entry.file_name());
            let _ = fs::remove_file(&target);
            if fs::hard_link(entry.path(), &target).is_err() {
                fs::copy(entry.path(), &target)?;
            }
        }
    }
    Guest::load(out)
}

fn assemble(
    spec: &GuestSpec,
    kernel: &Kernel,
    initrd: &[u8],
    key: String,
    cache: &Path,
    dir: &Path,
) -> Result<()> {
    link(&kernel.image, &dir.join("kernel"))?;
    fs::write(dir.join("initrd"), initrd)?;
    let image = spec.has_disk().then(|| PathBuf::from("image.ext4"));
    if let Some(name) = &image {
        link(&disk_image(spec, cache)?, &dir.join(name))?;
    }
    let small = spec.memory_mb != 0 && spec.memory_mb < 128;
    let guest = Guest {
        schema: SCHEMA,
        kernel: "kernel".into(),
        kernel_name: kernel.name.clone(),
        initrd: "initrd".into(),
        image,
        memory_mb: if spec.memory_mb == 0 { 256 } else { spec.memory_mb },
        append: append_for(spec, small),
        workload: spec.workload.clone(),
        key,
    };
    // The manifest comes last: a folder without it counts as not built.
    fs::write(dir.join(MANIFEST), serde_json::to_vec_pretty(&guest)?)?;
    Ok(())
}

fn append_for(spec: &GuestSpec, small: bool) -> String {
    let mut words = String::from(APPEND_COMMON);
    if small {
        words = format!("{words} {APPEND_SMALL}");
    }
    if spec.initrd.is_some() {
        words.push_str(" rdinit=/dwcp-init");
    }
    words
}

fn disk_image(spec: &GuestSpec, cache: &Path) -> Result<PathBuf> {
    if let Some(image) = &spec.image {
        return image.canonicalize().with_context(|| format!("{}", image.display()));
    }
    let content_mb = spec.workload.warm_mb + IMAGE_SPARE_MB;
    let path = cache.join(format!("image-{content_mb}.ext4"));
    if !path.exists() {
        image::build(&path, u64::from(content_mb) << 20)?;
    }
    Ok(path)
}

fn link(from: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_file(to);
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    }
    Ok(())
}

fn initramfs(spec: &GuestSpec, kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = cpio::Archive::default();
    let init = if spec.initrd.is_some() { "dwcp-init" } else { "init" };
    archive.dir("dev");
    archive.char_device("dev/console", 5, 1);
    archive.char_device("dev/null", 1, 3);
    archive.char_device("dev/ttyS1", 4, 65);
    if spec.has_disk() {
        let busybox = fs::read("/usr/bin/busybox").or_else(|_| fs::read("/bin/busybox"));
        archive.dir("bin");
        archive.dir("image");
        archive.file("bin/busybox", &busybox.context("busybox-static is not installed")?);
        archive.file("bin/workload", WORKLOAD);
        for module in &kernel.modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            archive.file(&name, &fs::read(module)?);
        }
        archive.file(init, INIT_WITH_DISK.as_bytes());
    } else {
        archive.file(init, WORKLOAD);
    }
    let ours = archive.finish();
    let Some(given) = &spec.initrd else { return Ok(ours) };
    let mut bytes = fs::read(given).with_context(|| format!("reading {}", given.display()))?;
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend_from_slice(&ours);
    Ok(bytes)
}

fn key_of(spec: &GuestSpec, kernel: &Kernel, initrd: &[u8]) -> Result<String> {
    let image = match &spec.image {
        Some(path) => {
            let meta = fs::metadata(path).with_context(|| format!("{}", path.display()))?;
            format!("{} {} {:?}", path.display(), meta.len(), meta.modified()?)
        }
        None => String::new(),
    };
    let kernel_sum = xxh3_64(&fs::read(&kernel.image)?);
    let parts = format!(
        "{RECIPE} {kernel_sum:x} {:x} {} {} {} {}",
        xxh3_64(initrd),
        spec.memory_mb,
        spec.has_disk(),
        spec.workload.append(),
        image
    );
    Ok(format!("{:016x}", xxh3_64(parts.as_bytes())))
}
