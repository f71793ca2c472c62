//! Any 64 bytes as a hello, any 256 as its answer; a wrong check value is put right once, so
//! that what it hides is reached.
#![no_main]

use dwcp_wire::{HELLO_BYTES, HELLO_REPLY_BYTES, Hello, HelloReply, WireError};
use libfuzzer_sys::fuzz_target;

fn hello(bytes: &[u8; HELLO_BYTES]) {
    match Hello::decode(bytes) {
        Ok(hello) => assert_eq!(Hello::decode(&hello.encode()), Ok(hello)),
        Err(WireError::BadCheck { computed, .. }) => {
            let mut repaired = *bytes;
            repaired[HELLO_BYTES - 8..].copy_from_slice(&computed.to_le_bytes());
            hello(&repaired);
        }
        Err(_) => {}
    }
}

fn reply(bytes: &[u8; HELLO_REPLY_BYTES]) {
    match HelloReply::decode(bytes) {
        Ok(reply) => assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply)),
        Err(WireError::BadCheck { computed, .. }) => {
            let mut repaired = *bytes;
            repaired[HELLO_REPLY_BYTES - 8..].copy_from_slice(&computed.to_le_bytes());
            reply(&repaired);
        }
        Err(_) => {}
    }
}

/// The bytes as they are, and behind a prefix that is let through.
fn with_prefix<const N: usize>(bytes: &[u8], decode: impl Fn(&[u8; N])) {
    let Some(head) = bytes.first_chunk() else { return };
    decode(head);
    let mut ours = *head;
    ours[..8].copy_from_slice(b"DWCP\x01\x00\x00\x00");
    decode(&ours);
}

fuzz_target!(|bytes: &[u8]| {
    with_prefix(bytes, hello);
    with_prefix(bytes, reply);
});
