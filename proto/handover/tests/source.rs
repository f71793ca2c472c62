//! The source role, call by call: what one event does in one phase.

mod common;

use SourceCommand as C;
use SourceEvent as E;
use common::{FENCE, ticket};
use dwcp_handover::*;

const RUNNING: RunState = RunState::Running;

fn source() -> Source {
    Source::new(ticket(), Notes::default())
}

fn record(state: SourceState) -> SourceRecord {
    SourceRecord { ticket: ticket(), state, notes: Notes::default() }
}

fn in_doubt(prior: RunState) -> SourceRecord {
    record(SourceState::InDoubt { prior })
}

fn aborted(reason: AbortReason) -> Ending {
    Ending::Aborted { fence: FENCE, reason }
}

fn committed(arrival: Arrival) -> E {
    E::OutcomeLearned(Outcome::Committed { fence: FENCE, arrival })
}

/// What every job ends with.
fn end(ending: Ending) -> Vec<C> {
    vec![
        C::RestoreCapabilities,
        C::PersistSettled(record(SourceState::Settled(ending))),
        C::Report(SourceStatus::Ended(ending)),
    ]
}

fn after(events: &[E]) -> Source {
    let mut source = source();
    for event in events {
        source.on(*event);
    }
    source
}

const TO_PRECOPY: &[E] = &[E::ChildReady { run_state: RUNNING }];
const TO_RECORDING: &[E] = &[E::ChildReady { run_state: RUNNING }, E::StopRequested];
const TO_STOPPING: &[E] =
    &[E::ChildReady { run_state: RUNNING }, E::StopRequested, E::InDoubtPersisted];
const TO_STOPPED: &[E] = &[
    E::ChildReady { run_state: RUNNING },
    E::StopRequested,
    E::InDoubtPersisted,
    E::GuestStopped { prior: RUNNING },
];
const TO_GO: &[E] = &[
    E::ChildReady { run_state: RUNNING },
    E::StopRequested,
    E::InDoubtPersisted,
    E::GuestStopped { prior: RUNNING },
    E::RootsMatched,
    E::GoRequested,
];

fn resolving() -> Source {
    let mut source = after(TO_GO);
    assert_eq!(source.on(E::LinkLost), [C::AskOutcome]);
    source
}

#[test]
fn the_straight_way() {
    let mut source = source();
    assert_eq!(source.on(E::ChildReady { run_state: RUNNING }), [C::StartMigration]);
    assert_eq!(source.on(E::StopRequested), [C::PersistInDoubt(in_doubt(RUNNING))]);
    assert_eq!(source.on(E::InDoubtPersisted), [C::StopGuest]);
    assert_eq!(source.on(E::GuestStopped { prior: RUNNING }), [C::LetSwitchover]);
    assert_eq!(source.on(E::SwitchoverBegan), []);
    assert_eq!(source.on(E::RootsMatched), []);
    assert_eq!(source.on(E::GoRequested), [C::GrantGo { start: Start::Run }]);
    assert_eq!(source.on(committed(Arrival::Pending)), [C::Report(SourceStatus::Committed)]);
    let ending = Ending::Completed(Arrival::Running);
    let expected: Vec<_> = [C::ReleaseShut].into_iter().chain(end(ending)).collect();
    assert_eq!(source.on(committed(Arrival::Running)), expected);
    assert_eq!(source.phase(), SourcePhase::Done(ending));
}

#[test]
fn go_waits_for_the_roots() {
    let mut source = after(TO_STOPPED);
    assert_eq!(source.on(E::GoRequested), []);
    assert_eq!(source.on(E::RootsMatched), [C::GrantGo { start: Start::Run }]);
}

#[test]
fn a_failure_before_the_stop_never_touches_the_guest() {
    for phase in [&[][..], TO_PRECOPY, TO_RECORDING] {
        let mut source = after(phase);
        let head = [C::AbortMigration, C::RequestAbort(AbortReason::LinkLost)];
        let expected: Vec<_> =
            head.into_iter().chain(end(aborted(AbortReason::LinkLost))).collect();
        assert_eq!(source.on(E::LinkLost), expected);
    }
}

#[test]
fn any_failure_between_stop_and_go_resumes_at_once() {
    let failures = [
        (E::ChildDied, AbortReason::ChildDied),
        (E::LinkLost, AbortReason::LinkLost),
        (E::MigrationFailed, AbortReason::MigrationFailed),
        (E::RootsDiffer, AbortReason::RootsDiffer),
        (E::CancelRequested, AbortReason::Cancelled),
        (E::Deadline, AbortReason::Deadline),
        (E::PauseTimeout, AbortReason::PauseTimeout),
        (E::Forced(Force::Abort), AbortReason::Cancelled),
        (
            E::OutcomeLearned(Outcome::Aborted { fence: FENCE, reason: AbortReason::LoadFailed }),
            AbortReason::LoadFailed,
        ),
        (committed(Arrival::Running), AbortReason::PeerViolation),
    ];
    for (failure, reason) in failures {
        for phase in [TO_STOPPING, TO_STOPPED] {
            let mut source = after(phase);
            let commands = source.on(failure);
            let resume = C::ResumeGuest { to: RUNNING };
            assert_eq!(commands, [C::AbortMigration, resume, C::RequestAbort(reason)]);
            assert_eq!(source.on(E::GoRequested), [C::RefuseGo]);
            assert_eq!(source.on(E::ResumeFailed), [C::Report(SourceStatus::ResumeFailed)]);
            assert_eq!(source.on(E::RetryDue), [C::ResumeGuest { to: RUNNING }]);
            assert_eq!(source.on(E::GuestResumed), end(aborted(reason)));
            assert_eq!(source.on(E::GoRequested), [C::RefuseGo]);
        }
    }
}

#[test]
fn a_child_that_waits_for_go_is_refused_first() {
    let mut source = after(TO_STOPPED);
    source.on(E::GoRequested);
    assert_eq!(source.on(E::CancelRequested)[..2], [C::RefuseGo, C::AbortMigration]);
}

#[test]
fn after_go_no_event_but_an_outcome_resumes() {
    let events = [
        E::ChildDied,
        E::LinkLost,
        E::MigrationFailed,
        E::GuestLost,
        E::RootsDiffer,
        E::CancelRequested,
        E::Deadline,
        E::PauseTimeout,
        E::RetryDue,
        E::LedgerUnreachable,
        E::StopFailed,
        E::GuestStopped { prior: RUNNING },
        E::SwitchoverBegan,
        E::InDoubtPersisted,
        E::GuestResumed,
        E::ResumeFailed,
        E::StopRequested,
        E::RunStateChanged(RUNNING),
        E::RunStateChanged(RunState::IoError),
        E::OutcomeLearned(Outcome::Undecided),
        E::OutcomeLearned(Outcome::Unknown),
        committed(Arrival::Pending),
        committed(Arrival::Lost),
    ];
    for first in events {
        for second in events {
            let mut source = after(TO_GO);
            let mut commands = source.on(first);
            commands.extend(source.on(second));
            let resumed = commands.iter().any(|command| matches!(command, C::ResumeGuest { .. }));
            assert!(!resumed && source.phase().in_doubt(), "{first:?} {second:?}");
        }
    }
}

#[test]
fn after_go_time_only_races_for_the_decision() {
    let mut source = after(TO_GO);
    assert_eq!(source.on(E::Deadline), [C::RequestAbort(AbortReason::Deadline)]);
    assert_eq!(source.on(E::PauseTimeout), [C::RequestAbort(AbortReason::PauseTimeout)]);
    assert_eq!(source.on(E::CancelRequested), [C::Report(SourceStatus::WaitingForOutcome)]);
    assert_eq!(source.on(E::CancelRequested), [C::Report(SourceStatus::ShowResolve)]);
    assert_eq!(source.phase(), SourcePhase::GoGranted);
}

#[test]
fn a_broken_path_after_go_is_resolved_by_asking() {
    let mut source = resolving();
    assert_eq!(source.on(E::LedgerUnreachable), [C::Report(SourceStatus::LedgerUnreachable)]);
    assert_eq!(source.on(E::RetryDue), [C::AskOutcome]);
    assert_eq!(
        source.on(E::OutcomeLearned(Outcome::Undecided)),
        [C::RequestAbort(AbortReason::SourceAsked)]
    );
    assert_eq!(
        source.on(E::OutcomeLearned(Outcome::Unknown)),
        [C::Report(SourceStatus::JobUnknown)]
    );
    let outcome = Outcome::Aborted { fence: FENCE, reason: AbortReason::SourceAsked };
    let resume = C::ResumeGuest { to: RUNNING };
    assert_eq!(source.on(E::OutcomeLearned(outcome)), [C::AbortMigration, resume]);
    assert_eq!(source.on(E::GuestResumed), end(aborted(AbortReason::SourceAsked)));
}

#[test]
fn while_the_path_holds_an_undecided_target_is_left_alone() {
    let mut source = after(TO_GO);
    assert_eq!(source.on(E::OutcomeLearned(Outcome::Undecided)), []);
}

#[test]
fn with_the_source_qemu_gone_the_target_is_not_asked_to_abort() {
    let mut source = resolving();
    assert_eq!(source.on(E::GuestLost), [C::Report(SourceStatus::GuestLost)]);
    assert_eq!(source.on(E::OutcomeLearned(Outcome::Undecided)), []);
    assert_eq!(source.on(E::Deadline), []);
}

#[test]
fn outcomes_of_other_fences_are_not_obeyed() {
    let foreign = [
        Outcome::Committed { fence: Fence::new(1, 8), arrival: Arrival::Running },
        Outcome::Committed { fence: Fence::new(1, 6), arrival: Arrival::Running },
        Outcome::Aborted { fence: Fence::new(1, 8), reason: AbortReason::Cancelled },
        Outcome::Aborted { fence: Fence::new(1, 6), reason: AbortReason::HandedBack },
    ];
    for outcome in foreign {
        let commands = resolving().on(E::OutcomeLearned(outcome));
        assert_eq!(commands, [C::Report(SourceStatus::ForeignOutcome)], "{outcome:?}");
    }
}

#[test]
fn a_hand_back_resumes_even_after_committed_was_heard() {
    let mut source = after(TO_GO);
    source.on(committed(Arrival::Pending));
    let fence = Fence::new(1, 8);
    let reason = AbortReason::HandedBack;
    let commands = source.on(E::OutcomeLearned(Outcome::Aborted { fence, reason }));
    assert_eq!(commands, [C::AbortMigration, C::ResumeGuest { to: RUNNING }]);
    assert_eq!(source.on(E::GuestResumed), end(Ending::Aborted { fence, reason }));
}

#[test]
fn a_guest_that_does_not_run_is_stopped_before_it_migrates() {
    for prior in [RunState::Paused, RunState::Suspended, RunState::IoError, RunState::Other] {
        let mut source = source();
        let ready = source.on(E::ChildReady { run_state: prior });
        assert_eq!(ready, [C::PersistInDoubt(in_doubt(prior))]);
        assert_eq!(source.on(E::InDoubtPersisted), [C::StopGuest]);
        let stopped = source.on(E::GuestStopped { prior });
        assert_eq!(stopped, [C::StartMigration, C::LetSwitchover]);
        source.on(E::RootsMatched);
        assert_eq!(source.on(E::GoRequested), [C::GrantGo { start: prior.start() }]);
    }
}

#[test]
fn an_abort_restores_the_state_from_before_our_stop() {
    for prior in [RunState::Paused, RunState::IoError, RunState::Suspended] {
        let mut source = after(TO_STOPPING);
        let amended = source.on(E::GuestStopped { prior });
        assert_eq!(amended, [C::PersistInDoubt(in_doubt(prior))]);
        assert_eq!(source.on(E::InDoubtPersisted), [C::LetSwitchover]);
        let resumed = source.on(E::LinkLost).contains(&C::ResumeGuest { to: prior });
        assert_eq!(resumed, prior == RunState::Suspended);
    }
}

#[test]
fn a_guest_that_stops_running_by_itself_is_stopped_by_us() {
    for state in [RunState::Suspended, RunState::IoError, RunState::Paused] {
        let mut source = after(TO_PRECOPY);
        let commands = source.on(E::RunStateChanged(state));
        assert_eq!(commands, [C::PersistInDoubt(in_doubt(state))]);
        // If QEMU is faster, what it saved decides whether the job can go on.
        let early = source.on(E::SwitchoverBegan);
        assert_eq!(early.is_empty(), !state.is_live());
        if early.is_empty() {
            assert_eq!(source.on(E::InDoubtPersisted), [C::LetSwitchover]);
        }
    }
}

#[test]
fn a_switch_over_without_our_stop_is_refused() {
    for phase in [TO_PRECOPY, TO_RECORDING, TO_STOPPING] {
        let commands = after(phase).on(E::SwitchoverBegan);
        let reason = AbortReason::EarlySwitchover;
        let resume = C::ResumeGuest { to: RUNNING };
        assert_eq!(commands, [C::AbortMigration, resume, C::RequestAbort(reason)]);
    }
}

#[test]
fn a_guest_set_running_by_another_client_is_not_handed_over() {
    let commands = after(TO_STOPPED).on(E::RunStateChanged(RUNNING));
    assert!(commands.contains(&C::RequestAbort(AbortReason::Interference)));
    let commands = after(TO_GO).on(E::RunStateChanged(RUNNING));
    assert_eq!(commands, [C::StopGuest, C::Report(SourceStatus::Interference)]);
}

#[test]
fn a_restart_assumes_that_go_has_left() {
    let (mut source, commands) = Source::recover(in_doubt(RUNNING));
    assert_eq!((source.phase(), commands), (SourcePhase::Resolving, vec![C::AskOutcome]));
    assert_eq!(source.on(E::Deadline), [C::RequestAbort(AbortReason::Deadline)]);
    let ending = Ending::Completed(Arrival::LeftPaused);
    let (source, commands) = Source::recover(record(SourceState::Settled(ending)));
    assert_eq!((source.phase(), commands), (SourcePhase::Done(ending), vec![]));
}

#[test]
fn an_operators_decision_is_recorded_before_it_is_carried_out() {
    for force in Force::ALL.iter().copied() {
        let forced = record(SourceState::Forced { force, prior: RUNNING });
        let mut source = resolving();
        assert_eq!(source.on(E::Forced(force)), [C::PersistForced(forced.clone())]);
        let carried_out = source.on(E::ForcePersisted);
        let resume = [C::AbortMigration, C::ResumeGuest { to: RUNNING }].to_vec();
        let expected = match force {
            Force::Abort => resume,
            Force::Commit => end(Ending::Forced(force)),
        };
        assert_eq!(carried_out, expected);
        assert_eq!(Source::recover(forced).1, expected);
        assert!(!force.risk().is_empty());
    }
}

#[test]
fn a_real_outcome_beats_an_operator_who_is_not_recorded_yet() {
    let mut source = resolving();
    source.on(E::Forced(Force::Abort));
    assert_eq!(source.on(committed(Arrival::Running))[0], C::ReleaseShut);
    assert_eq!(source.on(E::ForcePersisted), []);
}

#[test]
fn an_operator_cannot_force_commit_before_go_or_after_the_end() {
    let refused = [C::Report(SourceStatus::ForceRefused)];
    assert_eq!(after(TO_STOPPED).on(E::Forced(Force::Commit)), refused);
    let mut done = after(&[E::CancelRequested]);
    for force in Force::ALL {
        assert_eq!(done.on(E::Forced(*force)), refused);
    }
}
