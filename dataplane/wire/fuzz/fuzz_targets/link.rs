//! Any bytes as a link message.
#![no_main]

use dwcp_wire::{LINK_BYTES_MAX, LinkMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = LinkMessage::decode(bytes) {
        let mut out = [0; LINK_BYTES_MAX];
        let length = message.encode_into(&mut out);
        assert_eq!(LinkMessage::decode(&out[..length]), Ok(message));
    }
});
