//! Slices over real connections that break: everything arrives once, whole and in order.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{HANG, Seen, Side, WINDOW, check, config, join, pair, side, slice, wait_for};
use dwcp_tcp::{Body, Endpoint, Inbound, NetEvent, PagesSink, PollMode, ZeroCopy};
use dwcp_wire::{Channel, ReasonCode};

/// Sends `counts[channel]` slices of each channel, interleaved.
fn send_all(from: &Side, counts: [u64; 3]) {
    let longest = counts.into_iter().max().unwrap();
    for seq in 0..longest {
        for (channel, count) in Channel::SEQUENCED.into_iter().zip(counts) {
            if seq < count {
                let last = seq + 1 == count;
                from.endpoint.submit(slice(from, channel, seq, last)).unwrap();
            }
        }
    }
}

fn leave(a: &Side, b: &Side) {
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(a.endpoint.close(ReasonCode::Finished, HANG)));
        let mut rest = Seen::default();
        rest.until(b, |seen| seen.goodbye && seen.all_down > 0);
    });
    assert!(b.endpoint.close(ReasonCode::Finished, HANG));
    for side in [a, b] {
        assert_eq!(side.endpoint.unacked(), (0, 0));
        assert_eq!(side.arena_out.free_slots(), side.arena_out.slots());
    }
    assert_eq!(b.arena_in.free_slots(), b.arena_in.slots());
}

fn both_ways(a: &Side, b: &Side, there: [u64; 3], back: [u64; 3]) {
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(a, there));
        scope.spawn(|| send_all(b, back));
        scope.spawn(|| Seen::default().until(a, |seen| seen.counts == back));
        Seen::default().until(b, |seen| seen.counts == there);
    });
    wait_for("the last ack", || a.endpoint.unacked().0 == 0 && b.endpoint.unacked().0 == 0);
    for (channel, count) in Channel::SEQUENCED.into_iter().zip(there) {
        assert_eq!(a.endpoint.acked_below(channel), count);
    }
}

#[test]
fn all_channels_both_ways_over_three_rails() {
    let (a, b) = pair();
    let _breakers: Vec<_> = (0..3).map(|id| join(&a, &b, id)).collect();
    both_ways(&a, &b, [40, 120, 400], [70, 20, 90]);
    let stats = a.endpoint.stats();
    assert_eq!((stats.resent_slices, stats.duplicate_slices, stats.violations), (0, 0, 0));
    assert!(stats.rtt_us > 0 && stats.rails == 3);
    assert!(stats.tx_bytes > stats.acked_bytes && stats.acked_bytes > 0);
    leave(&a, &b);
}

#[test]
fn one_rail_alone_and_every_poll_mode() {
    for poll in [PollMode::Adaptive, PollMode::Spin, PollMode::Sleep] {
        let mut settings = config();
        settings.poll = poll;
        settings.core = dwcp_hostmem::online_cores().last().copied();
        let (a, b) = (side(settings), side(config()));
        let _breaker = join(&a, &b, 1);
        both_ways(&a, &b, [3, 10, 40], [2, 5, 30]);
        leave(&a, &b);
    }
}

#[test]
fn a_sink_takes_pages_in_the_loop_and_may_decline() {
    let a = side(config());
    let (seen_in, seen_out) = crossbeam::channel::unbounded();
    let settings = config();
    let arena_in = std::sync::Arc::clone(&settings.arena);
    let sink: PagesSink = Box::new(move |slice: &Inbound| {
        check(slice);
        let takes = !slice.seq.is_multiple_of(3);
        if takes {
            seen_in.send(slice.seq).unwrap();
        }
        takes
    });
    let (endpoint, events) = Endpoint::start_with_sink(settings, sink).unwrap();
    let arena_out = dwcp_hostmem::Arena::new(1, 1, dwcp_hostmem::HugePages::Never).unwrap();
    let b = Side { endpoint, events, arena_in, arena_out };
    let _breaker = join(&a, &b, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(&a, [4, 10, 300]));
        Seen::default().until(&b, |seen| seen.counts == [4, 10, 100]);
    });
    wait_for("the last ack", || a.endpoint.unacked().0 == 0);
    let taken: std::collections::BTreeSet<u64> = seen_out.try_iter().collect();
    assert!(taken.into_iter().eq((0..300).filter(|seq| seq % 3 != 0)));
    leave(&a, &b);
}

#[test]
fn zero_copy_is_probed_and_gives_way_where_it_copies() {
    let mut settings = config();
    settings.zero_copy = ZeroCopy::Probe;
    let (a, b) = (side(settings), side(config()));
    let _breakers: Vec<_> = (0..2).map(|id| join(&a, &b, id)).collect();
    both_ways(&a, &b, [3, 40, 150], [1, 1, 1]);
    assert_eq!(a.endpoint.stats().zero_copy_sends, 0, "loopback always copies");
    leave(&a, &b);
}

/// Cuts random rails and brings new ones while slices flow; at times none is left.
fn break_rails(a: &Side, b: &Side, stop: &AtomicBool) -> usize {
    let mut rails: Vec<_> = (0..3).map(|id| (id, join(a, b, id))).collect();
    let mut next_id = 3;
    let mut dice = 12345u32;
    let mut cuts = 0;
    while !stop.load(Ordering::Relaxed) {
        dice = dice.wrapping_mul(1664525).wrapping_add(1013904223);
        std::thread::sleep(Duration::from_millis(u64::from(dice >> 28)));
        let victims = if dice >> 20 & 7 == 0 { rails.len() } else { 1 };
        for _ in 0..victims {
            rails.remove((dice >> 8) as usize % rails.len()).1.cut();
            cuts += 1;
        }
        while rails.len() < 3 {
            rails.push((next_id, join(a, b, next_id)));
            next_id += 1;
        }
    }
    cuts
}

#[test]
fn rails_die_at_random_and_nothing_is_lost_or_doubled() {
    let (a, b) = pair();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let breaker = scope.spawn(|| break_rails(&a, &b, &stop));
        both_ways(&a, &b, [60, 500, 2500], [40, 50, 600]);
        stop.store(true, Ordering::Relaxed);
        let cuts = breaker.join().unwrap();
        assert!(cuts > 10, "only {cuts} rails were cut");
    });
    let stats = a.endpoint.stats();
    assert!(stats.resent_slices > 0, "no cut hit a slice: {stats:?}");
    assert_eq!(stats.violations, 0);
}

#[test]
fn the_session_waits_without_rails_and_resumes() {
    let (a, b) = pair();
    let first = join(&a, &b, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(&a, [5, 50, 200]));
        let mut seen = Seen::default();
        seen.until(&b, |seen| seen.counts[2] > 20);
        first.cut();
        seen.until(&b, |seen| seen.all_down == 1);
        let waiting = seen.counts;
        std::thread::sleep(Duration::from_millis(50));
        assert!(b.events.is_empty(), "slices without a rail");
        assert_ne!(waiting, [5, 50, 200]);
        let _second = join(&a, &b, 2);
        seen.until(&b, |seen| seen.counts == [5, 50, 200]);
        assert_eq!(seen.all_down, 1);
        assert_eq!(seen.down.len(), 1);
    });
}

#[test]
fn a_consumer_that_stops_holds_the_sender_back() {
    let (a, b) = pair();
    let _breaker = join(&a, &b, 1);
    let mut held = Vec::new();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_all(&a, [0, 0, 300]));
        wait_for("the window fills", || b.events.len() > WINDOW as usize);
        std::thread::sleep(Duration::from_millis(100));
        while let Ok(event) = b.events.try_recv() {
            held.extend(match event {
                NetEvent::Inbound(slice) => Some(slice),
                _ => None,
            });
        }
        // Empty bodies need no slot, but count in the window.
        assert_eq!(held.len(), WINDOW as usize);
        let in_slots = held.iter().filter(|slice| matches!(slice.body, Body::Slot { .. })).count();
        assert_eq!(b.arena_in.free_slots(), WINDOW as usize - in_slots);
        assert!(!sender.is_finished(), "nothing holds the sender");
        assert_eq!(a.arena_out.free_slots(), 0, "the sender was stopped before its arena was");
        let mut seen = Seen::default();
        for slice in held {
            seen.take(&b.endpoint, NetEvent::Inbound(slice));
        }
        seen.until(&b, |seen| seen.counts[2] == 300);
    });
    assert_eq!(b.endpoint.stats().slot_waits, 0);
}

#[test]
fn the_rate_ceiling_holds_and_can_be_lifted() {
    const RATE: u64 = 20 << 20;
    let (a, b) = pair();
    a.endpoint.set_rate(Some(RATE)).unwrap();
    let _breaker = join(&a, &b, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(&a, [0, 0, 1000]));
        let started = Instant::now();
        let mut seen = Seen::default();
        seen.until(&b, |_| started.elapsed() > Duration::from_millis(500));
        let allowed = RATE as f64 * started.elapsed().as_secs_f64();
        let received = b.endpoint.stats().rx_bytes as f64;
        assert!(received < allowed * 1.2 + 2e6, "{received} bytes where {allowed} are allowed");
        assert!(received > 0.0);
        a.endpoint.set_rate(None).unwrap();
        seen.until(&b, |seen| seen.counts[2] == 1000);
    });
}

#[test]
fn close_under_load_delivers_what_was_submitted() {
    let (a, b) = pair();
    let _breakers: Vec<_> = (0..2).map(|id| join(&a, &b, id)).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            send_all(&a, [10, 30, 200]);
            assert!(a.endpoint.close(ReasonCode::Finished, HANG));
        });
        let mut seen = Seen::default();
        seen.until(&b, |seen| seen.goodbye && seen.all_down > 0);
        assert_eq!(seen.counts, [10, 30, 200]);
    });
    assert!(a.endpoint.submit(slice(&a, Channel::Control, 10, false)).is_err());
    assert_eq!(a.endpoint.unacked().0, 0);
}

#[test]
fn close_without_a_rail_gives_up_at_its_deadline() {
    let (a, _b) = pair();
    a.endpoint.submit(slice(&a, Channel::Pages, 0, false)).unwrap();
    let started = Instant::now();
    assert!(!a.endpoint.close(ReasonCode::Cancelled, Duration::from_millis(100)));
    assert!(started.elapsed() < HANG);
    assert_eq!(a.arena_out.free_slots(), a.arena_out.slots());
}

#[test]
fn dropping_the_last_handle_ends_the_thread() {
    let (a, b) = pair();
    let _breaker = join(&a, &b, 1);
    send_all(&a, [0, 0, 4]);
    let Side { endpoint, events, arena_out, .. } = a;
    let other = endpoint.clone();
    drop(endpoint);
    assert_eq!(other.stats().violations, 0);
    drop(other);
    wait_for("the thread ends", || {
        matches!(events.try_recv(), Err(crossbeam::channel::TryRecvError::Disconnected))
    });
    assert_eq!(arena_out.free_slots(), arena_out.slots());
    Seen::default().until(&b, |seen| seen.all_down == 1);
}
