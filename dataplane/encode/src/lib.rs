//! HDE: page encoding and decoding, pure.
#![forbid(unsafe_code)]
