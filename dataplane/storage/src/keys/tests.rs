use bytes::Bytes;
use pyramid_protocol::{SeededEntropy, pb::stored::v1 as stored};

use super::{
    ChunkKey, KEK_ID_BYTES_MAX, Keks, LoadError, StreamKey, UnwrapError, derive, secret::Secret,
    unwrap, wrap,
};
use crate::hex;

fn secret(digits: &str) -> Secret {
    Secret::from_slice(&hex::decode::<32>(digits).unwrap()).unwrap()
}

fn kek_file(ids: &[&str]) -> String {
    let line = |(number, id): (usize, &&str)| {
        format!("{id} = {}\n", hex::encode(&[u8::try_from(number).unwrap(); 32]))
    };
    ids.iter().enumerate().map(line).collect()
}

#[test]
fn wrapping_is_that_of_rfc_3394() {
    // Section 4.6: 256 bits of key data with a 256-bit KEK.
    let kek = secret("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    let key = secret("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f");
    let wrapped =
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21";
    assert_eq!(hex::encode(&wrap(&kek, &key)), wrapped);
    let wrapped: [u8; 40] = hex::decode(wrapped).unwrap();
    assert_eq!(unwrap(&kek, &wrapped).map(|key| *key.as_bytes()), Some(*key.as_bytes()));
    for bit in 0..320 {
        let mut changed = wrapped;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(unwrap(&kek, &changed).is_none(), "bit {bit}");
    }
    assert!(unwrap(&kek, &wrapped[..39]).is_none());
    assert!(unwrap(&kek, &wrapped[..32]).is_none());
    assert!(unwrap(&kek, b"").is_none());
    assert!(unwrap(&key, &wrapped).is_none());
}

#[test]
fn derived_keys_are_those_of_hkdf_sha256_without_salt() {
    // Computed by hand: hmac(hmac(32 zeros, key), label + "\x01").
    let key = secret("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    for (label, expected) in [
        (
            "pyramid chunk enc v1",
            "2a0ef93c8f28da8ed9dd3e258acc4b38318762d69bbf6334147e54217cb54099",
        ),
        (
            "pyramid chunk mac v1",
            "6cacf1e338a0bc4f75613e77f32b47cfacb7fecc29fcc279ef341c95637ad5f9",
        ),
        ("pyramid digest v1", "b13a36cea664c60369aaf26872018e3892a37ec8f1c41785d98ea28d4e204e18"),
    ] {
        assert_eq!(hex::encode(derive(&key, label).as_bytes()), expected, "{label}");
    }
    let keys = ChunkKey(key.clone()).frame_keys("chunk");
    assert_eq!(keys.encryption(), derive(&key, "pyramid chunk enc v1").as_bytes());
    assert_eq!(keys.mac(), derive(&key, "pyramid chunk mac v1").as_bytes());
    let digest = StreamKey(key.clone()).digest_key();
    assert_eq!(digest.as_bytes(), derive(&key, "pyramid digest v1").as_bytes());
}

/// I6: a key that is missing, wrong or of another id, as State holds it.
#[test]
fn the_newest_kek_wraps_and_all_unwrap() {
    let entropy = SeededEntropy::new(1);
    let key = StreamKey::random(&entropy);
    let old = Keks::parse(&kek_file(&["a", "b"])).unwrap();
    let new = Keks::parse(&kek_file(&["a", "b", "c"])).unwrap();
    assert_eq!(new.ids().collect::<Vec<_>>(), ["a", "b", "c"]);

    let by_old = old.wrap(&key);
    assert_eq!(by_old.kek_id, "b");
    assert_eq!(new.unwrap(&by_old).unwrap().as_bytes(), key.as_bytes());
    let by_new = new.wrap(&key);
    assert_eq!(by_new.kek_id, "c");
    assert_eq!(new.unwrap(&by_new).unwrap().as_bytes(), key.as_bytes());
    let unknown = old.unwrap(&by_new).unwrap_err();
    assert_eq!(unknown, UnwrapError::UnknownKek { kek_id: "c".to_owned() });

    let wrong = |wrapped: stored::WrappedKey| {
        let kek_id = wrapped.kek_id.clone();
        assert_eq!(new.unwrap(&wrapped).unwrap_err(), UnwrapError::WrongKey { kek_id });
    };
    wrong(stored::WrappedKey { kek_id: "a".to_owned(), ..by_new.clone() });
    wrong(stored::WrappedKey { wrapped: by_new.wrapped.slice(1..), ..by_new.clone() });
    wrong(stored::WrappedKey { wrapped: Bytes::new(), ..by_new });
}

#[test]
fn a_generated_key_file_is_one() {
    let text = Keks::generate("2026-11", &SeededEntropy::new(1));
    let keks = Keks::parse(&text).unwrap();
    assert_eq!(keks.ids().collect::<Vec<_>>(), ["2026-11"]);
    assert_ne!(*text, *Keks::generate("2026-11", &SeededEntropy::new(2)));
}

#[test]
fn comments_blanks_and_line_ends_do_not_matter() {
    let digits = hex::encode(&[9; 32]);
    let text = format!("\r\n# a comment\r\n  first={digits}  # old\r\n\n\tsecond   =   {digits}");
    assert_eq!(Keks::parse(&text).unwrap().ids().collect::<Vec<_>>(), ["first", "second"]);
}

#[test]
fn a_file_that_is_none_is_refused_without_showing_it() {
    let digits = hex::encode(&[0xab; 32]);
    for (line, text) in [
        (1, digits.clone()),
        (1, format!("= {digits}")),
        (1, format!("a b = {digits}")),
        (1, format!("{} = {digits}", "i".repeat(KEK_ID_BYTES_MAX + 1))),
        (1, format!("a = {}", &digits[1..])),
        (1, format!("a = {digits}0")),
        (1, format!("a = {}", digits.to_uppercase())),
        (1, format!("a = {}g", &digits[1..])),
        (3, format!("a = {digits}\n\na = {digits}")),
        (1, "#".repeat((64 << 10) + 1)),
    ] {
        let error = Keks::parse(&text).unwrap_err();
        assert!(
            matches!(error, LoadError::Malformed { line: found, .. } if found == line),
            "{text}"
        );
        assert!(!format!("{error} {error:?}").contains("abab"), "{error}");
    }
    for empty in ["", "\n\n", "# a = b"] {
        assert!(matches!(Keks::parse(empty), Err(LoadError::Empty)), "{empty:?}");
    }
    let longest = format!("{} = {digits}", "i".repeat(KEK_ID_BYTES_MAX));
    assert!(Keks::parse(&longest).is_ok());
}

#[test]
fn without_a_key_file_there_are_no_keys_and_the_error_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kek");
    let error = Keks::load(&path).unwrap_err();
    assert!(matches!(error, LoadError::Unreadable { .. }));
    assert!(error.to_string().contains("name a file with at least one line"), "{error}");
    std::fs::write(&path, Keks::generate("k", &SeededEntropy::new(1)).as_bytes()).unwrap();
    assert_eq!(Keks::load(&path).unwrap().ids().count(), 1);
}

#[test]
fn no_key_shows_its_bytes() {
    let key = StreamKey::from_slice(&[0xab; 32]).unwrap();
    let chunk_key = ChunkKey(Secret::from_slice(&[0xab; 32]).unwrap());
    let keks = Keks::parse(&format!("k = {}", hex::encode(&[0xab; 32]))).unwrap();
    let frame_keys = chunk_key.frame_keys("chunk");
    let shown = format!("{key:?} {chunk_key:?} {frame_keys:?} {keks:?} {:?}", key.digest_key());
    assert_eq!(
        shown,
        "StreamKey([hidden]) ChunkKey([hidden]) FrameKeys { encryption: [hidden], mac: [hidden] } \
         [\"k\"] DigestKey([hidden])"
    );
}
