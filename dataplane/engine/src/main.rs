//! The binary `dwcp-engine`: parses the command line and runs one command.
#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dwcp_engine::cli::{
    Cli, Command, JobsArgs, ReceiveArgs, ResolveArgs, SendArgs, ServeArgs, checked_address,
};
use dwcp_engine::content::ContentStore;
use dwcp_engine::error::{Class, EngineError, Result};
use dwcp_engine::report::{Report, Status};
use dwcp_engine::signals::Interrupts;
use dwcp_engine::store::{Store, default_run_dir, default_state_dir};
use dwcp_engine::target::{Host, HostConfig, JobSummary, LaunchFile, QemuSource, Targets, ram_dir};
use dwcp_engine::{Progress, door, index, records, source};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (result, json) = match cli.command {
        Command::SendBytes => {
            source::run_child();
            return ExitCode::SUCCESS;
        }
        Command::Receive(args) => (receive(&args), args.common.json),
        Command::Send(args) => (send(&args), args.common.json),
        Command::Serve(args) => (serve(args), false),
        Command::Jobs(args) => (jobs(&args), args.json),
        Command::Resolve(args) => (resolve(&args), args.json),
        Command::Index(args) => return index_command(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            if json {
                let mut report = Report::new("");
                report.reason = error.to_string();
                print_json(&report);
            }
            eprintln!("dwcp-engine: {error}");
            error.class().exit_code()
        }
    }
}

/// Its answers are no job reports, and so are its errors.
fn index_command(args: &index::IndexArgs) -> ExitCode {
    index::run(args).unwrap_or_else(|error| {
        if args.json() {
            print_json(&serde_json::json!({
                "error": error.to_string(), "exit_code": error.class() as u8,
            }));
        }
        eprintln!("dwcp-engine: {error}");
        error.class().exit_code()
    })
}

fn print_json<T: serde::Serialize>(value: &T) {
    // Serializing our own plain structures cannot fail.
    println!("{}", serde_json::to_string(value).unwrap_or_default());
}

fn receive(args: &ReceiveArgs) -> Result<ExitCode> {
    let interrupts = Interrupts::listen()?;
    let address = checked_address("--listen", &args.listen, args.common.tls)?;
    let launch = args.launch.as_deref().map(LaunchFile::read).transpose()?;
    let listener = TcpListener::bind(address)
        .map_err(|source| EngineError::io(format!("listening on --listen {address}"), source))?;
    let ram_dir = match launch {
        Some(_) => Some(ram_dir(args.arrival.ram_dir.as_deref())?),
        None => None,
    };
    let run_dir = default_run_dir().join("receive");
    std::fs::create_dir_all(&run_dir)
        .map_err(|e| EngineError::io(format!("creating {}", run_dir.display()), e))?;
    let qemu = match (launch, &args.qmp) {
        (Some(file), _) => QemuSource::Launch(file),
        (None, Some(path)) => QemuSource::Given(path.clone()),
        (None, None) => return Err(EngineError::new(Class::Usage, "--qmp or --launch is needed")),
    };
    let state = args.common.state.clone().unwrap_or_else(default_state_dir);
    let host = Host::new(HostConfig {
        targets: Targets::fixed(qemu, args.leave_paused),
        store: Store::open(&state)?,
        ram_dir,
        run_dir,
        user: args.arrival.user.clone(),
        link_timeout: Duration::from_secs(args.arrival.link_timeout),
        poll: args.arrival.poll,
        content: content(args.arrival.store.as_deref(), &args.arrival.tenant.tenant)?,
    })?;
    let bound = listener
        .local_addr()
        .map_err(|e| EngineError::io("asking for the listening address", e))?;
    records::announce(&state, args.ready_file.as_deref(), bound)?;
    eprintln!("receiving on {bound}");
    let json = args.common.json;
    let last = host.serve(&listener, args.once, &interrupts, |summary| show(summary, json))?;
    Ok(match last {
        _ if interrupts.count() > 0 => Class::Interrupted.exit_code(),
        Some(summary) if summary.status == "completed" => ExitCode::SUCCESS,
        Some(summary) if summary.status == "in_doubt" => Class::InDoubt.exit_code(),
        Some(_) => Class::Failed.exit_code(),
        None => ExitCode::SUCCESS,
    })
}

fn content(store: Option<&Path>, tenant: &str) -> Result<Option<ContentStore>> {
    store.map(|dir| ContentStore::new(dir, tenant)).transpose()
}

fn show(summary: &JobSummary, json: bool) {
    if json {
        print_json(summary);
    } else {
        println!("job {} {} {}", summary.job, summary.status, summary.reason);
    }
}

fn send(args: &SendArgs) -> Result<ExitCode> {
    let interrupts = Interrupts::listen()?;
    let progress = Progress::new(false);
    let state = args.common.state.clone().unwrap_or_else(default_state_dir);
    let report = match (&args.resume, &args.qmp, &args.to) {
        (Some(job), ..) => {
            let (store, record) = records::source_record(&state, job)?;
            source::resume(store, record, interrupts, progress, None)?
        }
        (None, Some(qmp), Some(to)) => {
            let max_downtime = Duration::from_millis(args.max_downtime_ms);
            let options = source::Options {
                job: uuid::Uuid::now_v7(),
                qmp: qmp.clone(),
                to: checked_address("--to", to, args.common.tls)?,
                ticket: None,
                mode: args.mode,
                streams: args.streams.0.map(|n| n as u16),
                level: args.level.0,
                rate_bytes_per_s: args.rate.map(|rate| rate.bytes_per_s),
                new_rates: crossbeam::channel::never(),
                max_downtime,
                timeout: Duration::from_secs(args.timeout),
                link_timeout: Duration::from_secs(args.link_timeout),
                pause_timeout: args
                    .pause_timeout_ms
                    .map_or(max_downtime * 2, Duration::from_millis),
                on_stall: args.on_stall,
                hash: args.hash,
                poll: args.poll,
                check: args.check,
                state,
                checkpoint: content(args.store.as_deref(), &args.tenant.tenant)?,
            };
            source::run(options, interrupts, progress)?
        }
        _ => return Err(EngineError::new(Class::Usage, "--qmp and --to are needed")),
    };
    Ok(finish(&report, args.common.json, args.check))
}

fn finish(report: &Report, json: bool, check: bool) -> ExitCode {
    if json {
        print_json(report);
    } else {
        print!("{report}");
    }
    match report.status {
        Status::Completed => ExitCode::SUCCESS,
        Status::Refused if check => ExitCode::SUCCESS,
        _ => report.class.unwrap_or(Class::Failed).exit_code(),
    }
}

fn serve(args: ServeArgs) -> Result<ExitCode> {
    let config = door::Config::checked(args)?;
    Ok(match door::serve(config, &Interrupts::listen()?)? {
        door::Served::Settled => ExitCode::SUCCESS,
        door::Served::InDoubt => Class::InDoubt.exit_code(),
    })
}

fn jobs(args: &JobsArgs) -> Result<ExitCode> {
    let state = args.state.clone().unwrap_or_else(default_state_dir);
    let jobs = records::list(&state)?;
    if args.json {
        print_json(&jobs);
    } else {
        for job in &jobs {
            println!("{} {:6} {:24} {}", job.job, job.side, job.state, job.vm);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn resolve(args: &ResolveArgs) -> Result<ExitCode> {
    let state = args.state.clone().unwrap_or_else(default_state_dir);
    let force = match (args.commit, args.abort) {
        (true, _) => Some(dwcp_handover::Force::Commit),
        (_, true) => Some(dwcp_handover::Force::Abort),
        _ => None,
    };
    if let Some(force) = force {
        eprintln!("deciding by hand ({force}): {}", force.risk());
    }
    if !records::has_source(&state, &args.job)? {
        let text = records::resolve_target(&state, &args.job, force)?;
        if args.json {
            print_json(&serde_json::json!({"job": args.job, "outcome": text}));
        } else {
            println!("job {}: {text}", args.job);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (store, record) = records::source_record(&state, &args.job)?;
    let interrupts = Interrupts::listen()?;
    let report = source::resume(store, record, interrupts, Progress::new(false), force)?;
    Ok(finish(&report, args.json, false))
}
