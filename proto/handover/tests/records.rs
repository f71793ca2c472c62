//! Records read back what was written, and nothing else reads as a record.

mod common;

use common::{any_decision_record, any_source_record, any_target_record, ticket};
use dwcp_handover::*;
use proptest::prelude::*;

/// The text form is kept by releases to come: a change here is a new record version.
#[test]
fn golden_text() {
    let mut notes = Notes::default();
    notes.set("qmp", "/run/vm/a b.sock").unwrap();
    notes.set("argv", "-name\nguest\\1").unwrap();
    let state = SourceState::InDoubt { prior: RunState::Running };
    let record = SourceRecord { ticket: ticket(), state, notes };
    let expected = "dwcp-record 1 source\n\
        job 01010101-0101-0101-0101-010101010101\n\
        vm 02020202-0202-0202-0202-020202020202\n\
        fence 1.7\n\
        endpoints 0303030303030303030303030303030303030303030303030303030303030303\n\
        state in-doubt running\n\
        note argv -name\\nguest\\\\1\n\
        note qmp /run/vm/a b.sock\n\
        sum ";
    let text = String::from_utf8(record.encode()).unwrap();
    assert_eq!(&text[..expected.len()], expected);
    assert_eq!(&text[expected.len()..], "aab11f49c6877e0c\n");
    assert_eq!(SourceRecord::decode(text.as_bytes()), Ok(record));
}

/// A record with any first line, its checksum made right: what a later release would write.
fn reseal(text: &str) -> Vec<u8> {
    let sum = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
    format!("{text}sum {sum:016x}\n").into_bytes()
}

fn body(record: &impl Record) -> String {
    let text = String::from_utf8(record.encode()).unwrap();
    text[..text.rfind("sum ").unwrap()].to_owned()
}

#[test]
fn other_versions_kinds_and_lines_are_named() {
    let record = DecisionRecord { ticket: ticket(), state: DecisionState::Open };
    let body = body(&record);
    let decode = |text: &str| DecisionRecord::decode(&reseal(text));
    assert_eq!(decode(&body), Ok(record));
    assert_eq!(
        decode(&body.replace("record 1", "record 2")),
        Err(RecordError::Version { found: 2 })
    );
    assert_eq!(
        SourceRecord::decode(&reseal(&body)),
        Err(RecordError::Kind { found: "decision".to_owned(), expected: "source" })
    );
    let malformed = [
        body.replace("state open", "state ajar"),
        body.replace("state open", "state open wide"),
        body.replace("fence 1.7", "fence 01.7"),
        body.replace("fence 1.7", "fence +1.7"),
        body.replace("0303", "03"),
        body.replace("job ", "jobs "),
        body.replace('\n', "\r\n"),
        format!("{body}note a b\n"),
        format!("{body}\n"),
        String::new(),
    ];
    for text in &malformed {
        assert!(matches!(decode(text), Err(RecordError::Malformed { .. })), "{text}");
    }
    let long = vec![b'x'; RECORD_BYTES_MAX + 1];
    assert!(matches!(DecisionRecord::decode(&long), Err(RecordError::TooLong { .. })));
}

#[test]
fn the_largest_record_fits() {
    let mut notes = Notes::default();
    for n in 0..NOTES_MAX {
        let key = format!("{n:0>width$}", width = NOTE_KEY_BYTES_MAX);
        notes.set(&key, &"\\".repeat(NOTE_VALUE_BYTES_MAX)).unwrap();
    }
    let record = TargetRecord { ticket: ticket(), state: ArrivalState::ContSent, notes };
    let bytes = record.encode();
    assert!(bytes.len() <= RECORD_BYTES_MAX);
    assert_eq!(TargetRecord::decode(&bytes), Ok(record));
}

/// Every way a crash tears a write: cut short, or a stale or zeroed 512-byte sector.
fn torn(new: &[u8], old: &[u8], at: usize, kind: u8) -> Vec<u8> {
    let cut = at % new.len();
    let mut bytes = new.to_vec();
    match kind % 3 {
        0 => bytes.truncate(cut),
        1 => bytes[cut / 512 * 512..].fill(0),
        _ => {
            let from = cut.min(old.len());
            bytes.truncate(from);
            bytes.extend_from_slice(&old[from..]);
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn decision_records_read_back(record in any_decision_record()) {
        prop_assert_eq!(DecisionRecord::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn source_records_read_back(record in any_source_record()) {
        prop_assert_eq!(SourceRecord::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn target_records_read_back(record in any_target_record()) {
        prop_assert_eq!(TargetRecord::decode(&record.encode()), Ok(record));
    }

    #[test]
    fn hostile_bytes_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(DecisionRecord::decode(&bytes).is_err());
        prop_assert!(SourceRecord::decode(&bytes).is_err());
        prop_assert!(TargetRecord::decode(&bytes).is_err());
    }

    /// Whatever decodes is canonical, even with a right checksum over hostile lines.
    #[test]
    fn only_canonical_text_decodes(
        record in any_source_record(),
        at in any::<proptest::sample::Index>(),
        with in "[ -~\n]{0,3}",
    ) {
        let mut text = body(&record);
        let at = at.index(text.len());
        prop_assume!(text.is_char_boundary(at) && text.is_char_boundary(at + 1));
        text.replace_range(at..at + 1, &with);
        let bytes = reseal(&text);
        if let Ok(read) = SourceRecord::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn a_flipped_bit_is_seen(
        record in any_source_record(),
        at in any::<proptest::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut bytes = record.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(SourceRecord::decode(&bytes).is_err());
    }

    #[test]
    fn a_torn_write_is_never_a_third_record(
        old in any_target_record(),
        new in any_target_record(),
        at in any::<proptest::sample::Index>(),
        kind in any::<u8>(),
    ) {
        let (old_bytes, new_bytes) = (old.encode(), new.encode());
        let bytes = torn(&new_bytes, &old_bytes, at.index(new_bytes.len()), kind);
        match TargetRecord::decode(&bytes) {
            Ok(read) => prop_assert!(read == old || read == new),
            Err(error) => prop_assert_eq!(error, RecordError::Damaged),
        }
    }
}
