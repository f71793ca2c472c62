//! Checkpoints: the last write of a page counts, a later checkpoint replaces the earlier one, and
//! the bounds make room.

mod shared;

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use dwcp_store::{BLOCK_BYTES, Limits, SourceKind, Store, StoreError, content_hash};
use proptest::prelude::*;
use shared::{Folder, block, go};

fn has(store: &Store, number: u64) -> bool {
    let mut out = [0; BLOCK_BYTES];
    let kind = store.reader().unwrap().fetch(&content_hash(&block(number)), &mut out);
    assert!(kind.is_none() || out == block(number));
    assert!(kind.is_none_or(|kind| kind == SourceKind::Checkpoint));
    kind.is_some()
}

fn keep(store: &Store, vm: &str, numbers: &[u64]) -> Result<dwcp_store::Added, StoreError> {
    let mut writer = store.checkpoint(vm, &[numbers.len() as u64], u64::MAX)?;
    for (page, number) in (0..).zip(numbers) {
        writer.write(0, page, &block(*number))?;
    }
    writer.keep(&mut go)
}

fn files(dir: &Path, suffix: &str) -> usize {
    let entries = fs::read_dir(dir).unwrap();
    entries.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().ends_with(suffix)).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_last_write_of_a_page_is_what_is_kept(
        blocks in prop::collection::vec(0..40_u64, 1..4),
        writes in prop::collection::vec((0..5_u16, 0..45_u64, 0..30_u64), 0..200),
    ) {
        let folder = Folder::new();
        let store = Store::open(&folder.0, "t").unwrap();
        let mut writer = store.checkpoint("vm", &blocks, u64::MAX).unwrap();
        let mut model = std::collections::BTreeMap::new();
        for (block_number, page, number) in writes {
            let inside = blocks.get(usize::from(block_number)).is_some_and(|pages| page < *pages);
            let done = match number {
                0 => writer.zero(block_number, page),
                _ => writer.write(block_number, page, &block(number)),
            };
            prop_assert_eq!(done.is_ok(), inside);
            if inside {
                model.insert((block_number, page), number);
            }
        }
        let added = writer.keep(&mut go).unwrap();
        let memory = fs::read(&added.path).unwrap();
        let mut at = 0;
        for (number, pages) in (0..).zip(&blocks) {
            for page in 0..*pages {
                let wanted = block(model.get(&(number, page)).copied().unwrap_or(0));
                prop_assert_eq!(&memory[at..at + BLOCK_BYTES], wanted.as_slice());
                at += BLOCK_BYTES;
            }
        }
        prop_assert_eq!(at, memory.len());
        for number in 1..30 {
            prop_assert_eq!(has(&store, number), model.values().any(|n| *n == number));
        }
    }
}

#[test]
fn a_later_checkpoint_replaces_the_earlier_one() {
    let folder = Folder::new();
    let store = Store::open(&folder.0, "t").unwrap();
    keep(&store, "a", &[1, 2]).unwrap();
    keep(&store, "b", &[5]).unwrap();
    let second = keep(&store, "a", &[2, 3]).unwrap();
    assert_eq!([1, 2, 3, 5].map(|n| has(&store, n)), [false, true, true, true]);
    assert_eq!(files(&folder.path("t"), ".mem"), 2);
    store.drop_source(&second.id).unwrap();
    assert!(!second.path.exists());
    assert_eq!([2, 5].map(|n| has(&store, n)), [false, true]);
}

#[test]
fn a_writer_that_is_dropped_or_stopped_leaves_the_earlier_one() {
    let folder = Folder::new();
    let store = Store::open(&folder.0, "t").unwrap();
    keep(&store, "a", &[1]).unwrap();
    let mut writer = store.checkpoint("a", &[1], u64::MAX).unwrap();
    writer.write(0, 0, &block(2)).unwrap();
    drop(writer);
    let mut writer = store.checkpoint("a", &[1], u64::MAX).unwrap();
    writer.write(0, 0, &block(3)).unwrap();
    assert!(matches!(writer.keep(&mut |_| false), Err(StoreError::Stopped)));
    assert_eq!([1, 2, 3].map(|n| has(&store, n)), [true, false, false]);
    assert_eq!((files(&folder.path("t"), ".tmp"), files(&folder.path("t"), ".mem")), (0, 1));
}

#[test]
fn bytes_are_bounded_and_the_longest_unused_goes_first() {
    let folder = Folder::new();
    let limits = Limits { checkpoint_bytes_max: 120_000, ..Limits::default() };
    let store = Store::open_with(&folder.0, "t", limits).unwrap();
    let mut writer = store.checkpoint("a", &[10], 8192).unwrap();
    writer.write(0, 0, &block(1)).unwrap();
    writer.write(0, 1, &block(2)).unwrap();
    writer.write(0, 1, &block(3)).unwrap();
    assert!(matches!(writer.write(0, 2, &block(4)), Err(StoreError::Limit { .. })));
    writer.zero(0, 1).unwrap();
    writer.write(0, 2, &block(4)).unwrap();
    drop(writer);
    let used = |id: &str, seconds_ago: u64| {
        let index = fs::File::open(folder.path("t").join(format!("{id}.idx"))).unwrap();
        index.set_modified(SystemTime::now() - Duration::from_secs(seconds_ago)).unwrap();
    };
    let five = |from: u64| (from..from + 5).collect::<Vec<_>>();
    used(&keep(&store, "a", &five(10)).unwrap().id, 200);
    used(&keep(&store, "b", &five(20)).unwrap().id, 300);
    used(&keep(&store, "c", &five(30)).unwrap().id, 100);
    assert!(has(&store, 20), "asking for it is a use of b");
    keep(&store, "d", &five(40)).unwrap();
    assert_eq!([10, 20, 30, 40].map(|n| has(&store, n)), [false, true, true, true]);
    let all = (100..140).collect::<Vec<_>>();
    assert!(matches!(keep(&store, "e", &all), Err(StoreError::Limit { .. })));
    assert_eq!([20, 30, 40].map(|n| has(&store, n)), [true; 3], "nothing goes for what cannot fit");
}

#[test]
fn old_checkpoints_and_orphans_go_when_the_store_is_opened() {
    let folder = Folder::new();
    let limits = Limits { checkpoint_age_max: Duration::from_secs(60), ..Limits::default() };
    let open = || Store::open_with(&folder.0, "t", limits.clone()).unwrap();
    let store = open();
    let old = keep(&store, "a", &[1]).unwrap();
    keep(&store, "b", &[2]).unwrap();
    let index = fs::File::open(folder.path("t").join(format!("{}.idx", old.id))).unwrap();
    index.set_modified(SystemTime::now() - Duration::from_secs(90)).unwrap();
    fs::write(folder.path("t").join("0123456789abcdef.mem"), b"no index").unwrap();
    let store = open();
    assert_eq!([1, 2].map(|n| has(&store, n)), [false, true]);
    assert_eq!(files(&folder.path("t"), ".mem"), 1);
}
