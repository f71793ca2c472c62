//! The hello on real connections: agreement, refusal, silence, garbage.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{HANG, listener};
use dwcp_tcp::handshake::{HandshakeError, connect, read_hello, reply};
use dwcp_wire::{
    CURRENT, Features, Hello, HelloReply, JobId, Purpose, RailId, ReasonCode, Version, WireError,
};

const SHORT: Duration = Duration::from_millis(150);

fn hello() -> Hello {
    Hello::new(Purpose::Open, JobId([3; 16]), RailId(4), [0; 16])
}

/// Serves one connection with `serve` and returns what the client got.
fn meet<T: Send>(
    serve: impl FnOnce(TcpStream) -> T + Send,
    timeout: Duration,
) -> (T, Result<(TcpStream, HelloReply), HandshakeError>) {
    let (listener, addr) = listener();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || serve(listener.accept().unwrap().0));
        let got = connect(addr, &hello(), timeout);
        (server.join().unwrap(), got)
    })
}

#[test]
fn both_hear_what_the_other_said() {
    let answer = HelloReply::accepted(Features::SUPPORTED, 32, 70_000, [8; 16]);
    let (heard, got) = meet(
        |mut stream| {
            let heard = read_hello(&mut stream, HANG).unwrap();
            reply(&mut stream, &answer, HANG).unwrap();
            heard
        },
        HANG,
    );
    assert_eq!(heard, hello());
    let (stream, reply) = got.unwrap();
    assert_eq!(reply, answer);
    assert_eq!((stream.read_timeout().unwrap(), stream.write_timeout().unwrap()), (None, None));
    assert!(stream.nodelay().unwrap());
}

#[test]
fn a_refusal_carries_its_words() {
    let (_, got) = meet(
        |mut stream| {
            read_hello(&mut stream, HANG).unwrap();
            reply(&mut stream, &HelloReply::refused(ReasonCode::Busy, "8 jobs run"), HANG).unwrap();
        },
        HANG,
    );
    let Err(HandshakeError::Refused { code, reason }) = got else { panic!("{got:?}") };
    assert_eq!((code, reason.as_str()), (ReasonCode::Busy, "8 jobs run"));
}

#[test]
fn another_major_is_named_at_its_first_bytes() {
    let (_, got) = meet(
        |mut stream| {
            let mut bytes = hello().encode();
            bytes[4..6].copy_from_slice(&9u16.to_le_bytes());
            // The rest of its reply never comes: its length may differ.
            stream.write_all(&bytes[..8]).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        },
        HANG,
    );
    let Err(HandshakeError::Wire(WireError::OtherMajor { peer, ours })) = got else {
        panic!("{got:?}")
    };
    assert_eq!((peer, ours), (Version { major: 9, minor: 0 }, CURRENT));
}

#[test]
fn silence_and_drip_feed_end_at_the_deadline() {
    let (_, got) = meet(|stream| (std::thread::sleep(SHORT * 3), stream), SHORT);
    assert!(matches!(got, Err(HandshakeError::TimedOut(SHORT))), "{got:?}");
    let (listener, addr) = listener();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut slow = TcpStream::connect(addr).unwrap();
            for byte in hello().encode() {
                std::thread::sleep(SHORT / 8);
                if slow.write_all(&[byte]).is_err() {
                    return;
                }
            }
        });
        let started = Instant::now();
        let mut stream = listener.accept().unwrap().0;
        let got = read_hello(&mut stream, SHORT);
        assert!(matches!(got, Err(HandshakeError::TimedOut(_))), "{got:?}");
        assert!(started.elapsed() < SHORT * 8, "every byte bought new time");
    });
}

#[test]
fn garbage_and_hang_up_are_told_apart() {
    let garbage = |mut stream: TcpStream| stream.write_all(&[0x16; 300]).unwrap();
    let (_, got) = meet(garbage, HANG);
    assert!(matches!(got, Err(HandshakeError::Wire(WireError::NotDwcp { .. }))), "{got:?}");
    let (_, got) = meet(drop, HANG);
    // A hang-up with the hello unread is a reset.
    assert!(
        matches!(got, Err(HandshakeError::ClosedByPeer | HandshakeError::Io { .. })),
        "{got:?}"
    );
    let (listener, addr) = listener();
    drop(listener);
    let got = connect(addr, &hello(), HANG);
    assert!(matches!(got, Err(HandshakeError::Io { what: "connecting", .. })), "{got:?}");
}
