//! CPU time of other processes from /proc, in seconds.

use anyhow::{Context, Result};

/// Ticks per second of the times in /proc/PID/stat; 100 on every Linux x86 (USER_HZ).
const USER_HZ: f64 = 100.0;

/// User and system time of a process, threads that ended included.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CpuTime {
    /// Its own.
    pub own_s: f64,
    /// Of children it has waited for.
    pub children_s: f64,
}

impl CpuTime {
    /// Reads a living or not yet reaped process.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid}"))?;
        Self::parse(&text).with_context(|| format!("/proc/{pid}/stat: unknown format"))
    }

    /// Both parts.
    #[must_use]
    pub fn total_s(&self) -> f64 {
        self.own_s + self.children_s
    }

    /// proc(5): fields 14-17, counted after the parenthesised name, which may hold blanks.
    fn parse(stat: &str) -> Option<Self> {
        let rest = &stat[stat.rfind(')')? + 1..];
        let mut fields = rest.split_whitespace().skip(11);
        let mut next = || fields.next()?.parse::<f64>().ok();
        let (user, system, child_user, child_system) = (next()?, next()?, next()?, next()?);
        Some(Self {
            own_s: (user + system) / USER_HZ,
            children_s: (child_user + child_system) / USER_HZ,
        })
    }
}

/// CPU seconds of `pid` and all its living descendants; 0 for what has gone.
#[must_use]
pub fn tree_s(pid: u32) -> f64 {
    let own = CpuTime::of(pid).unwrap_or_default().total_s();
    own + children(pid).into_iter().map(tree_s).sum::<f64>()
}

/// Living children of a process.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_blanks_and_brackets_are_passed_over() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 25 75 20 0 4";
        let time = CpuTime::parse(stat).unwrap();
        assert_eq!(time, CpuTime { own_s: 2.0, children_s: 1.0 });
    }

    #[test]
    fn our_own_time_is_readable() {
        assert!(CpuTime::of(std::process::id()).is_ok());
        assert!(CpuTime::of(0x7fff_ffff).is_err());
    }
}
