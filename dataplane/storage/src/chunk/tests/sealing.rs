//! What is sealed comes back, and what is no range of one stream is not sealed.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use pyramid_protocol::{Batch, Entropy, Offset, pb::v1 as pb};

use crate::chunk::{
    Chunk, DIGEST_START, DigestChain, HEADER_LEN, Identity, SealError, content,
    fixture::{Stream, batch, run},
    outline, seal,
};

fn open(stream: &Stream, bytes: &[u8]) -> Chunk {
    Chunk::open("chunk", &stream.key, bytes).unwrap()
}

#[test]
fn header_and_reference_say_what_was_sealed() {
    let stream = Stream::new(1);
    let batches = run(100, 50, 20_000);
    let sealed = stream.seal(&batches);
    let header = open(&stream, sealed.bytes()).header().clone();
    let chunk_ref = sealed.chunk_ref();

    assert_eq!(header.cluster_id, stream.names.cluster_id());
    assert_eq!((header.epoch, header.intent, header.generation), (3, 5, 0));
    assert_eq!((header.base_offset, header.next_offset), (Offset::new(100), Offset::new(200)));
    assert_eq!((header.first_time_ms, header.last_time_ms), (1_000, 1_490));
    assert_eq!(header.batch_count, 50);
    assert_eq!(header.total_len, u64::try_from(sealed.bytes().len()).unwrap());
    assert_eq!(header.digest_before, sealed.digest_before());
    assert_eq!(header.digest_after, sealed.digest_after());

    assert_eq!((chunk_ref.base_offset, chunk_ref.next_offset), (100, 200));
    assert_eq!((chunk_ref.epoch, chunk_ref.intent, chunk_ref.generation), (3, 5, 0));
    assert_eq!(chunk_ref.total_len, header.total_len);
    assert_eq!(chunk_ref.plain_bytes, header.plain_bytes);
    assert_eq!(chunk_ref.wrapped_key, Bytes::copy_from_slice(&header.wrapped_key));
    assert_eq!(
        *sealed.key(),
        stream.names.chunk_of(stream.identity().stream_id, chunk_ref),
        "the name holds the attempt's own number"
    );
    assert!(sealed.key().as_str().ends_with(&format!("-{:016x}.pyc", chunk_ref.r)));
}

#[test]
fn frames_are_of_whole_batches_and_about_256_kib() {
    let stream = Stream::new(1);
    let mut batches = run(0, 60, 20_000);
    batches.push(batch(120, 9_000, &[vec![1; 1_000_000], vec![2; 1_000_000]]));
    batches.extend([batch(122, 9_001, &["small"]), batch(123, 9_001, &["smaller"])]);
    let sealed = stream.seal(&batches);
    let chunk = open(&stream, sealed.bytes());

    let frames: Vec<_> = chunk.frames().collect();
    assert!(frames.len() > 10);
    for (number, frame) in frames.iter().enumerate() {
        let opened = chunk
            .open_frame(
                number,
                &sealed.bytes()[usize::try_from(frame.range.start).unwrap()
                    ..usize::try_from(frame.range.end).unwrap()],
            )
            .unwrap();
        assert_eq!(opened[0].base_offset, frame.first_offset);
        assert_eq!(opened[0].append_time_ms, frame.first_time_ms);
        assert_eq!(opened.len(), usize::try_from(frame.batch_count).unwrap());
        let plain_len: usize = opened.iter().map(content::field_len).sum();
        assert_eq!(plain_len, usize::try_from(frame.plain_len).unwrap());
        assert!(plain_len <= 256 << 10 || opened.len() == 1, "frame {number}: {plain_len}");
    }
    let last = frames.last().unwrap();
    assert_eq!((last.first_offset, last.batch_count), (Offset::new(122), 2));
    assert_eq!(outline("chunk", sealed.bytes()).unwrap().frames, frames);
}

#[test]
fn the_content_is_a_protobuf_message_and_the_digest_is_chained_over_it() {
    let stream = Stream::new(1);
    let batches = run(0, 20, 30_000);
    let sealed = stream.seal(&batches);
    let mut plain = Vec::new();
    let mut digest = DigestChain::new(&stream.key, DIGEST_START);
    for batch in open(&stream, sealed.bytes()).open_all(sealed.bytes()).unwrap() {
        content::encode_to(&batch, &mut plain);
        digest.push(&batch);
    }
    let encoded: Vec<_> = batches.iter().map(Batch::encode).collect();
    assert_eq!(pb::ChunkContent::decode(plain.as_slice()).unwrap().batches, encoded);
    assert_eq!(sealed.digest_after(), digest.digest());

    let (first, second) = batches.split_at(7);
    let first = stream.seal(first);
    let identity = Identity { digest_before: first.digest_after(), ..stream.identity() };
    let second = seal(&identity, second.to_vec(), &stream.entropy).unwrap();
    assert_eq!(second.digest_after(), sealed.digest_after(), "cuts do not change the chain");
}

#[test]
fn every_frame_has_an_iv_and_every_chunk_a_key_of_its_own() {
    let stream = Stream::new(1);
    let batches = run(0, 40, 30_000);
    let chunks = [stream.seal(&batches), stream.seal(&batches)];
    let mut ivs: Vec<_> = chunks
        .iter()
        .flat_map(|sealed| {
            let frames = open(&stream, sealed.bytes()).frame_count();
            (0..frames).map(|frame| {
                let at = HEADER_LEN + 80 * frame + 32;
                sealed.bytes().slice(at..at + 16)
            })
        })
        .collect();
    let count = ivs.len();
    ivs.sort();
    ivs.dedup();
    assert_eq!(ivs.len(), count);
    assert_ne!(chunks[0].chunk_ref().wrapped_key, chunks[1].chunk_ref().wrapped_key);
    assert_ne!(chunks[0].key(), chunks[1].key());
}

#[test]
fn verification_notices_every_difference() {
    let stream = Stream::new(1);
    let batches = run(0, 10, 100);
    let sealed = stream.seal(&batches);
    sealed.verify(&stream.identity(), batches.clone()).unwrap();

    let other = run(1, 10, 100);
    for (what, expected) in [
        ("one less", batches[..9].to_vec()),
        ("one more", [batches.clone(), run(20, 1, 100)].concat()),
        ("others", other),
        ("none", Vec::new()),
    ] {
        assert!(sealed.verify(&stream.identity(), expected).is_err(), "{what}");
    }

    let head_len = usize::try_from(sealed.head_len()).unwrap();
    let (head, total_len) = (sealed.bytes().slice(..head_len), sealed.chunk_ref().total_len);
    sealed.verify_read_back(&head, total_len).unwrap();
    assert!(sealed.verify_read_back(&head, total_len - 1).is_err());
    assert!(sealed.verify_read_back(&head[1..], total_len).is_err());
    let mut changed = head.to_vec();
    changed[head_len - 1] ^= 1;
    assert!(sealed.verify_read_back(&changed, total_len).is_err());
}

#[test]
fn only_a_range_of_one_stream_is_sealed() {
    let stream = Stream::new(1);
    let sealed = |batches: Vec<Batch>| {
        seal(&stream.identity(), batches, &stream.entropy).map(|sealed| sealed.bytes().len())
    };
    assert_eq!(sealed(Vec::new()), Err(SealError::Empty));
    let offset = Offset::new;
    for (found, expected) in [(1, 2), (3, 2), (0, 2)] {
        assert_eq!(
            sealed(vec![batch(0, 5, &["a", "b"]), batch(found, 5, &["c"])]),
            Err(SealError::NotContiguous { expected: offset(expected), found: offset(found) })
        );
    }
    let (older, younger) = (batch(0, 5, &["a"]), batch(1, 4, &["b"]));
    assert_eq!(
        sealed(vec![older, younger]),
        Err(SealError::TimeWentBack { base_offset: offset(1) })
    );
    let good = batch(0, 5, &["a"]);
    let at_the_end = Batch { base_offset: offset(u64::MAX), ..good.clone() };
    for damaged in [
        Batch { records_crc32c: good.records_crc32c ^ 1, ..good.clone() },
        Batch { records: Bytes::from_static(b"\x2a\x03\x0a\x01b"), ..good.clone() },
        Batch { record_count: 0, ..good.clone() },
        at_the_end,
    ] {
        let base_offset = damaged.base_offset;
        assert_eq!(sealed(vec![damaged]), Err(SealError::DamagedBatch { base_offset }));
    }
}

#[test]
fn offsets_and_times_are_found_in_their_frames() {
    let stream = Stream::new(1);
    let batches = run(100, 60, 20_000);
    let sealed = stream.seal(&batches);
    let chunk = open(&stream, sealed.bytes());
    let frames: Vec<_> = chunk.frames().collect();
    let end = frames.len() - 1;

    assert_eq!(chunk.frame_of_offset(Offset::new(99)), None);
    assert_eq!(chunk.frame_of_offset(Offset::new(220)), None);
    assert_eq!(chunk.frame_of_offset(Offset::new(219)), Some(end));
    for (number, frame) in frames.iter().enumerate() {
        let first = frame.first_offset.get();
        assert_eq!(chunk.frame_of_offset(Offset::new(first)), Some(number));
        assert_eq!(chunk.frame_of_offset(Offset::new(first + 1)), Some(number));
        // A batch of just this time may also end the frame before.
        let before = number.saturating_sub(1);
        assert_eq!(chunk.frame_of_time(frame.first_time_ms), Some(before));
        assert_eq!(chunk.frame_of_time(frame.first_time_ms + 1), Some(number));
    }
    assert_eq!(chunk.frame_of_time(0), Some(0));
    assert_eq!(chunk.frame_of_time(1_590), Some(end));
    assert_eq!(chunk.frame_of_time(1_591), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_run_of_batches_comes_back(
        base in 0..u64::MAX / 2,
        appends in prop::collection::vec(
            (0_u64..5, prop::collection::vec(0_usize..3000, 1..40)),
            1..40,
        ),
        seed: u64,
    ) {
        let stream = Stream::new(seed);
        let (mut batches, mut next, mut time) = (Vec::new(), base, 0);
        for (pause, lengths) in &appends {
            time += pause;
            let values: Vec<_> = lengths.iter().map(|&len| {
                let mut value = vec![0; len];
                // Half of it does not shrink.
                stream.entropy.fill(&mut value[..len / 2]);
                value
            }).collect();
            batches.push(batch(next, time, &values));
            next = batches.last().unwrap().next_offset().get();
        }
        let sealed = stream.seal(&batches);
        sealed.verify(&stream.identity(), batches.clone()).unwrap();
        prop_assert_eq!(open(&stream, sealed.bytes()).open_all(sealed.bytes()), Ok(batches));
    }

    #[test]
    fn arbitrary_bytes_are_no_chunk(bytes: Vec<u8>, header in any::<bool>()) {
        let stream = Stream::new(1);
        let bytes = if header { [b"PYRCHNK1\x01\0\xe0\0\0\0\0\0".to_vec(), bytes].concat() } else { bytes };
        prop_assert!(Chunk::open("chunk", &stream.key, &bytes).is_err());
        prop_assert!(outline("chunk", &bytes).is_err());
    }
}
