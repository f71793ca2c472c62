//! The session over TCP streams on io_uring.
