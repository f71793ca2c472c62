//! A guest's memory, what it does to it, and the two QEMUs as far as a migration sees them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dwcp_encode::{Page, PageStore};
use dwcp_wire::{BlockId, PAGE_BYTES, PageIndex};

use crate::Rng;

/// RAM blocks of the guest: id, name, pages.
pub(super) const BLOCKS: [(u16, &str, u64); 3] =
    [(0, "pc.ram", 96), (3, "vga.vram", 8), (7, "rom", 3)];
pub(super) const ZERO_PAGE: Page = [0; PAGE_BYTES];

/// A page of the guest.
pub(super) type Place = (u16, u64);

/// Guest memory; pages that are not in it are zero.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pages: BTreeMap<Place, Box<Page>>,
}

impl Memory {
    pub(super) fn get(&self, place: Place) -> Page {
        self.pages.get(&place).map_or(ZERO_PAGE, |page| **page)
    }

    fn set(&mut self, place: Place, content: &Page) {
        if *content == ZERO_PAGE {
            self.pages.remove(&place);
        } else {
            self.pages.insert(place, Box::new(*content));
        }
    }

    /// Pages that differ.
    pub(super) fn differences(&self, other: &Self) -> usize {
        all_places().filter(|place| self.get(*place) != other.get(*place)).count()
    }
}

pub(super) fn all_places() -> impl Iterator<Item = Place> {
    BLOCKS.into_iter().flat_map(|(block, _, pages)| (0..pages).map(move |index| (block, index)))
}

/// The target's RAM file: it outlives the engine that writes it.
#[derive(Clone, Default)]
pub(super) struct RamFile(Rc<RefCell<Memory>>);

impl RamFile {
    pub(super) fn copy(&self) -> Memory {
        self.0.borrow().clone()
    }
}

impl PageStore for RamFile {
    fn read(&self, block: BlockId, index: PageIndex, out: &mut Page) {
        *out = self.0.borrow().get((block.0, index.0));
    }

    fn write(&mut self, block: BlockId, index: PageIndex, content: &Page) {
        self.0.borrow_mut().set((block.0, index.0), content);
    }

    fn zero(&mut self, block: BlockId, index: PageIndex) {
        self.0.borrow_mut().set((block.0, index.0), &ZERO_PAGE);
    }
}

/// The source QEMU with its guest.
pub(super) struct SourceQemu {
    pub(super) memory: Memory,
    pub(super) dirty: BTreeSet<Place>,
    pub(super) runs: bool,
    pub(super) is_gone: bool,
    /// SHUT(0) came through: QEMU thinks that the guest has left.
    pub(super) heard_shut: bool,
    rng: Rng,
}

impl SourceQemu {
    pub(super) fn new(mut rng: Rng) -> Self {
        let mut memory = Memory::default();
        for place in all_places() {
            if rng.chance(60) {
                memory.set(place, &noise(rng.bits() % 40));
            }
        }
        let dirty = all_places().collect();
        Self { memory, dirty, runs: true, is_gone: false, heard_shut: false, rng }
    }

    /// The guest writes a few pages: patches, copies, new content, zeros, the same again.
    pub(super) fn scribble(&mut self) {
        for _ in 0..self.rng.between(0, 6) {
            let place = self.any_place();
            let mut page = self.memory.get(place);
            match self.rng.between(0, 9) {
                0..=4 => page[self.rng.index(PAGE_BYTES)] ^= 0x55,
                5 | 6 => {
                    let from = self.any_place();
                    page = self.memory.get(from);
                }
                7 => page = noise(self.rng.bits() % 40),
                8 => page = ZERO_PAGE,
                _ => {}
            }
            self.memory.set(place, &page);
            self.dirty.insert(place);
        }
    }

    /// Few pages are hot, so that versions follow each other fast.
    fn any_place(&mut self) -> Place {
        if self.rng.chance(70) {
            return (0, self.rng.between(0, 9));
        }
        let (block, _, pages) = BLOCKS[self.rng.index(BLOCKS.len())];
        (block, self.rng.between(0, pages - 1))
    }
}

fn noise(seed: u64) -> Page {
    let mut rng = Rng::new(seed);
    let mut page = ZERO_PAGE;
    for word in page.as_chunks_mut::<8>().0 {
        *word = rng.bits().to_le_bytes();
    }
    page
}

/// How far the target QEMU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetQemu {
    /// Launched `-S`, its stream not complete.
    Incoming,
    /// Has the tail; complete at that time.
    Loading(u64),
    /// Complete and paused.
    Loaded,
    Running,
    Gone,
}
