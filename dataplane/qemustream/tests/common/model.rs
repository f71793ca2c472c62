//! A plain model of how the target QEMU reads a stream (savevm.c and ram.c, the load side),
//! written without the parser: whole stream in memory, no bounds but the slice's.

use std::collections::BTreeMap;

pub(crate) type Page = Vec<u8>;

/// What a target knows after loading a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) machine: Vec<u8>,
    pub(crate) capabilities: Vec<Vec<u8>>,
    /// name, used bytes, address (if the stream carried one)
    pub(crate) blocks: Vec<(String, u64, Option<u64>)>,
    /// (block name, page index) -> content of the last record
    pub(crate) memory: BTreeMap<(String, u64), Page>,
    /// Everything that is neither configuration nor RAM content, in order.
    pub(crate) items: Vec<Item>,
    pub(crate) tail: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Command(u16, Vec<u8>),
    Section(u8, u32),
    Flush,
    Eos,
    Bitmap(Vec<u8>),
}

struct Reader<'i>(&'i [u8]);

impl Reader<'_> {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (field, rest) = self.0.split_at(count);
        self.0 = rest;
        field.to_vec()
    }
    fn u8(&mut self) -> u8 {
        self.bytes(1)[0]
    }
    fn be(&mut self, bytes: usize) -> u64 {
        self.bytes(bytes).iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
    fn name(&mut self) -> Vec<u8> {
        let length = self.u8();
        self.bytes(length.into())
    }
}

/// Loads a whole stream; panics where QEMU would fail.
pub(crate) fn load(stream: &[u8]) -> Loaded {
    let mut reader = Reader(stream);
    let mut loaded = Loaded::default();
    assert_eq!(reader.be(8), 0x5145_564d_0000_0003);
    configuration(&mut reader, &mut loaded);
    let mut names = BTreeMap::new();
    let mut last_block = None;
    loop {
        let kind = reader.u8();
        if kind == 8 {
            command(&mut reader, &mut loaded);
            continue;
        }
        let id = reader.be(4) as u32;
        if kind == 1 || kind == 4 {
            names.insert(id, reader.name());
            reader.bytes(8);
        }
        loaded.items.push(Item::Section(kind, id));
        let name = names[&id].clone();
        match name.as_slice() {
            b"ram" => ram(&mut reader, &mut loaded, &mut last_block),
            b"dirty-bitmap" => bitmap(&mut reader, &mut loaded),
            _ => early(&mut reader),
        }
        assert_eq!((reader.u8(), reader.be(4) as u32), (0x7e, id), "footer");
        if kind == 3 && name == b"ram" {
            loaded.tail = reader.0.to_vec();
            return loaded;
        }
    }
}

fn configuration(reader: &mut Reader<'_>, loaded: &mut Loaded) {
    if reader.0[0] != 7 {
        return;
    }
    reader.u8();
    let length = reader.be(4);
    loaded.machine = reader.bytes(length as usize);
    while reader.0[0] == 5 {
        reader.u8();
        let name = reader.name();
        assert_eq!(reader.be(4), 1);
        match name.as_slice() {
            b"configuration/target-page-bits" => drop(reader.bytes(4)),
            b"configuration/uuid" => drop(reader.bytes(16)),
            b"configuration/capabilities" => {
                for _ in 0..reader.be(4) {
                    loaded.capabilities.push(reader.name());
                }
            }
            other => panic!("subsection {other:?}"),
        }
    }
}

fn command(reader: &mut Reader<'_>, loaded: &mut Loaded) {
    let command = reader.be(2) as u16;
    let length = reader.be(2) as usize;
    let mut data = reader.bytes(length);
    if command == 7 {
        let package = u32::from_be_bytes(data.clone().try_into().expect("four bytes"));
        data.extend(reader.bytes(package as usize));
    }
    loaded.items.push(Item::Command(command, data));
}

fn early(reader: &mut Reader<'_>) {
    let (_, region, block, _, _) =
        (reader.be(8), reader.be(8), reader.be(8), reader.be(4), reader.be(8));
    reader.bytes((region / block).div_ceil(64) as usize * 8);
}

fn bitmap(reader: &mut Reader<'_>, loaded: &mut Loaded) {
    let before = reader.0;
    loop {
        let flags = reader.u8();
        for name in [8, 4] {
            if flags & name != 0 {
                reader.name();
            }
        }
        if flags & 0x10 != 0 {
            reader.bytes(5);
        } else if flags & 0x20 == 0 && flags & 0x40 != 0 {
            reader.bytes(12);
            if flags & 2 == 0 {
                let length = reader.be(8);
                reader.bytes(length as usize);
            }
        }
        if flags & 1 != 0 {
            break;
        }
    }
    loaded.items.push(Item::Bitmap(before[..before.len() - reader.0.len()].to_vec()));
}

fn ram(reader: &mut Reader<'_>, loaded: &mut Loaded, last_block: &mut Option<String>) {
    loop {
        let word = reader.be(8);
        let (flags, index) = (word & 0xfff, word >> 12);
        match flags & !0x20 {
            0x04 => blocks(reader, loaded, word & !0xfff),
            0x10 => return loaded.items.push(Item::Eos),
            0x200 => loaded.items.push(Item::Flush),
            kind => {
                if flags & 0x20 == 0 {
                    let name = String::from_utf8(reader.name()).expect("a name");
                    assert!(loaded.blocks.iter().any(|block| block.0 == name), "unknown {name}");
                    *last_block = Some(name);
                }
                let name = last_block.clone().expect("CONTINUE without a block");
                let content = page(reader, kind);
                loaded.memory.insert((name, index), content);
            }
        }
    }
}

/// The payload as it stands, except for PAGE and ZERO: a page is a page.
fn page(reader: &mut Reader<'_>, kind: u64) -> Page {
    match kind {
        0x02 => {
            assert_eq!(reader.u8(), 0);
            vec![0; 4096]
        }
        0x08 => reader.bytes(4096),
        0x40 => {
            assert_eq!(reader.u8(), 1);
            let length = reader.be(2);
            reader.bytes(length as usize)
        }
        0x100 => {
            let length = reader.be(4);
            reader.bytes(length as usize)
        }
        other => panic!("RAM flags {other:#x}"),
    }
}

fn blocks(reader: &mut Reader<'_>, loaded: &mut Loaded, mut left: u64) {
    let ignore_shared = loaded.capabilities.iter().any(|name| name == b"x-ignore-shared");
    while left > 0 {
        let name = String::from_utf8(reader.name()).expect("a name");
        let used = reader.be(8);
        let addr = ignore_shared.then(|| reader.be(8));
        loaded.blocks.push((name, used, addr));
        left -= used;
    }
}
