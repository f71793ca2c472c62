//! Two hosts on one machine: network namespaces joined by a veth pair, optionally shaped with HTB.
//! Needs root. Namespaces vanish on drop; those of killed processes are swept before new ones are made.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{run, workdir};

/// The one interface of each namespace beside loopback.
const INTERFACE: &str = "v0";
const PREFIX_BITS: u8 = 24;
/// Bytes HTB may send at once: one full segment offload, so that shaping does not split it.
const BURST_BYTES: u32 = 128 << 10;
/// Every namespace runs on it; the host's default differs between machines.
const CONGESTION_CONTROL: &str = "cubic";
const SYSCTL: &str = "/proc/sys/net/ipv4";

/// Rate of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// As fast as the machine.
    Unshaped,
    /// Bits per second on the wire, each way.
    Shaped {
        /// Bits per second.
        bits_per_s: u64,
    },
}

impl FromStr for Link {
    type Err = anyhow::Error;

    /// `none`, or a number with `kbit`, `mbit` or `gbit`.
    fn from_str(text: &str) -> Result<Self> {
        if text == "none" {
            return Ok(Self::Unshaped);
        }
        let units = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000u64)];
        let bits_per_s = units
            .iter()
            .find_map(|(unit, scale)| {
                text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*scale)
            })
            .filter(|bits| *bits > 0)
            .with_context(|| format!("link {text:?}: give none or for example 500mbit"))?;
        Ok(Self::Shaped { bits_per_s })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unshaped => f.write_str("none"),
            Self::Shaped { bits_per_s } if bits_per_s % 1_000_000_000 == 0 => {
                write!(f, "{}gbit", bits_per_s / 1_000_000_000)
            }
            Self::Shaped { bits_per_s } if bits_per_s % 1_000_000 == 0 => {
                write!(f, "{}mbit", bits_per_s / 1_000_000)
            }
            Self::Shaped { bits_per_s } => write!(f, "{}kbit", bits_per_s / 1000),
        }
    }
}

/// Bytes an interface has carried, link headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent.
    pub tx_bytes: u64,
    /// Received.
    pub rx_bytes: u64,
}

impl Traffic {
    /// What was carried since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: Self) -> Self {
        Self {
            tx_bytes: self.tx_bytes.saturating_sub(earlier.tx_bytes),
            rx_bytes: self.rx_bytes.saturating_sub(earlier.rx_bytes),
        }
    }

    /// Both directions.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.tx_bytes + self.rx_bytes
    }
}

/// Where a program runs: a namespace of ours, or simply this host with loopback between source and target.
#[derive(Debug)]
pub enum Host {
    /// A namespace, removed on drop.
    Namespace {
        /// Its name.
        name: String,
        /// Its address on the link.
        address: Ipv4Addr,
    },
    /// This host.
    Loopback,
}

impl Host {
    /// The address the other side reaches it by.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        match self {
            Self::Namespace { address, .. } => (*address).into(),
            Self::Loopback => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// A command that runs `program` there; nsenter replaces itself, so the process id is the program's.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self {
            Self::Namespace { name, .. } => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg("--").arg(program);
                command
            }
            Self::Loopback => Command::new(program),
        }
    }

    /// Byte counters of the link's interface.
    ///
    /// # Errors
    /// The interface cannot be asked.
    pub fn traffic(&self) -> Result<Traffic> {
        let interface = match self {
            Self::Namespace { .. } => INTERFACE,
            Self::Loopback => "lo",
        };
        let mut command = self.command("ip");
        let text = run::output(command.args(["-j", "-s", "link", "show", interface]))?;
        let value: Value = serde_json::from_str(&text)?;
        let count =
            |way: &str| value.pointer(&format!("/0/stats64/{way}/bytes")).and_then(Value::as_u64);
        let (tx, rx) = (count("tx"), count("rx"));
        Ok(Traffic {
            tx_bytes: tx.context("ip reports no counters")?,
            rx_bytes: rx.context("ip reports no counters")?,
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Self::Namespace { name, .. } = self {
            let _ = run::line(&format!("ip netns del {name}"));
        }
    }
}

/// Source and target host and what lies between them.
#[derive(Debug)]
pub struct HostPair {
    /// Where the guest starts.
    pub source: Host,
    /// Where it goes.
    pub target: Host,
    /// The link between them.
    pub link: Link,
}

impl HostPair {
    /// Both on this host, joined by loopback; works without root.
    #[must_use]
    pub fn loopback() -> Self {
        Self { source: Host::Loopback, target: Host::Loopback, link: Link::Unshaped }
    }

    /// Two namespaces with a veth pair at `link`'s rate each way.
    ///
    /// # Errors
    /// No root, no iproute2, or a kernel without HTB; nothing is left behind.
    pub fn namespaces(link: Link) -> Result<Self> {
        sweep();
        let source = add_namespace(Ipv4Addr::new(10, 213, 0, 1))?;
        let target = add_namespace(Ipv4Addr::new(10, 213, 0, 2))?;
        let pair = Self { source, target, link };
        let (Host::Namespace { name: a, .. }, Host::Namespace { name: b, .. }) =
            (&pair.source, &pair.target)
        else {
            bail!("a namespace was expected");
        };
        run::line(&format!(
            "ip link add {INTERFACE} netns {a} type veth peer name {INTERFACE} netns {b}"
        ))?;
        for host in [&pair.source, &pair.target] {
            configure(host, link)?;
        }
        Ok(pair)
    }

    /// The link carries nothing but ours. Loopback is shared with everything else on this host, so there the
    /// movers' own counts are the better ones.
    #[must_use]
    pub fn is_private(&self) -> bool {
        matches!(self.source, Host::Namespace { .. })
    }

    /// Bytes both ways, counted at the source's interface. On loopback each byte is seen sent and received once.
    ///
    /// # Errors
    /// The interface cannot be asked.
    pub fn traffic(&self) -> Result<Traffic> {
        let mut traffic = self.source.traffic()?;
        if matches!(self.source, Host::Loopback) {
            traffic.rx_bytes = 0;
        }
        Ok(traffic)
    }
}

fn add_namespace(address: Ipv4Addr) -> Result<Host> {
    let name = workdir::unique_name();
    run::line(&format!("ip netns add {name}"))?;
    Ok(Host::Namespace { name, address })
}

fn configure(host: &Host, link: Link) -> Result<()> {
    let inside = |words: &str| {
        let mut parts = words.split_whitespace();
        let mut command = host.command(parts.next().unwrap_or_default());
        run::output(command.args(parts))
    };
    inside("ip link set lo up")?;
    inside(&format!("ip addr add {}/{PREFIX_BITS} dev {INTERFACE}", host.address()))?;
    inside(&format!("ip link set {INTERFACE} up"))?;
    set_congestion_control(host)?;
    if let Link::Shaped { bits_per_s } = link {
        inside(&format!("tc qdisc add dev {INTERFACE} root handle 1: htb default 1"))?;
        inside(&format!(
            "tc class add dev {INTERFACE} parent 1: classid 1:1 htb rate {bits_per_s}bit ceil {bits_per_s}bit burst {BURST_BYTES} cburst {BURST_BYTES} quantum {BURST_BYTES}"
        ))?;
    }
    Ok(())
}

/// A namespace may only use what the host allows (tcp(7), tcp_allowed_congestion_control); where the default is
/// another one, cubic is not yet among them.
fn set_congestion_control(host: &Host) -> Result<()> {
    let set = || {
        let words = format!("echo {CONGESTION_CONTROL} > {SYSCTL}/tcp_congestion_control");
        run::output(host.command("sh").args(["-c", &words]))
    };
    if set().is_err() {
        let path = format!("{SYSCTL}/tcp_allowed_congestion_control");
        let allowed = fs::read_to_string(&path)?;
        fs::write(&path, format!("{} {CONGESTION_CONTROL}", allowed.trim()))
            .with_context(|| format!("allowing {CONGESTION_CONTROL}"))?;
        set().with_context(|| format!("setting {CONGESTION_CONTROL}"))?;
    }
    Ok(())
}

/// Removes namespaces of processes that were killed.
fn sweep() {
    let Ok(list) = run::line("ip netns list") else { return };
    for name in list.lines().filter_map(|l| l.split_whitespace().next()) {
        if workdir::is_stale(name) {
            let _ = run::line(&format!("ip netns del {name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_parse_and_print() {
        for text in ["none", "500mbit", "1gbit", "64kbit"] {
            assert_eq!(text.parse::<Link>().unwrap().to_string(), text);
        }
        for text in ["", "500", "mbit", "0mbit", "-1mbit", "99999999999999999999gbit"] {
            assert!(text.parse::<Link>().is_err(), "{text}");
        }
    }
}
