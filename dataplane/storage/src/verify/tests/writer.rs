//! Against what a Writer refers to.

use pyramid_protocol::Offset;

use super::fixture::{Bucket, batches, counts, head, span, span_from};
use crate::verify::{Expected, Finding, Kind, Note, NoteKind, StreamLabel};

#[tokio::test]
async fn a_bucket_that_holds_what_the_writer_refers_to_is_clean() {
    let bucket = Bucket::full().await;
    let report = bucket.verify_with(&bucket.writer()).await.unwrap();
    assert!(report.is_clean() && report.notes.is_empty());
    assert_eq!(report, bucket.verify().await);
}

#[tokio::test]
async fn each_chunk_that_the_writer_refers_to_and_is_missing_is_named() {
    for (chunk, offsets) in [(0, span(0, 10)), (1, span(10, 20)), (3, span(30, 40))] {
        let bucket = Bucket::full().await;
        let key = bucket.streams["orders"].key(chunk).clone();
        bucket.delete(&key).await;
        let report = bucket.verify_with(&bucket.writer()).await.unwrap();
        let expected = bucket.finding(Kind::Missing, None, "orders", offsets);
        assert_eq!(report.findings, [expected], "chunk {chunk}");
        assert_eq!(report.notes, [], "chunk {chunk}");
    }
    // And all of a stream, with or without its key.
    let bucket = Bucket::full().await;
    for chunk in &bucket.streams["orders"].chunks {
        bucket.delete(chunk.key()).await;
    }
    let expected = bucket.finding(Kind::Missing, None, "orders", span(0, 40));
    let report = bucket.verify_with(&bucket.writer()).await.unwrap();
    assert_eq!(report.findings, std::slice::from_ref(&expected));
    bucket.delete(&bucket.streams["orders"].key_object).await;
    let report = bucket.verify_with(&bucket.writer()).await.unwrap();
    assert_eq!(report.findings, [expected]);
}

#[tokio::test]
async fn another_attempt_does_not_stand_for_the_one_that_the_writer_refers_to() {
    let bucket = Bucket::full().await;
    let before = bucket.streams["orders"].chunks[3].digest_before();
    let again = bucket.seal("orders", &batches(30, 10), |identity| {
        identity.digest_before = before;
        identity.intent = 130;
    });
    bucket.put(&again);
    let note = bucket.note(NoteKind::Extra, Some(again.key()), "orders", span(30, 40));
    let report = bucket.verify_with(&bucket.writer()).await.unwrap();
    assert!(report.is_clean());
    assert_eq!(report.notes, std::slice::from_ref(&note));
    bucket.delete(bucket.streams["orders"].key(3)).await;
    let report = bucket.verify_with(&bucket.writer()).await.unwrap();
    let missing = bucket.finding(Kind::Missing, None, "orders", span(30, 40));
    assert_eq!((report.findings, report.notes), (vec![missing], vec![note]));
}

#[tokio::test]
async fn a_damaged_chunk_is_damaged_and_not_missing() {
    for at in [0, 100, 300] {
        let bucket = Bucket::full().await;
        let key = bucket.streams["orders"].key(3).clone();
        bucket.flip(&key, at);
        let report = bucket.verify_with(&bucket.writer()).await.unwrap();
        let expected = bucket.finding(Kind::Damaged, Some(&key), "orders", span(30, 40));
        assert_eq!(report.findings, [expected], "byte {at}");
    }
}

#[tokio::test]
async fn an_upload_that_is_not_committed_yet_is_extra() {
    let mut bucket = Bucket::full().await;
    let options = bucket.writer();
    bucket.ship("orders");
    let report = bucket.verify_with(&options).await.unwrap();
    let key = bucket.streams["orders"].key(4);
    assert!(report.is_clean());
    assert_eq!(report.notes, [bucket.note(NoteKind::Extra, Some(key), "orders", span(40, 50))]);
    assert_eq!(counts(&report)["orders"], (4, 40, 0, 40));
}

#[tokio::test]
async fn streams_that_the_writer_does_not_show_are_checked_by_themselves_or_deleted() {
    let bucket = Bucket::full().await;
    let orders = bucket.streams["orders"].id;
    let mut options = bucket.writer();
    options.writer.as_mut().unwrap().streams.remove(&orders);
    bucket.delete(bucket.streams["orders"].key(1)).await;
    let report = bucket.verify_with(&options).await.unwrap();
    assert_eq!(report.findings, [bucket.finding(Kind::Missing, None, "orders", span(10, 20))]);
    // Deleting a stream removes its key objects, then its chunks.
    bucket.delete(&bucket.streams["orders"].key_object).await;
    let report = bucket.verify_with(&options).await.unwrap();
    let stream = Some(StreamLabel { id: orders, name: None });
    let kind = NoteKind::DeletedStream;
    let note = Note { kind, object: None, stream: stream.clone(), offsets: span_from(0) };
    assert!(report.is_clean());
    assert_eq!(report.notes, [note]);
    // Of a living one the key is missing.
    let report = bucket.verify_with(&bucket.writer()).await.unwrap();
    let stream = Some(bucket.streams["orders"].label());
    let kind = Kind::MissingKey;
    let expected = Finding { kind, object: None, stream, offsets: span_from(0) };
    assert_eq!(report.findings, [expected]);
}

#[tokio::test]
async fn a_stream_of_which_nothing_is_shipped_misses_nothing() {
    let mut bucket = Bucket::full().await;
    bucket.add_stream("empty", 9);
    let mut options = bucket.writer();
    let empty = bucket.streams["empty"].expected();
    assert_eq!((empty.first_offset, empty.heads.len()), (empty.shipped_offset, 0));
    let report = bucket.verify_with(&options).await.unwrap();
    assert!(report.is_clean());
    assert_eq!(counts(&report)["empty"], (0, 0, 0, 0));
    // The control: one record shipped.
    let shipped = Expected { shipped_offset: Offset::new(1), ..empty };
    let id = bucket.streams["empty"].id;
    options.writer.as_mut().unwrap().streams.insert(id, shipped);
    let report = bucket.verify_with(&options).await.unwrap();
    assert_eq!(report.findings, [bucket.finding(Kind::Missing, None, "empty", span(0, 1))]);
}

#[tokio::test]
async fn a_chunk_that_the_writer_would_refer_to_with_another_hash_is_not_taken() {
    let bucket = Bucket::full().await;
    let orders = &bucket.streams["orders"];
    let mut options = bucket.writer();
    let expected = options.writer.as_mut().unwrap().streams.get_mut(&orders.id).unwrap();
    assert_eq!(expected.heads[2], head(&orders.chunks[2]));
    expected.heads[2].head_sha256[0] ^= 1;
    let report = bucket.verify_with(&options).await.unwrap();
    assert_eq!(report.findings, [bucket.finding(Kind::Missing, None, "orders", span(20, 30))]);
}
