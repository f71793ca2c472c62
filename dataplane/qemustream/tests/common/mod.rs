//! What the tests share: a collecting sink, feeding in pieces, a model of the target QEMU.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod generate;
pub(crate) mod model;
pub(crate) mod qemu;
pub(crate) mod recorded;

use dwcp_qemustream::{LOOKAHEAD_MAX, Mark, PAGE_BYTES, Parser, RamBlock, Sink, StreamError};

/// What the sink was told, in order; runs of skeleton bytes are merged, so that the same stream
/// gives the same events however it was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Skeleton(Vec<u8>),
    Blocks(Vec<RamBlock>),
    Page { block: u16, index: u64, content: Vec<u8> },
    Zero { block: u16, index: u64 },
    Mark(Mark),
}

/// Collects events. It holds the whole stream and knows where in it the running call's input
/// begins.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    pub(crate) events: Vec<Event>,
    stream: Vec<u8>,
    base: usize,
}

impl Collector {
    pub(crate) fn skeleton_bytes(&self) -> Vec<u8> {
        let bytes = self.events.iter().filter_map(|event| match event {
            Event::Skeleton(bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        bytes.collect::<Vec<_>>().concat()
    }

    /// The records taken out, each with the skeleton's length when it was.
    pub(crate) fn taken(&self) -> Vec<(usize, model::Record)> {
        let (mut at, mut taken) = (0, Vec::new());
        let name = |block: &u16| self.blocks_seen()[usize::from(*block)].name.clone();
        for event in &self.events {
            match event {
                Event::Skeleton(bytes) => at += bytes.len(),
                Event::Page { block, index, content } => {
                    let payload = content.clone();
                    let (flag, block, index) = (model::PAGE, name(block), *index);
                    taken.push((at, model::Record { flag, block, index, payload }));
                }
                Event::Zero { block, index } => {
                    let (flag, block, index) = (model::ZERO, name(block), *index);
                    taken.push((at, model::Record { flag, block, index, payload: vec![0] }));
                }
                Event::Blocks(_) | Event::Mark(_) => {}
            }
        }
        taken
    }

    pub(crate) fn marks(&self) -> Vec<Mark> {
        let mark = |event: &Event| match event {
            Event::Mark(mark) => Some(*mark),
            _ => None,
        };
        self.events.iter().filter_map(mark).collect()
    }

    pub(crate) fn blocks_seen(&self) -> &[RamBlock] {
        let blocks = self.events.iter().find_map(|event| match event {
            Event::Blocks(blocks) => Some(blocks.as_slice()),
            _ => None,
        });
        blocks.unwrap_or_default()
    }
}

impl Sink for Collector {
    fn skeleton(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "an empty piece of skeleton");
        if let Some(Event::Skeleton(last)) = self.events.last_mut() {
            last.extend_from_slice(bytes);
        } else {
            self.events.push(Event::Skeleton(bytes.to_vec()));
        }
    }

    fn blocks(&mut self, blocks: &[RamBlock]) {
        self.events.push(Event::Blocks(blocks.to_vec()));
    }

    fn page(&mut self, block: u16, index: u64, at: usize) {
        let content = self.stream[self.base + at..][..PAGE_BYTES].to_vec();
        self.events.push(Event::Page { block, index, content });
    }

    fn zero(&mut self, block: u16, index: u64) {
        self.events.push(Event::Zero { block, index });
    }

    fn mark(&mut self, mark: Mark) {
        self.events.push(Event::Mark(mark));
    }
}

/// The outcome of feeding a whole stream.
pub(crate) struct Fed {
    pub(crate) collector: Collector,
    /// Bytes that stayed unconsumed at the end.
    pub(crate) left: usize,
    pub(crate) result: Result<(), StreamError>,
}

/// Feeds `stream` in pieces whose sizes come from `pieces` (repeated for ever), as a reader with
/// one buffer would: what is not consumed comes again.
pub(crate) fn feed(parser: &mut Parser, stream: &[u8], pieces: &[usize]) -> Fed {
    feed_with(|input, sink| parser.parse(input, sink), stream, pieces)
}

/// Feeds `stream` in one piece.
pub(crate) fn feed_whole(parser: &mut Parser, stream: &[u8]) -> Fed {
    feed(parser, stream, &[stream.len()])
}

/// As [`feed`], for anything that parses.
pub(crate) fn feed_with(
    mut parse: impl FnMut(&[u8], &mut Collector) -> Result<usize, StreamError>,
    stream: &[u8],
    pieces: &[usize],
) -> Fed {
    let mut collector = Collector { stream: stream.to_vec(), ..Collector::default() };
    let mut available = 0;
    for piece in pieces.iter().cycle() {
        available = (available + (*piece).max(1)).min(stream.len());
        let input = &stream[collector.base..available];
        match parse(input, &mut collector) {
            Ok(consumed) => collector.base += consumed,
            Err(error) => return Fed { collector, left: 0, result: Err(error) },
        }
        let left = available - collector.base;
        assert!(left < LOOKAHEAD_MAX, "{left} bytes left at {}", collector.base);
        if available == stream.len() {
            return Fed { collector, left, result: Ok(()) };
        }
    }
    unreachable!("pieces repeat for ever")
}
