//! Harness for tests and benchmarks on real guests: builds them, runs them under stock QEMU in network
//! namespaces, and watches from outside that nothing is lost.
//! Everything started here ends with its owner: processes, namespaces and files are removed on drop.
#![forbid(unsafe_code)]

pub mod cpu;
pub mod engine;
pub mod guest;
pub mod interrupt;
pub mod migrate;
pub mod net;
pub mod probe;
pub mod pss;
pub mod qemu;
pub mod ram;
pub mod tick;
pub mod workdir;

mod run;
