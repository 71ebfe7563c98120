//! A bucket as a Writer leaves it, and one thing in it changed.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use pyramid_protocol::{Batch, Entropy, Offset, SeededEntropy, StreamId};

use crate::{
    chunk::{DIGEST_START, Identity, SealedChunk, fixture::batch, seal},
    cluster_file::{self, ClusterFile},
    cluster_id::ClusterId,
    key_object::KeyObject,
    keys::{Keks, StreamKey},
    object_names::ObjectNames,
    object_store::{MemoryStore, ObjectKey, ObjectStore},
    verify::{
        Error, Expected, Finding, Head, Kind, Note, NoteKind, Options, Progress, Report, Span,
        StreamLabel, WriterView, verify,
    },
};

pub(super) const CLUSTER: ClusterId = ClusterId::new([0xc1; 16]);
pub(super) const EPOCH: u32 = 3;

/// Records in each chunk of [`Bucket::full`].
pub(super) const CHUNK_RECORDS: u64 = 10;

pub(super) struct Bucket {
    pub(super) store: Arc<MemoryStore>,
    pub(super) names: ObjectNames,
    pub(super) keks: Keks,
    pub(super) entropy: SeededEntropy,
    pub(super) streams: BTreeMap<&'static str, Stream>,
}

pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) name: &'static str,
    pub(super) key: StreamKey,
    pub(super) key_object: ObjectKey,
    /// As they were shipped.
    pub(super) chunks: Vec<SealedChunk>,
}

impl Stream {
    pub(super) fn label(&self) -> StreamLabel {
        StreamLabel { id: self.id, name: Some(self.name.to_owned()) }
    }

    pub(super) fn key(&self, chunk: usize) -> &ObjectKey {
        self.chunks[chunk].key()
    }

    pub(super) fn expected(&self) -> Expected {
        let heads: Vec<_> = self.chunks.iter().map(head).collect();
        Expected {
            name: self.name.to_owned(),
            first_offset: heads.first().map_or(Offset::START, |head| head.base_offset),
            shipped_offset: heads.last().map_or(Offset::START, |head| head.next_offset),
            heads,
        }
    }
}

pub(super) fn head(chunk: &SealedChunk) -> Head {
    let chunk = chunk.chunk_ref();
    Head {
        base_offset: Offset::new(chunk.base_offset),
        next_offset: Offset::new(chunk.next_offset),
        head_sha256: chunk.head_sha256.as_ref().try_into().unwrap(),
    }
}

pub(super) fn keks(id: &str, seed: u64) -> Keks {
    Keks::parse(&Keks::generate(id, &SeededEntropy::new(seed))).unwrap()
}

/// Batches of two records from `base` on, at times that rise with the offsets.
pub(super) fn batches(base: u64, records: u64) -> Vec<Batch> {
    let value = |offset: u64| format!("record {offset} of a stream ").repeat(3);
    let batch = |base| batch(base, 1_000 + base, &[value(base), value(base + 1)]);
    (base..base + records).step_by(2).map(batch).collect()
}

impl Bucket {
    pub(super) async fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let names = ObjectNames::new("dev/a", CLUSTER).unwrap();
        let file = ClusterFile { cluster_id: CLUSTER, epoch: EPOCH, incarnation: [7; 16] };
        cluster_file::create(store.as_ref(), &names, &file).await.unwrap();
        let (keks, entropy) = (keks("k1", 1), SeededEntropy::new(2));
        Self { store, names, keks, entropy, streams: BTreeMap::new() }
    }

    /// Two streams: `orders` of four chunks and `clicks` of two.
    pub(super) async fn full() -> Self {
        let mut bucket = Self::new().await;
        bucket.add_stream("orders", 77);
        bucket.add_stream("clicks", 5);
        for _ in 0..4 {
            bucket.ship("orders");
        }
        for _ in 0..2 {
            bucket.ship("clicks");
        }
        bucket
    }

    pub(super) fn add_stream(&mut self, name: &'static str, id: u64) {
        let id = StreamId::new(id).unwrap();
        let key = StreamKey::random(&self.entropy);
        let key_object = self.put_key_object(id, name, &key);
        self.streams.insert(name, Stream { id, name, key, key_object, chunks: Vec::new() });
    }

    pub(super) fn put_key_object(&self, id: StreamId, name: &str, key: &StreamKey) -> ObjectKey {
        let object =
            KeyObject { stream_id: id, name: name.to_owned(), key: key.clone(), settings: None };
        let bytes = object.seal(CLUSTER, &self.keks, &self.entropy);
        let object_key = self.names.key_object(id, self.entropy.u64());
        self.store.tamper(&object_key, bytes);
        object_key
    }

    /// Ships the next chunk of a stream.
    pub(super) fn ship(&mut self, name: &'static str) {
        let base = u64::try_from(self.streams[name].chunks.len()).unwrap() * CHUNK_RECORDS;
        let sealed = self.seal(name, &batches(base, CHUNK_RECORDS), |_| {});
        self.put(&sealed);
        self.streams.get_mut(name).unwrap().chunks.push(sealed);
    }

    /// Seals batches behind what was shipped, with an identity that is changed.
    pub(super) fn seal<'a>(
        &'a self,
        name: &str,
        batches: &[Batch],
        change: impl FnOnce(&mut Identity<'a>),
    ) -> SealedChunk {
        let stream = &self.streams[name];
        let digest_before = stream.chunks.last().map_or(DIGEST_START, SealedChunk::digest_after);
        let mut identity = Identity {
            names: &self.names,
            epoch: EPOCH,
            stream_id: stream.id,
            intent: 100 + batches[0].base_offset.get(),
            generation: 0,
            stream_key: &stream.key,
            digest_before,
        };
        change(&mut identity);
        seal(&identity, batches.iter().cloned(), &self.entropy).unwrap()
    }

    pub(super) fn put(&self, sealed: &SealedChunk) {
        self.store.tamper(sealed.key(), sealed.bytes().clone());
    }

    pub(super) async fn delete(&self, key: &ObjectKey) {
        self.store.delete(key).await.unwrap();
    }

    pub(super) fn bytes(&self, key: &ObjectKey) -> Bytes {
        let objects = self.store.objects();
        objects.into_iter().find(|(found, _)| found == key).unwrap().1
    }

    pub(super) fn flip(&self, key: &ObjectKey, at: usize) {
        let mut bytes = self.bytes(key).to_vec();
        bytes[at] ^= 1;
        self.store.tamper(key, bytes.into());
    }

    pub(super) fn writer(&self) -> Options {
        let streams = self.streams.values().map(|stream| (stream.id, stream.expected())).collect();
        Options { writer: Some(WriterView { streams }), ..Options::default() }
    }

    pub(super) async fn verify(&self) -> Report {
        self.verify_with(&Options::default()).await.unwrap()
    }

    pub(super) async fn verify_with(&self, options: &Options) -> Result<Report, Error> {
        let store = Arc::clone(&self.store) as Arc<dyn ObjectStore>;
        let mut ignore = |_: Progress| {};
        verify(store, &self.names, &self.keks, options, &mut ignore).await
    }

    /// What is found of a stream's object.
    pub(super) fn finding(
        &self,
        kind: Kind,
        object: Option<&ObjectKey>,
        stream: &str,
        offsets: Option<Span>,
    ) -> Finding {
        Finding {
            kind,
            object: object.map(ToString::to_string),
            stream: Some(self.streams[stream].label()),
            offsets,
        }
    }

    pub(super) fn note(
        &self,
        kind: NoteKind,
        object: Option<&ObjectKey>,
        stream: &str,
        offsets: Option<Span>,
    ) -> Note {
        Note {
            kind,
            object: object.map(ToString::to_string),
            stream: Some(self.streams[stream].label()),
            offsets,
        }
    }
}

pub(super) fn span(from: u64, to: u64) -> Option<Span> {
    Some(Span { from: Offset::new(from), to: Some(Offset::new(to)) })
}

pub(super) fn span_from(from: u64) -> Option<Span> {
    Some(Span { from: Offset::new(from), to: None })
}

/// Chunks, records, first and next offset of the streams, by name.
pub(super) fn counts(report: &Report) -> BTreeMap<String, (u64, u64, u64, u64)> {
    let count = |stream: &crate::verify::StreamTotal| {
        let (first, next) = (stream.first_offset.get(), stream.next_offset.get());
        (stream.name.clone().unwrap(), (stream.chunks, stream.records, first, next))
    };
    report.streams.iter().map(count).collect()
}
