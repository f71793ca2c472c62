//! A job before it is agreed on: the source's offer is heard, a QEMU prepared and compared, RAM
//! mapped, threads started. Whatever fails here is refused by name and leaves nothing behind.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use dwcp_encode::Applier;
use dwcp_handover::{EndpointsDigest, Fence, Notes, OpenRequest, Target, TargetEvent, VmId};
use dwcp_tcp::{Endpoint, Inbound, NetEvent};
use dwcp_wire::{
    Accept, BlockId, Channel, ControlMessage, DirectBlock, Epoch, JobFacts, JobId, Mode,
    PAGE_BYTES, ReasonCode, Resumed,
};

use super::apply::{Answers, ApplyCounters, ApplyThread};
use super::job::{FAREWELL, Job, JobCommand, JobEvent, send_control};
use super::launch::{LaunchPlan, Launched};
use super::memory::{self, GuestMemory};
use super::qemu::{TargetQemu, check_waiting};
use super::return_path::read_return_path;
use super::skeleton::SkeletonWriter;
use super::{
    CHECK_FACT, DIRECT_ONLY_FACT, Host, JobSummary, QemuSource, RESIDENT_FACT, STORE_FACT,
    TICKET_FACT,
};
use crate::cpu;
use crate::error::{Class, Doing, EngineError, Result};
use crate::qemu::ram::shared_backings;
use crate::qemu::{GuestFacts, RamBacking, Tuning};
use crate::qmp::Qmp;

/// How long a source may take to say what it wants.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last messages may take to be confirmed.
const DRAIN: Duration = Duration::from_millis(500);
/// Facts for us, not about the guest.
const OUR_FACTS: [&str; 4] = [CHECK_FACT, DIRECT_ONLY_FACT, RESIDENT_FACT, TICKET_FACT];

/// The session of a job whose source has not said yet what it wants.
pub(super) struct Incoming {
    pub(super) host: Arc<Host>,
    pub(super) job: JobId,
    pub(super) endpoint: Endpoint,
    pub(super) net: Receiver<NetEvent>,
    pub(super) commands: Receiver<JobCommand>,
}

impl Incoming {
    /// Runs the job to its end.
    pub(super) fn run(self) -> JobSummary {
        let mut summary = JobSummary::new(self.job);
        let (endpoint, net) = (self.endpoint.clone(), self.net.clone());
        let (host, job) = (Arc::clone(&self.host), self.job);
        match self.begin(&mut summary) {
            Ok(Some((job, net, commands, events))) => job.run(net, commands, events, &mut summary),
            Ok(None) => "checked".clone_into(&mut summary.status),
            Err(error) => {
                let text = error.to_string().chars().take(1000).collect();
                let refuse = ControlMessage::Refuse { code: error.reason(), text };
                send_control(&endpoint, 0, &refuse);
                leave(&host, job);
                await_goodbye(&net, FAREWELL);
                summary.reason = error.to_string();
            }
        }
        endpoint.close(ReasonCode::Finished, DRAIN);
        summary
    }

    #[allow(clippy::type_complexity, reason = "taken apart at once by the only caller")]
    fn begin(
        self,
        summary: &mut JobSummary,
    ) -> Result<Option<(Job, Receiver<NetEvent>, Receiver<JobCommand>, Receiver<JobEvent>)>> {
        let facts = self.await_open()?;
        summary.vm.clone_from(&facts.vm_name);
        let fact =
            |name: &str| facts.facts.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let resident = fact(RESIDENT_FACT).and_then(|v| v.parse().ok());
        let declared: u64 = facts.blocks.iter().map(|b| b.used_bytes).sum();
        memory::admit(resident.unwrap_or(declared), self.host.ram_dir.as_deref())?;
        let target = self.host.targets.take(fact(TICKET_FACT), fact(CHECK_FACT).is_some())?;
        let (mut qemu, backings) = self.prepare_qemu(&facts, &target.qemu)?;
        let prepared = self.agree(&facts, &mut qemu, &backings);
        let (accept, memory) = prepared?;
        if fact(CHECK_FACT).is_some() {
            drop(qemu);
            send_control(&self.endpoint, 0, &ControlMessage::Accept(accept));
            leave(&self.host, self.job);
            await_goodbye(&self.net, FAREWELL);
            return Ok(None);
        }
        let (job, events) = self.arm(&facts, qemu, accept, memory, target.leave_paused)?;
        Ok(Some((job, self.net, self.commands, events)))
    }

    fn await_open(&self) -> Result<JobFacts> {
        let silent =
            || EngineError::new(Class::Unreachable, "the source did not say what it wants");
        let deadline = Instant::now() + OPEN_TIMEOUT;
        loop {
            match self.net.recv_deadline(deadline).map_err(|_| silent())? {
                NetEvent::Inbound(inbound) if inbound.channel == Channel::Control => {
                    let message = ControlMessage::decode(inbound.body.bytes());
                    self.endpoint.consumed(inbound.channel, inbound.seq);
                    match message {
                        Ok(ControlMessage::Open(facts)) => return Ok(facts),
                        Ok(_) => return Err(silent()),
                        Err(e) => return Err(EngineError::new(Class::Failed, e.to_string())),
                    }
                }
                NetEvent::AllRailsDown | NetEvent::PeerGoodbye { .. } => return Err(silent()),
                _ => {}
            }
        }
    }

    /// Starts or takes the target QEMU and compares it with the source.
    fn prepare_qemu(
        &self,
        facts: &JobFacts,
        source: &QemuSource,
    ) -> Result<(TargetQemu, Vec<RamBacking>)> {
        let mut qemu = match source {
            QemuSource::Given(path) => {
                let mut qmp = Qmp::connect(path)?;
                check_waiting(&mut qmp)?;
                let tuning = Tuning::read(&mut qmp)?;
                TargetQemu::given(qmp, tuning)
            }
            QemuSource::Launch(file) => {
                let job = self.job.to_string();
                let run_dir = self.host.run_dir.join(&job);
                let main = facts.blocks.iter().max_by_key(|b| b.used_bytes);
                let plan = LaunchPlan {
                    job: &job,
                    run_dir: &run_dir,
                    ram_dir: self.host.ram_dir.as_deref().unwrap_or(&run_dir),
                    ram: main.map(|b| (b.name.as_str(), b.used_bytes)),
                    user: self.host.user.as_deref(),
                };
                let (mut launched, mut qmp) = Launched::start(file, &plan)?;
                match Tuning::read(&mut qmp) {
                    Ok(tuning) => TargetQemu::launched(launched, qmp, tuning, run_dir),
                    Err(e) => {
                        launched.destroy(Some(&mut qmp));
                        return Err(e.into());
                    }
                }
            }
        };
        let backings = self.compare(facts, &mut qemu)?;
        Ok((qemu, backings))
    }

    fn compare(&self, facts: &JobFacts, qemu: &mut TargetQemu) -> Result<Vec<RamBacking>> {
        let qmp = qemu.qmp()?;
        let own = GuestFacts::gather(qmp)?;
        let theirs: Vec<(String, String)> = facts
            .facts
            .iter()
            .filter(|(name, _)| !OUR_FACTS.contains(&name.as_str()))
            .cloned()
            .collect();
        if let Some(difference) = own.difference(&facts.machine_type, &facts.cpu_model, &theirs) {
            return Err(EngineError::new(
                Class::Conflict,
                format!("the hosts differ in {difference}"),
            ));
        }
        let blocks = crate::qemu::ram::ram_blocks(qmp)?;
        for block in &facts.blocks {
            // ROM blocks take the length the source gives them; RAM must have it already.
            let mine = blocks.iter().find(|b| b.name == block.name).map(|b| b.used_bytes);
            let rom = block.name.starts_with("/rom@");
            if mine != Some(block.used_bytes) && !(rom && mine.is_some()) {
                let found = mine.map_or("none".to_owned(), |b| format!("{b} bytes"));
                let text = format!(
                    "the hosts differ in RAM block {}: source has {} bytes, target has {found}",
                    block.name, block.used_bytes
                );
                return Err(EngineError::new(Class::Conflict, text));
            }
        }
        Ok(shared_backings(qmp)?)
    }

    /// Chooses the mode and maps the RAM that we write ourselves.
    fn agree(
        &self,
        facts: &JobFacts,
        qemu: &mut TargetQemu,
        backings: &[RamBacking],
    ) -> Result<(Accept, GuestMemory)> {
        let (major, minor, micro) = qemu.qmp()?.version();
        let mut accept = Accept {
            incarnation: 0,
            epoch: Epoch(0),
            hash_seed: facts.hash_seed,
            mode: Mode::Plain,
            qemu_version: format!("{major}.{minor}.{micro}"),
            direct_blocks: Vec::new(),
            facts: Vec::new(),
        };
        let mut memory = GuestMemory::default();
        if facts.mode == Mode::Plain {
            return Ok((accept, memory));
        }
        for block in &facts.blocks {
            let Some(backing) =
                backings.iter().find(|b| b.name == block.name && b.bytes == block.used_bytes)
            else {
                continue;
            };
            memory.map(block.id, backing)?;
            accept.direct_blocks.push(DirectBlock {
                name: backing.name.clone(),
                address: backing.addr,
                bytes: backing.bytes,
            });
        }
        // A shared backing that we do not carry would be left out by QEMU as well.
        let all = backings.len() == accept.direct_blocks.len();
        if !accept.direct_blocks.is_empty() && all {
            accept.mode = Mode::Direct;
            return Ok((accept, memory));
        }
        if facts.facts.iter().any(|(name, _)| name == DIRECT_ONLY_FACT) {
            let text = "--mode direct: the target QEMU has no RAM on memory-backend-file,share=on with the source's block names";
            return Err(EngineError::new(Class::Conflict, text));
        }
        accept.direct_blocks.clear();
        Ok((accept, GuestMemory::default()))
    }

    /// From here on the job has a fence, threads and a listening QEMU.
    fn arm(
        &self,
        facts: &JobFacts,
        mut qemu: TargetQemu,
        mut accept: Accept,
        mut memory: GuestMemory,
        leave_paused: bool,
    ) -> Result<(Job, Receiver<JobEvent>)> {
        let direct = accept.mode == Mode::Direct;
        let socket = self.host.run_dir.join(format!("{}.in", self.job));
        let stream = qemu.open_stream(&socket, direct)?;
        if let (true, Some(content)) = (direct, &self.host.content)
            && let Some(reader) = content.reader()
        {
            memory.look_into(reader);
            accept.facts.push((STORE_FACT.to_owned(), "blake3".to_owned()));
        }
        let (threads, events) = self.start_threads(facts, &accept, memory, stream)?;
        let opened = self.host.ledger.open_job(OpenRequest {
            job: dwcp_handover::JobId(self.job.0),
            vm: VmId(if facts.vm_uuid == [0; 16] { self.job.0 } else { facts.vm_uuid }),
            above: Fence::new(0, facts.min_epoch.0),
            endpoints: EndpointsDigest::default(),
        })?;
        let ticket = opened.ticket;
        qemu.adopt();
        accept.incarnation = ticket.fence.incarnation.0;
        accept.epoch = Epoch(ticket.fence.epoch.0);
        let mut notes = Notes::default();
        for (key, value) in qemu.notes() {
            // A path too long for a note only costs the recovery of this QEMU after a crash.
            let _ = notes.set(key, &value);
        }
        let _ = notes.set("name", &facts.vm_name.chars().take(100).collect::<String>());
        let job = Job {
            host: Arc::clone(&self.host),
            job: self.job,
            role: Target::new(ticket, leave_paused, notes),
            qemu,
            endpoint: self.endpoint.clone(),
            events: VecDeque::from([TargetEvent::QemuPrepared]),
            accept: Some(accept),
            source_root: None,
            own_root: None,
            slices: Some(threads.slices),
            skeleton: Some(threads.skeleton),
            root_after: threads.root_after,
            counters: threads.counters,
            control_seq: 0,
            stream_started: false,
            rails: 1,
            link_lost_at: None,
            tail_passed_at: None,
            loaded_at: None,
            timings: Resumed { load_us: 0, decide_us: 0, cont_us: 0 },
            told_final: None,
            reason: None,
            retried_at: Instant::now(),
            cpu_us_before: cpu::process_us(),
            over: false,
        };
        Ok((job, events))
    }

    fn start_threads(
        &self,
        facts: &JobFacts,
        accept: &Accept,
        memory: GuestMemory,
        stream: UnixStream,
    ) -> Result<(Threads, Receiver<JobEvent>)> {
        let clone = |s: &UnixStream| s.try_clone().doing(|| "the migration socket".to_owned());
        let (events_in, events) = bounded(64);
        let (slices_in, slices) = bounded(super::WINDOW as usize);
        let (skeleton_in, skeleton) = bounded(super::WINDOW as usize);
        let (root_in, root_after) = bounded(1);
        let counters = Arc::new(ApplyCounters::default());
        let mut applier = Applier::new(facts.hash, accept.hash_seed, memory);
        for block in &facts.blocks {
            if accept.direct_blocks.iter().any(|d| d.name == block.name) {
                let pages = block.used_bytes / PAGE_BYTES as u64;
                applier.add_block(BlockId(block.id.0), &block.name, pages).map_err(|e| {
                    EngineError::new(Class::Limit, format!("RAM block {}: {e}", block.name))
                })?;
            }
        }
        let apply = ApplyThread {
            applier,
            slices,
            root_after,
            endpoint: self.endpoint.clone(),
            ram_dir: self.host.ram_dir.clone(),
            answers: Answers::default(),
            counters: Arc::clone(&counters),
            events: events_in.clone(),
        };
        let writer = SkeletonWriter {
            slices: skeleton,
            stream: clone(&stream)?,
            endpoint: self.endpoint.clone(),
            events: events_in.clone(),
        };
        super::spawn("apply", move || {
            dwcp_hostmem::favour_current_thread();
            apply.run();
        })?;
        super::spawn("skeleton", move || writer.run())?;
        super::spawn("return-path", move || read_return_path(stream, &events_in))?;
        let threads =
            Threads { slices: slices_in, skeleton: skeleton_in, root_after: root_in, counters };
        Ok((threads, events))
    }
}

struct Threads {
    slices: Sender<Inbound>,
    skeleton: Sender<Inbound>,
    root_after: Sender<u64>,
    counters: Arc<ApplyCounters>,
}

/// The job is over for others: its place is free before its source has gone.
fn leave(host: &Host, job: JobId) {
    host.jobs().remove(&job);
}

fn await_goodbye(net: &Receiver<NetEvent>, limit: Duration) {
    let deadline = Instant::now() + limit;
    while let Ok(event) = net.recv_deadline(deadline) {
        if matches!(event, NetEvent::AllRailsDown | NetEvent::PeerGoodbye { .. }) {
            return;
        }
    }
}
