//! Any bytes as the body of a model file, in an envelope that is right.
#![no_main]

use dwcp_prediction::{MODEL_MAGIC, MODEL_VERSION, Model};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

fuzz_target!(|body: &[u8]| {
    let mut bytes = MODEL_MAGIC.to_vec();
    bytes.extend(MODEL_VERSION.to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    let sum = xxh3_64(&bytes);
    bytes.extend(sum.to_le_bytes());
    if let Ok(model) = Model::decode(&bytes) {
        assert_eq!(Model::decode(&model.encode()), Ok(model));
    }
});
