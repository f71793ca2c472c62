//! Bytes of the control messages: u16 kind, then the fields in order.
//!
//! Texts, byte strings and lists carry a u32 length. Bytes after the last field are ignored, so
//! that a later minor version can append; an unknown kind is an error that names it.

use crate::codec::{Reader, Writer};
use crate::{
    Accept, BlockId, BlockInfo, CONTROL_BYTES_MAX, ControlMessage, CpuReport, Decision,
    DirectBlock, Epoch, HashAlgorithm, JobFacts, JobId, LIST_ITEMS_MAX, Mode, Outcome,
    RETURN_PATH_BYTES_MAX, ReasonCode, Resumed, Root, RootResult, Stats, TEXT_BYTES_MAX, WireError,
};

const OPEN: u16 = 1;
const BLOCKS: u16 = 2;
const ROOT: u16 = 3;
const ABORT: u16 = 4;
const QUERY: u16 = 5;
const REQUEST_ABORT: u16 = 6;
const CPU_REPORT: u16 = 7;
const ACCEPT: u16 = 129;
const REFUSE: u16 = 130;
const RETURN_PATH: u16 = 131;
const ROOT_RESULT: u16 = 132;
const OUTCOME: u16 = 133;
const RESUMED: u16 = 134;
const FAILED: u16 = 135;
const STATS: u16 = 136;

const FACT_BYTES_MIN: usize = 8;
const BLOCK_BYTES_MIN: usize = 19;
const DIRECT_BLOCK_BYTES_MIN: usize = 20;

type Encoded = Result<(), WireError>;

impl ControlMessage {
    /// Appends the message to `out`.
    ///
    /// # Errors
    /// [`WireError::TooLong`] when a text, a list or the message is above its bound; `out` is
    /// then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let start = out.len();
        let written = self.write(&mut Writer::new(out)).and_then(|()| {
            let length = out.len() - start;
            match length > CONTROL_BYTES_MAX {
                true => Err(too_long(length)),
                false => Ok(()),
            }
        });
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    /// Reads a message.
    ///
    /// # Errors
    /// A message cut short or above [`CONTROL_BYTES_MAX`], an unknown kind, a bad field.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > CONTROL_BYTES_MAX {
            return Err(too_long(bytes.len()));
        }
        let fields = &mut Reader::new(bytes);
        let kind = fields.u16("control message")?;
        match kind {
            OPEN..=CPU_REPORT => decode_from_source(kind, fields),
            ACCEPT..=STATS => decode_from_target(kind, fields),
            other => Err(unknown(other)),
        }
    }

    fn write(&self, w: &mut Writer<'_>) -> Encoded {
        match self {
            Self::Open(facts) => put_facts(w, OPEN, facts),
            Self::Blocks(blocks) => {
                w.u16(BLOCKS);
                w.list("blocks", blocks, LIST_ITEMS_MAX, put_block)
            }
            Self::Root(root) => put_root(w, root),
            Self::Abort { code, text } => put_reason(w, ABORT, *code, text),
            Self::Query { job } => put_query(w, *job),
            Self::RequestAbort { job, epoch, reason } => put_request_abort(w, *job, *epoch, reason),
            Self::CpuReport(report) => {
                put_counters(w, CPU_REPORT, &[report.engine_cpu_us, report.qemu_cpu_us])
            }
            Self::Accept(accept) => put_accept(w, accept),
            Self::Refuse { code, text } => put_reason(w, REFUSE, *code, text),
            Self::ReturnPath(bytes) => {
                w.u16(RETURN_PATH);
                w.bytes("return path", bytes, RETURN_PATH_BYTES_MAX)
            }
            Self::RootResult(result) => put_root_result(w, result),
            Self::Outcome(outcome) => put_outcome(w, outcome),
            Self::Resumed(r) => put_counters(w, RESUMED, &[r.load_us, r.decide_us, r.cont_us]),
            Self::Failed { code, text } => put_reason(w, FAILED, *code, text),
            Self::Stats(s) => put_counters(
                w,
                STATS,
                &[s.engine_cpu_us, s.rx_bytes, s.pages_written, s.huge_bytes],
            ),
        }
    }
}

fn too_long(length: usize) -> WireError {
    WireError::TooLong { what: "control message", length, max: CONTROL_BYTES_MAX }
}

fn unknown(kind: u16) -> WireError {
    WireError::BadValue { what: "control message kind", value: u64::from(kind) }
}

fn put_text(w: &mut Writer<'_>, what: &'static str, text: &str) -> Encoded {
    w.text(what, text, TEXT_BYTES_MAX)
}

fn put_fact_list(w: &mut Writer<'_>, facts: &[(String, String)]) -> Encoded {
    w.list("facts", facts, LIST_ITEMS_MAX, |w, (name, value)| {
        put_text(w, "fact name", name)?;
        put_text(w, "fact value", value)
    })
}

fn put_block(w: &mut Writer<'_>, block: &BlockInfo) -> Encoded {
    w.u16(block.id.0);
    put_text(w, "block name", &block.name)?;
    w.u64(block.used_bytes);
    w.u32(block.page_bytes);
    w.u8(u8::from(block.taken_out));
    Ok(())
}

fn put_facts(w: &mut Writer<'_>, kind: u16, facts: &JobFacts) -> Encoded {
    w.u16(kind);
    w.raw(&facts.vm_uuid);
    put_text(w, "vm name", &facts.vm_name)?;
    put_text(w, "qemu version", &facts.qemu_version)?;
    put_text(w, "machine type", &facts.machine_type)?;
    put_text(w, "cpu model", &facts.cpu_model)?;
    w.u8(facts.mode.code());
    w.u8(facts.hash.code());
    w.u64(facts.hash_seed);
    put_fact_list(w, &facts.facts)?;
    w.list("blocks", &facts.blocks, LIST_ITEMS_MAX, put_block)?;
    w.u32(facts.max_downtime_ms);
    w.u64(facts.min_epoch.0);
    Ok(())
}

fn put_accept(w: &mut Writer<'_>, accept: &Accept) -> Encoded {
    w.u16(ACCEPT);
    w.u64(accept.incarnation);
    w.u64(accept.epoch.0);
    w.u64(accept.hash_seed);
    w.u8(accept.mode.code());
    put_text(w, "qemu version", &accept.qemu_version)?;
    w.list("direct blocks", &accept.direct_blocks, LIST_ITEMS_MAX, |w, block| {
        put_text(w, "block name", &block.name)?;
        w.u64(block.address);
        w.u64(block.bytes);
        Ok(())
    })?;
    put_fact_list(w, &accept.facts)
}

fn put_root(w: &mut Writer<'_>, root: &Root) -> Encoded {
    w.u16(ROOT);
    w.u8(root.algorithm.code());
    w.raw(&root.root);
    w.u64(root.pages);
    w.u64(root.slices);
    w.u8(u8::from(root.start_paused));
    Ok(())
}

fn put_root_result(w: &mut Writer<'_>, result: &RootResult) -> Encoded {
    w.u16(ROOT_RESULT);
    w.u8(u8::from(result.matches));
    w.raw(&result.root);
    w.u64(result.pages);
    Ok(())
}

fn put_outcome(w: &mut Writer<'_>, outcome: &Outcome) -> Encoded {
    w.u16(OUTCOME);
    w.raw(&outcome.job.0);
    w.u8(outcome.decision.code());
    w.u64(outcome.incarnation);
    w.u64(outcome.epoch.0);
    put_text(w, "reason", &outcome.reason)
}

fn put_query(w: &mut Writer<'_>, job: JobId) -> Encoded {
    w.u16(QUERY);
    w.raw(&job.0);
    Ok(())
}

fn put_request_abort(w: &mut Writer<'_>, job: JobId, epoch: Epoch, reason: &str) -> Encoded {
    w.u16(REQUEST_ABORT);
    w.raw(&job.0);
    w.u64(epoch.0);
    put_text(w, "reason", reason)
}

fn put_reason(w: &mut Writer<'_>, kind: u16, code: ReasonCode, text: &str) -> Encoded {
    w.u16(kind);
    w.u16(code.code());
    put_text(w, "reason", text)
}

fn put_counters(w: &mut Writer<'_>, kind: u16, counters: &[u64]) -> Encoded {
    w.u16(kind);
    counters.iter().for_each(|counter| w.u64(*counter));
    Ok(())
}

fn decode_from_source(kind: u16, r: &mut Reader<'_>) -> Result<ControlMessage, WireError> {
    Ok(match kind {
        OPEN => ControlMessage::Open(facts(r)?),
        BLOCKS => ControlMessage::Blocks(blocks(r)?),
        ROOT => ControlMessage::Root(Root {
            algorithm: HashAlgorithm::from_code(r.u8("hash algorithm")?)?,
            root: r.array("root")?,
            pages: r.u64("pages")?,
            slices: r.u64("slices")?,
            start_paused: r.bool("start paused")?,
        }),
        ABORT => {
            let (code, text) = reason(r)?;
            ControlMessage::Abort { code, text }
        }
        QUERY => ControlMessage::Query { job: JobId(r.array("job")?) },
        REQUEST_ABORT => ControlMessage::RequestAbort {
            job: JobId(r.array("job")?),
            epoch: Epoch(r.u64("epoch")?),
            reason: text(r, "reason")?,
        },
        CPU_REPORT => ControlMessage::CpuReport(CpuReport {
            engine_cpu_us: r.u64("engine cpu")?,
            qemu_cpu_us: r.u64("qemu cpu")?,
        }),
        other => return Err(unknown(other)),
    })
}

fn decode_from_target(kind: u16, r: &mut Reader<'_>) -> Result<ControlMessage, WireError> {
    Ok(match kind {
        ACCEPT => ControlMessage::Accept(accept(r)?),
        REFUSE => {
            let (code, text) = reason(r)?;
            ControlMessage::Refuse { code, text }
        }
        RETURN_PATH => {
            ControlMessage::ReturnPath(r.bytes("return path", RETURN_PATH_BYTES_MAX)?.to_vec())
        }
        ROOT_RESULT => ControlMessage::RootResult(RootResult {
            matches: r.bool("root matches")?,
            root: r.array("root")?,
            pages: r.u64("pages")?,
        }),
        OUTCOME => ControlMessage::Outcome(Outcome {
            job: JobId(r.array("job")?),
            decision: Decision::from_code(r.u8("decision")?)?,
            incarnation: r.u64("incarnation")?,
            epoch: Epoch(r.u64("epoch")?),
            reason: text(r, "reason")?,
        }),
        RESUMED => ControlMessage::Resumed(Resumed {
            load_us: r.u64("load time")?,
            decide_us: r.u64("decide time")?,
            cont_us: r.u64("cont time")?,
        }),
        FAILED => {
            let (code, text) = reason(r)?;
            ControlMessage::Failed { code, text }
        }
        STATS => ControlMessage::Stats(stats(r)?),
        other => return Err(unknown(other)),
    })
}

fn text(r: &mut Reader<'_>, what: &'static str) -> Result<String, WireError> {
    r.text(what, TEXT_BYTES_MAX)
}

fn reason(r: &mut Reader<'_>) -> Result<(ReasonCode, String), WireError> {
    Ok((ReasonCode::from_code(r.u16("reason code")?), text(r, "reason")?))
}

fn fact_list(r: &mut Reader<'_>) -> Result<Vec<(String, String)>, WireError> {
    r.list("facts", LIST_ITEMS_MAX, FACT_BYTES_MIN, |r| {
        Ok((text(r, "fact name")?, text(r, "fact value")?))
    })
}

fn blocks(r: &mut Reader<'_>) -> Result<Vec<BlockInfo>, WireError> {
    r.list("blocks", LIST_ITEMS_MAX, BLOCK_BYTES_MIN, |r| {
        Ok(BlockInfo {
            id: BlockId(r.u16("block id")?),
            name: text(r, "block name")?,
            used_bytes: r.u64("used bytes")?,
            page_bytes: r.u32("page bytes")?,
            taken_out: r.bool("taken out")?,
        })
    })
}

fn facts(r: &mut Reader<'_>) -> Result<JobFacts, WireError> {
    Ok(JobFacts {
        vm_uuid: r.array("vm uuid")?,
        vm_name: text(r, "vm name")?,
        qemu_version: text(r, "qemu version")?,
        machine_type: text(r, "machine type")?,
        cpu_model: text(r, "cpu model")?,
        mode: Mode::from_code(r.u8("mode")?)?,
        hash: HashAlgorithm::from_code(r.u8("hash algorithm")?)?,
        hash_seed: r.u64("hash seed")?,
        facts: fact_list(r)?,
        blocks: blocks(r)?,
        max_downtime_ms: r.u32("max downtime")?,
        min_epoch: Epoch(r.u64("min epoch")?),
    })
}

fn accept(r: &mut Reader<'_>) -> Result<Accept, WireError> {
    Ok(Accept {
        incarnation: r.u64("incarnation")?,
        epoch: Epoch(r.u64("epoch")?),
        hash_seed: r.u64("hash seed")?,
        mode: Mode::from_code(r.u8("mode")?)?,
        qemu_version: text(r, "qemu version")?,
        direct_blocks: r.list("direct blocks", LIST_ITEMS_MAX, DIRECT_BLOCK_BYTES_MIN, |r| {
            Ok(DirectBlock {
                name: text(r, "block name")?,
                address: r.u64("block address")?,
                bytes: r.u64("block bytes")?,
            })
        })?,
        facts: fact_list(r)?,
    })
}

fn stats(r: &mut Reader<'_>) -> Result<Stats, WireError> {
    Ok(Stats {
        engine_cpu_us: r.u64("engine cpu")?,
        rx_bytes: r.u64("received bytes")?,
        pages_written: r.u64("pages written")?,
        huge_bytes: r.u64("huge bytes")?,
    })
}
