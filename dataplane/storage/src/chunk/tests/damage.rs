//! Changed, cut, swapped and replayed chunks: nothing of them is returned.

use bytes::Bytes;
use pyramid_protocol::{
    Batch, StreamId,
    pb::{stored::v1 as stored, v1 as pb},
};
use sha2::{Digest, Sha256};

use crate::{
    chunk::{
        Chunk, Damaged, HEADER_LEN, Identity, SealedChunk,
        fixture::{Stream, batch, run},
        location, seal,
    },
    cluster_id::ClusterId,
    frame,
    keys::StreamKey,
    object_names::ObjectNames,
    object_store::MemoryStore,
};

type Opened = Result<Vec<Batch>, Damaged>;

/// All ways to open a chunk. Each must refuse what is damaged.
struct Readers {
    stream: Stream,
    chunk_ref: stored::ChunkRef,
    location: pb::ChunkLocation,
}

impl Readers {
    async fn new(stream: Stream, sealed: &SealedChunk) -> Self {
        let store = MemoryStore::new();
        let location = location(
            &store,
            &stream.names,
            stream.identity().stream_id,
            sealed.chunk_ref(),
            &stream.key,
            std::time::Duration::from_secs(60),
        );
        let location = location.await.unwrap();
        Self { chunk_ref: sealed.chunk_ref().clone(), location, stream }
    }

    fn open(&self, bytes: &[u8]) -> [Opened; 3] {
        let Stream { names, key, .. } = &self.stream;
        let stream_id = self.stream.identity().stream_id;
        [
            Chunk::open("chunk", key, bytes).and_then(|chunk| chunk.open_all(bytes)),
            Chunk::open_ref(names, stream_id, &self.chunk_ref, key, bytes)
                .and_then(|chunk| chunk.open_all(bytes)),
            Chunk::open_location(&self.location, bytes).and_then(|chunk| chunk.open_all(bytes)),
        ]
    }

    #[track_caller]
    fn refuse(&self, bytes: &[u8], what: &str) {
        for opened in self.open(bytes) {
            assert!(opened.is_err(), "{what} was taken for the chunk");
        }
    }
}

async fn small() -> (Readers, Bytes) {
    let stream = Stream::new(1);
    let batches = [batch(7, 1_000, &["first", "second"]), batch(9, 1_001, &["third"])];
    let sealed = stream.seal(&batches);
    let readers = Readers::new(stream, &sealed).await;
    for opened in readers.open(sealed.bytes()) {
        assert_eq!(opened.as_deref(), Ok(batches.as_slice()));
    }
    (readers, sealed.bytes().clone())
}

/// I1.
#[tokio::test]
async fn each_flipped_bit_is_noticed() {
    let (readers, bytes) = small().await;
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        readers.refuse(&changed, &format!("bit {bit}"));
    }
}

/// I2: also the empty object.
#[tokio::test]
async fn each_cut_and_each_appendix_is_noticed() {
    let (readers, bytes) = small().await;
    for len in 0..bytes.len() {
        readers.refuse(&bytes[..len], &format!("a cut to {len} bytes"));
    }
    for appendix in [&[0][..], &[16; 16], &bytes] {
        let longer = [bytes.as_ref(), appendix].concat();
        readers.refuse(&longer, &format!("an appendix of {} bytes", appendix.len()));
    }
}

/// A chunk of several frames whose ciphertexts have equal lengths, cut at its frames.
async fn of_equal_frames() -> (Readers, Vec<Bytes>) {
    let stream = Stream::new(1);
    // Random bytes do not shrink, and the batch is above the target of a frame.
    let batches: Vec<_> = (0..4)
        .map(|number| {
            let mut value = vec![0; 300_000];
            pyramid_protocol::Entropy::fill(&stream.entropy, &mut value);
            batch(number, 1_000, &[value])
        })
        .collect();
    let sealed = stream.seal(&batches);
    let chunk = Chunk::open("chunk", &stream.key, sealed.bytes()).unwrap();
    let mut parts = vec![sealed.bytes().slice(..usize::try_from(sealed.head_len()).unwrap())];
    parts.extend(chunk.frames().map(|frame| {
        let position = |at| usize::try_from(at).unwrap();
        sealed.bytes().slice(position(frame.range.start)..position(frame.range.end))
    }));
    assert!(parts[1..].iter().all(|frame| frame.len() == parts[1].len()));
    (Readers::new(stream, &sealed).await, parts)
}

/// I3. There is no bit for the last frame: the header counts the frames.
#[tokio::test]
async fn frames_that_are_swapped_dropped_or_doubled_are_noticed() {
    let (readers, parts) = of_equal_frames().await;
    for (what, order) in [
        ("swapped", &[0, 2, 1, 3, 4][..]),
        ("swapped at the end", &[0, 1, 2, 4, 3]),
        ("dropped", &[0, 1, 2, 4]),
        ("cut at a frame", &[0, 1, 2, 3]),
        ("doubled", &[0, 1, 1, 2, 3, 4]),
        ("replaced", &[0, 1, 1, 3, 4]),
    ] {
        let changed: Vec<_> = order.iter().map(|&part| parts[part].clone()).collect();
        readers.refuse(&changed.concat(), what);
    }
    // Rows swapped together with their frames: the HMAC of the head covers their order.
    let mut head = parts[0].to_vec();
    head[HEADER_LEN..HEADER_LEN + 160].rotate_left(80);
    let swapped = [&head[..], &parts[2], &parts[1], &parts[3], &parts[4]].concat();
    readers.refuse(&swapped, "swapped with their rows");
}

/// I3, with the table: a frame is moved, doubled or dropped together with its row, and the header
/// tells the lengths and counts that fit. Without the key its HMAC cannot be made.
#[tokio::test]
async fn frames_that_are_moved_with_their_rows_are_noticed() {
    let (readers, parts) = of_equal_frames().await;
    let head = &parts[0];
    let rebuilt = |order: &[usize]| {
        let chunk = Chunk::open("chunk", &readers.stream.key, head).unwrap();
        let mut header = chunk.header().clone();
        let row = |part: usize| &head[HEADER_LEN + 80 * (part - 1)..][..80];
        let frames: Vec<_> = chunk.frames().collect();
        let plain = |part: usize| u64::from(frames[part - 1].plain_len);
        header.frame_count = u32::try_from(order.len()).unwrap();
        header.batch_count = header.frame_count;
        header.plain_bytes = order.iter().map(|&part| plain(part)).sum();
        let head_len = frame::head_len(HEADER_LEN, header.frame_count).unwrap();
        let frames_len: usize = order.iter().map(|&part| parts[part].len()).sum();
        header.total_len = u64::try_from(head_len + frames_len).unwrap();
        let mut bytes = header.encode();
        order.iter().for_each(|&part| bytes.extend_from_slice(row(part)));
        bytes.extend_from_slice(&head[head.len() - 32..]);
        order.iter().for_each(|&part| bytes.extend_from_slice(&parts[part]));
        bytes
    };
    assert_eq!(rebuilt(&[1, 2, 3, 4]), parts.concat(), "the control");
    for (what, order) in [
        ("moved", &[1, 3, 2, 4][..]),
        ("moved to the end", &[1, 2, 4, 3]),
        ("doubled", &[1, 2, 2, 3, 4]),
        ("dropped", &[1, 2, 4]),
        ("dropped at the end", &[1, 2, 3]),
    ] {
        readers.refuse(&rebuilt(order), what);
    }
}

/// I4: other offsets, streams, generations, clusters, epochs, intents and histories.
#[tokio::test]
async fn a_chunk_does_not_stand_for_another_one() {
    let (readers, own) = small().await;
    let Stream { names, key, entropy } = &readers.stream;
    let other_names = ObjectNames::new("test", ClusterId::new([0xc2; 16])).unwrap();
    let identity = readers.stream.identity();
    let batches = [batch(7, 1_000, &["first", "second"]), batch(9, 1_001, &["third"])];
    let moved = [batch(8, 1_000, &["first", "second"]), batch(10, 1_001, &["third"])];
    let other_stream = StreamId::new(78).unwrap();
    for (what, identity, batches) in [
        ("another attempt", identity, &batches),
        ("another offset", identity, &moved),
        ("another stream", Identity { stream_id: other_stream, ..identity }, &batches),
        ("another generation", Identity { generation: 1, ..identity }, &batches),
        ("another cluster", Identity { names: &other_names, ..identity }, &batches),
        ("another epoch", Identity { epoch: 4, ..identity }, &batches),
        ("another intent", Identity { intent: 6, ..identity }, &batches),
        ("another history", Identity { digest_before: [1; 32], ..identity }, &batches),
    ] {
        let other = seal(&identity, batches.iter().cloned(), entropy).unwrap();
        // The bucket answers with another object of the same stream key.
        let [by_itself, by_ref, by_location] = readers.open(other.bytes());
        assert!(by_itself.is_ok(), "{what}: it is a good chunk");
        assert!(by_ref.is_err(), "{what} by reference");
        assert!(by_location.is_err(), "{what} by location");
        if what == "another attempt" {
            continue;
        }
        // Even if the reference held the other's hash, lengths and keys: names must agree.
        let forged = stored::ChunkRef {
            head_sha256: other.chunk_ref().head_sha256.clone(),
            wrapped_key: other.chunk_ref().wrapped_key.clone(),
            total_len: other.chunk_ref().total_len,
            ..readers.chunk_ref.clone()
        };
        let opened = Chunk::open_ref(
            names,
            readers.stream.identity().stream_id,
            &forged,
            key,
            other.bytes(),
        );
        if what != "another history" {
            assert!(opened.is_err(), "{what} by a forged reference");
        }
        // A head of one and frames of the other.
        let head_len = usize::try_from(other.head_len()).unwrap();
        let mixed = [&own[..head_len], &other.bytes()[head_len..]].concat();
        readers.refuse(&mixed, what);
    }
}

/// I4.
#[tokio::test]
async fn an_old_generation_is_not_taken_for_the_new_one() {
    let (readers, old) = small().await;
    let stream_id = readers.stream.identity().stream_id;
    let expected = stored::ChunkRef { generation: 1, ..readers.chunk_ref.clone() };
    let Stream { names, key, .. } = &readers.stream;
    assert!(Chunk::open_ref(names, stream_id, &expected, key, &old).is_err());
    let expected = pb::ChunkLocation { generation: 1, ..readers.location.clone() };
    assert!(Chunk::open_location(&expected, &old).is_err());
}

/// I5: cold, with the keys unwrapped from the object or the reference, and cached, with the keys of a
/// location that were unwrapped before the exchange.
#[tokio::test]
async fn exchanged_and_foreign_keys_open_nothing() {
    let (readers, bytes) = small().await;
    let Stream { names, key, entropy } = &readers.stream;
    let stream_id = readers.stream.identity().stream_id;
    let other = readers.stream.seal(&run(100, 2, 50));

    let mut exchanged = bytes.to_vec();
    exchanged[120..160].copy_from_slice(&other.chunk_ref().wrapped_key);
    readers.refuse(&exchanged, "a wrapped key of another chunk");
    let head_len = usize::try_from(readers.chunk_ref.head_len).unwrap();
    let forged = stored::ChunkRef {
        wrapped_key: other.chunk_ref().wrapped_key.clone(),
        head_sha256: Sha256::digest(&exchanged[..head_len]).to_vec().into(),
        ..readers.chunk_ref.clone()
    };
    assert!(Chunk::open_ref(names, stream_id, &forged, key, &exchanged).is_err());

    let foreign = StreamKey::random(entropy);
    assert!(Chunk::open("chunk", &foreign, &bytes).is_err());
    assert!(Chunk::open_ref(names, stream_id, &readers.chunk_ref, &foreign, &bytes).is_err());

    let good = &readers.location;
    for (what, location) in [
        ("mac key", pb::ChunkLocation { mac_key: good.encryption_key.clone(), ..good.clone() }),
        ("short key", pb::ChunkLocation { mac_key: good.mac_key.slice(1..), ..good.clone() }),
        ("no key", pb::ChunkLocation { encryption_key: Bytes::new(), ..good.clone() }),
        ("no cluster", pb::ChunkLocation { cluster_id: Bytes::new(), ..good.clone() }),
        ("no hash", pb::ChunkLocation { head_sha256: Bytes::new(), ..good.clone() }),
        ("long head", pb::ChunkLocation { head_len: u32::MAX, ..good.clone() }),
        ("no head", pb::ChunkLocation { head_len: 0, ..good.clone() }),
        ("long object", pb::ChunkLocation { total_len: u64::MAX, ..good.clone() }),
    ] {
        assert!(Chunk::open_location(&location, &bytes).is_err(), "{what}");
    }
    let swapped_cipher = pb::ChunkLocation { encryption_key: good.mac_key.clone(), ..good.clone() };
    let opened = Chunk::open_location(&swapped_cipher, &bytes).unwrap().open_all(&bytes);
    assert!(opened.is_err(), "cipher key");
}

#[tokio::test]
async fn whoever_holds_the_keys_of_one_chunk_cannot_forge_its_head() {
    let (readers, bytes) = small().await;
    // With the keys of a location a new head with a valid HMAC can be made, but not one with the
    // hash that the log names.
    let keys = &readers.location;
    let keys = crate::keys::FrameKeys::from_slices(&keys.encryption_key, &keys.mac_key).unwrap();
    let head_len = usize::try_from(readers.chunk_ref.head_len).unwrap();
    let mut header = bytes[..HEADER_LEN].to_vec();
    header[160] ^= 1;
    let row = frame::Row::decode(&bytes[HEADER_LEN..HEADER_LEN + 80], 1 << 20).unwrap();
    let mut forged = frame::seal_head(&header, &[row], &keys);
    forged.extend_from_slice(&bytes[head_len..]);
    let [by_itself, by_ref, by_location] = readers.open(&forged);
    assert!(by_itself.is_ok(), "the HMAC is valid");
    assert!(by_ref.is_err() && by_location.is_err());
}

#[test]
fn damage_names_the_object_and_shows_no_signature() {
    let location = pb::ChunkLocation {
        url: "https://host/bucket/a.pyc?X-Amz-Signature=secret#range=0..1".to_owned(),
        ..pb::ChunkLocation::default()
    };
    let damaged = Chunk::open_location(&location, b"").unwrap_err();
    assert_eq!(damaged, Damaged { object: "https://host/bucket/a.pyc".to_owned() });
    assert_eq!(
        damaged.to_string(),
        "https://host/bucket/a.pyc is damaged: it is not what was stored, and nothing of it is used"
    );
}
