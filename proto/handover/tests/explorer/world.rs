//! The state of everything: two hosts, their disks and QEMUs, and the wire between them.

use std::collections::{BTreeSet, VecDeque};

use dwcp_handover::*;

use crate::invariants::What;
use crate::mutation::Mutation;

pub(crate) const TICKET: Ticket = Ticket {
    job: JobId([1; 16]),
    vm: VmId([2; 16]),
    fence: Fence::new(1, 1),
    endpoints: EndpointsDigest([0; 32]),
};

/// Run state of the modelled source guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Run {
    Running,
    Suspended,
    Paused,
}

impl Run {
    pub(crate) fn is_live(self) -> bool {
        self != Run::Paused
    }

    pub(crate) fn state(self) -> RunState {
        match self {
            Run::Running => RunState::Running,
            Run::Suspended => RunState::Suspended,
            Run::Paused => RunState::Paused,
        }
    }
}

/// Migration state of the source QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Migration {
    None,
    Iterating,
    /// Switched over; a broken return path restores the run state saved here.
    Switched {
        saved: Run,
    },
    Failed,
    Completed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SourceQemu {
    pub(crate) gone: bool,
    pub(crate) run: Run,
    pub(crate) migration: Migration,
}

impl SourceQemu {
    /// The return path breaks: QEMU goes back to the state it saved, by itself.
    pub(crate) fn break_path(&mut self) -> bool {
        match self.migration {
            Migration::Iterating => self.migration = Migration::Failed,
            Migration::Switched { saved } => {
                self.migration = Migration::Failed;
                if saved.is_live() {
                    self.run = saved;
                }
            }
            _ => return false,
        }
        true
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TargetQemu {
    Incoming,
    TailIn,
    Loaded,
    Running,
    Gone,
}

/// The process that holds the source QEMU's monitor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Parent {
    pub(crate) role: Source,
    pub(crate) todo: VecDeque<SourceCommand>,
    /// What the monitor and the disk said, in order.
    pub(crate) monitor: VecDeque<SourceEvent>,
    pub(crate) saw_child_died: bool,
    pub(crate) saw_link_lost: bool,
    pub(crate) saw_roots: bool,
    pub(crate) saw_go_request: bool,
    pub(crate) saw_guest_lost: bool,
}

impl Parent {
    pub(crate) fn new(role: Source, todo: Vec<SourceCommand>) -> Self {
        Parent {
            role,
            todo: todo.into(),
            monitor: VecDeque::new(),
            saw_child_died: false,
            saw_link_lost: false,
            saw_roots: false,
            saw_go_request: false,
            saw_guest_lost: false,
        }
    }
}

/// The process that moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Child {
    pub(crate) alive: bool,
    pub(crate) switchover_let: bool,
    /// Given by the parent, with what the target does after the commit.
    pub(crate) go: Option<Start>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Roots {
    NotSent,
    Compared { matched: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tail {
    NotSent,
    InFlight(Start),
    Delivered,
}

/// What is under way. Questions and answers, once sent, may arrive at any time and repeatedly.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wire {
    pub(crate) accepted: bool,
    pub(crate) cut: bool,
    pub(crate) roots: Roots,
    pub(crate) tail: Tail,
    pub(crate) asked: bool,
    pub(crate) abort_requested: bool,
    pub(crate) answers: BTreeSet<Outcome>,
}

/// The target engine's process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Engine {
    pub(crate) role: Target,
    /// What its ledger holds in memory; the ledger itself is made anew for each call, because
    /// millions of copies of a map of one job are slow.
    pub(crate) decision: DecisionRecord,
    pub(crate) todo: VecDeque<Todo>,
    pub(crate) monitor: VecDeque<TargetEvent>,
    pub(crate) saw_link_lost: bool,
    pub(crate) saw_qemu_gone: bool,
}

/// One thing the target's shell does next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Todo {
    Command(TargetCommand),
    /// Only for a planted bug: the write that should have come first.
    LateWrite(DecisionRecord),
}

/// Faults that may still happen, in all and of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) faults: u8,
    pub(crate) cancel: bool,
    pub(crate) source_deadline: bool,
    pub(crate) target_deadline: bool,
    pub(crate) guest_changes: bool,
}

impl Budget {
    pub(crate) fn spend(&mut self) {
        self.faults = self.faults.checked_sub(1).expect("within the budget");
        if self.faults == 0 {
            // What can no longer happen shall not tell states apart.
            *self = Budget::default();
        }
    }
}

/// Whether another client paused the guest before we did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pause {
    None,
    /// It did, and the parent has not heard of it, or has forgotten it in a crash.
    Unheard,
    /// The parent knows: nobody may set the guest running.
    Heard,
}

/// What an omniscient observer remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ghost {
    pub(crate) ran_at_target: bool,
    /// `cont_sent` reached the target's disk, or the QEMU of a committed guest was found whole:
    /// what dies from then on, dies as any arrived guest can.
    pub(crate) counts_as_arrived: bool,
    pub(crate) pause: Pause,
    pub(crate) violation: Option<What>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) parent: Option<Parent>,
    pub(crate) source_disk: Option<SourceRecord>,
    pub(crate) source_qemu: SourceQemu,
    pub(crate) child: Child,
    pub(crate) wire: Wire,
    pub(crate) engine: Option<Engine>,
    pub(crate) decision_disk: DecisionRecord,
    pub(crate) arrival_disk: Option<TargetRecord>,
    pub(crate) target_qemu: TargetQemu,
    pub(crate) budget: Budget,
    pub(crate) ghost: Ghost,
    pub(crate) mutation: Mutation,
}

impl World {
    /// The job is open in the ledger; nothing else has happened.
    pub(crate) fn new(mutation: Mutation, faults: u8) -> Self {
        let decision_disk = DecisionRecord { ticket: TICKET, state: DecisionState::Open };
        let role = Target::new(TICKET, false, Notes::default());
        let mut world = World {
            parent: Some(Parent::new(Source::new(TICKET, Notes::default()), Vec::new())),
            source_disk: None,
            source_qemu: SourceQemu { gone: false, run: Run::Running, migration: Migration::None },
            child: Child { alive: true, switchover_let: false, go: None },
            wire: Wire {
                accepted: false,
                cut: false,
                roots: Roots::NotSent,
                tail: Tail::NotSent,
                asked: false,
                abort_requested: false,
                answers: BTreeSet::new(),
            },
            engine: None,
            decision_disk,
            arrival_disk: None,
            target_qemu: TargetQemu::Incoming,
            budget: Budget {
                faults,
                cancel: true,
                source_deadline: true,
                target_deadline: true,
                // Planted bugs are looked for without it: they show more plainly.
                guest_changes: mutation == Mutation::None,
            },
            ghost: Ghost {
                ran_at_target: false,
                counts_as_arrived: false,
                pause: Pause::None,
                violation: None,
            },
            mutation,
        };
        world.start_engine(role, Vec::new());
        world.tell_engine(TargetEvent::QemuPrepared);
        world
    }

    pub(crate) fn violate(&mut self, what: What) {
        self.ghost.violation.get_or_insert(what);
    }

    pub(crate) fn source_phase(&self) -> Option<SourcePhase> {
        self.parent.as_ref().map(|parent| parent.role.phase())
    }

    pub(crate) fn target_phase(&self) -> Option<TargetPhase> {
        self.engine.as_ref().map(|engine| engine.role.phase())
    }
}
