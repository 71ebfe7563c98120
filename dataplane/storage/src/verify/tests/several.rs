//! Several objects for one range: one that verifies and chains is enough.

use super::fixture::{Bucket, EPOCH, batches, counts, span};
use crate::verify::{Kind, NoteKind};

#[tokio::test]
async fn another_attempt_of_an_upload_is_extra() {
    let bucket = Bucket::full().await;
    let before = bucket.streams["orders"].chunks[1].digest_before();
    let again = bucket.seal("orders", &batches(10, 10), |identity| {
        identity.digest_before = before;
        identity.intent = 110;
    });
    bucket.put(&again);
    let report = bucket.verify().await;
    assert!(report.is_clean());
    let [note] = &report.notes[..] else { panic!("{:?}", report.notes) };
    assert_eq!((&note.kind, note.offsets), (&NoteKind::Extra, span(10, 20)));
    assert_eq!(counts(&report)["orders"], (4, 40, 0, 40));
    // Either is enough.
    for key in [bucket.streams["orders"].key(1), again.key()] {
        let bytes = bucket.bytes(key);
        bucket.delete(key).await;
        let report = bucket.verify().await;
        assert!(report.is_clean() && report.notes.is_empty());
        bucket.store.tamper(key, bytes);
    }
}

#[tokio::test]
async fn a_half_written_attempt_is_named_and_no_damage() {
    let bucket = Bucket::full().await;
    let before = bucket.streams["orders"].chunks[1].digest_before();
    let again = bucket.seal("orders", &batches(10, 10), |identity| {
        identity.digest_before = before;
        identity.intent = 110;
    });
    let bytes = again.bytes();
    for (len, offsets) in [(bytes.len() - 1, span(10, 20)), (224, span(10, 20))] {
        bucket.store.tamper(again.key(), bytes.slice(..len));
        let report = bucket.verify().await;
        let kind = NoteKind::BadExtra { problem: Kind::Damaged };
        assert_eq!(report.notes, [bucket.note(kind, Some(again.key()), "orders", offsets)]);
        assert!(report.is_clean(), "{len}: {:?}", report.findings);
    }
    // Of two damaged ones, one is the finding.
    bucket.store.tamper(again.key(), bytes.slice(..bytes.len() - 1));
    let own = bucket.streams["orders"].key(1).clone();
    bucket.flip(&own, bucket.bytes(&own).len() - 1);
    let report = bucket.verify().await;
    assert_eq!((report.finding_count, report.note_count), (1, 1));
    assert_eq!(
        (&report.findings[0].kind, report.findings[0].offsets),
        (&Kind::Damaged, span(10, 20))
    );
}

#[tokio::test]
async fn what_an_older_history_left_is_extra_also_where_it_reaches_farther() {
    let mut bucket = Bucket::new().await;
    bucket.add_stream("orders", 77);
    let first = bucket.seal("orders", &batches(0, 10), |identity| identity.epoch = EPOCH - 1);
    bucket.put(&first);
    bucket.streams.get_mut("orders").unwrap().chunks.push(first);
    // The old history had gone on; the new one was built on the first chunk.
    let old = bucket.seal("orders", &batches(10, 30), |identity| identity.epoch = EPOCH - 1);
    bucket.put(&old);
    bucket.ship("orders");
    let report = bucket.verify().await;
    assert!(report.is_clean(), "{:?}", report.findings);
    let note = bucket.note(NoteKind::Extra, Some(old.key()), "orders", span(10, 40));
    assert_eq!(report.notes, [note]);
    assert_eq!(counts(&report)["orders"], (2, 20, 0, 20));
}

#[tokio::test]
async fn a_way_through_smaller_chunks_is_found_beside_a_larger_one_that_leads_nowhere() {
    let mut bucket = Bucket::new().await;
    bucket.add_stream("orders", 77);
    let large = bucket.seal("orders", &batches(0, 14), |_| {});
    bucket.put(&large);
    bucket.ship("orders");
    bucket.ship("orders");
    let report = bucket.verify().await;
    assert!(report.is_clean());
    let note = bucket.note(NoteKind::Extra, Some(large.key()), "orders", span(0, 14));
    assert_eq!(report.notes, [note]);
    assert_eq!(counts(&report)["orders"], (2, 20, 0, 20));
    // Where the smaller ones end, it is not extra: nothing else holds its end.
    bucket.delete(bucket.streams["orders"].key(1)).await;
    let report = bucket.verify().await;
    assert!(report.is_clean());
    assert_eq!(counts(&report)["orders"], (1, 14, 0, 14));
}

#[tokio::test]
async fn a_chunk_that_overlaps_without_following_is_named() {
    let bucket = Bucket::full().await;
    let overlap = bucket.seal("orders", &batches(36, 10), |identity| {
        identity.digest_before = [9; 32];
    });
    bucket.put(&overlap);
    let report = bucket.verify().await;
    let expected = bucket.finding(Kind::BrokenChain, Some(overlap.key()), "orders", span(36, 46));
    assert_eq!(report.findings, [expected]);
    assert_eq!(counts(&report)["orders"], (4, 40, 0, 40));
}

#[tokio::test]
async fn a_left_over_of_a_trimmed_range_is_part_of_the_stream() {
    let bucket = Bucket::full().await;
    // The chunk between was deleted, as a sweep may do it in any order: that looks like a loss,
    // and only the Writer knows better.
    bucket.delete(bucket.streams["orders"].key(1)).await;
    let mut options = bucket.writer();
    let writer = options.writer.as_mut().unwrap();
    let expected = writer.streams.get_mut(&bucket.streams["orders"].id).unwrap();
    expected.heads.drain(..2);
    expected.first_offset = pyramid_protocol::Offset::new(25);
    let report = bucket.verify_with(&options).await.unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    let first = bucket.streams["orders"].key(0);
    let note = bucket.note(NoteKind::Extra, Some(first), "orders", span(0, 10));
    assert_eq!(report.notes, [note]);
    assert_eq!(counts(&report)["orders"], (2, 20, 20, 40));
    assert_eq!(bucket.verify().await.finding_count, 1);
}
