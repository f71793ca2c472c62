//! The graph against the rules: arrows, names, banned crates.

use crate::Violation;
use crate::rules::{ANY, Room, Rules};
use crate::workspace::{Crate, Dependency, Kind, Workspace};

/// Checks every member's name and direct dependencies. An empty answer means that all rules hold.
#[must_use]
pub fn check_arrows(rules: &Rules, workspace: &Workspace) -> Vec<Violation> {
    let mut found = rules.check();
    for member in &workspace.crates {
        check_name(rules, member, &mut found);
        match rules.rooms.get(&member.room) {
            Some(room) => check_dependencies(rules, room, member, &mut found),
            None => found.push(Violation::new(&member.room, "is not a room of layers.toml")),
        }
    }
    found
}

fn check_name(rules: &Rules, member: &Crate, found: &mut Vec<Violation>) {
    let folder = member.room.rsplit('/').next().unwrap_or_default();
    let bare = member.name.strip_prefix("dwcp-").unwrap_or(&member.name);
    if rules.forbidden_names.iter().any(|name| name == bare || name == folder) {
        let text = format!("{} is called after nothing: name what it does", member.name);
        found.push(Violation::new(&member.room, text));
    }
    let given = rules.rooms.get(&member.room).and_then(|room| room.name.clone());
    let expected = given.unwrap_or_else(|| format!("dwcp-{folder}"));
    if member.name != expected {
        let text = format!("is called {}, its folder asks for {expected}", member.name);
        found.push(Violation::new(&member.room, text));
    }
}

fn check_dependencies(rules: &Rules, room: &Room, member: &Crate, found: &mut Vec<Violation>) {
    for dependency in &member.dependencies {
        let text = match &dependency.room {
            Some(target) => arrow_fault(rules, room, &member.room, target, dependency.kind),
            None => ban_fault(rules, room, dependency),
        };
        found.extend(text.map(|text| Violation::new(&member.room, text)));
    }
}

fn arrow_fault(rules: &Rules, room: &Room, from: &str, to: &str, kind: Kind) -> Option<String> {
    if rules.are_apart(from, to) {
        return Some(format!("imports {to}: these two folders never import each other"));
    }
    let lists = |list: &[String]| list.iter().any(|name| name == to || name == ANY);
    let allowed = lists(&room.may) || (kind == Kind::Dev && lists(&room.dev));
    (!allowed).then(|| format!("imports {to}, an arrow that layers.toml does not list"))
}

fn ban_fault(rules: &Rules, room: &Room, dependency: &Dependency) -> Option<String> {
    if dependency.kind == Kind::Dev {
        return None;
    }
    let banned = |group: &&String| {
        rules.groups.get(*group).is_some_and(|names| names.contains(&dependency.name))
    };
    let group = room.bans.iter().find(banned)?;
    Some(format!("uses {}, banned here with the group {group}", dependency.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        file_lines_max = 9
        apart = [["dataplane", "controlplane"]]
        forbidden_names = ["utils", "common"]
        [groups]
        runtime = ["tokio", "tonic"]
        serde = ["serde"]
        [rooms."dataplane/wire"]
        bans = ["runtime", "serde"]
        [rooms."dataplane/session"]
        may = ["dataplane/wire"]
        dev = ["dataplane/sim"]
        [rooms."dataplane/sim"]
        [rooms."controlplane/types"]
        [rooms."proto/sdk/rust"]
        name = "dwcp"
        [rooms."bench"]
        may = ["*"]
        [rooms."dataplane/common"]
    "#;

    fn member(room: &str, dependencies: &[(&str, Kind, Option<&str>)]) -> Crate {
        let folder = room.rsplit('/').next().unwrap();
        let dependencies = dependencies.iter().map(|&(name, kind, room)| Dependency {
            name: name.to_owned(),
            kind,
            room: room.map(str::to_owned),
        });
        Crate {
            name: format!("dwcp-{folder}"),
            room: room.to_owned(),
            dir: room.into(),
            dependencies: dependencies.collect(),
            roots: Vec::new(),
        }
    }

    fn faults(members: Vec<Crate>) -> Vec<String> {
        let rules = Rules::parse(RULES).unwrap();
        check_arrows(&rules, &Workspace { crates: members }).iter().map(|v| v.to_string()).collect()
    }

    #[test]
    fn listed_arrows_and_test_only_arrows_pass() {
        let session = member(
            "dataplane/session",
            &[
                ("dwcp-wire", Kind::Normal, Some("dataplane/wire")),
                ("dwcp-sim", Kind::Dev, Some("dataplane/sim")),
                ("serde", Kind::Normal, None),
            ],
        );
        let bench = member("bench", &[("dwcp-types", Kind::Normal, Some("controlplane/types"))]);
        let wire = member("dataplane/wire", &[("serde", Kind::Dev, None)]);
        assert_eq!(faults(vec![session, bench, wire]), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_that_is_not_listed_fails_in_every_kind() {
        for kind in [Kind::Normal, Kind::Build, Kind::Dev] {
            let wire = member("dataplane/wire", &[("dwcp-bench", kind, Some("bench"))]);
            assert_eq!(
                faults(vec![wire]),
                ["dataplane/wire: imports bench, an arrow that layers.toml does not list"]
            );
        }
    }

    #[test]
    fn a_test_only_arrow_fails_in_the_crate_itself() {
        let arrow = ("dwcp-sim", Kind::Normal, Some("dataplane/sim"));
        assert_eq!(faults(vec![member("dataplane/session", &[arrow])]).len(), 1);
    }

    #[test]
    fn the_planes_never_meet_in_either_direction() {
        let down = ("dwcp-wire", Kind::Normal, Some("dataplane/wire"));
        let up = ("dwcp-types", Kind::Dev, Some("controlplane/types"));
        let found =
            faults(vec![member("controlplane/types", &[down]), member("dataplane/wire", &[up])]);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|f| f.ends_with("never import each other")), "{found:?}");
    }

    #[test]
    fn a_banned_crate_fails_in_the_crate_and_in_its_build_script() {
        let normal = ("tokio", Kind::Normal, None);
        let build = ("serde", Kind::Build, None);
        assert_eq!(
            faults(vec![member("dataplane/wire", &[normal, build])]),
            [
                "dataplane/wire: uses tokio, banned here with the group runtime",
                "dataplane/wire: uses serde, banned here with the group serde"
            ]
        );
    }

    #[test]
    fn names_are_checked() {
        let common = member("dataplane/common", &[]);
        let odd = Crate { name: "dwcp-odd".into(), ..member("dataplane/sim", &[]) };
        let sdk = Crate { name: "dwcp".into(), ..member("proto/sdk/rust", &[]) };
        let found = faults(vec![common, odd, sdk]);
        assert_eq!(
            found,
            [
                "dataplane/common: dwcp-common is called after nothing: name what it does",
                "dataplane/sim: is called dwcp-odd, its folder asks for dwcp-sim"
            ]
        );
    }

    #[test]
    fn an_unknown_room_fails() {
        let found = faults(vec![member("dataplane/attic", &[])]);
        assert_eq!(found, ["dataplane/attic: is not a room of layers.toml"]);
    }
}
