use proptest::{prelude::*, sample::Index};

use super::*;
use crate::wal::frame::tests::frames;

const SEED: u32 = 0xfeed;

fn place(lsn: u64) -> Place {
    Place { lsn, prev_header_crc: 77, open_count: 3, term: 9, is_first: true, is_idle: false }
}

fn encoded(frames: &[Frame]) -> (Vec<u8>, Checked) {
    let mut bytes = vec![9; 10_000];
    let checked = encode(place(8192), SEED, frames.iter(), &mut bytes);
    (bytes, checked)
}

fn body(bytes: &[u8], header: &Header) -> Bytes {
    let end = HEADER_LEN + usize::try_from(header.body_len).unwrap();
    Bytes::copy_from_slice(&bytes[HEADER_LEN..end])
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(frames in prop::collection::vec(frames(), 0..20)) {
        let (bytes, checked) = encoded(&frames);
        prop_assert_eq!(bytes.len() % ALIGN, 0);
        prop_assert_eq!(u64::try_from(bytes.len()).unwrap(), checked.header.block_len());
        prop_assert_eq!(Header::decode(&bytes, SEED, 8192), Some(checked));
        prop_assert_eq!(decode_body(&checked.header, body(&bytes, &checked.header)), Ok(frames));
    }

    #[test]
    fn a_flipped_bit_of_the_header_is_noticed(bit in 0..HEADER_LEN * 8) {
        let (mut bytes, _) = encoded(&[Frame::Idle]);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(Header::decode(&bytes, SEED, 8192), None);
    }

    #[test]
    fn frames_of_another_block_are_noticed(
        frames in prop::collection::vec(frames(), 1..5),
        others in prop::collection::vec(frames(), 1..5),
    ) {
        prop_assume!(frames != others);
        let (_, checked) = encoded(&frames);
        let (bytes, other) = encoded(&others);
        prop_assert!(decode_body(&checked.header, body(&bytes, &other.header)).is_err());
    }

    #[test]
    fn a_cut_body_is_noticed(frames in prop::collection::vec(frames(), 1..5), cut: Index) {
        let (bytes, checked) = encoded(&frames);
        let body = body(&bytes, &checked.header);
        let cut = body.slice(..cut.index(body.len()));
        prop_assert!(decode_body(&checked.header, cut).is_err());
    }
}

#[test]
fn a_header_counts_only_in_its_place_and_its_log() {
    let (bytes, checked) = encoded(&[Frame::Idle]);
    assert_eq!(Header::decode(&bytes, SEED, 8192), Some(checked));
    assert_eq!(Header::decode(&bytes, SEED, 4096), None);
    assert_eq!(Header::decode(&bytes, SEED + 1, 8192), None);
    assert_eq!(Header::decode(&bytes[..63], SEED, 8192), None);
}

#[test]
fn a_block_grows_by_whole_pages() {
    for (body_len, expected) in [(0, 4096), (4032, 4096), (4033, 8192), (8128, 8192)] {
        assert_eq!(block_len(body_len), expected, "body of {body_len}");
    }
}
