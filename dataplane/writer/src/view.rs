//! What is applied, as everybody in this process sees it, and who waits for more.
//!
//! One writer, the state machine; many readers, for a moment each. After an entry is applied, the
//! streams that grew are marked in each subscriber that waits for them: a set and one wake slot. No
//! queue of records per reader exists, so a slow reader holds nothing and a wake cannot be lost.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use pyramid_protocol::StreamId;
use tokio::sync::{Notify, watch};

use crate::entry::{Entry, LogId};
use crate::live_index::LiveIndex;
use crate::state::{Applied, Change, State};

/// The applied state, shared.
pub struct View {
    applied: RwLock<Contents>,
    subscribers: Mutex<HashMap<StreamId, Vec<Arc<Subscriber>>>>,
    progress: watch::Sender<Option<LogId>>,
    configuration: watch::Sender<u64>,
}

struct Contents {
    state: State,
    live: LiveIndex,
}

#[derive(Default)]
struct Subscriber {
    grown: Mutex<BTreeSet<StreamId>>,
    wake: Notify,
}

impl View {
    /// Of a state that may hold something already.
    #[must_use]
    pub fn new(state: State, live: LiveIndex) -> Self {
        let applied = state.applied();
        Self {
            applied: RwLock::new(Contents { state, live }),
            subscribers: Mutex::default(),
            progress: watch::Sender::new(applied),
            configuration: watch::Sender::new(0),
        }
    }

    /// Applies the next entry and wakes who waits for it. Only the state machine calls this.
    pub fn apply(&self, at: LogId, entry: &Entry) -> Applied {
        let applied = {
            let mut contents = self.applied.write().unwrap_or_else(PoisonError::into_inner);
            let Contents { state, live } = &mut *contents;
            let applied = state.apply(at, entry);
            live.apply(&applied);
            applied
        };
        self.progress.send_replace(Some(at));
        if applied.change.as_ref().is_some_and(is_configuration) {
            self.configuration.send_modify(|version| *version += 1);
        }
        let changed = applied.change.as_ref().and_then(changed_stream);
        self.wake(applied.grown.iter().map(|grown| grown.stream_id).chain(changed));
        applied
    }

    /// Looks at the state. Short: appliers wait meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&State, &LiveIndex) -> T) -> T {
        let contents = self.applied.read().unwrap_or_else(PoisonError::into_inner);
        look(&contents.state, &contents.live)
    }

    /// The log id applied last, and its changes.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Option<LogId>> {
        self.progress.subscribe()
    }

    /// Counts changes of what is configured: streams made, deleted, closed or given other rights,
    /// subscriptions.
    #[must_use]
    pub fn configuration(&self) -> watch::Receiver<u64> {
        self.configuration.subscribe()
    }

    /// Begins to wait for growth of streams. Look at the state after this call, not before.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, streams: BTreeSet<StreamId>) -> Subscription {
        let subscriber = Arc::new(Subscriber::default());
        {
            let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
            for stream in &streams {
                subscribers.entry(*stream).or_default().push(Arc::clone(&subscriber));
            }
        }
        Subscription { view: Arc::clone(self), subscriber, streams }
    }

    fn wake(&self, grown: impl Iterator<Item = StreamId>) {
        let subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if subscribers.is_empty() {
            return;
        }
        for stream in grown {
            for subscriber in subscribers.get(&stream).into_iter().flatten() {
                subscriber.grown.lock().unwrap_or_else(PoisonError::into_inner).insert(stream);
                subscriber.wake.notify_one();
            }
        }
    }
}

/// Whether those who follow what is configured must look again.
fn is_configuration(change: &Change) -> bool {
    match change {
        Change::StreamCreated { .. }
        | Change::StreamDeleted { .. }
        | Change::StreamChanged { .. }
        | Change::Subscription { .. }
        | Change::Cluster => true,
        Change::KeyStored { .. }
        | Change::Sealed { .. }
        | Change::Shipped { .. }
        | Change::ObjectsDeleted { .. } => false,
    }
}

/// The stream whose readers and shipper must look again.
fn changed_stream(change: &Change) -> Option<StreamId> {
    match change {
        Change::StreamCreated { stream_id, .. }
        | Change::StreamDeleted { stream_id, .. }
        | Change::StreamChanged { stream_id }
        | Change::KeyStored { stream_id }
        | Change::Sealed { stream_id, .. }
        | Change::Shipped { stream_id, .. } => Some(*stream_id),
        Change::ObjectsDeleted { .. } | Change::Subscription { .. } | Change::Cluster => None,
    }
}

/// Waits for growth of some streams. Dropping it ends that.
pub struct Subscription {
    view: Arc<View>,
    subscriber: Arc<Subscriber>,
    streams: BTreeSet<StreamId>,
}

impl Subscription {
    /// The streams that changed since the last call; waits for one. Not empty.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when dropped.
    pub async fn changed(&self) -> BTreeSet<StreamId> {
        loop {
            let grown = std::mem::take(
                &mut *self.subscriber.grown.lock().unwrap_or_else(PoisonError::into_inner),
            );
            if !grown.is_empty() {
                return grown;
            }
            self.subscriber.wake.notified().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = self.view.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in &self.streams {
            if let Some(waiting) = subscribers.get_mut(stream) {
                waiting.retain(|subscriber| !Arc::ptr_eq(subscriber, &self.subscriber));
                if waiting.is_empty() {
                    subscribers.remove(stream);
                }
            }
        }
    }
}
