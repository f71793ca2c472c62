//! One sample of every message: the golden files hold their bytes.

use dwcp_wire::*;

/// A message of a golden file, by what decodes it.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // A handful of samples: their size does not matter.
pub(crate) enum Sample {
    Hello(Hello),
    HelloReply(HelloReply),
    Header(SliceHeader),
    Link(LinkMessage),
    Control(ControlMessage),
}

impl Sample {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello(hello) => hello.encode().to_vec(),
            Self::HelloReply(reply) => reply.encode().to_vec(),
            Self::Header(header) => header.encode().to_vec(),
            Self::Link(message) => {
                let mut out = [0; LINK_BYTES_MAX];
                let length = message.encode_into(&mut out);
                out[..length].to_vec()
            }
            Self::Control(message) => {
                let mut out = Vec::new();
                message.encode(&mut out).expect("samples are within bounds");
                out
            }
        }
    }

    /// Reads `bytes` as the same kind of message.
    pub(crate) fn decode_like(&self, bytes: &[u8]) -> Result<Self, WireError> {
        Ok(match self {
            Self::Hello(_) => Self::Hello(Hello::decode(fixed(bytes))?),
            Self::HelloReply(_) => Self::HelloReply(HelloReply::decode(fixed(bytes))?),
            Self::Header(_) => Self::Header(SliceHeader::decode(fixed(bytes), PAYLOAD_MAX)?),
            Self::Link(_) => Self::Link(LinkMessage::decode(bytes)?),
            Self::Control(_) => Self::Control(ControlMessage::decode(bytes)?),
        })
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.try_into().expect("a golden file of the fixed length")
}

const JOB: JobId = JobId(*b"\x01\x98\xa5\x3e\x70\x00\x70\x00\x80\x00\xde\xad\xbe\xef\xca\xfe");
const TOKEN: [u8; TOKEN_BYTES] = *b"sixteen byte key";

/// File name without extension, and message.
pub(crate) fn samples() -> Vec<(&'static str, Sample)> {
    let mut all = handshakes();
    all.extend(headers());
    all.extend(links());
    all.extend(from_source());
    all.extend(from_target());
    all
}

fn handshakes() -> Vec<(&'static str, Sample)> {
    let open = Hello::new(Purpose::Open, JOB, RailId(0), [0; TOKEN_BYTES]);
    let mut join = Hello::new(Purpose::Join, JOB, RailId(7), TOKEN);
    join.version.minor = 3;
    join.features = Features(0x0000_0001_0000_0005);
    let query = Hello::new(Purpose::Query, JOB, RailId(0), [0; TOKEN_BYTES]);
    let accepted = HelloReply::accepted(Features(0x5), 192, PAYLOAD_MAX, TOKEN);
    let refused = HelloReply::refused(ReasonCode::BadToken, "rail 7: token of another job");
    vec![
        ("hello-open", Sample::Hello(open)),
        ("hello-join", Sample::Hello(join)),
        ("hello-query", Sample::Hello(query)),
        ("hello-reply-accepted", Sample::HelloReply(accepted)),
        ("hello-reply-refused", Sample::HelloReply(refused)),
    ]
}

fn header(channel: Channel, seq: u64, flags: SliceFlags, body: &[u8]) -> Sample {
    Sample::Header(SliceHeader {
        channel,
        flags,
        job_tag: JOB.tag(),
        epoch: Epoch(9),
        generation: Generation(3),
        seq: SliceSeq(seq),
        length: u32::try_from(body.len()).expect("short"),
        checksum: body_checksum(body),
    })
}

fn headers() -> Vec<(&'static str, Sample)> {
    let last = header(Channel::Skeleton, 0x0102_0304_0506_0708, SliceFlags::LAST, b"tail");
    vec![
        ("slice-header-pages", header(Channel::Pages, 4711, SliceFlags::NONE, b"pages")),
        ("slice-header-skeleton-last", last),
        ("slice-header-empty-control", header(Channel::Control, 0, SliceFlags::NONE, b"")),
    ]
}

fn links() -> Vec<(&'static str, Sample)> {
    let mut ack = AckInfo::new([3, 70, 1_000_000]);
    for (channel, first, count) in
        [(Channel::Skeleton, 72, 1), (Channel::Pages, 1_000_002, 5), (Channel::Pages, 1_000_010, 1)]
    {
        assert!(ack.push(AckRange { channel, first: SliceSeq(first), count }));
    }
    vec![
        ("link-ack", Sample::Link(LinkMessage::Ack(AckInfo::new([1, 2, 3])))),
        ("link-ack-ranges", Sample::Link(LinkMessage::Ack(ack))),
        ("link-ping", Sample::Link(LinkMessage::Ping { nonce: 5, sent_ns: 123_456_789 })),
        ("link-pong", Sample::Link(LinkMessage::Pong { nonce: 5, sent_ns: 123_456_789 })),
        ("link-goodbye", Sample::Link(LinkMessage::Goodbye { code: ReasonCode::Finished })),
    ]
}

fn blocks() -> Vec<BlockInfo> {
    let block = |id, name: &str, used_bytes, taken_out| BlockInfo {
        id: BlockId(id),
        name: name.to_owned(),
        used_bytes,
        page_bytes: 4096,
        taken_out,
    };
    vec![block(0, "pc.ram", 2 << 30, true), block(1, "/rom@etc/acpi/tables", 0x20000, false)]
}

fn facts() -> JobFacts {
    JobFacts {
        vm_uuid: *b"\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff\x00",
        vm_name: "web-1 \u{e9}".to_owned(),
        qemu_version: "10.0.2".to_owned(),
        machine_type: "pc-q35-10.0".to_owned(),
        cpu_model: "max,+vmx".to_owned(),
        mode: Mode::Direct,
        hash: HashAlgorithm::Xxh3,
        hash_seed: 0xfeed_f00d_dead_beef,
        facts: vec![("memory-bytes".to_owned(), "2147483648".to_owned())],
        blocks: blocks(),
        max_downtime_ms: 300,
        min_epoch: Epoch(9),
    }
}

fn control(message: ControlMessage) -> Sample {
    Sample::Control(message)
}

fn from_source() -> Vec<(&'static str, Sample)> {
    let root = Root {
        algorithm: HashAlgorithm::Blake3,
        root: [0xab; 32],
        pages: 524_288,
        slices: 2_100,
        start_paused: true,
    };
    let abort = ControlMessage::Abort {
        code: ReasonCode::Cancelled,
        text: "cancelled by the operator".to_owned(),
    };
    let request = ControlMessage::RequestAbort {
        job: JOB,
        epoch: Epoch(9),
        reason: "link lost after the stop".to_owned(),
    };
    let report = CpuReport { engine_cpu_us: 1_500_000, qemu_cpu_us: 800_000 };
    vec![
        ("control-open", control(ControlMessage::Open(facts()))),
        ("control-blocks", control(ControlMessage::Blocks(blocks()))),
        ("control-root", control(ControlMessage::Root(root))),
        ("control-abort", control(abort)),
        ("control-query", control(ControlMessage::Query { job: JOB })),
        ("control-request-abort", control(request)),
        ("control-cpu-report", control(ControlMessage::CpuReport(report))),
    ]
}

fn from_target() -> Vec<(&'static str, Sample)> {
    let accept = Accept {
        incarnation: 2,
        epoch: Epoch(9),
        hash_seed: 7,
        mode: Mode::Direct,
        qemu_version: "10.0.2".to_owned(),
        direct_blocks: vec![DirectBlock { name: "pc.ram".to_owned(), address: 0, bytes: 2 << 30 }],
        facts: vec![("huge-pages".to_owned(), "yes".to_owned())],
    };
    let refuse = ControlMessage::Refuse {
        code: ReasonCode::Incompatible,
        text: "machine type pc-i440fx-10.0 here".to_owned(),
    };
    let outcome = Outcome {
        job: JOB,
        decision: Decision::Committed,
        incarnation: 2,
        epoch: Epoch(9),
        reason: "target complete".to_owned(),
    };
    let failed =
        ControlMessage::Failed { code: ReasonCode::Other(77), text: "something new".to_owned() };
    let stats = Stats { engine_cpu_us: 1, rx_bytes: 2, pages_written: 3, huge_bytes: 4 };
    let resumed = Resumed { load_us: 20_000, decide_us: 900, cont_us: 1_500 };
    let roots = RootResult { matches: true, root: [0xab; 32], pages: 524_288 };
    vec![
        ("control-accept", control(ControlMessage::Accept(accept))),
        ("control-refuse", control(refuse)),
        ("control-return-path", control(ControlMessage::ReturnPath(vec![0, 2, 0, 4, 0, 0, 0, 1]))),
        ("control-root-result", control(ControlMessage::RootResult(roots))),
        ("control-outcome", control(ControlMessage::Outcome(outcome))),
        ("control-resumed", control(ControlMessage::Resumed(resumed))),
        ("control-failed", control(failed)),
        ("control-stats", control(ControlMessage::Stats(stats))),
    ]
}
