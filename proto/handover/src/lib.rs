//! Tickets, epochs and the commit roles source, target and ledger, as pure state machines.
#![forbid(unsafe_code)]
