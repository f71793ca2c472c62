//! One end of the raw measurement, a process of its own: moves slices from an arena to an arena.
//!
//! The source submits slots that are never written again; the target verifies and consumes in its
//! poll loop. Both print one JSON object at the end.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use crossbeam::channel::Receiver;
use dwcp_hostmem::{Arena, HugePages, pin_current_thread};
use dwcp_session::SessionConfig;
use dwcp_tcp::{
    Body, Endpoint, EndpointConfig, HEADROOM_BYTES, Inbound, NetEvent, Outbound, PagesSink,
    PollMode,
};
use dwcp_wire::{Channel, Epoch, PAYLOAD_MAX, RailId, ReasonCode, SliceFlags};
use serde_json::json;

const JOB_TAG: u32 = 0x7261_7721;
/// Longest wait for the peer, a connection or the last ack.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Sends.
    Source,
    /// Receives.
    Target,
}

/// What both ends have to agree on, and how each runs.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shape {
    /// TCP streams
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) streams: u16,
    /// Bytes of a slice's body
    #[arg(long, default_value_t = 512 << 10, value_parser = clap::value_parser!(u32).range(4096..=i64::from(PAYLOAD_MAX)))]
    pub(crate) slice_bytes: u32,
    /// Unacked slices
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) window: u32,
}

#[derive(Debug, Args)]
pub(crate) struct EndArgs {
    #[arg(long)]
    role: Role,
    /// Where the target listens
    #[arg(long)]
    address: SocketAddr,
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Core for the poll thread and the thread beside it
    #[arg(long)]
    core: Option<usize>,
    #[command(flatten)]
    shape: Shape,
}

type Started = (Endpoint, Receiver<NetEvent>, Arc<Arena>);

pub(crate) fn run(args: &EndArgs) -> Result<()> {
    match args.role {
        Role::Source => source(args),
        Role::Target => target(args),
    }
}

fn start(args: &EndArgs, sink: Option<PagesSink>) -> Result<Started> {
    let shape = &args.shape;
    if let Some(core) = args.core {
        pin_current_thread(core)?;
    }
    let slot_bytes = HEADROOM_BYTES + shape.slice_bytes as usize;
    let arena = Arena::new(shape.window as usize, slot_bytes, HugePages::Auto)?;
    let session = SessionConfig {
        window_out_slices: shape.window,
        window_in_slices: shape.window,
        payload_max: shape.slice_bytes,
        ..SessionConfig::default()
    };
    let config = EndpointConfig {
        session,
        poll: PollMode::Adaptive,
        core: args.core,
        ..EndpointConfig::new(JOB_TAG, Epoch(1), Arc::clone(&arena))
    };
    let (endpoint, events) = match sink {
        Some(sink) => Endpoint::start_with_sink(config, sink)?,
        None => Endpoint::start(config)?,
    };
    Ok((endpoint, events, arena))
}

// ---- source --------------------------------------------------------------------------------

fn source(args: &EndArgs) -> Result<()> {
    let shape = &args.shape;
    let (endpoint, events, arena) = start(args, None)?;
    fill(&arena);
    for id in 0..shape.streams {
        endpoint.add_rail(connect(args.address)?, RailId(id))?;
    }
    let started = Instant::now();
    let deadline = started + Duration::from_secs_f64(args.seconds);
    let mut seq = 0;
    while Instant::now() < deadline {
        send(&endpoint, &arena, shape, seq)
            .with_context(|| format!("the session stands still: {:?}", endpoint.stats()))?;
        seq += 1;
        look_for_trouble(&events)?;
    }
    while endpoint.acked_below(Channel::Pages) < seq {
        ensure!(started.elapsed() < PATIENCE + deadline.duration_since(started), "acks stay out");
        look_for_trouble(&events)?;
        std::thread::sleep(Duration::from_micros(200));
    }
    let elapsed = started.elapsed().as_secs_f64();
    let stats = endpoint.stats();
    endpoint.close(ReasonCode::Finished, PATIENCE);
    let bytes = seq * u64::from(shape.slice_bytes);
    println!(
        "{}",
        json!({"bytes": bytes, "seconds": elapsed, "slices": seq, "resent_slices": stats.resent_slices,
            "turns": stats.turns, "rtt_us": stats.rtt_us, "huge_bytes": arena.report().huge_bytes})
    );
    Ok(())
}

/// Pages of different content in every slot.
fn fill(arena: &Arc<Arena>) {
    let mut slots: Vec<_> = std::iter::from_fn(|| arena.take()).collect();
    let mut state = 1u64;
    for slot in &mut slots {
        for word in slot.chunks_exact_mut(8) {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            word.copy_from_slice(&state.to_le_bytes());
        }
    }
}

fn send(endpoint: &Endpoint, arena: &Arc<Arena>, shape: &Shape, seq: u64) -> Result<()> {
    if arena.free_slots() == 0 {
        // Being woken for every slot costs more than sending it.
        arena.wait_free(arena.slots().div_ceil(2), PATIENCE);
    }
    let slot = arena.take().context("no slot comes back")?;
    let range = HEADROOM_BYTES..HEADROOM_BYTES + shape.slice_bytes as usize;
    endpoint.submit(Outbound {
        channel: Channel::Pages,
        seq,
        generation: 0,
        flags: SliceFlags::NONE,
        not_before: None,
        body: Body::Slot { slot, range },
    })?;
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn look_for_trouble(events: &Receiver<NetEvent>) -> Result<()> {
    while let Ok(event) = events.try_recv() {
        match event {
            NetEvent::RailDown { reason, .. } => bail!("a stream ended: {reason}"),
            NetEvent::Fatal(error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

// ---- target --------------------------------------------------------------------------------

fn target(args: &EndArgs) -> Result<()> {
    let arrived = Arc::new(AtomicU64::new(0));
    let bytes = Arc::clone(&arrived);
    // Verified when it comes here; a slot that is used up at once stays in the cache.
    let sink = move |slice: &Inbound| {
        bytes.fetch_add(slice.body.bytes().len() as u64, Ordering::Relaxed);
        true
    };
    let (endpoint, events, _arena) = start(args, Some(Box::new(sink)))?;
    let listener = TcpListener::bind(args.address)?;
    for id in 0..args.shape.streams {
        endpoint.add_rail(listener.accept()?.0, RailId(id))?;
    }
    let limit = Duration::from_secs_f64(args.seconds) + PATIENCE;
    loop {
        match events.recv_timeout(limit).context("the source does not end")? {
            NetEvent::AllRailsDown => break,
            NetEvent::Fatal(error) => return Err(error.into()),
            NetEvent::Inbound(slice) => bail!("slice {} was not consumed", slice.seq),
            NetEvent::RailUp { .. } | NetEvent::RailDown { .. } | NetEvent::PeerGoodbye { .. } => {}
        }
    }
    let bytes = arrived.load(Ordering::Relaxed);
    let stats = endpoint.stats();
    endpoint.close(ReasonCode::Finished, Duration::ZERO);
    println!(
        "{}",
        json!({"bytes": bytes, "turns": stats.turns, "violations": stats.violations,
            "slot_waits": stats.slot_waits})
    );
    Ok(())
}
