//! Frames and session messages of the DWCP wire protocol.
//!
//! Runs on any thread. Decoding a slice header or a link message allocates nothing; control
//! messages may allocate, after every length was checked. Knows no socket, clock, thread or file.
//! All integers are little-endian; `docs/wire-format.md` gives the layouts in full.
#![forbid(unsafe_code)]

mod codec;
mod codes;
mod control;
mod control_codec;
mod error;
mod hello;
mod ids;
mod link;
mod slice;
mod version;

pub use codes::{Decision, HashAlgorithm, Mode, ReasonCode};
pub use control::{
    Accept, BlockInfo, CONTROL_BYTES_MAX, ControlMessage, CpuReport, DirectBlock, JobFacts,
    LIST_ITEMS_MAX, Outcome, RETURN_PATH_BYTES_MAX, Resumed, Root, RootResult, Stats,
    TEXT_BYTES_MAX,
};
pub use error::WireError;
pub use hello::{
    HELLO_BYTES, HELLO_PREFIX_BYTES, HELLO_REPLY_BYTES, Hello, HelloReply, HelloStatus, Purpose,
    REASON_BYTES_MAX, TOKEN_BYTES,
};
pub use ids::{
    BlockId, Epoch, Generation, JobId, PAGE_BYTES, PageIndex, ParseJobIdError, RailId, SliceSeq,
};
pub use link::{ACK_RANGES_MAX, AckInfo, AckRange, LINK_BYTES_MAX, LinkMessage};
pub use slice::{
    CONTROL_ALLOWANCE_SLICES, Channel, HEADER_BYTES, PAYLOAD_MAX, SEQ_SPAN, SEQUENCED_CHANNELS,
    SliceFlags, SliceHeader, body_checksum,
};
pub use version::{CURRENT, Features, Version};
