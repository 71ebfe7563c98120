use pyramid_protocol::{Entropy, SeededEntropy};

use super::{HEADER_LEN, Kind, Name, OpenError, open, seal};
use crate::{cluster_id::ClusterId, keys::Keks};

const NAME: Name =
    Name { kind: Kind::StreamKey, cluster_id: ClusterId::new([0xc1; 16]), ident: [77, 0] };

fn keks() -> Keks {
    Keks::parse(&Keks::generate("k1", &SeededEntropy::new(9))).unwrap()
}

fn sealed(name: &Name, content: &[u8]) -> Vec<u8> {
    seal(name, content, &keks(), &SeededEntropy::new(1)).unwrap().to_vec()
}

#[test]
fn content_of_any_length_comes_back() {
    let snapshot = Name { kind: Kind::Snapshot, ident: [5, 2], ..NAME };
    for len in [1, 15, 16, 17, 262_143, 262_144, 262_145, 1_000_000] {
        for random in [true, false] {
            let mut content = vec![0; len];
            if random {
                SeededEntropy::new(3).fill(&mut content);
            }
            let object = sealed(&snapshot, &content);
            assert_eq!(open(&snapshot, &object, &keks()).unwrap().as_slice(), content, "{len}");
        }
    }
}

#[test]
fn content_without_or_above_the_limit_is_not_sealed() {
    let seal = |content: &[u8]| seal(&NAME, content, &keks(), &SeededEntropy::new(1)).is_some();
    assert!(!seal(b""));
    assert!(seal(&vec![0; 64 << 10]));
    assert!(!seal(&vec![0; (64 << 10) + 1]));
}

/// I1, I2.
#[test]
fn each_flipped_bit_each_cut_and_each_appendix_is_noticed() {
    let object = sealed(&NAME, b"what nobody may change");
    for bit in 0..object.len() * 8 {
        let mut changed = object.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&NAME, &changed, &keks()).is_err(), "bit {bit}");
    }
    for len in 0..object.len() {
        assert_eq!(open(&NAME, &object[..len], &keks()), Err(OpenError::Damaged), "cut to {len}");
    }
    for appendix in [&[0][..], &[16; 16], &object] {
        let longer = [&object, appendix].concat();
        assert_eq!(open(&NAME, &longer, &keks()), Err(OpenError::Damaged));
    }
}

/// I4.
#[test]
fn an_object_opens_under_its_own_name_only() {
    let object = sealed(&NAME, b"content");
    let others = [
        Name { kind: Kind::Snapshot, ..NAME },
        Name { cluster_id: ClusterId::new([0xc2; 16]), ..NAME },
        Name { ident: [78, 0], ..NAME },
        Name { ident: [77, 1], ..NAME },
    ];
    for other in others {
        assert_eq!(open(&other, &object, &keks()), Err(OpenError::Damaged), "{other:?}");
        // Whoever writes to the bucket can also write the name that is asked for.
        let mut renamed = object.clone();
        renamed[..64].copy_from_slice(&sealed(&other, b"CONTENT")[..64]);
        assert_eq!(open(&other, &renamed, &keks()), Err(OpenError::Damaged), "{other:?}");
        // And put a good head of the one before frames of the other.
        let other_object = sealed(&other, b"CONTENT");
        let head_len = HEADER_LEN + 80 + 32;
        let mixed = [&other_object[..head_len], &object[head_len..]].concat();
        assert_eq!(open(&other, &mixed, &keks()), Err(OpenError::Damaged), "{other:?}");
    }
}

/// I6.
#[test]
fn another_kek_opens_nothing() {
    let object = sealed(&NAME, b"content");
    let other_key = Keks::parse(&Keks::generate("k1", &SeededEntropy::new(10))).unwrap();
    let wrong = OpenError::WrongKek { kek_id: "k1".to_owned() };
    assert_eq!(open(&NAME, &object, &other_key), Err(wrong));
    let other_id = Keks::parse(&Keks::generate("k2", &SeededEntropy::new(9))).unwrap();
    let unknown = OpenError::UnknownKek { kek_id: "k1".to_owned() };
    assert_eq!(open(&NAME, &object, &other_id), Err(unknown));
}

/// I3, I5.
#[test]
fn exchanged_wrapped_keys_and_frames_are_noticed() {
    let content = vec![0; 600_000];
    let name = Name { kind: Kind::Snapshot, ..NAME };
    let entropy = SeededEntropy::new(1);
    let [one, two] = [(); 2].map(|()| seal(&name, &content, &keks(), &entropy).unwrap().to_vec());
    let mut exchanged = one.clone();
    exchanged[104..144].copy_from_slice(&two[104..144]);
    assert_eq!(open(&name, &exchanged, &keks()), Err(OpenError::Damaged));
    // Both full frames of zeros have ciphertexts of the same length.
    let head_len = HEADER_LEN + 3 * 80 + 32;
    let frame_len =
        usize::try_from(super::frame::Row::decode(&one[144..224], 1 << 20).unwrap().cipher_len());
    let frame_len = frame_len.unwrap();
    let mut swapped = one.clone();
    let (first, second) = swapped[head_len..head_len + 2 * frame_len].split_at_mut(frame_len);
    first.swap_with_slice(second);
    assert_ne!(swapped, one);
    assert_eq!(open(&name, &swapped, &keks()), Err(OpenError::Damaged));
}

/// I8.
#[test]
fn headers_that_claim_more_than_there_is_are_refused() {
    let object = sealed(&NAME, b"content");
    // frame_count, zero, plain_bytes, total_len, and a KEK id behind its zeros.
    for (at, value) in
        [(48, 0xff), (51, 0xff), (52, 1), (56, 0xff), (63, 0xff), (71, 0xff), (103, b'x')]
    {
        let mut changed = object.clone();
        changed[at] = value;
        assert_eq!(open(&NAME, &changed, &keks()), Err(OpenError::Damaged), "byte {at}");
    }
}
