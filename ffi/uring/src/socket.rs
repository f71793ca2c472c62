//! What the kernel knows about a TCP connection (`TCP_INFO`).
//!
//! One getsockopt, no allocation: may be asked from a loop now and then.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes read of `struct tcp_info` (`linux/tcp.h`): up to and with `tcpi_bytes_retrans`.
const INFO_BYTES: usize = 216;
const RTT_AT: usize = 68;
const TOTAL_RETRANS_AT: usize = 100;
const BYTES_ACKED_AT: usize = 120;
const BYTES_RECEIVED_AT: usize = 128;
const NOT_SENT_AT: usize = 144;
const DELIVERY_RATE_AT: usize = 160;
const BYTES_RETRANS_AT: usize = 208;
const _: () = assert!(BYTES_RETRANS_AT + 8 == INFO_BYTES);

/// State of one connection. Fields the kernel does not have are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u32,
    /// Segments retransmitted so far.
    pub retransmitted_segments: u32,
    /// Bytes retransmitted so far.
    pub retransmitted_bytes: u64,
    /// Bytes the peer's kernel has acknowledged.
    pub acked_bytes: u64,
    /// Bytes that came in, in order.
    pub received_bytes: u64,
    /// Bytes in the send queue that were never sent.
    pub unsent_bytes: u32,
    /// Latest goodput estimate of the kernel, bytes per second.
    pub delivery_rate_bytes_per_s: u64,
}

/// Asks the kernel about `socket`.
///
/// # Errors
/// The kernel's, for anything but a TCP socket.
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    let mut raw = [0u8; INFO_BYTES];
    let mut len = INFO_BYTES as libc::socklen_t;
    // SAFETY: `raw` has `len` bytes, both live across the call, and the kernel writes no more.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(parse(&raw))
}

fn parse(raw: &[u8; INFO_BYTES]) -> TcpInfo {
    TcpInfo {
        rtt_us: u32_at(raw, RTT_AT),
        retransmitted_segments: u32_at(raw, TOTAL_RETRANS_AT),
        retransmitted_bytes: u64_at(raw, BYTES_RETRANS_AT),
        acked_bytes: u64_at(raw, BYTES_ACKED_AT),
        received_bytes: u64_at(raw, BYTES_RECEIVED_AT),
        unsent_bytes: u32_at(raw, NOT_SENT_AT),
        delivery_rate_bytes_per_s: u64_at(raw, DELIVERY_RATE_AT),
    }
}

fn u32_at(raw: &[u8; INFO_BYTES], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|byte| raw[at + byte]))
}

fn u64_at(raw: &[u8; INFO_BYTES], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|byte| raw[at + byte]))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn counts_what_went_over_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut far = listener.accept().unwrap().0;
        near.write_all(&[7; 5000]).unwrap();
        far.read_exact(&mut [0; 5000]).unwrap();
        far.write_all(&[7; 3000]).unwrap();
        near.read_exact(&mut [0; 3000]).unwrap();
        let info = tcp_info(&near).unwrap();
        // The kernel counts the SYN as acked.
        assert!((5000..=5001).contains(&info.acked_bytes), "{info:?}");
        assert_eq!((info.received_bytes, info.unsent_bytes), (3000, 0));
        assert!(info.rtt_us > 0);
        assert!(
            tcp_info(rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap())
                .is_err()
        );
    }
}
