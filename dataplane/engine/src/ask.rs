//! Asking a target's ledger over a connection of its own: one question, one answer. Used when the
//! session is gone, by the parent and by `resolve`. Blocks its thread for at most [`ASK_TIMEOUT`].

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dwcp_handover::{AbortReason, Fence, JobId, Outcome};
use dwcp_tcp::handshake;
use dwcp_wire::{
    CONTROL_BYTES_MAX, Channel, ControlMessage, Epoch, Generation, HEADER_BYTES, Hello, Purpose,
    RailId, SliceFlags, SliceHeader, SliceSeq, body_checksum,
};

use crate::error::{Class, Doing, EngineError, Result, class_of};
use crate::outcome;

/// How long one question may take.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks what became of a job; with a reason, asks to abort it unless it is decided.
///
/// # Errors
/// The target cannot be reached or does not answer as it should.
pub fn ask(
    to: SocketAddr,
    job: JobId,
    fence: Fence,
    abort: Option<AbortReason>,
) -> Result<Outcome> {
    let wire_job = dwcp_wire::JobId(job.0);
    let hello = Hello::new(Purpose::Query, wire_job, RailId(0), [0; 16]);
    let (mut stream, _) = handshake::connect(to, &hello, ASK_TIMEOUT).map_err(|e| match e {
        handshake::HandshakeError::Refused { code, .. } => {
            EngineError::new(class_of(code), format!("asking {to}: {e}"))
        }
        _ => EngineError::new(Class::Unreachable, format!("asking {to}: {e}")),
    })?;
    let question = match abort {
        None => ControlMessage::Query { job: wire_job },
        Some(reason) => ControlMessage::RequestAbort {
            job: wire_job,
            epoch: Epoch(fence.epoch.0),
            reason: reason.name().to_owned(),
        },
    };
    write_message(&mut stream, wire_job, &question)?;
    match read_message(&mut stream, wire_job)? {
        ControlMessage::Outcome(answer) if answer.job == wire_job => {
            Ok(outcome::from_wire(&answer))
        }
        _ => Err(EngineError::new(Class::Failed, format!("{to} answered something else"))),
    }
}

/// Writes one control message as a slice of its own, outside any session.
///
/// # Errors
/// The socket's failure.
pub fn write_message(
    stream: &mut TcpStream,
    job: dwcp_wire::JobId,
    message: &ControlMessage,
) -> Result<()> {
    let body = encoded(message)?;
    let header = SliceHeader {
        channel: Channel::Control,
        flags: SliceFlags::LAST,
        job_tag: job.tag(),
        epoch: Epoch(0),
        generation: Generation(0),
        seq: SliceSeq(0),
        length: body.len() as u32,
        checksum: body_checksum(&body),
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(&body);
    stream.set_write_timeout(Some(ASK_TIMEOUT)).doing(|| "asking".to_owned())?;
    stream.write_all(&bytes).doing(|| "asking".to_owned())
}

/// A control message's bytes.
///
/// # Errors
/// A text or list in it is longer than the wire allows.
pub fn encoded(message: &ControlMessage) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    message
        .encode(&mut body)
        .map_err(|e| EngineError::new(Class::Failed, format!("encoding a message: {e}")))?;
    Ok(body)
}

/// Reads one such message, bounded in length and time.
///
/// # Errors
/// The socket's failure, or bytes that are no such message.
pub fn read_message(stream: &mut TcpStream, job: dwcp_wire::JobId) -> Result<ControlMessage> {
    let wrong =
        |what: String| EngineError::new(Class::Failed, format!("the peer's answer: {what}"));
    stream.set_read_timeout(Some(ASK_TIMEOUT)).doing(|| "waiting for an answer".to_owned())?;
    let mut head = [0u8; HEADER_BYTES];
    stream.read_exact(&mut head).doing(|| "waiting for an answer".to_owned())?;
    let header =
        SliceHeader::decode(&head, CONTROL_BYTES_MAX as u32).map_err(|e| wrong(e.to_string()))?;
    header.check_session(job.tag(), Epoch(0)).map_err(|e| wrong(e.to_string()))?;
    let mut body = vec![0u8; header.length as usize];
    stream.read_exact(&mut body).doing(|| "waiting for an answer".to_owned())?;
    header.check_body(&body).map_err(|e| wrong(e.to_string()))?;
    ControlMessage::decode(&body).map_err(|e| wrong(e.to_string()))
}
