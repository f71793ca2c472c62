//! The contract between DWCP's binaries and with the world: messages and services as generated from
//! the proto files beside this crate, and nothing else. No clock, socket or thread; everything may
//! import it, but its types stay at a binary's door. It must not know any other crate of ours.
#![forbid(unsafe_code)]

/// All proto files as an encoded `google.protobuf.FileDescriptorSet`: what gRPC reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Package `dwcp.engine.v3`: the door of one host's engine.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, reason = "generated")]
pub mod engine_v3 {
    include!(concat!(env!("OUT_DIR"), "/dwcp.engine.v3.rs"));
}
