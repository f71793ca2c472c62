//! Streams recorded from QEMU 10 and 7.2, replayed: the parser against what QEMU really writes.

mod common;

use common::model::{self, Item};
use common::{Event, feed, feed_whole, feed_with, recorded};
use dwcp_qemustream::multifd::Channel;
use dwcp_qemustream::return_path::{Item as Returned, Message, ReturnPath};
use dwcp_qemustream::{BlockRule, Capability, DirectOptions, Mark, Mode, Parser, StreamError};

/// Blocks that are guest RAM in one of the recordings.
const GUEST_RAM: [&str; 6] = ["pc.ram", "ram0", "node0", "node1", "dimm", "vmem"];
/// Where the recorder seeded RAM: every so many pages one that holds its own number.
const SEED_STEP: u64 = 37;

fn addr(name: &str) -> u64 {
    GUEST_RAM.iter().position(|ram| *ram == name).map_or(0, |at| (at as u64 + 1) << 20)
}

fn direct(stream: &[u8]) -> Mode {
    let mut parser = Parser::new(Mode::Plain);
    feed_whole(&mut parser, stream).result.expect("plain mode");
    let names = parser.blocks().iter().map(|block| block.name.clone());
    let ram = names.filter(|name| GUEST_RAM.contains(&name.as_str()));
    let rule = |name: &str| BlockRule::TakeOut { target_addr: addr(name) };
    let blocks = ram.map(|name| (name.clone(), rule(&name))).collect();
    Mode::Direct(DirectOptions { blocks, others: BlockRule::Keep { target_addr: 0 } })
}

/// The capability that keeps a recording out of direct mode, if one does.
fn obstacle(name: &str) -> Option<Capability> {
    let table = [
        ("xbzrle", Capability::Xbzrle),
        ("compress", Capability::Compress),
        ("postcopy", Capability::PostcopyRam),
        ("ignore-shared", Capability::IgnoreShared),
    ];
    table.iter().find(|(part, _)| name.ends_with(part)).map(|(_, capability)| *capability)
}

#[test]
fn the_model_writes_what_qemu_wrote() {
    for name in recorded::names("main") {
        let stream = recorded::load(&name, "main");
        let loaded = model::load(&stream);
        let saved = model::save(&loaded);
        // When postcopy begins QEMU names the block again although it is the same.
        if name.ends_with("postcopy") {
            assert!(model::load(&saved) == loaded, "{name}");
        } else {
            assert!(saved == stream, "{name}");
        }
    }
}

#[test]
fn plain_mode_passes_every_recording_and_sees_its_end() {
    for name in recorded::names("main") {
        let stream = recorded::load(&name, "main");
        let mut parser = Parser::new(Mode::Plain);
        let fed = feed_whole(&mut parser, &stream);
        assert_eq!((fed.result, fed.left), (Ok(()), 0), "{name}");
        assert!(fed.collector.skeleton_bytes() == stream, "{name}");
        let marks = fed.collector.marks();
        assert!(!marks.contains(&Mark::Opaque), "{name}: {:?}", parser.opaque_because());
        assert_eq!(marks.iter().filter(|mark| **mark == Mark::RamEnd).count(), 1, "{name}");
        // Postcopy writes no description.
        let ends = fed.collector.events.last() == Some(&Event::Mark(Mark::StreamEnd));
        assert_eq!(ends, !name.ends_with("postcopy"), "{name}: {marks:?}");
        let sections = model::load(&stream);
        let eos = sections.items.iter().filter(|item| **item == Item::Eos).count();
        assert_eq!(marks.iter().filter(|mark| **mark == Mark::Eos).count(), eos, "{name}");
    }
}

#[test]
fn direct_mode_takes_guest_ram_out_and_keeps_the_rest() {
    for name in recorded::names("main").iter().filter(|name| obstacle(name).is_none()) {
        let stream = recorded::load(name, "main");
        let mode = direct(&stream);
        let fed = feed_whole(&mut Parser::new(mode), &stream);
        assert_eq!((fed.result, fed.left), (Ok(()), 0), "{name}");
        let skeleton = model::load(&fed.collector.skeleton_bytes());
        let left_in = skeleton.records().find(|r| GUEST_RAM.contains(&r.block.as_str()));
        assert_eq!(left_in, None, "{name}");
        let merged = model::load_with(&fed.collector.skeleton_bytes(), &fed.collector.taken());
        let expected = model::rewritten(&model::load(&stream), addr);
        assert!(merged == expected, "{name}");
        if !name.contains("multifd") {
            assert!(fed.collector.taken().len() > 1000, "{name}: few pages taken");
        }
    }
}

#[test]
fn what_direct_mode_cannot_serve_is_named() {
    let mut refused = 0;
    for name in recorded::names("main") {
        let Some(capability) = obstacle(&name) else { continue };
        let stream = recorded::load(&name, "main");
        let error = feed_whole(&mut Parser::new(direct(&stream)), &stream).result;
        assert_eq!(error, Err(StreamError::UnsupportedCapability { capability }), "{name}");
        refused += 1;
    }
    assert_eq!(refused, 6);
}

/// Byte by byte is every truncation as well: after each byte the parser is where a truncated stream
/// leaves it, and it has neither failed nor kept more than its lookahead (`feed` asserts that).
#[test]
fn every_chunking_gives_the_same() {
    const PIECES: [&[usize]; 4] = [&[1], &[4104], &[65536, 1, 7], &[9, 8, 4095, 4097]];
    for name in recorded::names("main") {
        let stream = recorded::load(&name, "main");
        let mode = if obstacle(&name).is_some() { Mode::Plain } else { direct(&stream) };
        let whole = feed_whole(&mut Parser::new(mode.clone()), &stream);
        for pieces in PIECES {
            let fed = feed(&mut Parser::new(mode.clone()), &stream, pieces);
            assert_eq!((fed.result, fed.left), (Ok(()), 0), "{name} {pieces:?}");
            assert!(fed.collector.events == whole.collector.events, "{name} {pieces:?}");
        }
    }
}

#[test]
fn multifd_channels_bring_every_page() {
    for name in recorded::names("channel0") {
        let main = recorded::load(&name, "main");
        let mut parser = Parser::new(Mode::Plain);
        feed_whole(&mut parser, &main).result.expect("the main stream");
        let main = model::load(&main);
        let mut pages: Vec<_> =
            main.records().map(|record| (record.block.clone(), record.index)).collect();
        let syncs = main.items.iter().filter(|item| *item == first_sync(&main)).count();
        for number in 0..2 {
            let stream = recorded::load(&name, &format!("channel{number}"));
            let events = channel(&parser, &stream, &[stream.len()]);
            for pieces in [&[1][..], &[1344, 4096], &[65536, 100]] {
                assert!(channel(&parser, &stream, pieces) == events, "{name} {pieces:?}");
            }
            let marks = events.iter().filter(|event| **event == Event::Mark(Mark::ChannelSync));
            assert_eq!(marks.count(), syncs, "{name} channel {number}");
            for event in events {
                if let Event::Page { block, index, .. } | Event::Zero { block, index } = &event {
                    let block = &parser.blocks()[usize::from(*block)];
                    check_seed(&name, &block.name, &event);
                    pages.push((block.name.clone(), *index));
                }
            }
        }
        pages.sort();
        pages.dedup();
        let all: u64 = parser.blocks().iter().map(|block| block.pages()).sum();
        assert_eq!(pages.len() as u64, all, "{name}");
    }
}

/// The first sync point in the stream tells which kind is paired with the channels' SYNC packets.
fn first_sync(main: &model::Stream) -> &Item {
    let sync = |item: &&Item| matches!(item, Item::Eos | Item::Flush);
    main.items.iter().find(sync).expect("a sync point")
}

fn channel(parser: &Parser, stream: &[u8], pieces: &[usize]) -> Vec<Event> {
    let mut channel = Channel::new();
    let fed = feed_with(|input, sink| channel.parse(parser.blocks(), input, sink), stream, pieces);
    assert_eq!((fed.result, fed.left), (Ok(()), 0));
    assert!(channel.hello().is_some());
    fed.collector.events
}

fn check_seed(name: &str, block: &str, event: &Event) {
    if name.ends_with("dirtying") || block != "ram0" {
        return;
    }
    let seeded = |index: &u64| index.is_multiple_of(SEED_STEP);
    match event {
        Event::Page { index, content, .. } if seeded(index) => {
            assert_eq!(content, &(index + 1).to_le_bytes().repeat(512), "{name} page {index}");
        }
        Event::Page { index, .. } => assert!(*index < 256, "{name} page {index} is not seeded"),
        Event::Zero { index, .. } => assert!(!seeded(index), "{name} page {index} is seeded"),
        _ => {}
    }
}

#[test]
fn a_channel_waits_for_the_block_list() {
    for name in recorded::names("channel0") {
        let stream = recorded::load(&name, "channel0");
        let mut sink = common::Collector::default();
        let mut channel = Channel::new();
        let consumed = channel.parse(&[], &stream, &mut sink).expect("a healthy channel");
        assert!(channel.hello().is_some());
        assert!(consumed >= 64 && consumed < stream.len());
        assert!(sink.events.iter().all(|event| *event == Event::Mark(Mark::ChannelSync)));
    }
}

#[test]
fn return_paths_split_into_messages() {
    for name in recorded::names("return") {
        let stream = recorded::load(&name, "return");
        let (mut splitter, mut messages, mut at) = (ReturnPath::new(), Vec::new(), 0);
        for end in 0..=stream.len() {
            while let Some(item) = splitter.next_item(&stream[at..end]).expect("a healthy path") {
                at += item.bytes().len();
                if let Returned::Message { message, .. } = item {
                    messages.push(message);
                }
            }
        }
        assert_eq!(at, stream.len(), "{name}");
        let ack =
            name.starts_with("qemu10") && name.ends_with("dirtying") && !name.contains("multifd");
        assert_eq!(messages.contains(&Message::SwitchoverAck), ack, "{name}: {messages:?}");
        assert!(messages.contains(&Message::Pong { value: 1 }), "{name}: {messages:?}");
        assert_eq!(messages.last(), Some(&Message::Shut { error: 0 }), "{name}");
    }
}
