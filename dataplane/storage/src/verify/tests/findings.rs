//! One thing changed in a bucket, and the exact finding.

use bytes::Bytes;
use pyramid_protocol::{Entropy, Offset};
use sha2::{Digest, Sha256};

use super::fixture::{
    Bucket, CHUNK_RECORDS, CLUSTER, EPOCH, batches, counts, keks, span, span_from,
};
use crate::{
    chunk::{Chunk, DIGEST_START, HEADER_LEN, Header},
    cluster_id::ClusterId,
    frame,
    object_names::ObjectNames,
    verify::{Finding, Kind, NoteKind, Options, StreamTotal},
};

#[tokio::test]
async fn a_clean_bucket_has_totals_and_nothing_else() {
    let bucket = Bucket::full().await;
    let report = bucket.verify().await;
    let objects = bucket.store.objects();
    let total = |name: &str| {
        let stream = &bucket.streams[name];
        let refs = || stream.chunks.iter().map(|chunk| chunk.chunk_ref());
        let chunks = u64::try_from(stream.chunks.len()).unwrap();
        StreamTotal {
            stream_id: stream.id,
            name: Some(name.to_owned()),
            first_offset: Offset::START,
            next_offset: Offset::new(chunks * CHUNK_RECORDS),
            chunks,
            records: chunks * CHUNK_RECORDS,
            stored_bytes: refs().map(|chunk| chunk.total_len).sum(),
            plain_bytes: refs().map(|chunk| chunk.plain_bytes).sum(),
        }
    };
    assert_eq!(report.streams, [total("clicks"), total("orders")]);
    assert_eq!((report.cluster_id, report.epoch), (CLUSTER, Some(EPOCH)));
    assert_eq!(report.objects, u64::try_from(objects.len()).unwrap());
    let bytes: usize = objects.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(report.bytes, u64::try_from(bytes).unwrap());
    assert_eq!((report.findings, report.notes), (Vec::new(), Vec::new()));
    assert_eq!((report.finding_count, report.note_count), (0, 0));
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_a_chunk_is_one_damaged_object() {
    let bucket = Bucket::full().await;
    let key = bucket.streams["orders"].key(1).clone();
    let good = bucket.bytes(&key);
    for at in 0..good.len() {
        bucket.flip(&key, at);
        let report = bucket.verify().await;
        // Version, codec and cipher could as well be those of a later build.
        let is_version = (8..10).contains(&at) || at == 84 || at == 85;
        let kind = if is_version { Kind::UnknownVersion } else { Kind::Damaged };
        // Whatever a head that is not authentic says: the next chunk is where this one ended.
        let expected = bucket.finding(kind, Some(&key), "orders", span(10, 20));
        assert_eq!(report.findings, [expected], "byte {at}");
        let counts = counts(&report);
        assert_eq!((counts["orders"], counts["clicks"]), ((3, 30, 0, 40), (2, 20, 0, 20)));
        assert_eq!(report.notes, []);
        bucket.store.tamper(&key, good.clone());
    }
    assert!(bucket.verify().await.is_clean());
}

#[tokio::test]
async fn a_cut_an_empty_and_a_longer_object_are_damaged() {
    let bucket = Bucket::full().await;
    let key = bucket.streams["orders"].key(1).clone();
    let good = bucket.bytes(&key);
    let cuts = [0, 1, HEADER_LEN, HEADER_LEN + 80, HEADER_LEN + 112, good.len() - 1];
    let mut changed: Vec<_> = cuts.map(|len| good.slice(..len)).to_vec();
    changed.push([&good[..], b"x"].concat().into());
    for bytes in changed {
        let len = bytes.len();
        bucket.store.tamper(&key, bytes);
        let found = bucket.verify().await.findings;
        let expected = bucket.finding(Kind::Damaged, Some(&key), "orders", span(10, 20));
        assert_eq!(found, [expected], "{len} of {} bytes", good.len());
    }
}

#[tokio::test]
async fn the_last_chunk_when_it_is_damaged_has_no_known_end_unless_its_head_is_authentic() {
    let bucket = Bucket::full().await;
    let key = bucket.streams["orders"].key(3).clone();
    let good = bucket.bytes(&key);
    for (at, offsets) in [(good.len() - 1, span(30, 40)), (0, span_from(30))] {
        bucket.flip(&key, at);
        let found = bucket.verify().await.findings;
        assert_eq!(found, [bucket.finding(Kind::Damaged, Some(&key), "orders", offsets)]);
        bucket.store.tamper(&key, good.clone());
    }
}

#[tokio::test]
async fn a_deleted_chunk_in_the_middle_is_a_missing_range() {
    let bucket = Bucket::full().await;
    bucket.delete(bucket.streams["orders"].key(1)).await;
    let report = bucket.verify().await;
    assert_eq!(report.findings, [bucket.finding(Kind::Missing, None, "orders", span(10, 20))]);
    assert_eq!(counts(&report)["orders"], (3, 30, 0, 40));
    bucket.delete(bucket.streams["orders"].key(2)).await;
    let report = bucket.verify().await;
    assert_eq!(report.findings, [bucket.finding(Kind::Missing, None, "orders", span(10, 30))]);
}

#[tokio::test]
async fn missing_and_damaged_chunks_beside_each_other_are_told_apart() {
    let bucket = Bucket::full().await;
    let (one, two) = (bucket.streams["orders"].key(1), bucket.streams["orders"].key(2));
    bucket.delete(one).await;
    bucket.flip(two, 0);
    let missing = bucket.finding(Kind::Missing, None, "orders", span(10, 20));
    let damaged = bucket.finding(Kind::Damaged, Some(two), "orders", span(20, 30));
    assert_eq!(bucket.verify().await.findings, [missing, damaged]);
}

#[tokio::test]
async fn a_missing_front_is_a_note_and_a_missing_end_is_not_seen() {
    let bucket = Bucket::full().await;
    bucket.delete(bucket.streams["orders"].key(0)).await;
    bucket.delete(bucket.streams["clicks"].key(1)).await;
    let report = bucket.verify().await;
    assert!(report.is_clean());
    assert_eq!(report.notes, [bucket.note(NoteKind::BeginsLater, None, "orders", span(0, 10))]);
    assert_eq!(counts(&report)["orders"], (3, 30, 10, 40));
    assert_eq!(counts(&report)["clicks"], (1, 10, 0, 10));
}

#[tokio::test]
async fn swapped_chunks_of_one_stream_are_both_misplaced() {
    let bucket = Bucket::full().await;
    let (one, two) = (bucket.streams["orders"].key(1), bucket.streams["orders"].key(2));
    let (first, second) = (bucket.bytes(one), bucket.bytes(two));
    bucket.store.tamper(one, second);
    bucket.store.tamper(two, first);
    let expected = [
        bucket.finding(Kind::Misplaced, Some(one), "orders", span(10, 20)),
        bucket.finding(Kind::Misplaced, Some(two), "orders", span(20, 30)),
    ];
    assert_eq!(bucket.verify().await.findings, expected);
}

#[tokio::test]
async fn a_chunk_of_another_stream_intent_or_cluster_does_not_stand_for_one_of_this() {
    let bucket = Bucket::full().await;
    let key = bucket.streams["orders"].key(1).clone();
    let other_stream = bucket.bytes(bucket.streams["clicks"].key(1));
    let intent = bucket.seal("orders", &batches(10, 10), |identity| {
        identity.digest_before = bucket.streams["orders"].chunks[1].digest_before();
        identity.intent = 1;
    });
    let other_names = ObjectNames::new("dev/a", ClusterId::new([0xc2; 16])).unwrap();
    let cluster = bucket.seal("orders", &batches(10, 10), |identity| {
        identity.names = &other_names;
    });
    let foreign_key = crate::keys::StreamKey::random(&bucket.entropy);
    let foreign = bucket.seal("orders", &batches(10, 10), |identity| {
        identity.names = &other_names;
        identity.stream_key = &foreign_key;
    });
    let unknown_key = bucket.seal("orders", &batches(10, 10), |identity| {
        identity.stream_key = &foreign_key;
    });
    for (what, bytes, kind) in [
        ("another stream", other_stream, Kind::Misplaced),
        ("another intent", intent.bytes().clone(), Kind::Misplaced),
        ("another cluster under the same key", cluster.bytes().clone(), Kind::Misplaced),
        ("another cluster", foreign.bytes().clone(), Kind::Foreign),
        ("another key", unknown_key.bytes().clone(), Kind::Damaged),
    ] {
        bucket.store.tamper(&key, bytes);
        let found = bucket.verify().await.findings;
        assert_eq!(found, [bucket.finding(kind, Some(&key), "orders", span(10, 20))], "{what}");
    }
}

#[tokio::test]
async fn a_chunk_of_another_history_breaks_the_chain() {
    let bucket = Bucket::full().await;
    let stream = &bucket.streams["orders"];
    let before = stream.chunks[1].digest_before();
    let good = bucket.seal("orders", &batches(10, 10), |identity| {
        identity.digest_before = before;
        identity.intent = 110;
    });
    let other = bucket.seal("orders", &batches(10, 10), |identity| {
        identity.digest_before = [9; 32];
        identity.intent = 110;
    });
    let mut late = batches(10, 10);
    for batch in &mut late {
        batch.append_time_ms = 1_000;
    }
    let late = bucket.seal("orders", &late, |identity| {
        identity.digest_before = before;
        identity.intent = 110;
    });
    let old_epoch = bucket.seal("orders", &batches(10, 10), |identity| {
        identity.digest_before = before;
        identity.intent = 110;
        identity.epoch = EPOCH - 1;
    });
    bucket.delete(stream.key(1)).await;
    // The control: resealed as it was.
    bucket.put(&good);
    assert!(bucket.verify().await.is_clean());
    bucket.delete(good.key()).await;
    let third = stream.key(2).clone();
    for (what, sealed, also_behind) in [
        ("another digest before", other, true),
        ("times that go back", late, true),
        ("an older epoch", old_epoch, false),
    ] {
        bucket.put(&sealed);
        let report = bucket.verify().await;
        let mut expected =
            vec![bucket.finding(Kind::BrokenChain, Some(sealed.key()), "orders", span(10, 20))];
        if also_behind {
            // Its digest is that of other content, so the next one does not follow it either.
            expected.push(bucket.finding(Kind::BrokenChain, Some(&third), "orders", span(20, 30)));
        }
        assert_eq!(report.findings, expected, "{what}");
        bucket.delete(sealed.key()).await;
    }
}

#[tokio::test]
async fn the_first_chunk_of_a_stream_begins_the_chain() {
    let mut bucket = Bucket::new().await;
    bucket.add_stream("orders", 77);
    let other = bucket.seal("orders", &batches(0, 10), |identity| {
        assert_eq!(identity.digest_before, DIGEST_START);
        identity.digest_before = [9; 32];
    });
    bucket.put(&other);
    let found = bucket.verify().await.findings;
    let expected = bucket.finding(Kind::BrokenChain, Some(other.key()), "orders", span(0, 10));
    assert_eq!(found, [expected]);
}

#[tokio::test]
async fn a_digest_that_is_not_that_of_the_records_is_damage_also_under_a_valid_mac() {
    let bucket = Bucket::full().await;
    let stream = &bucket.streams["orders"];
    let key = stream.key(3).clone();
    let good = bucket.bytes(&key);
    let reseal = |change: fn(&mut Header)| {
        let chunk = Chunk::open("chunk", &stream.key, &good).unwrap();
        let mut header = chunk.header().clone();
        change(&mut header);
        let keys = stream.key.unwrap(&header.wrapped_key).unwrap().frame_keys("chunk");
        let row = frame::Row::decode(&good[HEADER_LEN..HEADER_LEN + 80], 1 << 20).unwrap();
        let mut bytes = frame::seal_head(&header.encode(), &[row], &keys);
        bytes.extend_from_slice(&good[HEADER_LEN + 80 + 32..]);
        Bytes::from(bytes)
    };
    assert_eq!(Sha256::digest(reseal(|_| {})), Sha256::digest(&good), "the control");
    bucket.store.tamper(&key, reseal(|header| header.digest_after = [9; 32]));
    let found = bucket.verify().await.findings;
    assert_eq!(found, [bucket.finding(Kind::Damaged, Some(&key), "orders", span(30, 40))]);
}

#[tokio::test]
async fn objects_with_other_names_are_foreign() {
    let bucket = Bucket::full().await;
    let root = bucket.names.root_prefix();
    let chunk = bucket.streams["orders"].key(1).to_string();
    let mut expected = Vec::new();
    for name in [
        format!("{root}notes.txt"),
        format!("{root}c/readme"),
        chunk.replace(".pyc", ".bak"),
        format!("{root}k/1.pyk"),
        format!("{root}s/1.pys"),
    ] {
        bucket.store.tamper(&name.parse().unwrap(), Bytes::from_static(b"hello"));
        let object = Some(name);
        expected.push(Finding { kind: Kind::Foreign, object, stream: None, offsets: None });
    }
    expected.sort_by(|a, b| a.object.cmp(&b.object));
    assert_eq!(bucket.verify().await.findings, expected);
    // When one stream is meant, what lies among its chunks is named alone.
    let one = Options { streams: vec!["orders".to_owned()], ..Options::default() };
    let report = bucket.verify_with(&one).await.unwrap();
    expected.retain(|found| found.object.as_ref().is_some_and(|key| key.ends_with(".bak")));
    assert_eq!((report.findings.len(), &report.findings), (1, &expected));
    assert_eq!(counts(&report).keys().collect::<Vec<_>>(), ["orders"]);
    // What lies beside the cluster is not looked at.
    bucket.store.tamper(&"dev/a/other".parse().unwrap(), Bytes::new());
    assert_eq!(bucket.verify().await.finding_count, 5);
}

#[tokio::test]
async fn the_cluster_file_is_checked() {
    let bucket = Bucket::full().await;
    let key = bucket.names.cluster_file();
    let good = String::from_utf8(bucket.bytes(&key).to_vec()).unwrap();
    let own = CLUSTER.to_string();
    for (text, kind) in [
        (good.replace("\"format\":1", "\"format\":2"), Kind::UnknownVersion),
        (good.replace(&own, &own.replace("c1", "c2")), Kind::Foreign),
        (good.replace('}', ""), Kind::Damaged),
        (String::new(), Kind::Damaged),
    ] {
        assert_ne!(text, good);
        bucket.store.tamper(&key, text.into());
        let report = bucket.verify().await;
        let object = Some(key.to_string());
        let expected = Finding { kind, object, stream: None, offsets: None };
        assert_eq!((report.findings, report.epoch), (vec![expected], None));
    }
    bucket.delete(&key).await;
    let report = bucket.verify().await;
    assert_eq!(report.findings[0].kind, Kind::MissingClusterFile);
    assert_eq!((report.finding_count, counts(&report).len()), (1, 2));
}

#[tokio::test]
async fn a_cluster_of_which_nothing_is_there_is_an_error() {
    let bucket = Bucket::full().await;
    let names = ObjectNames::new("dev/b", CLUSTER).unwrap();
    let other = Bucket { names, keks: keks("k1", 1), ..bucket };
    let error = other.verify_with(&Options::default()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "there is no object of the cluster below dev/b/{CLUSTER}/; look at prefix and cluster \
             id"
        )
    );
}

#[tokio::test]
async fn a_bucket_of_random_bytes_is_damaged_and_no_more() {
    let bucket = Bucket::full().await;
    let mut count = 0;
    for (key, bytes) in bucket.store.objects() {
        if key != bucket.names.cluster_file() {
            let mut random = bytes.to_vec();
            bucket.entropy.fill(&mut random);
            bucket.store.tamper(&key, random.into());
            count += u64::from(key.as_str().ends_with(".pyk"));
        }
    }
    let report = bucket.verify().await;
    // Without its key nothing is said of a stream's chunks.
    assert_eq!(report.finding_count, count);
    assert!(report.findings.iter().all(|finding| finding.kind == Kind::Damaged));
}
