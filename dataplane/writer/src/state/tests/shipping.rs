use pyramid_protocol::Offset;
use pyramid_protocol::pb::stored::v1 as stored;
use stored::command::Command;

use super::fixture::*;
use crate::state::{Change, ControlOutcome, ControlRefused};

fn intent(outcome: &ControlOutcome) -> u64 {
    let ControlOutcome::Sealed { intent } = outcome else { panic!("not sealed: {outcome:?}") };
    *intent
}

/// 5 records in batches of one, sealed as [0, 2) and [2, 4); the key is stored.
fn two_seals() -> (Log, [u64; 2]) {
    let mut log = Log::with_orders(1);
    for _ in 1..5 {
        log.appended(op(ORDERS, 1));
    }
    log.command(key_stored(ORDERS, 3));
    let first = intent(&log.command(seal(ORDERS, 0, 2)));
    let second = intent(&log.command(seal(ORDERS, 2, 4)));
    (log, [first, second])
}

fn committed(commit: stored::ChunkCommitted) -> Command {
    Command::ChunkCommitted(commit)
}

#[test]
fn seals_follow_each_other_within_the_stream() {
    let mut log = Log::with_orders(1);
    log.appended(op(ORDERS, 1));
    log.appended(op(ORDERS, 1));
    let not_contiguous = |sealed| ControlRefused::NotContiguous { sealed: Offset::new(sealed) };
    assert_eq!(log.refused(seal(ORDERS, 1, 2)), not_contiguous(0));
    assert!(matches!(log.refused(seal(ORDERS, 0, 0)), ControlRefused::Invalid { .. }));
    assert!(matches!(log.refused(seal(ORDERS, 2, 1)), ControlRefused::Invalid { .. }));
    let beyond = ControlRefused::BeyondNext { next: Offset::new(3) };
    assert_eq!(log.refused(seal(ORDERS, 0, 4)), beyond);
    let at = log.next_id();
    let applied = log.control(seal(ORDERS, 0, 2));
    assert_eq!(applied.control, Some(ControlOutcome::Sealed { intent: at.index }));
    let (stream_id, intent, next) = (id(ORDERS), at.index, Offset::new(2));
    assert_eq!(applied.change, Some(Change::Sealed { stream_id, intent, next }));
    for base in [0, 1, 3] {
        assert_eq!(log.refused(seal(ORDERS, base, 4)), not_contiguous(2));
    }
    assert_eq!(log.refused(seal(ORDERS, 2, 4)), beyond);
    log.command(seal(ORDERS, 2, 3));
    assert_eq!(log.refused(seal(99, 0, 1)), ControlRefused::NotFound);
    let stream = log.state.stream(id(ORDERS)).unwrap();
    assert_eq!((stream.sealed(), stream.shipped), (Offset::new(3), Offset::START));
    assert_eq!((stream.open_seals.len(), log.state.open_seal_count()), (2, 2));
    assert_eq!(stream.open_seal(intent).unwrap().next_offset, 2);
}

#[test]
fn chunks_are_committed_in_the_order_of_offsets_with_chained_digests() {
    let (mut log, [first, second]) = two_seals();
    let above = ControlRefused::AboveShipped { shipped: Offset::START };
    assert_eq!(log.refused(committed(commit(second, 2, 4, (0, 2)))), above);
    let other_digest = log.refused(committed(commit(first, 0, 2, (1, 2))));
    assert_eq!(other_digest, ControlRefused::OtherDigest);
    let applied = log.control(committed(commit(first, 0, 2, (0, 1))));
    assert_eq!(applied.control, Some(ControlOutcome::Committed));
    let (stream_id, next) = (id(ORDERS), Offset::new(2));
    assert_eq!(applied.change, Some(Change::Shipped { stream_id, next }));
    assert_eq!((log.ends(ORDERS), log.live.live_bytes(id(ORDERS))), ((0, 2, 5), 30));
    // Committed is closed, also for the very same command.
    let again = log.refused(committed(commit(first, 0, 2, (0, 1))));
    assert_eq!(again, ControlRefused::IntentClosed);
    let stale = log.refused(committed(commit(second, 2, 4, (0, 2))));
    assert_eq!(stale, ControlRefused::OtherDigest);
    log.command(committed(commit(second, 2, 4, (1, 2))));
    let stream = log.state.stream(id(ORDERS)).unwrap();
    assert_eq!((stream.last_digest, stream.sealed()), ([2; 32], Offset::new(4)));
    let chunks: Vec<_> = stream.chunks.iter().cloned().collect();
    let expected = [commit(first, 0, 2, (0, 1)), commit(second, 2, 4, (1, 2))];
    assert_eq!(chunks, expected.map(|commit| commit.chunk.unwrap()));
    assert_eq!(stream.chunks.total_len(), 200);
    log.command(seal(ORDERS, 4, 5));
    assert_eq!(log.state.open_seal_count(), 1);
}

#[test]
fn a_chunk_is_checked_against_the_range_of_its_seal_and_not_the_first_offset() {
    let (mut log, [first, second]) = two_seals();
    for (base, next) in [(0, 1), (0, 3), (1, 2), (0, 4)] {
        let refused = log.refused(committed(commit(first, base, next, (0, 1))));
        assert_eq!(refused, ControlRefused::OtherRange, "[{base}, {next})");
    }
    let mut of_other = commit(first, 0, 2, (0, 1));
    of_other.chunk.as_mut().unwrap().intent = second;
    assert_eq!(log.refused(committed(of_other)), ControlRefused::OtherRange);
    // A trimmed range of a living stream is shipped like any other.
    log.command(trim(ORDERS, 5));
    assert_eq!(log.command(committed(commit(first, 0, 2, (0, 1)))), ControlOutcome::Committed);
    assert_eq!(log.command(committed(commit(second, 2, 4, (1, 2)))), ControlOutcome::Committed);
    assert_eq!(log.ends(ORDERS), (5, 4, 5));
}

#[test]
fn only_an_open_intent_is_committed() {
    let (mut log, [first, _]) = two_seals();
    for intent in [0, first - 1, first + 7, u64::MAX] {
        let refused = log.refused(committed(commit(intent, 0, 2, (0, 1))));
        assert_eq!(refused, ControlRefused::IntentClosed, "intent {intent}");
    }
    log.command(delete(ORDERS));
    let deleted = log.refused(committed(commit(first, 0, 2, (0, 1))));
    assert_eq!(deleted, ControlRefused::NotFound);
}

#[test]
fn no_chunk_comes_before_the_key_object() {
    let mut log = Log::with_orders(1);
    let intent = intent(&log.command(seal(ORDERS, 0, 1)));
    let refused = log.refused(committed(commit(intent, 0, 1, (0, 1))));
    assert_eq!(refused, ControlRefused::KeyNotStored);
    let applied = log.control(key_stored(ORDERS, 3));
    assert_eq!(applied.control, Some(ControlOutcome::KeyStored { r: 3 }));
    assert_eq!(applied.change, Some(Change::KeyStored { stream_id: id(ORDERS) }));
    // The first key object counts.
    let again = log.control(key_stored(ORDERS, 4));
    assert_eq!((again.control, again.change), (Some(ControlOutcome::KeyStored { r: 3 }), None));
    assert_eq!(log.refused(key_stored(99, 3)), ControlRefused::NotFound);
    assert_eq!(log.command(committed(commit(intent, 0, 1, (0, 1)))), ControlOutcome::Committed);
}

#[test]
fn a_chunk_that_can_never_be_is_refused() {
    let (mut log, [first, _]) = two_seals();
    let bad: [fn(&mut stored::ChunkCommitted); 6] = [
        |commit| commit.chunk = None,
        |commit| commit.digest_before = vec![0; 31].into(),
        |commit| commit.digest_after = vec![0; 33].into(),
        |commit| commit.chunk.as_mut().unwrap().head_sha256 = vec![0; 31].into(),
        |commit| commit.chunk.as_mut().unwrap().wrapped_key = vec![0; 39].into(),
        |commit| commit.chunk.as_mut().unwrap().wrapped_key = vec![0; 41].into(),
    ];
    for bad in bad {
        let mut commit = commit(first, 0, 2, (0, 1));
        bad(&mut commit);
        let refused = log.refused(committed(commit));
        assert!(matches!(refused, ControlRefused::Invalid { .. }), "{refused:?}");
    }
}

#[test]
fn only_ranges_of_deleted_streams_are_abandoned() {
    let (mut log, [first, _]) = two_seals();
    let abandon =
        |stream_id| Command::SealAbandoned(stored::SealAbandoned { stream_id, intent: first });
    assert_eq!(log.refused(abandon(ORDERS)), ControlRefused::StreamAlive);
    for never in [0, 99] {
        assert_eq!(log.refused(abandon(never)), ControlRefused::NotFound);
    }
    log.command(delete(ORDERS));
    assert_eq!(log.state.open_seal_count(), 0);
    assert_eq!(log.command(abandon(ORDERS)), ControlOutcome::Abandoned);
}
