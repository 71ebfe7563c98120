use proptest::{prelude::*, sample::Index};

use super::*;

fn ids() -> impl Strategy<Value = LogId> {
    (any::<u64>(), 0..u64::MAX).prop_map(|(term, index)| LogId { term, index })
}

fn votes() -> impl Strategy<Value = Vote> {
    (any::<u64>(), 0..u64::MAX, any::<bool>()).prop_map(|(term, node_id, committed)| Vote {
        term,
        node_id,
        committed,
    })
}

fn purges() -> impl Strategy<Value = Purged> {
    (ids(), any::<u64>()).prop_map(|(upto, complete_at)| Purged { upto, complete_at })
}

fn heads() -> impl Strategy<Value = SegmentHead> {
    let identity = any::<([u8; 16], u64, [u8; 16], [u8; 16])>();
    let marks = (
        prop::option::of(votes()),
        prop::option::of(ids()),
        prop::option::of(purges()),
        prop::option::of(0..u64::MAX),
    );
    (identity, marks, any::<u32>()).prop_map(|(identity, marks, open_count)| {
        let (cluster_id, node_id, disk_id, wal_id) = identity;
        let (vote, committed, purged, opened_at) = marks;
        let identity = Identity { cluster_id, node_id, disk_id, wal_id };
        SegmentHead { identity, vote, committed, purged, opened_at, open_count }
    })
}

pub(crate) fn frames() -> impl Strategy<Value = Frame> {
    prop_oneof![
        4 => (ids(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(id, payload)| Frame::Entry(LogEntry { id, payload: payload.into() })),
        1 => votes().prop_map(Frame::Vote),
        1 => ids().prop_map(Frame::Committed),
        1 => prop::option::of(ids()).prop_map(Frame::TruncateAfter),
        1 => purges().prop_map(Frame::Purged),
        1 => heads().prop_map(Frame::SegmentHead),
        1 => Just(Frame::Idle),
    ]
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

/// Header and payload, without the zeros behind it.
fn checked_len(bytes: &[u8]) -> usize {
    HEADER_LEN + usize::try_from(u32::from_le_bytes(bytes[4..8].try_into().unwrap())).unwrap()
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(frame in frames(), rest: Vec<u8>) {
        let mut bytes = encoded(&frame);
        prop_assert_eq!(bytes.len(), frame.encoded_len());
        bytes.extend_from_slice(&rest);
        let mut bytes = Bytes::from(bytes);
        prop_assert_eq!(Frame::decode(&mut bytes), Ok(frame));
        prop_assert_eq!(bytes.as_ref(), rest.as_slice());
    }

    #[test]
    fn a_cut_is_noticed(frame in frames(), cut: Index) {
        let bytes = encoded(&frame);
        let mut cut = Bytes::copy_from_slice(&bytes[..cut.index(bytes.len())]);
        prop_assert_eq!(Frame::decode(&mut cut), Err(Bad::Incomplete));
    }

    #[test]
    fn a_flipped_bit_is_noticed(frame in frames(), bit: Index) {
        let mut bytes = encoded(&frame);
        let bit = bit.index(checked_len(&bytes) * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let decoded = Frame::decode(&mut bytes.into());
        prop_assert!(matches!(decoded, Err(Bad::Incomplete | Bad::Damaged)), "{:?}", decoded);
    }

    #[test]
    fn any_bytes_are_decoded_without_a_panic(bytes: Vec<u8>) {
        let decoded = Frame::decode(&mut bytes.into());
        prop_assert!(decoded.is_err());
    }
}

#[test]
fn an_unknown_type_or_flag_is_unknown_and_not_damaged() {
    for (at, value) in [(0, 0), (0, 8), (1, 1), (2, 1), (3, 1)] {
        let mut bytes = encoded(&Frame::Idle);
        bytes[at] = value;
        bytes[CRC_AT].fill(0);
        let crc = crc32c::crc32c(&bytes);
        bytes[CRC_AT].copy_from_slice(&crc.to_le_bytes());
        let kind = bytes[0];
        assert_eq!(Frame::decode(&mut bytes.into()), Err(Bad::Unknown { kind }), "byte {at}");
    }
}

#[test]
fn the_first_entry_of_raft_is_not_none() {
    let first = LogId { term: 0, index: 0 };
    for frame in [
        Frame::Entry(LogEntry { id: first, payload: Bytes::new() }),
        Frame::TruncateAfter(Some(first)),
        Frame::Committed(first),
    ] {
        assert_eq!(Frame::decode(&mut encoded(&frame).into()), Ok(frame));
    }
}
