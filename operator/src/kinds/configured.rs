//! [`Configured`]: what each Writer holds, as it was read last or as we have changed it since.
//!
//! A declaration that the Writer is known to hold is not sent again, so that a start of the operator
//! costs a few listings and not a call per object. A listing is read again every few seconds, so what
//! is wrong here does not stay wrong.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::v1 as pb;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::writers::{Founded, WriterName};
use crate::admin;

/// A Writer that has just failed to answer is not asked again at once: many objects want to know.
const FAILURE_HOLDS: Duration = Duration::from_secs(5);

/// What kind of declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Stream,
    Subscription,
}

/// A declaration in a Writer: that of the object with this namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Name {
    pub(crate) fn stream(namespace: &str, name: &str) -> Self {
        Self { kind: Kind::Stream, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn subscription(namespace: &str, name: &str) -> Self {
        Self { kind: Kind::Subscription, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// What a listing names. `None`: not a declaration of an object, and so none of ours.
    fn listed(object: &pb::ConfiguredObject) -> Option<Self> {
        let kind = match object.kind.as_str() {
            "stream" => Kind::Stream,
            "subscription" => Kind::Subscription,
            _ => return None,
        };
        let (namespace, name) = object.name.split_once('/')?;
        Some(Self { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// As the Writer knows it.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a Writer holds of one name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Declared {
    /// The object that has declared it last.
    pub(crate) object: pb::ObjectRef,
    pub(crate) content_sha256: Bytes,
    /// Streams only; 0 otherwise.
    pub(crate) stream_id: u64,
    /// Streams only.
    pub(crate) info: Option<pb::StreamInfo>,
}

impl Declared {
    /// Whether it is this declaration of this object.
    pub(crate) fn is(&self, wanted: &Wanted) -> bool {
        self.object == wanted.object && self.content_sha256 == wanted.content_sha256
    }

    /// Whether it takes no appends.
    pub(crate) fn is_closed(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.closed)
    }
}

/// What a Writer should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) object: pb::ObjectRef,
    pub(crate) content_sha256: Bytes,
}

impl Wanted {
    pub(crate) fn stream(put: &pb::PutStream) -> Self {
        let content = pb::PutStream { object: None, expected: None, ..put.clone() };
        Self { object: put.object.clone().unwrap_or_default(), content_sha256: sha256(&content) }
    }

    /// `put` with lists that are sorted, without duplicates.
    pub(crate) fn subscription(put: &pb::PutSubscription) -> Self {
        let start_from = match put.start_from() {
            pb::StartFrom::Unspecified | pb::StartFrom::Earliest => {
                stored::StoredStartFrom::Earliest
            }
            pb::StartFrom::Latest => stored::StoredStartFrom::Latest,
        };
        let mode = match put.mode() {
            pb::DeliveryMode::Unspecified | pb::DeliveryMode::Broadcast => {
                stored::StoredDeliveryMode::Broadcast
            }
            pb::DeliveryMode::Exclusive => stored::StoredDeliveryMode::Exclusive,
        };
        let content = stored::Subscription {
            object: None,
            name: put.name.clone(),
            streams: put.streams.clone(),
            start_from: start_from.into(),
            paused: put.paused,
            mode: mode.into(),
            ack_timeout_ms: put.ack_timeout_ms,
            service_accounts: put.service_accounts.clone(),
        };
        Self { object: put.object.clone().unwrap_or_default(), content_sha256: sha256(&content) }
    }
}

fn sha256(content: &impl Message) -> Bytes {
    Sha256::digest(content.encode_to_vec()).to_vec().into()
}

/// What is known of a name in a Writer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Known {
    /// `None`: it holds nothing of this name.
    pub(crate) declared: Option<Declared>,
    /// What this process has put there last: if the Writer holds something else, somebody or
    /// something has changed it.
    pub(crate) put: Option<Wanted>,
}

/// All Writers. Kept by cluster id too: a Writer that was made anew holds nothing of the old one.
#[derive(Default)]
pub(crate) struct Configured {
    writers: Mutex<HashMap<Founded, Arc<View>>>,
}

/// One Writer.
#[derive(Default)]
struct View {
    state: Mutex<State>,
    /// Held while the first listing is read, so that it is read once.
    reading: AsyncMutex<()>,
}

#[derive(Default)]
struct State {
    /// Whether a listing was read at all.
    is_read: bool,
    entries: HashMap<Name, Entry>,
    /// Counts our changes.
    changes: u64,
    failed: Option<(Instant, admin::Error)>,
}

#[derive(Default)]
struct Entry {
    known: Known,
    /// [`State::changes`] when we changed it.
    changed: u64,
    /// The uid of the Stream that found records of an earlier one. Its condition says so for good, but
    /// looks that come close together see older conditions.
    reattached: Option<String>,
}

/// A point in the order of our changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(u64);

impl View {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Configured {
    /// What the Writer holds of a name; reads its listing if that was not done yet.
    ///
    /// # Errors
    ///
    /// It could not be read.
    pub(crate) async fn known(
        &self,
        writers: &admin::Writers,
        writer: &Founded,
        name: &Name,
    ) -> Result<Known, admin::Error> {
        let view = self.view(writer);
        let _reading = view.reading.lock().await;
        {
            let state = view.state();
            if state.is_read {
                return Ok(state
                    .entries
                    .get(name)
                    .map(|one| one.known.clone())
                    .unwrap_or_default());
            }
            if let Some((_, error)) =
                state.failed.as_ref().filter(|(at, _)| at.elapsed() < FAILURE_HOLDS)
            {
                return Err(error.clone());
            }
        }
        self.read(writers, writer).await?;
        Ok(view.state().entries.get(name).map(|one| one.known.clone()).unwrap_or_default())
    }

    /// Reads the listing. Names of which the Writer holds something else than what was put.
    ///
    /// # Errors
    ///
    /// It could not be read; what was known before stays.
    pub(crate) async fn read(
        &self,
        writers: &admin::Writers,
        writer: &Founded,
    ) -> Result<Vec<Name>, admin::Error> {
        let begun = self.moment(writer);
        let Founded { name, ordinal, .. } = writer;
        let listed =
            async { writers.replica(&name.namespace, &name.name, *ordinal)?.list_config().await };
        match listed.await {
            Ok(objects) => Ok(self.replace(writer, objects, begun)),
            Err(error) => {
                self.view(writer).state().failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The Writer answers again: whoever wants to know may ask at once.
    pub(crate) fn answers(&self, writer: &WriterName) {
        let writers = self.writers();
        for (_, view) in writers.iter().filter(|(one, _)| one.name == *writer) {
            view.state().failed = None;
        }
    }

    /// All that the Writer is known to hold.
    pub(crate) fn all(&self, writer: &Founded) -> BTreeMap<Name, Declared> {
        let view = self.view(writer);
        let state = view.state();
        let declared = state.entries.iter().filter_map(|(name, one)| {
            one.known.declared.clone().map(|declared| (name.clone(), declared))
        });
        declared.collect()
    }

    /// What the Writer is known to hold of this name.
    pub(crate) fn declared(&self, writer: &Founded, name: &Name) -> Option<Declared> {
        let view = self.view(writer);
        let state = view.state();
        state.entries.get(name).and_then(|entry| entry.known.declared.clone())
    }

    /// Whether the Writer is known to hold something of this name.
    pub(crate) fn holds(&self, writer: &Founded, name: &Name) -> bool {
        let view = self.view(writer);
        let state = view.state();
        state.entries.get(name).is_some_and(|entry| entry.known.declared.is_some())
    }

    /// The Writers among `writers` that are known to hold something of this name.
    pub(crate) fn holders<'a>(&self, writers: &'a [Founded], name: &Name) -> Vec<&'a Founded> {
        writers.iter().filter(|writer| self.holds(writer, name)).collect()
    }

    /// We have declared this.
    pub(crate) fn put(&self, writer: &Founded, name: &Name, wanted: Wanted, declared: Declared) {
        self.change(writer, name, |known| {
            *known = Known { declared: Some(declared), put: Some(wanted) };
        });
    }

    /// The Stream with this uid has found records of an earlier one.
    pub(crate) fn reattached(&self, writer: &Founded, name: &Name, uid: String) {
        let view = self.view(writer);
        let mut state = view.state();
        state.entries.entry(name.clone()).or_default().reattached = Some(uid);
    }

    /// Whether the Stream with this uid has found records of an earlier one, in any Writer.
    pub(crate) fn is_reattached(&self, name: &Name, uid: Option<&str>) -> bool {
        uid.is_some()
            && self.writers().values().any(|view| {
                let state = view.state();
                state.entries.get(name).is_some_and(|entry| entry.reattached.as_deref() == uid)
            })
    }

    /// We have closed or opened the stream.
    pub(crate) fn set_closed(&self, writer: &Founded, name: &Name, closed: bool) {
        self.change(writer, name, |known| {
            if let Some(info) = known.declared.as_mut().and_then(|one| one.info.as_mut()) {
                info.closed = closed;
            }
            if closed {
                // It is not what an object asks for, so nobody is to put it right.
                known.put = None;
            }
        });
    }

    /// We have removed it.
    pub(crate) fn removed(&self, writer: &Founded, name: &Name) {
        self.change(writer, name, |known| *known = Known::default());
    }

    /// Keeps only what is known of these.
    pub(crate) fn retain(&self, writers: &[Founded]) {
        let is_one = |known: &Founded| {
            writers.iter().any(|one| one.name == known.name && one.cluster_id == known.cluster_id)
        };
        self.writers().retain(|known, _| is_one(known));
    }

    fn moment(&self, writer: &Founded) -> Moment {
        Moment(self.view(writer).state().changes)
    }

    fn change(&self, writer: &Founded, name: &Name, change: impl FnOnce(&mut Known)) {
        let view = self.view(writer);
        let mut state = view.state();
        state.changes += 1;
        let changed = state.changes;
        let entry = state.entries.entry(name.clone()).or_default();
        entry.changed = changed;
        change(&mut entry.known);
    }

    /// What we have changed while the listing was read is newer than it.
    fn replace(
        &self,
        writer: &Founded,
        objects: Vec<pb::ConfiguredObject>,
        begun: Moment,
    ) -> Vec<Name> {
        let mut listed: HashMap<Name, Declared> = objects
            .into_iter()
            .filter_map(|object| {
                let name = Name::listed(&object)?;
                let pb::ConfiguredObject { object, content_sha256, stream_id, stream, .. } = object;
                let object = object.unwrap_or_default();
                Some((name, Declared { object, content_sha256, stream_id, info: stream }))
            })
            .collect();
        let view = self.view(writer);
        let mut state = view.state();
        let mut differs = Vec::new();
        state.entries.retain(|name, entry| {
            let found = listed.remove(name);
            if entry.changed > begun.0 {
                return true;
            }
            entry.known.declared = found;
            let Known { declared, put } = &entry.known;
            if let Some(put) = put
                && !declared.as_ref().is_some_and(|one| one.is(put) && !one.is_closed())
            {
                differs.push(name.clone());
            }
            declared.is_some() || put.is_some()
        });
        for (name, declared) in listed {
            let known = Known { declared: Some(declared), put: None };
            state.entries.insert(name, Entry { known, ..Entry::default() });
        }
        state.is_read = true;
        state.failed = None;
        differs
    }

    fn view(&self, writer: &Founded) -> Arc<View> {
        // Another leader holds the same.
        let key = Founded { ordinal: 0, ..writer.clone() };
        Arc::clone(self.writers().entry(key).or_default())
    }

    fn writers(&self) -> MutexGuard<'_, HashMap<Founded, Arc<View>>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
