//! The ledger: set-once outcomes, rising epochs, and the same answers after every crash.

mod common;

use std::collections::BTreeMap;

use common::{any_decision, ticket};
use dwcp_handover::*;
use proptest::prelude::*;

const COMMIT: Decision = Decision::Committed(Start::Run);
const CANCEL: Decision = Decision::Aborted(AbortReason::Cancelled);

fn job(n: u8) -> JobId {
    JobId([n; 16])
}

fn vm(n: u8) -> VmId {
    VmId([n; 16])
}

fn request(job_n: u8, vm_n: u8) -> OpenRequest {
    OpenRequest {
        job: job(job_n),
        vm: vm(vm_n),
        above: Fence::NONE,
        endpoints: EndpointsDigest([9; 32]),
    }
}

fn empty() -> Ledger {
    Ledger::recover(Incarnation(1), []).unwrap()
}

fn opened(requests: &[OpenRequest]) -> Ledger {
    let mut ledger = empty();
    for request in requests {
        let _record = ledger.open(*request).unwrap().confirm();
    }
    ledger
}

#[test]
fn the_first_proposal_wins() {
    for (first, second) in [(COMMIT, CANCEL), (CANCEL, COMMIT)] {
        let mut ledger = opened(&[request(1, 1)]);
        let staged = ledger.propose(job(1), first).unwrap();
        assert_eq!(staged.to_persist().unwrap().state, DecisionState::Decided(first));
        let won = staged.confirm();
        let staged = ledger.propose(job(1), second).unwrap();
        assert_eq!(staged.to_persist(), None);
        assert_eq!(staged.confirm(), won);
    }
}

#[test]
fn what_is_not_durable_was_not_decided() {
    let mut ledger = opened(&[request(1, 1)]);
    drop(ledger.propose(job(1), COMMIT).unwrap());
    assert!(ledger.get(job(1)).unwrap().is_open());
    assert_eq!(
        ledger.propose(job(1), CANCEL).unwrap().confirm().state,
        DecisionState::Decided(CANCEL)
    );
}

#[test]
fn a_guest_is_in_one_undecided_job() {
    let mut ledger = opened(&[request(1, 1), request(2, 2)]);
    let refused = LedgerError::Undecided { vm: vm(1), undecided: job(1) };
    assert_eq!(ledger.open(request(3, 1)).err(), Some(refused));
    assert_eq!(ledger.open(request(1, 3)).err(), Some(LedgerError::JobExists { job: job(1) }));
    let _record = ledger.propose(job(1), CANCEL).unwrap().confirm();
    let record = ledger.open(request(3, 1)).unwrap().confirm();
    assert_eq!(record.ticket.fence, Fence::new(1, 2));
}

#[test]
fn epochs_continue_above_what_the_source_has_seen() {
    let mut ledger = empty();
    let above = |job_n, fence| OpenRequest { above: fence, ..request(job_n, 1) };
    let record = ledger.open(above(1, Fence::new(0, 41))).unwrap().confirm();
    assert_eq!(record.ticket.fence, Fence::new(1, 42));
    let _record = ledger.propose(job(1), CANCEL).unwrap().confirm();
    assert_eq!(
        ledger.open(above(2, Fence::new(2, 1))).err(),
        Some(LedgerError::StaleIncarnation { seen: Fence::new(2, 1), own: Incarnation(1) })
    );
    assert_eq!(
        ledger.open(above(2, Fence::new(1, u64::MAX))).err(),
        Some(LedgerError::EpochsExhausted { vm: vm(1) })
    );
}

#[test]
fn a_hand_back_has_its_own_fence_and_happens_once() {
    let mut ledger = opened(&[request(1, 1)]);
    assert_eq!(ledger.hand_back(job(1)).err(), Some(LedgerError::NotCommitted { job: job(1) }));
    let _record = ledger.propose(job(1), COMMIT).unwrap().confirm();
    let back = ledger.hand_back(job(1)).unwrap().confirm();
    let fence = Fence::new(1, 2);
    assert_eq!(back.state, DecisionState::HandedBack { start: Start::Run, fence });
    let again = ledger.hand_back(job(1)).unwrap();
    assert_eq!(again.to_persist(), None);
    assert_eq!(again.confirm(), back);
    assert_eq!(ledger.propose(job(1), CANCEL).unwrap().confirm(), back);
    assert_eq!(ledger.open(request(2, 1)).unwrap().confirm().ticket.fence, Fence::new(1, 3));
}

#[test]
fn an_old_job_is_not_handed_back_over_a_newer_one() {
    let mut ledger = opened(&[request(1, 1)]);
    let _record = ledger.propose(job(1), COMMIT).unwrap().confirm();
    let _record = ledger.open(request(2, 1)).unwrap().confirm();
    assert_eq!(ledger.hand_back(job(1)).err(), Some(LedgerError::Superseded { job: job(1) }));
}

#[test]
fn forgetting_keeps_the_highest_fence() {
    let mut ledger = opened(&[request(1, 1)]);
    assert_eq!(ledger.forget(job(1)), Err(LedgerError::StillNeeded { job: job(1) }));
    let _record = ledger.propose(job(1), CANCEL).unwrap().confirm();
    assert_eq!(ledger.forget(job(1)), Err(LedgerError::StillNeeded { job: job(1) }));
    let _record = ledger.open(request(2, 1)).unwrap().confirm();
    assert_eq!(ledger.forget(job(1)), Ok(()));
    assert_eq!(ledger.forget(job(1)), Err(LedgerError::UnknownJob { job: job(1) }));
    assert_eq!(ledger.highest(vm(1)), Fence::new(1, 2));
}

#[test]
fn contradicting_records_are_refused() {
    let record = DecisionRecord { ticket: ticket(), state: DecisionState::Open };
    let with = |job_n, epoch, state| DecisionRecord {
        ticket: Ticket { job: job(job_n), fence: Fence::new(1, epoch), ..record.ticket },
        state,
    };
    let decided = DecisionState::Decided(CANCEL);
    let back = DecisionState::HandedBack { start: Start::Run, fence: Fence::new(1, 8) };
    let pairs = [
        [with(1, 7, decided), with(1, 8, decided)],
        [with(1, 7, decided), with(2, 7, decided)],
        [with(1, 7, DecisionState::Open), with(2, 8, DecisionState::Open)],
        [with(1, 7, back), with(2, 8, decided)],
    ];
    for pair in pairs {
        let result = Ledger::recover(Incarnation(1), pair);
        assert!(matches!(result, Err(LedgerError::Contradiction { .. })), "{pair:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        job: u8,
        vm: u8,
        above: u64,
    },
    Propose {
        job: u8,
        decision: Decision,
    },
    HandBack {
        job: u8,
    },
    Forget {
        job: u8,
    },
    /// Restart from the disk, perhaps under a new incarnation.
    Restart {
        incarnation_up: bool,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..6_u8, 0..2_u8, 0..4_u64)
            .prop_map(|(job, vm, above)| Step::Open { job, vm, above }),
        3 => (0..6_u8, any_decision()).prop_map(|(job, decision)| Step::Propose { job, decision }),
        1 => (0..6_u8).prop_map(|job| Step::HandBack { job }),
        1 => (0..6_u8).prop_map(|job| Step::Forget { job }),
        1 => any::<bool>().prop_map(|incarnation_up| Step::Restart { incarnation_up }),
    ]
}

/// What a ledger may never take back.
#[derive(Default)]
struct History {
    outcomes: BTreeMap<(VmId, Fence), bool>,
    last_epoch: BTreeMap<VmId, Epoch>,
}

impl History {
    fn see(&mut self, record: &DecisionRecord) {
        let Ticket { vm, fence, .. } = record.ticket;
        match record.state {
            DecisionState::Open => {
                let last = self.last_epoch.insert(vm, fence.epoch);
                assert!(last.is_none_or(|last| last < fence.epoch), "epochs rise");
            }
            DecisionState::Decided(decision) => {
                self.once(vm, fence, matches!(decision, Decision::Committed(_)));
            }
            DecisionState::HandedBack { fence: back, .. } => {
                self.once(vm, fence, true);
                self.once(vm, back, false);
                let last = self.last_epoch.entry(vm).or_default();
                *last = (*last).max(back.epoch);
            }
        }
    }

    fn once(&mut self, vm: VmId, fence: Fence, committed: bool) {
        let first = *self.outcomes.entry((vm, fence)).or_insert(committed);
        assert_eq!(first, committed, "one outcome for {vm} at {fence}");
    }
}

/// Runs one step whose write reaches the disk or, with the process, does not.
fn run(
    ledger: &mut Ledger,
    disk: &mut BTreeMap<JobId, Vec<u8>>,
    step: &Step,
    crash: bool,
) -> Option<DecisionRecord> {
    let staged = match *step {
        Step::Open { job: j, vm: v, above } => {
            ledger.open(OpenRequest { above: Fence::new(0, above), ..request(j, v) })
        }
        Step::Propose { job: j, decision } => ledger.propose(job(j), decision),
        Step::HandBack { job: j } => ledger.hand_back(job(j)),
        Step::Forget { .. } | Step::Restart { .. } => return None,
    };
    let staged = staged.ok()?;
    if crash {
        return None;
    }
    if let Some(record) = staged.to_persist() {
        disk.insert(record.ticket.job, record.encode());
    }
    Some(staged.confirm())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn one_outcome_and_rising_epochs_through_crashes(
        steps in proptest::collection::vec((any_step(), proptest::bool::weighted(0.1)), 1..60),
    ) {
        let (mut ledger, mut disk) = (empty(), BTreeMap::new());
        let (mut history, mut incarnation) = (History::default(), 1);
        for (step, crash) in &steps {
            if let Step::Forget { job: j } = step && ledger.forget(job(*j)).is_ok() {
                disk.remove(&job(*j));
            }
            if let Some(record) = run(&mut ledger, &mut disk, step, *crash)
                && (matches!(step, Step::Open { .. }) || !record.is_open())
            {
                history.see(&record);
            }
            if let Step::Restart { incarnation_up: true } = step {
                incarnation += 1;
            }
            if *crash || matches!(step, Step::Restart { .. }) {
                let records = disk.values().map(|bytes| DecisionRecord::decode(bytes).unwrap());
                let before = ledger.clone();
                ledger = Ledger::recover(Incarnation(incarnation), records).unwrap();
                prop_assert!(before.records().eq(ledger.records()));
            }
        }
    }
}
