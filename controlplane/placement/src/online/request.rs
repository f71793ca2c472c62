//! What a guest asks for.

use super::node::{Platform, RESOURCES};

/// GPUs of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// Type number; `None` takes any type.
    pub kind: Option<u16>,
    /// How many, at least 1.
    pub count: u16,
}

/// Members of a group are spread over zones: no allowed zone may have more than `skew_max` members
/// more than the allowed zone with the fewest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// The group that is counted.
    pub group: u32,
    /// Largest difference, at least 1.
    pub skew_max: u32,
}

/// What the platform must have. `Default` asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlatformNeed {
    /// This architecture.
    pub architecture: Option<u16>,
    /// This CPU model.
    pub cpu_model: Option<u16>,
    /// All of these flags.
    pub cpu_flags: u128,
    /// All of these machine types (commonly one).
    pub machine_types: u64,
    /// At least this QEMU.
    pub qemu_min: (u16, u16),
    /// All of these huge page sizes (commonly one).
    pub huge_pages: u16,
    /// All of this storage.
    pub storage: u64,
    /// All of these devices.
    pub devices: u64,
}

impl PlatformNeed {
    /// Has a platform all of it?
    #[must_use]
    pub fn fits(&self, has: &Platform) -> bool {
        self.architecture.is_none_or(|a| a == has.architecture)
            && self.cpu_model.is_none_or(|m| m == has.cpu_model)
            && self.cpu_flags & !has.cpu_flags == 0
            && self.machine_types & !has.machine_types == 0
            && self.qemu_min <= has.qemu
            && self.huge_pages & !has.huge_pages == 0
            && self.storage & !has.storage == 0
            && self.devices & !has.devices == 0
    }
}

/// One guest to place. `Default` fits anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Amounts, in the order of [`super::RESOURCE_NAMES`].
    pub needs: [u64; RESOURCES],
    /// GPUs.
    pub gpu: Option<Gpu>,
    /// Groups it joins.
    pub groups: Vec<u32>,
    /// Only on nodes that run a member of each of these groups. A group without members binds
    /// nothing, so that the first member finds a place.
    pub with: Vec<u32>,
    /// Only on nodes that run no member of any of these groups.
    pub apart: Vec<u32>,
    /// Spread over zones.
    pub spread: Option<Spread>,
    /// Only these nodes; empty: all.
    pub required: Vec<u32>,
    /// None of these nodes.
    pub avoided: Vec<u32>,
    /// Only these regions; empty: all.
    pub regions: Vec<u16>,
    /// At most so many microseconds to these sites.
    pub latency_us_max: Vec<(u16, u32)>,
    /// Platform.
    pub platform: PlatformNeed,
}
