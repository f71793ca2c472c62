//! `dwcp-engine index` from the outside: output, exit codes, Ctrl-C.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder that goes away.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dwcp-index-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn index(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dwcp-engine")).arg("index").args(arguments).output().unwrap()
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Blocks of different content.
fn image(path: &str, blocks: u64) {
    let bytes: Vec<u8> = (0..blocks * 512).flat_map(|word| (word + 1).to_le_bytes()).collect();
    fs::write(path, bytes).unwrap();
}

#[test]
fn sources_are_added_listed_counted_and_dropped() {
    let folder = Folder::new("all");
    let (store, one, two) = (folder.path("store"), folder.path("one"), folder.path("two"));
    image(&one, 300);
    image(&two, 3);
    let added = index(&["add", "--store", &store, "--json", &one, &two]);
    assert_eq!(added.status.code(), Some(0), "{added:?}");
    assert_eq!(lines(&added)[0]["blocks_found"], 300);
    assert_eq!(lines(&index(&["add", "--store", &store, "--json", &one]))[0]["unchanged"], true);
    let list = lines(&index(&["list", "--store", &store, "--json"]));
    assert_eq!(list.len(), 2);
    assert_eq!((&list[0]["state"], &list[0]["kind"]), (&"current".into(), &"image".into()));
    let stats = &lines(&index(&["stats", "--store", &store, "--json"]))[0];
    assert_eq!((&stats["sources"], &stats["blocks"]), (&2.into(), &303.into()));
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(index(&["drop", "--store", &store, id, &two]).status.code(), Some(0));
    assert!(index(&["list", "--store", &store]).stdout.is_empty());
    assert!(Path::new(&two).exists());
}

#[test]
fn exit_codes_tell_what_was_wrong() {
    let folder = Folder::new("codes");
    let store = folder.path("store");
    let code = |arguments: &[&str]| index(arguments).status.code();
    assert_eq!(code(&["add", "--store", &store]), Some(2));
    assert_eq!(code(&["list"]), Some(2));
    assert_eq!(code(&["list", "--store", &store, "--tenant", "../x"]), Some(2));
    assert_eq!(code(&["add", "--store", &store, "/dev/null"]), Some(2));
    assert_eq!(code(&["add", "--store", &store, "/nowhere"]), Some(3));
    assert_eq!(code(&["drop", "--store", &store, "nothing"]), Some(3));
    assert_eq!(code(&["list", "--store", "/dev/null/store"]), Some(5));
    let said = index(&["drop", "--store", &store, "--json", "nothing"]);
    assert_eq!(lines(&said)[0]["exit_code"], 3);
}

#[test]
fn ctrl_c_stops_a_build_and_leaves_nothing() {
    let folder = Folder::new("stop");
    let (store, path) = (folder.path("store"), folder.path("image"));
    image(&path, 256);
    let bytes = fs::read(&path).unwrap();
    let file = fs::File::create(&path).unwrap();
    for n in 0..600_u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, n << 20).unwrap();
    }
    let child = Command::new(env!("CARGO_BIN_EXE_dwcp-engine"))
        .args(["index", "add", "--store", &store, &path])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let tenant = Path::new(&store).join("default");
    let temporaries = || {
        let names = fs::read_dir(&tenant).into_iter().flatten().flatten().map(|e| e.path());
        names.filter(|path| path.extension().is_some_and(|ending| ending == "tmp")).count()
    };
    let since = Instant::now();
    while temporaries() == 0 {
        assert!(since.elapsed() < Duration::from_secs(30), "the build does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(temporaries(), 0);
    assert!(index(&["list", "--store", &store]).stdout.is_empty());
}
