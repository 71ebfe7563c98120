use bytes::Bytes;
use pyramid_protocol::pb::stored::v1 as stored;
use stored::command::Command;

use super::fixture::*;
use crate::entry::{Entry, LogId, Stamp};
use crate::state::{ControlOutcome, ControlRefused, Outcome, Refused, State};

fn batch(stamp: Stamp) -> Entry {
    Entry::Batch { stamp, ops: vec![op(ORDERS, 1), op(99, 1)], data: Bytes::new() }
}

/// Applies an entry that must be void, and checks that it had no effect but its place in the log.
fn is_void(log: &Log, stamp: Stamp) {
    let mut voided = log.clone();
    let applied = voided.apply(&batch(stamp));
    assert!(applied.voided, "{stamp:?} was taken");
    assert_eq!(applied.outcomes, [Outcome::Refused(Refused::Voided); 2]);
    assert_eq!((applied.written, applied.grown, applied.change), (vec![], vec![], None));
    let mut blank = log.clone();
    blank.apply(&Entry::Blank);
    assert_eq!(voided, blank, "{stamp:?} had an effect");

    let mut voided = log.clone();
    let command = create("other", 12);
    let applied = voided.apply(&Entry::Control { stamp, command });
    assert!(applied.voided);
    assert_eq!(applied.control, Some(ControlOutcome::Refused(ControlRefused::Voided)));
    assert_eq!(applied.change, None);
    assert_eq!(voided, blank, "{stamp:?} had an effect");
}

#[test]
fn an_entry_behind_a_dropped_one_is_void() {
    let mut log = Log::with_orders(1);
    let next = log.next_stamp();
    for number in [0, 1, next.number - 1, next.number + 1, u64::MAX] {
        is_void(&log, Stamp { number, time_ms: u64::MAX, ..next });
    }
    // The appender goes on from State, and the numbers close up.
    log.apply(&batch(Stamp { number: next.number + 1, ..next }));
    assert!(!log.apply(&batch(next)).voided);
    assert_eq!(log.ends(ORDERS).2, 2);
}

#[test]
fn an_entry_of_another_term_than_the_log_gave_it_is_void() {
    let mut log = Log::with_orders(1);
    log.term = 3;
    for (term, number) in [(1, 4), (2, 1), (2, 4), (4, 1)] {
        is_void(&log, Stamp { term, number, time_ms: START_MS });
    }
    assert!(!log.apply(&batch(Stamp { term: 3, number: 1, time_ms: START_MS })).voided);
}

#[test]
fn a_new_term_counts_from_one() {
    let mut log = Log::with_orders(1);
    assert_eq!(log.state.last_number(1), 3);
    log.term = 2;
    assert_eq!(log.state.last_number(2), 0);
    for number in [0, 2, 4] {
        is_void(&log, Stamp { term: 2, number, time_ms: START_MS });
    }
    log.apply(&Entry::Blank);
    assert!(!log.apply(&batch(Stamp { term: 2, number: 1, time_ms: START_MS })).voided);
    assert!(!log.apply(&batch(Stamp { term: 2, number: 2, time_ms: START_MS })).voided);
    assert_eq!((log.state.last_number(2), log.state.last_number(1)), (2, 0));
}

#[test]
fn log_time_never_goes_back() {
    let mut log = Log::with_orders(1);
    log.time_ms = START_MS - 1;
    log.appended(op(ORDERS, 1));
    assert_eq!(log.state.time_ms(), START_MS);
    assert_eq!(log.state.stream(id(ORDERS)).unwrap().last_time_ms, START_MS);
    log.time_ms = START_MS + 1;
    let set = log.command(Command::SetTime(stored::SetTime {}));
    assert_eq!(set, ControlOutcome::TimeSet { time_ms: START_MS + 1 });
    assert_eq!(log.state.time_ms(), START_MS + 1);
    // Time is of the log; the stream has that of its newest append.
    assert_eq!(log.state.stream(id(ORDERS)).unwrap().last_time_ms, START_MS);
}

#[test]
fn time_between_two_terms_is_not_running_time() {
    let mut log = Log::with_orders(0);
    assert_eq!(log.state.running_ms(), 0, "the time before the first entry");
    log.time_ms += 100;
    log.appended(op(ORDERS, 1));
    assert_eq!(log.state.running_ms(), 100);
    log.term = 2;
    log.time_ms += 1000;
    log.appended(op(ORDERS, 1));
    assert_eq!(log.state.running_ms(), 100);
    log.time_ms += 10;
    log.appended(op(ORDERS, 1));
    assert_eq!(log.state.running_ms(), 110);
}

#[test]
fn a_membership_is_kept_with_its_entry_and_who_left_is_never_forgotten() {
    let membership = |ids: &[u64]| stored::Membership {
        configurations: vec![stored::Voters { node_ids: ids.to_vec() }],
        nodes: ids.iter().map(|id| stored::Node { id: *id, ..stored::Node::default() }).collect(),
    };
    let mut state = State::default();
    assert_eq!(state.membership(), None);
    let mut at = LogId { term: 0, index: 0 };
    for (ids, removed) in
        [(&[1, 2, 3][..], &[][..]), (&[2, 3], &[1]), (&[2, 4], &[1, 3]), (&[2, 4], &[1, 3])]
    {
        state.apply(at, &Entry::Membership(membership(ids)));
        let (entry, present) = state.membership().unwrap();
        assert_eq!((entry, &**present), (at, &membership(ids)));
        assert!(state.removed_node_ids().iter().eq(removed));
        assert_eq!(state.applied(), Some(at));
        at.index += 1;
    }
}

#[test]
fn an_entry_out_of_place_stops_the_replica() {
    let log = Log::with_orders(1);
    let last = log.state.applied().unwrap();
    for (term, index) in [(1, last.index), (1, last.index + 2), (0, last.index + 1)] {
        let mut state = log.state.clone();
        let applied =
            std::panic::catch_unwind(move || state.apply(LogId { term, index }, &Entry::Blank));
        assert!(applied.is_err(), "took ({term}, {index}) behind {last:?}");
    }
}
