use proptest::prelude::*;
use pyramid_protocol::Records;
use pyramid_protocol::limits::APPEND_BYTES_MAX;
use pyramid_protocol::pb::v1::Record;
use stored::command::Command;

use super::*;

const STAMP: Stamp = Stamp { term: 7, number: 3, time_ms: 1_700_000_000_123 };

fn id(id: u64) -> StreamId {
    StreamId::new(id).unwrap()
}

fn records(values: &[&[u8]]) -> Records {
    let record = |value: &&[u8]| Record { value: Bytes::copy_from_slice(value), headers: vec![] };
    Records::encode(&values.iter().map(record).collect::<Vec<_>>()).unwrap()
}

/// One record whose append has `len` bytes.
fn records_of_len(len: usize) -> Records {
    let empty = records(&[&vec![0; len]]).bytes().len() - len;
    let records = records(&[&vec![0; len - empty]]);
    assert_eq!(records.bytes().len(), len);
    records
}

/// The batch of the golden file.
fn batch() -> Bytes {
    let mut builder = BatchBuilder::default();
    let one = records(&[b"one"]);
    assert_eq!(builder.push(id(0x11_2233_4455), 4, None, None, &one), Ok(0));
    let expectation = Expectation::new(2, Offset::new(99));
    let producer = Producer::new(77, 5, 1000);
    let two = records(&[b"two", b"three"]);
    assert_eq!(builder.push(id(ID_MAX), 1, expectation, producer, &two), Ok(1));
    assert_eq!((builder.len(), builder.is_empty()), (2, false));
    let len = builder.encoded_len();
    let payload = builder.finish(STAMP).unwrap();
    assert_eq!(payload.len(), len);
    assert_eq!(builder.finish(STAMP), None);
    payload
}

fn control() -> Entry {
    Entry::Control {
        stamp: Stamp { term: 7, number: 4, time_ms: 1_700_000_000_124 },
        command: Command::SetClosed(stored::SetClosed { stream_id: 5, closed: true }),
    }
}

fn membership() -> Entry {
    let disk_id = Bytes::from_iter(0..16);
    Entry::Membership(stored::Membership {
        configurations: vec![stored::Voters { node_ids: vec![1] }],
        nodes: vec![stored::Node { id: 1, host: "host".into(), disk_id }],
    })
}

fn samples() -> [Bytes; 4] {
    [batch(), control().encode(), Entry::Blank.encode(), membership().encode()]
}

/// The files were made by another program from the layout in formats.md.
#[test]
fn entries_have_the_bytes_of_the_golden_files() {
    let golden: [&[u8]; 4] = [
        include_bytes!("../../tests/golden/entry_batch_v1.bin"),
        include_bytes!("../../tests/golden/entry_control_v1.bin"),
        include_bytes!("../../tests/golden/entry_blank_v1.bin"),
        include_bytes!("../../tests/golden/entry_membership_v1.bin"),
    ];
    for (entry, golden) in samples().iter().zip(golden) {
        assert_eq!(entry, golden);
    }
}

#[test]
fn what_is_encoded_is_decoded() {
    for payload in samples() {
        assert_eq!(Entry::decode(&payload).unwrap().encode(), payload);
    }
    assert_eq!(Entry::decode(&control().encode()), Ok(control()));
    assert_eq!(Entry::decode(&membership().encode()), Ok(membership()));
    assert_eq!(Entry::decode(&Entry::Blank.encode()), Ok(Entry::Blank));
}

#[test]
fn records_are_slices_of_the_payload() {
    let payload = batch();
    let Entry::Batch { stamp, ops, data } = Entry::decode(&payload).unwrap() else {
        panic!("not a batch");
    };
    assert_eq!(stamp, STAMP);
    let expected = [records(&[b"one"]), records(&[b"two", b"three"])];
    for ((place, op), expected) in (0..).zip(&ops).zip(&expected) {
        assert_eq!(op.records(&data).unwrap(), expected.bytes());
        let stored = stored_append(&payload, place).unwrap();
        assert_eq!(stored, StoredAppend { op: *op, records: expected.bytes().clone() });
        assert_eq!(op.records_crc32c, crc32c::crc32c(&stored.records));
        assert!(payload.as_ptr_range().contains(&stored.records.as_ptr()), "copied");
    }
    assert_eq!(stored_append(&payload, 2), Err(malformed("no such append")));
    assert_eq!(stored_append(&Entry::Blank.encode(), 0), Err(malformed("not a batch of appends")));
}

#[test]
fn a_cut_entry_is_never_read_as_the_whole_one() {
    for payload in samples() {
        for len in 0..payload.len() {
            let decoded = Entry::decode(&payload.slice(..len));
            // A protobuf list may end early; the frame's length and checksum guard that.
            if let Ok(decoded) = decoded {
                assert_ne!(decoded, Entry::decode(&payload).unwrap(), "cut at {len}");
                assert_eq!(decoded.encode(), payload.slice(..len), "cut at {len}");
            }
        }
        for len in 0..payload.len() {
            if stored_append(&payload.slice(..len), 0).is_ok() {
                panic!("took an append from an entry cut at {len}");
            }
        }
    }
}

#[test]
fn a_changed_byte_is_never_read_as_the_same_entry() {
    for payload in samples() {
        let whole = Entry::decode(&payload).unwrap();
        for pos in 0..payload.len() {
            for bit in 0..8 {
                let mut bytes = payload.to_vec();
                bytes[pos] ^= 1 << bit;
                if let Ok(decoded) = Entry::decode(&bytes.into()) {
                    assert_ne!(decoded, whole, "bit {bit} of byte {pos}");
                }
            }
        }
    }
}

#[test]
fn what_this_program_does_not_know_stops_it() {
    let change = |payload: &Bytes, pos: usize, to: u8| {
        let mut bytes = payload.to_vec();
        bytes[pos] = to;
        Entry::decode(&bytes.into())
    };
    for payload in samples() {
        for kind in [0, 5, 255] {
            let found = kind.into();
            assert_eq!(
                change(&payload, 0, kind),
                Err(Error::Unknown { what: "kind", found, known: 4 })
            );
        }
        for version in [0, 2] {
            let found = version.into();
            assert_eq!(
                change(&payload, 2, version),
                Err(Error::Unknown { what: "version", found, known: 1 })
            );
        }
        assert_eq!(change(&payload, 4, 1), Err(malformed("bytes kept for later are not zero")));
    }
    let unknown = Err(Error::UnknownPart { what: "stored.v1.Command" });
    let encoded = control().encode();
    // The member 4 becomes member 15 + 16: one that is kept for later. And no member at all.
    let mut later = encoded.to_vec();
    later.splice(32..33, [0xfa, 0x01]);
    assert_eq!(Entry::decode(&later.into()), unknown);
    assert_eq!(Entry::decode(&encoded.slice(..32)), unknown);
    // A field that SetClosed does not have (yet): 3.
    assert_eq!(change(&encoded, 36, 0x18), unknown);
}

#[test]
fn a_feature_level_that_is_not_known_stops_the_replica() {
    let entry = |level| Entry::Control {
        stamp: STAMP,
        command: Command::SetFeatureLevel(stored::SetFeatureLevel { level }),
    };
    let known = entry(FEATURE_LEVEL_MAX);
    assert_eq!(Entry::decode(&known.encode()), Ok(known));
    let next = FEATURE_LEVEL_MAX + 1;
    assert_eq!(
        Entry::decode(&entry(next).encode()),
        Err(Error::Unknown { what: "feature level", found: next, known: FEATURE_LEVEL_MAX })
    );
}

#[test]
fn rows_that_contradict_themselves_are_refused() {
    let payload = batch();
    let first = BATCH_HEADER_LEN;
    let cases: [(usize, u8, &'static str); 9] = [
        (32, 0, "number of appends"),
        (32, 1, "length"),
        (first + 8 - 1, 0xff, "stream id out of range"),
        (first + 12, 1, "epoch of an expectation that is not there"),
        (first + 32, 1, "sequence of a producer that is not there"),
        (first + 36, 1, "bytes kept for later are not zero"),
        (first + 48, 0, "append without a record"),
        (first + OP_LEN + 56, 1, "gap between the records of two appends"),
        (first + OP_LEN + 60, 1, "appends do not fill the data"),
    ];
    for (pos, to, what) in cases {
        let mut bytes = payload.to_vec();
        bytes[pos] = to;
        assert_eq!(Entry::decode(&bytes.into()), Err(malformed(what)), "byte {pos}");
    }
}

#[test]
fn an_entry_takes_1_mib_and_not_a_byte_more() {
    let room = ENTRY_BYTES_MAX - BATCH_HEADER_LEN - 2 * OP_LEN;
    let half = records_of_len(room / 2);
    for (more, fits) in [(0, true), (1, false)] {
        let mut builder = BatchBuilder::default();
        builder.push(id(1), 1, None, None, &half).unwrap();
        let before = builder.encoded_len();
        let pushed = builder.push(id(1), 1, None, None, &records_of_len(room - room / 2 + more));
        assert_eq!(pushed.is_ok(), fits);
        if fits {
            assert_eq!(builder.encoded_len(), ENTRY_BYTES_MAX);
        } else {
            assert_eq!((builder.len(), builder.encoded_len()), (1, before));
        }
    }
}

#[test]
fn a_larger_append_has_an_entry_alone() {
    let half = vec![0; 1024 * 1024 - 64];
    let large = records(&[&half, &half]);
    assert!(large.bytes().len() > ENTRY_BYTES_MAX && large.bytes().len() <= APPEND_BYTES_MAX);
    let small = records(&[b"small"]);
    let mut builder = BatchBuilder::default();
    assert_eq!(builder.push(id(1), 1, None, None, &large), Ok(0));
    assert_eq!(builder.push(id(1), 1, None, None, &small), Err(Full));
    let payload = builder.finish(STAMP).unwrap();
    assert_eq!(stored_append(&payload, 0).unwrap().records, large.bytes());
    assert_eq!(builder.push(id(1), 1, None, None, &small), Ok(0));
    assert_eq!(builder.push(id(1), 1, None, None, &large), Err(Full));
}

#[test]
fn an_entry_takes_4096_appends() {
    let small = records(&[b"x"]);
    let mut builder = BatchBuilder::default();
    for place in 0..4096 {
        assert_eq!(builder.push(id(1), 1, None, None, &small), Ok(place));
    }
    assert_eq!(builder.push(id(1), 1, None, None, &small), Err(Full));
    let payload = builder.finish(STAMP).unwrap();
    assert_eq!(stored_append(&payload, 4095).unwrap().records, small.bytes());
    assert_eq!(Entry::decode(&payload).unwrap().encode(), payload);
}

#[test]
fn nothing_that_means_none_can_be_said_by_a_value() {
    assert_eq!(Expectation::new(0, Offset::new(u64::MAX)), None);
    assert!(Expectation::new(u32::MAX, Offset::new(u64::MAX - 1)).is_some());
    assert_eq!(Producer::new(0, 0, 0), None);
    assert_eq!(Producer::new(ID_MAX + 1, 0, 0), None);
    assert!(Producer::new(1, 0, 0).is_some() && Producer::new(ID_MAX, 0, 0).is_some());
}

proptest! {
    #[test]
    fn every_append_comes_back(
        appends in prop::collection::vec(
            (
                1..=ID_MAX,
                any::<u32>(),
                prop::option::of((any::<u32>(), 0..u64::MAX)),
                prop::option::of((1..=ID_MAX, any::<u32>(), any::<u64>())),
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
            ),
            1..20,
        ),
    ) {
        let mut builder = BatchBuilder::default();
        let mut expected = Vec::new();
        for (stream_id, revision, expectation, producer, values) in &appends {
            let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            let records = records(&values);
            let expectation = expectation
                .and_then(|(epoch, offset)| Expectation::new(epoch, Offset::new(offset)));
            let producer = producer.and_then(|(id, epoch, first)| Producer::new(id, epoch, first));
            builder.push(id(*stream_id), *revision, expectation, producer, &records).unwrap();
            expected.push((id(*stream_id), *revision, expectation, producer, records));
        }
        let payload = builder.finish(STAMP).unwrap();
        let Entry::Batch { ops, data, .. } = Entry::decode(&payload).unwrap() else {
            panic!("not a batch");
        };
        prop_assert_eq!(ops.len(), expected.len());
        for (op, (stream_id, revision, expectation, producer, records)) in ops.iter().zip(expected) {
            prop_assert_eq!(op.stream_id, stream_id);
            prop_assert_eq!(op.stream_revision, revision);
            prop_assert_eq!(op.expectation, expectation);
            prop_assert_eq!(op.producer, producer);
            prop_assert_eq!(op.record_count, records.count());
            prop_assert_eq!(op.records_crc32c, records.crc32c());
            prop_assert_eq!(&op.records(&data).unwrap(), records.bytes());
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(mut bytes: Vec<u8>, kind in 1..=4_u8) {
        if bytes.len() >= 8 {
            bytes[..8].copy_from_slice(&[kind, 0, 1, 0, 0, 0, 0, 0]);
        }
        let payload = Bytes::from(bytes);
        if let Ok(entry) = Entry::decode(&payload) {
            prop_assert_eq!(entry.encode(), payload.clone());
        }
        if let Ok(stored) = stored_append(&payload, 0) {
            prop_assert!(stored.records.len() <= payload.len());
        }
    }
}
