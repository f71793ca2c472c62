//! A return path: no panic, items follow each other without gaps, little is held back.
#![no_main]

use dwcp_qemustream::return_path::{HEADER_BYTES, PAYLOAD_BYTES_MAX, ReturnPath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|path: &[u8]| {
    let mut splitter = ReturnPath::new();
    let mut rest = path;
    while let Ok(Some(item)) = splitter.next_item(rest) {
        let bytes = item.bytes();
        assert!(bytes.start == 0 && !bytes.is_empty());
        rest = &rest[bytes.end..];
    }
    if splitter.next_item(rest) == Ok(None) {
        assert!(rest.len() <= HEADER_BYTES + PAYLOAD_BYTES_MAX);
    }
});
