//! Source and target jobs; the binary dwcp-engine.
