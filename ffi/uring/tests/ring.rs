//! A real ring on real sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dwcp_hostmem::{Arena, HugePages};
use dwcp_uring::{Buffer, Completion, Event, Ring, RingConfig, SendMode};

const LONG: Duration = Duration::from_secs(20);

fn ring() -> Ring {
    Ring::new(RingConfig { entries: 8, ops_max: 32 }).unwrap()
}

fn pair() -> (Arc<OwnedFd>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    (Arc::new(near.into()), far)
}

fn next(ring: &mut Ring) -> Completion {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(done) = ring.next_completion() {
            return done;
        }
        assert!(Instant::now() < deadline, "no completion");
        ring.wait(Some(Duration::from_millis(100)), || false).unwrap();
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 253) as u8).collect()
}

#[test]
fn a_long_send_completes_whole_although_the_socket_is_small() {
    let mut ring = ring();
    let (near, mut far) = pair();
    let bytes = pattern(8 << 20);
    let len = bytes.len();
    ring.send(5, &near, Buffer::Heap(bytes.clone()), 0..len, SendMode::Copy).unwrap();
    ring.submit().unwrap();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; len];
        far.read_exact(&mut got).unwrap();
        got
    });
    let done = next(&mut ring);
    assert_eq!(done.tag, 5);
    let Event::Sent { result, buffer: Some(buffer) } = done.event else { panic!("{done:?}") };
    assert_eq!(result.unwrap(), len);
    assert_eq!(buffer[..], bytes[..]);
    assert_eq!(reader.join().unwrap(), bytes);
}

#[test]
fn a_receive_waits_for_all_its_bytes_and_stops_at_the_end() {
    let mut ring = ring();
    let (near, mut far) = pair();
    let arena = Arena::new(2, 8192, HugePages::Never).unwrap();
    assert!(ring.register_arena(&arena));
    for part in [3000, 2000] {
        let slot = arena.take().unwrap();
        ring.recv(1, &near, Buffer::Slot(slot), 100..4100).unwrap();
        ring.submit().unwrap();
        far.write_all(&pattern(part)).unwrap();
        if part == 3000 {
            ring.wait(Some(Duration::from_millis(30)), || false).unwrap();
            assert!(ring.next_completion().is_none(), "1000 bytes are missing");
            far.write_all(&pattern(1000)).unwrap();
        } else {
            far.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let done = next(&mut ring);
        let Event::Received { result, buffer } = done.event else { panic!("{done:?}") };
        let expected = if part == 3000 { 4000 } else { 2000 };
        assert_eq!(result.unwrap(), expected);
        assert_eq!(buffer[100..100 + part], pattern(part)[..]);
    }
    assert_eq!(arena.free_slots(), 2);
}

#[test]
fn zero_copy_gives_the_buffer_back_once_with_the_notification() {
    let mut ring = ring();
    let (near, mut far) = pair();
    let arena = Arena::new(1, 1 << 20, HugePages::Auto).unwrap();
    let registered = ring.register_arena(&arena);
    let mut slot = arena.take().unwrap();
    let bytes = pattern(slot.len());
    slot.copy_from_slice(&bytes);
    let len = slot.len();
    ring.send(9, &near, Buffer::Slot(slot), 0..len, SendMode::ZeroCopy).unwrap();
    ring.submit().unwrap();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; len];
        far.read_exact(&mut got).unwrap();
        got
    });
    let first = next(&mut ring);
    let Event::Sent { result, buffer: None } = first.event else {
        panic!("registered: {registered}, {first:?}")
    };
    assert_eq!(result.unwrap(), len);
    assert_eq!((arena.free_slots(), ring.in_flight()), (0, 1));
    let second = next(&mut ring);
    assert_eq!((second.op, second.tag), (first.op, 9));
    let Event::Notified { buffer, was_copied } = second.event else { panic!("{second:?}") };
    assert!(was_copied, "loopback always copies");
    assert_eq!(buffer[..], bytes[..]);
    drop(buffer);
    assert_eq!((arena.free_slots(), ring.in_flight()), (1, 0));
    assert_eq!(reader.join().unwrap(), bytes);
}

#[test]
fn by_reference_the_whole_slot_arrives_while_the_ring_receives() {
    let mut ring = ring();
    let (near, mut far) = pair();
    let arena = Arena::new(1, 8 << 20, HugePages::Auto).unwrap();
    let mut slot = arena.take().unwrap();
    let bytes = pattern(slot.len());
    slot.copy_from_slice(&bytes);
    let len = slot.len();
    // A receive that waits must go on waiting although the socket's flag changes.
    ring.recv(2, &near, Buffer::Heap(vec![0; 4]), 0..4).unwrap();
    ring.submit().unwrap();
    ring.send(1, &near, Buffer::Slot(slot), 3..len, SendMode::ByReference).unwrap();
    assert!(ring.next_completion().is_none(), "8 MiB went into a socket that nobody reads");
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; len - 3];
        far.read_exact(&mut got).unwrap();
        far.write_all(b"done").unwrap();
        (got, far)
    });
    let done = next(&mut ring);
    let Event::Sent { result, buffer: Some(buffer) } = done.event else { panic!("{done:?}") };
    assert_eq!((done.tag, result.unwrap()), (1, len - 3));
    let answer = next(&mut ring);
    let Event::Received { result, buffer: word } = answer.event else { panic!("{answer:?}") };
    assert_eq!((result.unwrap(), &word[..]), (4, &b"done"[..]));
    assert_eq!(reader.join().unwrap().0, bytes[3..]);
    drop(buffer);
    assert_eq!((arena.free_slots(), ring.in_flight()), (1, 0));
}

#[test]
fn by_reference_a_cancel_or_a_broken_connection_gives_the_slot_back() {
    let arena = Arena::new(1, 8 << 20, HugePages::Auto).unwrap();
    for breaks in [false, true] {
        let mut ring = ring();
        let (near, far) = pair();
        let slot = arena.take().unwrap();
        let len = slot.len();
        let op = ring.send(1, &near, Buffer::Slot(slot), 0..len, SendMode::ByReference).unwrap();
        ring.submit().unwrap();
        if breaks {
            drop(far);
        } else {
            ring.cancel(op);
        }
        let done = next(&mut ring);
        let Event::Sent { result, buffer: Some(_) } = done.event else { panic!("{done:?}") };
        assert!(result.is_err());
        assert_eq!(ring.in_flight(), 0);
    }
    assert_eq!(arena.free_slots(), 1);
}

#[test]
fn cancel_ends_a_receive_and_returns_its_buffer() {
    let mut ring = ring();
    let (near, _far) = pair();
    let op = ring.recv(1, &near, Buffer::Heap(vec![0; 16]), 0..16).unwrap();
    ring.submit().unwrap();
    ring.cancel(op);
    let done = next(&mut ring);
    let Event::Received { result, .. } = done.event else { panic!("{done:?}") };
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc_ecanceled()));
    ring.cancel(op);
    assert_eq!(ring.in_flight(), 0);
}

fn libc_ecanceled() -> i32 {
    rustix::io::Errno::CANCELED.raw_os_error()
}

#[test]
fn a_broken_connection_is_an_error_of_the_operation() {
    let mut ring = ring();
    let (near, far) = pair();
    drop(far);
    for _ in 0..2 {
        ring.send(1, &near, Buffer::Heap(vec![1; 64]), 0..64, SendMode::Copy).unwrap();
        ring.wait(Some(Duration::from_millis(50)), || false).unwrap();
    }
    let mut failed = false;
    for _ in 0..2 {
        let Event::Sent { result, buffer: Some(_) } = next(&mut ring).event else { panic!() };
        failed |= result.is_err();
    }
    assert!(failed);
}

#[test]
fn the_waker_ends_a_sleep_and_is_not_lost_before_it() {
    let mut ring = ring();
    let waker = ring.waker();
    let started = Instant::now();
    for _ in 0..200 {
        let other = waker.clone();
        let published = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let work = Arc::clone(&published);
        let thread = std::thread::spawn(move || {
            work.store(true, std::sync::atomic::Ordering::Release);
            other.wake();
        });
        let seen = || published.load(std::sync::atomic::Ordering::Acquire);
        while !seen() {
            ring.wait(Some(LONG), seen).unwrap();
            while ring.next_completion().is_some() {}
        }
        thread.join().unwrap();
    }
    assert!(started.elapsed() < LONG, "a wake-up was lost");
}

#[test]
fn a_full_ring_gives_the_buffer_back() {
    let mut ring = Ring::new(RingConfig { entries: 2, ops_max: 3 }).unwrap();
    let (near, _far) = pair();
    for _ in 0..3 {
        ring.recv(1, &near, Buffer::Heap(vec![0; 8]), 0..8).unwrap();
    }
    let rejected = ring.recv(1, &near, Buffer::Heap(vec![7; 8]), 0..8).unwrap_err();
    assert_eq!(rejected.buffer[..], [7; 8]);
}

#[test]
fn drop_with_operations_in_flight_returns_their_buffers() {
    let arena = Arena::new(4, 4096, HugePages::Never).unwrap();
    let (near, _far) = pair();
    let mut ring = ring();
    for _ in 0..4 {
        let slot = arena.take().unwrap();
        ring.recv(1, &near, Buffer::Slot(slot), 0..4096).unwrap();
    }
    ring.submit().unwrap();
    assert_eq!(arena.free_slots(), 0);
    drop(ring);
    assert_eq!(arena.free_slots(), 4);
}

#[test]
#[should_panic(expected = "of 8 bytes")]
fn a_range_outside_the_buffer_is_a_bug() {
    let (near, _far) = pair();
    let _ = ring().recv(1, &near, Buffer::Heap(vec![0; 8]), 4..9);
}
