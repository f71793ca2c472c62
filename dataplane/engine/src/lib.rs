//! Source and target jobs of the DWCP data plane: the library behind the binary `dwcp-engine`.
//! Control threads here talk to QEMU, keep the job's record and decide; the bytes move in the poll
//! loops of `dwcp-tcp`. It must not know the control plane.
#![forbid(unsafe_code)]

pub mod qemu;
pub mod qmp;
