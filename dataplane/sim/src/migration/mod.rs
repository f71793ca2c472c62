//! A whole migration: a guest that writes its memory, the production encoder, sessions, applier
//! and roles of the handover, over the faulty network, with kills of every process at every step.
//!
//! Invariants: the target starts only with the memory the source had at its stop; no two copies
//! run, and the source never runs again what ran on the target; one decision; nothing decoded is
//! wrong; once the faults end, both roles end and exactly one copy runs, unless the QEMU that had
//! it was killed.

mod child;
mod guest;
mod source;
mod target;

use dwcp_handover::{
    AbortReason, Decision, DecisionState, EndpointsDigest, Fence, Incarnation, JobId, Ledger,
    OpenRequest, Outcome, RunState, SourceEvent, TargetEvent, Ticket, VmId,
};

use self::child::Child;
use self::guest::{SourceQemu, TargetQemu};
use self::source::SourceHost;
use self::target::{ContFate, TargetHost};
use crate::endpoint::{ConsumerPace, Endpoint};
use crate::network::{Network, RAILS_MAX, RailFault};
use crate::pipe::PipeShape;
use crate::{Broken, Failure, Rng};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Interval of both roles' retries.
const RETRY_NS: u64 = 100 * MS;
/// Longest pause of the guest before GO.
const PAUSE_TIMEOUT_NS: u64 = 2 * SECOND;
/// Time without a rail after which an end gives the session up: before and after the stop.
const LINK_TIMEOUT_NS: [u64; 2] = [3 * SECOND, SECOND];
/// The faults end at most this late.
const TROUBLE_NS_MAX: u64 = 4 * SECOND;
/// Both roles are over at most this long after the faults end.
const HEALED_NS_MAX: u64 = 30 * SECOND;
/// Turns at one instant after which a side is said to spin.
const TURNS_AT_ONCE_MAX: u32 = 100_000;

/// A message between the source's parent and the target's engine beside the session.
#[derive(Clone, Copy, Debug)]
enum Mail {
    Accept,
    Ask,
    RequestAbort(AbortReason),
    Outcome(Outcome),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The guest runs on the target.
    pub arrived: bool,
    /// The guest runs on the source.
    pub stayed: bool,
    /// The QEMU that had the guest was killed.
    pub lost: bool,
    /// Pages slices sent once more.
    pub resent: u64,
    /// Rails that died at an end.
    pub rails_lost: u64,
    /// Processes killed.
    pub kills: u64,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Rail(RailFault),
    Partition { for_ns: u64 },
    PartitionEnds,
    KillChild,
    KillParent,
    KillEngine,
    KillSourceQemu,
    KillTargetQemu,
    Cancel,
    TargetDeadline,
    Cont(ContFate),
    PauseApplier { for_ns: u64 },
}

struct World {
    now: u64,
    rng: Rng,
    source: SourceHost,
    target: TargetHost,
    network: Network,
    mail: Vec<(u64, Mail)>,
    faults: Vec<(u64, Fault)>,
    /// Steps of the roles until a process is killed between two of them.
    kill_after_steps: Option<u64>,
    scribbles_at_ns: u64,
    heals_ns: u64,
    report: Report,
}

/// Runs the migration of `seed`; with `is_told` it prints what happens.
///
/// # Errors
/// The first broken invariant.
pub fn run(seed: u64, is_told: bool) -> Result<Report, Failure> {
    let mut world = World::new(seed, is_told);
    world.run().map_err(|what| Failure { seed, at_ns: world.now, what })
}

fn shape(rng: &mut Rng) -> PipeShape {
    PipeShape {
        rate_bytes_per_s: rng.log_between(2_000_000, 1_000_000_000),
        delay_ns: rng.log_between(10 * US, 50 * MS),
        buffer_bytes: rng.log_between(4_000, 200_000),
        chunk_bytes: rng.log_between(1_000, 16_000),
    }
}

fn fault(rng: &mut Rng) -> Fault {
    match rng.between(0, 40) {
        0 => Fault::KillChild,
        1 => Fault::KillParent,
        2 | 3 => Fault::KillEngine,
        4 => Fault::KillSourceQemu,
        5 => Fault::KillTargetQemu,
        6 => Fault::Cancel,
        7 => Fault::TargetDeadline,
        8 => Fault::Cont(ContFate::Refused),
        9 => Fault::Cont(ContFate::Unheard),
        10..=13 => Fault::Partition { for_ns: rng.log_between(10 * MS, 4 * SECOND) },
        14 | 15 => Fault::PauseApplier { for_ns: rng.log_between(MS, SECOND) },
        _ => Fault::Rail(RailFault::any(rng)),
    }
}

fn open_job() -> (Ticket, Ledger) {
    let mut ledger = Ledger::recover(Incarnation(1), []).expect("an empty ledger");
    let request = OpenRequest {
        job: JobId([1; 16]),
        vm: VmId([2; 16]),
        above: Fence::NONE,
        endpoints: EndpointsDigest([3; 32]),
    };
    let ticket = ledger.open(request).expect("the first job").confirm().ticket;
    (ticket, ledger)
}

impl World {
    fn new(seed: u64, is_told: bool) -> Self {
        let mut rng = Rng::new(seed);
        let (ticket, ledger) = open_job();
        let window = u32::try_from(rng.log_between(2, 64)).unwrap_or(2);
        let low_ns = rng.log_between(US, MS);
        let pace = ConsumerPace { low_ns, high_ns: low_ns + rng.log_between(US, 10 * MS) };
        let [near, far] = [0, 1].map(|side| {
            let config = crate::transfer::config(&mut rng, window, window);
            Endpoint::new(side, config, pace, rng.fork())
        });
        let child = Child::new(near, rng.fork());
        let source = SourceHost::new(SourceQemu::new(rng.fork()), ticket, child);
        let target = TargetHost::new(ticket, ledger, far, rng.fork());
        let mut network = Network::new(rng.fork(), shape, is_told);
        for _ in 0..rng.between(1, RAILS_MAX as u64) {
            network.join(0);
        }
        let heals_ns = rng.log_between(20 * MS, TROUBLE_NS_MAX);
        let count = rng.log_between(1, 12);
        let mut faults: Vec<_> =
            (0..count).map(|_| (rng.log_between(MS, heals_ns), fault(&mut rng))).collect();
        faults.sort_by_key(|(at, _)| *at);
        Self {
            now: 0,
            kill_after_steps: rng.chance(40).then(|| rng.between(1, 60)),
            rng,
            source,
            target,
            network,
            mail: Vec::new(),
            faults,
            scribbles_at_ns: 0,
            heals_ns,
            report: Report::default(),
        }
    }

    fn run(&mut self) -> Result<Report, Broken> {
        let mut turns_at_once = 0;
        while !(self.network.is_healed && self.is_over()?) {
            let moved = self.turn()?;
            self.check()?;
            turns_at_once = if moved { turns_at_once + 1 } else { 0 };
            if turns_at_once > TURNS_AT_ONCE_MAX {
                return Err("spins".to_owned());
            }
            if !moved {
                let next = self.next_event().ok_or("nothing will ever happen again")?;
                self.now = next.max(self.now + 1);
            }
            if self.now > self.heals_ns + HEALED_NS_MAX {
                return Err(format!("not over long after the faults ended: {}", self.state()));
            }
        }
        self.check_end()
    }

    fn is_over(&self) -> Result<bool, Broken> {
        // A source whose target was lost waits for an operator; that is an end here.
        let source = self.source.is_over()? || self.target.is_lost();
        Ok(source && self.target.is_over() && self.mail.is_empty())
    }

    fn state(&self) -> String {
        let parent = self.source.parent.as_ref().map(|parent| parent.role.phase());
        let engine = self.target.engine.as_ref().map(|engine| engine.role.phase());
        let session = self.source.child.as_ref().map(|child| child.endpoint.session.stats());
        let (qemu, runs) = (self.target.qemu, self.source.qemu.runs);
        format!("{parent:?} (runs: {runs}), {engine:?}, {qemu:?}, {session:?}")
    }

    // ---- invariants ----------------------------------------------------------------------------

    fn check(&self) -> Result<(), Broken> {
        let target_runs = self.target.qemu == TargetQemu::Running;
        if self.source.qemu.runs && target_runs {
            return Err(format!("both copies run: {}", self.state()));
        }
        if self.source.qemu.runs && self.target.has_run {
            return Err("the source runs again what ran on the target".to_owned());
        }
        let state = self.target.on_disk;
        let is_committed = matches!(state, DecisionState::Decided(Decision::Committed(_)));
        if target_runs && !is_committed {
            return Err(format!("the target runs, and the ledger says {state:?}"));
        }
        if self.source.qemu.runs && is_committed {
            return Err("the source runs although the job is committed".to_owned());
        }
        Ok(())
    }

    fn check_end(&mut self) -> Result<Report, Broken> {
        let arrived = self.target.qemu == TargetQemu::Running;
        let stayed = self.source.qemu.runs;
        let state = self.target.on_disk;
        let is_committed = matches!(state, DecisionState::Decided(Decision::Committed(_)));
        let lost = if is_committed {
            self.target.qemu == TargetQemu::Gone
        } else {
            self.source.qemu.is_gone
        };
        if !arrived && !stayed && !lost {
            return Err(format!("no copy runs in the end: {}", self.state()));
        }
        let resent = self.source.child.as_ref().map(|child| child.endpoint.session.stats());
        self.report.resent += resent.map_or(0, |stats| stats.resent_slices);
        let rails_lost = self.network.counters.rails_lost;
        Ok(Report { arrived, stayed, lost, rails_lost, ..self.report })
    }

    // ---- time ----------------------------------------------------------------------------------

    fn next_event(&mut self) -> Option<u64> {
        let now = self.now;
        let scribble = self.source.qemu.runs.then_some(self.scribbles_at_ns);
        let fault = self.faults.first().map(|(at, _)| *at);
        let mail = self.mail.iter().map(|(at, _)| *at).min();
        let heal = (!self.network.is_healed).then_some(self.heals_ns);
        [
            self.source.next_event(now),
            self.target.next_event(now),
            self.network.next_event(),
            scribble,
            fault,
            mail,
            heal,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Everything that is due now, once; whether anything was done.
    fn turn(&mut self) -> Result<bool, Broken> {
        let mut moved = self.trouble()?;
        moved |= self.restart()?;
        moved |= self.scribble();
        moved |= self.deliver_mail();
        moved |= self.connect();
        moved |= self.near_side()?;
        moved |= self.far_side()?;
        moved |= self.target.load(self.now);
        moved |= self.step_roles()?;
        Ok(moved)
    }

    fn scribble(&mut self) -> bool {
        let due = self.source.qemu.runs && self.scribbles_at_ns <= self.now;
        if due {
            self.source.qemu.scribble();
            self.scribbles_at_ns = self.now + self.rng.log_between(100 * US, 20 * MS);
        }
        due
    }

    /// A living pair without any rail opens new ones.
    fn connect(&mut self) -> bool {
        let can = !self.network.is_partitioned && self.network.is_idle();
        if can && self.source.child.is_some() && self.receiver_is_there() {
            let at = self.now + self.rng.log_between(MS, 200 * MS);
            self.network.join_at(at);
        }
        self.network.open_due(self.now)
    }

    fn receiver_is_there(&self) -> bool {
        self.target.engine.as_ref().is_some_and(|engine| engine.receiver.is_some())
    }

    fn near_side(&mut self) -> Result<bool, Broken> {
        let Self { source, target, network, now, .. } = self;
        let Some(child) = &mut source.child else {
            network.drop_side(*now, 0);
            return Ok(false);
        };
        let mut moved = network.move_side(*now, 0, &mut child.endpoint)?;
        let mut heard = child.consume(*now)?;
        heard.extend(child.work(&mut source.qemu)?);
        let peer = target.engine.as_ref().and_then(|engine| engine.receiver.as_ref());
        let peer = peer.map(|receiver| receiver.endpoint.view());
        moved |= child.endpoint.execute(*now, network, peer.as_ref())?;
        let timeout = LINK_TIMEOUT_NS[usize::from(!source.qemu.runs)];
        let rails = child.endpoint.session.stats().rails;
        if is_given_up(*now, rails, timeout, &mut child.cut_off_since_ns) {
            heard.push(SourceEvent::LinkLost);
        }
        moved |= !heard.is_empty();
        heard.into_iter().for_each(|event| source.tell(event));
        Ok(moved)
    }

    fn far_side(&mut self) -> Result<bool, Broken> {
        let mut moved = self.target.consume(self.now)?;
        let Self { source, target, network, now, .. } = self;
        let receiver = target.engine.as_mut().and_then(|engine| engine.receiver.as_mut());
        let Some(receiver) = receiver else {
            network.drop_side(*now, 1);
            return Ok(moved);
        };
        moved |= network.move_side(*now, 1, &mut receiver.endpoint)?;
        let peer = source.child.as_ref().map(|child| child.endpoint.view());
        moved |= receiver.endpoint.execute(*now, network, peer.as_ref())?;
        let rails = receiver.endpoint.session.stats().rails;
        if is_given_up(*now, rails, LINK_TIMEOUT_NS[0], &mut receiver.cut_off_since_ns) {
            target.tell(TargetEvent::LinkLost);
            moved = true;
        }
        Ok(moved)
    }

    // ---- the roles -----------------------------------------------------------------------------

    fn step_roles(&mut self) -> Result<bool, Broken> {
        let mut sent = Vec::new();
        let source = self.source.step(self.now, &mut sent)?;
        let target = self.target.step(self.now, self.source.at_stop.as_ref(), &mut sent)?;
        for message in sent {
            let at = self.now + self.rng.log_between(100 * US, 20 * MS);
            self.mail.push((at, message));
        }
        let takes_ns = self.rng.log_between(US, 5 * MS);
        if let (true, Some(parent)) = (source, &mut self.source.parent) {
            parent.ready_at_ns = self.now + takes_ns;
        }
        if let (true, Some(engine)) = (target, &mut self.target.engine) {
            engine.ready_at_ns = self.now + takes_ns;
        }
        if source || target {
            self.kill_between_steps(source);
        }
        Ok(source || target)
    }

    fn kill_between_steps(&mut self, source: bool) {
        let Some(left) = &mut self.kill_after_steps else { return };
        *left -= 1;
        if *left > 0 {
            return;
        }
        self.kill_after_steps = None;
        self.strike(if source { Fault::KillParent } else { Fault::KillEngine });
    }

    fn deliver_mail(&mut self) -> bool {
        let now = self.now;
        let due: Vec<_> = self.mail.extract_if(.., |(at, _)| *at <= now).collect();
        let moved = !due.is_empty();
        for (_, message) in due {
            self.network.tell(now, || format!("{message:?}"));
            if self.network.is_partitioned {
                self.hold_mail(message);
                continue;
            }
            match message {
                Mail::Accept => {
                    let run_state = RunState::Running;
                    self.source.tell(SourceEvent::ChildReady { run_state });
                }
                Mail::Ask => self.target.tell(TargetEvent::SourceAsked),
                Mail::RequestAbort(reason) => {
                    self.target.tell(TargetEvent::SourceRequestedAbort(reason));
                }
                Mail::Outcome(outcome) => self.source.tell(SourceEvent::OutcomeLearned(outcome)),
            }
        }
        moved
    }

    /// A message meets the partition. What rides the session outlives it.
    fn hold_mail(&mut self, message: Mail) {
        match message {
            Mail::Accept | Mail::Outcome(_) if self.source.child.is_some() => {
                self.mail.push((self.now + RETRY_NS, message));
            }
            Mail::Accept | Mail::Outcome(_) => {}
            Mail::Ask | Mail::RequestAbort(_) => self.source.tell(SourceEvent::LedgerUnreachable),
        }
    }

    // ---- faults --------------------------------------------------------------------------------

    fn trouble(&mut self) -> Result<bool, Broken> {
        let mut moved = false;
        while self.faults.first().is_some_and(|(at, _)| *at <= self.now) {
            let (_, fault) = self.faults.remove(0);
            self.strike(fault);
            moved = true;
        }
        if !self.network.is_healed && self.now >= self.heals_ns {
            self.faults.clear();
            self.kill_after_steps = None;
            self.network.heal(self.now);
            self.target.cont_fate = ContFate::Runs;
            for endpoint in self.endpoints() {
                endpoint.paused_until_ns = 0;
            }
            moved = true;
        }
        Ok(moved)
    }

    fn endpoints(&mut self) -> impl Iterator<Item = &mut Endpoint> {
        let near = self.source.child.as_mut().map(|child| &mut child.endpoint);
        let far = self.target.engine.as_mut().and_then(|engine| engine.receiver.as_mut());
        near.into_iter().chain(far.map(|receiver| &mut receiver.endpoint))
    }

    fn strike(&mut self, fault: Fault) {
        self.network.tell(self.now, || format!("{fault:?}"));
        let restarts_at_ns = self.now + self.rng.log_between(10 * MS, 2 * SECOND);
        match fault {
            Fault::Rail(fault) => return self.network.strike(self.now, fault),
            Fault::Partition { for_ns } => {
                self.network.is_partitioned = true;
                self.network.kill_all(self.now);
                let at = (self.now + for_ns).min(self.heals_ns);
                let place = self.faults.partition_point(|(other, _)| *other <= at);
                return self.faults.insert(place, (at, Fault::PartitionEnds));
            }
            Fault::PartitionEnds => return self.network.is_partitioned = false,
            Fault::Cancel => return self.source.tell(SourceEvent::CancelRequested),
            Fault::TargetDeadline => return self.target.tell(TargetEvent::Deadline),
            Fault::Cont(fate) => return self.target.cont_fate = fate,
            Fault::PauseApplier { for_ns } => {
                let until = self.now + for_ns;
                return self.endpoints().for_each(|endpoint| endpoint.paused_until_ns = until);
            }
            Fault::KillChild => self.source.child = None,
            Fault::KillParent if self.source.parent.is_some() => {
                self.source.kill_parent(restarts_at_ns);
            }
            Fault::KillEngine if self.target.engine.is_some() => {
                self.target.kill_engine(restarts_at_ns);
            }
            Fault::KillParent | Fault::KillEngine => {}
            Fault::KillSourceQemu => {
                self.source.qemu.is_gone = true;
                self.source.qemu.runs = false;
                self.source.tell(SourceEvent::GuestLost);
            }
            Fault::KillTargetQemu => self.target.kill_qemu(),
        }
        self.report.kills += 1;
    }

    fn restart(&mut self) -> Result<bool, Broken> {
        let now = self.now;
        let source = self.source.restarts_at_ns.is_some_and(|at| at <= now);
        let target = self.target.restarts_at_ns.is_some_and(|at| at <= now);
        if source {
            self.source.restart(now)?;
        }
        if target {
            self.target.restart(now)?;
        }
        Ok(source || target)
    }
}

/// Whether an end without a rail gives up now; says so once.
fn is_given_up(now: u64, rails: usize, timeout_ns: u64, since_ns: &mut Option<u64>) -> bool {
    if rails > 0 {
        *since_ns = None;
        return false;
    }
    let since = *since_ns.get_or_insert(now);
    let is_over = since != u64::MAX && now.saturating_sub(since) >= timeout_ns;
    if is_over {
        *since_ns = Some(u64::MAX);
    }
    is_over
}
