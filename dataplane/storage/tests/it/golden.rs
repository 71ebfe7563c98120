//! Golden files: the bytes of version 1. Each is decoded, and written again byte for byte.
//!
//! A difference means that stored bytes have changed: that is a new version with a new file, and
//! the old file stays. Only another release of zstd may pack otherwise; then
//! `UPDATE_GENERATED=1 cargo test -p pyramid-storage` rewrites them.

use std::{fs, path::Path};

use bytes::Bytes;
use pyramid_protocol::{
    Batch, Entropy, Offset, Records, SeededEntropy, StreamId,
    pb::v1::{self as pb, StreamSettings},
};
use pyramid_storage::{
    Chunk, ClusterId, Keks, ObjectNames, StreamKey,
    chunk::{DIGEST_START, DigestChain, Identity, seal},
    key_object::KeyObject,
};

const STREAM_ID: u64 = 0x1d_0c0f_fee0;

fn names() -> ObjectNames {
    ObjectNames::new("golden", ClusterId::new(*b"\x00\x11golden cluster")).unwrap()
}

/// Fixed, so that the files can be opened by anybody.
fn keks() -> Keks {
    let line = |id: &str, byte: &str| format!("{id} = {}\n", byte.repeat(32));
    Keks::parse(&(line("old", "a5") + &line("golden-1", "5a"))).unwrap()
}

fn stream_id() -> StreamId {
    StreamId::new(STREAM_ID).unwrap()
}

fn stream_key() -> StreamKey {
    StreamKey::random(&SeededEntropy::new(1))
}

fn record(value: Vec<u8>, header: &str) -> pb::Record {
    let header = pb::Header { name: header.to_owned(), value: Bytes::from_static(b"\x00\xff") };
    pb::Record { value: value.into(), headers: vec![header] }
}

/// Three frames: many small batches, one batch above the target of a frame, bytes that do not shrink.
fn batches() -> Vec<Batch> {
    let text = |number: u64| {
        let value = format!("{{\"order\":{number},\"sku\":\"pyramid\",\"count\":{}}}", number % 7);
        record(value.into_bytes(), "content-type")
    };
    let mut batches: Vec<Batch> = (0..20)
        .map(|number| {
            let records = Records::encode(&[text(2 * number), text(2 * number + 1)]).unwrap();
            Batch::new(Offset::new(1_000 + 2 * number), 1_790_000_000_000 + number, &records)
        })
        .collect();
    let mut random = vec![0; 200];
    SeededEntropy::new(2).fill(&mut random);
    for (number, value) in (0..).zip([vec![b'.'; 300_000], random]) {
        let records = Records::encode(&[record(value, "ä")]).unwrap();
        let base_offset = Offset::new(1_040 + number);
        batches.push(Batch::new(base_offset, 1_790_000_000_100, &records));
    }
    batches
}

/// Compares with the file, or writes it.
fn compare(file: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, bytes).unwrap();
    }
    let golden = fs::read(&path).unwrap();
    assert!(golden == bytes, "{file} is not what this build writes");
    golden
}

/// The chunk as this build seals it.
fn chunk() -> Bytes {
    let (names, stream_key) = (names(), stream_key());
    let identity = Identity {
        names: &names,
        epoch: 2,
        stream_id: stream_id(),
        intent: 99,
        generation: 0,
        stream_key: &stream_key,
        digest_before: DIGEST_START,
    };
    seal(&identity, batches(), &SeededEntropy::new(3)).unwrap().bytes().clone()
}

#[test]
fn the_golden_chunk_is_written_and_read() {
    let (stream_key, golden) = (stream_key(), compare("chunk_v1.pyc", &chunk()));
    let chunk = Chunk::open("golden", &stream_key, &golden).unwrap();
    let batch_counts: Vec<_> = chunk.frames().map(|frame| frame.batch_count).collect();
    assert_eq!(batch_counts, [20, 1, 1]);
    assert_eq!(chunk.open_all(&golden).unwrap(), batches());
    let mut digest = DigestChain::new(&stream_key, DIGEST_START);
    batches().iter().for_each(|batch| digest.push(batch));
    assert_eq!(chunk.header().digest_after, digest.digest());
}

#[test]
fn the_golden_key_object_is_written_and_read() {
    let key_object = KeyObject {
        stream_id: stream_id(),
        name: "golden/ä".to_owned(),
        key: stream_key(),
        settings: Some(StreamSettings { chunk_bytes: 8 << 20, chunk_age_ms: 600_000 }),
    };
    let cluster_id = names().cluster_id();
    let bytes = key_object.seal(cluster_id, &keks(), &SeededEntropy::new(4));
    let golden = compare("key_object_v1.pyk", &bytes);

    let opened = KeyObject::open("golden", &golden, cluster_id, stream_id(), &keks()).unwrap();
    assert_eq!((&opened.name, opened.settings), (&key_object.name, key_object.settings));
    // The key is the one: it opens the chunk that was sealed under it.
    let chunk = chunk();
    let opened = Chunk::open("golden", &opened.key, &chunk).unwrap().open_all(&chunk).unwrap();
    assert_eq!(opened, batches());
}
