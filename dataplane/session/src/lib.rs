//! AMST: slices over rails, credits, acks and re-sends, as a pure core.
#![forbid(unsafe_code)]
