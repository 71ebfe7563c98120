//! Chunks that were sealed under the right keys by somebody who means harm, or by a bug: refused
//! too, and without allocating what they claim.

use bytes::Bytes;
use pyramid_protocol::{Batch, Offset, Records};

use crate::{
    chunk::{
        Chunk, HEADER_LEN, Header, KIND, PLAIN_BYTES_MAX, content,
        fixture::{Stream, batch},
    },
    frame::{self, Place, forge::Forged},
    keys::ChunkKey,
};

/// Two batches: offsets 7 to 10.
fn batches() -> [Batch; 2] {
    [batch(7, 1_000, &[[b'a'; 200], [b'b'; 200]]), batch(9, 1_001, &[[b'c'; 200]])]
}

fn plain(batches: &[Batch]) -> Vec<u8> {
    let mut plain = Vec::new();
    batches.iter().for_each(|batch| content::encode_to(batch, &mut plain));
    plain
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, 1).unwrap()
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

/// The frame that an honest program would make.
fn honest() -> Forged {
    let plain = plain(&batches());
    Forged {
        first_offset: 7,
        first_time_ms: 1_000,
        batch_count: 2,
        plain_len: len(&plain),
        packed_len: None,
        compressed: true,
        packed: zstd(&plain),
    }
}

fn raw(plain: &[u8]) -> Forged {
    Forged { plain_len: len(plain), compressed: false, packed: plain.to_vec(), ..honest() }
}

fn packed(packed: Vec<u8>, plain_len: u32) -> Forged {
    Forged { plain_len, packed, ..honest() }
}

/// A chunk of these frames, with a header that fits them except for `change`.
fn open(frames: &[Forged], change: impl FnOnce(&mut Header)) -> Result<Vec<Batch>, ()> {
    let stream = Stream::new(1);
    let chunk_key = ChunkKey::random(&stream.entropy);
    let keys = chunk_key.frame_keys(KIND);
    let frame_count = u32::try_from(frames.len()).unwrap();
    let mut header = Header {
        cluster_id: stream.names.cluster_id(),
        epoch: 3,
        stream_id: stream.identity().stream_id,
        base_offset: Offset::new(7),
        next_offset: Offset::new(10),
        batch_count: 2,
        frame_count,
        intent: 5,
        generation: 0,
        first_time_ms: 1_000,
        last_time_ms: 1_001,
        plain_bytes: frames.iter().map(|frame| u64::from(frame.plain_len)).sum(),
        total_len: 0,
        wrapped_key: stream.key.wrap(&chunk_key),
        digest_before: [0; 32],
        digest_after: [0; 32],
    };
    let context = header.frame_context();
    let mut ciphertext = Vec::new();
    let rows: Vec<_> = (0..)
        .zip(frames)
        .map(|(number, frame)| {
            let place = Place { number, context: &context, keys: &keys };
            frame::forge::seal(frame, &place, &mut ciphertext)
        })
        .collect();
    let head_len = frame::head_len(HEADER_LEN, frame_count).unwrap();
    header.total_len = u64::try_from(head_len + ciphertext.len()).unwrap();
    change(&mut header);
    let mut bytes = frame::seal_head(&header.encode(), &rows, &keys);
    bytes.extend_from_slice(&ciphertext);
    Chunk::open("chunk", &stream.key, &bytes)
        .and_then(|chunk| chunk.open_all(&bytes))
        .map_err(|_| ())
}

fn unchanged(_: &mut Header) {}

#[test]
fn the_honest_chunk_opens() {
    assert_eq!(open(&[honest()], unchanged), Ok(batches().to_vec()));
    assert_eq!(open(&[raw(&plain(&batches()))], unchanged), Ok(batches().to_vec()));
}

/// I9: bombs, under a valid MAC.
#[test]
fn a_frame_that_unpacks_to_more_than_its_row_says_is_refused() {
    let bomb = zstd(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100_000, "a bomb is short");
    let frame_len_max = u32::try_from(content::FRAME_LEN_MAX).unwrap();
    for plain_len in [len(&bomb) + 1, frame_len_max, 64 << 20, u32::MAX] {
        let open = open(&[packed(bomb.clone(), plain_len)], unchanged);
        assert_eq!(open, Err(()), "{plain_len}");
    }
}

/// I9: dictionaries, skippable frames and garbage, under a valid MAC.
#[test]
fn only_one_plain_zstd_frame_is_unpacked() {
    let plain = plain(&batches());
    let good = zstd(&plain);
    let skippable = [0x184D_2A50_u32.to_le_bytes(), 4_u32.to_le_bytes(), *b"skip"].concat();

    // The frame header's descriptor names a dictionary of one byte, and the byte follows.
    let mut dictionary = good.clone();
    dictionary[4] |= 1;
    dictionary.insert(5, 7);
    let mut without_size = zstd::bulk::Compressor::new(1).unwrap();
    without_size.include_contentsize(false).unwrap();
    let mut with_checksum_cut = good.clone();
    with_checksum_cut.truncate(good.len() - 1);

    for (what, bytes) in [
        ("a skippable frame before", [&skippable[..], &good].concat()),
        ("a skippable frame behind", [&good[..], &skippable].concat()),
        ("only a skippable frame", skippable),
        ("a dictionary", dictionary),
        ("garbage behind", [&good[..], b"x"].concat()),
        ("an empty frame behind", [&good[..], &zstd(b"")].concat()),
        ("two frames", [zstd(&plain[..100]), zstd(&plain[100..])].concat()),
        ("a cut", with_checksum_cut),
        ("no content size", without_size.compress(&plain).unwrap()),
        ("less than its row says", zstd(&plain[1..])),
        ("no frame", vec![0; 100]),
    ] {
        assert!(len(&bytes) < len(&plain), "{what}: the row must be possible");
        assert_eq!(open(&[packed(bytes, len(&plain))], unchanged), Err(()), "{what}");
    }
}

/// I8.
#[test]
fn rows_that_do_not_fit_their_frame_are_refused() {
    let plain_len = honest().plain_len;
    for frame in [
        Forged { packed_len: Some(u32::MAX), ..honest() },
        Forged { packed_len: Some(len(&honest().packed) - 1), ..honest() },
        Forged { packed_len: Some(len(&honest().packed) + 1), ..honest() },
        Forged { packed_len: Some(0), ..honest() },
        Forged { plain_len: plain_len + 1, ..honest() },
        Forged { plain_len: plain_len - 1, ..honest() },
        Forged { plain_len: u32::MAX, ..honest() },
        Forged { plain_len: 0, ..honest() },
        Forged { compressed: false, ..honest() },
        Forged { compressed: true, ..raw(&plain(&batches())) },
        Forged { batch_count: 1, ..honest() },
        Forged { batch_count: 3, ..honest() },
        Forged { batch_count: 0, ..honest() },
        Forged { batch_count: u32::MAX, ..honest() },
        Forged { first_offset: 6, ..honest() },
        Forged { first_offset: 8, ..honest() },
        Forged { first_time_ms: 999, ..honest() },
        Forged { first_time_ms: 1_001, ..honest() },
    ] {
        // A header that agrees with the row, so that it is the frame which betrays it.
        let agree = |header: &mut Header| {
            header.batch_count = frame.batch_count;
            header.base_offset = Offset::new(frame.first_offset);
            header.first_time_ms = frame.first_time_ms;
        };
        assert_eq!(open(std::slice::from_ref(&frame), agree), Err(()), "{frame:?}");
        assert_eq!(open(std::slice::from_ref(&frame), unchanged), Err(()), "{frame:?}");
    }
}

/// I8, under a valid MAC.
#[test]
fn headers_that_do_not_fit_their_table_are_refused() {
    let frame_len_max = u64::try_from(content::FRAME_LEN_MAX).unwrap();
    type Change = fn(&mut Header);
    let changes: [(&str, Change); 13] = [
        ("batches", |header| header.batch_count += 1),
        ("no batches", |header| header.batch_count = 0),
        ("all frames there can be", |header| header.frame_count = u32::MAX),
        ("one frame more", |header| header.frame_count = 2),
        ("no frame", |header| header.frame_count = 0),
        ("plain bytes", |header| header.plain_bytes += 1),
        ("too many plain bytes", |header| header.plain_bytes = PLAIN_BYTES_MAX + 1),
        ("all bytes there can be", |header| header.total_len = u64::MAX),
        ("a byte less", |header| header.total_len -= 1),
        ("a later end", |header| header.next_offset = Offset::new(11)),
        ("an earlier end", |header| header.next_offset = Offset::new(9)),
        ("no records", |header| header.next_offset = header.base_offset),
        ("another time", |header| header.last_time_ms = 1_002),
    ];
    for (what, change) in changes {
        assert_eq!(open(&[honest()], change), Err(()), "{what}");
    }
    assert!(frame_len_max < PLAIN_BYTES_MAX);
}

/// I8: counts, lengths and offsets at their largest, in objects that end behind the header. All are
/// refused before a table of their size is read, by each way to open a chunk.
#[test]
fn a_header_that_claims_more_than_the_object_has_is_refused() {
    let stream = Stream::new(1);
    let sealed = stream.seal(&batches());
    let good = sealed.bytes();
    assert!(Chunk::open("chunk", &stream.key, good).is_ok(), "the control");
    let most_frames = crate::chunk::FRAMES_MAX.to_le_bytes();
    for (what, at, value) in [
        ("base offset", 48, &[0xff; 8][..]),
        ("next offset", 56, &[0xff; 8]),
        ("batches", 64, &[0xff; 4]),
        ("frames", 68, &[0xff; 4]),
        ("batches and frames", 64, &[0xff; 8]),
        ("as many frames as there may be", 68, &most_frames),
        ("plain bytes", 104, &[0xff; 8]),
        ("length", 112, &[0xff; 8]),
        ("frames, lengths and all between", 64, &[0xff; 56]),
    ] {
        let mut changed = good.to_vec();
        changed[at..at + value.len()].copy_from_slice(value);
        for bytes in [&changed[..], &changed[..HEADER_LEN]] {
            assert!(Chunk::open("chunk", &stream.key, bytes).is_err(), "{what}");
        }
    }
}

#[test]
fn content_that_is_no_run_of_batches_is_refused() {
    let [first, second] = batches();
    let good = plain(&batches());
    let damaged = Batch { records_crc32c: second.records_crc32c ^ 1, ..second.clone() };
    let gap = Batch { base_offset: Offset::new(10), ..second.clone() };
    let overlap = Batch { base_offset: Offset::new(8), ..second.clone() };
    let older = Batch { append_time_ms: 999, ..second.clone() };
    let younger = Batch { append_time_ms: 1_002, ..second.clone() };
    let empty =
        Batch { record_count: 0, records: Bytes::new(), records_crc32c: 0, ..second.clone() };
    for (what, content) in [
        ("a wrong checksum", plain(&[first.clone(), damaged])),
        ("a gap", plain(&[first.clone(), gap])),
        ("an overlap", plain(&[first.clone(), overlap])),
        ("the wrong order", plain(&[second.clone(), first.clone()])),
        ("a time before", plain(&[first.clone(), older])),
        ("a time behind", plain(&[first.clone(), younger])),
        ("no records", plain(&[first.clone(), empty])),
        ("a batch less", plain(std::slice::from_ref(&first))),
        ("another field", [&[0x12, 0x00][..], &good].concat()),
        ("garbage behind", [&good[..], &[0x0a]].concat()),
        ("a length behind the end", [&good[..], &[0x0a, 0x7f]].concat()),
        ("the largest length", [&[0x0a; 1][..], &[0xff; 9], &[0x01], &good].concat()),
        ("an endless length", [&[0x0a; 1][..], &[0xff; 20], &good].concat()),
        ("an empty batch", [&[0x0a, 0x00][..], &good].concat()),
        ("no message", vec![0xff; 50]),
    ] {
        assert_eq!(open(&[raw(&content)], unchanged), Err(()), "{what}");
    }
}

#[test]
fn times_that_go_back_within_a_frame_are_refused() {
    let run = |middle| {
        let batches = [
            batch(7, 1_000, &["first"]),
            batch(8, middle, &["second"]),
            batch(9, 1_001, &["third"]),
        ];
        let frame = Forged { batch_count: 3, ..raw(&plain(&batches)) };
        open(&[frame], |header| header.batch_count = 3).map(|opened| opened == batches)
    };
    assert_eq!([run(1_000), run(1_001)], [Ok(true), Ok(true)]);
    assert_eq!([run(999), run(1_002)], [Err(()), Err(())]);
}

/// I3, under a valid MAC: what order and places alone show.
#[test]
fn two_frames_that_do_not_meet_are_refused() {
    let [first, second] = batches();
    let frame = |batch: &Batch| {
        let plain = plain(std::slice::from_ref(batch));
        Forged {
            first_offset: batch.base_offset.get(),
            first_time_ms: batch.append_time_ms,
            batch_count: 1,
            ..raw(&plain)
        }
    };
    assert_eq!(open(&[frame(&first), frame(&second)], unchanged), Ok(batches().to_vec()));
    let moved = |base| Batch { base_offset: Offset::new(base), ..second.clone() };
    let late = Batch { append_time_ms: 1_002, ..first.clone() };
    for (what, frames) in [
        ("a gap", [frame(&first), frame(&moved(10))]),
        ("an overlap", [frame(&first), frame(&moved(8))]),
        ("the same frame twice", [frame(&first), frame(&first)]),
        ("the wrong order", [frame(&second), frame(&first)]),
        ("a row that lies", [frame(&first), Forged { first_offset: 8, ..frame(&second) }]),
        ("times that go back", [Forged { first_time_ms: 1_000, ..frame(&late) }, frame(&second)]),
    ] {
        assert_eq!(open(&frames, unchanged), Err(()), "{what}");
    }
}

#[test]
fn the_longest_append_fits_one_frame() {
    let stream = Stream::new(1);
    let value = vec![b'x'; (1 << 20) - 8];
    let records = [&value, &value].map(|value| pyramid_protocol::pb::v1::Record {
        value: Bytes::copy_from_slice(value),
        headers: Vec::new(),
    });
    let records = Records::encode(&records).unwrap();
    let batch = Batch::new(Offset::new(0), 1, &records);
    assert!(batch.encoded_len() > content::BATCH_LEN_MAX - 100);
    let sealed = stream.seal(std::slice::from_ref(&batch));
    sealed.verify(&stream.identity(), [batch]).unwrap();
}
