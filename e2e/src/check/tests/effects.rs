//! C10.

use super::*;

const LOG: [u64; 3] = [10, 11, 12];

fn effects(rows: &[(u64, u64)], position: Option<u64>, complete: bool) -> Report {
    let call = Call::Effects { application: "till".into(), stream: STREAM.into(), complete };
    Story::default()
        .append(&LOG, 0)
        .done("judge", call, Outcome::Effects { rows: rows.to_vec(), position })
        .complete(&LOG)
        .report()
}

const ROWS: [(u64, u64); 3] = [(0, 10), (1, 11), (2, 12)];

#[test]
fn a_table_that_equals_the_log_passes() {
    let report = effects(&ROWS, Some(3), true);
    assert_eq!((report.violated, report.counts.effects), (none(), 3));
}

#[test]
fn a_table_behind_the_log_passes_only_before_the_end() {
    for rows in 0..3 {
        let position = Some(rows as u64);
        assert_eq!(effects(&ROWS[..rows], position, false).violated, none(), "{rows} rows");
        assert_eq!(effects(&ROWS[..rows], position, true).violated, only(Rule::Effects), "{rows}");
    }
    assert_eq!(effects(&[], None, false).violated, none());
    assert_eq!(effects(&[], None, true).violated, only(Rule::Effects));
}

#[test]
fn a_missing_row_is_found() {
    for missing in 0..3 {
        let mut rows = ROWS.to_vec();
        rows.remove(missing);
        let report = effects(&rows, Some(3), true);
        assert_eq!(report.violated, only(Rule::Effects), "row {missing}");
        assert_eq!(report.counts.effects_lost, 1);
    }
}

#[test]
fn a_second_row_of_a_record_is_found() {
    let report = effects(&[(0, 10), (1, 10), (2, 12)], Some(3), true);
    // The copy, and the record that it stands in place of.
    assert_eq!(report.violated, BTreeMap::from([(Rule::Effects, 2)]));
    assert_eq!((report.counts.effects_duplicated, report.counts.effects_lost), (1, 1));
}

#[test]
fn rows_that_changed_places_are_found() {
    let report = effects(&[(0, 11), (1, 10), (2, 12)], Some(3), true);
    assert_eq!(report.violated, BTreeMap::from([(Rule::Effects, 2)]));
    assert_eq!(report.counts.effects_reordered, 2);
}

#[test]
fn a_row_at_or_above_the_position_is_found() {
    assert_eq!(effects(&ROWS, Some(2), false).violated, only(Rule::Effects));
    assert_eq!(effects(&ROWS[..1], None, false).violated, only(Rule::Effects));
}

#[test]
fn a_position_behind_the_end_of_the_log_is_found() {
    assert_eq!(effects(&ROWS, Some(4), false).violated, only(Rule::Effects));
}

#[test]
fn a_row_that_nobody_sent_is_found() {
    let report = effects(&[(0, 10), (1, 99)], Some(2), false);
    // The foreign row, and the record in place of which it stands.
    assert_eq!(report.violated, BTreeMap::from([(Rule::Effects, 2)]));
    assert_eq!((report.counts.effects_reordered, report.counts.effects_lost), (1, 1));
}
