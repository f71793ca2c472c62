//! Handover of one running guest between two hosts: who may run it, decided once.
//!
//! Pure state machines: events in, commands out. This crate has no clock, socket, thread, file or
//! random source; the shells of both planes own those. It must not know QMP, frames or gRPC.
//!
//! # Sequence
//!
//! ```text
//! source QEMU     Source (parent)        child            Target          Ledger   target QEMU
//!     |<- migrate ----|<- ChildReady ------|                 |<- QemuPrepared |         |
//!     |== pages ===========================|===============> |================|=======> |
//!     |               |<- StopRequested ---|                 |                |         |
//!     |     PersistInDoubt (fsync)         |                 |                |         |
//!     |<- stop -------|                    |                 |                |         |
//!     |<- message 7 --| LetSwitchover      |                 |                |         |
//!     |== last pages ======================|===============> | RootsCompared  |         |
//!     |               |<- RootsMatched ----|<----------------|                |         |
//!     |               |<- GoRequested -----| holds the last slice             |         |
//!     |               |-- GrantGo -------->|                 |                |         |
//!  - - - - - - - - before GO the source decides alone; after it, only the ledger  - - - - - - -
//!     |               |                    |== last slice ==>| TailReceived   |         |
//!     |               |                    |                 |<- LoadCompleted ---------|
//!     |               |                    |                 |-- Propose ---->| fsync   |
//!     |               |                    |                 |<- Decided -----|         |
//!     |               |                    |     PersistArrival(ContSent)     |         |
//!     |               |                    |                 |-- cont ----------------->|
//!     |               |                    |                 |<- RESUME ----------------|
//!     |               |                    |                 |-- announce-self -------->|
//!     |               |<- OutcomeLearned(Committed, Running) |                |         |
//!     |<- SHUT(0) ----| ReleaseShut        |                 |                |         |
//! ```
//!
//! # Source
//!
//! ```text
//! Preflight -> Precopy -> Recording -> Stopping -> [Amending] -> Stopped -> GoGranted
//!     |           |           |           |            |            |        |     |
//!     +-----------+-----------+-----------+------------+------------+        |     | path broken
//!     | any failure: close the sockets, resume at once if we stopped it      |     v
//!     v                                                                      | Resolving <- restart
//! Resuming -> Done(Aborted) <------------- learned: aborted -----------------+-----+   from record
//!             Done(Completed) <----------- learned: committed and running ---+-----+
//!             Done(Forced) <- Forcing <--- an operator, at his own risk -----+-----+
//! ```
//! A guest that does not run at the start goes from Preflight straight to Recording and migrates
//! only when stopped. Time-outs after GO only propose `aborted` to the ledger.
//!
//! # Target
//!
//! ```text
//! Preparing -> Prepared -> Receiving -> RootChecked -> TailReceived -> Deciding
//!     any failure, cancel or deadline proposes aborted ----------------^ |  |
//!                                                                aborted |  | committed
//! Aborted <- Destroying <------------------------------------------------+  |
//!                ^                                                          v
//!                |                 to be run: RecordingCont -> Starting ----+
//!                |      to be left paused, or after a restart: Inspecting --+
//!                |                                                          |
//!           HandingBack <-- QEMU gone or cont refused, and it never ran ----+
//!       (under a higher fence)                                              v
//!                                          Arrived(Running | LeftPaused | Lost)
//! ```
//!
//! # Recovery of the target after kill -9
//!
//! | ledger | target record | target QEMU | then |
//! | --- | --- | --- | --- |
//! | open | any | any | propose aborted; destroy |
//! | aborted, handed back | any | any | destroy; tell |
//! | committed | prepared | paused | record `cont_sent`, `cont`; or left paused as wanted |
//! | committed | prepared | gone | it never ran: hand back |
//! | committed | `cont_sent` | running | arrived |
//! | committed | `cont_sent` | paused | `cont` again |
//! | committed | `cont_sent` | gone | it may have run: lost, never handed back |
//!
//! # What the shell owes
//!
//! * Commands of one call are executed in order, before the next event is given.
//! * A `Persist...` command is durable (file and directory) before the next command. If it fails,
//!   the process ends: what the disk holds is then unknown, and recovery reads it.
//! * One job runs per (guest, state directory): an unsettled [`SourceRecord`] of a guest is settled
//!   before a new job of that guest begins, else its late outcome would meet the wrong handover.
//! * `RetryDue` comes at intervals as long as a role is not over.
#![forbid(unsafe_code)]

mod decision;
mod hex;
mod ids;
mod ledger;
mod notes;
mod record;
mod source;
mod state;
mod target;

pub use decision::{
    AbortReason, Arrival, Decision, DecisionRecord, DecisionState, Force, Outcome, RunState, Start,
};
pub use ids::{EndpointsDigest, Epoch, Fence, IdError, Incarnation, JobId, Ticket, VmId};
pub use ledger::{LEDGER_JOBS_MAX, Ledger, LedgerError, OpenRequest, Staged};
pub use notes::{NOTE_KEY_BYTES_MAX, NOTE_VALUE_BYTES_MAX, NOTES_MAX, NoteError, Notes};
pub use record::{
    RECORD_BYTES_MAX, RECORD_VERSION, Record, RecordError, SourceRecord, TargetRecord,
};
pub use source::{Source, SourceCommand, SourceEvent, SourcePhase, SourceStatus};
pub use state::{ArrivalState, Ending, SourceState};
pub use target::{QemuState, Target, TargetCommand, TargetEvent, TargetPhase, TargetStatus};
