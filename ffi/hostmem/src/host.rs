//! What the host has: free memory, room in a tmpfs, cores; and pinning to one of them.
//!
//! Set-up time only: reads files and allocates.

use std::path::Path;

use rustix::fs::{StatVfs, statvfs};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::HostMemError;

/// Niceness of favoured threads: about nine times the share of an ordinary one.
const FAVOURED_NICE: i32 = -10;
const MEMINFO: &str = "/proc/meminfo";

/// Binds the calling thread to `core` (the kernel's number of it).
///
/// # Errors
/// [`HostMemError::Os`] when there is no such core or it is not ours to use. Go on unpinned.
pub fn pin_current_thread(core: usize) -> Result<(), HostMemError> {
    let failed = |source| HostMemError::Os { what: "pinning a thread to a core", source };
    if core >= CpuSet::MAX_CPU {
        return Err(failed(rustix::io::Errno::INVAL));
    }
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(failed)
}

/// Lets the calling thread go before others on a host whose cores are all taken, by niceness: it
/// moves bytes that somebody waits for, in short bursts. `false` when this process may not
/// (CAP_SYS_NICE); the thread then takes its fair share.
pub fn favour_current_thread() -> bool {
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), FAVOURED_NICE).is_ok()
}

/// Cores this process may run on, by the kernel's numbers. Empty when the kernel does not say.
pub fn online_cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// Bytes of memory the host can still give without swapping (`MemAvailable`).
///
/// # Errors
/// [`HostMemError::Proc`] without /proc.
pub fn free_memory_bytes() -> Result<u64, HostMemError> {
    meminfo("MemAvailable:")
}

/// Bytes of memory the host has (`MemTotal`).
///
/// # Errors
/// [`HostMemError::Proc`] without /proc.
pub fn total_memory_bytes() -> Result<u64, HostMemError> {
    meminfo("MemTotal:")
}

/// Bytes a file on the file system of `path` can still grow by: its free blocks, and for a file
/// system in memory without a limit of its own the host's free memory.
///
/// # Errors
/// [`HostMemError::Os`] when `path` does not exist, [`HostMemError::Proc`] without /proc.
pub fn free_tmpfs_bytes(path: &Path) -> Result<u64, HostMemError> {
    let StatVfs { f_blocks, f_bavail, f_frsize, .. } =
        statvfs(path).map_err(|source| HostMemError::Os { what: "statvfs", source })?;
    if f_blocks == 0 {
        return free_memory_bytes();
    }
    Ok(f_bavail.saturating_mul(f_frsize))
}

fn meminfo(field: &str) -> Result<u64, HostMemError> {
    let failed = |source| HostMemError::Proc { path: Path::new(MEMINFO).into(), source };
    let text = std::fs::read_to_string(MEMINFO).map_err(failed)?;
    meminfo_field(&text, field)
        .ok_or_else(|| failed(std::io::Error::other(format!("no field {field}"))))
}

fn meminfo_field(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_understood() {
        let text = "MemTotal:       1000 kB\nMemAvailable:    7 kB\nHuge: 3\n";
        assert_eq!(meminfo_field(text, "MemAvailable:"), Some(7 * 1024));
        assert_eq!(meminfo_field(text, "Huge:"), None);
        assert_eq!(meminfo_field(text, "Swap:"), None);
    }

    #[test]
    fn the_host_has_memory_and_cores() {
        let free = free_memory_bytes().unwrap();
        assert!(0 < free && free <= total_memory_bytes().unwrap());
        assert!(free_tmpfs_bytes(Path::new("/dev/shm")).unwrap() > 0);
        assert!(free_tmpfs_bytes(Path::new("/no/such/place")).is_err());
        let core = online_cores()[0];
        std::thread::spawn(move || {
            pin_current_thread(core).unwrap();
            assert_eq!(online_cores(), [core]);
        })
        .join()
        .unwrap();
        assert!(pin_current_thread(usize::MAX).is_err());
    }
}
