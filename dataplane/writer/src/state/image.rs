//! Images of State: one encoding for checkpoint, snapshot and hash (formats.md 4).
//!
//! Equal states are equal bytes. Log ids that are not there have an index of all ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use pyramid_protocol::limits::{ID_MAX, PRODUCER_BATCHES_MAX, PRODUCERS_PER_STREAM_MAX};
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::{Offset, StreamId, StreamName};
use sha2::{Digest, Sha256};

use super::control::{WRAPPED_KEY_LEN, check_subscription, object};
use super::producers::{Producer, Producers};
use super::shards::{Deleting, Shards};
use super::stream::{DIGEST_LEN, Stream};
use super::subscriptions::Subscriptions;
use super::{Chunks, State};
use crate::entry::{FEATURE_LEVEL_MAX, LogId};

/// The index of a log id that is not there.
const NO_INDEX: u64 = u64::MAX;

/// Why an image is not one of a State. It is damaged or of a newer program: it must not be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("image of the state is not valid: {what}")]
pub struct ImageError {
    /// What is wrong.
    pub what: String,
}

type Result<T> = std::result::Result<T, ImageError>;

impl State {
    /// The image as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.to_image().encode_to_vec().into()
    }

    /// Reads an image.
    ///
    /// # Errors
    ///
    /// If it is none, or has a part that this program does not know.
    pub fn decode(bytes: &Bytes) -> Result<Self> {
        let image = stored::State::decode(bytes.clone())
            .map_err(|error| wrong(format!("not a protobuf message: {error}")))?;
        let state = Self::from_image(image)?;
        check(state.encode() == bytes, || "not in its one form, or of a newer program".into())?;
        Ok(state)
    }

    /// SHA-256 of the image: replicas at the same index have the same.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.encode()).into()
    }

    /// The image as a message.
    #[must_use]
    pub fn to_image(&self) -> stored::State {
        let mut streams: Vec<_> = self.streams.iter().map(|stream| stream.to_image()).collect();
        streams.sort_unstable_by_key(|stream| stream.id);
        let mut used_stream_ids: Vec<_> = self.streams.deleted().map(StreamId::get).collect();
        used_stream_ids.sort_unstable();
        let mut deleting_streams: Vec<_> =
            self.streams.all_deleting().map(|(id, one)| one.to_image(id)).collect();
        deleting_streams.sort_unstable_by_key(|one| one.stream_id);
        let (applied_term, applied_index) = to_numbers(self.applied);
        let membership_id = self.membership.as_ref().map(|(at, _)| *at);
        let (membership_term, membership_index) = to_numbers(membership_id);
        stored::State {
            cluster_id: self.cluster_id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id)),
            epoch: self.epoch,
            feature_level: self.feature_level,
            time_ms: self.time_ms,
            leaderless_ms: self.leaderless_ms,
            entry_term: self.entry_term,
            entry_number: self.entry_number,
            applied_term,
            applied_index,
            membership: self.membership.as_ref().map(|(_, membership)| (**membership).clone()),
            membership_term,
            membership_index,
            streams,
            subscriptions: self.subscriptions.after("").map(|one| (**one).clone()).collect(),
            used_stream_ids,
            removed_node_ids: self.removed_node_ids.iter().copied().collect(),
            deleting_streams,
        }
    }

    /// The State of an image.
    ///
    /// # Errors
    ///
    /// If the image breaks a rule that State keeps.
    pub fn from_image(image: stored::State) -> Result<Self> {
        let cluster_id = match image.cluster_id.as_ref() {
            [] => None,
            id => Some(id.try_into().map_err(|_| wrong("length of the cluster id"))?),
        };
        check((1..=FEATURE_LEVEL_MAX).contains(&image.feature_level), || {
            format!("feature level {}, known up to {FEATURE_LEVEL_MAX}", image.feature_level)
        })?;
        check(image.leaderless_ms <= image.time_ms, || "more time than there was".into())?;
        let membership_id = from_numbers(image.membership_term, image.membership_index);
        let membership = match (membership_id, image.membership) {
            (Some(at), Some(membership)) => Some((at, Arc::new(membership))),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(wrong("half a membership")),
        };
        let mut streams = streams(image.streams, &image.used_stream_ids, image.epoch)?;
        deleting(&mut streams, image.deleting_streams)?;
        let mut subscriptions = Subscriptions::default();
        check(image.subscriptions.is_sorted_by(|a, b| a.name < b.name), || {
            "subscriptions are not sorted".into()
        })?;
        for subscription in image.subscriptions {
            check_subscription(&subscription)
                .map_err(|refused| wrong(format!("subscription: {refused:?}")))?;
            subscriptions.insert(subscription);
        }
        check(image.removed_node_ids.is_sorted_by(|a, b| a < b), || {
            "removed nodes are not sorted".into()
        })?;
        let removed_node_ids: BTreeSet<u64> = image.removed_node_ids.into_iter().collect();
        Ok(Self {
            cluster_id,
            epoch: image.epoch,
            feature_level: image.feature_level,
            time_ms: image.time_ms,
            leaderless_ms: image.leaderless_ms,
            entry_term: image.entry_term,
            entry_number: image.entry_number,
            applied: from_numbers(image.applied_term, image.applied_index),
            membership,
            removed_node_ids: Arc::new(removed_node_ids),
            streams,
            subscriptions: Arc::new(subscriptions),
        })
    }
}

fn streams(images: Vec<stored::Stream>, deleted: &[u64], epoch: u32) -> Result<Shards> {
    let mut streams = Shards::default();
    check(images.is_sorted_by(|a, b| a.id < b.id), || "streams are not sorted".into())?;
    for image in images {
        let id = image.id;
        let stream = Stream::from_image(image, epoch)
            .map_err(|error| wrong(format!("stream {id}: {}", error.what)))?;
        check(streams.id(&stream.name).is_none(), || format!("stream {id}: name used twice"))?;
        streams.insert(stream);
    }
    check(deleted.is_sorted_by(|a, b| a < b), || "used ids are not sorted".into())?;
    for id in deleted {
        let id = StreamId::new(*id).ok_or(wrong("used id out of range"))?;
        check(streams.stream(id).is_none(), || format!("stream {id}: alive and deleted"))?;
        streams.remember_deleted(id);
    }
    Ok(streams)
}

fn deleting(streams: &mut Shards, images: Vec<stored::DeletingStream>) -> Result<()> {
    check(images.is_sorted_by(|a, b| a.stream_id < b.stream_id), || {
        "streams that are being deleted are not sorted".into()
    })?;
    for image in images {
        let stored::DeletingStream { stream_id, index, deleted_ms, object_count, had_uploads } =
            image;
        let id = StreamId::new(stream_id).filter(|id| streams.is_deleted(*id));
        let id = id.ok_or_else(|| wrong(format!("stream {stream_id}: not deleted")))?;
        streams.remember_deleting(id, Deleting { index, deleted_ms, object_count, had_uploads });
    }
    Ok(())
}

impl Deleting {
    fn to_image(self, id: StreamId) -> stored::DeletingStream {
        let Self { index, deleted_ms, object_count, had_uploads } = self;
        let stream_id = id.get();
        stored::DeletingStream { stream_id, index, deleted_ms, object_count, had_uploads }
    }
}

impl Stream {
    fn to_image(&self) -> stored::Stream {
        stored::Stream {
            id: self.id.get(),
            name: self.name.to_string(),
            object: Some(self.object.clone()),
            closed: self.closed,
            revision: self.revision,
            first_offset: self.first.get(),
            next_offset: self.next.get(),
            shipped_offset: self.shipped.get(),
            last_time_ms: self.last_time_ms,
            settings: Some(self.settings),
            rights: Some((*self.rights).clone()),
            wrapped_key: Some(self.wrapped_key.clone()),
            key_object_r: self.key_object_r,
            chunks: self.chunks.iter().cloned().collect(),
            open_seals: self.open_seals.clone(),
            producers: self.producers.iter().map(|(id, one)| one.to_image(id)).collect(),
            last_digest: Bytes::copy_from_slice(&self.last_digest),
            safe_offsets: self.safe_offsets.clone(),
        }
    }

    fn from_image(image: stored::Stream, epoch: u32) -> Result<Self> {
        let object =
            object(image.object.as_ref()).map_err(|refused| wrong(format!("{refused:?}")))?.clone();
        let wrapped_key = image.wrapped_key.ok_or(wrong("no wrapped key"))?;
        check(wrapped_key.wrapped.len() == WRAPPED_KEY_LEN, || "length of the key".into())?;
        let last_digest = <[u8; DIGEST_LEN]>::try_from(image.last_digest.as_ref())
            .map_err(|_| wrong("length of the digest"))?;
        check(image.first_offset <= image.next_offset, || "first above next".into())?;
        check(image.shipped_offset <= image.next_offset, || "shipped above next".into())?;
        let safe = &image.safe_offsets;
        check(safe.is_sorted_by(|a, b| a.epoch < b.epoch), || "safe offsets not sorted".into())?;
        check(safe.last().is_none_or(|last| last.epoch <= epoch), || {
            "safe offset of a later epoch".into()
        })?;
        let mut stream = Self {
            id: StreamId::new(image.id).ok_or(wrong("id out of range"))?,
            name: image.name.parse::<StreamName>().map_err(|error| wrong(error.to_string()))?,
            object,
            closed: image.closed,
            revision: image.revision,
            first: Offset::new(image.first_offset),
            next: Offset::new(image.next_offset),
            shipped: Offset::new(image.shipped_offset),
            last_time_ms: image.last_time_ms,
            settings: image.settings.unwrap_or_default(),
            rights: Arc::new(image.rights.unwrap_or_default()),
            wrapped_key,
            key_object_r: image.key_object_r,
            chunks: Chunks::default(),
            open_seals: image.open_seals,
            producers: Arc::new(producers(image.producers)?),
            last_digest,
            safe_offsets: image.safe_offsets,
        };
        let mut end = image.chunks.first().map(|chunk| chunk.base_offset);
        for chunk in image.chunks {
            check(end == Some(chunk.base_offset), || "gap between two chunks".into())?;
            check(chunk.base_offset < chunk.next_offset, || "empty chunk".into())?;
            end = Some(chunk.next_offset);
            stream.chunks.push(chunk);
        }
        check(end.is_none_or(|end| end == image.shipped_offset), || {
            "chunks do not end at the shipped offset".into()
        })?;
        let mut sealed = image.shipped_offset;
        for seal in &stream.open_seals {
            check(seal.base_offset == sealed, || "gap between two seals".into())?;
            check(seal.base_offset < seal.next_offset, || "empty seal".into())?;
            sealed = seal.next_offset;
        }
        check(sealed <= image.next_offset, || "sealed above next".into())?;
        Ok(stream)
    }
}

fn producers(images: Vec<stored::ProducerState>) -> Result<Producers> {
    check(images.len() <= PRODUCERS_PER_STREAM_MAX, || "too many producers".into())?;
    check(images.is_sorted_by(|a, b| a.id < b.id), || "producers are not sorted".into())?;
    let mut producers = Producers::default();
    let mut names = BTreeSet::new();
    for image in images {
        let id = image.id;
        check((1..=ID_MAX).contains(&id), || "producer id out of range".into())?;
        let producer = Producer::from_image(image)?;
        check(names.insert((producer.identity.clone(), producer.name.clone())), || {
            format!("producer {id}: name used twice")
        })?;
        producers.by_id.insert(id, Arc::new(producer));
    }
    Ok(producers)
}

impl Producer {
    fn to_image(&self, id: u64) -> stored::ProducerState {
        stored::ProducerState {
            id,
            identity: self.identity.clone(),
            name: self.name.clone(),
            epoch: self.epoch,
            next_sequence: self.next_sequence,
            last_used_ms: self.last_used_ms,
            batches: self.batches.iter().copied().collect(),
        }
    }

    fn from_image(image: stored::ProducerState) -> Result<Self> {
        check(image.batches.len() <= PRODUCER_BATCHES_MAX, || "too many batches".into())?;
        let mut sequence = image.batches.first().map(|batch| batch.first_sequence);
        for batch in &image.batches {
            check(sequence == Some(batch.first_sequence), || "gap between two batches".into())?;
            sequence = batch.first_sequence.checked_add(batch.record_count.into());
        }
        check(sequence.unwrap_or(0) == image.next_sequence, || {
            format!("producer {}: batches do not end at its next sequence", image.id)
        })?;
        Ok(Self {
            identity: image.identity,
            name: image.name,
            epoch: image.epoch,
            next_sequence: image.next_sequence,
            last_used_ms: image.last_used_ms,
            batches: image.batches.into(),
        })
    }
}

fn to_numbers(id: Option<LogId>) -> (u64, u64) {
    id.map_or((0, NO_INDEX), |id| (id.term, id.index))
}

fn from_numbers(term: u64, index: u64) -> Option<LogId> {
    (index != NO_INDEX).then_some(LogId { term, index })
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(wrong(what())) }
}

fn wrong(what: impl Into<String>) -> ImageError {
    ImageError { what: what.into() }
}
