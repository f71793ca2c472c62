//! Property tests over whole histories: any writes, any frame form, any delay of acks and any
//! order of delivery that the ordering rules permit leave the target with the source's memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dwcp_wire::{BlockId, HashAlgorithm, PAGE_BYTES, PageIndex};
use proptest::prelude::*;

use crate::answer::{ASK_BYTES, Answer, Held};
use crate::applier::{Applier, PageStore};
use crate::batch::PageBatch;
use crate::error::{DecodeError, PlanError};
use crate::frame::{FRAME_BODY_START, FRAME_BYTES_MAX, Framer};
use crate::hash::{Page, PageHasher, ZERO_PAGE};
use crate::level::Level;
use crate::plan::{Asked, Plan, PlanCounts};
use crate::planner::{Planner, PlannerConfig};

const BLOCKS: [(u16, &str, u64); 3] = [(0, "pc.ram", 12), (7, "vga", 3), (3, "rom", 600)];
const SEED: u64 = 0x1234;
/// Where a slot's payload starts in these tests.
const HEADROOM: usize = 8192;
/// Bytes before each page, as in QEMU's stream.
const STREAM_HEADER_BYTES: usize = 8;

#[derive(Default)]
struct Memory {
    pages: BTreeMap<(u16, u64), Box<Page>>,
    /// What this host has besides: found by hash.
    elsewhere: HashMap<[u8; ASK_BYTES], Box<Page>>,
}

impl Memory {
    fn get(&self, block: u16, index: u64) -> Page {
        self.pages.get(&(block, index)).map_or(ZERO_PAGE, |page| **page)
    }

    fn set(&mut self, block: u16, index: u64, content: &Page) {
        if *content == ZERO_PAGE {
            self.pages.remove(&(block, index));
        } else {
            self.pages.insert((block, index), Box::new(*content));
        }
    }
}

impl PageStore for Memory {
    fn read(&self, block: BlockId, index: PageIndex, out: &mut Page) {
        *out = self.get(block.0, index.0);
    }

    fn write(&mut self, block: BlockId, index: PageIndex, content: &Page) {
        self.set(block.0, index.0, content);
    }

    fn zero(&mut self, block: BlockId, index: PageIndex) {
        self.set(block.0, index.0, &ZERO_PAGE);
    }

    fn known(&mut self, hash: &[u8; ASK_BYTES], out: &mut Page) -> Held {
        let Some(page) = self.elsewhere.get(hash) else { return Held::Nothing };
        *out = **page;
        Held::Image
    }
}

/// What a page becomes.
#[derive(Clone, Debug)]
enum Change {
    /// Zeros, told by a zero record or by content.
    Zero {
        as_content: bool,
    },
    Fill(u8),
    Noise(u64),
    Patch {
        at: usize,
        value: u8,
    },
    CopyOf(usize),
    Same,
}

#[derive(Clone, Debug)]
enum Action {
    Write { page: usize, change: Change },
    Send(Form),
    Deliver(prop::sample::Index),
    Ack(prop::sample::Index),
    Caching(bool),
    Asking(bool),
    Follow(prop::sample::Index),
}

#[derive(Clone, Copy, Debug)]
enum Form {
    InPlace,
    Compact(Level),
}

/// The job ends with a message; nothing was corrupted in silence.
#[derive(Debug, thiserror::Error)]
enum Aborted {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

struct InFlight {
    body: Vec<u8>,
    not_before: Option<u64>,
}

struct World {
    planner: Planner,
    framer: Framer,
    applier: Applier<Memory>,
    truth: Memory,
    slot: Vec<u8>,
    filled: usize,
    batch: PageBatch,
    next_seq: u64,
    in_flight: BTreeMap<u64, InFlight>,
    /// Applied, but the source does not know.
    unacked: BTreeSet<u64>,
    /// Slices that asked and have not been followed up: their buffers.
    asked: BTreeMap<u64, (Vec<u8>, Vec<Asked>)>,
    answers: BTreeMap<u64, Answer>,
    missing: u64,
    known: u64,
    counts: PlanCounts,
}

/// So small that pages are pushed out of cache and index.
const SMALL_CACHE_BYTES: usize = 40 << 10;
/// Holds all pages.
const LARGE_CACHE_BYTES: usize = 16 << 20;

impl World {
    fn new(hasher: &PageHasher, delta_cache_bytes: usize) -> Self {
        let hash = hasher.algorithm();
        let config = PlannerConfig { hash, seed: SEED, delta_cache_bytes, dedup_bytes: 1 << 10 };
        let mut planner = Planner::with_hasher(config, hasher.clone());
        let mut applier = Applier::with_hasher(hasher.clone(), Memory::default());
        for (id, name, pages) in BLOCKS {
            planner.add_block(BlockId(id), name, pages).unwrap();
            applier.add_block(BlockId(id), name, pages).unwrap();
        }
        Self {
            planner,
            framer: Framer::new(Level::Off),
            applier,
            truth: Memory::default(),
            slot: vec![0; HEADROOM + (1 << 20)],
            filled: HEADROOM,
            batch: PageBatch::new(),
            next_seq: 0,
            in_flight: BTreeMap::new(),
            unacked: BTreeSet::new(),
            asked: BTreeMap::new(),
            answers: BTreeMap::new(),
            missing: 0,
            known: 0,
            counts: PlanCounts::default(),
        }
    }

    fn acked_below(&self) -> u64 {
        let pending = self.in_flight.keys().chain(&self.unacked).min();
        pending.copied().unwrap_or(self.next_seq)
    }

    /// What the planner may count on: nothing from the first unanswered slice on.
    fn settled_below(&self) -> u64 {
        let asked = self.asked.keys().next().copied();
        asked.unwrap_or(u64::MAX).min(self.acked_below())
    }

    fn write(&mut self, page: usize, change: &Change) -> Result<(), Aborted> {
        let (block, index) = place(page);
        let old = self.truth.get(block, index);
        let new = match change {
            Change::Zero { .. } => ZERO_PAGE,
            Change::Fill(value) => [*value; PAGE_BYTES],
            Change::Noise(seed) => noise(*seed),
            Change::Patch { at, value } => {
                let mut page = old;
                page[*at] = *value;
                page
            }
            Change::CopyOf(other) => {
                let (block, index) = place(*other);
                self.truth.get(block, index)
            }
            Change::Same => old,
        };
        self.truth.set(block, index, &new);
        if new[0] % 2 == 0 {
            let hash = *blake3::hash(&new).as_bytes();
            self.applier.store_mut().elsewhere.insert(hash, Box::new(new));
        }
        let (block, index) = (BlockId(block), PageIndex(index));
        if matches!(change, Change::Zero { as_content: false }) {
            self.batch.push_zero(block, index).unwrap();
            return Ok(());
        }
        let at = self.filled + STREAM_HEADER_BYTES;
        self.slot[at..at + PAGE_BYTES].copy_from_slice(&new);
        self.filled = at + PAGE_BYTES;
        let offset = u32::try_from(at - HEADROOM).unwrap();
        self.batch.push_page(block, index, offset).unwrap();
        if self.batch.is_full() {
            self.send(Form::InPlace)?;
        }
        Ok(())
    }

    fn send(&mut self, form: Form) -> Result<(), Aborted> {
        let (seq, acked) = (self.next_seq, self.settled_below());
        let mut plan = Plan::new();
        let payload = HEADROOM..self.filled;
        let bytes = &self.slot[payload.clone()];
        self.planner.plan(seq, acked, bytes, &self.batch, &mut plan)?;
        self.counts.add(plan.counts());
        assert_eq!(
            plan.counts().pages(),
            self.batch.pages() as u64 + plan_zeros(&self.batch),
            "every page is accounted for"
        );
        if plan.counts().asked > 0 {
            self.asked.insert(seq, (bytes.to_vec(), plan.asks().collect()));
        }
        if !plan.is_empty() {
            let body = self.body(&plan, form, payload);
            let not_before = plan.not_before();
            assert!(not_before.is_none_or(|wait| wait < seq));
            self.in_flight.insert(seq, InFlight { body, not_before });
            self.next_seq += 1;
        }
        self.batch.clear();
        self.filled = HEADROOM;
        Ok(())
    }

    fn body(&mut self, plan: &Plan, form: Form, payload: std::ops::Range<usize>) -> Vec<u8> {
        let level = match form {
            Form::InPlace => {
                let range = self.framer.raw_in_place(plan, &mut self.slot, payload.clone());
                if let Some(range) = range {
                    return self.slot[range].to_vec();
                }
                Level::Off
            }
            Form::Compact(level) => level,
        };
        let mut out = vec![0; FRAME_BODY_START + FRAME_BYTES_MAX];
        let framed = self.framer.frame(plan, &self.slot[payload], level, &mut out).unwrap();
        out[framed.range].to_vec()
    }

    fn deliver(&mut self, pick: prop::sample::Index) -> Result<(), Aborted> {
        let acked = self.acked_below();
        let may_go = |slice: &InFlight| slice.not_before.is_none_or(|wait| wait < acked);
        let ready: Vec<u64> =
            self.in_flight.iter().filter(|(_, s)| may_go(s)).map(|(seq, _)| *seq).collect();
        if ready.is_empty() {
            return Ok(());
        }
        self.apply(*pick.get(&ready))
    }

    fn apply(&mut self, seq: u64) -> Result<(), Aborted> {
        let slice = self.in_flight.remove(&seq).unwrap();
        let stats = self.applier.apply(seq, &slice.body)?;
        self.missing += stats.missing;
        self.known += stats.known;
        let answer = self.applier.answer();
        if !answer.held().is_empty() {
            let mut bytes = Vec::new();
            answer.encode(&mut bytes);
            self.answers.insert(seq, Answer::decode_all(&bytes)?.remove(0));
        }
        self.unacked.insert(seq);
        Ok(())
    }

    fn follow(&mut self, asked_in: u64) -> Result<(), Aborted> {
        let answer = self.answers.remove(&asked_in).unwrap();
        let (bytes, asked) = self.asked.remove(&asked_in).unwrap();
        assert_eq!(asked.len(), answer.held().len());
        let pairs = asked.into_iter().zip(answer.held());
        let missing = pairs.filter(|(_, held)| **held == Held::Nothing).map(|(asked, _)| asked);
        let (seq, acked) = (self.next_seq, self.settled_below());
        let mut plan = Plan::new();
        self.planner.follow(seq, acked, asked_in, &bytes, missing, &mut plan)?;
        if !plan.is_empty() {
            let mut out = vec![0; FRAME_BODY_START + FRAME_BYTES_MAX];
            let framed = self.framer.frame(&plan, &bytes, Level::Zstd(1), &mut out).unwrap();
            let body = out[framed.range].to_vec();
            self.in_flight.insert(seq, InFlight { body, not_before: plan.not_before() });
            self.next_seq += 1;
        }
        Ok(())
    }

    fn ack(&mut self, pick: prop::sample::Index) {
        if !self.unacked.is_empty() {
            let list: Vec<u64> = self.unacked.iter().copied().collect();
            self.unacked.remove(pick.get(&list));
        }
    }

    fn act(&mut self, action: &Action) -> Result<(), Aborted> {
        match action {
            Action::Write { page, change } => self.write(*page, change)?,
            Action::Send(form) => self.send(*form)?,
            Action::Deliver(pick) => self.deliver(*pick)?,
            Action::Ack(pick) => self.ack(*pick),
            Action::Caching(on) => self.planner.set_caching(*on),
            Action::Asking(on) => self.planner.set_asking(*on),
            Action::Follow(pick) => {
                let answered: Vec<u64> = self.answers.keys().copied().collect();
                if !answered.is_empty() {
                    self.follow(*pick.get(&answered))?;
                }
            }
        }
        Ok(())
    }

    /// Delivers and acks everything; newest first where the rules permit.
    fn drain(&mut self) -> Result<(), Aborted> {
        self.send(Form::Compact(Level::Zstd(1)))?;
        while !self.in_flight.is_empty() || !self.answers.is_empty() {
            if let Some(seq) = self.answers.keys().next_back().copied() {
                self.follow(seq)?;
                continue;
            }
            let acked = self.acked_below();
            let ready = self.in_flight.iter().rev();
            let seq = ready
                .filter(|(_, s)| s.not_before.is_none_or(|wait| wait < acked))
                .map(|(seq, _)| *seq)
                .next();
            let Some(seq) = seq else {
                assert!(!self.unacked.is_empty(), "the rules deadlock");
                self.unacked.clear();
                continue;
            };
            self.apply(seq)?;
        }
        assert!(self.asked.is_empty(), "every slice that asks is answered");
        self.unacked.clear();
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        for (block, _, pages) in BLOCKS {
            for index in 0..pages {
                let stored = self.applier.store().get(block, index);
                let same = stored == self.truth.get(block, index);
                prop_assert!(same, "page {index} of block {block} differs");
            }
        }
        prop_assert_eq!(self.planner.root(), self.applier.root());
        Ok(())
    }
}

fn plan_zeros(batch: &PageBatch) -> u64 {
    let zeros = batch.entries().iter().map(|entry| match entry.content {
        crate::batch::Content::Zero { count } => u64::from(count),
        crate::batch::Content::At(_) => 0,
    });
    zeros.sum()
}

/// Few pages, so that histories collide: all of the small blocks, the ends of the large one.
fn place(page: usize) -> (u16, u64) {
    match page as u64 {
        index @ 0..12 => (0, index),
        index @ 12..15 => (7, index - 12),
        15 => (3, 511),
        16 => (3, 512),
        _ => (3, 599),
    }
}

fn noise(mut state: u64) -> Page {
    let mut page = ZERO_PAGE;
    for word in page.as_chunks_mut::<8>().0 {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        *word = (state >> 7).to_le_bytes();
    }
    page
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => any::<bool>().prop_map(|as_content| Change::Zero { as_content }),
        2 => (1..4u8).prop_map(Change::Fill),
        1 => (0..4u64).prop_map(Change::Noise),
        4 => (0..PAGE_BYTES, any::<u8>()).prop_map(|(at, value)| Change::Patch { at, value }),
        3 => (0..18usize).prop_map(Change::CopyOf),
        1 => Just(Change::Same),
    ]
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        Just(Form::InPlace),
        Just(Form::Compact(Level::Off)),
        Just(Form::Compact(Level::Zstd(1))),
        Just(Form::Compact(Level::Zstd(-3))),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (0..18usize, change()).prop_map(|(page, change)| Action::Write { page, change }),
        3 => form().prop_map(Action::Send),
        3 => any::<prop::sample::Index>().prop_map(Action::Deliver),
        3 => any::<prop::sample::Index>().prop_map(Action::Ack),
        1 => prop::bool::weighted(0.8).prop_map(Action::Caching),
        1 => any::<bool>().prop_map(Action::Asking),
        3 => any::<prop::sample::Index>().prop_map(Action::Follow),
    ]
}

fn play(world: &mut World, actions: &[Action]) -> Result<(), Aborted> {
    actions.iter().try_for_each(|action| world.act(action))?;
    world.drain()
}

fn run(hasher: &PageHasher, actions: &[Action]) -> Result<(PlanCounts, [u64; 2]), TestCaseError> {
    let mut world = World::new(hasher, SMALL_CACHE_BYTES);
    play(&mut world, actions).map_err(|error| TestCaseError::fail(error.to_string()))?;
    world.check()?;
    Ok((world.counts, [world.known, world.missing]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn memory_arrives_whatever_the_order(
        actions in prop::collection::vec(action(), 1..300),
        wide: bool,
    ) {
        let algorithm = if wide { HashAlgorithm::Blake3 } else { HashAlgorithm::Xxh3 };
        run(&PageHasher::new(algorithm, SEED), &actions)?;
    }

    /// Tags of the index all collide; only the full leaves tell pages apart.
    #[test]
    fn colliding_tags_change_nothing(
        actions in prop::collection::vec(action(), 1..200),
    ) {
        run(&PageHasher::masked(SEED, u128::MAX << 96), &actions)?;
    }

    /// Leaves of five bits: whatever their collisions lead to, it is not silent.
    #[test]
    fn colliding_leaves_abort_or_change_nothing(
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let mut world = World::new(&PageHasher::masked(SEED, 0x1f << 96), LARGE_CACHE_BYTES);
        let cached = |action: &Action| !matches!(action, Action::Caching(_));
        let actions: Vec<Action> = actions.into_iter().filter(cached).collect();
        if play(&mut world, &actions).is_ok() {
            world.check()?;
        }
    }
}

/// The histories above reach every way a page can travel.
#[test]
fn histories_reach_every_kind() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut total = PlanCounts::default();
    let mut answered = [0; 2];
    for _ in 0..50 {
        let tree = prop::collection::vec(action(), 100..300).new_tree(&mut runner).unwrap();
        let hasher = PageHasher::new(HashAlgorithm::Xxh3, SEED);
        let actions = proptest::strategy::ValueTree::current(&tree);
        let (counts, [known, missing]) = run(&hasher, &actions).unwrap();
        total.add(&counts);
        answered = [answered[0] + known, answered[1] + missing];
    }
    let PlanCounts { zero, zero_skipped, unchanged, duplicate, delta, literal, unacked, .. } =
        total;
    let rarest = [zero, zero_skipped, unchanged, duplicate, delta, literal, unacked]
        .into_iter()
        .min()
        .unwrap();
    assert!(rarest > 50, "{total:?}");
    assert!(answered.iter().all(|&pages| pages > 50), "known and missing: {answered:?}");
}

/// Every part may live on the thread that the engine gives it.
#[test]
fn parts_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<(Planner, PageBatch, Plan, Framer, Applier<Memory>)>();
}
