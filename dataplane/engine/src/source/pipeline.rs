//! The threads between QEMU's socket and the session: one intake, some encoders. Started when QEMU
//! has connected; they end with the socket, the session or the abort flag.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crossbeam::channel::{Receiver, bounded};
use dwcp_encode::bytes::Packer;
use dwcp_encode::{Answer, Level, Planner, PlannerConfig};
use dwcp_hostmem::Arena;
use dwcp_qemustream::{BlockRule, DirectOptions, Mode as StreamMode, Parser};
use dwcp_tcp::Endpoint;
use dwcp_wire::{Accept, BlockId, Mode};

use super::asking::Asking;
use super::encoder::Encoder;
use super::gate::Gate;
use super::intake::{Intake, IntakeEvent};
use super::keeping::Keeping;
use super::levels::LevelChoice;
use super::shared::Shared;
use super::sink::StreamSink;
use super::skeleton::SkeletonSender;
use crate::error::{Class, Doing, EngineError, Result};
use crate::ipc::ChildPlan;

/// Batches that may wait for an encoder: what is taken from QEMU and not sent must stay small.
const JOBS_MAX: usize = 2;
/// Memory for earlier page contents, for deltas.
const DELTA_CACHE_BYTES: usize = 128 << 20;
/// Memory for the index of contents already sent.
const DEDUP_BYTES: usize = 16 << 20;
/// Encoders at most: the network loop and the guest need cores as well.
const ENCODERS_MAX: usize = 4;
/// The highest level the automatic choice may take.
pub const AUTO_LEVEL_MAX: i32 = 5;

/// What both ends have agreed on.
pub struct PipelineConfig<'a> {
    /// The source's plan.
    pub plan: &'a ChildPlan,
    /// The target's word.
    pub accept: &'a Accept,
    /// What it answers to pages it was asked for, when it has a store.
    pub answers: Option<Receiver<Answer>>,
}

/// The running threads.
pub struct Pipeline {
    /// What the intake says.
    pub events: Receiver<IntakeEvent>,
    tail: SkeletonSender,
}

impl Pipeline {
    /// Starts the threads on QEMU's socket.
    ///
    /// # Errors
    /// A thread cannot be started, or the blocks cannot be planned for.
    pub fn start(
        config: PipelineConfig<'_>,
        stream: UnixStream,
        endpoint: &Endpoint,
        arena: &Arc<Arena>,
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let (events_in, events) = bounded(16);
        let (jobs_in, jobs) = bounded(JOBS_MAX);
        let (plans_in, plans) = bounded(JOBS_MAX + ENCODERS_MAX + 2);
        let (samples_in, samples) = bounded(64);
        let gate = Arc::new(Gate::default());
        let forced = config.plan.level.map(crate::units::level);
        let level_max = forced.unwrap_or(Level::Zstd(AUTO_LEVEL_MAX));
        for index in 0..encoders() {
            let encoder = Encoder {
                jobs: jobs.clone(),
                plans: plans_in.clone(),
                samples: samples_in.clone(),
                arena: Arc::clone(arena),
                endpoint: endpoint.clone(),
                level_max,
                gate: Arc::clone(&gate),
                shared: Arc::clone(shared),
            };
            spawn(format!("encode-{index}"), move || encoder.run())?;
        }
        let skeleton = || SkeletonSender {
            endpoint: endpoint.clone(),
            arena: Arc::clone(arena),
            gate: Arc::clone(&gate),
            shared: Arc::clone(shared),
            packer: Packer::new(),
            next_seq: 0,
        };
        let intake = Intake {
            stream,
            parser: Parser::new(stream_mode(config.accept)),
            sink: sink(&config),
            planner: planner(&config)?,
            arena: Arc::clone(arena),
            endpoint: endpoint.clone(),
            jobs: jobs_in,
            plans,
            samples,
            asking: Asking::new(config.answers),
            keeping: Keeping::new(config.plan),
            control: LevelChoice::new(forced, AUTO_LEVEL_MAX, encoders()),
            skeleton: skeleton(),
            gate: Arc::clone(&gate),
            plain: config.accept.mode == Mode::Plain,
            shared: Arc::clone(shared),
            events: events_in,
        };
        let tail = skeleton();
        spawn("intake".to_owned(), move || {
            dwcp_hostmem::favour_current_thread();
            intake.run();
        })?;
        Ok(Self { events, tail })
    }

    /// Sends the tail from skeleton slice `seq` on.
    ///
    /// # Errors
    /// The session has ended.
    pub fn send_tail(&mut self, tail: &[u8], seq: u64) -> Result<()> {
        self.tail.next_seq = seq;
        self.tail.send(tail, true)
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name)
        .spawn(work)
        .map(|_| ())
        .doing(|| "starting a thread".to_owned())
}

/// One core is left to the network loop; on two cores the guest shares the other with us.
fn encoders() -> usize {
    dwcp_hostmem::online_cores().len().saturating_sub(1).clamp(1, ENCODERS_MAX)
}

fn stream_mode(accept: &Accept) -> StreamMode {
    match accept.mode {
        Mode::Plain => StreamMode::Plain,
        Mode::Direct => StreamMode::Direct(DirectOptions {
            blocks: accept
                .direct_blocks
                .iter()
                .map(|b| (b.name.clone(), BlockRule::TakeOut { target_addr: b.address }))
                .collect(),
            others: BlockRule::Keep { target_addr: 0 },
        }),
    }
}

fn direct_blocks<'a>(
    config: &'a PipelineConfig<'_>,
) -> impl Iterator<Item = (&'a str, BlockId, u64)> {
    config.plan.blocks.iter().enumerate().filter_map(|(id, block)| {
        let direct = config.accept.direct_blocks.iter().any(|d| d.name == block.name);
        let wanted = direct && config.accept.mode == Mode::Direct;
        wanted.then_some((block.name.as_str(), BlockId(id as u16), block.used_bytes))
    })
}

fn sink(config: &PipelineConfig<'_>) -> StreamSink {
    StreamSink::new(direct_blocks(config).map(|(name, id, bytes)| (name.to_owned(), id, bytes)))
}

fn planner(config: &PipelineConfig<'_>) -> Result<Planner> {
    let mut planner = Planner::new(PlannerConfig {
        hash: config.plan.hash.to_wire(),
        seed: config.accept.hash_seed,
        delta_cache_bytes: DELTA_CACHE_BYTES,
        dedup_bytes: DEDUP_BYTES,
    });
    for (name, id, bytes) in direct_blocks(config) {
        planner
            .add_block(id, name, bytes / dwcp_wire::PAGE_BYTES as u64)
            .map_err(|e| EngineError::new(Class::Limit, format!("RAM block {name}: {e}")))?;
    }
    Ok(planner)
}
