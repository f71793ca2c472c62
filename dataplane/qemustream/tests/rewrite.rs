//! Small hand-made streams, byte for byte: what the rewrite does to each kind of record.

mod common;

use common::{Event, feed_whole};
use dwcp_qemustream::{
    BlockRule, Capability, DirectOptions, Inserted, Mark, Mode, Parser, RamBlock, Sink,
    StreamError, SyncPoint, record,
};

const PAGE: u64 = 0x08;
const ZERO: u64 = 0x02;
const EOS: u64 = 0x10;
const CONTINUE: u64 = 0x20;
const XBZRLE: u64 = 0x40;

fn head() -> Vec<u8> {
    b"QEVM\0\0\0\x03\x07\0\0\0\x02pc".to_vec()
}

/// The header of a stream for direct mode, as the target gets it.
fn rewritten_head() -> Vec<u8> {
    let mut bytes = head();
    bytes.extend(b"\x05\x1aconfiguration/capabilities\0\0\0\x01\0\0\0\x01\x0fx-ignore-shared");
    bytes
}

fn start(name: &[u8], version: u32) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0, 9, name.len() as u8];
    bytes.extend(name);
    bytes.extend(0u32.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes
}

/// Blocks `a` and `b` of four pages each, followed by `addr` if given.
fn mem_size(addr: Option<[u64; 2]>) -> Vec<u8> {
    let mut bytes = (0x8000u64 | 0x04).to_be_bytes().to_vec();
    for (at, name) in [b"a", b"b"].into_iter().enumerate() {
        bytes.push(1);
        bytes.extend(name);
        bytes.extend(0x4000u64.to_be_bytes());
        bytes.extend(addr.map(|addr| addr[at].to_be_bytes()).into_iter().flatten());
    }
    bytes
}

fn word(index: u64, flags: u64) -> Vec<u8> {
    (index << 12 | flags).to_be_bytes().to_vec()
}

fn named(index: u64, flags: u64, name: &str) -> Vec<u8> {
    let mut bytes = word(index, flags);
    bytes.push(name.len() as u8);
    bytes.extend(name.as_bytes());
    bytes
}

fn footer() -> Vec<u8> {
    vec![0x7e, 0, 0, 0, 9]
}

fn part(kind: u8) -> Vec<u8> {
    vec![kind, 0, 0, 0, 9]
}

fn direct() -> Mode {
    Mode::Direct(DirectOptions {
        blocks: vec![("a".into(), BlockRule::TakeOut { target_addr: 0x1234_0000 })],
        others: BlockRule::Keep { target_addr: 0 },
    })
}

fn setup() -> Vec<u8> {
    [head(), start(b"ram", 4), mem_size(None), word(0, EOS), footer()].concat()
}

fn rewritten_setup() -> Vec<u8> {
    let list = mem_size(Some([0x1234_0000, 0]));
    [rewritten_head(), start(b"ram", 4), list, word(0, EOS), footer()].concat()
}

fn error_of(stream: &[u8], mode: Mode) -> StreamError {
    let mut parser = Parser::new(mode);
    let error = feed_whole(&mut parser, stream).result.expect_err("refused");
    let again = feed_whole(&mut parser, stream).result.expect_err("refused for good");
    assert_eq!(error, again);
    error
}

#[test]
fn continue_is_recomputed_when_the_named_record_goes() {
    let page = vec![0x5a; 4096];
    let stream = [
        setup(),
        part(2),
        named(0, ZERO, "b"),
        vec![0],
        named(1, PAGE, "a"),
        page.clone(),
        word(2, ZERO | CONTINUE),
        vec![0],
        named(2, PAGE, "b"),
        page.clone(),
        word(3, ZERO | CONTINUE),
        vec![0],
        named(0, ZERO, "a"),
        vec![0],
        word(0, EOS),
        footer(),
        // CONTINUE persists across sections: still block a in the source's stream.
        part(3),
        word(3, PAGE | CONTINUE),
        page.clone(),
        word(0, EOS),
        footer(),
    ]
    .concat();
    let skeleton = [
        rewritten_setup(),
        part(2),
        named(0, ZERO, "b"),
        vec![0],
        named(2, PAGE, "b"),
        page.clone(),
        word(3, ZERO | CONTINUE),
        vec![0],
        word(0, EOS),
        footer(),
        part(3),
        word(0, EOS),
        footer(),
    ]
    .concat();
    let fed = feed_whole(&mut Parser::new(direct()), &stream);
    assert_eq!((fed.result, fed.left), (Ok(()), 0));
    assert_eq!(fed.collector.skeleton_bytes(), skeleton);
    let taken: Vec<_> = fed
        .collector
        .events
        .into_iter()
        .filter(|event| matches!(event, Event::Page { .. } | Event::Zero { .. }))
        .collect();
    let page = |index| Event::Page { block: 0, index, content: page.clone() };
    let zero = |index| Event::Zero { block: 0, index };
    assert_eq!(taken, [page(1), zero(2), zero(0), page(3)]);
}

/// Puts a ZERO record of block b, page 3 before the second EOS.
struct Inserter {
    skeleton: Vec<u8>,
    syncs: Vec<SyncPoint>,
}

impl Sink for Inserter {
    fn skeleton(&mut self, bytes: &[u8]) {
        self.skeleton.extend(bytes);
    }
    fn blocks(&mut self, _: &[RamBlock]) {}
    fn page(&mut self, _: u16, _: u64, _: usize) {}
    fn zero(&mut self, _: u16, _: u64) {}
    fn mark(&mut self, _: Mark) {}
    fn before_sync(&mut self, point: SyncPoint) -> Inserted {
        self.syncs.push(point);
        if self.syncs.len() != 2 {
            return Inserted::Nothing;
        }
        record::zero("b", 3, &mut self.skeleton);
        record::page("b", 2, &[7; 4096], &mut self.skeleton);
        Inserted::Records
    }
}

#[test]
fn records_of_a_sink_stand_before_the_sync_word() {
    let before = [part(2), named(0, ZERO, "b"), vec![0]].concat();
    let stream = [
        setup(),
        before.clone(),
        word(0, EOS),
        footer(),
        part(2),
        word(1, ZERO | CONTINUE),
        vec![0],
    ]
    .concat();
    let inserted = [named(3, ZERO, "b"), vec![0], named(2, PAGE, "b"), vec![7; 4096]].concat();
    let after = [word(0, EOS), footer(), part(2), named(1, ZERO, "b"), vec![0]].concat();
    let mut sink = Inserter { skeleton: Vec::new(), syncs: Vec::new() };
    let consumed = Parser::new(direct()).parse(&stream, &mut sink);
    assert_eq!(consumed, Ok(stream.len()));
    assert_eq!(sink.skeleton, [rewritten_setup(), before, inserted, after].concat());
    assert_eq!(sink.syncs, [SyncPoint::Eos, SyncPoint::Eos]);
}

#[test]
fn xbzrle_of_a_taken_out_block_names_the_capability() {
    let stream = [setup(), part(2), named(0, XBZRLE, "a"), vec![1, 0, 1, 9]].concat();
    let error = error_of(&stream, direct());
    assert_eq!(error, StreamError::UnsupportedCapability { capability: Capability::Xbzrle });
    assert!(error.to_string().contains("xbzrle"));
}

#[test]
fn xbzrle_passes_where_pages_pass() {
    let stream = [setup(), part(2), named(0, XBZRLE, "b"), vec![1, 0, 1, 9]].concat();
    for mode in [direct(), Mode::Plain] {
        let fed = feed_whole(&mut Parser::new(mode), &stream);
        assert_eq!((fed.result, fed.left), (Ok(()), 0));
        assert!(fed.collector.skeleton_bytes().ends_with(&[1, 0, 1, 9]));
    }
}

#[test]
fn an_unknown_iterable_is_refused_by_name_or_passed_opaquely() {
    let stream = [head(), start(b"0000:00:04.0/vfio", 1), vec![1, 2, 3]].concat();
    let error = error_of(&stream, direct());
    let name = "0000:00:04.0/vfio".to_owned();
    assert_eq!(error, StreamError::UnsupportedSection { name, version: 1 });
    let mut parser = Parser::new(Mode::Plain);
    let fed = feed_whole(&mut parser, &stream);
    assert_eq!(fed.result, Ok(()));
    assert_eq!(fed.collector.marks(), [Mark::Opaque]);
    assert_eq!(fed.collector.skeleton_bytes(), stream);
    assert_eq!(parser.opaque_because(), Some(&error));
}

#[test]
fn blocks_must_match_the_rules() {
    let refuse =
        |blocks, others| error_of(&setup(), Mode::Direct(DirectOptions { blocks, others }));
    let take_out = BlockRule::TakeOut { target_addr: 0 };
    let name = "b".to_owned();
    assert_eq!(
        refuse(vec![("a".into(), take_out)], BlockRule::Refuse),
        StreamError::UnknownBlock { name, used_bytes: 0x4000 }
    );
    let name = "c".to_owned();
    assert_eq!(
        refuse(vec![("c".into(), take_out)], BlockRule::Keep { target_addr: 0 }),
        StreamError::MissingBlock { name }
    );
}

#[test]
fn a_zero_record_that_is_not_zero_is_damage() {
    let first = [named(0, ZERO, "a"), vec![0]].concat();
    for record in [named(1, ZERO, "a"), word(1, ZERO | CONTINUE)] {
        let stream = [setup(), part(2), first.clone(), record, vec![9]].concat();
        let error = error_of(&stream, direct());
        assert!(matches!(error, StreamError::Unexpected { value: 9, .. }), "{error}");
    }
}

#[test]
fn a_block_of_uneven_length_cannot_be_taken_out() {
    let mut list = mem_size(None);
    list[10..18].copy_from_slice(&0x4800u64.to_be_bytes());
    list[20..28].copy_from_slice(&0x3800u64.to_be_bytes());
    let stream = [head(), start(b"ram", 4), list].concat();
    let name = "a".to_owned();
    assert_eq!(error_of(&stream, direct()), StreamError::UnevenBlock { name, used_bytes: 0x4800 });
}

#[test]
fn a_page_outside_its_block_is_refused() {
    for flags in [ZERO, ZERO | CONTINUE] {
        let first = [named(0, ZERO, "a"), vec![0]].concat();
        let record = if flags == ZERO { named(4, flags, "a") } else { word(4, flags) };
        let stream = [setup(), part(2), first, record, vec![0]].concat();
        let name = "a".to_owned();
        assert_eq!(error_of(&stream, direct()), StreamError::PageOutOfRange { name, index: 4 });
    }
}

#[test]
fn a_source_that_ignores_shared_blocks_itself_is_refused_in_direct_mode() {
    let stream = [rewritten_head(), start(b"ram", 4), mem_size(Some([0, 0]))].concat();
    let capability = Capability::IgnoreShared;
    assert_eq!(error_of(&stream, direct()), StreamError::UnsupportedCapability { capability });
    let stream = [stream, word(0, EOS), footer()].concat();
    let fed = feed_whole(&mut Parser::new(Mode::Plain), &stream);
    assert_eq!((fed.result, fed.left), (Ok(()), 0));
    assert_eq!(fed.collector.blocks_seen().len(), 2);
}

#[test]
fn postcopy_page_sizes_are_told_from_names_and_words() {
    let advise = [vec![8, 0, 3, 0, 16], vec![0; 16]].concat();
    let huge = (2u64 << 20).to_be_bytes();
    let mut list = mem_size(None);
    list.splice(18..18, huge);
    list.extend(huge);
    for (list, sizes) in [(list, [2 << 20, 2 << 20]), (mem_size(None), [4096, 4096])] {
        let stream =
            [head(), advise.clone(), start(b"ram", 4), list, word(0, EOS), footer()].concat();
        let fed = feed_whole(&mut Parser::new(Mode::Plain), &stream);
        assert_eq!((fed.result, fed.left), (Ok(()), 0));
        let seen: Vec<_> = fed.collector.blocks_seen().iter().map(|b| b.page_bytes).collect();
        assert_eq!(seen, sizes);
        let capability = Capability::PostcopyRam;
        assert_eq!(error_of(&stream, direct()), StreamError::UnsupportedCapability { capability });
    }
}

#[test]
fn a_stream_without_configuration_or_footers_is_refused_in_direct_mode() {
    let bare = [b"QEVM\0\0\0\x03".to_vec(), start(b"ram", 4), mem_size(None)].concat();
    assert_eq!(error_of(&bare, direct()), StreamError::NoConfiguration);
    let list = mem_size(None);
    let footless = [head(), start(b"ram", 4), list, word(0, EOS), part(2), word(0, EOS)].concat();
    assert_eq!(error_of(&footless, direct()), StreamError::NoFooters { section_id: 9 });
    let fed = feed_whole(&mut Parser::new(Mode::Plain), &footless);
    assert_eq!(fed.result, Ok(()));
    assert_eq!(fed.collector.skeleton_bytes(), footless);
}

#[test]
fn a_footer_of_another_section_is_damage_in_both_modes() {
    let stream = [head(), start(b"ram", 4), mem_size(None), word(0, EOS), vec![0x7e, 0, 0, 0, 8]];
    for mode in [direct(), Mode::Plain] {
        let error = error_of(&stream.concat(), mode);
        assert!(matches!(error, StreamError::Unexpected { value: 8, .. }), "{error}");
    }
}

#[test]
fn something_else_is_not_a_stream() {
    let error = error_of(b"HTTP/1.1 400", Mode::Plain);
    assert!(matches!(error, StreamError::NotAStream { .. }));
}
