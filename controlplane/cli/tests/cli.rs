//! The binary as a shell sees it: words, streams and exit codes.

use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_dwcp-cli");

fn run(words: &[&str]) -> Output {
    Command::new(BINARY).args(words).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_version_in_every_form() {
    let version = format!("DWCP v{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(out(&run(&["version"])), format!("{version}\n"));
    assert_eq!(out(&run(&["--version"])), format!("{version}\n"));
    assert_eq!(out(&run(&["version", "-o", "yaml"])), format!("version: \"{version}\"\n"));
    let json = out(&run(&["-o", "json", "version"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["version"], version);
}

#[test]
fn every_shell_has_a_completion_that_names_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(out(&output).contains("set-rate"), "{shell}");
    }
}

#[test]
fn wrong_words_exit_with_2() {
    for words in [
        &["nonsense"][..],
        &["engine"],
        &["engine", "migrate"],
        &["engine", "prepare"],
        &["engine", "set-rate", "x", "fast"],
        &["version", "-o", "xml"],
    ] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn no_engine_exits_with_4_and_says_how_to_start_one() {
    for command in [&["status"][..], &["jobs"], &["cancel", "x"], &["prepare", "--launch", "x"]] {
        let output = run(&[&["engine", "--socket", "/nowhere/e.sock"], command].concat());
        assert_eq!(output.status.code(), Some(4), "{command:?}");
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(
            words.contains("/nowhere/e.sock") && words.contains("dwcp-engine serve"),
            "{words}"
        );
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let command = format!("{BINARY} completion bash | head -n 1");
    let output = Command::new("bash").args(["-o", "pipefail", "-c", &command]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
