//! Any bytes as the bodies of two slices; the header's version is put right, so that what lies
//! behind it is reached. The store refuses pages that were not offered.
#![no_main]

use dwcp_encode::{Applier, HashAlgorithm, Page, PageStore};
use dwcp_wire::{BlockId, PageIndex};
use libfuzzer_sys::fuzz_target;

const PAGES: [u64; 2] = [8, 20];

struct Memory([Vec<Page>; 2]);

impl PageStore for Memory {
    fn read(&self, block: BlockId, index: PageIndex, out: &mut Page) {
        *out = self.0[usize::from(block.0)][index.0 as usize];
    }
    fn write(&mut self, block: BlockId, index: PageIndex, content: &Page) {
        self.0[usize::from(block.0)][index.0 as usize] = *content;
    }
    fn zero(&mut self, block: BlockId, index: PageIndex) {
        self.write(block, index, &[0; 4096]);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let memory = Memory(PAGES.map(|pages| vec![[0; 4096]; pages as usize]));
    let mut applier = Applier::new(HashAlgorithm::Xxh3, 1, memory);
    for (id, pages) in PAGES.into_iter().enumerate() {
        applier.add_block(BlockId(id as u16), "ram", pages).expect("two small blocks");
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    for (seq, body) in [(7, first), (3, second)] {
        let mut body = body.to_vec();
        if let Some(version) = body.first_mut() {
            *version = 1;
        }
        if applier.apply(seq, &body).is_err() {
            return;
        }
    }
    applier.root();
});
