use pyramid_protocol::pb::v1::{Accepted, NotReady, Rejected, WrongOffset};

use super::*;

fn at(offset: u64) -> Position {
    in_epoch(1, offset)
}

fn in_epoch(epoch: u32, offset: u64) -> Position {
    Position { stream_id: StreamId::new(7).unwrap(), epoch, offset: Offset::new(offset) }
}

fn in_stream(stream_id: u64, offset: u64) -> Position {
    Position { stream_id: StreamId::new(stream_id).unwrap(), ..at(offset) }
}

/// Four records from offset 10 on.
const RECORDS: u64 = 4;

fn push() -> Pushed {
    Pushed { base: Some(at(10)), next: at(14), records: RECORDS }
}

fn question() -> Pushed {
    Pushed { base: Some(at(10)), next: at(10), records: 0 }
}

fn first_push() -> Pushed {
    Pushed { base: None, next: at(10), records: 0 }
}

fn accepted(next: Position) -> Option<Answer> {
    Some(Answer::Accepted(Accepted { next: Some(next.into()) }))
}

fn wrong(stored: Option<Position>) -> Option<Answer> {
    Some(Answer::WrongOffset(WrongOffset { stored: stored.map(pb::Position::from) }))
}

fn rejected(offset: u64) -> Option<Answer> {
    Some(Answer::Rejected(Rejected { offset, reason: "ugly".to_owned() }))
}

fn outside(pushed: &Pushed, accepted: Position) -> Result<Step, Nonsense> {
    Err(Nonsense::AcceptedOutside { accepted, next: pushed.next })
}

#[test]
fn what_was_accepted_lies_within_the_push() {
    let push = push();
    for offset in 11..=14 {
        assert_eq!(next_step(&push, accepted(at(offset))), Ok(Step::Accepted(at(offset))));
    }
    assert_eq!(next_step(&push, accepted(at(10))), Ok(Step::AcceptedNothing));
    for wrong in [at(9), at(15), in_epoch(2, 12), in_epoch(0, 12), in_stream(8, 12)] {
        assert_eq!(next_step(&push, accepted(wrong)), outside(&push, wrong), "{wrong}");
    }
}

#[test]
fn a_new_epoch_enters_with_what_is_accepted() {
    let push = Pushed { next: in_epoch(2, 14), ..push() };
    for offset in 10..=14 {
        let next = in_epoch(2, offset);
        assert_eq!(next_step(&push, accepted(next)), Ok(Step::Accepted(next)));
    }
    // Stored in the old epoch, the records would belong to a history that they are not from.
    assert_eq!(next_step(&push, accepted(at(12))), outside(&push, at(12)));
    assert_eq!(next_step(&push, accepted(at(10))), Ok(Step::AcceptedNothing));
}

#[test]
fn a_question_is_answered_with_the_place() {
    assert_eq!(next_step(&question(), accepted(at(10))), Ok(Step::Accepted(at(10))));
    let raised = Pushed { next: in_epoch(2, 10), ..question() };
    for place in [at(10), in_epoch(2, 10)] {
        assert_eq!(next_step(&raised, accepted(place)), Ok(Step::Accepted(place)));
    }
    for wrong in [at(9), at(11), in_epoch(2, 10)] {
        assert_eq!(next_step(&question(), accepted(wrong)), outside(&question(), wrong));
    }
}

#[test]
fn a_first_push_is_accepted_exactly() {
    assert_eq!(next_step(&first_push(), accepted(at(10))), Ok(Step::Accepted(at(10))));
    for wrong in [at(9), at(11), in_epoch(2, 10), in_stream(8, 10)] {
        assert_eq!(next_step(&first_push(), accepted(wrong)), outside(&first_push(), wrong));
    }
}

#[test]
fn another_stored_position_is_where_to_go_on() {
    for stored in [at(0), at(9), at(11), at(99), in_epoch(2, 10), in_stream(8, 10)] {
        assert_eq!(next_step(&push(), wrong(Some(stored))), Ok(Step::Resume(stored)));
        assert_eq!(next_step(&question(), wrong(Some(stored))), Ok(Step::Resume(stored)));
    }
    assert_eq!(next_step(&first_push(), wrong(Some(at(10)))), Ok(Step::Resume(at(10))));
}

#[test]
fn a_base_that_is_called_wrong_and_right_is_nonsense() {
    let nonsense = Err(Nonsense::WrongIsRight { base: at(10) });
    assert_eq!(next_step(&push(), wrong(Some(at(10)))), nonsense);
    assert_eq!(next_step(&question(), wrong(Some(at(10)))), nonsense);
}

#[test]
fn a_lost_database_begins_again() {
    assert_eq!(next_step(&push(), wrong(None)), Ok(Step::BeginAgain));
    assert_eq!(next_step(&question(), wrong(None)), Ok(Step::BeginAgain));
}

#[test]
fn an_application_that_does_not_store_its_first_position_is_told() {
    let nonsense = Err(Nonsense::FirstNotStored { next: at(10) });
    assert_eq!(next_step(&first_push(), wrong(None)), nonsense);
}

#[test]
fn an_application_that_is_not_ready_is_waited_for() {
    let not_ready = |retry_after_ms| Some(Answer::NotReady(NotReady { retry_after_ms }));
    for pushed in [push(), question(), first_push()] {
        assert_eq!(next_step(&pushed, not_ready(0)), Ok(Step::Wait(None)));
        let wait = Some(Duration::from_millis(1));
        assert_eq!(next_step(&pushed, not_ready(1)), Ok(Step::Wait(wait)));
    }
}

#[test]
fn only_a_pushed_record_can_be_rejected() {
    for offset in 10..14 {
        let halt = Halt::Rejected { offset: Offset::new(offset), reason: "ugly".to_owned() };
        assert_eq!(next_step(&push(), rejected(offset)), Ok(Step::Halt(halt)));
    }
    for (pushed, offset) in
        [(push(), 9), (push(), 14), (question(), 9), (question(), 10), (first_push(), 10)]
    {
        let nonsense = Err(Nonsense::RejectedOutside { offset: Offset::new(offset) });
        assert_eq!(next_step(&pushed, rejected(offset)), nonsense, "{pushed:?}");
    }
}

#[test]
fn a_long_reason_is_cut_to_1000_bytes_between_two_characters() {
    for (reason, kept) in [("é".repeat(500), 1000), (format!("x{}", "é".repeat(500)), 999)] {
        let answer = Answer::Rejected(Rejected { offset: 4, reason: reason.clone() });
        let pushed = Pushed { base: Some(at(4)), next: at(5), records: 1 };
        let halt = Halt::Rejected { offset: Offset::new(4), reason: reason[..kept].to_owned() };
        assert_eq!(next_step(&pushed, Some(answer)), Ok(Step::Halt(halt)));
    }
}

#[test]
fn positions_without_a_stream_id_and_empty_answers_are_nonsense() {
    let none = Some(pb::Position { stream_id: 0, epoch: 1, offset: 12 });
    let accepted = |next| Some(Answer::Accepted(Accepted { next }));
    assert_eq!(next_step(&push(), accepted(None)), Err(Nonsense::AcceptedWhat));
    assert_eq!(next_step(&push(), accepted(none)), Err(Nonsense::AcceptedWhat));
    let stored = Some(Answer::WrongOffset(WrongOffset { stored: none }));
    assert_eq!(next_step(&push(), stored), Err(Nonsense::StoredWhat { stream_id: 0 }));
    assert_eq!(next_step(&push(), None), Err(Nonsense::Empty));
}

fn stream() -> Stream {
    Stream {
        stream_id: StreamId::new(7).unwrap(),
        epoch: 2,
        first_offset: Offset::new(5),
        next_offset: Offset::new(20),
    }
}

#[test]
fn an_application_without_a_position_begins_where_the_subscription_says() {
    assert_eq!(first_position(StartFrom::Earliest, stream()), in_epoch(2, 5));
    assert_eq!(first_position(StartFrom::Unspecified, stream()), in_epoch(2, 5));
    assert_eq!(first_position(StartFrom::Latest, stream()), in_epoch(2, 20));
}

#[test]
fn a_trimmed_and_a_lost_place_halt_at_once() {
    let refusal = |reason, detail| Refusal { detail, ..Refusal::new(reason, "made up") };
    for (detail, first) in [(Some(Detail::FirstOffset(5)), Some(Offset::new(5))), (None, None)] {
        assert_eq!(
            refused_read(at(4), &refusal(Reason::Trimmed, detail)),
            Verdict::Halt(Halt::Trimmed { stored: at(4), first })
        );
    }
    for (detail, safe) in [(Some(Detail::SafeOffset(3)), Some(Offset::new(3))), (None, None)] {
        assert_eq!(
            refused_read(at(4), &refusal(Reason::EpochChanged, detail)),
            Verdict::Halt(Halt::EpochChanged { stored: at(4), safe })
        );
    }
}

#[test]
fn a_replica_alone_neither_replaces_a_stream_nor_ends_it() {
    for reason in [Reason::BeyondNext, Reason::StreamRecreated] {
        assert_eq!(refused_read(at(4), &Refusal::new(reason, "made up")), Verdict::AskLeader);
    }
    for reason in [Reason::NotFound, Reason::Unavailable, Reason::Internal, Reason::Damaged] {
        assert_eq!(refused_read(at(4), &Refusal::new(reason, "made up")), Verdict::Retry);
    }
}

#[test]
fn the_leader_decides_what_is_replaced_and_what_is_ahead() {
    let replaced = in_stream(8, 10);
    for (stored, halt) in [
        (in_epoch(2, 20), None),
        (
            in_epoch(2, 21),
            Some(Halt::AheadOfStream { stored: in_epoch(2, 21), next: Offset::new(20) }),
        ),
        // The read that follows compares with the safe offset.
        (in_epoch(1, 20), None),
        (in_epoch(1, 21), Some(Halt::EpochChanged { stored: in_epoch(1, 21), safe: None })),
        // The leader has not heard of that epoch yet.
        (in_epoch(3, 21), None),
        (replaced, Some(Halt::StreamReplaced { stored: replaced, now: stream().stream_id })),
    ] {
        assert_eq!(leaders_word(stored, stream()), halt, "{stored}");
    }
}

#[test]
fn each_halt_has_its_state_and_says_what_to_do() {
    let halts = [
        (
            Halt::StreamReplaced { stored: at(4), now: StreamId::new(8).unwrap() },
            PushState::HaltedStreamReplaced,
        ),
        (
            Halt::EpochChanged { stored: at(4), safe: Some(Offset::new(3)) },
            PushState::HaltedEpochChanged,
        ),
        (Halt::Trimmed { stored: at(4), first: None }, PushState::HaltedTrimmed),
        (
            Halt::AheadOfStream { stored: at(4), next: Offset::new(3) },
            PushState::HaltedAheadOfStream,
        ),
        (
            Halt::Rejected { offset: Offset::new(4), reason: "ugly".to_owned() },
            PushState::HaltedRejected,
        ),
    ];
    for (halt, state) in halts {
        assert_eq!(halt.state(), state);
        assert!(halt.to_string().contains("store"), "{halt}");
    }
}
