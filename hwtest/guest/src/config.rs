//! What the kernel command line asks of the workload. The kernel hands words it does not know to init's environment,
//! so neither /proc nor a mount is needed.

/// What a dirtied page is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Incompressible bytes, the whole page changes.
    Random,
    /// Text; 64 bytes in four places change.
    Words,
    /// Even pages random, odd pages words.
    Mixed,
}

/// Sizes in the units of the names; rates per second.
pub(crate) struct Config {
    pub(crate) port: String,
    pub(crate) tick_us: u64,
    pub(crate) dirty_mb: usize,
    pub(crate) rate_mb: u64,
    pub(crate) kind: Kind,
    pub(crate) anon_mb: usize,
    pub(crate) check_kb: usize,
    pub(crate) warm_mb: usize,
    pub(crate) warm_dir: String,
}

impl Config {
    pub(crate) fn from_environment() -> Self {
        Self::from_words(|name| std::env::var(name).ok())
    }

    fn from_words(word: impl Fn(&str) -> Option<String>) -> Self {
        let number =
            |name: &str, default: u64| word(name).and_then(|v| v.parse().ok()).unwrap_or(default);
        let size = |name: &str, default: u64| number(name, default) as usize;
        Self {
            port: word("port").unwrap_or_else(|| "/dev/ttyS1".into()),
            tick_us: number("tick_us", 5000).max(100),
            dirty_mb: size("dirty_mb", 4),
            rate_mb: number("rate_mb", 1),
            kind: match word("kind").as_deref() {
                Some("random") => Kind::Random,
                Some("words") => Kind::Words,
                _ => Kind::Mixed,
            },
            anon_mb: size("anon_mb", 0),
            check_kb: size("check_kb", 512),
            warm_mb: size("warm_mb", 0),
            warm_dir: word("warm_dir").unwrap_or_else(|| "/image".into()),
        }
    }
}
