//! Chunks for tests.

use bytes::Bytes;
use pyramid_protocol::{Batch, Entropy, Offset, Records, SeededEntropy, StreamId, pb::v1 as pb};

use super::{DIGEST_START, Identity, SealedChunk, seal};
use crate::{cluster_id::ClusterId, keys::StreamKey, object_names::ObjectNames};

/// A stream that can be sealed.
pub(crate) struct Stream {
    pub(crate) names: ObjectNames,
    pub(crate) key: StreamKey,
    pub(crate) entropy: SeededEntropy,
}

impl Stream {
    pub(crate) fn new(seed: u64) -> Self {
        let entropy = SeededEntropy::new(seed);
        let names = ObjectNames::new("test", ClusterId::new([0xc1; 16])).unwrap();
        Self { names, key: StreamKey::random(&entropy), entropy }
    }

    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity {
            names: &self.names,
            epoch: 3,
            stream_id: StreamId::new(77).unwrap(),
            intent: 5,
            generation: 0,
            stream_key: &self.key,
            digest_before: DIGEST_START,
        }
    }

    pub(crate) fn seal(&self, batches: &[Batch]) -> SealedChunk {
        seal(&self.identity(), batches.iter().cloned(), &self.entropy).unwrap()
    }
}

/// A batch of records with these values.
pub(crate) fn batch<V: AsRef<[u8]>>(base: u64, time_ms: u64, values: &[V]) -> Batch {
    let records: Vec<_> = values
        .iter()
        .map(|value| pb::Record {
            value: Bytes::copy_from_slice(value.as_ref()),
            headers: Vec::new(),
        })
        .collect();
    Batch::new(Offset::new(base), time_ms, &Records::encode(&records).unwrap())
}

/// `count` batches of two records of `len` bytes that shrink by about a half, from offset `base`.
pub(crate) fn run(base: u64, count: u64, len: usize) -> Vec<Batch> {
    let entropy = SeededEntropy::new(base);
    (0..count)
        .map(|number| {
            let values = [0; 2].map(|_: u8| {
                let mut value = vec![b'.'; len];
                entropy.fill(&mut value[..len / 2]);
                value
            });
            batch(base + 2 * number, 1_000 + 10 * number, &values)
        })
        .collect()
}
