//! Key objects: which streams there are, their names, and what opens them.

use std::collections::BTreeMap;

use bytes::Bytes;
use pyramid_protocol::StreamId;

use super::report::{Kind, StreamLabel};
use crate::{
    key_object::{KeyObject, OpenError},
    keys::{Keks, StreamKey},
    object_names::ObjectNames,
    object_store::ObjectKey,
    sealed_object,
};

/// What is known of the keys of all streams.
#[derive(Debug, Default)]
pub(super) struct KeyTable {
    streams: BTreeMap<StreamId, StreamKeys>,
}

/// The key objects of one stream.
#[derive(Debug, Default)]
pub(super) struct StreamKeys {
    pub(super) name: Option<String>,
    /// Different ones that were opened: one, unless somebody has put a wrong one there.
    keys: Vec<StreamKey>,
    /// Objects that open, and are not the first one with their key.
    pub(super) extra: Vec<ObjectKey>,
    /// Objects that do not open.
    pub(super) bad: Vec<(ObjectKey, Kind)>,
}

/// A key object as it was read.
pub(super) struct ReadKeyObject {
    pub(super) key: ObjectKey,
    pub(super) stream_id: StreamId,
    pub(super) bytes: Result<Bytes, Kind>,
}

impl KeyTable {
    /// Opens all key objects.
    pub(super) fn open(objects: Vec<ReadKeyObject>, names: &ObjectNames, keks: &Keks) -> Self {
        let mut table = Self::default();
        let mut good_keks = Vec::new();
        for ReadKeyObject { key, stream_id, bytes } in objects {
            let opened = bytes.and_then(|bytes| {
                let opened = open(&key, &bytes, stream_id, names, keks)?;
                good_keks.extend(sealed_object::claims(&bytes).map(|(_, kek_id)| kek_id));
                Ok(opened)
            });
            let stream = table.streams.entry(stream_id).or_default();
            match opened {
                Ok(opened) => stream.add(key, opened),
                Err(problem) => stream.bad.push((key, problem)),
            }
        }
        // A KEK that opens other objects is the right one: then this object is damaged.
        for (_, problem) in table.streams.values_mut().flat_map(|stream| &mut stream.bad) {
            if let Kind::WrongKek { kek_id, is_known: true } = problem
                && good_keks.contains(kek_id)
            {
                *problem = Kind::Damaged;
            }
        }
        table
    }

    /// What opens the stream; empty if nothing does.
    pub(super) fn of(&self, stream_id: StreamId) -> &[StreamKey] {
        self.streams.get(&stream_id).map_or(&[], |stream| &stream.keys)
    }

    pub(super) fn label(&self, stream_id: StreamId) -> StreamLabel {
        let name = self.streams.get(&stream_id).and_then(|stream| stream.name.clone());
        StreamLabel { id: stream_id, name }
    }

    /// Whether the stream has a key object, even one that does not open.
    pub(super) fn holds(&self, stream_id: StreamId) -> bool {
        self.streams.contains_key(&stream_id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamId, &StreamKeys)> {
        self.streams.iter().map(|(stream_id, keys)| (*stream_id, keys))
    }
}

impl StreamKeys {
    pub(super) fn opens(&self) -> bool {
        !self.keys.is_empty()
    }

    fn add(&mut self, key: ObjectKey, opened: KeyObject) {
        self.name.get_or_insert(opened.name);
        if self.keys.iter().any(|known| known.as_bytes() == opened.key.as_bytes()) {
            self.extra.push(key);
        } else {
            self.keys.push(opened.key);
        }
    }
}

fn open(
    key: &ObjectKey,
    bytes: &[u8],
    stream_id: StreamId,
    names: &ObjectNames,
    keks: &Keks,
) -> Result<KeyObject, Kind> {
    let cluster_id = names.cluster_id();
    let open = |stream_id| KeyObject::open(key.as_str(), bytes, cluster_id, stream_id, keks);
    let error = match open(stream_id) {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    Err(match error {
        OpenError::UnknownKek { kek_id, .. } => Kind::WrongKek { kek_id, is_known: false },
        OpenError::WrongKek { kek_id, .. } => Kind::WrongKek { kek_id, is_known: true },
        OpenError::Damaged(_) if sealed_object::is_of_another_version(bytes) => {
            Kind::UnknownVersion
        }
        OpenError::Damaged(_) => match sealed_object::claims(bytes) {
            Some((name, _)) if name.cluster_id != cluster_id => Kind::Foreign,
            Some((name, _)) => {
                let claimed = name.ident.first().copied().and_then(StreamId::new);
                let is_other = claimed.is_some_and(|id| id != stream_id && open(id).is_ok());
                if is_other { Kind::Misplaced } else { Kind::Damaged }
            }
            None => Kind::Damaged,
        },
    })
}
