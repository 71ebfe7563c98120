//! C7.

use super::*;

fn tail() -> Call {
    tail_of(0)
}

fn tail_of(session: u64) -> Call {
    Call::Tail { stream: STREAM.into(), session }
}

fn next(next: u64) -> Outcome {
    Outcome::Tail { next }
}

const LOG: [u64; 2] = [10, 11];

fn two_records() -> Story {
    Story::default().append(&LOG, 0)
}

#[test]
fn an_end_that_goes_back_in_a_session_is_found() {
    for (second, expected) in [(2, none()), (3, none()), (1, only(Rule::Session))] {
        let story = two_records().done("a", tail(), next(2)).done("a", tail(), next(second));
        assert_eq!(story.complete(&LOG).violated(), expected, "2, then {second}");
    }
}

#[test]
fn sessions_do_not_bind_each_other() {
    let story = two_records().done("a", tail_of(1), next(2)).done("a", tail_of(2), next(1));
    assert_eq!(story.complete(&LOG).violated(), none());
    let story = two_records().done("a", tail(), next(2)).done("b", tail(), next(1));
    assert_eq!(story.complete(&LOG).violated(), none());
}

#[test]
fn own_appends_are_seen() {
    for (seen, expected) in [(2, none()), (1, only(Rule::Session))] {
        let story = two_records().done("producer", tail(), next(seen)).complete(&LOG);
        assert_eq!(story.violated(), expected, "an end of {seen}");
    }
}

#[test]
fn own_appends_are_seen_by_reads_that_catch_up() {
    for (records, expected) in [(&LOG[..], none()), (&LOG[..1], only(Rule::Session))] {
        let pieces = vec![Piece { first: 0, records: records.to_vec() }];
        let outcome = Outcome::Read { pieces, caught_up: Some(records.len() as u64) };
        let story = two_records().done("producer", read(0, false), outcome).complete(&LOG);
        assert_eq!(story.violated(), expected, "{records:?}");
    }
}

#[test]
fn what_was_read_is_not_unseen() {
    for (seen, expected) in [(2, none()), (1, only(Rule::Session))] {
        let story = two_records().read(0, &LOG).done("reader", tail(), next(seen)).complete(&LOG);
        assert_eq!(story.violated(), expected, "an end of {seen}");
    }
}

#[test]
fn an_append_below_an_own_append_is_found() {
    // The log agrees with both acknowledgements: only the order in time is wrong.
    let story = Story::default().append(&[11], 1).append(&[10], 0).complete(&[10, 11]);
    assert_eq!(story.violated(), only(Rule::Session));
    let story = Story::default().append(&[10], 0).append(&[11], 1).complete(&[10, 11]);
    assert_eq!(story.violated(), none());
}

#[test]
fn a_duplicate_tells_an_old_place() {
    let old = Outcome::Appended { first: Some(0), next: Some(1), duplicate: true };
    let story =
        Story::default().append(&[10], 0).append(&[11], 1).done("producer", append(&[10]), old);
    assert_eq!(story.complete(&[10, 11]).violated(), none());
}

#[test]
fn only_what_was_asked_afterwards_is_bound() {
    let mut story = two_records();
    let early = story.begin("a", tail());
    let mut story = story.done("a", tail(), next(2));
    story.end(early, next(1));
    assert_eq!(story.complete(&LOG).violated(), none());
}
