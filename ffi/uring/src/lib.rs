//! io_uring rings whose buffers belong to the operation in flight.
