//! Compiles the proto files without a system protoc: protox makes the descriptor set, which feeds the
//! generator and, as a file, gRPC reflection.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 1] = ["dwcp/engine/v3/engine.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Channels and servers are the business of those who open doors, not of the contract.
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
