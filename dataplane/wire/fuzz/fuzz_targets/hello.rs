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

fuzz_target!(|bytes: &[u8]| {
    if let Some(head) = bytes.first_chunk() {
        hello(head);
    }
    if let Some(head) = bytes.first_chunk() {
        reply(head);
    }
});
