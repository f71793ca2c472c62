//! `dwcp-engine index`: the content that this host can give to arriving guests, added, listed and
//! dropped by hand. Runs on the main thread, at the lowest priority while it builds; may block and
//! allocate. Standard output holds the result, standard error the progress.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use dwcp_store::{Added, BuildProgress, Limits, SourceInfo, SourceKind, Store};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::TenantArgs;
use crate::error::Result;
use crate::signals::Interrupts;
use crate::units::Bytes;

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// The lowest CPU priority.
const NICE_LOWEST: i32 = 19;

/// Flags of `index`.
#[derive(Debug, Args)]
pub struct IndexArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: IndexCommand,
}

/// The commands of `index`.
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    /// Index disk images, or RAM files of guests on this host; adding one again replaces its index
    Add(AddArgs),
    /// List what is indexed, and what has become of it
    List(StoreArgs),
    /// Forget sources; the memory of a checkpoint is removed with it
    Drop(DropArgs),
    /// Sums and bounds
    Stats(StoreArgs),
}

/// Which store.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// Folder of the store
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// Whose part of it
    #[command(flatten)]
    pub tenant: TenantArgs,
    /// Print JSON: one object per source, or one in all for stats
    #[arg(long)]
    pub json: bool,
}

/// Flags of `index add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Raw or qcow2 images, block devices, or RAM files
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// What the files are
    #[arg(long, value_enum, default_value_t = AddKind::Image)]
    pub kind: AddKind,
    /// The VM that they belong to
    #[arg(long, value_name = "NAME")]
    pub vm: Option<String>,
    /// Threads that read and hash
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Which store
    #[command(flatten)]
    pub store: StoreArgs,
}

/// What can be added by hand; checkpoints come from `send --keep-checkpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AddKind {
    /// A disk image or golden image.
    Image,
    /// The RAM file of a guest that runs on this host.
    Sibling,
}

impl From<AddKind> for SourceKind {
    fn from(kind: AddKind) -> Self {
        match kind {
            AddKind::Image => Self::Image,
            AddKind::Sibling => Self::Sibling,
        }
    }
}

/// Flags of `index drop`.
#[derive(Debug, Args)]
pub struct DropArgs {
    /// Ids or paths, as `index list` shows them
    #[arg(value_name = "PATH|ID", required = true)]
    pub sources: Vec<String>,
    /// Which store
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Runs one `index` command.
///
/// # Errors
/// The store's, by [`class_of`](crate::content::class_of); what was added or dropped before stays so.
pub fn run(args: &IndexArgs) -> Result<ExitCode> {
    match &args.command {
        IndexCommand::Add(args) => add(args)?,
        IndexCommand::List(args) => list(args)?,
        IndexCommand::Drop(args) => drop_sources(args)?,
        IndexCommand::Stats(args) => stats(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn open(args: &StoreArgs, limits: Limits) -> Result<Store> {
    Ok(Store::open_with(&args.store, &args.tenant.tenant, limits)?)
}

fn add(args: &AddArgs) -> Result<()> {
    let interrupts = Interrupts::listen()?;
    lower_priority();
    let limits = Limits { workers: usize::from(args.workers), ..Limits::default() };
    let store = open(&args.store, limits)?;
    for path in &args.paths {
        let mut shown = Shown::new(path);
        let added = store.add(path, args.kind.into(), args.vm.as_deref(), &mut |progress| {
            shown.show(progress);
            interrupts.count() == 0
        });
        shown.bar.finish_and_clear();
        let added = added?;
        match args.store.json {
            true => println!("{}", added_json(&added, shown.since.elapsed())),
            false => print_added(&added),
        }
        for further in &added.further {
            eprintln!(
                "{} builds on {}: add that one as well to find its content",
                path.display(),
                further.display()
            );
        }
    }
    Ok(())
}

/// The build gives way to everything else on the host. Where the I/O class cannot be set, the
/// kernel derives a low one from the nice value.
fn lower_priority() {
    let _ = rustix::process::nice(NICE_LOWEST);
    let _ = Command::new("ionice")
        .args(["-c", "idle", "-p", &rustix::thread::gettid().as_raw_nonzero().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Progress of one file: a bar on a terminal, a line a second elsewhere.
struct Shown {
    bar: ProgressBar,
    since: Instant,
    line: Instant,
    name: String,
}

impl Shown {
    fn new(path: &Path) -> Self {
        let name = path.display().to_string();
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new(0),
            false => ProgressBar::hidden(),
        };
        if let Ok(style) = ProgressStyle::with_template(
            "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        bar.set_message(name.clone());
        Self { bar, since: Instant::now(), line: Instant::now(), name }
    }

    fn show(&mut self, progress: BuildProgress) {
        self.bar.set_length(progress.bytes_total);
        self.bar.set_position(progress.bytes_done);
        if self.bar.is_hidden() && self.line.elapsed() >= LINE_INTERVAL {
            self.line = Instant::now();
            let (done, total) = (Bytes(progress.bytes_done), Bytes(progress.bytes_total));
            eprintln!("{}: {done} of {total}, {} blocks", self.name, progress.blocks);
        }
    }
}

fn print_added(added: &Added) {
    let path = added.path.display();
    match added.unchanged {
        true => println!("{} {path} unchanged", added.id),
        false => println!(
            "{} {path} {} blocks, {} different, index {}",
            added.id,
            added.blocks,
            added.blocks_found,
            Bytes(added.indexed_bytes)
        ),
    }
    if added.left_out_bytes > 0 {
        let left_out = Bytes(added.left_out_bytes);
        eprintln!("{path}: {left_out} are compressed and cannot be found; a raw copy can");
    }
}

fn added_json(added: &Added, took: Duration) -> Value {
    json!({
        "id": added.id,
        "path": added.path.display().to_string(),
        "kind": added.kind.to_string(),
        "blocks": added.blocks,
        "blocks_found": added.blocks_found,
        "indexed_bytes": added.indexed_bytes,
        "left_out_bytes": added.left_out_bytes,
        "further": added.further.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        "unchanged": added.unchanged,
        "took_ms": took.as_secs_f64() * 1e3,
    })
}

fn list(args: &StoreArgs) -> Result<()> {
    for source in open(args, Limits::default())?.list()? {
        match args.json {
            true => println!("{}", source_json(&source)),
            false => println!(
                "{} {:10} {:7} {:>10} blocks {:>7} {} {}",
                source.id,
                source.kind.map_or_else(|| "-".to_owned(), |kind| kind.to_string()),
                source.state,
                source.blocks,
                Bytes(source.indexed_bytes + source.memory_bytes).to_string(),
                source.vm.as_deref().unwrap_or("-"),
                source.path.display(),
            ),
        }
    }
    Ok(())
}

fn source_json(source: &SourceInfo) -> Value {
    let used = source.used.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    json!({
        "id": source.id,
        "path": source.path.display().to_string(),
        "kind": source.kind.map(|kind| kind.to_string()),
        "state": source.state.to_string(),
        "vm": source.vm,
        "bytes": source.bytes,
        "blocks": source.blocks,
        "indexed_bytes": source.indexed_bytes,
        "memory_bytes": source.memory_bytes,
        "left_out_bytes": source.left_out_bytes,
        "used_unix_s": used.as_secs(),
    })
}

fn drop_sources(args: &DropArgs) -> Result<()> {
    let store = open(&args.store, Limits::default())?;
    for source in &args.sources {
        let dropped = store.drop_source(source)?;
        let path = dropped.path.display();
        match args.store.json {
            true => println!(
                "{}",
                json!({"id": dropped.id, "path": path.to_string(), "freed_bytes": dropped.freed_bytes})
            ),
            false => println!("{} {path} dropped, {}", dropped.id, Bytes(dropped.freed_bytes)),
        }
    }
    Ok(())
}

fn stats(args: &StoreArgs) -> Result<()> {
    let stats = open(args, Limits::default())?.stats()?;
    let names = [
        ("sources", stats.sources),
        ("images", stats.images),
        ("checkpoints", stats.checkpoints),
        ("siblings", stats.siblings),
        ("broken", stats.broken),
        ("blocks", stats.blocks),
        ("index_bytes", stats.index_bytes),
        ("index_bytes_max", stats.index_bytes_max),
        ("checkpoint_bytes", stats.checkpoint_bytes),
        ("checkpoint_bytes_max", stats.checkpoint_bytes_max),
        ("sources_max", stats.sources_max),
    ];
    if args.json {
        let object: serde_json::Map<String, Value> =
            names.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        println!("{}", Value::Object(object));
    } else {
        for (name, value) in names {
            println!("{name:21} {value}");
        }
    }
    Ok(())
}

impl IndexArgs {
    /// Whether errors are printed as JSON as well.
    #[must_use]
    pub fn json(&self) -> bool {
        match &self.command {
            IndexCommand::Add(args) => args.store.json,
            IndexCommand::Drop(args) => args.store.json,
            IndexCommand::List(args) | IndexCommand::Stats(args) => args.json,
        }
    }
}
