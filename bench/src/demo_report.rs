//! What the demo says at its end, for people and for programs.

use dwcp_hwtest::guest::Guest;
use dwcp_hwtest::tick::Life;
use serde::Serialize;
use serde_json::{Value, json};

use crate::table;

const MB: f64 = 1e6;
const PAGE_KINDS: [&str; 6] = ["zero", "duplicate", "known", "delta", "zstd", "raw"];

/// One move as it was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Moved {
    pub(crate) total_ms: f64,
    /// The mover's own figure.
    pub(crate) downtime_ms: f64,
    /// Between the last tick here and the first there.
    pub(crate) client_downtime_ms: Option<f64>,
    /// Both directions: counted at the interface, or by the mover itself where others use it too.
    pub(crate) wire_bytes: u64,
    /// CPU seconds of the engines.
    pub(crate) cpu_s: Option<f64>,
    /// The mover's own report.
    pub(crate) report: Value,
}

impl Moved {
    pub(crate) fn of_engine(report: &Value, cpu_s: f64, wire_bytes: Option<u64>) -> Self {
        let number = |key: &str| report[key].as_f64().unwrap_or(0.0);
        Self {
            total_ms: number("total_ms"),
            downtime_ms: number("downtime_ms"),
            client_downtime_ms: None,
            wire_bytes: wire_bytes.unwrap_or(number("wire_bytes") as u64),
            cpu_s: Some(cpu_s),
            report: report.clone(),
        }
    }
}

/// All that the demo found out.
#[derive(Debug)]
pub(crate) struct Story {
    pub(crate) guest: Guest,
    pub(crate) hosts: String,
    pub(crate) ours: Moved,
    pub(crate) peer: anyhow::Result<Moved>,
    pub(crate) life: Life,
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn pages(report: &Value) -> String {
    let parts: Vec<String> = PAGE_KINDS
        .iter()
        .filter_map(|kind| Some((kind, report["pages"][kind].as_u64()?)))
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{kind} {}", thousands(count)))
        .collect();
    parts.join(", ")
}

fn memory(report: &Value) -> String {
    let algorithm = report["hash_alg"].as_str().unwrap_or("hash");
    match report["hash_root_match"].as_bool() {
        Some(true) => {
            format!("identical: the {algorithm} roots over all pages of both hosts match")
        }
        Some(false) => "DIFFERS".into(),
        None => "not compared".into(),
    }
}

/// For people.
pub(crate) fn text(story: &Story) -> String {
    let w = &story.guest.workload;
    let guest_bytes = story.ours.report["guest_bytes"].as_f64().unwrap_or(0.0);
    let ticks = match (&story.life.ticks.first(), &story.life.ticks.last()) {
        (Some(first), Some(last)) => {
            format!("{} to {}", thousands(first.1.number), thousands(last.1.number))
        }
        _ => "none".into(),
    };
    let whole = if story.life.unbroken() {
        "unbroken; the guest's own check of its memory: OK"
    } else {
        "BROKEN"
    };
    let mut text = format!(
        "\nguest   {} with {} MB, rewriting {} MB at {} MB/s, a tick every {} ms\nhosts   {}\n\n",
        story.guest.kernel_name,
        story.guest.memory_mb,
        w.dirty_mb,
        w.rate_mb,
        f64::from(w.tick_us) / 1000.0,
        story.hosts
    );
    text.push_str(&comparison(story));
    text.push_str(&format!(
        "\nguest   {:.0} MB of pages became {:.0} MB on the wire\npages   {}\nmemory  {}\nticks   {ticks}, {whole}\n",
        guest_bytes / MB,
        story.ours.wire_bytes as f64 / MB,
        pages(&story.ours.report),
        memory(&story.ours.report),
    ));
    if let Err(reason) = &story.peer {
        text.push_str(&format!("QEMU    no comparison: {reason:#}\n"));
    }
    text
}

fn comparison(story: &Story) -> String {
    let row = |name: &str, moved: &Moved| {
        vec![
            name.to_owned(),
            format!("{:.2} s", moved.total_ms / 1000.0),
            moved.client_downtime_ms.map_or("-".into(), |ms| format!("{ms:.0} ms")),
            format!("{:.1} MB", moved.wire_bytes as f64 / MB),
        ]
    };
    let mut rows = vec![row("DWCP", &story.ours)];
    if let Ok(peer) = &story.peer {
        rows.push(row("QEMU multifd x8 + zstd", peer));
        let ratio = |ours: f64, theirs: f64| format!("{:.2}x", ours / theirs);
        rows.push(vec![
            "DWCP / QEMU".into(),
            ratio(story.ours.total_ms, peer.total_ms),
            match (story.ours.client_downtime_ms, peer.client_downtime_ms) {
                (Some(ours), Some(theirs)) => ratio(ours, theirs),
                _ => "-".into(),
            },
            ratio(story.ours.wire_bytes as f64, peer.wire_bytes as f64),
        ]);
    }
    table::render(&["", "time", "downtime from outside", "wire"], &rows)
}

/// For programs.
pub(crate) fn json(story: &Story) -> Value {
    json!({
        "schema": 1,
        "guest": story.guest,
        "hosts": story.hosts,
        "dwcp": story.ours,
        "qemu_multifd_zstd": story.peer.as_ref().ok(),
        "ticks": story.life.ticks.len(),
        "ticks_unbroken": story.life.unbroken(),
        "problems": story.life.problems,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_kinds_read_well() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
        let report = json!({"pages": {"zero": 1000, "delta": 0, "zstd": 7}, "hash_root_match": true, "hash_alg": "xxh3-128"});
        assert_eq!(pages(&report), "zero 1,000, zstd 7");
        assert!(memory(&report).starts_with("identical: the xxh3-128"));
    }
}
