//! Any bytes as an index file, asked for any prefix; magic, version and check value are put right,
//! so that what they hide is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;

const HEADER_BYTES: usize = 8192;

fuzz_target!(|input: (u64, Vec<u8>, Vec<u8>)| {
    let (prefix, header, rest) = input;
    let mut bytes = header;
    bytes.resize(HEADER_BYTES, 0);
    bytes[..8].copy_from_slice(b"DWCPIDX\n");
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[..HEADER_BYTES - 8]);
    bytes[HEADER_BYTES - 8..].copy_from_slice(&check.to_le_bytes());
    bytes.extend_from_slice(&rest);
    assert!(dwcp_store::probe(&bytes, prefix) <= 64);
});
