//! The source's child process: plans pages, sends slices, asks for GO, holds the tail.

use std::collections::VecDeque;

use dwcp_encode::{
    FRAME_BODY_START, FRAME_BYTES_MAX, Framer, Level, PageBatch, Plan, Planner, PlannerConfig,
};
use dwcp_handover::{SourceEvent, Start};
use dwcp_session::OutboundMeta;
use dwcp_wire::{
    BlockId, Channel, ControlMessage, HashAlgorithm, PAGE_BYTES, PageIndex, Root, SliceFlags,
};

use super::guest::{BLOCKS, Place, SourceQemu, ZERO_PAGE};
use crate::endpoint::Endpoint;
use crate::{Broken, Rng};

/// Where the pages of a batch begin in the slot.
const HEADROOM: usize = 8192;
/// Slices a child lets pile up unacked before it captures more.
const UNACKED_MAX: u64 = 24;
/// Rounds after which it asks to stop although the guest writes faster than it sends.
const ROUNDS_MAX: u32 = 60;
/// Dirty pages that fit the downtime budget.
const STOP_PAGES: usize = 12;
pub(super) const SEED: u64 = 0x5eed;

pub(super) struct Child {
    pub(super) endpoint: Endpoint,
    planner: Planner,
    framer: Framer,
    plan: Plan,
    batch: PageBatch,
    slot: Vec<u8>,
    out: Vec<u8>,
    rng: Rng,
    next_seq: [u64; 3],
    /// Slices that the session has no room for yet.
    waiting: VecDeque<(OutboundMeta, Vec<u8>)>,
    rounds: u32,
    pub(super) may_migrate: bool,
    pub(super) may_switch_over: bool,
    pub(super) go: Option<Start>,
    asked_to_stop: bool,
    root_sent: bool,
    pub(super) tail_sent: bool,
    /// Since when it has no rail.
    pub(super) cut_off_since_ns: Option<u64>,
}

impl Child {
    pub(super) fn new(endpoint: Endpoint, mut rng: Rng) -> Self {
        let config = PlannerConfig {
            hash: HashAlgorithm::Xxh3,
            seed: SEED,
            delta_cache_bytes: 64 << 10,
            dedup_bytes: 4 << 10,
        };
        let mut planner = Planner::new(config);
        for (id, name, pages) in BLOCKS {
            planner.add_block(BlockId(id), name, pages).expect("blocks of the model");
        }
        let mut batch = PageBatch::new();
        batch.limit_pages(rng.index(8) + 1);
        Self {
            endpoint,
            planner,
            framer: Framer::new(Level::Zstd(1)),
            plan: Plan::new(),
            batch,
            slot: vec![0; HEADROOM + 8 * PAGE_BYTES],
            out: vec![0; FRAME_BODY_START + FRAME_BYTES_MAX],
            rng,
            next_seq: [0; 3],
            waiting: VecDeque::new(),
            rounds: 0,
            may_migrate: false,
            may_switch_over: false,
            go: None,
            asked_to_stop: false,
            root_sent: false,
            tail_sent: false,
            cut_off_since_ns: None,
        }
    }

    /// Everything it can do now; returns what the parent hears.
    pub(super) fn work(&mut self, qemu: &mut SourceQemu) -> Result<Vec<SourceEvent>, Broken> {
        let mut heard = Vec::new();
        self.flush()?;
        while self.may_migrate && !qemu.is_gone && self.has_room() && !self.root_sent {
            if qemu.dirty.is_empty() {
                break;
            }
            self.send_round(qemu)?;
        }
        let is_small = qemu.dirty.len() <= STOP_PAGES || self.rounds > ROUNDS_MAX;
        if self.may_migrate && is_small && !self.asked_to_stop {
            self.asked_to_stop = true;
            heard.push(SourceEvent::StopRequested);
        }
        let is_complete = self.may_switch_over && !qemu.runs && qemu.dirty.is_empty();
        if is_complete && self.waiting.is_empty() && !self.root_sent {
            self.send_root()?;
            heard.push(SourceEvent::SwitchoverBegan);
            heard.push(SourceEvent::GoRequested);
        }
        if let Some(start) = self.go.filter(|_| !self.tail_sent) {
            self.tail_sent = true;
            self.send(Channel::Skeleton, tail(start), SliceFlags::LAST, None)?;
        }
        Ok(heard)
    }

    fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.endpoint.session.unacked().0 < UNACKED_MAX
    }

    fn flush(&mut self) -> Result<(), Broken> {
        while let Some((meta, body)) = self.waiting.pop_front() {
            if !self.endpoint.submit(meta, body.clone())? {
                self.waiting.push_front((meta, body));
                break;
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        channel: Channel,
        body: Vec<u8>,
        flags: SliceFlags,
        not_before: Option<u64>,
    ) -> Result<(), Broken> {
        let seq = &mut self.next_seq[channel.index().unwrap_or(0)];
        let bytes = u32::try_from(body.len()).map_err(|error| error.to_string())?;
        self.waiting
            .push_back((OutboundMeta { channel, seq: *seq, bytes, flags, not_before }, body));
        *seq += 1;
        self.flush()
    }

    /// One batch of dirty pages as a Pages slice, and a piece of the skeleton.
    fn send_round(&mut self, qemu: &mut SourceQemu) -> Result<(), Broken> {
        self.rounds += 1;
        let filled = self.capture(qemu)?;
        let acked_below = self.endpoint.session.acked_below(Channel::Pages);
        let seq = self.next_seq[2];
        let bytes = &self.slot[HEADROOM..filled];
        let planned = self.planner.plan(seq, acked_below, bytes, &self.batch, &mut self.plan);
        planned.map_err(|error| error.to_string())?;
        if !self.plan.is_empty() {
            let body = self.frame(filled)?;
            self.send(Channel::Pages, body, SliceFlags::NONE, self.plan.not_before())?;
        }
        let piece = self.next_seq[1].to_le_bytes().to_vec();
        self.send(Channel::Skeleton, piece, SliceFlags::NONE, None)
    }

    /// Takes dirty pages out of QEMU's stream into the slot; returns where they end.
    fn capture(&mut self, qemu: &mut SourceQemu) -> Result<usize, Broken> {
        self.batch.clear();
        let mut filled = HEADROOM;
        let places: Vec<Place> = qemu.dirty.iter().copied().collect();
        for place in places {
            let (block, index) = (BlockId(place.0), PageIndex(place.1));
            let content = qemu.memory.get(place);
            let pushed = if content == ZERO_PAGE {
                self.batch.push_zero(block, index)
            } else {
                let at = u32::try_from(filled - HEADROOM).map_err(|error| error.to_string())?;
                self.batch.push_page(block, index, at)
            };
            if pushed.is_err() {
                break;
            }
            if content != ZERO_PAGE {
                self.slot[filled..filled + PAGE_BYTES].copy_from_slice(&content);
                filled += PAGE_BYTES;
            }
            qemu.dirty.remove(&place);
        }
        Ok(filled)
    }

    fn frame(&mut self, filled: usize) -> Result<Vec<u8>, Broken> {
        if self.rng.chance(40)
            && let Some(range) =
                self.framer.raw_in_place(&self.plan, &mut self.slot, HEADROOM..filled)
        {
            return Ok(self.slot[range].to_vec());
        }
        let level = if self.rng.chance(50) { Level::Zstd(1) } else { Level::Off };
        let bytes = &self.slot[HEADROOM..filled];
        let framed = self.framer.frame(&self.plan, bytes, level, &mut self.out);
        let framed = framed.map_err(|error| error.to_string())?;
        Ok(self.out[framed.range].to_vec())
    }

    fn send_root(&mut self) -> Result<(), Broken> {
        self.root_sent = true;
        let root = self.planner.root();
        let message = ControlMessage::Root(Root {
            algorithm: root.algorithm,
            root: root.digest,
            pages: root.pages,
            slices: self.next_seq[2],
            start_paused: false,
        });
        let mut body = Vec::new();
        message.encode(&mut body).map_err(|error| error.to_string())?;
        self.send(Channel::Control, body, SliceFlags::NONE, None)
    }

    /// Acts on what the target says; returns what the parent hears.
    pub(super) fn consume(&mut self, now: u64) -> Result<Vec<SourceEvent>, Broken> {
        let mut heard = Vec::new();
        while let Some(((channel, _), body)) = self.endpoint.consume(now)? {
            if channel != Channel::Control {
                return Err(format!("the target sent on {channel:?}"));
            }
            match ControlMessage::decode(&body).map_err(|error| error.to_string())? {
                ControlMessage::RootResult(result) if result.matches => {
                    heard.push(SourceEvent::RootsMatched);
                }
                ControlMessage::RootResult(_) => heard.push(SourceEvent::RootsDiffer),
                other => return Err(format!("the target sent {other:?}")),
            }
        }
        Ok(heard)
    }
}

/// First byte of the tail, and how the guest is to start.
const TAIL: u8 = 0xff;

fn tail(start: Start) -> Vec<u8> {
    vec![TAIL, u8::from(start == Start::Run)]
}

/// What a skeleton slice holds.
pub(super) fn tail_start(body: &[u8]) -> Option<Start> {
    match body {
        [TAIL, 1] => Some(Start::Run),
        [TAIL, 0] => Some(Start::LeavePaused),
        _ => None,
    }
}
