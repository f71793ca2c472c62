//! A plain model of QEMU's two sides (savevm.c and ram.c), written without the parser: a whole
//! stream in memory becomes a list of items and back. `save` follows QEMU's rule for CONTINUE, so
//! a stream of QEMU's own survives `save(load(stream))` byte for byte.

/// A stream in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) machine: Vec<u8>,
    /// Subsections of the configuration: name and body.
    pub(crate) subsections: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) items: Vec<Item>,
    pub(crate) tail: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Command(u16, Vec<u8>),
    /// A section's header; `name` is empty for PART and END.
    Open {
        kind: u8,
        id: u32,
        name: Vec<u8>,
        version: u32,
    },
    Close(u32),
    MemSize(Vec<Block>),
    Record(Record),
    Flush,
    Eos,
    /// The body of a dirty-bitmap or early section.
    Body(Vec<u8>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) name: String,
    pub(crate) used_bytes: u64,
    pub(crate) addr: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) flag: u64,
    pub(crate) block: String,
    pub(crate) index: u64,
    /// What follows the header, as it stands.
    pub(crate) payload: Vec<u8>,
}

pub(crate) const ZERO: u64 = 0x02;
pub(crate) const PAGE: u64 = 0x08;
pub(crate) const XBZRLE: u64 = 0x40;
pub(crate) const COMPRESS: u64 = 0x100;
const CONTINUE: u64 = 0x20;

pub(crate) const CAPABILITIES: &[u8] = b"configuration/capabilities";
pub(crate) const IGNORE_SHARED: &[u8] = b"\0\0\0\x01\x0fx-ignore-shared";

impl Stream {
    pub(crate) fn blocks(&self) -> &[Block] {
        let list = self.items.iter().find_map(|item| match item {
            Item::MemSize(blocks) => Some(blocks.as_slice()),
            _ => None,
        });
        list.unwrap_or_default()
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.items.iter().filter_map(|item| match item {
            Item::Record(record) => Some(record),
            _ => None,
        })
    }
}

struct Reader<'i> {
    stream: &'i [u8],
    at: usize,
}

impl Reader<'_> {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.at += count;
        self.stream[self.at - count..self.at].to_vec()
    }
    fn peek(&self) -> u8 {
        self.stream[self.at]
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
    fn text(&mut self) -> String {
        String::from_utf8(self.name()).expect("a name in UTF-8")
    }
}

/// Loads a whole stream; panics where QEMU would fail.
pub(crate) fn load(stream: &[u8]) -> Stream {
    load_with(stream, &[])
}

/// Loads a skeleton together with the records that were taken out of it: each stands at the
/// skeleton's length when it was taken.
pub(crate) fn load_with(skeleton: &[u8], taken: &[(usize, Record)]) -> Stream {
    let mut loader = Loader {
        reader: Reader { stream: skeleton, at: 0 },
        out: Stream::default(),
        taken,
        last_block: None,
    };
    loader.load();
    assert!(loader.taken.is_empty(), "records taken out where none can stand");
    loader.out
}

struct Loader<'i> {
    reader: Reader<'i>,
    out: Stream,
    taken: &'i [(usize, Record)],
    last_block: Option<String>,
}

impl Loader<'_> {
    fn load(&mut self) {
        assert_eq!(self.reader.be(8), 0x5145_564d_0000_0003);
        self.configuration();
        let mut names = std::collections::BTreeMap::new();
        loop {
            let kind = self.reader.u8();
            if kind == 8 {
                self.command();
                continue;
            }
            let id = self.reader.be(4) as u32;
            let (mut name, mut version) = (Vec::new(), 0);
            if kind == 1 || kind == 4 {
                name = self.reader.name();
                assert_eq!(self.reader.be(4), 0, "instance");
                version = self.reader.be(4) as u32;
                names.insert(id, name.clone());
            }
            self.out.items.push(Item::Open { kind, id, name, version });
            let ram = names[&id] == b"ram";
            match names[&id].as_slice() {
                b"ram" => self.ram(),
                b"dirty-bitmap" => self.body(bitmap),
                _ => self.body(early),
            }
            assert_eq!((self.reader.u8(), self.reader.be(4) as u32), (0x7e, id), "footer");
            self.out.items.push(Item::Close(id));
            if kind == 3 && ram {
                self.out.tail = self.reader.stream[self.reader.at..].to_vec();
                return;
            }
        }
    }

    fn configuration(&mut self) {
        assert_eq!(self.reader.u8(), 7);
        let length = self.reader.be(4);
        self.out.machine = self.reader.bytes(length as usize);
        while self.reader.peek() == 5 {
            self.reader.u8();
            let name = self.reader.name();
            assert_eq!(self.reader.be(4), 1);
            let body = match name.as_slice() {
                b"configuration/target-page-bits" => self.reader.bytes(4),
                b"configuration/uuid" => self.reader.bytes(16),
                CAPABILITIES => self.reader.bytes(IGNORE_SHARED.len()),
                other => panic!("subsection {other:?}"),
            };
            self.out.subsections.push((name, body));
        }
    }

    fn command(&mut self) {
        let command = self.reader.be(2) as u16;
        let length = self.reader.be(2) as usize;
        let mut data = self.reader.bytes(length);
        if command == 7 {
            let package = u32::from_be_bytes(data.clone().try_into().expect("four bytes"));
            data.extend(self.reader.bytes(package as usize));
        }
        self.out.items.push(Item::Command(command, data));
    }

    fn body(&mut self, read: fn(&mut Reader<'_>)) {
        let before = self.reader.at;
        read(&mut self.reader);
        self.out.items.push(Item::Body(self.reader.stream[before..self.reader.at].to_vec()));
    }

    fn ram(&mut self) {
        loop {
            while let Some(((at, record), rest)) = self.taken.split_first()
                && *at == self.reader.at
            {
                self.out.items.push(Item::Record(record.clone()));
                self.taken = rest;
            }
            let word = self.reader.be(8);
            match word & 0xfff {
                0x04 => self.mem_size(word & !0xfff),
                0x10 => return self.out.items.push(Item::Eos),
                0x200 => self.out.items.push(Item::Flush),
                flags => self.record(flags, word >> 12),
            }
        }
    }

    fn record(&mut self, flags: u64, index: u64) {
        if flags & CONTINUE == 0 {
            let name = self.reader.text();
            assert!(self.out.blocks().iter().any(|block| block.name == name), "unknown {name}");
            self.last_block = Some(name);
        }
        let block = self.last_block.clone().expect("CONTINUE without a block");
        let flag = flags & !CONTINUE;
        let head = match flag {
            XBZRLE => 3,
            COMPRESS => 4,
            _ => 0,
        };
        let mut payload = self.reader.bytes(head);
        let length = match flag {
            ZERO => 1,
            PAGE => 4096,
            XBZRLE => usize::from(payload[1]) << 8 | usize::from(payload[2]),
            COMPRESS => usize::from(payload[2]) << 8 | usize::from(payload[3]),
            other => panic!("RAM flags {other:#x}"),
        };
        payload.extend(self.reader.bytes(length));
        self.out.items.push(Item::Record(Record { flag, block, index, payload }));
    }

    fn mem_size(&mut self, mut left: u64) {
        let ignore_shared = self.out.subsections.iter().any(|(name, _)| name == CAPABILITIES);
        let mut blocks = Vec::new();
        while left > 0 {
            let name = self.reader.text();
            let used_bytes = self.reader.be(8);
            let addr = ignore_shared.then(|| self.reader.be(8));
            blocks.push(Block { name, used_bytes, addr });
            left -= used_bytes;
        }
        self.out.items.push(Item::MemSize(blocks));
    }
}

fn early(reader: &mut Reader<'_>) {
    reader.be(8);
    let (region, block) = (reader.be(8), reader.be(8));
    reader.bytes(4 + 8 + (region / block).div_ceil(64) as usize * 8);
}

fn bitmap(reader: &mut Reader<'_>) {
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
            return;
        }
    }
}

/// Writes a stream as QEMU's source would.
pub(crate) fn save(stream: &Stream) -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x07".to_vec();
    out.extend((stream.machine.len() as u32).to_be_bytes());
    out.extend(&stream.machine);
    for (name, body) in &stream.subsections {
        out.push(5);
        put_name(name, &mut out);
        out.extend(1u32.to_be_bytes());
        out.extend(body);
    }
    let mut last_block = None;
    for item in &stream.items {
        save_item(item, &mut last_block, &mut out);
    }
    out.extend(&stream.tail);
    out
}

fn save_item<'i>(item: &'i Item, last_block: &mut Option<&'i str>, out: &mut Vec<u8>) {
    match item {
        Item::Command(command, data) => {
            let length = if *command == 7 { 4 } else { data.len() as u16 };
            out.push(8);
            out.extend(command.to_be_bytes());
            out.extend(length.to_be_bytes());
            out.extend(data);
        }
        Item::Open { kind, id, name, version } => {
            out.push(*kind);
            out.extend(id.to_be_bytes());
            if *kind == 1 || *kind == 4 {
                put_name(name, out);
                out.extend(0u32.to_be_bytes());
                out.extend(version.to_be_bytes());
            }
        }
        Item::Close(id) => {
            out.push(0x7e);
            out.extend(id.to_be_bytes());
        }
        Item::MemSize(blocks) => save_blocks(blocks, out),
        Item::Record(record) => {
            let continues = last_block.replace(&record.block) == Some(&record.block);
            let flags = record.flag | if continues { CONTINUE } else { 0 };
            out.extend((record.index << 12 | flags).to_be_bytes());
            if !continues {
                put_name(record.block.as_bytes(), out);
            }
            out.extend(&record.payload);
        }
        Item::Flush => out.extend(0x200u64.to_be_bytes()),
        Item::Eos => out.extend(0x10u64.to_be_bytes()),
        Item::Body(body) => out.extend(body),
    }
}

fn save_blocks(blocks: &[Block], out: &mut Vec<u8>) {
    let total: u64 = blocks.iter().map(|block| block.used_bytes).sum();
    out.extend((total | 0x04).to_be_bytes());
    for block in blocks {
        put_name(block.name.as_bytes(), out);
        out.extend(block.used_bytes.to_be_bytes());
        out.extend(block.addr.map(u64::to_be_bytes).into_iter().flatten());
    }
}

fn put_name(name: &[u8], out: &mut Vec<u8>) {
    out.push(name.len() as u8);
    out.extend(name);
}

/// What the rewrite for a target with `x-ignore-shared` must have made of a stream, before records
/// are taken out: the announced capability and the addresses.
pub(crate) fn rewritten(stream: &Stream, addr: impl Fn(&str) -> u64) -> Stream {
    let mut stream = stream.clone();
    stream.subsections.insert(0, (CAPABILITIES.to_vec(), IGNORE_SHARED.to_vec()));
    for item in &mut stream.items {
        if let Item::MemSize(blocks) = item {
            blocks.iter_mut().for_each(|block| block.addr = Some(addr(&block.name)));
        }
    }
    stream
}
