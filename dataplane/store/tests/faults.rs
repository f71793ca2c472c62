//! What the world does to a store: kill -9 at any step, a full disk, qcow2 images, no qemu-img.

mod shared;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use dwcp_store::{BLOCK_BYTES, Limits, SourceKind, Store, StoreError, content_hash};
use shared::{Folder, block, go, write};

const CHILD: &str = "DWCP_STORE_TEST_CHILD";

fn has(store: &Store, number: u64) -> bool {
    let mut out = [0; BLOCK_BYTES];
    let kind = store.reader().unwrap().fetch(&content_hash(&block(number)), &mut out);
    assert!(kind.is_none() || out == block(number));
    kind.is_some()
}

fn small_sort() -> Limits {
    Limits { sort_bytes: 4000, ..Limits::default() }
}

fn temporaries(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap();
    entries.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".tmp")).count()
}

/// The victim: builds what it is told to and stands still in the middle. Does nothing when run as
/// a test of its own.
#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let mut words = order.split('|');
    let mut word = || words.next().unwrap().to_owned();
    let (dir, image, stop_at) = (word(), word(), word().parse::<usize>().unwrap());
    let store = Store::open_with(dir.as_ref(), "t", small_sort()).unwrap();
    let mut calls = 0;
    let mut progress = |_| {
        if calls == stop_at {
            println!("in the middle");
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        calls += 1;
        true
    };
    if image.is_empty() {
        let mut writer = store.checkpoint("vm", &[2000], u64::MAX).unwrap();
        (0..2000).for_each(|page| writer.write(0, page, &block(page + 5000)).unwrap());
        writer.keep(&mut progress).unwrap();
    } else {
        store.add(image.as_ref(), SourceKind::Image, None, &mut progress).unwrap();
    }
}

fn start_child(dir: &Path, image: &str, stop_at: usize) -> Child {
    let order = format!("{}|{image}|{stop_at}", dir.display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, order)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("in the middle")));
    child
}

#[test]
fn kill_9_leaves_the_earlier_index_and_nothing_else() {
    let folder = Folder::new();
    let dir = folder.path("store");
    let image = folder.path("image");
    let open = || Store::open_with(&dir, "t", small_sort()).unwrap();
    write(&image, &(1..2001).collect::<Vec<_>>());
    open().add(&image, SourceKind::Image, None, &mut go).unwrap();
    let mut kept = open().checkpoint("vm", &[1], u64::MAX).unwrap();
    kept.write(0, 0, &block(9000)).unwrap();
    kept.keep(&mut go).unwrap();
    fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&block(9001), 0).unwrap();
    // 8 MiB are eight reads; the call after them comes when everything was sorted.
    for (what, stop_at) in [("image", 0), ("image", 5), ("image", 8), ("", 0), ("", 8)] {
        let path = if what.is_empty() { "" } else { image.to_str().unwrap() };
        let mut child = start_child(&dir, path, stop_at);
        let store = open();
        assert!(temporaries(&dir.join("t")) > 0, "a living writer's files stay");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!([2, 9000, 9001, 5000].map(|n| has(&store, n)), [true, true, false, false]);
        let store = open();
        assert_eq!(temporaries(&dir.join("t")), 0, "a dead writer's files go");
        assert_eq!([2, 9000, 9001, 5000].map(|n| has(&store, n)), [true, true, false, false]);
        assert_eq!(store.list().unwrap().len(), 2);
    }
    open().add(&image, SourceKind::Image, None, &mut go).unwrap();
    assert!(has(&open(), 9001));
}

/// A tmpfs that goes away.
struct SmallDisk(Folder);

impl SmallDisk {
    fn mount(kib: u32) -> Option<Self> {
        let folder = Folder::new();
        let options = format!("size={kib}k,mode=0700");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "dwcp-store-test"])
            .arg(&folder.0)
            .status();
        done.is_ok_and(|status| status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0.0).status();
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_what_was_there() {
    let Some(disk) = SmallDisk::mount(128) else {
        println!("SKIP: a small tmpfs cannot be mounted (needs root)");
        return;
    };
    let folder = Folder::new();
    let (image, large) = (folder.path("image"), folder.path("large"));
    write(&image, &[1, 2, 3]);
    write(&large, &(10..12_000).collect::<Vec<_>>());
    for limits in [Limits::default(), small_sort()] {
        let store = Store::open_with(&disk.0.0, "t", limits).unwrap();
        store.add(&image, SourceKind::Image, None, &mut go).unwrap();
        let full = store.add(&large, SourceKind::Image, None, &mut go).unwrap_err();
        assert!(matches!(full, StoreError::DiskFull { .. }), "{full}");
        let mut writer = store.checkpoint("vm", &[100], u64::MAX).unwrap();
        let written = (0..100).try_for_each(|page| writer.write(0, page, &block(page + 1)));
        let full = written.and_then(|()| writer.keep(&mut go)).unwrap_err();
        assert!(matches!(full, StoreError::DiskFull { .. }), "{full}");
        assert_eq!(temporaries(&disk.0.path("t")), 0);
        assert!(has(&store, 2));
    }
}

fn qemu_img(arguments: &[&str]) -> bool {
    let done = Command::new("qemu-img").args(arguments).stdout(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

#[test]
fn qcow2_images_are_read_where_qemu_img_says() {
    if !qemu_img(&["--version"]) {
        println!("SKIP: qemu-img is not installed");
        return;
    }
    let folder = Folder::new();
    let path = |name: &str| folder.path(name).to_str().unwrap().to_owned();
    let (raw, plain, packed, top) = (path("raw"), path("plain"), path("packed"), path("top"));
    write(raw.as_ref(), &(1..200).chain([0; 300]).chain(200..240).collect::<Vec<_>>());
    assert!(qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &raw, &plain]));
    // Text of 16 pages and more per cluster, so that every cluster gets smaller.
    let text: String = (0..400_000).map(|n| format!("{n} line\n")).collect();
    fs::write(path("text"), &text).unwrap();
    assert!(qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", &path("text"), &packed]));
    assert!(qemu_img(&["create", "-f", "qcow2", "-b", "plain", "-F", "qcow2", &top]));
    let store = Store::open(&folder.path("store"), "t").unwrap();
    let add = |path: &str| store.add(path.as_ref(), SourceKind::Image, None, &mut go);
    let on_top = add(&top).unwrap();
    assert_eq!((on_top.blocks, on_top.further), (0, vec![folder.path("plain")]));
    let added = add(&plain).unwrap();
    assert!(added.blocks_found >= 239 && added.left_out_bytes == 0, "{added:?}");
    assert!((1..240).all(|n| has(&store, n)));
    assert!(add(&packed).unwrap().left_out_bytes > 1_000_000);

    let data_file = format!("data_file={}", path("data"));
    assert!(qemu_img(&["create", "-f", "qcow2", "-o", &data_file, &path("split"), "1M"]));
    assert!(matches!(add(&path("split")), Err(StoreError::Unsupported { .. })));
    fs::write(path("false"), b"QFI\xfb and no more").unwrap();
    let said = add(&path("false")).unwrap_err();
    assert!(matches!(said, StoreError::QemuImg { .. }), "{said}");
}

#[test]
fn a_missing_qemu_img_is_named() {
    const BARE: &str = "DWCP_STORE_TEST_BARE";
    let folder = Folder::new();
    if std::env::var_os(BARE).is_none() {
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_missing_qemu_img_is_named"])
            .env(BARE, "1")
            .env("PATH", &folder.0)
            .stdout(Stdio::null())
            .status();
        assert!(done.unwrap().success());
        return;
    }
    let image = folder.path("image");
    fs::write(&image, b"QFI\xfb").unwrap();
    let store = Store::open(&folder.path("store"), "t").unwrap();
    let said = store.add(&image, SourceKind::Image, None, &mut go).unwrap_err();
    assert!(said.to_string().contains("qemu-utils"), "{said}");
}
