//! C1 and C4.

use super::*;

fn three_records() -> Story {
    Story::default().append(&[10, 11], 0).append(&[12], 2)
}

const LOG: [u64; 3] = [10, 11, 12];

fn complete_read(pieces: &[(u64, &[u64])], caught_up: Option<u64>) -> (Call, Outcome) {
    let pieces = pieces
        .iter()
        .map(|(first, records)| Piece { first: *first, records: records.to_vec() })
        .collect();
    (read(0, true), Outcome::Read { pieces, caught_up })
}

#[test]
fn a_complete_read_in_pieces_passes() {
    let (call, whole) = complete_read(&[(0, &[10, 11]), (2, &[12])], Some(3));
    assert_eq!(three_records().done("judge", call, whole).violated(), none());
}

#[test]
fn every_way_of_reading_gives_the_same() {
    let story = three_records().complete(&LOG);
    for path in [ReadPath::Chunks, ReadPath::Pusher] {
        assert_eq!(story.clone().complete_by(path, &LOG).violated(), none(), "{path:?}");
        // Another record, one less: also C4, since each complete read is a read too.
        let other = story.clone().complete_by(path, &[10, 11, 13]);
        let both = BTreeMap::from([(Rule::Complete, 1), (Rule::Prefix, 1)]);
        assert_eq!(other.violated(), both, "{path:?}");
        let short = story.clone().complete_by(path, &LOG[..2]);
        assert_eq!(short.violated(), only(Rule::Complete), "{path:?}");
    }
}

#[test]
fn a_gap_in_a_complete_read_is_found() {
    let (call, gap) = complete_read(&[(0, &[10]), (2, &[12])], Some(3));
    let violated = three_records().complete(&LOG).done("judge", call, gap).violated();
    // The gap, the end that does not follow from it, the two logs that differ; C4 sees the gap too.
    assert_eq!(violated, BTreeMap::from([(Rule::Complete, 3), (Rule::Prefix, 1)]));
}

#[test]
fn a_complete_read_that_does_not_reach_the_end_is_found() {
    for (caught_up, prefix) in [(None, none()), (Some(4), only(Rule::Prefix))] {
        let (call, outcome) = complete_read(&[(0, &LOG)], caught_up);
        let mut expected = prefix;
        expected.insert(Rule::Complete, 1);
        assert_eq!(three_records().done("judge", call, outcome).violated(), expected);
    }
}

#[test]
fn a_stream_without_a_complete_read_is_found() {
    let report = Story::default().unanswered(&[10]).report();
    assert_eq!(report.violated, only(Rule::Complete));
}

#[test]
fn cuts_of_the_log_pass() {
    for (from, to) in [(0, 0), (0, 1), (0, 3), (1, 3), (2, 3), (3, 3)] {
        let records = &LOG[from..to];
        let report = three_records().read(from as u64, records).complete(&LOG).report();
        assert_eq!(report.violated, none(), "{from} to {to}");
        assert_eq!(report.counts.read, (to - from) as u64 + 3);
    }
}

#[test]
fn a_read_of_another_history_is_found() {
    // Another order, another record, more than there is, one left out.
    for stale in [&[11, 10][..], &[10, 99], &[10, 11, 12, 13], &[10, 12]] {
        let violated = three_records().unanswered(&[13]).read(0, stale).complete(&LOG).violated();
        assert_eq!(violated, only(Rule::Prefix), "{stale:?}");
    }
}

#[test]
fn a_read_that_skips_or_starts_elsewhere_is_found() {
    let pieces = |first: u64, second: u64| {
        vec![
            Piece { first, records: vec![10 + first] },
            Piece { first: second, records: vec![10 + second] },
        ]
    };
    for (first, second, expected) in [
        (0, 1, none()),
        (0, 2, only(Rule::Prefix)),
        (1, 2, only(Rule::Prefix)),
        (0, 0, only(Rule::Prefix)),
    ] {
        let outcome = Outcome::Read { pieces: pieces(first, second), caught_up: None };
        let story = three_records().done("reader", read(0, false), outcome).complete(&LOG);
        assert_eq!(story.violated(), expected, "{first}, {second}");
    }
}

#[test]
fn a_record_that_is_read_before_it_is_sent_is_found() {
    let story = Story::default().read(0, &[10]).append(&[10], 0).complete(&[10]);
    assert_eq!(story.violated(), only(Rule::Prefix));

    // While the append is on its way it may be seen.
    let mut story = Story::default();
    let op = story.begin("producer", append(&[10]));
    let mut story = story.read(0, &[10]);
    story.end(op, appended(&[10], 0));
    assert_eq!(story.complete(&[10]).violated(), none());
}

#[test]
fn a_read_that_misnames_its_end_is_found() {
    for (caught_up, expected) in [(3, none()), (2, only(Rule::Prefix)), (4, only(Rule::Prefix))] {
        let outcome = Outcome::Read {
            pieces: vec![Piece { first: 1, records: vec![11, 12] }],
            caught_up: Some(caught_up),
        };
        let story = three_records().done("reader", read(1, false), outcome).complete(&LOG);
        assert_eq!(story.violated(), expected, "caught up at {caught_up}");
    }
}
