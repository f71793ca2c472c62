//! Seeded simulation of sessions and handovers over a faulty network.
