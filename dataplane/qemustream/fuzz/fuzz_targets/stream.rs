//! The main stream in both modes: no panic, pages in bounds, plain mode changes nothing, and cutting
//! the input in two makes no difference. The first byte chooses the mode, the second the cut.
#![no_main]

use dwcp_qemustream::{
    BlockRule, DirectOptions, LOOKAHEAD_MAX, Mark, Mode, PAGE_BYTES, Parser, RamBlock, Sink,
};
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Checker {
    input_bytes: usize,
    base: usize,
    blocks: Vec<RamBlock>,
    skeleton: Vec<u8>,
    taken: Vec<(u16, u64, usize)>,
    marks: Vec<Mark>,
}

impl Checker {
    fn take(&mut self, block: u16, index: u64, at: usize) {
        let facts = &self.blocks[usize::from(block)];
        assert!(facts.taken_out && index < facts.pages());
        self.taken.push((block, index, at));
    }
}

impl Sink for Checker {
    fn skeleton(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty());
        self.skeleton.extend_from_slice(bytes);
    }
    fn blocks(&mut self, blocks: &[RamBlock]) {
        self.blocks = blocks.to_vec();
    }
    fn page(&mut self, block: u16, index: u64, at: usize) {
        assert!(at + PAGE_BYTES <= self.input_bytes);
        self.take(block, index, self.base + at);
    }
    fn zero(&mut self, block: u16, index: u64) {
        self.take(block, index, 0);
    }
    fn mark(&mut self, mark: Mark) {
        self.marks.push(mark);
    }
}

fn run(mode: &Mode, stream: &[u8], cut: usize) -> (Checker, bool) {
    let mut parser = Parser::new(mode.clone());
    let mut checker = Checker::default();
    for end in [cut, stream.len()] {
        let input = &stream[checker.base..end];
        checker.input_bytes = input.len();
        match parser.parse(input, &mut checker) {
            Ok(consumed) => checker.base += consumed,
            Err(_) => return (checker, false),
        }
        assert!(end - checker.base < LOOKAHEAD_MAX);
    }
    (checker, true)
}

fuzz_target!(|data: &[u8]| {
    let [choice, cut, stream @ ..] = data else { return };
    let take_out = BlockRule::TakeOut { target_addr: 0 };
    let mode = match choice % 2 {
        0 => Mode::Plain,
        _ => Mode::Direct(DirectOptions {
            blocks: vec![("pc.ram".to_owned(), take_out)],
            others: BlockRule::Keep { target_addr: 0 },
        }),
    };
    let (whole, healthy) = run(&mode, stream, stream.len());
    let (parts, parts_healthy) = run(&mode, stream, stream.len() * usize::from(*cut) / 256);
    assert_eq!(healthy, parts_healthy);
    if healthy {
        assert_eq!(whole.skeleton, parts.skeleton);
        assert_eq!(whole.taken, parts.taken);
        assert_eq!(whole.marks, parts.marks);
    }
    if mode == Mode::Plain {
        assert!(whole.taken.is_empty() && stream.starts_with(&whole.skeleton));
    }
});
