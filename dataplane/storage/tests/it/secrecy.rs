//! What lies in the object store shows nothing: no record, no name, no key, and no digest by which
//! a guess could be confirmed.

use bytes::Bytes;
use pyramid_protocol::{Batch, Offset, Records, SeededEntropy, StreamId, pb::v1 as pb};
use pyramid_storage::{
    ClusterId, Keks, ObjectNames, StreamKey,
    chunk::{DIGEST_START, Identity, location, seal},
    key_object::KeyObject,
    object_store::{Condition, MemoryStore, ObjectStore},
};
use sha2::{Digest, Sha256};

const MARKER: &[u8] = b"the plaintext that nobody may find";

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn stored_objects_show_no_plaintext_no_key_and_no_unkeyed_digest() {
    let names = ObjectNames::new("", ClusterId::new([0xc1; 16])).unwrap();
    let entropy = SeededEntropy::new(1);
    let kek_file = Keks::generate("k1", &entropy);
    let keks = Keks::parse(&kek_file).unwrap();
    let (stream_id, stream_key) = (StreamId::new(77).unwrap(), StreamKey::random(&entropy));
    let record = pb::Record { value: Bytes::from_static(MARKER), headers: Vec::new() };
    let records = Records::encode(&[record]).unwrap();
    let batch = Batch::new(Offset::START, 1_000, &records);
    let identity = Identity {
        names: &names,
        epoch: 1,
        stream_id,
        intent: 5,
        generation: 0,
        stream_key: &stream_key,
        digest_before: DIGEST_START,
    };
    let sealed = seal(&identity, [batch.clone()], &entropy).unwrap();
    let name = "a stream's name";
    let key_object =
        KeyObject { stream_id, name: name.to_owned(), key: stream_key.clone(), settings: None };

    let store = MemoryStore::new();
    store.put(sealed.key(), sealed.bytes().clone(), Condition::Absent).await.unwrap();
    let sealed_key = key_object.seal(names.cluster_id(), &keks, &entropy);
    store.put(&names.key_object(stream_id, 1), sealed_key, Condition::Absent).await.unwrap();
    let life = std::time::Duration::from_secs(60);
    let location = location(&store, &names, stream_id, sealed.chunk_ref(), &stream_key, life);
    let location = location.await.unwrap();

    let encoded = batch.encode();
    let mut content = vec![0x0a, u8::try_from(encoded.len()).unwrap()];
    content.extend_from_slice(&encoded);
    // The seed gives the KEK first, then the stream key.
    let mut keys = [[0; 32]; 2];
    let again = SeededEntropy::new(1);
    keys.iter_mut().for_each(|key| pyramid_protocol::Entropy::fill(&again, key));
    let kek_digits: String = keys[0].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(kek_file.contains(&kek_digits), "the keys searched for are those that were used");

    let crc = |bytes: &[u8]| batch_crc(bytes).to_le_bytes();
    let mut secrets: Vec<(String, Vec<u8>)> = vec![
        ("a part of the record".to_owned(), MARKER[..12].to_vec()),
        ("the stream's name".to_owned(), name.as_bytes()[..8].to_vec()),
        ("the KEK".to_owned(), keys[0].to_vec()),
        ("the stream key".to_owned(), keys[1].to_vec()),
        ("the cipher key".to_owned(), location.encryption_key.to_vec()),
        ("the MAC key".to_owned(), location.mac_key.to_vec()),
    ];
    for (what, plain) in [
        ("value", MARKER),
        ("records", batch.records.as_ref()),
        ("batch", &encoded),
        ("content", &content),
    ] {
        secrets.push((format!("SHA-256 of the {what}"), Sha256::digest(plain).to_vec()));
        secrets.push((format!("CRC-32C of the {what}"), crc(plain).to_vec()));
        let big_endian = batch_crc(plain).to_be_bytes().to_vec();
        secrets.push((format!("CRC-32C of the {what}, big endian"), big_endian));
    }
    let objects = store.objects();
    assert_eq!(objects.len(), 2);
    for (key, bytes) in &objects {
        for (what, secret) in &secrets {
            assert!(!contains(bytes, secret), "{key} shows {what}");
            assert!(!contains(key.as_str().as_bytes(), secret), "the name {key} shows {what}");
        }
    }
    assert_eq!(batch_crc(&batch.records), batch.records_crc32c, "the scan looks for the right sum");
}

/// CRC-32C, bit by bit: a second opinion on what to look for.
fn batch_crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc: u32, _| (crc >> 1) ^ (0x82F6_3B78 * (crc & 1)))
    })
}
