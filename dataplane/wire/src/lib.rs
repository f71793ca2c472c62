//! Frames and session messages of the DWCP wire protocol.
#![forbid(unsafe_code)]
