//! Any bytes as a control message.
#![no_main]

use dwcp_wire::ControlMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = ControlMessage::decode(bytes) {
        let mut out = Vec::new();
        message.encode(&mut out).expect("what was read is within the bounds");
        assert_eq!(ControlMessage::decode(&out), Ok(message));
    }
});
