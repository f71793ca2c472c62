//! The sources of a crate against the rules: purity, `unsafe` and size. Textual: it sees what is
//! written, not what a macro of another crate makes of it.

use std::path::{Path, PathBuf};

use crate::Violation;
use crate::code::{NamedPath, Token, blank_literals, paths, tokens, without_tests};
use crate::rules::Rules;
use crate::workspace::{Crate, Root};

/// One source file.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Where it lies, as the crate's roots spell it.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// Checks all files of a crate. An empty answer means that all rules hold.
#[must_use]
pub fn check_sources(rules: &Rules, member: &Crate, files: &[SourceFile]) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in files {
        let lines = file.text.lines().count();
        if lines > rules.file_lines_max {
            let place = shown(member, &file.path);
            found
                .push(Violation::new(&member.room, format!("{place} has {lines} lines: split it")));
        }
    }
    if !rules.may_be_unsafe(&member.room) {
        for file in files {
            check_unsafe(member, file, &mut found);
        }
    }
    if rules.rooms.get(&member.room).is_some_and(|room| room.pure) {
        check_purity(rules, member, files, &mut found);
    }
    found
}

fn check_unsafe(member: &Crate, file: &SourceFile, found: &mut Vec<Violation>) {
    let words = tokens(&blank_literals(&file.text));
    let is_shipped_root = |root: &Root| root.shipped && root.path == file.path;
    if member.roots.iter().any(is_shipped_root) && !forbids_unsafe(&words) {
        let text = format!("{} does not say #![forbid(unsafe_code)]", shown(member, &file.path));
        found.push(Violation::new(&member.room, text));
    }
    if let Some(token) = words.iter().find(|token| token.text == "unsafe") {
        let place = shown(member, &file.path);
        let text = format!("{place}:{} writes unsafe outside ffi/ and ebpf/", token.line);
        found.push(Violation::new(&member.room, text));
    }
}

fn forbids_unsafe(words: &[Token]) -> bool {
    const OPENING: [&str; 5] = ["#", "!", "[", "forbid", "("];
    words.windows(OPENING.len()).enumerate().any(|(at, window)| {
        window.iter().zip(OPENING).all(|(token, text)| token.text == text)
            && words[at + OPENING.len()..]
                .iter()
                .take_while(|token| token.text != ")")
                .any(|token| token.text == "unsafe_code")
    })
}

fn check_purity(rules: &Rules, member: &Crate, files: &[SourceFile], found: &mut Vec<Violation>) {
    let src = member.dir.join("src");
    let in_src: Vec<&SourceFile> =
        files.iter().filter(|file| file.path.starts_with(&src)).collect();
    let (mut parsed, mut test_modules) = (Vec::new(), Vec::new());
    for file in in_src {
        let (kept, modules) = without_tests(&tokens(&blank_literals(&file.text)));
        test_modules.extend(modules.iter().map(|name| module_base(&file.path).join(name)));
        parsed.push((&file.path, kept));
    }
    let is_test = |path: &Path| {
        test_modules
            .iter()
            .any(|module| path.starts_with(module) || path.with_extension("") == *module)
    };
    for (path, kept) in parsed.into_iter().filter(|(path, _)| !is_test(path)) {
        for named in paths(&kept) {
            let place = format!("{}:{}", shown(member, path), named.line);
            let fault = rules.purity.paths.iter().find_map(|forbidden| reach(&named, forbidden));
            found.extend(fault.map(|text| Violation::new(&member.room, format!("{place} {text}"))));
        }
    }
}

/// The folder in which the modules of this file have theirs.
fn module_base(path: &Path) -> PathBuf {
    let owns_folder = path.file_stem().is_some_and(|s| s == "lib" || s == "main" || s == "mod");
    if owns_folder { path.with_file_name("") } else { path.with_extension("") }
}

/// Why a pure crate may not name this path, if it reaches the forbidden one.
fn reach(named: &NamedPath, forbidden: &str) -> Option<String> {
    let forbidden_segments: Vec<&str> = forbidden.split("::").collect();
    let segments = &named.segments;
    let agree = segments.iter().zip(&forbidden_segments).all(|(a, b)| a == b);
    if !agree {
        return None;
    }
    // A lone word in an expression is a variable, not a path.
    let is_path = named.imported || segments.len() > 1;
    if segments.len() >= forbidden_segments.len() {
        return is_path.then(|| format!("names {}: this crate is pure", segments.join("::")));
    }
    let text =
        format!("imports {}, and with it {forbidden}: this crate is pure", segments.join("::"));
    named.imported.then_some(text)
}

fn shown(member: &Crate, path: &Path) -> String {
    path.strip_prefix(&member.dir).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        file_lines_max = 9
        unsafe_rooms = ["ffi"]
        [purity]
        paths = ["std::net", "std::fs", "std::time::Instant", "rand"]
        [rooms."dataplane/wire"]
        pure = true
        [rooms."dataplane/tcp"]
        [rooms."ffi/uring"]
    "#;

    fn faults(room: &str, files: &[(&str, &str)]) -> Vec<String> {
        let dir = PathBuf::from("/w").join(room);
        let member = Crate {
            name: "dwcp-x".into(),
            room: room.into(),
            dependencies: Vec::new(),
            roots: vec![
                Root { path: dir.join("src/lib.rs"), shipped: true },
                Root { path: dir.join("tests/t.rs"), shipped: false },
            ],
            dir: dir.clone(),
        };
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| SourceFile { path: dir.join(path), text: (*text).into() })
            .collect();
        let rules = Rules::parse(RULES).unwrap();
        check_sources(&rules, &member, &files).into_iter().map(|v| v.text).collect()
    }

    fn impure(text: &str) -> Vec<String> {
        faults("dataplane/wire", &[("src/a.rs", text)])
    }

    #[test]
    fn a_root_must_forbid_unsafe_in_code_not_in_a_comment() {
        let missing = ["src/lib.rs does not say #![forbid(unsafe_code)]"];
        assert_eq!(
            faults("dataplane/tcp", &[("src/lib.rs", "// #![forbid(unsafe_code)]")]),
            missing
        );
        assert_eq!(faults("dataplane/tcp", &[("src/lib.rs", "#![deny(unsafe_code)]")]), missing);
        for text in ["#![forbid(unsafe_code)]", "//! x\n#![forbid(missing_docs, unsafe_code)]"] {
            assert_eq!(faults("dataplane/tcp", &[("src/lib.rs", text)]), [""; 0]);
        }
        assert_eq!(faults("ffi/uring", &[("src/lib.rs", "unsafe {}")]), [""; 0]);
    }

    #[test]
    fn the_word_unsafe_is_found_in_every_file_outside_its_rooms() {
        let found = faults("dataplane/tcp", &[("tests/t.rs", "\nfn f() { unsafe { g() } }")]);
        assert_eq!(found, ["tests/t.rs:2 writes unsafe outside ffi/ and ebpf/"]);
        assert_eq!(
            faults("dataplane/tcp", &[("src/a.rs", "// unsafe\nlet unsafe_code = \"unsafe\";")]),
            [""; 0]
        );
    }

    #[test]
    fn a_long_file_is_to_be_split() {
        assert_eq!(faults("ffi/uring", &[("tests/t.rs", &"\n".repeat(9))]), [""; 0]);
        let found = faults("ffi/uring", &[("tests/t.rs", &"\n".repeat(10))]);
        assert_eq!(found, ["tests/t.rs has 10 lines: split it"]);
    }

    #[test]
    fn a_pure_crate_may_not_reach_the_outside_by_any_spelling() {
        for text in [
            "use std::net::TcpStream;",
            "use std::{fmt, net::TcpStream};",
            "use std::{fmt, net as n};",
            "use std::{\n fmt,\n fs::{self, File},\n};",
            "use std::time;",
            "use std::time::*;",
            "use std::time::{self, Duration};",
            "use ::std::net;",
            "fn f() { std :: fs\n::read(p) }",
            "fn f() -> std::time::Instant { g() }",
            "fn f() { ::std::time::Instant::now() }",
            "use rand::Rng;",
            "fn f() -> u8 { rand::random() }",
        ] {
            assert!(!impure(text).is_empty(), "{text}");
        }
        assert_eq!(impure("\nuse std::fs;"), ["src/a.rs:2 names std::fs: this crate is pure"]);
    }

    #[test]
    fn a_pure_crate_may_name_what_only_looks_alike() {
        for text in [
            "use std::time::Duration;",
            "use std::{fmt, collections::BTreeMap};",
            "use crate::net::std;",
            "let rand = std + 1;",
            "// std::net\nlet a = \"std::fs\";",
            "#[cfg(test)] mod tests { use std::net::TcpStream; }",
            "fn f() -> impl Fn() + use<'_> { std }",
        ] {
            assert_eq!(impure(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn test_modules_in_files_and_tests_folders_are_free() {
        let lib = "#![forbid(unsafe_code)] #[cfg(test)] mod tests; mod a;";
        let bad = "use std::fs;";
        let free = [
            ("src/lib.rs", lib),
            ("src/tests.rs", bad),
            ("src/tests/more.rs", bad),
            ("src/a.rs", "#[cfg(test)] mod proof;"),
            ("src/a/proof.rs", bad),
            ("tests/t.rs", bad),
        ];
        assert_eq!(faults("dataplane/wire", &free), [""; 0]);
        let held = [("src/lib.rs", lib), ("src/a/tests.rs", bad), ("src/testsuite.rs", bad)];
        assert_eq!(faults("dataplane/wire", &held).len(), 2);
        assert_eq!(faults("dataplane/tcp", &[("src/a.rs", bad)]), [""; 0]);
    }
}
