//! Values that several test programs share.
#![allow(dead_code)] // each test program uses its own part

use dwcp_handover::*;
use proptest::prelude::*;

pub(crate) const JOB: JobId = JobId([1; 16]);
pub(crate) const VM: VmId = VmId([2; 16]);
pub(crate) const FENCE: Fence = Fence::new(1, 7);

pub(crate) fn ticket() -> Ticket {
    Ticket { job: JOB, vm: VM, fence: FENCE, endpoints: EndpointsDigest([3; 32]) }
}

pub(crate) fn any_fence() -> impl Strategy<Value = Fence> {
    any::<(u64, u64)>().prop_map(|(incarnation, epoch)| Fence::new(incarnation, epoch))
}

pub(crate) fn any_ticket() -> impl Strategy<Value = Ticket> {
    (any::<[u8; 16]>(), any::<[u8; 16]>(), any_fence(), any::<[u8; 32]>()).prop_map(
        |(job, vm, fence, endpoints)| Ticket {
            job: JobId(job),
            vm: VmId(vm),
            fence,
            endpoints: EndpointsDigest(endpoints),
        },
    )
}

pub(crate) fn one_of<T: Copy + std::fmt::Debug + 'static>(
    all: &'static [T],
) -> impl Strategy<Value = T> {
    proptest::sample::select(all)
}

pub(crate) fn any_decision() -> impl Strategy<Value = Decision> {
    prop_oneof![
        one_of(Start::ALL).prop_map(Decision::Committed),
        one_of(AbortReason::ALL).prop_map(Decision::Aborted),
    ]
}

pub(crate) fn any_decision_record() -> impl Strategy<Value = DecisionRecord> {
    let state = prop_oneof![
        Just(DecisionState::Open),
        any_decision().prop_map(DecisionState::Decided),
        (one_of(Start::ALL), any_fence())
            .prop_map(|(start, fence)| DecisionState::HandedBack { start, fence }),
    ];
    (any_ticket(), state).prop_map(|(ticket, state)| DecisionRecord { ticket, state })
}

pub(crate) fn any_notes() -> impl Strategy<Value = Notes> {
    proptest::collection::btree_map("[a-z0-9._-]{1,64}", "(?s).{0,100}", 0..8).prop_map(|map| {
        let mut notes = Notes::default();
        for (key, value) in map {
            notes.set(&key, &value).expect("within bounds");
        }
        notes
    })
}

pub(crate) fn any_source_record() -> impl Strategy<Value = SourceRecord> {
    let prior = || one_of(RunState::ALL);
    let ending = prop_oneof![
        one_of(Arrival::ALL).prop_map(Ending::Completed),
        (any_fence(), one_of(AbortReason::ALL))
            .prop_map(|(fence, reason)| Ending::Aborted { fence, reason }),
        one_of(Force::ALL).prop_map(Ending::Forced),
    ];
    let state = prop_oneof![
        prior().prop_map(|prior| SourceState::InDoubt { prior }),
        (one_of(Force::ALL), prior())
            .prop_map(|(force, prior)| SourceState::Forced { force, prior }),
        ending.prop_map(SourceState::Settled),
    ];
    (any_ticket(), state, any_notes()).prop_map(|(ticket, state, notes)| SourceRecord {
        ticket,
        state,
        notes,
    })
}

pub(crate) fn any_target_record() -> impl Strategy<Value = TargetRecord> {
    let state = prop_oneof![
        Just(ArrivalState::Prepared),
        Just(ArrivalState::ContSent),
        one_of(Arrival::ALL).prop_map(ArrivalState::Arrived),
    ];
    (any_ticket(), state, any_notes()).prop_map(|(ticket, state, notes)| TargetRecord {
        ticket,
        state,
        notes,
    })
}
