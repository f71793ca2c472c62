//! What a node is.

/// Counted resources of a node.
pub const RESOURCES: usize = 4;
/// Their names, in the order of every `[_; RESOURCES]`: thousandths of a core, MiB, GiB, Mbit/s.
pub const RESOURCE_NAMES: [&str; RESOURCES] = ["CPU", "memory", "disk", "bandwidth"];

/// A place whose nodes are equally far from everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    /// The region it lies in.
    pub region: u16,
    /// Latency to each site in microseconds, by site number; a site past the end is out of reach.
    pub latency_us: Vec<u32>,
}

/// What a guest must find to be able to migrate in and run. Sets are bits that the caller numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platform {
    /// Architecture number.
    pub architecture: u16,
    /// CPU model number.
    pub cpu_model: u16,
    /// CPU flags it has.
    pub cpu_flags: u128,
    /// Machine types its QEMU knows.
    pub machine_types: u64,
    /// QEMU version: major, minor.
    pub qemu: (u16, u16),
    /// Huge page sizes it offers.
    pub huge_pages: u16,
    /// Storage it reaches.
    pub storage: u64,
    /// Host devices it can hand to a guest.
    pub devices: u64,
}

/// A node. It takes guests up to `capacity`, less the memory reserve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSpec {
    /// Number of its zone.
    pub zone: u32,
    /// Amounts for guests, in the order of [`RESOURCE_NAMES`].
    pub capacity: [u64; RESOURCES],
    /// Memory in MiB that stays free whatever comes.
    pub memory_reserve_mib: u64,
    /// Most guests at a time.
    pub vms_max: u32,
    /// GPU type number, if it has GPUs.
    pub gpu_type: Option<u16>,
    /// How many GPUs.
    pub gpus: u16,
    /// What guests find there.
    pub platform: Platform,
}
