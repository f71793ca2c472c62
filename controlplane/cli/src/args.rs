//! The command line of `dwcp-cli`. What is not built is not listed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::output::Format;
use crate::pba::PbaArgs;
use crate::placement::PlacementArgs;
use crate::units::{AutoOr, Rate, RateOrNone};

/// What `version` and `--version` print.
pub const VERSION: &str = concat!("DWCP v", env!("CARGO_PKG_VERSION"));

/// Moves running virtual machines, from the operator's terminal.
#[derive(Debug, Parser)]
#[command(name = "dwcp-cli", display_name = "DWCP", version = concat!("v", env!("CARGO_PKG_VERSION")), about, max_term_width = 100)]
pub struct Cli {
    /// Form of what is printed on standard output
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true)]
    pub output: Format,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the version
    Version,
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Talk to the engine of this host
    Engine(EngineArgs),
    /// Decide where virtual machines go; offline commands that read files
    Placement(Box<PlacementArgs>),
    /// Forecast links, from traces and model files
    Pba(PbaArgs),
}

/// Commands for one engine.
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// Socket of the engine's door [default: /run/dwcp/engine.sock as root, else in the XDG runtime folder]
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,
    /// What to ask of the engine.
    #[command(subcommand)]
    pub command: EngineCommand,
}

/// What an engine can be asked.
#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// Is the engine serving, and how many jobs has it?
    Status,
    /// List the jobs of this host, running ones first
    Jobs {
        /// This job alone
        job: Option<String>,
    },
    /// Make this host ready to take one guest; prints where to send it and the ticket
    Prepare(PrepareArgs),
    /// Move a guest away from this host; returns once the target has accepted it
    Migrate(Box<MigrateArgs>),
    /// Ask a job to end; until the last slice has left, the guest stays with its source
    Cancel {
        /// The job
        job: String,
    },
    /// Set the rate ceiling of a running source job
    SetRate {
        /// The job
        job: String,
        /// The ceiling on the wire, such as 500mbit, or none
        rate: RateOrNone,
    },
}

/// Flags of `engine prepare`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("qemu").required(true))]
pub struct PrepareArgs {
    /// Name of a QMP socket in the engine's --qmp-dir: a QEMU started with -S -incoming defer
    #[arg(long, value_name = "NAME", group = "qemu")]
    pub qmp: Option<String>,
    /// Name of a launch file in the engine's --launch-dir
    #[arg(long, value_name = "NAME", group = "qemu")]
    pub launch: Option<String>,
    /// Decide and take over, but leave the arrived guest paused
    #[arg(long)]
    pub leave_paused: bool,
}

/// How pages travel.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Mode {
    /// Direct where the target's RAM can be mapped, else plain
    Auto,
    /// Direct or refuse
    Direct,
    /// The whole stream through the target QEMU
    Plain,
}

/// What to do when memory is dirtied faster than it can be sent.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum OnStall {
    /// End the job; the guest stays
    Abort,
    /// Go on until --timeout
    Wait,
    /// Stop the guest and accept a longer downtime
    Force,
}

/// Hash of the memory comparison.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Hash {
    /// Finds accidents
    Xxh3,
    /// Counts as evidence
    Blake3,
}

/// How the engine's network loop waits.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Poll {
    /// Spin for a bounded time, then sleep
    Adaptive,
    /// Spin always
    Spin,
    /// Sleep at once
    Sleep,
}

/// Flags of `engine migrate`. Bounds are the engine's: it refuses by name what lies outside.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Name of the source QEMU's QMP socket in the engine's --qmp-dir
    #[arg(long, value_name = "NAME")]
    pub qmp: String,
    /// Address and port that `engine prepare` printed on the other host
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// Ticket that `engine prepare` printed; none for a target that runs dwcp-engine receive
    #[arg(long, default_value = "", hide_default_value = true)]
    pub ticket: String,
    /// Follow the job to its end and print the report
    #[arg(long)]
    pub wait: bool,
    /// Run the whole preflight on both hosts and move nothing
    #[arg(long)]
    pub check: bool,
    /// Where pages go: straight into the target's RAM file, or through the target QEMU
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub mode: Mode,
    /// TCP streams
    #[arg(long, default_value = "auto")]
    pub streams: AutoOr,
    /// zstd level, 0 for off
    #[arg(long, default_value = "auto")]
    pub level: AutoOr,
    /// Rate ceiling on the wire, such as 500mbit
    #[arg(long)]
    pub rate: Option<Rate>,
    /// Downtime budget in milliseconds [default: 300]
    #[arg(long, value_name = "MS")]
    pub max_downtime_ms: Option<u32>,
    /// Give up before the stop after this time [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u32>,
    /// Give up before the stop after this time without any connection [default: 120]
    #[arg(long, value_name = "SECONDS")]
    pub link_timeout: Option<u32>,
    /// Longest wait between the stop and the last slice [default: twice the budget]
    #[arg(long, value_name = "MS")]
    pub pause_timeout_ms: Option<u32>,
    /// What to do when memory is dirtied faster than it can be sent
    #[arg(long, value_enum, default_value_t = OnStall::Wait)]
    pub on_stall: OnStall,
    /// Hash of the memory comparison
    #[arg(long, value_enum, default_value_t = Hash::Xxh3)]
    pub hash: Hash,
    /// How the engine's network loop waits
    #[arg(long, value_enum, default_value_t = Poll::Adaptive)]
    pub poll: Poll,
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
    fn a_target_needs_exactly_one_qemu() {
        let parse = |words: &[&str]| {
            Cli::try_parse_from([&["dwcp-cli", "engine", "prepare"], words].concat())
        };
        assert!(parse(&[]).is_err());
        assert!(parse(&["--qmp", "a", "--launch", "b"]).is_err());
        assert!(parse(&["--launch", "b", "--leave-paused"]).is_ok());
    }

    #[test]
    fn output_and_socket_may_stand_anywhere() {
        let cli =
            Cli::try_parse_from(["dwcp-cli", "engine", "jobs", "--socket", "/s", "-o", "yaml"]);
        assert!(cli.is_ok(), "{cli:?}");
    }
}
