//! `layers.toml`, read and checked for sense in itself.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Violation;

/// What one room may do.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Room {
    /// The crate's name where it is not `dwcp-` and the folder's name.
    pub name: Option<String>,
    /// Rooms it may import; `*` is any.
    #[serde(default)]
    pub may: Vec<String>,
    /// Further rooms that its tests may import.
    #[serde(default)]
    pub dev: Vec<String>,
    /// Groups of external crates it may not use outside its tests.
    #[serde(default)]
    pub bans: Vec<String>,
    /// No clock, socket, thread, file or random source in its src.
    #[serde(default)]
    pub pure: bool,
}

/// What a pure crate may not name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purity {
    /// Paths; everything below one is forbidden too.
    pub paths: Vec<String>,
}

/// All of `layers.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Pairs of top folders that never import each other, listed or not.
    #[serde(default)]
    pub apart: Vec<(String, String)>,
    /// Top folders where `unsafe` may be written.
    #[serde(default)]
    pub unsafe_rooms: Vec<String>,
    /// Names no crate may have.
    #[serde(default)]
    pub forbidden_names: Vec<String>,
    /// A longer source file is split.
    pub file_lines_max: usize,
    /// What `pure` forbids.
    #[serde(default)]
    pub purity: Purity,
    /// Groups of external crates, by the name that `bans` uses.
    #[serde(default)]
    pub groups: BTreeMap<String, Vec<String>>,
    /// The rooms by folder, relative to the workspace.
    pub rooms: BTreeMap<String, Room>,
}

/// A room that may import every other one.
pub(crate) const ANY: &str = "*";

impl Rules {
    /// Reads the text of `layers.toml`; an unknown key is an error that names it.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// True if an arrow between the two folders is never allowed.
    pub(crate) fn are_apart(&self, a: &str, b: &str) -> bool {
        self.apart
            .iter()
            .any(|(x, y)| (is_below(a, x) && is_below(b, y)) || (is_below(a, y) && is_below(b, x)))
    }

    /// True if `unsafe` may be written in this room.
    pub(crate) fn may_be_unsafe(&self, room: &str) -> bool {
        self.unsafe_rooms.iter().any(|top| is_below(room, top))
    }

    /// The mistakes of the file itself: rooms and groups that nobody defines, arrows that `apart` forbids.
    #[must_use]
    pub fn check(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for (folder, room) in &self.rooms {
            for target in room.may.iter().chain(&room.dev).filter(|t| *t != ANY) {
                if !self.rooms.contains_key(target) {
                    found.push(Violation::new(folder, format!("lists the unknown room {target}")));
                }
                if self.are_apart(folder, target) {
                    found.push(Violation::new(folder, format!("lists {target}, which is apart")));
                }
            }
            for group in room.bans.iter().filter(|g| !self.groups.contains_key(*g)) {
                found.push(Violation::new(folder, format!("bans the unknown group {group}")));
            }
        }
        found
    }
}

/// True if `path` is `top` or lies in it.
fn is_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = Rules::parse("[rooms.\"a\"]\nmany = [\"b\"]\n").unwrap_err();
        assert!(error.to_string().contains("many"), "{error}");
    }

    #[test]
    fn the_file_is_checked_for_unknown_rooms_groups_and_forbidden_arrows() {
        let rules = Rules::parse(
            "file_lines_max = 9\n\
             apart = [[\"dataplane\", \"controlplane\"]]\n\
             [rooms.\"dataplane/a\"]\nmay = [\"controlplane/b\", \"nowhere\"]\nbans = [\"none\"]\n\
             [rooms.\"controlplane/b\"]\n[rooms.\"dataplanes\"]\nmay = [\"controlplane/b\", \"*\"]\n",
        )
        .unwrap();
        let texts: Vec<String> = rules.check().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "dataplane/a: lists controlplane/b, which is apart",
                "dataplane/a: lists the unknown room nowhere",
                "dataplane/a: bans the unknown group none",
            ]
        );
    }
}
