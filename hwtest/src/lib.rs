//! Harness for tests on real guests and namespaces.
