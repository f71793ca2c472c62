//! What can be wrong with an instance.

/// A text that is no instance: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, {field}: {problem}")]
pub struct ParseError {
    /// Line, from 1. One past the last line when the text ends early.
    pub line: usize,
    /// The field in words, such as "capacity of resource 2 of machine 7" (counted from 0, as in the
    /// format).
    pub field: String,
    /// What is wrong with it and what would be right.
    pub problem: String,
}

/// Numbers that are no instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// There is nowhere to put anything.
    #[error("there are no machines: add at least one")]
    NoMachines,
    /// A table has another size than the counts say.
    #[error("{table} has {found} entries, {expected} are needed")]
    Size {
        /// Which table.
        table: &'static str,
        /// Its length.
        found: usize,
        /// The length that fits the rest.
        expected: usize,
    },
    /// More than the solvers are built for.
    #[error("{count} {what}, at most {max} are supported: split the instance")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many may be.
        max: usize,
    },
    /// An index points past the end.
    #[error("{what} is {index}, but there are {count}")]
    Index {
        /// Which index.
        what: String,
        /// Its value.
        index: u64,
        /// One more than the highest allowed value.
        count: usize,
    },
    /// A number is negative.
    #[error("{what} is negative")]
    Negative {
        /// Which number.
        what: String,
    },
    /// Costs could exceed what is counted exactly.
    #[error("the {what} of this instance could reach {bound}, beyond 2^53: scale its units down")]
    TooLarge {
        /// Which sum.
        what: &'static str,
        /// Its upper bound, saturated at `i128::MAX`.
        bound: i128,
    },
}
