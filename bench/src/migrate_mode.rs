//! The ways a guest can be moved that the benchmark compares.

use std::fmt;
use std::str::FromStr;

use dwcp_hwtest::migrate::Method;

/// QEMU's own default cache is 64 MB; a quarter of the large guest's memory holds its dirty set.
const XBZRLE_CACHE_BYTES: u64 = 512 << 20;

/// One way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// QEMU, one stream.
    Qemu,
    /// QEMU, several streams.
    Multifd,
    /// QEMU, several streams with zstd: the baseline.
    MultifdZstd,
    /// QEMU, one stream with deltas.
    Xbzrle,
    /// This product.
    Dwcp,
    /// This product, towards a host that holds the guest's disk image.
    DwcpImage,
    /// This product, back to a host that the guest left a moment ago.
    DwcpReturn,
    /// QEMU into a socket that is only drained: no target, no network.
    Limit,
    /// The same with several streams.
    LimitMultifd,
}

/// What the ratios are taken against.
pub(crate) const BASELINE: Mode = Mode::MultifdZstd;

const NAMES: [(Mode, &str); 9] = [
    (Mode::Qemu, "qemu"),
    (Mode::Multifd, "qemu-multifd"),
    (Mode::MultifdZstd, "qemu-multifd-zstd"),
    (Mode::Xbzrle, "qemu-xbzrle"),
    (Mode::Dwcp, "dwcp"),
    (Mode::DwcpImage, "dwcp-image"),
    (Mode::DwcpReturn, "dwcp-return"),
    (Mode::Limit, "limit"),
    (Mode::LimitMultifd, "limit-multifd"),
];

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(mode, _)| mode == self).map_or("", |(_, name)| *name);
        f.pad(name)
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = NAMES.iter().map(|(_, name)| *name).collect();
        NAMES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(mode, _)| *mode)
            .ok_or_else(|| format!("mode {text:?} is none of {}", names.join(", ")))
    }
}

impl serde::Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Mode {
    /// QEMU's settings; `None` for our own mode.
    pub(crate) fn method(self, channels: u8, zstd_level: u8) -> Option<Method> {
        let multifd = Some(channels);
        match self {
            Self::Qemu | Self::Limit => Some(Method::default()),
            Self::Multifd | Self::LimitMultifd => Some(Method { multifd, ..Method::default() }),
            Self::MultifdZstd => {
                Some(Method { multifd, zstd: Some(zstd_level), ..Method::default() })
            }
            Self::Xbzrle => {
                Some(Method { xbzrle_cache_bytes: Some(XBZRLE_CACHE_BYTES), ..Method::default() })
            }
            Self::Dwcp | Self::DwcpImage | Self::DwcpReturn => None,
        }
    }

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Dwcp | Self::DwcpImage | Self::DwcpReturn)
    }

    pub(crate) fn is_limit(self) -> bool {
        matches!(self, Self::Limit | Self::LimitMultifd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for (mode, name) in NAMES {
            assert_eq!(name.parse::<Mode>().unwrap(), mode);
            assert_eq!(mode.to_string(), name);
        }
        assert!("qemu-rdma".parse::<Mode>().is_err());
    }
}
