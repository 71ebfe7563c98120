use pyramid_protocol::Offset;
use pyramid_protocol::pb::stored::v1 as stored;

use super::fixture::*;
use crate::state::{Appended, Grown, Outcome, Refused, Written};

fn appended(first: u64, next: u64, epoch: u32, time_ms: u64) -> Appended {
    Appended { first: Offset::new(first), next: Offset::new(next), epoch, time_ms }
}

#[test]
fn offsets_go_on_without_a_gap_and_say_where_each_batch_lies() {
    let mut log = Log::with_orders(0);
    assert!(matches!(log.command(create("second", 12)), crate::state::ControlOutcome::Created));
    log.time_ms += 5;
    let at = log.next_id();
    let applied = log.batch(&[op(ORDERS, 3), op(12, 1), op(99, 1), op(ORDERS, 2)]);
    let time_ms = START_MS + 5;
    assert_eq!(
        applied.outcomes,
        [
            Outcome::Appended(appended(0, 3, 0, time_ms)),
            Outcome::Appended(appended(0, 1, 0, time_ms)),
            Outcome::Refused(Refused::NoStream),
            Outcome::Appended(appended(3, 5, 0, time_ms)),
        ]
    );
    let written = |stream, op, base, record_count| Written {
        stream_id: id(stream),
        op,
        base: Offset::new(base),
        record_count,
        len_bytes: record_count * 10,
        time_ms,
    };
    assert_eq!(
        applied.written,
        [written(ORDERS, 0, 0, 3), written(12, 1, 0, 1), written(ORDERS, 3, 3, 2)]
    );
    let grown = |stream, next| Grown { stream_id: id(stream), next: Offset::new(next) };
    assert_eq!(applied.grown, [grown(ORDERS, 5), grown(12, 1)]);
    assert_eq!((applied.at, applied.voided, applied.control), (at, false, None));
    assert_eq!(log.ends(ORDERS), (0, 0, 5));
    assert_eq!(log.state.stream(id(ORDERS)).unwrap().last_time_ms, time_ms);
}

#[test]
fn an_append_to_a_deleted_stream_or_another_id_is_refused() {
    let mut log = Log::with_orders(1);
    assert_eq!(log.not_written(op(12, 1)), Outcome::Refused(Refused::NoStream));
    log.command(delete(ORDERS));
    log.command(create("orders", 12));
    assert_eq!(log.not_written(op(ORDERS, 1)), Outcome::Refused(Refused::NoStream));
    assert_eq!(log.appended(op(12, 1)), 0);
}

#[test]
fn an_append_is_written_only_where_it_expects_the_end() {
    let mut log = Log::with_orders(3);
    for wrong in [0, 2, 4] {
        let outcome = log.not_written(expecting(op(ORDERS, 1), 0, wrong));
        assert_eq!(outcome, Outcome::Refused(Refused::WrongOffset { next: Offset::new(3) }));
    }
    assert_eq!(log.appended(expecting(op(ORDERS, 2), 0, 3)), 3);
    assert_eq!(log.appended(expecting(op(ORDERS, 1), 0, 5)), 5);
}

/// Epoch 2 began at offset 3, epoch 4 at offset 2, and 7 records were written before and since.
fn recovered_twice(next: u64) -> Log {
    let mut log = Log::with_orders(2);
    log = log.recovered(|image| {
        image.epoch = 4;
        image.streams[0].safe_offsets = vec![
            stored::SafeOffset { epoch: 2, offset: 3 },
            stored::SafeOffset { epoch: 4, offset: 2 },
        ];
    });
    while log.ends(ORDERS).2 < next {
        log.appended(op(ORDERS, 1));
    }
    log
}

#[test]
fn an_expectation_of_an_older_epoch_is_good_up_to_the_smallest_safe_offset_since() {
    let changed = |safe| Outcome::Refused(Refused::EpochChanged { safe: Offset::new(safe) });
    let wrong = |next| Outcome::Refused(Refused::WrongOffset { next: Offset::new(next) });
    for epoch in [0, 1, 2, 3] {
        let mut log = recovered_twice(2);
        assert_eq!(log.not_written(expecting(op(ORDERS, 1), epoch, 3)), changed(2));
        assert_eq!(log.not_written(expecting(op(ORDERS, 1), epoch, 1)), wrong(2));
        assert_eq!(log.appended(expecting(op(ORDERS, 1), epoch, 2)), 2, "epoch {epoch}");
        assert_eq!(log.not_written(expecting(op(ORDERS, 1), epoch, 3)), changed(2));
        assert_eq!(log.not_written(expecting(op(ORDERS, 1), epoch, 2)), wrong(3));
    }
    let mut log = recovered_twice(3);
    assert_eq!(log.not_written(expecting(op(ORDERS, 1), 4, 2)), wrong(3));
    let epoch = log.append(expecting(op(ORDERS, 1), 4, 3));
    assert_eq!(epoch, Outcome::Appended(appended(3, 4, 4, START_MS)));
}

#[test]
fn safe_offsets_count_from_the_epoch_after_on() {
    let log = recovered_twice(2);
    let stream = log.state.stream(id(ORDERS)).unwrap();
    for (epoch, safe) in [(0, Some(2)), (1, Some(2)), (3, Some(2)), (4, None), (5, None)] {
        assert_eq!(stream.safe_since(epoch), safe.map(Offset::new), "epoch {epoch}");
    }
}

#[test]
fn an_expectation_of_a_later_epoch_is_not_judged() {
    let mut log = recovered_twice(2);
    let outcome = log.not_written(expecting(op(ORDERS, 1), 5, 2));
    assert_eq!(outcome, Outcome::Refused(Refused::EpochAhead { epoch: 4 }));
}

#[test]
fn a_closed_stream_takes_nothing_until_it_is_opened() {
    let mut log = Log::with_orders(1);
    log.command(set_closed(ORDERS, true));
    let of_revision = |stream_revision| crate::entry::Op { stream_revision, ..op(ORDERS, 1) };
    let stale = |revision| Outcome::Refused(Refused::StaleRevision { revision });
    assert_eq!(log.not_written(of_revision(1)), stale(2));
    assert_eq!(log.not_written(of_revision(2)), Outcome::Refused(Refused::Closed));
    log.command(set_closed(ORDERS, false));
    for old in [1, 2] {
        assert_eq!(log.not_written(of_revision(old)), stale(3));
    }
    assert_eq!(log.not_written(of_revision(4)), stale(3));
    assert_eq!(log.appended(of_revision(3)), 1);
}

#[test]
fn checks_are_made_in_the_order_that_is_written_down() {
    let mut log = Log::with_orders(5);
    let producer = log.producer("p", 70);
    let from = |op, epoch, sequence| from_producer(op, producer.id, epoch, sequence);
    log.appended(from(op(ORDERS, 2), 1, 0));
    log.command(set_closed(ORDERS, true));
    // Everything is wrong with it but that it was written before: duplicate.
    let again = expecting(from(op(ORDERS, 2), 1, 0), 9, 0);
    let duplicate = Outcome::Duplicate(Some(appended(5, 7, 0, START_MS)));
    assert_eq!(log.not_written(again), duplicate);
    // Revision before closed, producer and expectation.
    let wrong = expecting(from(op(ORDERS, 2), 0, 0), 9, 0);
    let stale = Outcome::Refused(Refused::StaleRevision { revision: 2 });
    assert_eq!(log.not_written(wrong), stale);
    // Closed before producer and expectation.
    let wrong = crate::entry::Op { stream_revision: 2, ..wrong };
    assert_eq!(log.not_written(wrong), Outcome::Refused(Refused::Closed));
    // Producer before expectation.
    log.command(set_closed(ORDERS, false));
    let wrong = crate::entry::Op { stream_revision: 3, ..wrong };
    assert_eq!(log.not_written(wrong), Outcome::Refused(Refused::Fenced { epoch: 1 }));
    let wrong = crate::entry::Op { stream_revision: 3, ..expecting(from(wrong, 1, 2), 9, 0) };
    assert_eq!(log.not_written(wrong), Outcome::Refused(Refused::EpochAhead { epoch: 0 }));
    let right = crate::entry::Op { expectation: None, ..wrong };
    assert_eq!(log.appended(right), 7);
}

#[test]
fn a_stream_ends_at_the_largest_offset() {
    let log = Log::with_orders(0);
    let mut log = log.recovered(|image| {
        let stream = &mut image.streams[0];
        stream.next_offset = u64::MAX - 3;
        stream.shipped_offset = u64::MAX - 3;
    });
    assert_eq!(log.not_written(op(ORDERS, 4)), Outcome::Refused(Refused::UsedUp));
    assert_eq!(log.appended(op(ORDERS, 3)), u64::MAX - 3);
}
