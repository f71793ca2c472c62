//! Multifd channels and return paths made by hand: the versions' differences, and hostile bytes.

mod common;

use common::{Event, Fed, feed_with};
use dwcp_qemustream::multifd::{Channel, Connection, HELLO_BYTES, PACKET_BYTES, PACKET_PAGES_MAX};
use dwcp_qemustream::return_path::{HEADER_BYTES, Item, Message, PAYLOAD_BYTES_MAX, ReturnPath};
use dwcp_qemustream::{Capability, Mark, RamBlock, StreamError};
use proptest::prelude::*;

const SYNC: u32 = 1;
const ZSTD: u32 = 2 << 1;
const DEVICE_STATE: u32 = 32 << 1;
const BLOCK_PAGES: u64 = 300;

fn blocks() -> Vec<RamBlock> {
    let block = |name: &str, taken_out| RamBlock {
        name: name.to_owned(),
        used_bytes: BLOCK_PAGES << 12,
        page_bytes: 4096,
        taken_out,
    };
    vec![block("vga.vram", false), block("pc.ram", true)]
}

fn hello() -> Vec<u8> {
    let mut bytes = b"\x11\x22\x33\x44\0\0\0\x01".to_vec();
    bytes.extend([0xd1; 16]);
    bytes.push(5);
    bytes.resize(HELLO_BYTES, 0);
    bytes
}

/// A packet of block `name`; the fill byte of a page is its index.
struct Packet<'a> {
    flags: u32,
    name: &'a str,
    normal: Vec<u64>,
    zero: Vec<u64>,
    /// next_packet_size where it is not what the pages say.
    stale_size: Option<u32>,
    pages_alloc: u32,
}

impl Packet<'_> {
    fn bytes(&self) -> Vec<u8> {
        let size = self.stale_size.unwrap_or(self.normal.len() as u32 * 4096);
        let head = [0x1122_3344, 1, self.flags, self.pages_alloc, self.normal.len() as u32, size];
        let mut bytes: Vec<u8> = head.into_iter().flat_map(u32::to_be_bytes).collect();
        bytes.extend(77u64.to_be_bytes());
        bytes.extend((self.zero.len() as u32).to_be_bytes());
        bytes.extend([0; 28]);
        bytes.extend(self.name.as_bytes());
        bytes.resize(320, 0);
        for index in self.normal.iter().chain(&self.zero) {
            bytes.extend((index << 12).to_be_bytes());
        }
        bytes.resize(PACKET_BYTES, 0);
        bytes.extend(self.normal.iter().flat_map(|index| [*index as u8; 4096]));
        bytes
    }

    fn events(&self) -> Vec<Event> {
        let blocks = blocks();
        let block = || blocks.iter().position(|b| b.name == self.name).expect("a block") as u16;
        let zero = |index: &u64| Event::Zero { block: block(), index: *index };
        let page = |index: &u64| {
            let content = vec![*index as u8; 4096];
            Event::Page { block: block(), index: *index, content }
        };
        let sync = (self.flags & SYNC != 0).then_some(Event::Mark(Mark::ChannelSync));
        self.zero.iter().map(zero).chain(self.normal.iter().map(page)).chain(sync).collect()
    }
}

fn packet(flags: u32) -> Packet<'static> {
    let (normal, zero) = (vec![3, 299, 0], vec![8]);
    Packet { flags, name: "pc.ram", normal, zero, stale_size: None, pages_alloc: 128 }
}

fn feed_channel(stream: &[u8], pieces: &[usize]) -> Fed {
    let mut channel = Channel::new();
    feed_with(|input, sink| channel.parse(&blocks(), input, sink), stream, pieces)
}

fn error_of(packet: &Packet<'_>) -> StreamError {
    let stream = [hello(), packet.bytes()].concat();
    let fed = feed_channel(&stream, &[stream.len()]);
    assert!(fed.collector.events.is_empty(), "nothing of a bad packet comes out");
    fed.result.expect_err("refused")
}

#[test]
fn connections_are_told_apart_by_their_first_word() {
    assert_eq!(Connection::of(*b"QEVM"), Some(Connection::Main));
    assert_eq!(Connection::of([0x11, 0x22, 0x33, 0x44]), Some(Connection::Channel));
    assert_eq!(Connection::of(*b"HTTP"), None);
}

#[test]
fn a_hello_says_who_it_is() {
    let mut channel = Channel::new();
    let mut sink = common::Collector::default();
    assert_eq!(channel.parse(&[], &hello(), &mut sink), Ok(HELLO_BYTES));
    let hello = channel.hello().expect("a hello");
    assert_eq!((hello.uuid, hello.id), ([0xd1; 16], 5));
}

/// 7.2 leaves size and name of the packet before; 10 leaves pages_alloc zero.
#[test]
fn a_sync_packet_without_pages_may_be_stale() {
    let mut sync = packet(SYNC);
    (sync.normal, sync.zero) = (vec![], vec![]);
    for (stale_size, name, pages_alloc) in [(Some(4096 * 9), "gone", 128), (None, "", 0)] {
        (sync.stale_size, sync.name, sync.pages_alloc) = (stale_size, name, pages_alloc);
        let stream = [hello(), sync.bytes(), packet(0).bytes()].concat();
        let fed = feed_channel(&stream, &[stream.len()]);
        assert_eq!((fed.result, fed.left), (Ok(()), 0));
        let expected = [vec![Event::Mark(Mark::ChannelSync)], packet(0).events()].concat();
        assert_eq!(fed.collector.events, expected);
    }
}

#[test]
fn other_formats_are_refused_by_name() {
    let unsupported = |capability| StreamError::UnsupportedCapability { capability };
    assert_eq!(error_of(&packet(ZSTD)), unsupported(Capability::MultifdCompression));
    assert_eq!(error_of(&packet(DEVICE_STATE)), unsupported(Capability::MultifdDeviceState));
}

#[test]
fn lengths_and_offsets_are_bounded() {
    let mut bad = packet(0);
    bad.normal = vec![0; PACKET_PAGES_MAX + 1];
    assert!(matches!(error_of(&bad), StreamError::TooLarge { value: 129, max: 128, .. }));
    (bad.normal, bad.zero) = (vec![0; PACKET_PAGES_MAX - 1], vec![0; 2]);
    assert!(matches!(error_of(&bad), StreamError::TooLarge { value: 2, max: 1, .. }));
    let mut bad = packet(0);
    bad.zero = vec![BLOCK_PAGES];
    let name = "pc.ram".to_owned();
    assert_eq!(error_of(&bad), StreamError::PageOutOfRange { name, index: BLOCK_PAGES });
    let mut bad = packet(0);
    bad.stale_size = Some(1);
    assert!(matches!(error_of(&bad), StreamError::Unexpected { value: 1, .. }));
    let mut bad = packet(0);
    bad.name = "gone";
    assert!(matches!(error_of(&bad), StreamError::UnlistedBlock { .. }));
}

fn packets() -> impl Strategy<Value = Vec<Packet<'static>>> {
    let index = || prop::collection::vec(0..BLOCK_PAGES, 0..5);
    let packet = (index(), index(), any::<[bool; 2]>()).prop_map(|(normal, zero, [vram, sync])| {
        let name = if vram { "vga.vram" } else { "pc.ram" };
        let flags = if sync { SYNC } else { 0 };
        Packet { flags, name, normal, zero, stale_size: None, pages_alloc: 128 }
    });
    prop::collection::vec(packet, 0..6)
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1..12usize, 1..9000usize], 1..6)
}

impl std::fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {:?} {:?}", self.flags, self.name, self.normal, self.zero)
    }
}

/// Messages of every type with valid lengths; a bitmap behind RECV_BITMAP.
fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let message = (1..=7u16, any::<u32>(), 0..100u8).prop_map(|(kind, value, length)| {
        let payload = match kind {
            1 | 2 | 6 => value.to_be_bytes().to_vec(),
            3 => [vec![0; 12], vec![length], vec![b'n'; length.into()]].concat(),
            4 => vec![0; 12],
            5 => [vec![length], vec![b'n'; length.into()]].concat(),
            _ => Vec::new(),
        };
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend(payload);
        if kind == 5 {
            bytes.extend((u64::from(length) * 8).to_be_bytes());
            bytes.extend(vec![0xff; usize::from(length) * 8 + 8]);
        }
        bytes
    });
    prop::collection::vec(message, 0..8)
}

/// A message, or the bytes of a bitmap.
type Piece = (Option<Message>, Vec<u8>);

/// All items in pieces of the path; bitmap pieces are merged.
fn split(path: &[u8], pieces: &[usize]) -> Result<Vec<Piece>, StreamError> {
    let mut splitter = ReturnPath::new();
    let mut items: Vec<Piece> = Vec::new();
    let (mut at, mut end) = (0, 0);
    for piece in pieces.iter().cycle() {
        end = (end + piece).min(path.len());
        while let Some(item) = splitter.next_item(&path[at..end])? {
            let bytes = path[at..end][item.bytes()].to_vec();
            at += bytes.len();
            match (item, items.last_mut()) {
                (Item::Message { message, .. }, _) => items.push((Some(message), bytes)),
                (Item::Bitmap { .. }, Some((None, last))) => last.extend(bytes),
                (Item::Bitmap { .. }, _) => items.push((None, bytes)),
            }
        }
        assert!(end - at <= HEADER_BYTES + PAYLOAD_BYTES_MAX);
        if end == path.len() {
            return Ok(items);
        }
    }
    unreachable!("pieces repeat for ever")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn channels_come_apart_at_any_chunking(packets in packets(), pieces in pieces()) {
        let stream = [hello(), packets.iter().flat_map(Packet::bytes).collect()].concat();
        let expected: Vec<_> = packets.iter().flat_map(Packet::events).collect();
        let fed = feed_channel(&stream, &pieces);
        prop_assert_eq!((fed.result, fed.left), (Ok(()), 0));
        prop_assert_eq!(fed.collector.events, expected);
    }

    #[test]
    fn damaged_channels_never_panic(
        packets in packets(),
        damage in prop::collection::vec((0..HELLO_BYTES + PACKET_BYTES, any::<u8>()), 1..6),
        pieces in pieces(),
    ) {
        let mut stream = [hello(), packets.iter().flat_map(Packet::bytes).collect()].concat();
        for (at, value) in damage {
            let at = at % stream.len();
            stream[at] = value;
        }
        let whole = feed_channel(&stream, &[stream.len()]);
        for event in &whole.collector.events {
            if let Event::Page { index, .. } | Event::Zero { index, .. } = event {
                prop_assert!(*index < BLOCK_PAGES);
            }
        }
        let fed = feed_channel(&stream, &pieces);
        prop_assert_eq!(fed.result, whole.result);
        prop_assert_eq!(fed.collector.events, whole.collector.events);
    }

    #[test]
    fn return_paths_come_apart_at_any_chunking(messages in messages(), pieces in pieces()) {
        let path = messages.concat();
        let items = split(&path, &pieces).expect("a healthy path");
        let bytes: Vec<_> = items.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        prop_assert_eq!(bytes.concat(), path);
        let kinds: Vec<_> = items.iter().filter_map(|(message, _)| *message).collect();
        prop_assert_eq!(kinds.len(), messages.len());
        let switchover = messages.iter().filter(|bytes| bytes[1] == 7).count();
        prop_assert_eq!(kinds.iter().filter(|m| **m == Message::SwitchoverAck).count(), switchover);
    }

    #[test]
    fn hostile_return_paths_never_panic(
        path in prop::collection::vec(prop_oneof![Just(0u8), 0..9u8, any::<u8>()], 0..200),
        pieces in pieces(),
    ) {
        let whole = split(&path, &[path.len().max(1)]);
        prop_assert_eq!(split(&path, &pieces).is_err(), whole.is_err());
    }
}

#[test]
fn return_path_lengths_are_qemus() {
    for path in [&[0, 1, 0, 3][..], &[0, 7, 0, 1], &[0, 3, 2, 1], &[0, 5, 0, 0], &[0, 8, 0, 0]] {
        let refused = matches!(split(path, &[4]), Err(StreamError::Unexpected { at: 0, .. }));
        assert!(refused, "{path:?}");
    }
    let endless = [&[0, 5, 0, 1, 0][..], &[0xff; 8]].concat();
    assert!(matches!(split(&endless, &[64]), Err(StreamError::TooLarge { at: 5, .. })));
    assert_eq!(
        split(&[0, 1, 0, 4, 0, 0, 0, 9], &[1]).expect("SHUT")[0].0,
        Some(Message::Shut { error: 9 })
    );
}
