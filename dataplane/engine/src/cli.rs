//! The command line of `dwcp-engine`.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::{Class, EngineError, Result};
use crate::ipc::{Hash, Poll, WantedMode};
use crate::units::{AutoOr, Rate};

/// Most streams of one job.
pub const STREAMS_MAX: i64 = 256;
/// Highest zstd level that can be forced.
pub const LEVEL_MAX: i64 = 19;
/// Longest downtime budget that can be asked for.
pub const DOWNTIME_MS_MAX: u64 = 120_000;
/// Downtime budget when nobody says.
pub const DOWNTIME_MS_DEFAULT: u64 = 300;
/// Longest limit before the stop.
pub const TIMEOUT_S_MAX: u64 = 604_800;
/// Limit before the stop when nobody says.
pub const TIMEOUT_S_DEFAULT: u64 = 3600;
/// Longest limit without connections.
pub const LINK_TIMEOUT_S_MAX: u64 = 86_400;
/// Limit without connections when nobody says.
pub const LINK_TIMEOUT_S_DEFAULT: u64 = 120;
/// Longest limit between the stop and the last slice.
pub const PAUSE_TIMEOUT_MS_MAX: u64 = 600_000;

/// Moves running QEMU guests between hosts.
#[derive(Debug, Parser)]
#[command(name = "dwcp-engine", version = concat!("DWCP v", env!("CARGO_PKG_VERSION")), about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Wait beside the target QEMU for a guest and take it over.
    Receive(ReceiveArgs),
    /// Move the guest of a running QEMU to a waiting `receive`.
    Send(SendArgs),
    /// Stay and take orders through the gRPC door on a local socket.
    Serve(ServeArgs),
    /// List the jobs this host has records of.
    Jobs(JobsArgs),
    /// End a job whose outcome is not known yet.
    Resolve(ResolveArgs),
    /// Keep an index of content that arriving guests need not bring along.
    Index(crate::index::IndexArgs),
    /// Move the bytes of one job; started by `send`.
    #[command(hide = true)]
    SendBytes,
}

/// Whether streams are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tls {
    /// TLS 1.3 with mutual authentication.
    On,
    /// Plaintext, for a network you trust.
    Off,
}

/// What to do with a guest that dirties memory faster than the link carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnStall {
    /// End the job; the guest stays.
    Abort,
    /// Go on until --timeout.
    Wait,
    /// Stop the guest and accept a longer downtime.
    Force,
}

/// Flags of both ends.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Encrypt the streams. Off loopback both ends must say which.
    #[arg(long, value_enum)]
    pub tls: Option<Tls>,
    /// Folder of job records [default: /var/lib/dwcp/engine as root, else the XDG state folder]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print one JSON object as the last line on standard output; progress goes to standard error
    #[arg(long)]
    pub json: bool,
}

/// Whose part of a content store.
#[derive(Debug, Args)]
pub struct TenantArgs {
    /// Part of the store: nothing is shared between tenants
    #[arg(long, value_name = "NAME", default_value = dwcp_store::DEFAULT_TENANT)]
    pub tenant: String,
}

/// Flags about arriving guests, of `receive` and `serve`.
#[derive(Debug, Args)]
pub struct ArrivalArgs {
    /// Folder on tmpfs or hugetlbfs for the RAM of launched guests
    #[arg(long, value_name = "DIR")]
    pub ram_dir: Option<PathBuf>,
    /// Content store: pages that it holds are not sent; see `dwcp-engine index`
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Whose part of it
    #[command(flatten)]
    pub tenant: TenantArgs,
    /// User that a launched QEMU runs as, when we are root
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Longest time without any connection before an arriving job that has not been decided is aborted
    #[arg(long, value_name = "SECONDS", default_value_t = LINK_TIMEOUT_S_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=LINK_TIMEOUT_S_MAX))]
    pub link_timeout: u64,
    /// How the network loops of arriving jobs wait
    #[arg(long, value_enum, default_value_t = Poll::Adaptive)]
    pub poll: Poll,
}

/// Flags of `receive`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("qemu").required(true))]
pub struct ReceiveArgs {
    /// QMP socket of a target QEMU that was started with -S -incoming defer
    #[arg(long, value_name = "SOCK", group = "qemu")]
    pub qmp: Option<PathBuf>,
    /// File with the target QEMU's command, one argument a line: a fresh QEMU is started for every job
    #[arg(long, value_name = "FILE", group = "qemu")]
    pub launch: Option<PathBuf>,
    /// Address and port for all streams of all jobs; port 0 takes any free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8085")]
    pub listen: String,
    /// End after the first job
    #[arg(long)]
    pub once: bool,
    /// Decide and take over, but leave the arrived guest paused
    #[arg(long)]
    pub leave_paused: bool,
    /// Write the listening address to this file once connections are accepted
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Flags about arriving guests
    #[command(flatten)]
    pub arrival: ArrivalArgs,
    /// Common flags
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Flags of `send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// QMP socket of the source QEMU
    #[arg(long, value_name = "SOCK", required_unless_present = "resume")]
    pub qmp: Option<PathBuf>,
    /// Address and port of the waiting `receive`
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "resume")]
    pub to: Option<String>,
    /// Take up a job whose processes died, by its id
    #[arg(long, value_name = "ID", conflicts_with_all = ["qmp", "to", "check"])]
    pub resume: Option<String>,
    /// Where pages go: straight into the target's RAM file, or through the target QEMU
    #[arg(long, value_enum, default_value_t = WantedMode::Auto)]
    pub mode: WantedMode,
    /// TCP streams, 1-256
    #[arg(long, default_value = "auto")]
    pub streams: AutoOr<1, STREAMS_MAX>,
    /// zstd level, 0 (off) to 19
    #[arg(long, default_value = "auto")]
    pub level: AutoOr<0, LEVEL_MAX>,
    /// Rate ceiling on the wire, such as 500mbit
    #[arg(long)]
    pub rate: Option<Rate>,
    /// Downtime budget in milliseconds
    #[arg(long, value_name = "MS", default_value_t = DOWNTIME_MS_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=DOWNTIME_MS_MAX))]
    pub max_downtime_ms: u64,
    /// Give up before the stop after this time
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_S_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_S_MAX))]
    pub timeout: u64,
    /// Give up before the stop after this time without any connection
    #[arg(long, value_name = "SECONDS", default_value_t = LINK_TIMEOUT_S_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=LINK_TIMEOUT_S_MAX))]
    pub link_timeout: u64,
    /// Longest wait between the stop and the last slice; then the guest runs on here [default: twice the budget]
    #[arg(long, value_name = "MS", overrides_with = "pause_timeout_ms", value_parser = clap::value_parser!(u64).range(1..=PAUSE_TIMEOUT_MS_MAX))]
    pub pause_timeout_ms: Option<u64>,
    /// What to do when memory is dirtied faster than it can be sent
    #[arg(long, value_enum, default_value_t = OnStall::Wait)]
    pub on_stall: OnStall,
    /// Hash of the memory comparison
    #[arg(long, value_enum, default_value_t = Hash::Xxh3)]
    pub hash: Hash,
    /// How the network loop waits
    #[arg(long, value_enum, default_value_t = Poll::Adaptive)]
    pub poll: Poll,
    /// Content store in which the memory left behind is kept
    #[arg(long, value_name = "DIR", requires = "keep_checkpoint")]
    pub store: Option<PathBuf>,
    /// Keep the memory that the guest leaves behind: a way back then costs only what has changed
    #[arg(long, requires = "store", conflicts_with = "resume")]
    pub keep_checkpoint: bool,
    /// Whose part of the store
    #[command(flatten)]
    pub tenant: TenantArgs,
    /// Run the whole preflight on both hosts and move nothing
    #[arg(long)]
    pub check: bool,
    /// Common flags
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Socket of the gRPC door [default: /run/dwcp/engine.sock as root, else in the XDG runtime folder]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// gRPC on TCP: needs mutual TLS, which this version has not
    #[arg(long, value_name = "ADDR:PORT")]
    pub grpc: Option<String>,
    /// Address and port for all streams of arriving guests; port 0 takes any free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8085")]
    pub listen: String,
    /// What PrepareTarget tells sources to send to, where it is not --listen
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Folder whose QMP sockets requests may name
    #[arg(long, value_name = "DIR")]
    pub qmp_dir: Option<PathBuf>,
    /// Folder whose launch files requests may name
    #[arg(long, value_name = "DIR")]
    pub launch_dir: Option<PathBuf>,
    /// Folder of job records [default: /var/lib/dwcp/engine as root, else the XDG state folder]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Encrypt the streams. Off loopback both ends must say which.
    #[arg(long, value_enum)]
    pub tls: Option<Tls>,
    /// Write the streams' address to this file once the door is open
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Flags about arriving guests
    #[command(flatten)]
    pub arrival: ArrivalArgs,
}

/// Flags of `jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Folder of job records
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

/// Flags of `resolve`.
#[derive(Debug, Args)]
pub struct ResolveArgs {
    /// The job
    #[arg(long, value_name = "ID")]
    pub job: String,
    /// Decide by hand that the target owns the guest. If the source runs it, two copies run
    #[arg(long, conflicts_with = "abort")]
    pub commit: bool,
    /// Decide by hand that the source owns the guest. If the target runs it, two copies run
    #[arg(long)]
    pub abort: bool,
    /// Folder of job records
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Resolves `host:port` and checks that plaintext is allowed there.
///
/// # Errors
/// [`Class::Usage`] for no address, [`Class::Unreachable`] for a name without one, [`Class::Trust`]
/// for plaintext that nobody asked for.
pub fn checked_address(flag: &str, text: &str, tls: Option<Tls>) -> Result<SocketAddr> {
    let address = text
        .to_socket_addrs()
        .map_err(|e| {
            let class = match e.kind() {
                std::io::ErrorKind::InvalidInput => Class::Usage,
                _ => Class::Unreachable,
            };
            EngineError::new(class, format!("{flag} {text:?} is no host:port that resolves: {e}"))
        })?
        .next()
        .ok_or_else(|| EngineError::new(Class::Unreachable, format!("{text:?} has no address")))?;
    check_tls(flag, address.ip(), tls)?;
    Ok(address)
}

fn check_tls(flag: &str, ip: IpAddr, tls: Option<Tls>) -> Result<()> {
    match tls {
        Some(Tls::On) => Err(EngineError::new(
            Class::Trust,
            "--tls on: this version has no encryption; on a network you trust say --tls off on both ends",
        )),
        None if !ip.to_canonical().is_loopback() => Err(EngineError::new(
            Class::Trust,
            format!(
                "{flag} {ip} is not loopback and the streams would carry guest memory in plaintext: say --tls off on both ends if you trust this network"
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn plaintext_off_loopback_must_be_asked_for() {
        assert!(checked_address("--to", "127.0.0.1:1", None).is_ok());
        assert!(checked_address("--to", "[::1]:1", None).is_ok());
        let refused = checked_address("--to", "192.0.2.1:1", None).unwrap_err();
        assert_eq!(refused.class(), Class::Trust);
        assert!(checked_address("--to", "192.0.2.1:1", Some(Tls::Off)).is_ok());
        assert_eq!(checked_address("--to", "nonsense", None).unwrap_err().class(), Class::Usage);
    }
}
