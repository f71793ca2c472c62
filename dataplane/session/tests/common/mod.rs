//! Helpers shared by the session's tests.
#![allow(dead_code)] // Each test binary uses its own part.

use dwcp_session::{Command, OutboundMeta, Session, SessionConfig};
use dwcp_wire::{AckInfo, Channel, LinkMessage, RailId, SliceFlags};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const RAIL: RailId = RailId(1);
pub(crate) const OTHER_RAIL: RailId = RailId(2);

/// Pings so far apart that tests see only what they ask for.
pub(crate) fn quiet() -> SessionConfig {
    SessionConfig {
        ping_interval_ns: 3_600_000 * MS,
        stall_ns: 7_200_000 * MS,
        window_out_slices: 8,
        window_in_slices: 8,
        ..SessionConfig::default()
    }
}

/// A session whose first pings and acks on the given rails are out of the way.
pub(crate) fn session_on(config: SessionConfig, rails: &[RailId]) -> Session {
    let mut session = Session::new(config).expect("settings");
    for rail in rails {
        session.rail_up(0, *rail).expect("rail");
    }
    while let Some(command) = session.next_command(0) {
        let Command::PostLink { rail, message } = command else { panic!("{command:?}") };
        session.link_sent(rail);
        if let LinkMessage::Ping { nonce, sent_ns } = message {
            session.link_received(0, rail, &LinkMessage::Pong { nonce, sent_ns }).expect("pong");
        }
    }
    session
}

pub(crate) fn meta(channel: Channel, seq: u64) -> OutboundMeta {
    OutboundMeta { channel, seq, bytes: 1_000, flags: SliceFlags::NONE, not_before: None }
}

pub(crate) fn submit(session: &mut Session, channel: Channel, seqs: impl IntoIterator<Item = u64>) {
    for seq in seqs {
        session.submit(meta(channel, seq)).expect("room");
    }
}

pub(crate) fn post(rail: RailId, channel: Channel, seq: u64) -> Command {
    Command::PostSlice { rail, channel, seq }
}

pub(crate) fn release(channel: Channel, seq: u64) -> Command {
    Command::Release { channel, seq }
}

/// All commands that are due.
pub(crate) fn commands(session: &mut Session, now: u64) -> Vec<Command> {
    std::iter::from_fn(|| session.next_command(now)).collect()
}

/// Lets every rail send until nothing more goes; returns what was posted, in order.
pub(crate) fn run_sends(session: &mut Session, now: u64) -> Vec<(RailId, Channel, u64)> {
    let mut posted = Vec::new();
    loop {
        let due = commands(session, now);
        if due.is_empty() {
            return posted;
        }
        for command in due {
            match command {
                Command::PostSlice { rail, channel, seq } => {
                    posted.push((rail, channel, seq));
                    session.slice_sent(rail, channel, seq);
                }
                Command::PostLink { rail, .. } => session.link_sent(rail),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Numbers only.
pub(crate) fn seqs(posted: &[(RailId, Channel, u64)]) -> Vec<u64> {
    posted.iter().map(|(_, _, seq)| *seq).collect()
}

pub(crate) fn ack(session: &mut Session, now: u64, watermarks: [u64; 3]) {
    let message = LinkMessage::Ack(AckInfo::new(watermarks));
    assert_eq!(session.link_received(now, RAIL, &message), Ok(None));
}

pub(crate) fn receive(
    session: &mut Session,
    now: u64,
    channel: Channel,
    seq: u64,
) -> dwcp_session::Receipt {
    session.slice_received(now, RAIL, channel, seq, 1_000, SliceFlags::NONE)
}
