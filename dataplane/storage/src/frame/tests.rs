use pyramid_protocol::SeededEntropy;

use super::{Bad, Compressor, Decompressor, Place, Plain, ROW_LEN, Row, TARGET_LEN, open, seal};
use crate::keys::{ChunkKey, FrameKeys};

fn keys(seed: u64) -> FrameKeys {
    ChunkKey::random(&SeededEntropy::new(seed)).frame_keys("chunk")
}

fn sealed(plain: &Plain, place: &Place<'_>) -> (Row, Vec<u8>) {
    let mut ciphertext = Vec::new();
    let entropy = SeededEntropy::new(9);
    let row = seal(plain, place, &mut Compressor::new(), &entropy, &mut ciphertext);
    (row, ciphertext)
}

#[test]
fn frames_of_all_lengths_around_a_block_open_as_they_were() {
    let keys = keys(1);
    let place = Place { number: 0, context: b"here", keys: &keys };
    for len in (1..=65).chain([TARGET_LEN - 1, TARGET_LEN, TARGET_LEN + 1]) {
        for fill in [true, false] {
            let mut bytes = vec![0; len];
            if fill {
                pyramid_protocol::Entropy::fill(&SeededEntropy::new(2), &mut bytes);
            }
            let plain = Plain { bytes, ..Plain::default() };
            let (row, ciphertext) = sealed(&plain, &place);
            assert_eq!(u64::try_from(ciphertext.len()), Ok(row.cipher_len()), "length {len}");
            let opened = open(&row, &place, &ciphertext, &mut Decompressor::default());
            assert_eq!(opened, Ok(plain.bytes), "length {len}");
        }
    }
}

#[test]
fn a_frame_opens_in_its_own_place_only() {
    let (keys, other) = (keys(1), keys(2));
    let mixed = FrameKeys::from_slices(other.encryption(), keys.mac()).unwrap();
    let place = Place { number: 3, context: b"here", keys: &keys };
    let plain = Plain { bytes: b"secret".to_vec(), ..Plain::default() };
    let (row, ciphertext) = sealed(&plain, &place);
    for elsewhere in [
        Place { number: 2, ..place },
        Place { number: 4, ..place },
        Place { context: b"there", ..place },
        Place { context: b"", ..place },
        Place { keys: &other, ..place },
    ] {
        let opened = open(&row, &elsewhere, &ciphertext, &mut Decompressor::default());
        assert_eq!(opened, Err(Bad), "{elsewhere:?}");
    }
    // With the right tag and the wrong cipher key, what comes out is not the secret.
    let wrong = Place { keys: &mixed, ..place };
    assert_ne!(open(&row, &wrong, &ciphertext, &mut Decompressor::default()), Ok(plain.bytes));
}

#[test]
fn a_row_is_read_as_it_is_written_and_impossible_ones_are_refused() {
    let keys = keys(1);
    let place = Place { number: 0, context: b"here", keys: &keys };
    let plain = Plain { bytes: vec![0; 1000], first_offset: 5, first_time_ms: 6, batch_count: 7 };
    let (row, _) = sealed(&plain, &place);
    let encode = |row: &Row| {
        let mut bytes = Vec::new();
        row.encode_to(&mut bytes);
        bytes
    };
    let bytes = encode(&row);
    assert_eq!(bytes.len(), ROW_LEN);
    assert_eq!(Row::decode(&bytes, 1000), Ok(row.clone()));
    assert_eq!(Row::decode(&bytes, 999), Err(Bad));
    for impossible in [
        Row { plain_len: u32::MAX, ..row.clone() },
        Row { packed_len: u32::MAX, ..row.clone() },
        Row { packed_len: 0, ..row.clone() },
        Row { packed_len: 1000, ..row.clone() },
        Row { compressed: false, ..row.clone() },
        Row { compressed: false, packed_len: 0, plain_len: 0, ..row.clone() },
    ] {
        assert_eq!(Row::decode(&encode(&impossible), 1000), Err(Bad), "{impossible:?}");
    }
    let mut unknown_flag = bytes.clone();
    unknown_flag[28] |= 2;
    assert_eq!(Row::decode(&unknown_flag, 1000), Err(Bad));
    assert_eq!(Row::decode(&bytes[1..], 1000), Err(Bad));
}
