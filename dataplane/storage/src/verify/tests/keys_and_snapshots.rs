//! What is read with the KEK alone.

use bytes::Bytes;
use pyramid_protocol::Entropy;

use super::fixture::{Bucket, CLUSTER, counts, keks, span_from};
use crate::{
    cluster_id::ClusterId,
    keys::StreamKey,
    object_store::ObjectKey,
    sealed_object::{self, Name},
    verify::{Finding, Kind, NoteKind, Options, StreamLabel},
};

#[tokio::test]
async fn a_wrong_key_file_is_told_from_damage() {
    let bucket = Bucket::full().await;
    for (id, is_known) in [("k1", true), ("k2", false)] {
        let other = Bucket { keks: keks(id, 9), ..Bucket::full().await };
        let report = other.verify().await;
        let wrong = |stream: &str| {
            let stream = &other.streams[stream];
            Finding {
                kind: Kind::WrongKek { kek_id: "k1".to_owned(), is_known },
                object: Some(stream.key_object.to_string()),
                stream: Some(StreamLabel { id: stream.id, name: None }),
                offsets: None,
            }
        };
        assert_eq!(report.findings, [wrong("clicks"), wrong("orders")]);
    }
    // The same object that does not open under a key that opens others is damaged: the wrapped key
    // is at 104.
    let key = bucket.streams["orders"].key_object.clone();
    for at in [0, 20, 104, 150, bucket.bytes(&key).len() - 1] {
        bucket.flip(&key, at);
        let report = bucket.verify().await;
        let [found] = &report.findings[..] else { panic!("{at}: {:?}", report.findings) };
        let kind = if at == 20 { Kind::Foreign } else { Kind::Damaged };
        assert_eq!((&found.kind, &found.object), (&kind, &Some(key.to_string())), "byte {at}");
        // The other stream is as good as before.
        assert_eq!(report.streams.len(), 1);
        bucket.flip(&key, at);
    }
    assert!(bucket.verify().await.is_clean());
}

#[tokio::test]
async fn an_older_key_of_the_key_file_opens_what_it_sealed() {
    let bucket = Bucket::full().await;
    let line = |id: &str, seed| {
        let text = crate::keys::Keks::generate(id, &pyramid_protocol::SeededEntropy::new(seed));
        text.lines().last().unwrap().to_owned()
    };
    let both = crate::keys::Keks::parse(&format!("{}\n{}", line("k1", 1), line("k2", 5))).unwrap();
    let rotated = Bucket { keks: both, ..bucket };
    assert!(rotated.verify().await.is_clean());
}

#[tokio::test]
async fn a_stream_without_key_object_is_named_once() {
    let bucket = Bucket::full().await;
    bucket.delete(&bucket.streams["orders"].key_object).await;
    let report = bucket.verify().await;
    let orders = StreamLabel { id: bucket.streams["orders"].id, name: None };
    let expected = Finding {
        kind: Kind::MissingKey,
        object: None,
        stream: Some(orders),
        offsets: span_from(0),
    };
    assert_eq!(report.findings, [expected]);
    assert_eq!(counts(&report).len(), 1);
    let unknown = Options { streams: vec!["orders".to_owned()], ..Options::default() };
    let error = bucket.verify_with(&unknown).await.unwrap_err();
    assert!(error.to_string().ends_with("is that of a stream \"orders\""), "{error}");
}

#[tokio::test]
async fn of_several_key_objects_one_that_opens_is_enough() {
    let bucket = Bucket::full().await;
    let orders = &bucket.streams["orders"];
    let second = bucket.put_key_object(orders.id, "orders", &orders.key);
    let report = bucket.verify().await;
    assert!(report.is_clean());
    let extra: Vec<_> = report.notes.iter().map(|note| note.kind.clone()).collect();
    assert_eq!(extra, [NoteKind::Extra]);
    for bad in [&orders.key_object, &second] {
        bucket.flip(bad, 150);
        let report = bucket.verify().await;
        let kind = NoteKind::BadExtra { problem: Kind::Damaged };
        assert_eq!(report.notes, [bucket.note(kind, Some(bad), "orders", None)]);
        assert!(report.is_clean());
        bucket.flip(bad, 150);
    }
    // One that opens and holds another key is tried, and does no harm.
    let wrong = bucket.put_key_object(orders.id, "orders", &StreamKey::random(&bucket.entropy));
    bucket.delete(&second).await;
    assert!(bucket.verify().await.is_clean());
    bucket.delete(&orders.key_object).await;
    let report = bucket.verify().await;
    assert!(report.findings.iter().all(|finding| finding.kind == Kind::Damaged));
    assert_eq!(report.finding_count, 4, "{wrong}: nothing opens the chunks");
}

#[tokio::test]
async fn a_key_object_stands_for_its_own_stream_only() {
    let bucket = Bucket::full().await;
    let key = bucket.streams["orders"].key_object.clone();
    let other = bucket.bytes(&bucket.streams["clicks"].key_object);
    bucket.store.tamper(&key, other);
    assert_eq!(bucket.verify().await.findings[0].kind, Kind::Misplaced);
    let mut newer = bucket.bytes(&key).to_vec();
    newer[8] = 2;
    bucket.store.tamper(&key, newer.into());
    assert_eq!(bucket.verify().await.findings[0].kind, Kind::UnknownVersion);
}

fn snapshot(bucket: &Bucket, cluster_id: ClusterId, len: usize) -> (ObjectKey, Bytes) {
    let name = Name { kind: sealed_object::Kind::Snapshot, cluster_id, ident: [500, 2] };
    let mut content = vec![0; len];
    bucket.entropy.fill(&mut content);
    let bytes = sealed_object::seal(&name, &content, &bucket.keks, &bucket.entropy).unwrap();
    let key = format!("{}s/3-500-2-{:016x}.pys", bucket.names.root_prefix(), 5).parse().unwrap();
    (key, bytes)
}

#[tokio::test]
async fn snapshots_are_opened_from_their_first_byte_to_their_last() {
    let bucket = Bucket::full().await;
    // Of several pieces.
    let (key, good) = snapshot(&bucket, CLUSTER, 9 << 20);
    bucket.store.tamper(&key, good.clone());
    let report = bucket.verify().await;
    assert_eq!((report.findings, report.notes), (Vec::new(), Vec::new()));
    let flipped = |at: usize| {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        Bytes::from(bytes)
    };
    let other_cluster = snapshot(&bucket, ClusterId::new([0xc2; 16]), 100).1;
    let wrong = Kind::WrongKek { kek_id: "k1".to_owned(), is_known: true };
    for (what, bytes, kind) in [
        ("the front", flipped(0), Kind::Damaged),
        ("the wrapped key", flipped(110), wrong),
        ("the first frame", flipped(good.len() / 9), Kind::Damaged),
        ("the last byte", flipped(good.len() - 1), Kind::Damaged),
        ("a cut", good.slice(..good.len() - 1), Kind::Damaged),
        ("nothing", Bytes::new(), Kind::Damaged),
        ("another cluster", other_cluster, Kind::Foreign),
        ("another kind", flipped(12), Kind::UnknownVersion),
    ] {
        bucket.store.tamper(&key, bytes);
        let object = Some(key.to_string());
        let expected = Finding { kind, object, stream: None, offsets: None };
        assert_eq!(bucket.verify().await.findings, [expected], "{what}");
    }
    // Under the name of another place in the log.
    let other: ObjectKey = key.as_str().replace("-500-", "-501-").parse().unwrap();
    bucket.delete(&key).await;
    bucket.store.tamper(&other, good);
    assert_eq!(bucket.verify().await.findings[0].kind, Kind::Damaged);
}
