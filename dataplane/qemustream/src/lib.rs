//! Parser and rewriter of QEMU's migration stream, pure.
#![forbid(unsafe_code)]
