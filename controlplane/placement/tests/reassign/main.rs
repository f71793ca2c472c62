//! The reassignment model and its solvers against an independent checker.

mod checker;
mod format;
mod instances;
mod public;
mod solvers;
