//! What can be wrong with a stream, and what to do about it.

use thiserror::Error;

/// A QEMU capability that changes the stream's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// `xbzrle`: pages as differences to a cache of the source.
    Xbzrle,
    /// `compress`: pages packed by QEMU (removed in 9.1).
    Compress,
    /// `rdma-pin-all` and the RDMA transport's hooks.
    Rdma,
    /// `mapped-ram`: pages at fixed offsets of a file.
    MappedRam,
    /// `x-ignore-shared`: shared blocks are left out by the source itself.
    IgnoreShared,
    /// `postcopy-ram`.
    PostcopyRam,
    /// `multifd-compression` other than `none`.
    MultifdCompression,
    /// Device state over multifd channels (10.0, VFIO).
    MultifdDeviceState,
}

impl Capability {
    /// The name QMP knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xbzrle => "xbzrle",
            Self::Compress => "compress",
            Self::Rdma => "rdma",
            Self::MappedRam => "mapped-ram",
            Self::IgnoreShared => "x-ignore-shared",
            Self::PostcopyRam => "postcopy-ram",
            Self::MultifdCompression => "multifd-compression",
            Self::MultifdDeviceState => "multifd device state",
        }
    }
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A stream that cannot be parsed or rewritten. `at` counts bytes from the start of the stream.
///
/// [`StreamError::is_unsupported`] tells a healthy stream with a feature we do not handle (choose
/// plain mode, or switch the feature off) from a damaged one (abort the job).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StreamError {
    /// The first eight bytes are not those of a migration stream.
    #[error("not a QEMU migration stream: begins {found:016x}; is this the source's socket?")]
    NotAStream {
        /// The first eight bytes, big-endian.
        found: u64,
    },
    /// Direct mode needs the configuration section to announce `x-ignore-shared`.
    #[error(
        "stream has no configuration section (send-configuration=off): move the guest in plain mode"
    )]
    NoConfiguration,
    /// Sections without footers cannot be told apart safely.
    #[error(
        "section {section_id} has no footer (send-section-footer=off): move the guest in plain mode"
    )]
    NoFooters {
        /// The section's id.
        section_id: u32,
    },
    /// A part of the configuration section that is not known.
    #[error("configuration subsection {name:?} is not known: move the guest in plain mode")]
    UnsupportedConfiguration {
        /// The subsection's full name.
        name: String,
    },
    /// A capability the source has on that this mode cannot serve.
    #[error("capability {capability} is on at the source: switch it off for this migration")]
    UnsupportedCapability {
        /// Which one.
        capability: Capability,
    },
    /// An iterable or early section that has no length and whose format is not known.
    #[error(
        "section {name:?} (version {version}) before the end of RAM is not supported: \
         unplug the device or move the guest in plain mode"
    )]
    UnsupportedSection {
        /// The section's id string.
        name: String,
        /// Its version.
        version: u32,
    },
    /// The caller's rules give no place to a block of the stream.
    #[error("RAM block {name:?} ({used_bytes} bytes) is not known on the target: refuse the job")]
    UnknownBlock {
        /// The block's id string.
        name: String,
        /// Its length.
        used_bytes: u64,
    },
    /// A block that should be taken out did not appear.
    #[error("RAM block {name:?} is not in the source's stream: refuse the job")]
    MissingBlock {
        /// The block's id string.
        name: String,
    },
    /// A taken-out block that is not a whole number of 4 KiB pages.
    #[error("RAM block {name:?} has {used_bytes} bytes, not whole 4 KiB pages: use plain mode")]
    UnevenBlock {
        /// The block's id string.
        name: String,
        /// Its length.
        used_bytes: u64,
    },
    /// A record for a block that MEM_SIZE did not list, or none at all.
    #[error("record at byte {at} is for unlisted RAM block {name:?}: abort the job")]
    UnlistedBlock {
        /// The block's id string; empty if the record continues a block never named.
        name: String,
        /// Where.
        at: u64,
    },
    /// A page outside its block.
    #[error("page {index} lies outside RAM block {name:?}: abort the job")]
    PageOutOfRange {
        /// The block's id string.
        name: String,
        /// The page's index in the block.
        index: u64,
    },
    /// A length above its bound.
    #[error("{what} of {value} is above the bound of {max} at byte {at}: abort the job")]
    TooLarge {
        /// What was measured.
        what: &'static str,
        /// The value in the stream.
        value: u64,
        /// The bound.
        max: u64,
        /// Where.
        at: u64,
    },
    /// A value that no QEMU writes at this place.
    #[error("{what} {value:#x} at byte {at}: the stream is damaged, abort the job")]
    Unexpected {
        /// What was read.
        what: &'static str,
        /// The value in the stream.
        value: u64,
        /// Where.
        at: u64,
    },
}

impl StreamError {
    /// Whether the stream may be healthy and only out of this mode's reach: plain mode then passes
    /// everything through opaquely instead of failing.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::NoConfiguration
                | Self::NoFooters { .. }
                | Self::UnsupportedConfiguration { .. }
                | Self::UnsupportedCapability { .. }
                | Self::UnsupportedSection { .. }
        )
    }
}
