//! Where objects lie in the object store.
//!
//! ```text
//! <prefix>/<cluster id>/cluster.json
//! <prefix>/<cluster id>/c/<hh>/<stream id>/<base>-<intent>-<r>.pyc   chunk
//! <prefix>/<cluster id>/k/<stream id>-<r>.pyk                        stream key and name
//! <prefix>/<cluster id>/s/<epoch>-<index>-<term>-<r>.pys             snapshot
//! ```
//!
//! Cluster ids have 32 and `r` has 16 hexadecimal digits; stream ids have 16 decimal digits, `base`
//! and `intent` 20, so the keys of a stream's chunks are listed in the order of their offsets. `hh`
//! is the first byte of SHA-256 of the stream id (8 bytes, little endian): 256 prefixes let an
//! object store spread its load. `r` is drawn anew for every attempt, so a late put can never
//! overwrite what is committed.

use pyramid_protocol::{Offset, StreamId, pb::stored::v1 as stored};
use sha2::{Digest, Sha256};

use crate::{
    cluster_id::ClusterId,
    hex,
    object_store::{InvalidKey, ObjectKey},
};

/// Longest prefix. Unit: bytes. The names behind it need 140.
pub const PREFIX_BYTES_MAX: usize = 512;

/// Names the objects of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectNames {
    /// Prefix and cluster id.
    root: String,
    cluster_id: ClusterId,
}

/// What the name of a chunk says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkName {
    /// Whose chunk.
    pub stream_id: StreamId,
    /// Its first offset.
    pub base_offset: Offset,
    /// Log index of its Seal.
    pub intent: u64,
    /// Drawn for the upload.
    pub r: u64,
}

impl ObjectNames {
    /// Names below `prefix`, which may be empty or have several parts.
    ///
    /// # Errors
    ///
    /// The prefix is no key, or above [`PREFIX_BYTES_MAX`].
    pub fn new(prefix: &str, cluster_id: ClusterId) -> Result<Self, InvalidKey> {
        let root = if prefix.is_empty() {
            cluster_id.to_string()
        } else {
            let prefix: ObjectKey = prefix.parse()?;
            if prefix.as_str().len() > PREFIX_BYTES_MAX {
                return Err(InvalidKey { text: prefix.to_string() });
            }
            format!("{prefix}/{cluster_id}")
        };
        Ok(Self { root, cluster_id })
    }

    /// Whose objects these are.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// `cluster.json`.
    #[must_use]
    pub fn cluster_file(&self) -> ObjectKey {
        self.key("cluster.json")
    }

    /// A chunk.
    #[must_use]
    pub fn chunk(&self, name: &ChunkName) -> ObjectKey {
        let ChunkName { stream_id, base_offset, intent, r } = name;
        let folder = chunk_folder(*stream_id);
        self.key(&format!("{folder}{:020}-{intent:020}-{r:016x}.pyc", base_offset.get()))
    }

    /// The chunk that State refers to.
    #[must_use]
    pub fn chunk_of(&self, stream_id: StreamId, chunk: &stored::ChunkRef) -> ObjectKey {
        self.chunk(&ChunkName {
            stream_id,
            base_offset: Offset::new(chunk.base_offset),
            intent: chunk.intent,
            r: chunk.r,
        })
    }

    /// What the keys of all chunks of a stream begin with.
    #[must_use]
    pub fn chunks_prefix(&self, stream_id: StreamId) -> String {
        format!("{}/{}", self.root, chunk_folder(stream_id))
    }

    /// What a chunk's key says, or `None` if the key is not one of ours.
    #[must_use]
    pub fn parse_chunk(&self, key: &ObjectKey) -> Option<ChunkName> {
        let name = key.as_str().strip_prefix(&self.root)?.strip_prefix("/c/")?;
        let (_, name) = name.split_once('/')?;
        let (stream_id, name) = name.split_once('/')?;
        let mut parts = name.strip_suffix(".pyc")?.splitn(3, '-');
        let name = ChunkName {
            stream_id: StreamId::new(stream_id.parse().ok()?)?,
            base_offset: Offset::new(parts.next()?.parse().ok()?),
            intent: parts.next()?.parse().ok()?,
            r: u64::from_be_bytes(hex::decode(parts.next()?)?),
        };
        // One form only: what is read is what would be written.
        (self.chunk(&name) == *key).then_some(name)
    }

    /// A key object.
    #[must_use]
    pub fn key_object(&self, stream_id: StreamId, r: u64) -> ObjectKey {
        self.key(&format!("k/{:016}-{r:016x}.pyk", stream_id.get()))
    }

    /// What the keys of all key objects of a stream begin with.
    #[must_use]
    pub fn key_objects_prefix(&self, stream_id: StreamId) -> String {
        format!("{}/k/{:016}-", self.root, stream_id.get())
    }

    /// What the keys of the key objects of all streams begin with.
    #[must_use]
    pub fn all_key_objects_prefix(&self) -> String {
        format!("{}/k/", self.root)
    }

    /// Whose key object this is, or `None` if the key is not one of ours.
    #[must_use]
    pub fn parse_key_object(&self, key: &ObjectKey) -> Option<StreamId> {
        let name = key.as_str().strip_prefix(&self.root)?.strip_prefix("/k/")?;
        let (stream_id, r) = name.strip_suffix(".pyk")?.split_once('-')?;
        let stream_id = StreamId::new(stream_id.parse().ok()?)?;
        let r = u64::from_be_bytes(hex::decode(r)?);
        (self.key_object(stream_id, r) == *key).then_some(stream_id)
    }

    /// Log index and term of a snapshot, or `None` if the key is not one of ours.
    #[must_use]
    pub fn parse_snapshot(&self, key: &ObjectKey) -> Option<(u64, u64)> {
        let name = key.as_str().strip_prefix(&self.root)?.strip_prefix("/s/")?;
        let mut parts = name.strip_suffix(".pys")?.splitn(4, '-');
        let _epoch: u32 = decimal(parts.next()?)?;
        let (index, term) = (decimal(parts.next()?)?, decimal(parts.next()?)?);
        let _r: [u8; 8] = hex::decode(parts.next()?)?;
        Some((index, term))
    }

    /// What the keys of all objects begin with.
    #[must_use]
    pub fn root_prefix(&self) -> String {
        format!("{}/", self.root)
    }

    fn key(&self, rest: &str) -> ObjectKey {
        format!("{}/{rest}", self.root).parse().expect("names are keys below a checked prefix")
    }
}

/// A number of digits alone: `parse` would also take a sign.
fn decimal<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok())?
}

fn chunk_folder(stream_id: StreamId) -> String {
    let hash = Sha256::digest(stream_id.get().to_le_bytes());
    let hh = hash.first().copied().unwrap_or(0);
    format!("c/{hh:02x}/{:016}/", stream_id.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> ObjectNames {
        ObjectNames::new("dev/a", ClusterId::new([0xab; 16])).unwrap()
    }

    fn name(base_offset: u64) -> ChunkName {
        ChunkName {
            stream_id: StreamId::new(77).unwrap(),
            base_offset: Offset::new(base_offset),
            intent: 5,
            r: 0x1f,
        }
    }

    #[test]
    fn names_are_as_documented() {
        let root = "dev/a/abababababababababababababababab";
        assert_eq!(names().cluster_file().as_str(), format!("{root}/cluster.json"));
        assert_eq!(
            names().chunk(&name(9)).as_str(),
            format!(
                "{root}/c/0d/0000000000000077/00000000000000000009-00000000000000000005-\
                 000000000000001f.pyc"
            )
        );
        assert_eq!(
            names().key_object(StreamId::new(77).unwrap(), 0x1f).as_str(),
            format!("{root}/k/0000000000000077-000000000000001f.pyk")
        );
        let bare = ObjectNames::new("", ClusterId::new([0xab; 16])).unwrap();
        assert_eq!(bare.cluster_file().as_str(), "abababababababababababababababab/cluster.json");
    }

    #[test]
    fn keys_of_chunks_sort_by_offset() {
        let offsets = [0, 9, 10, 99, 1 << 20, u64::MAX - 1, u64::MAX];
        let keys: Vec<_> = offsets.iter().map(|&base| names().chunk(&name(base))).collect();
        assert!(keys.is_sorted());
        assert!(keys.iter().all(|key| {
            key.as_str().starts_with(&names().chunks_prefix(StreamId::new(77).unwrap()))
        }));
    }

    #[test]
    fn a_chunks_key_is_read_as_it_is_written_and_no_other() {
        for base in [0, 7, u64::MAX] {
            assert_eq!(names().parse_chunk(&names().chunk(&name(base))), Some(name(base)));
        }
        let good = names().chunk(&name(9)).to_string();
        for bad in [
            good.replace("0d/", "0e/"),
            good.replace(".pyc", ".pyk"),
            good.replace("00000000000000000009", "9"),
            good.replace("00000000000000000009", "+0000000000000000009"),
            good.replace("001f", "001F"),
            good.replace("dev/a", "dev/b"),
            names().cluster_file().to_string(),
        ] {
            assert_ne!(bad, good);
            assert_eq!(names().parse_chunk(&bad.parse().unwrap_or(names().cluster_file())), None);
        }
    }

    #[test]
    fn the_key_of_a_key_object_is_read_as_it_is_written_and_no_other() {
        let stream_id = StreamId::new(77).unwrap();
        let key = names().key_object(stream_id, 0x1f);
        assert_eq!(names().parse_key_object(&key), Some(stream_id));
        assert!(key.as_str().starts_with(&names().all_key_objects_prefix()));
        assert!(key.as_str().starts_with(&names().root_prefix()));
        let good = key.to_string();
        for bad in [
            good.replace("/k/", "/c/"),
            good.replace(".pyk", ".pyc"),
            good.replace("0000000000000077", "77"),
            good.replace("0000000000000077", "0000000000000000"),
            good.replace("001f", "001F"),
            good.replace("dev/a", "dev/b"),
        ] {
            assert_ne!(bad, good);
            assert_eq!(names().parse_key_object(&bad.parse().unwrap()), None, "{bad}");
        }
    }

    #[test]
    fn the_key_of_a_snapshot_names_its_place_in_the_log() {
        let good = format!("{}s/1-00500-2-000000000000001f.pys", names().root_prefix());
        assert_eq!(names().parse_snapshot(&good.parse().unwrap()), Some((500, 2)));
        for bad in [
            good.replace("/s/", "/k/"),
            good.replace(".pys", ".pyk"),
            good.replace("1-00500", "00500"),
            good.replace("00500", "x"),
            good.replace("001f", "01f"),
        ] {
            assert_ne!(bad, good);
            assert_eq!(names().parse_snapshot(&bad.parse().unwrap()), None, "{bad}");
        }
    }

    #[test]
    fn a_prefix_that_is_no_key_is_refused() {
        let long = "a/".repeat(PREFIX_BYTES_MAX / 2);
        for prefix in ["/a", "a/", "../a", "a b", &format!("{long}b")] {
            assert!(ObjectNames::new(prefix, ClusterId::new([1; 16])).is_err(), "{prefix}");
        }
        assert!(ObjectNames::new(&long[..PREFIX_BYTES_MAX - 1], ClusterId::new([1; 16])).is_ok());
    }
}
