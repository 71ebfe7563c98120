//! What lies in the object store tells nothing to who has no key.
//!
//! The scan knows all secrets: it sent the records, it made the KEK, it unwraps the stream keys that
//! it finds in the log and the chunk keys that it finds in the chunks, and it is given the keys of
//! the places. Then it looks for each of them in every stored object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use aes_kw::{KeyInit, KwAes256};
use anyhow::{Context, ensure};
use prost::Message;
use pyramid_e2e::process::tell;
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::{
    AppendRequest, ChunkContent, ChunkLocation, ReadRequest, Record, read_request, read_response,
};
use pyramid_protocol::{Batch, Entropy, Records, SystemEntropy};
use sha2::{Digest, Sha256};

use crate::world::World;

const STREAM: &str = "a-stream-whose-name-is-secret-too";

/// Stands in every second record, in clear.
const MARKER: &str = "PLAINTEXT-MARKER-OF-THE-SCAN";

const APPENDS: usize = 60;
const RECORDS_PER_APPEND: usize = 20;
/// Length of a record that does not compress; all of them fill several chunks.
const NOISE_BYTES: usize = 1000;

/// Where a chunk holds numbers that follow from its content: in the header before the first wrapped
/// key, and in each row of the table before the IV. Elsewhere four bytes may be anything by chance.
const HEADER_NUMBERS: std::ops::Range<usize> = 0..120;
const HEADER_LEN: usize = 224;
const ROW_LEN: usize = 80;
const ROW_NUMBERS: usize = 32;
const FRAME_COUNT: std::ops::Range<usize> = 68..72;
const WRAPPED_CHUNK_KEY: std::ops::Range<usize> = 120..160;

/// Longest needle prefix by which places are found. Every needle is at least so long. Unit: bytes.
const PREFIX_BYTES: usize = 8;

/// Things that must not be found, by their first bytes.
#[derive(Default)]
struct Needles(HashMap<[u8; PREFIX_BYTES], Vec<(String, Vec<u8>)>>);

impl Needles {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        let prefix = *bytes.first_chunk().expect("a needle has at least 8 bytes");
        self.0.entry(prefix).or_default().push((name.to_owned(), bytes.to_vec()));
    }

    /// Raw, and as text in the two ways in which binary data is usually written.
    fn add_encoded(&mut self, name: &str, bytes: &[u8]) {
        self.add(name, bytes);
        self.add(&format!("{name} in hex"), hex(bytes).as_bytes());
        self.add(&format!("{name} in HEX"), hex(bytes).to_uppercase().as_bytes());
        self.add(&format!("{name} in base64"), base64(bytes).as_bytes());
    }

    fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Names of what is found.
    fn find(&self, haystack: &[u8]) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        for (place, window) in haystack.windows(PREFIX_BYTES).enumerate() {
            let Some(candidates) = window.first_chunk().and_then(|prefix| self.0.get(prefix))
            else {
                continue;
            };
            for (name, needle) in candidates {
                if haystack[place..].starts_with(needle) {
                    found.insert(name.as_str());
                }
            }
        }
        found
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whole groups of three bytes only: what follows them depends on what stands behind.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks_exact(3) {
        let bits = group.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        text.extend([18, 12, 6, 0].map(|shift| char::from(DIGITS[bits >> shift & 63])));
    }
    text
}

/// CRC-32C of what was sent, in both byte orders, among the numbers of a chunk.
fn checksums_in(chunk: &[u8], checksums: &BTreeSet<u32>) -> Vec<u32> {
    let mut numbers: Vec<&[u8]> = vec![&chunk[HEADER_NUMBERS]];
    let frames = u32::from_le_bytes(chunk[FRAME_COUNT].try_into().unwrap()) as usize;
    for row in chunk[HEADER_LEN..].chunks(ROW_LEN).take(frames) {
        numbers.push(&row[..ROW_NUMBERS]);
    }
    numbers
        .iter()
        .flat_map(|numbers| numbers.windows(4))
        .map(|window| window.try_into().unwrap())
        .flat_map(|bytes: [u8; 4]| [u32::from_le_bytes(bytes), u32::from_be_bytes(bytes)])
        .filter(|number| checksums.contains(number))
        .collect()
}

fn unwrap_key(by: &[u8; 32], wrapped: &[u8]) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    KwAes256::new(by.into()).unwrap_key(wrapped, &mut key).ok()?;
    Some(key)
}

/// Stream keys that the KEK opens, wherever they lie in the files of a folder: the id of the KEK,
/// then the wrapped key, as a protobuf message.
fn stream_keys(files: &BTreeMap<String, Vec<u8>>, kek: &[u8; 32]) -> BTreeSet<[u8; 32]> {
    let head = b"\x0a\x04test\x12\x28";
    files
        .values()
        .flat_map(|bytes| {
            bytes
                .windows(head.len() + 40)
                .filter(|window| window.starts_with(head))
                .filter_map(|window| unwrap_key(kek, &window[head.len()..]))
        })
        .collect()
}

/// Every file below a folder, without the zeros at its end: segments are filled with them ahead.
fn files_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            let mut bytes = std::fs::read(&path).unwrap();
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(end);
            files.insert(path.display().to_string(), bytes);
        }
    }
    files
}

/// Records that compress and records that do not.
fn make_records() -> Vec<Record> {
    (0..RECORDS_PER_APPEND)
        .map(|number| {
            let mut noise = [0; NOISE_BYTES];
            SystemEntropy.fill(&mut noise);
            let value = if number % 2 == 0 {
                format!("{MARKER} {MARKER} {MARKER} {}", SystemEntropy.u64()).into_bytes()
            } else {
                noise.to_vec()
            };
            Record { value: value.into(), headers: vec![] }
        })
        .collect()
}

async fn append(world: &World) -> anyhow::Result<()> {
    for _ in 0..APPENDS {
        let records = Records::encode(&make_records())?.bytes().clone();
        let request =
            AppendRequest { stream: STREAM.to_owned(), records, ..AppendRequest::default() };
        let mut answers = world.client()?.append(tokio_stream::iter([request])).await?.into_inner();
        let answer = answers.message().await?.and_then(|answer| answer.answer);
        ensure!(matches!(answer, Some(Answer::Appended(_))), "{answer:?}");
    }
    Ok(())
}

/// Everything of the stream, as places of chunks or as batches.
async fn read(
    world: &World,
    want_locations: bool,
) -> anyhow::Result<(Vec<ChunkLocation>, Vec<Batch>)> {
    let (mut locations, mut batches) = (Vec::new(), Vec::new());
    let request = ReadRequest {
        stream: STREAM.to_owned(),
        start: Some(read_request::Start::Offset(0)),
        want_locations,
        ..ReadRequest::default()
    };
    let mut answers = world.client()?.read(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        match answer.item.context("an item")? {
            read_response::Item::Chunk(location) => locations.push(location),
            read_response::Item::Batches(more) => {
                for batch in more.batches {
                    batches.push(Batch::decode(batch)?);
                }
            }
            read_response::Item::CaughtUp(_) => break,
            read_response::Item::Start(_) | read_response::Item::Moved(_) => {}
            read_response::Item::Refused(refusal) => anyhow::bail!("{refusal:?}"),
        }
    }
    Ok((locations, batches))
}

/// Digests, and what must not be found in clear.
fn needles_of(batches: &[Batch]) -> (Needles, BTreeSet<u32>) {
    let mut needles = Needles::default();
    let mut checksums = BTreeSet::new();
    needles.add_encoded("the marker", MARKER.as_bytes());
    needles.add_encoded("the name of the stream", STREAM.as_bytes());
    let mut digest = |needles: &mut Needles, name: &str, bytes: &[u8]| {
        needles.add_encoded(&format!("SHA-256 of {name}"), &Sha256::digest(bytes));
        checksums.insert(crc32c::crc32c(bytes));
    };
    for batch in batches {
        digest(&mut needles, "the records of a batch", &batch.records);
        digest(&mut needles, "a batch", &batch.encode());
        for record in batch.iter() {
            let (_, record) = record.unwrap();
            digest(&mut needles, "a value", &record.value);
            digest(&mut needles, "a record", &record.encode_to_vec());
            if !record.value.starts_with(MARKER.as_bytes()) {
                needles.add("a value", &record.value[..16]);
            }
        }
    }
    (needles, checksums)
}

#[tokio::test]
async fn the_object_store_reveals_nothing() {
    let mut world = World::found(&[STREAM]).await.unwrap();
    append(&world).await.unwrap();
    world.ship(STREAM).await.unwrap();
    let (locations, none) = read(&world, true).await.unwrap();
    let (_, batches) = read(&world, false).await.unwrap();
    assert_eq!((none.len(), batches.len()), (0, APPENDS));
    world.running.writer.take().unwrap().kill().await.unwrap();

    let (mut needles, checksums) = needles_of(&batches);
    // Without the positive side this test could pass by looking at the wrong things.
    let log = files_below(&world.folder.join("data"));
    let in_log: BTreeSet<&str> = log.values().flat_map(|bytes| needles.find(bytes)).collect();
    assert!(in_log.contains("the marker") && in_log.contains("a value"), "{in_log:?}");

    let stored = files_below(&world.folder.join("store"));
    let chunks: Vec<&Vec<u8>> = with_extension(&stored, ".pyc");
    let content = ChunkContent { batches: batches.iter().map(Batch::encode).collect() };
    needles.add_encoded("SHA-256 of everything", &Sha256::digest(content.encode_to_vec()));
    needles.add_encoded("the KEK", &world.kek);
    let stream_keys = stream_keys(&log, &world.kek);
    assert!(!stream_keys.is_empty(), "no stream key was found in the log");
    let mut chunk_keys = 0;
    for key in &stream_keys {
        needles.add_encoded("a stream key", key);
        for chunk in &chunks {
            if let Some(key) = unwrap_key(key, &chunk[WRAPPED_CHUNK_KEY]) {
                needles.add_encoded("a chunk key", &key);
                chunk_keys += 1;
            }
        }
    }
    assert_eq!(chunk_keys, chunks.len(), "every chunk key was unwrapped");
    for location in &locations {
        needles.add_encoded("an encryption key", &location.encryption_key);
        needles.add_encoded("a MAC key", &location.mac_key);
    }
    assert_eq!(locations.len(), chunks.len());
    assert!(chunks.len() > 1, "{:?}", stored.keys());
    assert_eq!(with_extension(&stored, ".pyk").len(), 1, "{:?}", stored.keys());

    let bytes: usize = stored.values().map(Vec::len).sum();
    for (path, object) in &stored {
        assert_eq!(needles.find(object), BTreeSet::new(), "{path}");
        assert!(needles.find(path.as_bytes()).is_empty(), "{path}");
    }
    for chunk in &chunks {
        assert_eq!(checksums_in(chunk, &checksums), Vec::<u32>::new());
    }
    tell(&format!(
        "scan: {} objects ({} chunks), {bytes} bytes, {} things looked for, 0 found",
        stored.len(),
        chunks.len(),
        needles.len() + checksums.len()
    ));
}

fn with_extension<'a>(files: &'a BTreeMap<String, Vec<u8>>, extension: &str) -> Vec<&'a Vec<u8>> {
    files.iter().filter(|(path, _)| path.ends_with(extension)).map(|(_, bytes)| bytes).collect()
}

#[test]
fn a_planted_secret_is_found_at_every_place_and_in_every_form() {
    let mut secret = [0; 32];
    SystemEntropy.fill(&mut secret);
    let mut needles = Needles::default();
    needles.add_encoded("the secret", &secret);
    let forms = [
        ("the secret", secret.to_vec()),
        ("the secret in hex", hex(&secret).into_bytes()),
        ("the secret in HEX", hex(&secret).to_uppercase().into_bytes()),
        ("the secret in base64", base64(&secret).into_bytes()),
    ];
    for (name, form) in forms {
        for place in [0, 1, 7, 100] {
            let object = [&vec![0; place], &form[..], b"end"].concat();
            assert_eq!(needles.find(&object), BTreeSet::from([name]), "{place}");
        }
        let mut changed = form.clone();
        changed[20] ^= 1;
        assert_eq!(needles.find(&changed), BTreeSet::new(), "{name}");
    }
}

#[test]
fn base64_is_as_others_write_it() {
    assert_eq!(base64(b"any carnal pleasure"), "YW55IGNhcm5hbCBwbGVhc3Vy");
}

#[test]
fn a_planted_checksum_is_found_among_the_numbers() {
    let checksum = crc32c::crc32c(b"a record");
    let checksums = BTreeSet::from([checksum]);
    let mut chunk = vec![0; HEADER_LEN + 2 * ROW_LEN];
    chunk[FRAME_COUNT].copy_from_slice(&2_u32.to_le_bytes());
    assert_eq!(checksums_in(&chunk, &checksums), Vec::<u32>::new());
    for place in [0, 116, HEADER_LEN, HEADER_LEN + ROW_LEN + 28] {
        for bytes in [checksum.to_le_bytes(), checksum.to_be_bytes()] {
            let mut planted = chunk.clone();
            planted[place..place + 4].copy_from_slice(&bytes);
            assert_eq!(checksums_in(&planted, &checksums), [checksum], "{place}");
        }
    }
}
