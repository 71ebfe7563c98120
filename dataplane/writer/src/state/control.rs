//! Commands: everything that an entry can change besides appending.
//!
//! Each command checks all that it needs before it changes anything.

use std::sync::Arc;

use pyramid_protocol::limits::{ID_MAX, NAME_BYTES_MAX, SUBSCRIPTION_STREAMS_MAX};
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::{Offset, StreamId, StreamName};
use stored::command::Command;

use super::outcome::{Change, ControlOutcome, ControlRefused};
use super::producers::Init;
use super::stream::{DIGEST_LEN, FIRST_DIGEST, FIRST_REVISION, Stream};
use super::{Chunks, State};
use crate::entry::LogId;

/// Length of a cluster id. Unit: bytes.
pub const CLUSTER_ID_LEN: usize = 16;

/// Length of a 32-byte key under AES-256 key wrap. Unit: bytes.
pub const WRAPPED_KEY_LEN: usize = 40;

/// Length of a SHA-256. Unit: bytes.
const SHA256_LEN: usize = 32;

/// Longest identity of a producer: as long as a SPIFFE URI may be. Unit: bytes.
pub const IDENTITY_BYTES_MAX: usize = 2048;

type Result<T = ControlOutcome> = std::result::Result<T, ControlRefused>;

impl State {
    pub(super) fn control(
        &mut self,
        at: LogId,
        command: &Command,
        change: &mut Option<Change>,
    ) -> Result {
        if let Command::Bootstrap(command) = command {
            return self.bootstrap(command, change);
        }
        if self.cluster_id.is_none() {
            return Err(ControlRefused::NotFounded);
        }
        match command {
            Command::Bootstrap(command) => self.bootstrap(command, change),
            Command::CreateStream(command) => self.create_stream(command, change),
            Command::PutStream(command) => self.put_stream(command, change),
            Command::DeleteStream(command) => self.delete_stream(at, command, change),
            Command::SetClosed(command) => self.set_closed(command, change),
            Command::Trim(command) => self.trim(command, change),
            Command::Seal(command) => self.seal(at, command, change),
            Command::ChunkCommitted(command) => self.chunk_committed(command, change),
            Command::SealAbandoned(command) => self.seal_abandoned(command),
            Command::StreamKeyStored(command) => self.stream_key_stored(command, change),
            Command::StreamObjectsDeleted(command) => self.stream_objects_deleted(command, change),
            Command::InitProducer(command) => self.init_producer(command),
            Command::PutSubscription(command) => self.put_subscription(command, change),
            Command::DeleteSubscription(command) => self.delete_subscription(command, change),
            Command::SetFeatureLevel(command) => self.set_feature_level(command, change),
            // Its time was taken with its place, like that of every entry.
            Command::SetTime(stored::SetTime {}) => {
                Ok(ControlOutcome::TimeSet { time_ms: self.time_ms })
            }
        }
    }

    fn bootstrap(&mut self, command: &stored::Bootstrap, change: &mut Option<Change>) -> Result {
        let cluster_id = <[u8; CLUSTER_ID_LEN]>::try_from(command.cluster_id.as_ref())
            .map_err(|_| invalid("length of the cluster id"))?;
        match self.cluster_id {
            None => {
                self.cluster_id = Some(cluster_id);
                *change = Some(Change::Cluster);
            }
            Some(present) if present == cluster_id => {}
            Some(_) => return Err(ControlRefused::Foreign),
        }
        Ok(ControlOutcome::Founded)
    }

    fn create_stream(
        &mut self,
        command: &stored::CreateStream,
        change: &mut Option<Change>,
    ) -> Result {
        let object = object(command.object.as_ref())?;
        let name: StreamName = command.name.parse().map_err(|_| invalid("name of the stream"))?;
        let id = StreamId::new(command.stream_id).ok_or(invalid("id of the stream"))?;
        let wrapped_key = command.wrapped_key.clone().ok_or(invalid("no wrapped key"))?;
        if wrapped_key.wrapped.len() != WRAPPED_KEY_LEN {
            return Err(invalid("length of the wrapped key"));
        }
        if let Some(stream_id) = self.streams.id(&name) {
            return Err(ControlRefused::NameTaken { stream_id });
        }
        if self.is_id_used(id) {
            return Err(ControlRefused::IdUsed);
        }
        self.streams.insert(Stream {
            id,
            name: name.clone(),
            object: object.clone(),
            closed: false,
            revision: FIRST_REVISION,
            first: Offset::START,
            next: Offset::START,
            shipped: Offset::START,
            last_time_ms: 0,
            settings: command.settings.unwrap_or_default(),
            rights: Arc::new(command.rights.clone().unwrap_or_default()),
            wrapped_key,
            key_object_r: None,
            chunks: Chunks::default(),
            open_seals: Vec::new(),
            producers: Arc::default(),
            last_digest: FIRST_DIGEST,
            safe_offsets: Vec::new(),
        });
        *change = Some(Change::StreamCreated { stream_id: id, name });
        Ok(ControlOutcome::Created)
    }

    fn put_stream(&mut self, command: &stored::PutStream, change: &mut Option<Change>) -> Result {
        let object = object(command.object.as_ref())?;
        let stream = self.alive(command.stream_id)?;
        if command.expected.as_ref().is_some_and(|expected| *expected != stream.object) {
            return Err(ControlRefused::DeclaredSince);
        }
        not_older(&stream.object, object)?;
        let id = stream.id;
        let settings = command.settings.unwrap_or_default();
        let rights = command.rights.clone().unwrap_or_default();
        // Closed for an object that is gone: the same object cannot open it by coming late.
        let opens = command.opens_for_another && stream.closed && stream.object.uid != object.uid;
        let revision = match opens {
            true => stream.revision.checked_add(1).ok_or(ControlRefused::UsedUp)?,
            false => stream.revision,
        };
        if stream.object != *object || stream.settings != settings || *stream.rights != rights {
            let stream = self.alive_mut(id)?;
            stream.object = object.clone();
            stream.settings = settings;
            stream.rights = Arc::new(rights);
            stream.closed &= !opens;
            stream.revision = revision;
            *change = Some(Change::StreamChanged { stream_id: id });
        }
        Ok(ControlOutcome::StreamPut)
    }

    /// Wrapped key, open seals, producers and chunk references go with the stream; its id stays, and
    /// that it may have objects.
    fn delete_stream(
        &mut self,
        at: LogId,
        command: &stored::DeleteStream,
        change: &mut Option<Change>,
    ) -> Result {
        let id = StreamId::new(command.stream_id).ok_or(ControlRefused::NotFound)?;
        let time_ms = self.time_ms;
        let stream = self.streams.delete(id, at.index, time_ms).ok_or(ControlRefused::NotFound)?;
        *change = Some(Change::StreamDeleted { stream_id: id, name: stream.name.clone() });
        Ok(ControlOutcome::Deleted)
    }

    fn set_closed(&mut self, command: &stored::SetClosed, change: &mut Option<Change>) -> Result {
        let stream = self.alive(command.stream_id)?;
        if stream.closed == command.closed {
            return Ok(ControlOutcome::ClosedSet { revision: stream.revision });
        }
        let revision = stream.revision.checked_add(1).ok_or(ControlRefused::UsedUp)?;
        let id = stream.id;
        let stream = self.alive_mut(id)?;
        stream.closed = command.closed;
        stream.revision = revision;
        *change = Some(Change::StreamChanged { stream_id: id });
        Ok(ControlOutcome::ClosedSet { revision })
    }

    fn trim(&mut self, command: &stored::Trim, change: &mut Option<Change>) -> Result {
        let stream = self.alive(command.stream_id)?;
        let first = Offset::new(command.first_offset);
        if first > stream.next {
            return Err(ControlRefused::BeyondNext { next: stream.next });
        }
        if first <= stream.first {
            return Ok(ControlOutcome::Trimmed { first: stream.first });
        }
        let id = stream.id;
        self.alive_mut(id)?.first = first;
        *change = Some(Change::StreamChanged { stream_id: id });
        Ok(ControlOutcome::Trimmed { first })
    }

    /// That the range covers whole batches is the proposer's to know: see the module of State.
    fn seal(&mut self, at: LogId, command: &stored::Seal, change: &mut Option<Change>) -> Result {
        let stream = self.alive(command.stream_id)?;
        let (base, next) = (Offset::new(command.base_offset), Offset::new(command.next_offset));
        if base >= next {
            return Err(invalid("an empty range"));
        }
        if base != stream.sealed() {
            return Err(ControlRefused::NotContiguous { sealed: stream.sealed() });
        }
        if next > stream.next {
            return Err(ControlRefused::BeyondNext { next: stream.next });
        }
        let (id, intent) = (stream.id, at.index);
        self.alive_mut(id)?.open_seals.push(stored::OpenSeal {
            base_offset: base.get(),
            next_offset: next.get(),
            intent,
            uploader: command.uploader,
        });
        *change = Some(Change::Sealed { stream_id: id, intent, next });
        Ok(ControlOutcome::Sealed { intent })
    }

    fn chunk_committed(
        &mut self,
        command: &stored::ChunkCommitted,
        change: &mut Option<Change>,
    ) -> Result {
        let stream = self.alive(command.stream_id)?;
        let chunk = command.chunk.as_ref().ok_or(invalid("no chunk"))?;
        let digest_before = digest(&command.digest_before)?;
        let digest_after = digest(&command.digest_after)?;
        if chunk.head_sha256.len() != SHA256_LEN || chunk.wrapped_key.len() != WRAPPED_KEY_LEN {
            return Err(invalid("length of a hash or key of the chunk"));
        }
        if stream.key_object_r.is_none() {
            return Err(ControlRefused::KeyNotStored);
        }
        let seal = stream.open_seal(command.intent).ok_or(ControlRefused::IntentClosed)?;
        let of_seal = (seal.base_offset, seal.next_offset, seal.intent);
        if (chunk.base_offset, chunk.next_offset, chunk.intent) != of_seal {
            return Err(ControlRefused::OtherRange);
        }
        if chunk.base_offset != stream.shipped.get() {
            return Err(ControlRefused::AboveShipped { shipped: stream.shipped });
        }
        if digest_before != stream.last_digest {
            return Err(ControlRefused::OtherDigest);
        }
        let (id, next) = (stream.id, Offset::new(chunk.next_offset));
        self.alive_mut(id)?.commit(chunk.clone(), digest_after);
        *change = Some(Change::Shipped { stream_id: id, next });
        Ok(ControlOutcome::Committed)
    }

    /// A deleted stream has no open intents any more: nothing is left to change.
    fn seal_abandoned(&self, command: &stored::SealAbandoned) -> Result {
        self.deleted(command.stream_id).map(|_| ControlOutcome::Abandoned)
    }

    /// That the waits of formats.md 9 have passed is the proposer's to know.
    fn stream_objects_deleted(
        &mut self,
        command: &stored::StreamObjectsDeleted,
        change: &mut Option<Change>,
    ) -> Result {
        let stream_id = self.deleted(command.stream_id)?;
        if self.streams.objects_deleted(stream_id) {
            *change = Some(Change::ObjectsDeleted { stream_id });
        }
        Ok(ControlOutcome::ObjectsDeleted)
    }

    /// The id, if it is that of a deleted stream.
    fn deleted(&self, id: u64) -> Result<StreamId> {
        let id = StreamId::new(id).ok_or(ControlRefused::NotFound)?;
        if self.streams.stream(id).is_some() {
            return Err(ControlRefused::StreamAlive);
        }
        if self.streams.is_deleted(id) { Ok(id) } else { Err(ControlRefused::NotFound) }
    }

    /// The first key object counts: all of a stream's hold the same key.
    fn stream_key_stored(
        &mut self,
        command: &stored::StreamKeyStored,
        change: &mut Option<Change>,
    ) -> Result {
        let stream = self.alive(command.stream_id)?;
        if let Some(r) = stream.key_object_r {
            return Ok(ControlOutcome::KeyStored { r });
        }
        let id = stream.id;
        self.alive_mut(id)?.key_object_r = Some(command.r);
        *change = Some(Change::KeyStored { stream_id: id });
        Ok(ControlOutcome::KeyStored { r: command.r })
    }

    fn init_producer(&mut self, command: &stored::InitProducer) -> Result {
        if command.name.is_empty() || command.name.len() > NAME_BYTES_MAX {
            return Err(invalid("length of the producer's name"));
        }
        if command.identity.is_empty() || command.identity.len() > IDENTITY_BYTES_MAX {
            return Err(invalid("length of the producer's identity"));
        }
        if !(1..=ID_MAX).contains(&command.new_id) {
            return Err(invalid("id of the producer"));
        }
        let running_ms = self.running_ms();
        let id = self.alive(command.stream_id)?.id;
        let who = Init {
            identity: &command.identity,
            name: &command.name,
            resumes: command.resume_sequence.is_some(),
            new_id: command.new_id,
        };
        let producers = &mut self.alive_mut(id)?.producers;
        Arc::make_mut(producers).init(&who, running_ms).map(ControlOutcome::ProducerReady)
    }

    fn put_subscription(
        &mut self,
        command: &stored::PutSubscription,
        change: &mut Option<Change>,
    ) -> Result {
        let subscription = command.subscription.as_ref().ok_or(invalid("no subscription"))?;
        check_subscription(subscription)?;
        let name = &subscription.name;
        if let Some(present) = self.subscriptions.get(name) {
            let present_object = object(present.object.as_ref())?;
            not_older(present_object, object(subscription.object.as_ref())?)?;
            if **present == *subscription {
                return Ok(ControlOutcome::SubscriptionPut);
            }
        }
        Arc::make_mut(&mut self.subscriptions).insert(subscription.clone());
        *change = Some(Change::Subscription { name: name.clone() });
        Ok(ControlOutcome::SubscriptionPut)
    }

    fn delete_subscription(
        &mut self,
        command: &stored::DeleteSubscription,
        change: &mut Option<Change>,
    ) -> Result {
        if self.subscriptions.get(&command.name).is_none() {
            return Err(ControlRefused::NotFound);
        }
        Arc::make_mut(&mut self.subscriptions).remove(&command.name);
        *change = Some(Change::Subscription { name: command.name.clone() });
        Ok(ControlOutcome::SubscriptionDeleted)
    }

    /// A level that this program does not know has stopped it when the entry was decoded.
    fn set_feature_level(
        &mut self,
        command: &stored::SetFeatureLevel,
        change: &mut Option<Change>,
    ) -> Result {
        if command.level < self.feature_level {
            return Err(ControlRefused::LowerLevel { level: self.feature_level });
        }
        if command.level > self.feature_level {
            self.feature_level = command.level;
            *change = Some(Change::Cluster);
        }
        Ok(ControlOutcome::FeatureLevelSet)
    }

    fn alive(&self, id: u64) -> Result<&Arc<Stream>> {
        StreamId::new(id).and_then(|id| self.streams.stream(id)).ok_or(ControlRefused::NotFound)
    }

    fn alive_mut(&mut self, id: StreamId) -> Result<&mut Stream> {
        self.streams.stream_mut(id).ok_or(ControlRefused::NotFound)
    }
}

/// What can be wrong with a subscription, in a command or in an image.
pub(super) fn check_subscription(subscription: &stored::Subscription) -> Result<()> {
    object(subscription.object.as_ref())?;
    if subscription.name.is_empty() || subscription.name.len() > NAME_BYTES_MAX {
        return Err(invalid("length of the subscription's name"));
    }
    if !(1..=SUBSCRIPTION_STREAMS_MAX).contains(&subscription.streams.len()) {
        return Err(invalid("number of streams of the subscription"));
    }
    if !is_ascending(&subscription.streams) || !is_ascending(&subscription.service_accounts) {
        return Err(invalid("lists of the subscription are not sorted or not unique"));
    }
    if subscription.streams.iter().any(|name| name.parse::<StreamName>().is_err()) {
        return Err(invalid("name of a stream of the subscription"));
    }
    match stored::StoredStartFrom::try_from(subscription.start_from) {
        Ok(stored::StoredStartFrom::Earliest | stored::StoredStartFrom::Latest) => {}
        Ok(stored::StoredStartFrom::Unspecified) | Err(_) => return Err(invalid("start")),
    }
    match stored::StoredDeliveryMode::try_from(subscription.mode) {
        Ok(stored::StoredDeliveryMode::Broadcast | stored::StoredDeliveryMode::Exclusive) => Ok(()),
        Ok(stored::StoredDeliveryMode::Unspecified) | Err(_) => Err(invalid("delivery mode")),
    }
}

fn is_ascending<T: Ord>(list: &[T]) -> bool {
    list.is_sorted_by(|a, b| a < b)
}

pub(super) fn object(object: Option<&stored::ObjectRef>) -> Result<&stored::ObjectRef> {
    match object {
        Some(object) if !object.uid.is_empty() && object.uid.len() <= NAME_BYTES_MAX => Ok(object),
        Some(_) | None => Err(invalid("no uid of the object, or too long a one")),
    }
}

/// Another uid is another object of the same name, whose generations count anew.
fn not_older(present: &stored::ObjectRef, put: &stored::ObjectRef) -> Result<()> {
    if present.uid == put.uid && put.generation < present.generation {
        return Err(ControlRefused::OlderGeneration { generation: present.generation });
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> Result<[u8; DIGEST_LEN]> {
    <[u8; DIGEST_LEN]>::try_from(bytes).map_err(|_| invalid("length of a digest"))
}

const fn invalid(what: &'static str) -> ControlRefused {
    ControlRefused::Invalid { what }
}
