//! The first words on a connection: blocking, bounded in time and size.
//!
//! Runs on the caller's thread before the rail joins a loop. A peer that is slow, silent or
//! something else costs one deadline and a few hundred bytes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use dwcp_wire::{
    HELLO_BYTES, HELLO_PREFIX_BYTES, HELLO_REPLY_BYTES, Hello, HelloReply, HelloStatus, ReasonCode,
    WireError,
};

/// Why there is no rail.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed: retry, or check address and port.
    #[error("{what} failed: {source}")]
    Io {
        /// The step.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The peer did not say enough in time: retry.
    #[error("the peer did not finish its hello within {0:?}")]
    TimedOut(Duration),
    /// The peer closed before its message was complete.
    #[error("the peer closed the connection during the handshake")]
    ClosedByPeer,
    /// The peer is something else or damaged: abort.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The peer understood and refused: see the code for whether a retry helps.
    #[error("the peer refused ({code}): {reason}")]
    Refused {
        /// Its code.
        code: ReasonCode,
        /// Its words.
        reason: String,
    },
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> HandshakeError {
    move |source| HandshakeError::Io { what, source }
}

/// Connects, says `hello` and hears the answer, all within `timeout`.
///
/// # Errors
/// [`HandshakeError`]; a refusal is one too.
pub fn connect(
    addr: SocketAddr,
    hello: &Hello,
    timeout: Duration,
) -> Result<(TcpStream, HelloReply), HandshakeError> {
    let deadline = Instant::now() + timeout;
    let stream = TcpStream::connect_timeout(&addr, timeout).map_err(failed("connecting"))?;
    greet(stream, hello, deadline, timeout)
}

/// [`connect`] on a connection that is already there (a bound source port, a proxy).
///
/// # Errors
/// [`HandshakeError`]; a refusal is one too.
pub fn connect_over(
    stream: TcpStream,
    hello: &Hello,
    timeout: Duration,
) -> Result<(TcpStream, HelloReply), HandshakeError> {
    greet(stream, hello, Instant::now() + timeout, timeout)
}

fn greet(
    mut stream: TcpStream,
    hello: &Hello,
    deadline: Instant,
    timeout: Duration,
) -> Result<(TcpStream, HelloReply), HandshakeError> {
    prepare(&stream)?;
    send(&mut stream, &hello.encode(), timeout)?;
    let bytes = read_message::<HELLO_REPLY_BYTES>(&mut stream, deadline, timeout)?;
    let reply = HelloReply::decode(&bytes)?;
    hello.features.agree(reply.features)?;
    clear(&stream)?;
    match reply.status {
        HelloStatus::Accepted => Ok((stream, reply)),
        HelloStatus::Refused(code) => Err(HandshakeError::Refused { code, reason: reply.reason }),
    }
}

/// Hears the hello of a peer that connected, within `timeout`. Whether its features fit is for
/// [`dwcp_wire::Features::agree`]; answer with [`reply`] in any case, then the peer knows why.
///
/// # Errors
/// [`HandshakeError`].
pub fn read_hello(stream: &mut TcpStream, timeout: Duration) -> Result<Hello, HandshakeError> {
    prepare(stream)?;
    let deadline = Instant::now() + timeout;
    let bytes = read_message::<HELLO_BYTES>(stream, deadline, timeout)?;
    clear(stream)?;
    Ok(Hello::decode(&bytes)?)
}

/// Answers a hello.
///
/// # Errors
/// [`HandshakeError::Io`], [`HandshakeError::TimedOut`].
pub fn reply(
    stream: &mut TcpStream,
    reply: &HelloReply,
    timeout: Duration,
) -> Result<(), HandshakeError> {
    send(stream, &reply.encode(), timeout)?;
    clear(stream)
}

fn prepare(stream: &TcpStream) -> Result<(), HandshakeError> {
    stream.set_nonblocking(false).map_err(failed("setting up the connection"))?;
    stream.set_nodelay(true).map_err(failed("setting up the connection"))
}

fn clear(stream: &TcpStream) -> Result<(), HandshakeError> {
    stream.set_read_timeout(None).map_err(failed("setting up the connection"))?;
    stream.set_write_timeout(None).map_err(failed("setting up the connection"))
}

fn send(stream: &mut TcpStream, bytes: &[u8], timeout: Duration) -> Result<(), HandshakeError> {
    stream.set_write_timeout(Some(timeout)).map_err(failed("setting up the connection"))?;
    stream.write_all(bytes).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => HandshakeError::TimedOut(timeout),
        _ => HandshakeError::Io { what: "sending the hello", source },
    })
}

/// Reads a message of fixed size; looks at its first bytes before it waits for the rest.
fn read_message<const N: usize>(
    stream: &mut TcpStream,
    deadline: Instant,
    timeout: Duration,
) -> Result<[u8; N], HandshakeError> {
    let mut bytes = [0; N];
    let (prefix, rest) = bytes.split_at_mut(HELLO_PREFIX_BYTES);
    read_exact(stream, prefix, deadline, timeout)?;
    let mut first = [0; HELLO_PREFIX_BYTES];
    first.copy_from_slice(prefix);
    Hello::check_prefix(&first)?;
    read_exact(stream, rest, deadline, timeout)?;
    Ok(bytes)
}

fn read_exact(
    stream: &mut TcpStream,
    mut into: &mut [u8],
    deadline: Instant,
    timeout: Duration,
) -> Result<(), HandshakeError> {
    while !into.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HandshakeError::TimedOut(timeout));
        }
        stream.set_read_timeout(Some(left)).map_err(failed("setting up the connection"))?;
        match stream.read(into) {
            Ok(0) => return Err(HandshakeError::ClosedByPeer),
            Ok(count) => into = &mut into[count..],
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    return Err(HandshakeError::TimedOut(timeout));
                }
                _ => return Err(failed("reading the hello")(error)),
            },
        }
    }
    Ok(())
}
