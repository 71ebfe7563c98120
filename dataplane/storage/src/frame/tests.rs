use aes::{
    Aes256,
    cipher::{BlockModeEncrypt, KeyIvInit, block_padding::NoPadding},
};
use hmac::Mac;
use pyramid_protocol::SeededEntropy;

use super::{
    Bad, Compressor, Decompressor, Place, Plain, ROW_LEN, Row, TARGET_LEN, open, seal, tag,
};
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

/// I3, I5.
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

/// I8.
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

/// Encrypts whole blocks as they are, under a valid tag: what only a holder of the keys can do.
fn sealed_blocks(blocks: &[u8], packed_len: u32, place: &Place<'_>) -> (Row, Vec<u8>) {
    let plain = Plain { bytes: vec![0; 15], ..Plain::default() };
    let (mut row, _) = sealed(&plain, place);
    row.packed_len = packed_len;
    row.plain_len = packed_len;
    row.compressed = false;
    let mut ciphertext = blocks.to_vec();
    cbc::Encryptor::<Aes256>::new(place.keys.encryption().into(), &row.iv.into())
        .encrypt_padded::<NoPadding>(&mut ciphertext, blocks.len())
        .unwrap();
    row.tag = tag(&row, place, &ciphertext).finalize().into_bytes().into();
    (row, ciphertext)
}

/// I7: of the 256 last bytes that a block can have, the one that is right padding for the length of
/// the row opens, and all others are the same error, in one and in two blocks.
#[test]
fn padding_that_is_not_that_of_the_length_is_one_and_the_same_error() {
    let keys = keys(1);
    let place = Place { number: 0, context: b"here", keys: &keys };
    for (content_len, right) in [(15, 1), (11, 5), (0, 16), (16 + 3, 13)] {
        let blocks_len = (content_len / 16 + 1) * 16;
        for last in 0..=u8::MAX {
            // Filled with the right padding, then with the last byte in question.
            let mut blocks = vec![0xaa; content_len];
            blocks.resize(blocks_len, right);
            blocks[blocks_len - 1] = last;
            let packed_len = u32::try_from(content_len).unwrap();
            let (row, ciphertext) = sealed_blocks(&blocks, packed_len, &place);
            let opened = open(&row, &place, &ciphertext, &mut Decompressor::default());
            let expected = if last == right { Ok(vec![0xaa; content_len]) } else { Err(Bad) };
            assert_eq!(opened, expected, "{content_len} bytes, last byte {last}");
        }
        // Padding that is whole, but for another length.
        for other in (1..=16).filter(|&other| other != right) {
            let mut blocks = vec![0xaa; blocks_len - usize::from(other)];
            blocks.resize(blocks_len, other);
            let packed_len = u32::try_from(content_len).unwrap();
            let (row, ciphertext) = sealed_blocks(&blocks, packed_len, &place);
            let opened = open(&row, &place, &ciphertext, &mut Decompressor::default());
            assert_eq!(opened, Err(Bad), "{content_len} bytes, padding {other}");
        }
    }
}

/// I7: without the keys, a changed IV or block is that error too, before anything is decrypted.
#[test]
fn a_changed_iv_or_block_is_the_same_error() {
    let keys = keys(1);
    let place = Place { number: 0, context: b"here", keys: &keys };
    let plain = Plain { bytes: vec![b'x'; 64], ..Plain::default() };
    let (row, ciphertext) = sealed(&plain, &place);
    let open =
        |row: &Row, ciphertext: &[u8]| open(row, &place, ciphertext, &mut Decompressor::default());
    assert_eq!(open(&row, &ciphertext), Ok(plain.bytes));
    for at in 0..16 {
        let mut changed = row.clone();
        changed.iv[at] ^= 1;
        assert_eq!(open(&changed, &ciphertext), Err(Bad), "IV {at}");
    }
    for at in 0..ciphertext.len() {
        let mut changed = ciphertext.clone();
        changed[at] ^= 1;
        assert_eq!(open(&row, &changed), Err(Bad), "ciphertext {at}");
    }
}
