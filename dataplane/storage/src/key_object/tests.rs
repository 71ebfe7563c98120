use pyramid_protocol::{SeededEntropy, StreamId, pb::v1 as pb};

use super::{KEY_OBJECT_BYTES_MAX, KeyObject, OpenError};
use crate::{
    chunk::Damaged,
    cluster_id::ClusterId,
    keys::{Keks, StreamKey},
};

const CLUSTER: ClusterId = ClusterId::new([0xc1; 16]);

fn stream_id(id: u64) -> StreamId {
    StreamId::new(id).unwrap()
}

fn keks(seed: u64) -> Keks {
    Keks::parse(&Keks::generate("k1", &SeededEntropy::new(seed))).unwrap()
}

fn key_object(id: u64) -> KeyObject {
    KeyObject {
        stream_id: stream_id(id),
        name: "orders/eu".to_owned(),
        key: StreamKey::random(&SeededEntropy::new(id)),
        settings: Some(pb::StreamSettings { chunk_bytes: 5, chunk_age_ms: 6 }),
    }
}

fn sealed(id: u64) -> bytes::Bytes {
    key_object(id).seal(CLUSTER, &keks(1), &SeededEntropy::new(2))
}

fn open(bytes: &[u8], id: u64, keks: &Keks) -> Result<KeyObject, OpenError> {
    KeyObject::open("k/1.pyk", bytes, CLUSTER, stream_id(id), keks)
}

fn damaged() -> OpenError {
    OpenError::Damaged(Damaged { object: "k/1.pyk".to_owned() })
}

#[test]
fn a_key_object_gives_back_key_name_and_settings() {
    let opened = open(&sealed(7), 7, &keks(1)).unwrap();
    let expected = key_object(7);
    assert_eq!(opened.key.as_bytes(), expected.key.as_bytes());
    assert_eq!(
        (opened.stream_id, opened.name, opened.settings),
        (expected.stream_id, expected.name, expected.settings)
    );
}

#[test]
fn the_longest_key_object_is_within_its_limit() {
    let longest = KeyObject { name: "n".repeat(60 << 10), ..key_object(7) };
    let bytes = longest.seal(CLUSTER, &keks(1), &SeededEntropy::new(2));
    assert!(u64::try_from(bytes.len()).unwrap() <= KEY_OBJECT_BYTES_MAX);
}

/// I6.
#[test]
fn a_key_object_of_another_stream_or_key_file_is_refused() {
    assert_eq!(open(&sealed(7), 8, &keks(1)).unwrap_err(), damaged());
    let wrong = OpenError::WrongKek { object: "k/1.pyk".to_owned(), kek_id: "k1".to_owned() };
    assert_eq!(open(&sealed(7), 7, &keks(2)).unwrap_err(), wrong);
    let other = Keks::parse(&Keks::generate("k2", &SeededEntropy::new(1))).unwrap();
    let unknown = OpenError::UnknownKek { object: "k/1.pyk".to_owned(), kek_id: "k1".to_owned() };
    assert_eq!(open(&sealed(7), 7, &other).unwrap_err(), unknown);
}

/// I1, I2.
#[test]
fn each_flipped_bit_and_each_cut_is_noticed() {
    let (object, keks) = (sealed(7), keks(1));
    for bit in 0..object.len() * 8 {
        let mut changed = object.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&changed, 7, &keks).is_err(), "bit {bit}");
    }
    for len in 0..object.len() {
        assert_eq!(open(&object[..len], 7, &keks).unwrap_err(), damaged(), "cut to {len}");
    }
}

/// I6: each wrong key has an error of its own that says what to do, and the right one opens.
#[test]
fn each_wrong_kek_says_what_to_do() {
    let line = |id: &str, seed| {
        let file = Keks::generate(id, &SeededEntropy::new(seed));
        file.lines().last().unwrap().to_owned()
    };
    let file = |lines: &[String]| Keks::parse(&lines.join("\n")).unwrap();
    let message =
        |id, lines: &[String]| open(&sealed(7), id, &file(lines)).unwrap_err().to_string();
    let (right, other, newer) = (line("k1", 1), line("k1", 5), line("k2", 5));
    // Also behind a newer key: all keys of the file unwrap.
    for lines in [&[right.clone()][..], &[right.clone(), newer.clone()]] {
        assert!(open(&sealed(7), 7, &file(lines)).is_ok());
    }
    assert_eq!(
        message(7, &[other]),
        "the key \"k1\" of the key file does not open k/1.pyk; restore the key file that sealed \
         it, or the object, if other objects open under this key"
    );
    // The old key was taken out of the file too early.
    assert_eq!(
        message(7, &[newer]),
        "the key file has no key \"k1\", which k/1.pyk was sealed with; add it"
    );
    // The right key, and the key object of another stream.
    assert_eq!(
        message(8, &[right]),
        "k/1.pyk is damaged: it is not what was stored, and nothing of it is used"
    );
}
