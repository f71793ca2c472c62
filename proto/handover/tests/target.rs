//! The target role, call by call: what one event does in one phase, and every recovery.

mod common;

use TargetCommand as C;
use TargetEvent as E;
use common::{FENCE, ticket};
use dwcp_handover::*;

const BACK: Fence = Fence::new(1, 8);

fn decision(state: DecisionState) -> DecisionRecord {
    DecisionRecord { ticket: ticket(), state }
}

fn committed_record(start: Start) -> DecisionRecord {
    decision(DecisionState::Decided(Decision::Committed(start)))
}

fn aborted_record(reason: AbortReason) -> DecisionRecord {
    decision(DecisionState::Decided(Decision::Aborted(reason)))
}

fn handed_back_record() -> DecisionRecord {
    decision(DecisionState::HandedBack { start: Start::Run, fence: BACK })
}

fn arrival(state: ArrivalState) -> TargetRecord {
    TargetRecord { ticket: ticket(), state, notes: Notes::default() }
}

fn committed(arrival: Arrival) -> Outcome {
    Outcome::Committed { fence: FENCE, arrival }
}

fn aborted(fence: Fence, reason: AbortReason) -> Outcome {
    Outcome::Aborted { fence, reason }
}

const TO_CHECKED: &[E] =
    &[E::QemuPrepared, E::ArrivalPersisted, E::StreamStarted, E::RootsCompared { matched: true }];

fn after(events: &[E], leave_paused: bool) -> Target {
    let mut target = Target::new(ticket(), leave_paused, Notes::default());
    for event in events {
        target.on(*event);
    }
    target
}

fn loaded(start: Start, leave_paused: bool) -> (Target, Vec<C>) {
    let mut target = after(TO_CHECKED, leave_paused);
    assert_eq!(target.on(E::TailReceived { start }), []);
    let commands = target.on(E::LoadCompleted);
    (target, commands)
}

fn starting() -> Target {
    let (mut target, _) = loaded(Start::Run, false);
    target.on(E::Decided(committed_record(Start::Run)));
    target.on(E::ArrivalPersisted);
    assert_eq!(target.phase(), TargetPhase::Starting);
    target
}

fn running() -> Vec<C> {
    vec![
        C::AnnounceSelf,
        C::RestoreCapabilities,
        C::TellSource(committed(Arrival::Running)),
        C::PersistArrival(arrival(ArrivalState::Arrived(Arrival::Running))),
        C::Report(TargetStatus::Arrived(Arrival::Running)),
    ]
}

#[test]
fn the_straight_way() {
    let mut target = Target::new(ticket(), false, Notes::default());
    let prepared = arrival(ArrivalState::Prepared);
    assert_eq!(target.on(E::QemuPrepared), [C::PersistArrival(prepared)]);
    assert_eq!(target.on(E::ArrivalPersisted), [C::AcceptSource]);
    assert_eq!(target.on(E::StreamStarted), []);
    assert_eq!(target.on(E::RootsCompared { matched: true }), []);
    assert_eq!(target.on(E::TailReceived { start: Start::Run }), []);
    let commit = Decision::Committed(Start::Run);
    assert_eq!(target.on(E::LoadCompleted), [C::Propose(commit)]);
    assert_eq!(target.outcome(), Outcome::Undecided);
    let sent = arrival(ArrivalState::ContSent);
    let decided = target.on(E::Decided(committed_record(Start::Run)));
    assert_eq!(decided, [C::PersistArrival(sent)]);
    let cont = target.on(E::ArrivalPersisted);
    assert_eq!(cont, [C::Cont, C::TellSource(committed(Arrival::Pending))]);
    assert_eq!(target.on(E::Resumed), running());
    assert!(target.phase().is_over());
    assert_eq!(target.on(E::SourceAsked), [C::TellSource(committed(Arrival::Running))]);
}

#[test]
fn a_guest_to_be_left_paused_never_gets_cont() {
    for (start, leave_paused) in [(Start::Run, true), (Start::LeavePaused, false)] {
        let (mut target, commands) = loaded(start, leave_paused);
        assert_eq!(commands, [C::Propose(Decision::Committed(Start::LeavePaused))]);
        let decided = target.on(E::Decided(committed_record(Start::LeavePaused)));
        assert_eq!(decided, [C::InspectQemu]);
        let mut gone = target.clone();
        assert_eq!(gone.on(E::QemuInspected(QemuState::Gone)), [C::HandBack]);
        assert_eq!(
            target.on(E::QemuInspected(QemuState::Paused)),
            [
                C::RestoreCapabilities,
                C::PersistArrival(arrival(ArrivalState::Arrived(Arrival::LeftPaused))),
                C::TellSource(committed(Arrival::LeftPaused)),
                C::Report(TargetStatus::Arrived(Arrival::LeftPaused)),
            ]
        );
    }
}

#[test]
fn failures_before_the_load_propose_aborted_once() {
    let failures = [
        (E::LoadFailed, AbortReason::LoadFailed),
        (E::QemuLost, AbortReason::TargetLost),
        (E::LinkLost, AbortReason::LinkLost),
        (E::PeerViolation, AbortReason::PeerViolation),
        (E::CancelRequested, AbortReason::Cancelled),
        (E::Deadline, AbortReason::Deadline),
        (E::SourceRequestedAbort(AbortReason::SourceAsked), AbortReason::SourceAsked),
        (E::RootsCompared { matched: true }, AbortReason::PeerViolation),
        (E::LoadCompleted, AbortReason::PeerViolation),
    ];
    for (failure, reason) in failures {
        let mut target = after(TO_CHECKED, false);
        assert_eq!(target.on(failure), [C::Propose(Decision::Aborted(reason))]);
        assert_eq!(target.on(E::Deadline), []);
        assert_eq!(target.on(E::LoadCompleted), []);
        let outcome = aborted(FENCE, reason);
        let decided = target.on(E::Decided(aborted_record(reason)));
        assert_eq!(decided, [C::DestroyQemu, C::TellSource(outcome)]);
        assert_eq!(target.on(E::RetryDue), [C::DestroyQemu]);
        let report = TargetStatus::Aborted { fence: FENCE, reason };
        assert_eq!(target.on(E::QemuDestroyed), [C::Report(report)]);
        assert_eq!(target.outcome(), outcome);
    }
}

#[test]
fn differing_roots_and_an_early_tail_abort() {
    let mut target = after(&TO_CHECKED[..3], false);
    let commands = target.on(E::RootsCompared { matched: false });
    assert_eq!(commands, [C::Propose(Decision::Aborted(AbortReason::RootsDiffer))]);
    let mut target = after(&TO_CHECKED[..3], false);
    let commands = target.on(E::TailReceived { start: Start::Run });
    assert_eq!(commands, [C::Propose(Decision::Aborted(AbortReason::PeerViolation))]);
}

#[test]
fn with_the_whole_tail_a_lost_link_changes_nothing() {
    let mut target = after(TO_CHECKED, false);
    target.on(E::TailReceived { start: Start::Run });
    assert_eq!(target.on(E::LinkLost), []);
    assert_eq!(target.on(E::LoadCompleted), [C::Propose(Decision::Committed(Start::Run))]);
}

#[test]
fn a_lost_race_for_the_commit_destroys() {
    let (mut target, _) = loaded(Start::Run, false);
    let commands = target.on(E::Decided(aborted_record(AbortReason::Cancelled)));
    let outcome = aborted(FENCE, AbortReason::Cancelled);
    assert_eq!(commands, [C::DestroyQemu, C::TellSource(outcome)]);
}

#[test]
fn records_of_other_tickets_are_not_obeyed() {
    let (mut target, _) = loaded(Start::Run, false);
    let mut record = committed_record(Start::Run);
    record.ticket.fence = BACK;
    assert_eq!(target.on(E::Decided(record)), []);
    assert_eq!(target.outcome(), Outcome::Undecided);
}

#[test]
fn a_guest_that_never_ran_is_handed_back() {
    let mut target = starting();
    assert_eq!(target.on(E::ContFailed { never_left_paused: true }), [C::HandBack]);
    assert_eq!(target.on(E::Decided(handed_back_record())), [C::DestroyQemu]);
    // Not before it is gone.
    assert_eq!(target.outcome(), committed(Arrival::Pending));
    let (fence, reason) = (BACK, AbortReason::HandedBack);
    assert_eq!(
        target.on(E::QemuDestroyed),
        [C::TellSource(aborted(fence, reason)), C::Report(TargetStatus::Aborted { fence, reason })]
    );
}

#[test]
fn a_guest_lost_between_decision_and_cont_is_handed_back() {
    let (mut target, _) = loaded(Start::Run, false);
    target.on(E::Decided(committed_record(Start::Run)));
    assert_eq!(target.on(E::QemuLost), [C::HandBack]);
    assert_eq!(target.on(E::ArrivalPersisted), []);
    let (mut target, _) = loaded(Start::Run, false);
    assert_eq!(target.on(E::QemuLost), []);
    assert_eq!(target.on(E::Decided(committed_record(Start::Run))), [C::HandBack]);
}

#[test]
fn a_guest_that_may_have_run_is_never_handed_back() {
    let mut target = starting();
    let failed = target.on(E::ContFailed { never_left_paused: false });
    assert_eq!(failed, [C::Report(TargetStatus::ContFailed)]);
    assert_eq!(target.on(E::RetryDue), [C::InspectQemu]);
    assert_eq!(target.on(E::QemuInspected(QemuState::Paused)), [C::Cont]);
    let failed = target.on(E::ContFailed { never_left_paused: true });
    assert_eq!(failed, [C::Report(TargetStatus::ContFailed)]);
    assert_eq!(target.on(E::RetryDue), [C::InspectQemu]);
    assert_eq!(target.on(E::QemuInspected(QemuState::Running)), running());
}

#[test]
fn a_guest_gone_after_cont_is_lost() {
    let mut target = starting();
    assert_eq!(
        target.on(E::QemuLost),
        [
            C::TellSource(committed(Arrival::Lost)),
            C::PersistArrival(arrival(ArrivalState::Arrived(Arrival::Lost))),
            C::Report(TargetStatus::Arrived(Arrival::Lost)),
        ]
    );
}

#[test]
fn a_request_to_abort_after_the_decision_hears_the_outcome() {
    let reason = AbortReason::Deadline;
    let commands = starting().on(E::SourceRequestedAbort(reason));
    assert_eq!(commands, [C::TellSource(committed(Arrival::Pending))]);
}

#[test]
fn recovery_of_an_undecided_job_aborts_it() {
    for record in [None, Some(arrival(ArrivalState::Prepared))] {
        let (mut target, commands) = Target::recover(decision(DecisionState::Open), record);
        let reason = AbortReason::TargetRestarted;
        assert_eq!(commands, [C::Propose(Decision::Aborted(reason))]);
        let decided = target.on(E::Decided(aborted_record(reason)));
        assert_eq!(decided, [C::DestroyQemu, C::TellSource(aborted(FENCE, reason))]);
    }
}

#[test]
fn recovery_of_an_aborted_job_destroys_again() {
    let reason = AbortReason::LinkLost;
    let prepared = Some(arrival(ArrivalState::Prepared));
    let (_, commands) = Target::recover(aborted_record(reason), prepared.clone());
    assert_eq!(commands, [C::DestroyQemu, C::TellSource(aborted(FENCE, reason))]);
    let (target, commands) = Target::recover(handed_back_record(), prepared);
    assert_eq!(commands, [C::DestroyQemu]);
    assert_eq!(target.outcome(), committed(Arrival::Pending));
}

/// What recovery does with a committed job, by record and by what QEMU is found doing.
#[test]
fn recovery_of_a_committed_job() {
    let sent = C::PersistArrival(arrival(ArrivalState::ContSent));
    let lost = vec![
        C::TellSource(committed(Arrival::Lost)),
        C::PersistArrival(arrival(ArrivalState::Arrived(Arrival::Lost))),
        C::Report(TargetStatus::Arrived(Arrival::Lost)),
    ];
    let table = [
        (ArrivalState::Prepared, QemuState::Paused, vec![sent]),
        (ArrivalState::Prepared, QemuState::Gone, vec![C::HandBack]),
        (ArrivalState::ContSent, QemuState::Running, running()),
        (ArrivalState::ContSent, QemuState::Paused, vec![C::Cont]),
        (ArrivalState::ContSent, QemuState::Gone, lost),
    ];
    for (state, found, expected) in table {
        let (mut target, commands) =
            Target::recover(committed_record(Start::Run), Some(arrival(state)));
        assert_eq!(commands, [C::InspectQemu]);
        assert_eq!(target.on(E::RetryDue), [C::InspectQemu]);
        assert_eq!(target.on(E::QemuInspected(found)), expected, "{state:?} {found:?}");
    }
}

#[test]
fn recovery_after_the_arrival_only_answers() {
    for arrived in [Arrival::Running, Arrival::LeftPaused, Arrival::Lost] {
        let record = arrival(ArrivalState::Arrived(arrived));
        let (mut target, commands) = Target::recover(committed_record(Start::Run), Some(record));
        assert_eq!(commands, []);
        assert_eq!(target.on(E::SourceAsked), [C::TellSource(committed(arrived))]);
        assert_eq!(target.on(E::QemuLost), []);
        assert_eq!(target.on(E::Deadline), []);
    }
}
