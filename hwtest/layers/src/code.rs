//! Just enough of Rust's surface to search it: comments and literals blanked, items that exist
//! only in tests cut out, and the paths that are named. Macros are seen as they are written.

/// The text with comments and the insides of literals blanked; lines stay where they are.
pub(crate) fn blank_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// The end of the comment or literal that starts here, or `at` if none does.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match chars[at] {
        '/' if next == Some('/') => find(chars, at, |c| c == '\n'),
        '/' if next == Some('*') => block_comment_end(chars, at),
        '"' => string_end(chars, at),
        'r' => raw_string_end(chars, at),
        '\'' if next == Some('\\') => find(chars, at + 3, |c| c == '\'') + 1,
        '\'' if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at,
    }
    .min(chars.len())
}

fn find(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|i| wanted(chars[*i])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string_end(chars: &[char], start: usize) -> usize {
    let is_word = |i: usize| chars[i].is_alphanumeric() || chars[i] == '_';
    let prefixed = start > 0 && matches!(chars[start - 1], 'b' | 'c');
    let before = start.checked_sub(if prefixed { 2 } else { 1 });
    let quote = find(chars, start + 1, |c| c != '#');
    if before.is_some_and(is_word) || chars.get(quote) != Some(&'"') {
        return start;
    }
    let hashes = quote - start - 1;
    let closes = |i: &usize| {
        chars[*i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    };
    (quote + 1..chars.len()).find(closes).map_or(chars.len(), |i| i + 1 + hashes)
}

/// An identifier, `::`, or one other character, with its line (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl Token {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The tokens of blanked text.
pub(crate) fn tokens(blanked: &str) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::new();
    for (index, line) in blanked.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            let length = match first {
                ':' if rest.starts_with("::") => 2,
                c if word(c) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
                c => c.len_utf8(),
            };
            out.push(Token { line: index + 1, text: rest[..length].to_owned() });
            rest = rest[length..].trim_start();
        }
    }
    out
}

/// The tokens without items under `#[cfg(test)]` or `#[cfg(all(test, ..))]`, and the names of
/// such modules that are kept in a file of their own.
pub(crate) fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let (mut kept, mut modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        if !starts_test_item(&tokens[at..]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let end = item_end(tokens, at);
        if let [.., keyword, name, semicolon] = &tokens[at..end]
            && keyword.text == "mod"
            && semicolon.text == ";"
        {
            modules.push(name.text.clone());
        }
        at = end;
    }
    (kept, modules)
}

fn starts_test_item(tokens: &[Token]) -> bool {
    let starts_with = |pattern: &[&str]| {
        tokens.len() >= pattern.len() && pattern.iter().zip(tokens).all(|(p, t)| *p == t.text)
    };
    starts_with(&["#", "[", "cfg", "(", "test", ")", "]"])
        || starts_with(&["#", "[", "cfg", "(", "all", "(", "test"])
}

/// Just past the item that starts here with its attributes: its `;`, or the brace that closes it.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" if depth <= 1 => return at + 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// A path as named: `std::net::TcpStream`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) line: usize,
    /// Without a closing `self` or `*`.
    pub(crate) segments: Vec<String>,
    /// True in a `use` declaration, where naming a module brings in all of it.
    pub(crate) imported: bool,
}

/// Every path named, with `use` trees opened.
pub(crate) fn paths(tokens: &[Token]) -> Vec<NamedPath> {
    let mut out = Vec::new();
    let (mut at, mut imported) = (0, false);
    while at < tokens.len() {
        let next_is_generic = tokens.get(at + 1).is_some_and(|t| t.text == "<");
        match tokens[at].text.as_str() {
            "use" if !next_is_generic => imported = true,
            ";" => imported = false,
            "as" if imported => at += 1,
            _ if tokens[at].is_word() => {
                let first = out.len();
                at = open_tree(tokens, at, &[], &mut out);
                out[first..].iter_mut().for_each(|path| path.imported = imported);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    out
}

/// Adds the paths of the tree that starts here; answers where it ends.
fn open_tree(tokens: &[Token], start: usize, prefix: &[String], out: &mut Vec<NamedPath>) -> usize {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|t| t.text == text);
    let (mut at, mut segments) = (start, prefix.to_vec());
    while tokens.get(at).is_some_and(Token::is_word) {
        segments.push(tokens[at].text.clone());
        at += 1;
        if !is(at, "::") {
            break;
        }
        at += 1;
    }
    if is(at, "{") && is(at.wrapping_sub(1), "::") {
        at += 1;
        while at < tokens.len() && !is(at, "}") {
            at = match tokens[at].text.as_str() {
                "as" => at + 2,
                "*" => {
                    let line = tokens[at].line;
                    out.push(NamedPath { line, segments: segments.clone(), imported: false });
                    at + 1
                }
                _ if tokens[at].is_word() => open_tree(tokens, at, &segments, out),
                _ => at + 1,
            };
        }
        return at + 1;
    }
    if segments.last().is_some_and(|last| last == "self") && segments.len() > 1 {
        segments.pop();
    }
    out.push(NamedPath { line: tokens[start].line, segments, imported: false });
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        let (kept, _) = without_tests(&tokens(&blank_literals(text)));
        paths(&kept).iter().map(|p| p.segments.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_are_blanked_and_lines_stay() {
        let text = "a // std::net\n/* b /* c */ d */ e \"f \\\" g\" r#\"h \" i\"# 'j' '\\'' 'k: k br\"l\" m\n\"n\no\" p";
        let blanked = blank_literals(text);
        assert_eq!(blanked.lines().count(), text.lines().count());
        let words: Vec<_> = tokens(&blanked).into_iter().map(|t| t.text).collect();
        assert_eq!(words, ["a", "e", "'", "k", ":", "k", "b", "m", "p"]);
    }

    #[test]
    fn unfinished_literals_end_with_the_text() {
        for text in ["\"a", "\"a\\", "r#\"a\"", "/* a", "'\\", "'", "r", "r#", "/"] {
            assert!(blank_literals(text).len() <= text.len(), "{text}");
        }
    }

    #[test]
    fn raw_identifiers_and_words_ending_in_r_are_no_strings() {
        assert_eq!(named("r#type + for r in wr"), ["r", "type", "for", "r", "in", "wr"]);
    }

    #[test]
    fn test_items_are_cut_and_test_modules_in_files_named() {
        let text = "a; #[cfg(test)] mod tests { fn f() { b(); } } c; #[cfg(all(test, unix))] #[x(y)]\n\
                    pub(crate) mod far; d; #[cfg(test)] use e::f; #[cfg(test)] const G: [u8; 1] = [h]; i";
        let (kept, modules) = without_tests(&tokens(&blank_literals(text)));
        let words: String = kept.iter().map(|t| t.text.as_str()).collect();
        assert_eq!(words, "a;c;d;i");
        assert_eq!(modules, ["far"]);
    }

    #[test]
    fn use_trees_are_opened() {
        let text =
            "use std::{fmt, net::{self, TcpStream as T, *}, time::Duration}; use a::b as c; d as e";
        let opened =
            ["std::fmt", "std::net", "std::net::TcpStream", "std::net", "std::time::Duration"];
        assert_eq!(named(text), [&opened[..], &["a::b", "d", "as", "e"]].concat());
    }
}
