//! Sources come, change, and go: whatever was added is found, and nothing wrong ever is.

mod shared;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};

use dwcp_store::{
    BLOCK_BYTES, Limits, Reader, SourceKind, SourceState, Store, StoreError, content_hash,
};
use proptest::prelude::*;
use shared::{Folder, block, go, write};

/// What the reader has for the content of a number; panics when it is wrong.
fn fetch(reader: &mut Reader, number: u64) -> Option<SourceKind> {
    let wanted = block(number);
    let mut out = [0xEE; BLOCK_BYTES];
    let kind = reader.fetch(&content_hash(&wanted), &mut out);
    assert_eq!(out, if kind.is_some() { wanted } else { [0xEE; BLOCK_BYTES] });
    kind
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let sort = prop_oneof![Just(64 << 20), 24..2000_usize];
    let table = prop_oneof![Just(64 << 20), Just(0), 0..5000_usize];
    (sort, table, 1..4_usize, prop_oneof![Just(64), 1..12_u32]).prop_map(
        |(sort_bytes, table_bytes, workers, prefix_bits)| Limits {
            sort_bytes,
            table_bytes,
            workers,
            prefix_bits,
            ..Limits::default()
        },
    )
}

/// What happens to a source after it was indexed.
#[derive(Debug, Clone)]
enum Change {
    Overwrite(usize, u64),
    Truncate(usize),
    Delete,
    Replace(Vec<u64>),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..40_usize, 0..90_u64).prop_map(|(at, number)| Change::Overwrite(at, number)),
        (0..200_000_usize).prop_map(Change::Truncate),
        Just(Change::Delete),
        prop::collection::vec(0..90_u64, 0..20).prop_map(Change::Replace),
    ]
}

/// A byte of the header's numbers, of the first entries, or of anything.
fn any_damage() -> impl Strategy<Value = (std::ops::Range<usize>, prop::sample::Index, u8)> {
    let range = prop_oneof![Just(0..80_usize), Just(8192..8552_usize), Just(0..usize::MAX)];
    (range, any::<prop::sample::Index>(), prop_oneof![0..40_u8, any::<u8>()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_added_is_found_and_what_changed_is_never_wrong(
        limits in any_limits(),
        sources in prop::collection::vec(prop::collection::vec(0..60_u64, 0..40), 1..5),
        changes in prop::collection::vec((0..5_usize, any_change()), 0..6),
        ask_first in any::<bool>(),
    ) {
        let folder = Folder::new();
        // Up to 64 candidates are tried, and forced collisions of more are not found.
        let few = limits.prefix_bits == 64;
        let store = Store::open_with(&folder.path("store"), "default", limits).unwrap();
        let path = |n: usize| folder.path(&format!("image-{n}"));
        for (n, numbers) in sources.iter().enumerate() {
            write(&path(n), numbers);
            let added = store.add(&path(n), SourceKind::Image, None, &mut go).unwrap();
            let mut different: Vec<u64> = numbers.iter().copied().filter(|n| *n > 0).collect();
            prop_assert_eq!(added.blocks, different.len() as u64);
            different.sort_unstable();
            different.dedup();
            prop_assert_eq!(added.blocks_found, different.len() as u64);
        }
        let mut reader = store.reader().unwrap();
        let hashes: Vec<_> = (1..95).map(|n| content_hash(&block(n))).collect();
        prop_assert_eq!(reader.is_empty(), sources.iter().flatten().all(|n| *n == 0));
        for number in 1..95 {
            let held = sources.iter().flatten().any(|n| *n == number);
            let found = fetch(&mut reader, number).is_some();
            prop_assert!(held || !found);
            prop_assert!(found || !held || !few, "{number} was added and is not found");
        }
        if ask_first {
            reader.prefetch(&hashes);
        }
        for (n, change) in changes {
            match change {
                Change::Overwrite(at, number) => {
                    if let Ok(file) = OpenOptions::new().write(true).open(path(n)) {
                        file.write_all_at(&block(number), (at * BLOCK_BYTES) as u64).unwrap();
                    }
                }
                Change::Truncate(length) => {
                    if let Ok(file) = OpenOptions::new().write(true).open(path(n)) {
                        file.set_len(length as u64).unwrap();
                    }
                }
                Change::Delete => drop(fs::remove_file(path(n))),
                Change::Replace(numbers) => {
                    let _ = fs::remove_file(path(n));
                    write(&path(n), &numbers);
                }
            }
        }
        // `fetch` itself asserts that nothing wrong comes back, with old and new readers.
        for mut reader in [reader, store.reader().unwrap()] {
            for number in 1..95 {
                fetch(&mut reader, number);
            }
        }
        store.list().unwrap();
    }

    #[test]
    fn an_external_sort_gives_the_same_index(
        numbers in prop::collection::vec(0..300_u64, 0..600),
        sort_bytes in 1..4000_usize,
        prefix_bits in prop_oneof![Just(64_u32), 1..9_u32],
    ) {
        let folder = Folder::new();
        let image = folder.path("image");
        write(&image, &numbers);
        let index_of = |name: &str, sort_bytes: usize| {
            let limits = Limits { sort_bytes, prefix_bits, ..Limits::default() };
            let store = Store::open_with(&folder.path(name), "default", limits).unwrap();
            let added = store.add(&image, SourceKind::Image, None, &mut go).unwrap();
            fs::read(folder.path(name).join("default").join(format!("{}.idx", added.id))).unwrap()
        };
        prop_assert_eq!(index_of("in-memory", 64 << 20), index_of("merged", sort_bytes));
    }

    #[test]
    fn hostile_index_bytes_lead_to_nothing_wrong(
        numbers in prop::collection::vec(1..60_u64, 1..30),
        damage in prop::collection::vec(any_damage(), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        repair in any::<bool>(),
        table_bytes in prop_oneof![Just(0_usize), Just(1 << 20)],
    ) {
        let folder = Folder::new();
        let image = folder.path("image");
        write(&image, &numbers);
        let limits = Limits { table_bytes, ..Limits::default() };
        let store = Store::open_with(&folder.path("store"), "default", limits).unwrap();
        let added = store.add(&image, SourceKind::Image, None, &mut go).unwrap();
        let index = folder.path("store").join("default").join(format!("{}.idx", added.id));
        let mut bytes = fs::read(&index).unwrap();
        for (range, at, value) in damage {
            let end = range.end.min(bytes.len());
            bytes[range.start + at.index(end - range.start)] = value;
        }
        if repair {
            let check = xxhash_rust::xxh3::xxh3_64(&bytes[..8184]);
            bytes[8184..8192].copy_from_slice(&check.to_le_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&index, &bytes).unwrap();
        let mut reader = store.reader().unwrap();
        for number in 1..65 {
            fetch(&mut reader, number);
        }
        for prefix in [0, 1, u64::MAX / 2, u64::MAX] {
            prop_assert!(dwcp_store::probe(&bytes, prefix) <= 64);
        }
        prop_assert_eq!(store.list().unwrap().len(), 1);
        store.drop_source(&added.id).unwrap();
        prop_assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn any_bytes_are_an_index_or_not(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert_eq!(dwcp_store::probe(&bytes, 7), 0);
    }
}

#[test]
fn adding_again_replaces_and_does_nothing_when_nothing_changed() {
    let folder = Folder::new();
    let store = Store::open(&folder.path("store"), "default").unwrap();
    let image = folder.path("image");
    write(&image, &[1, 2, 3, 2, 0]);
    let first = store.add(&image, SourceKind::Image, None, &mut go).unwrap();
    assert_eq!((first.blocks, first.blocks_found, first.unchanged), (4, 3, false));
    assert!(store.add(&image, SourceKind::Image, None, &mut go).unwrap().unchanged);
    assert!(!store.add(&image, SourceKind::Sibling, Some("vm"), &mut go).unwrap().unchanged);
    assert!(!store.add(&image, SourceKind::Sibling, Some("vm"), &mut go).unwrap().unchanged);
    write(&image, &[1, 2, 9, 2, 0, 7]);
    let state = |store: &Store| store.list().unwrap()[0].state;
    assert_eq!(state(&store), SourceState::Changed);
    let mut reader = store.reader().unwrap();
    assert_eq!(fetch(&mut reader, 1), Some(SourceKind::Sibling));
    assert_eq!(fetch(&mut reader, 3), None);
    store.add(&image, SourceKind::Image, None, &mut go).unwrap();
    assert_eq!(state(&store), SourceState::Current);
    assert_eq!(fetch(&mut store.reader().unwrap(), 9), Some(SourceKind::Image));
    fs::remove_file(&image).unwrap();
    assert_eq!(state(&store), SourceState::Gone);
    assert_eq!(store.list().unwrap().len(), 1);
    store.drop_source(image.to_str().unwrap()).unwrap();
    assert!(matches!(store.drop_source("nothing"), Err(StoreError::NotFound(_))));
    assert!(store.reader().unwrap().is_empty());
}

#[test]
fn tenants_see_nothing_of_each_other_and_files_are_ours_alone() {
    let folder = Folder::new();
    let dir = folder.path("store");
    let (a, b) = (Store::open(&dir, "a").unwrap(), Store::open(&dir, "b").unwrap());
    let image = folder.path("image");
    write(&image, &[1]);
    let added = a.add(&image, SourceKind::Image, None, &mut go).unwrap();
    assert!(b.reader().unwrap().is_empty());
    assert!(matches!(b.drop_source(&added.id), Err(StoreError::NotFound(_))));
    for name in ["", "..", "a/b", "A", "a_b", &"x".repeat(64)] {
        assert!(matches!(Store::open(&dir, name), Err(StoreError::Tenant(_))), "{name}");
    }
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&dir.join("a"))), (0o700, 0o700));
    for entry in fs::read_dir(dir.join("a")).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn bounds_are_held_and_a_stop_leaves_nothing() {
    let folder = Folder::new();
    let limits = Limits { sources_max: 2, index_bytes_max: 30_000, ..Limits::default() };
    let store = Store::open_with(&folder.path("store"), "default", limits).unwrap();
    let path = |n: u64| folder.path(&format!("image-{n}"));
    for n in 0..3 {
        write(&path(n), &[n + 1]);
    }
    let big = folder.path("big");
    write(&big, &(1..1200).collect::<Vec<_>>());
    let refused = store.add(&big, SourceKind::Image, None, &mut go).is_ok();
    assert!(refused, "24 kB fit");
    store.add(&path(0), SourceKind::Image, None, &mut go).unwrap_err();
    store.drop_source(big.to_str().unwrap()).unwrap();
    for n in 0..2 {
        store.add(&path(n), SourceKind::Image, None, &mut go).unwrap();
    }
    let third = store.add(&path(2), SourceKind::Image, None, &mut go).unwrap_err();
    assert!(matches!(third, StoreError::Limit { wanted: 3, allowed: 2, .. }), "{third}");
    store.drop_source(path(0).to_str().unwrap()).unwrap();
    let stopped = store.add(&path(2), SourceKind::Image, None, &mut |_| false).unwrap_err();
    assert!(matches!(stopped, StoreError::Stopped));
    let names: Vec<_> = fs::read_dir(folder.path("store/default"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.iter().filter(|name| name.ends_with(".tmp")).count(), 0, "{names:?}");
}

#[test]
fn what_is_no_file_is_refused_with_a_reason() {
    let folder = Folder::new();
    let store = Store::open(&folder.path("store"), "default").unwrap();
    let add = |path: &str| store.add(path.as_ref(), SourceKind::Image, None, &mut go).unwrap_err();
    assert!(matches!(add("/nowhere/at/all"), StoreError::Missing(_)));
    assert!(matches!(add("/dev/zero"), StoreError::NotAFile(_)));
    assert!(matches!(add(folder.0.to_str().unwrap()), StoreError::NotAFile(_)));
    let vm = store.add(&folder.0, SourceKind::Sibling, Some("a\nb"), &mut go).unwrap_err();
    assert!(matches!(vm, StoreError::Vm(_)));
}

#[test]
fn holes_are_skipped_and_the_total_is_reached() {
    let folder = Folder::new();
    let store = Store::open(&folder.path("store"), "default").unwrap();
    let image = folder.path("image");
    let file = fs::File::create(&image).unwrap();
    file.set_len(8 << 30).unwrap();
    for (n, at) in [(1, 0), (2, 3_u64 << 30), (3, (8 << 30) - 4096)] {
        file.write_all_at(&block(n), at).unwrap();
    }
    let mut seen = Vec::new();
    let added = store
        .add(&image, SourceKind::Image, None, &mut |progress| {
            seen.push(progress);
            true
        })
        .unwrap();
    assert_eq!(added.blocks_found, 3);
    assert!(seen.len() < 100, "{} reads", seen.len());
    assert!(seen.is_sorted_by_key(|progress| progress.bytes_done));
    assert_eq!(seen.last().unwrap().bytes_done, 8 << 30);
    let mut reader = store.reader().unwrap();
    reader.prefetch(&[1, 2, 3, 4].map(|n| content_hash(&block(n))));
    for n in 1..4 {
        assert_eq!(fetch(&mut reader, n), Some(SourceKind::Image));
    }
    assert_eq!(fetch(&mut reader, 4), None);
}

#[test]
fn more_sources_than_files_that_may_be_open() {
    let folder = Folder::new();
    let limits = Limits { table_bytes: 2000, ..Limits::default() };
    let store = Store::open_with(&folder.path("store"), "default", limits).unwrap();
    for n in 1..150 {
        let path = folder.path(&format!("image-{n}"));
        write(&path, &[n]);
        store.add(&path, SourceKind::Image, None, &mut go).unwrap();
    }
    let mut reader = store.reader().unwrap();
    for _ in 0..2 {
        for n in 1..150 {
            assert_eq!(fetch(&mut reader, n), Some(SourceKind::Image), "{n}");
        }
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
        let target = fs::read_link(entry.as_ref().unwrap().path());
        target.is_ok_and(|path| {
            path.starts_with(&folder.0) && path.to_str().unwrap().contains("image-")
        })
    });
    assert!(open.count() <= 64);
}

#[test]
fn an_index_that_points_elsewhere_finds_nothing() {
    let folder = Folder::new();
    let image = folder.path("image");
    write(&image, &(1..31).collect::<Vec<_>>());
    for table_bytes in [0, 1 << 20] {
        let limits = Limits { table_bytes, ..Limits::default() };
        let dir = folder.path(&format!("store-{table_bytes}"));
        let store = Store::open_with(&dir, "default", limits).unwrap();
        let id = store.add(&image, SourceKind::Image, None, &mut go).unwrap().id;
        let index = dir.join("default").join(format!("{id}.idx"));
        let mut bytes = fs::read(&index).unwrap();
        for entry in bytes[8192..].chunks_mut(12).take(30) {
            entry[8] = (entry[8] + 1) % 31;
        }
        fs::write(&index, bytes).unwrap();
        let mut reader = store.reader().unwrap();
        assert!((1..31).all(|number| fetch(&mut reader, number).is_none()));
    }
}
