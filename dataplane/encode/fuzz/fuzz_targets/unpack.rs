//! Any bytes as a packed skeleton slice.
#![no_main]

use dwcp_encode::bytes::Unpacker;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut out = [0; 4096];
    if let Ok(length) = Unpacker::new().unpack(bytes, &mut out) {
        assert!(length <= out.len());
    }
});
