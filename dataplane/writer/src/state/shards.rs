//! [`Shards`]: streams by id and by name, in 256 parts that are shared until they are changed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Bound;
use std::sync::Arc;

use pyramid_protocol::{StreamId, StreamName};

use super::stream::Stream;

/// An image copies this many pointers; the first change of a part afterwards copies
/// `1 / SHARDS` of all.
const SHARDS: u32 = 256;

/// A deleted stream of which objects may be left in the object store.
///
/// Its deletion marks them: State has no chunk of it any more, so nobody is told where one lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleting {
    /// Log index of the deletion.
    pub index: u64,
    /// Log time of the deletion. Unit: milliseconds since 1970 UTC.
    pub deleted_ms: u64,
    /// Committed chunks, and its key object: those that State knew of.
    pub object_count: u64,
    /// An upload of one of its objects may have begun. If not, there is none, and no reader of one.
    pub had_uploads: bool,
}

/// Streams, their names, and the ids that deleted streams had.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shards(Vec<Arc<Shard>>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Shard {
    /// Those whose id belongs here.
    streams: BTreeMap<StreamId, Arc<Stream>>,
    /// Ids of deleted streams that belong here.
    deleted: BTreeSet<StreamId>,
    /// Those of them of which objects may be left in the object store.
    deleting: BTreeMap<StreamId, Deleting>,
    /// Names that belong here, of streams of any shard.
    names: BTreeMap<StreamName, StreamId>,
}

impl Default for Shards {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Arc::new(Shard::default())).collect())
    }
}

impl Shards {
    pub(super) fn stream(&self, id: StreamId) -> Option<&Arc<Stream>> {
        self.of_id(id).streams.get(&id)
    }

    /// The stream, for a change; copied if an image or a reader holds it.
    pub(super) fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.of_id_mut(id).streams.get_mut(&id).map(Arc::make_mut)
    }

    pub(super) fn id(&self, name: &StreamName) -> Option<StreamId> {
        self.0.get(of_name(name)).and_then(|shard| shard.names.get(name)).copied()
    }

    pub(super) fn is_deleted(&self, id: StreamId) -> bool {
        self.of_id(id).deleted.contains(&id)
    }

    /// Adds a stream whose id and name are free.
    pub(super) fn insert(&mut self, stream: Stream) {
        let (id, name) = (stream.id, stream.name.clone());
        self.names_mut(&name).insert(name, id);
        self.of_id_mut(id).streams.insert(id, Arc::new(stream));
    }

    /// Removes a stream and remembers its id, and that it had objects.
    pub(super) fn delete(
        &mut self,
        id: StreamId,
        index: u64,
        deleted_ms: u64,
    ) -> Option<Arc<Stream>> {
        // Looked up first, so that the refusal of an unknown id copies nothing.
        self.stream(id)?;
        let stream = self.of_id_mut(id).streams.remove(&id)?;
        self.names_mut(&stream.name).remove(&stream.name);
        self.remember_deleted(id);
        let objects = stream.chunks.len() + usize::from(stream.key_object_r.is_some());
        let deleting = Deleting {
            index,
            deleted_ms,
            object_count: u64::try_from(objects).unwrap_or(u64::MAX),
            had_uploads: objects > 0 || !stream.open_seals.is_empty(),
        };
        self.remember_deleting(id, deleting);
        Some(stream)
    }

    pub(super) fn remember_deleting(&mut self, id: StreamId, deleting: Deleting) {
        self.of_id_mut(id).deleting.insert(id, deleting);
    }

    /// No object of the deleted stream is left. Whether one was until now.
    pub(super) fn objects_deleted(&mut self, id: StreamId) -> bool {
        // Looked up first, so that a repetition copies nothing.
        self.deleting(id).is_some() && self.of_id_mut(id).deleting.remove(&id).is_some()
    }

    pub(super) fn deleting(&self, id: StreamId) -> Option<&Deleting> {
        self.of_id(id).deleting.get(&id)
    }

    /// Deleted streams of which objects may be left, in no order that means anything.
    pub(super) fn all_deleting(&self) -> impl Iterator<Item = (StreamId, &Deleting)> {
        self.0.iter().flat_map(|shard| shard.deleting.iter().map(|(id, one)| (*id, one)))
    }

    pub(super) fn remember_deleted(&mut self, id: StreamId) {
        self.of_id_mut(id).deleted.insert(id);
    }

    /// All streams, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.0.iter().flat_map(|shard| shard.streams.values())
    }

    /// Ids of deleted streams, in no order that means anything.
    pub(super) fn deleted(&self) -> impl Iterator<Item = StreamId> {
        self.0.iter().flat_map(|shard| shard.deleted.iter().copied())
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.streams.len()).sum()
    }

    /// Streams whose names begin with `prefix` and come after `after`, by name.
    pub(super) fn by_name(
        &self,
        prefix: &str,
        after: Option<&StreamName>,
    ) -> impl Iterator<Item = &Arc<Stream>> {
        // A prefix that is no name is empty, or too odd for any name to begin with it.
        let first: Option<StreamName> = prefix.parse().ok();
        let from = match (&first, after) {
            (Some(first), Some(after)) if after < first => Bound::Included(first),
            (_, Some(after)) => Bound::Excluded(after),
            (Some(first), None) => Bound::Included(first),
            (None, None) => Bound::Unbounded,
        };
        let mut parts: Vec<_> = self
            .0
            .iter()
            .map(|shard| shard.names.range::<StreamName, _>((from, Bound::Unbounded)))
            .collect();
        let mut heads: BinaryHeap<_> = parts
            .iter_mut()
            .enumerate()
            .filter_map(|(part, names)| names.next().map(|(name, id)| Reverse((name, *id, part))))
            .collect();
        let prefix = prefix.to_owned();
        std::iter::from_fn(move || {
            let Reverse((name, id, part)) = heads.pop()?;
            if let Some((name, id)) = parts.get_mut(part).and_then(Iterator::next) {
                heads.push(Reverse((name, *id, part)));
            }
            Some((name, id))
        })
        .take_while(move |(name, _)| name.as_str().starts_with(&prefix))
        .filter_map(|(_, id)| self.stream(id))
    }

    fn of_id(&self, id: StreamId) -> &Shard {
        self.0.get(of_id(id)).expect("there is a shard for every number below SHARDS")
    }

    fn of_id_mut(&mut self, id: StreamId) -> &mut Shard {
        let shard = self.0.get_mut(of_id(id));
        Arc::make_mut(shard.expect("there is a shard for every number below SHARDS"))
    }

    fn names_mut(&mut self, name: &StreamName) -> &mut BTreeMap<StreamName, StreamId> {
        let shard = self.0.get_mut(of_name(name));
        &mut Arc::make_mut(shard.expect("there is a shard for every number below SHARDS")).names
    }
}

/// Ids are random: their last bits are as good as a hash.
fn of_id(id: StreamId) -> usize {
    usize::from(id.get().to_le_bytes()[0])
}

fn of_name(name: &StreamName) -> usize {
    usize::from(crc32c::crc32c(name.as_str().as_bytes()).to_le_bytes()[0])
}
