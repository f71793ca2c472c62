//! A multifd channel: no panic, every page in its block and in the input.
#![no_main]

use dwcp_qemustream::multifd::Channel;
use dwcp_qemustream::{LOOKAHEAD_MAX, Mark, PAGE_BYTES, RamBlock, Sink};
use libfuzzer_sys::fuzz_target;

const BLOCK_PAGES: u64 = 64;

struct Checker {
    input_bytes: usize,
}

impl Sink for Checker {
    fn skeleton(&mut self, _: &[u8]) {
        unreachable!("a channel has no skeleton");
    }
    fn blocks(&mut self, _: &[RamBlock]) {
        unreachable!("a channel has no block list");
    }
    fn page(&mut self, block: u16, index: u64, at: usize) {
        assert!(block == 0 && index < BLOCK_PAGES && at + PAGE_BYTES <= self.input_bytes);
    }
    fn zero(&mut self, block: u16, index: u64) {
        assert!(block == 0 && index < BLOCK_PAGES);
    }
    fn mark(&mut self, mark: Mark) {
        assert_eq!(mark, Mark::ChannelSync);
    }
}

fuzz_target!(|stream: &[u8]| {
    let used_bytes = BLOCK_PAGES * PAGE_BYTES as u64;
    let name = "pc.ram".to_owned();
    let blocks = [RamBlock { name, used_bytes, page_bytes: 4096, taken_out: true }];
    let mut checker = Checker { input_bytes: stream.len() };
    if let Ok(consumed) = Channel::new().parse(&blocks, stream, &mut checker) {
        assert!(stream.len() - consumed < LOOKAHEAD_MAX);
    }
});
