//! A generator of valid streams that QEMU's save side could have written.

use proptest::prelude::*;

use super::model::{Block, COMPRESS, Item, PAGE, Record, Stream, XBZRLE, ZERO};

/// Blocks whose name begins with this are taken out in direct mode.
pub(crate) const TAKEN: char = 't';

const BLOCK_PAGES_MAX: u64 = 64;
const RAM_ID: u32 = 2;
const BITMAP_ID: u32 = 7;

pub(crate) fn taken_out(name: &str) -> bool {
    name.starts_with(TAKEN)
}

/// A stream for direct mode: blocks to be taken out have PAGE and ZERO records only.
pub(crate) fn stream() -> impl Strategy<Value = Stream> {
    (blocks(), any::<[bool; 2]>()).prop_flat_map(|(blocks, [uuid, page_bits])| {
        let bodies = prop::collection::vec(section(blocks.clone()), 0..8);
        let last = records(blocks.clone());
        (bodies, last, tail()).prop_map(move |(bodies, last, tail)| {
            let mut subsections = Vec::new();
            if page_bits {
                let body = 12u32.to_be_bytes().to_vec();
                subsections.push((b"configuration/target-page-bits".to_vec(), body));
            }
            if uuid {
                subsections.push((b"configuration/uuid".to_vec(), vec![0xab; 16]));
            }
            let items = items(&blocks, bodies, last);
            Stream { machine: b"pc-q35-10.0".to_vec(), subsections, items, tail }
        })
    })
}

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let name = prop_oneof!["t[a-z0-9./@]{0,12}", "[k/][a-z0-9./@]{0,12}", "k[a-z]{254}"];
    let block = (name, 1..BLOCK_PAGES_MAX);
    prop::collection::vec(block, 1..6).prop_map(|blocks| {
        let mut list: Vec<Block> = Vec::new();
        for (name, pages) in blocks {
            if list.iter().all(|block| block.name != name) {
                list.push(Block { name, used_bytes: pages << 12, addr: None });
            }
        }
        list
    })
}

/// What may stand between setup and RAM's end.
fn section(blocks: Vec<Block>) -> impl Strategy<Value = Vec<Item>> {
    prop_oneof![
        4 => records(blocks).prop_map(|body| wrapped(2, RAM_ID, body)),
        1 => bitmap().prop_map(|body| wrapped(2, BITMAP_ID, vec![Item::Body(body)])),
        1 => command().prop_map(|command| vec![command]),
    ]
}

fn wrapped(kind: u8, id: u32, mut body: Vec<Item>) -> Vec<Item> {
    body.insert(0, open(kind, id, b"", 0));
    body.push(Item::Close(id));
    body
}

fn open(kind: u8, id: u32, name: &[u8], version: u32) -> Item {
    Item::Open { kind, id, name: name.to_vec(), version }
}

fn command() -> impl Strategy<Value = Item> {
    let data = prop::collection::vec(any::<u8>(), 0..300);
    (prop_oneof![Just(1u16), Just(2), Just(7), Just(11), Just(3)], data).prop_map(
        |(command, data)| match command {
            7 => Item::Command(7, [&(data.len() as u32).to_be_bytes()[..], &data].concat()),
            3 => Item::Command(3, Vec::new()),
            _ => Item::Command(command, data),
        },
    )
}

fn records(blocks: Vec<Block>) -> impl Strategy<Value = Vec<Item>> {
    let item = prop_oneof![
        20 => (any::<prop::sample::Index>(), any::<u64>(), any::<u8>(), 0..10u8).prop_map(
            move |(block, index, fill, kind)| record(&blocks, block, index, fill, kind)
        ),
        1 => Just(Item::Flush),
    ];
    prop::collection::vec(item, 0..24).prop_map(|mut items| {
        items.push(Item::Eos);
        items
    })
}

fn record(blocks: &[Block], block: prop::sample::Index, index: u64, fill: u8, kind: u8) -> Item {
    let block = block.get(blocks);
    let index = index % (block.used_bytes >> 12);
    let length = fill.into();
    let (flag, payload) = match kind {
        8 if !taken_out(&block.name) => (XBZRLE, [&[1, 0, fill][..], &vec![fill; length]].concat()),
        9 if !taken_out(&block.name) => {
            (COMPRESS, [&[0, 0, 0, fill][..], &vec![fill; length]].concat())
        }
        0..4 => (ZERO, vec![0]),
        _ => (PAGE, vec![fill; 4096]),
    };
    Item::Record(Record { flag, block: block.name.clone(), index, payload })
}

/// A body of a dirty-bitmap section: chunks of every shape, then one with EOS.
fn bitmap() -> impl Strategy<Value = Vec<u8>> {
    let chunk = (0..6u8, any::<[bool; 2]>(), prop::collection::vec(any::<u8>(), 0..100));
    prop::collection::vec(chunk, 0..5).prop_map(|chunks| {
        let mut body = Vec::new();
        for (shape, [device, bitmap], bits) in chunks {
            let names = u8::from(device) << 3 | u8::from(bitmap) << 2;
            body.push(names | [0x10, 0x20, 0x40, 0x42, 0x60, 0][usize::from(shape)]);
            for _ in 0..names.count_ones() {
                body.extend(b"\x05disk0");
            }
            match shape {
                0 => body.extend([0, 1, 0, 0, 3]),
                2 => {
                    body.extend([0; 12]);
                    body.extend((bits.len() as u64).to_be_bytes());
                    body.extend(bits);
                }
                3 => body.extend([0; 12]),
                _ => {}
            }
        }
        body.push(1);
        body
    })
}

/// virtio-mem's early state with a bitmap of `region / block` bits.
fn early() -> Vec<Item> {
    let (region, block) = (200u64 << 21, 2u64 << 20);
    let mut body = [4u64 << 30, region, block].map(u64::to_be_bytes).concat();
    body.extend([0; 12]);
    body.extend(vec![0x5a; (region / block).div_ceil(64) as usize * 8]);
    let name = b"0000:00:03.0/virtio-mem-device-early";
    vec![open(4, 1, name, 1), Item::Body(body), Item::Close(1)]
}

fn tail() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(|mut tail| {
        tail.extend(b"\x7e\0\0\0\x09\x00\x06\0\0\0\x0d{\"page\":4096}");
        tail
    })
}

fn items(blocks: &[Block], bodies: Vec<Vec<Item>>, last: Vec<Item>) -> Vec<Item> {
    let list = Item::MemSize(blocks.to_vec());
    let setup = [open(1, RAM_ID, b"ram", 4), list, Item::Eos, Item::Close(RAM_ID)];
    let bitmap =
        [open(1, BITMAP_ID, b"dirty-bitmap", 1), Item::Body(vec![1]), Item::Close(BITMAP_ID)];
    let start = [vec![Item::Command(1, Vec::new())], early(), setup.to_vec(), bitmap.to_vec()];
    let end = wrapped(3, RAM_ID, last);
    start.into_iter().chain(bodies).chain([end]).flatten().collect()
}
