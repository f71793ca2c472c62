//! Any 64 bytes as a slice header, under any granted length; a wrong check value is put right
//! once, so that what it hides is reached.
#![no_main]

use dwcp_wire::{HEADER_BYTES, SliceHeader, WireError};
use libfuzzer_sys::fuzz_target;

fn decode(bytes: &[u8; HEADER_BYTES], granted: u32) {
    match SliceHeader::decode(bytes, granted) {
        Ok(header) => assert_eq!(SliceHeader::decode(&header.encode(), granted), Ok(header)),
        Err(WireError::BadCheck { computed, .. }) => {
            let mut repaired = *bytes;
            repaired[HEADER_BYTES - 4..].copy_from_slice(&computed.to_le_bytes()[..4]);
            decode(&repaired, granted);
        }
        Err(_) => {}
    }
}

fuzz_target!(|input: (u32, [u8; HEADER_BYTES])| {
    let (granted, mut bytes) = input;
    decode(&bytes, granted);
    bytes[..4].copy_from_slice(b"DWSL");
    decode(&bytes, granted);
});
