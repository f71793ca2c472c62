//! The engine on real QEMU with the small guest: plain moves, bad input, and faults at every phase.
//! Each test skips where QEMU is missing.

mod content;
mod cuts;
mod faults;
mod lab;
mod moves;
mod proxy;
mod refusals;
mod watch;
