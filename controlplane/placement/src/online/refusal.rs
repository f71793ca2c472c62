//! Why no node takes a guest.

use std::fmt;

/// Why a node does not take a guest, in the order in which they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is not among the required nodes.
    NotRequired,
    /// It is avoided for a time, or by the guest.
    Avoided,
    /// Its region is not among those asked for.
    Region,
    /// It is too far from a site.
    Latency,
    /// The guest could not migrate there or run there.
    Platform,
    /// It has no GPU of the type.
    GpuType,
    /// It runs no member of a group to be with.
    NotWith,
    /// It runs a member of a group to be apart from.
    NotApart,
    /// Its zone has too many of the group.
    Spread,
    /// It has as many guests as it may have.
    VmCap,
    /// Its GPUs are taken.
    Gpus,
    /// It lacks this resource, by index of [`super::RESOURCE_NAMES`].
    Lacks(usize),
}

/// All reasons, in order.
pub const REASONS: [Reason; 15] = [
    Reason::NotRequired,
    Reason::Avoided,
    Reason::Region,
    Reason::Latency,
    Reason::Platform,
    Reason::GpuType,
    Reason::NotWith,
    Reason::NotApart,
    Reason::Spread,
    Reason::VmCap,
    Reason::Gpus,
    Reason::Lacks(0),
    Reason::Lacks(1),
    Reason::Lacks(2),
    Reason::Lacks(3),
];

impl Reason {
    fn text(self, one: bool) -> String {
        let pick = |singular: &str, plural: &str| (if one { singular } else { plural }).to_owned();
        match self {
            Self::NotRequired => pick("is not among the required", "are not among the required"),
            Self::Avoided => pick("is avoided", "are avoided"),
            Self::Region => pick("is in another region", "are in other regions"),
            Self::Latency => pick("is too far away", "are too far away"),
            Self::Platform => pick("has another platform", "have another platform"),
            Self::GpuType => pick("lacks the GPU type", "lack the GPU type"),
            Self::NotWith => {
                pick("runs no member of the affinity group", "run no member of the affinity group")
            }
            Self::NotApart => pick(
                "runs a member of the anti-affinity group",
                "run a member of the anti-affinity group",
            ),
            Self::Spread => pick("is in a zone with too many", "are in zones with too many"),
            Self::VmCap => pick("is at its VM cap", "are at their VM cap"),
            Self::Gpus => pick("has too few free GPUs", "have too few free GPUs"),
            Self::Lacks(resource) => {
                let name = super::node::RESOURCE_NAMES.get(resource).copied().unwrap_or("?");
                pick(&format!("lacks {name}"), &format!("lack {name}"))
            }
        }
    }
}

/// A refusal: how many nodes fell to which reason. A node counts at the first reason that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// (reason, nodes), most nodes first; empty when there are no nodes at all.
    pub counts: Vec<(Reason, u32)>,
    /// The earliest end of an avoidance among the avoided nodes, in Unix seconds.
    pub avoided_until_s: Option<u64>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.counts.is_empty() {
            return f.write_str("there are no nodes");
        }
        for (at, &(reason, count)) in self.counts.iter().enumerate() {
            let gap = if at == 0 { "" } else { ", " };
            let noun = match (at, count) {
                (0, 1) => " node",
                (0, _) => " nodes",
                _ => "",
            };
            write!(f, "{gap}{count}{noun} {}", reason.text(count == 1))?;
            if let (Reason::Avoided, Some(until)) = (reason, self.avoided_until_s) {
                let minutes = until % 86_400 / 60;
                write!(f, " until {:02}:{:02} UTC", minutes / 60, minutes % 60)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}
