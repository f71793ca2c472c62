//! Lines that a shell keeps in its record for its own restart: addresses, paths, settings.
//! The roles carry them and never read them. Bounded in number and size.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Notes in one record, at most.
pub const NOTES_MAX: usize = 48;
/// Bytes of one key, at most.
pub const NOTE_KEY_BYTES_MAX: usize = 64;
/// Bytes of one value, at most.
pub const NOTE_VALUE_BYTES_MAX: usize = 512;

const NOTE: &str = "note ";
/// All notes as text, at most: a value may double in length by escaping.
pub(crate) const NOTES_TEXT_BYTES_MAX: usize =
    NOTES_MAX * (NOTE.len() + NOTE_KEY_BYTES_MAX + 1 + 2 * NOTE_VALUE_BYTES_MAX + 1);

/// Why a note was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Keys are 1 to [`NOTE_KEY_BYTES_MAX`] bytes of `a-z 0-9 . _ -`.
    #[error("note key {key:?} is empty, too long, or has characters other than a-z 0-9 . _ -")]
    Key {
        /// The key.
        key: String,
    },
    /// The value is longer than [`NOTE_VALUE_BYTES_MAX`].
    #[error("note {key} is {bytes} bytes long; shorten it to {max}", max = NOTE_VALUE_BYTES_MAX)]
    ValueTooLong {
        /// The key.
        key: String,
        /// Length of the value.
        bytes: usize,
    },
    /// There are [`NOTES_MAX`] already.
    #[error("a record holds at most {max} notes", max = NOTES_MAX)]
    TooMany,
}

/// A bounded map of the shell's own lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notes(BTreeMap<String, String>);

impl Notes {
    /// Sets one note; a key set before is replaced.
    ///
    /// # Errors
    /// Any bound that does not hold; nothing changes then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), NoteError> {
        if !is_key(key) {
            return Err(NoteError::Key { key: key.chars().take(NOTE_KEY_BYTES_MAX).collect() });
        }
        if value.len() > NOTE_VALUE_BYTES_MAX {
            return Err(NoteError::ValueTooLong { key: key.to_owned(), bytes: value.len() });
        }
        if self.0.len() >= NOTES_MAX && !self.0.contains_key(key) {
            return Err(NoteError::TooMany);
        }
        self.0.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All notes, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn write(&self, text: &mut String) {
        for (key, value) in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{NOTE}{key} {}", escape(value));
        }
    }

    pub(crate) fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut notes = Notes::default();
        for line in lines {
            let (key, value) = line.strip_prefix(NOTE)?.split_once(' ')?;
            notes.set(key, &unescape(value)?).ok()?;
        }
        Some(notes)
    }
}

fn is_key(key: &str) -> bool {
    let ok = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    (1..=NOTE_KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(ok)
}

fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            c => text.push(c),
        }
    }
    text
}

fn unescape(text: &str) -> Option<String> {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => value.push(match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            }),
            c => value.push(c),
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_kept() {
        let mut notes = Notes::default();
        let long = "v".repeat(NOTE_VALUE_BYTES_MAX + 1);
        assert!(matches!(notes.set("qmp", &long), Err(NoteError::ValueTooLong { .. })));
        for key in ["", "a b", "A", &"k".repeat(NOTE_KEY_BYTES_MAX + 1)] {
            assert!(matches!(notes.set(key, "v"), Err(NoteError::Key { .. })), "{key}");
        }
        for n in 0..NOTES_MAX {
            assert_eq!(notes.set(&format!("k{n}"), "v"), Ok(()));
        }
        assert_eq!(notes.set("more", "v"), Err(NoteError::TooMany));
        assert_eq!(notes.set("k1", "w"), Ok(()));
        assert_eq!(notes.get("k1"), Some("w"));
    }
}
