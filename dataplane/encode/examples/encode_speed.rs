//! Speed of planner, framer and applier on one core: MB of guest pages per CPU-second.
//!
//! `encode_speed [FILE [MB]]` takes its pages from FILE (a memory dump, say); without one from
//! a generated mix. Every line is one pass over all pages, cold caches and page faults included.

use std::fs;
use std::io::Read as _;

use dwcp_encode::{
    Applier, FRAME_BODY_START, FRAME_BYTES_MAX, FRAME_PAGES_MAX, Framer, HashAlgorithm, Leaf,
    Level, Page, PageBatch, PageHasher, PageStore, Plan, Planner, PlannerConfig, is_hopeless,
};
use dwcp_wire::{BlockId, PAGE_BYTES, PageIndex};
use rustix::time::{ClockId, clock_gettime};

const BLOCK: BlockId = BlockId(0);
const HEADROOM: usize = 8192;
/// What QEMU's stream puts before each page.
const GAP: usize = 8;
const LEVELS: [i32; 13] = [-10, -7, -5, -3, -2, -1, 1, 2, 3, 4, 5, 7, 9];
const SHOWN: [&str; 5] = ["zero", "unchanged", "duplicate", "delta", "literal"];

/// CPU time of this thread in seconds.
fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

struct Flat(Vec<u8>);

impl Flat {
    fn at(index: PageIndex) -> std::ops::Range<usize> {
        let start = index.0 as usize * PAGE_BYTES;
        start..start + PAGE_BYTES
    }
}

impl PageStore for Flat {
    fn read(&self, _: BlockId, index: PageIndex, out: &mut Page) {
        out.copy_from_slice(&self.0[Self::at(index)]);
    }
    fn write(&mut self, _: BlockId, index: PageIndex, content: &Page) {
        self.0[Self::at(index)].copy_from_slice(content);
    }
    fn zero(&mut self, _: BlockId, index: PageIndex) {
        self.0[Self::at(index)].fill(0);
    }
}

/// Pages laid out in slots as QEMU's stream brings them, all zero pages left out.
struct Input {
    slots: Vec<Vec<u8>>,
    pages: usize,
}

impl Input {
    fn load(path: Option<&str>, bytes_max: usize) -> Self {
        let mut raw = Vec::new();
        match path {
            Some(path) => {
                let file = fs::File::open(path).expect("the input file opens");
                file.take(bytes_max as u64).read_to_end(&mut raw).expect("the input file reads");
            }
            None => raw = mix(bytes_max),
        }
        let mut input = Self { slots: Vec::new(), pages: 0 };
        let pages = raw.chunks_exact(PAGE_BYTES).filter(|page| page.iter().any(|&b| b != 0));
        for (number, page) in pages.enumerate() {
            if number % FRAME_PAGES_MAX == 0 {
                input.slots.push(vec![0; HEADROOM]);
            }
            let slot = input.slots.last_mut().expect("a slot was pushed");
            slot.extend_from_slice(&[0; GAP]);
            slot.extend_from_slice(page);
            input.pages += 1;
        }
        input
    }

    fn mb(&self) -> f64 {
        (self.pages * PAGE_BYTES) as f64 / 1e6
    }

    fn batch(&self, slot: usize, first: u64, batch: &mut PageBatch) {
        batch.clear();
        let pages = (self.slots[slot].len() - HEADROOM) / (GAP + PAGE_BYTES);
        for page in 0..pages {
            let index = PageIndex(first + (slot * FRAME_PAGES_MAX + page) as u64);
            let at = u32::try_from(page * (GAP + PAGE_BYTES) + GAP).expect("slots are small");
            batch.push_page(BLOCK, index, at).expect("slots hold one batch");
        }
    }

    /// Changes 26 bytes in one place and 4 in another, in every page.
    fn dirty(&mut self) {
        for slot in &mut self.slots {
            for page in slot[HEADROOM..].chunks_exact_mut(GAP + PAGE_BYTES) {
                page[GAP + 1000..GAP + 1026].iter_mut().for_each(|byte| *byte ^= 0x5a);
                page[GAP + 3000..GAP + 3004].iter_mut().for_each(|byte| *byte ^= 0x11);
            }
        }
    }
}

/// A quarter each of text-like, table-like, random and sparse pages.
fn mix(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u32
    };
    let mut out = Vec::with_capacity(bytes);
    while out.len() < bytes {
        let kind = out.len() / PAGE_BYTES % 4;
        for word in 0..PAGE_BYTES as u32 / 4 {
            let random = next();
            let value = match kind {
                0 => 0x6162_6300 | (random & 0x1f),
                1 => word.wrapping_mul(24) + (random & 0x3),
                2 => random.wrapping_mul(0x9e37_79b9) ^ (random >> 7),
                _ => u32::from(random % 16 == 0) * random,
            };
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
    out
}

struct Bench {
    input: Input,
    planner: Planner,
    batch: PageBatch,
    plan: Plan,
    seq: u64,
}

impl Bench {
    fn new(input: Input, hash: HashAlgorithm, delta_cache_bytes: usize) -> Self {
        let config = PlannerConfig { hash, seed: 7, delta_cache_bytes, dedup_bytes: 64 << 20 };
        let mut planner = Planner::new(config);
        planner.add_block(BLOCK, "pc.ram", 2 * input.pages as u64).expect("one block");
        Self { input, planner, batch: PageBatch::new(), plan: Plan::new(), seq: 0 }
    }

    fn plan(&mut self, slot: usize, first: u64) {
        self.input.batch(slot, first, &mut self.batch);
        let bytes = &self.input.slots[slot][HEADROOM..];
        self.planner
            .plan(self.seq, self.seq, bytes, &self.batch, &mut self.plan)
            .expect("the batch is good");
        self.seq += u64::from(!self.plan.is_empty());
    }

    fn plan_all(&mut self, label: &str, first: u64) {
        let before = cpu_seconds();
        let mut total = dwcp_encode::PlanCounts::default();
        for slot in 0..self.input.slots.len() {
            self.plan(slot, first);
            total.add(self.plan.counts());
        }
        let spent = cpu_seconds() - before;
        let kinds = [total.zero, total.unchanged, total.duplicate, total.delta, total.literal];
        let kinds: Vec<String> = SHOWN
            .iter()
            .zip(kinds)
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        report(label, self.input.mb(), spent, &kinds.join(", "));
    }
}

fn report(label: &str, mb: f64, seconds: f64, note: &str) {
    println!("{label:<28} {:>9.0} MB/CPU-s {:>8.0} ns/page   {note}", mb / seconds, {
        seconds / (mb * 1e6 / PAGE_BYTES as f64) * 1e9
    });
}

fn plan_speeds(path: Option<&str>, bytes_max: usize) {
    for hash in [HashAlgorithm::Xxh3, HashAlgorithm::Blake3] {
        let input = Input::load(path, bytes_max);
        let pages = input.pages as u64;
        let cache = 2 * input.pages * (PAGE_BYTES + 8);
        println!("planner, {hash:?}");
        let mut no_cache = Bench::new(Input::load(path, bytes_max), hash, 0);
        no_cache.plan_all("  first pass, no cache", 0);
        drop(no_cache);
        let mut bench = Bench::new(input, hash, cache);
        bench.plan_all("  first pass", 0);
        bench.plan_all("  unchanged", 0);
        bench.plan_all("  duplicates of it", pages);
        bench.input.dirty();
        bench.plan_all("  30 bytes changed", 0);
        let before = cpu_seconds();
        bench.planner.root();
        println!("  root: {:.2} ms", (cpu_seconds() - before) * 1e3);
    }
}

fn zero_speed() {
    let mut planner = Planner::new(PlannerConfig {
        hash: HashAlgorithm::Xxh3,
        seed: 7,
        delta_cache_bytes: 0,
        dedup_bytes: 0,
    });
    let pages = 1u64 << 24;
    planner.add_block(BLOCK, "pc.ram", pages).expect("one block");
    let (mut batch, mut plan) = (PageBatch::new(), Plan::new());
    let before = cpu_seconds();
    for index in 0..pages {
        if batch.push_zero(BLOCK, PageIndex(index)).is_err() {
            planner.plan(0, 0, &[], &batch, &mut plan).expect("the batch is good");
            batch.clear();
            batch.push_zero(BLOCK, PageIndex(index)).expect("the batch is empty");
        }
    }
    planner.plan(0, 0, &[], &batch, &mut plan).expect("the batch is good");
    let spent = cpu_seconds() - before;
    println!("zero records: {:.0} M pages/CPU-s", pages as f64 / spent / 1e6);
}

/// Leaves and entropy checks of pages that lie in the first-level cache.
fn hash_speed() {
    let pages: Vec<Page> = mix(4 * PAGE_BYTES).as_chunks().0.to_vec();
    let rounds = 50_000;
    let time = |label: &str, mut work: Box<dyn FnMut(&Page) -> usize>| {
        let before = cpu_seconds();
        let sum: usize = (0..rounds).map(|round| work(&pages[round % pages.len()])).sum();
        let mb = (rounds * PAGE_BYTES) as f64 / 1e6;
        report(label, mb, cpu_seconds() - before, if sum == 1 { "!" } else { "" });
    };
    for hash in [HashAlgorithm::Xxh3, HashAlgorithm::Blake3] {
        let hasher = PageHasher::new(hash, 7);
        let work = move |page: &Page| usize::from(hasher.leaf(page) == Leaf::default());
        time(&format!("{hash:?} of hot pages"), Box::new(work));
    }
    time("entropy check of hot pages", Box::new(|page| usize::from(is_hopeless(page))));
}

/// Frames of pages at one level, and their way back.
fn frame_speed(path: Option<&str>, bytes_max: usize, level: Level, in_place: bool) {
    let mut bench = Bench::new(Input::load(path, bytes_max), HashAlgorithm::Xxh3, 0);
    let mut framer = Framer::new(level);
    let memory = Flat(vec![1; 2 * bench.input.pages * PAGE_BYTES]);
    let mut applier = Applier::new(HashAlgorithm::Xxh3, 7, memory);
    applier.add_block(BLOCK, "pc.ram", 2 * bench.input.pages as u64).expect("one block");
    let mut out = vec![1u8; FRAME_BODY_START + FRAME_BYTES_MAX];
    let (mut spent, mut apply, mut wire, mut hopeless) = (0.0, 0.0, 0, 0);
    for slot in 0..bench.input.slots.len() {
        bench.plan(slot, 0);
        if bench.plan.is_empty() {
            continue;
        }
        let before = cpu_seconds();
        let buffer = &mut bench.input.slots[slot];
        let end = buffer.len();
        let placed =
            if in_place { framer.raw_in_place(&bench.plan, buffer, HEADROOM..end) } else { None };
        let body = match placed {
            Some(range) => &buffer[range],
            None => {
                let bytes = &buffer[HEADROOM..];
                let framed = framer.frame(&bench.plan, bytes, level, &mut out).expect("it fits");
                hopeless += framed.hopeless;
                &out[framed.range]
            }
        };
        spent += cpu_seconds() - before;
        wire += body.len();
        let before = cpu_seconds();
        applier.apply(bench.seq - 1, body).expect("our own frame");
        apply += cpu_seconds() - before;
    }
    assert_eq!(bench.planner.root(), applier.root());
    let label = if in_place { "  in place".to_owned() } else { format!("  {level:?}") };
    let (mb, part) = (bench.input.mb(), wire as f64 / (bench.input.pages * PAGE_BYTES) as f64);
    let note = format!("{part:.3} of the bytes, {hopeless} hopeless, apply {:.0}", mb / apply);
    report(&label, mb, spent, &note);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().map(String::as_str);
    let mb: usize = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(64);
    zero_speed();
    hash_speed();
    plan_speeds(path, mb << 20);
    println!("framer (and applier, MB/CPU-s)");
    frame_speed(path, mb << 20, Level::Off, true);
    frame_speed(path, mb << 20, Level::Off, false);
    for level in LEVELS {
        frame_speed(path, mb << 20, Level::Zstd(level), false);
    }
}
