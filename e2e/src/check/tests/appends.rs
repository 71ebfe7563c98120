//! C2, C3, C5.

use super::*;
use crate::check::Malformed;

/// Two acknowledged appends of two records.
fn two_appends() -> Story {
    Story::default().append(&[10, 11], 0).append(&[12, 13], 2)
}

#[test]
fn acknowledged_appends_at_their_offsets_pass() {
    let report = two_appends().complete(&[10, 11, 12, 13]).report();
    assert_eq!(report.violated, none());
    assert_eq!((report.counts.acknowledged, report.counts.logged), (4, 4));
    assert_eq!((report.counts.lost, report.counts.duplicated, report.counts.reordered), (0, 0, 0));
}

#[test]
fn a_lost_suffix_is_found() {
    let report = two_appends().complete(&[10, 11]).report();
    assert_eq!(report.violated, BTreeMap::from([(Rule::Acknowledged, 2)]));
    assert_eq!(report.counts.lost, 2);
}

#[test]
fn a_lost_first_append_is_found() {
    let report = two_appends().complete(&[12, 13]).report();
    // The two that are lost, and the two that moved into their place.
    assert_eq!(report.violated, BTreeMap::from([(Rule::Acknowledged, 4)]));
    assert_eq!((report.counts.lost, report.counts.reordered), (2, 2));
}

#[test]
fn one_lost_record_of_an_append_is_found() {
    let report = two_appends().complete(&[10, 11, 12]).report();
    assert_eq!(report.violated, BTreeMap::from([(Rule::Acknowledged, 1), (Rule::Batch, 1)]));
    assert_eq!(report.counts.lost, 1);
}

#[test]
fn appends_that_changed_places_are_found() {
    let report = two_appends().complete(&[12, 13, 10, 11]).report();
    assert_eq!(report.violated, BTreeMap::from([(Rule::Acknowledged, 4)]));
    assert_eq!((report.counts.lost, report.counts.reordered), (0, 4));
}

#[test]
fn an_acknowledgement_of_the_wrong_length_is_found() {
    let outcome = Outcome::Appended { first: Some(0), next: Some(1), duplicate: false };
    let story = Story::default().done("producer", append(&[10, 11]), outcome);
    assert_eq!(story.complete(&[10, 11]).violated(), only(Rule::Acknowledged));
}

#[test]
fn only_a_duplicate_may_be_acknowledged_without_its_offsets() {
    for (duplicate, violated) in [(true, none()), (false, only(Rule::Acknowledged))] {
        let outcome = Outcome::Appended { first: None, next: None, duplicate };
        let story = Story::default().done("producer", append(&[10]), outcome);
        assert_eq!(story.complete(&[10]).violated(), violated, "duplicate: {duplicate}");
    }
}

#[test]
fn a_lost_duplicate_without_offsets_is_found() {
    let outcome = Outcome::Appended { first: None, next: None, duplicate: true };
    let story = Story::default().done("producer", append(&[10]), outcome);
    assert_eq!(story.complete(&[]).violated(), only(Rule::Acknowledged));
}

#[test]
fn a_copy_of_an_acknowledged_append_is_found() {
    let report = two_appends().complete(&[10, 11, 12, 13, 12, 13]).report();
    assert_eq!(report.violated, BTreeMap::from([(Rule::NotMore, 2)]));
    assert_eq!(report.counts.duplicated, 2);
}

#[test]
fn a_record_that_nobody_sent_is_found() {
    let report = two_appends().complete(&[10, 11, 12, 13, 99]).report();
    assert_eq!(report.violated, only(Rule::NotMore));
    assert_eq!(report.counts.invented, 1);
}

#[test]
fn a_record_of_another_stream_is_found() {
    let call = Call::Append {
        stream: "others".into(),
        session: 0,
        records: vec![99],
        expected: None,
        producer: None,
    };
    let others = Call::Read {
        stream: "others".into(),
        session: 0,
        from: 0,
        path: ReadPath::Writer,
        complete: true,
    };
    let all =
        Outcome::Read { pieces: vec![Piece { first: 0, records: vec![99] }], caught_up: Some(1) };
    let story = two_appends().done("producer", call, appended(&[99], 0)).done("judge", others, all);
    assert_eq!(story.clone().complete(&[10, 11, 12, 13]).violated(), none());
    assert_eq!(story.complete(&[10, 11, 12, 13, 99]).violated(), only(Rule::NotMore));
}

#[test]
fn a_refused_append_stays_away() {
    let story = Story::default().append(&[10], 0).refused(&[11]);
    let report = story.clone().complete(&[10]).report();
    assert_eq!((report.violated, report.counts.refused), (none(), 1));
    let report = story.complete(&[10, 11]).report();
    assert_eq!(report.violated, only(Rule::NotMore));
    assert_eq!(report.counts.invented, 1);
}

#[test]
fn an_unanswered_append_is_there_once_or_not_at_all() {
    let story = Story::default().append(&[10], 0).unanswered(&[11]);
    let report = story.clone().complete(&[10]).report();
    assert_eq!((report.violated, report.counts.unknown_not_found), (none(), 1));
    let report = story.clone().complete(&[10, 11]).report();
    assert_eq!((report.violated, report.counts.unknown_found), (none(), 1));
    let report = story.complete(&[10, 11, 11]).report();
    assert_eq!((report.violated, report.counts.duplicated), (only(Rule::NotMore), 1));
}

#[test]
fn an_append_that_never_ended_counts_as_unanswered() {
    let mut story = Story::default().append(&[10], 0);
    story.begin("producer", append(&[11]));
    for log in [&[10][..], &[10, 11]] {
        assert_eq!(story.clone().complete(log).violated(), none(), "{log:?}");
    }
}

#[test]
fn a_retry_that_is_refused_leaves_the_first_attempt_unknown() {
    let story = Story::default().unanswered(&[10]).refused(&[10]);
    for log in [&[10][..], &[]] {
        let report = story.clone().complete(log).report();
        assert_eq!((report.violated, report.counts.retried), (none(), 1), "{log:?}");
    }
}

#[test]
fn an_unanswered_append_that_is_there_in_part_is_found() {
    let story = Story::default().append(&[9], 0).unanswered(&[10, 11, 12]);
    assert_eq!(story.clone().complete(&[9, 10, 11, 12]).violated(), none());
    for torn in [&[9, 10, 11][..], &[9, 11, 12], &[9, 10, 12]] {
        assert_eq!(story.clone().complete(torn).violated(), only(Rule::Batch), "{torn:?}");
    }
}

#[test]
fn appends_that_are_mixed_are_found() {
    let story = Story::default().unanswered(&[10, 11]).unanswered(&[12, 13]);
    assert_eq!(story.clone().complete(&[12, 13, 10, 11]).violated(), none());
    let mixed = story.complete(&[10, 12, 11, 13]);
    assert_eq!(mixed.violated(), BTreeMap::from([(Rule::Batch, 2)]));
}

#[test]
fn an_append_in_the_wrong_inner_order_is_found() {
    let story = Story::default().unanswered(&[10, 11]);
    assert_eq!(story.complete(&[11, 10]).violated(), only(Rule::Batch));
}

#[test]
fn a_history_that_is_none_is_refused() {
    let least = Least::default();
    let mut twice = Story::default();
    twice.line("a", Event::Invoke { op: 1, call: append(&[1]) });
    twice.line("a", Event::Invoke { op: 1, call: append(&[2]) });
    assert_eq!(check(&twice.lines, least), Err(Malformed::BeginsTwice { line: 1, op: 1 }));

    let mut no_begin = Story::default();
    no_begin.end(7, appended(&[1], 0));
    assert_eq!(check(&no_begin.lines, least), Err(Malformed::EndsWithoutBegin { line: 0, op: 7 }));

    let wrong = Story::default().done("a", append(&[1]), Outcome::Tail { next: 1 });
    assert_eq!(check(&wrong.lines, least), Err(Malformed::WrongResult { line: 1, op: 0 }));

    let empty = Story::default().append(&[], 0);
    assert_eq!(check(&empty.lines, least), Err(Malformed::EmptyAppend { line: 0 }));

    let shared = Story::default().append(&[1, 2], 0).append(&[2, 3], 2);
    assert_eq!(check(&shared.lines, least), Err(Malformed::RecordOfTwoAppends { record: 2 }));
    let shared = Story::default().append(&[1, 2], 0).append(&[3, 2], 2);
    assert_eq!(check(&shared.lines, least), Err(Malformed::RecordOfTwoAppends { record: 2 }));

    let mut back = Story::default().append(&[1], 0);
    back.lines[0].t_ns = 2;
    assert_eq!(check(&back.lines, least), Err(Malformed::ClockWentBack { line: 1 }));
}
