//! [`State`]: what the log has decided (formats.md 3, 6, 7, 8, 9).
//!
//! [`State::apply`] alone decides. It is pure: no clock, no randomness, no I/O; replicas that apply
//! the same entries are equal. A refusal is an [`Outcome`] and changes nothing.
//!
//! The checks of an append, in this order: stream id, duplicate, revision and open, producer,
//! expectation; then it is written.
//!
//! State knows where a stream's records lie by offset, but not where one batch ends and the next
//! begins; the live index does. So that a Seal covers whole batches is **not** checked here: whoever
//! proposes a Seal takes its end from `LiveIndex::seal_end` or `LiveIndex::is_border`. It cannot be
//! checked in apply, because a replica that began with a published snapshot has no live index for
//! what the snapshot holds, and would decide otherwise than the others. Such a replica does not
//! lead until it has one (it counts as behind until `complete_at`), so the proposer always knows.
//! A batch never changes its borders once applied, so what the proposer saw is still true in apply.
//!
//! A `clone` is an image: it shares all parts until one of them changes.

mod append;
mod chunks;
mod control;
mod image;
mod outcome;
mod producers;
mod shards;
mod stream;
mod subscriptions;

pub use chunks::Chunks;
pub use control::{CLUSTER_ID_LEN, IDENTITY_BYTES_MAX, WRAPPED_KEY_LEN};
pub use image::ImageError;
pub use outcome::{
    Appended, Applied, Change, ControlOutcome, ControlRefused, Grown, Outcome, ProducerReady,
    Refused, Written,
};
pub use producers::{Producer, Producers};
pub use shards::Deleting;
pub use stream::{DIGEST_LEN, FIRST_DIGEST, FIRST_REVISION, Stream};

use std::collections::BTreeSet;
use std::sync::Arc;

use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::{SpiffeId, StreamId, StreamName};

use crate::entry::{Entry, LogId, Stamp};
use shards::Shards;
use subscriptions::Subscriptions;

/// The feature level of a new cluster.
const FIRST_FEATURE_LEVEL: u32 = 1;

/// The state machine. See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    cluster_id: Option<[u8; CLUSTER_ID_LEN]>,
    epoch: u32,
    feature_level: u32,
    time_ms: u64,
    /// Log time that passed between the last entry of a term and the first one of the next.
    leaderless_ms: u64,
    /// Term and number of the last entry taken.
    entry_term: u64,
    entry_number: u64,
    applied: Option<LogId>,
    membership: Option<(LogId, Arc<stored::Membership>)>,
    removed_node_ids: Arc<BTreeSet<u64>>,
    streams: Shards,
    subscriptions: Arc<Subscriptions>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            cluster_id: None,
            epoch: 0,
            feature_level: FIRST_FEATURE_LEVEL,
            time_ms: 0,
            leaderless_ms: 0,
            entry_term: 0,
            entry_number: 0,
            applied: None,
            membership: None,
            removed_node_ids: Arc::default(),
            streams: Shards::default(),
            subscriptions: Arc::default(),
        }
    }
}

impl State {
    /// Applies the next entry of the log.
    ///
    /// # Panics
    ///
    /// If `at` is not the entry after the last one applied: the log has a hole or runs twice.
    pub fn apply(&mut self, at: LogId, entry: &Entry) -> Applied {
        if let Some(last) = self.applied {
            assert!(
                at.term >= last.term && last.index.checked_add(1) == Some(at.index),
                "entry {at:?} does not follow {last:?}"
            );
        }
        self.applied = Some(at);
        let mut applied = Applied {
            at,
            voided: false,
            outcomes: Vec::new(),
            control: None,
            written: Vec::new(),
            grown: Vec::new(),
            change: None,
        };
        match entry {
            Entry::Batch { stamp, ops, .. } => {
                if self.take(at, *stamp) {
                    self.append_all(ops, &mut applied);
                } else {
                    applied.voided = true;
                    applied.outcomes = vec![Outcome::Refused(Refused::Voided); ops.len()];
                }
            }
            Entry::Control { stamp, command } => {
                let outcome = if self.take(at, *stamp) {
                    self.control(at, command, &mut applied.change)
                } else {
                    applied.voided = true;
                    Err(ControlRefused::Voided)
                };
                applied.control = Some(outcome.unwrap_or_else(ControlOutcome::Refused));
            }
            Entry::Blank => {}
            Entry::Membership(membership) => self.set_membership(at, membership),
        }
        applied
    }

    /// Whether an entry has its place in the order that the appender gave it; if so, log time
    /// moves on to its time, but never backwards.
    fn take(&mut self, at: LogId, stamp: Stamp) -> bool {
        let first_of_term = self.entry_term != at.term;
        let last_number = if first_of_term { 0 } else { self.entry_number };
        if stamp.term != at.term || last_number.checked_add(1) != Some(stamp.number) {
            return false;
        }
        let time_ms = self.time_ms.max(stamp.time_ms);
        if first_of_term {
            self.leaderless_ms = self.leaderless_ms.saturating_add(time_ms - self.time_ms);
        }
        self.time_ms = time_ms;
        self.entry_term = at.term;
        self.entry_number = stamp.number;
        true
    }

    fn set_membership(&mut self, at: LogId, membership: &stored::Membership) {
        if let Some((_, before)) = &self.membership {
            let kept: BTreeSet<u64> = membership.nodes.iter().map(|node| node.id).collect();
            let removed = before.nodes.iter().map(|node| node.id).filter(|id| !kept.contains(id));
            let removed: Vec<u64> = removed.collect();
            if !removed.is_empty() {
                Arc::make_mut(&mut self.removed_node_ids).extend(removed);
            }
        }
        self.membership = Some((at, Arc::new(membership.clone())));
    }

    /// The cluster, once founded.
    #[must_use]
    pub fn cluster_id(&self) -> Option<[u8; CLUSTER_ID_LEN]> {
        self.cluster_id
    }

    /// Raised by each recovery with possible loss.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What may be proposed.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// Log time; never goes back. Unit: milliseconds since 1970 UTC; 0: no entry yet.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Log time without the steps between two terms: the clock of idleness. Unit: milliseconds.
    #[must_use]
    pub fn running_ms(&self) -> u64 {
        self.time_ms.saturating_sub(self.leaderless_ms)
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// The number of the last entry taken in `term`; the appender goes on one above.
    #[must_use]
    pub fn last_number(&self, term: u64) -> u64 {
        if self.entry_term == term { self.entry_number } else { 0 }
    }

    /// The newest membership, with the entry that brought it.
    #[must_use]
    pub fn membership(&self) -> Option<(LogId, &Arc<stored::Membership>)> {
        self.membership.as_ref().map(|(at, membership)| (*at, membership))
    }

    /// Nodes that were members once and are not now: their ids are never used again.
    #[must_use]
    pub fn removed_node_ids(&self) -> &BTreeSet<u64> {
        &self.removed_node_ids
    }

    /// The stream with this id.
    #[must_use]
    pub fn stream(&self, id: StreamId) -> Option<&Arc<Stream>> {
        self.streams.stream(id)
    }

    /// The stream that has this name now.
    #[must_use]
    pub fn stream_by_name(&self, name: &StreamName) -> Option<&Arc<Stream>> {
        self.streams.stream(self.streams.id(name)?)
    }

    /// Streams whose names begin with `prefix` and come after `after`, by name.
    pub fn streams_by_name(
        &self,
        prefix: &str,
        after: Option<&StreamName>,
    ) -> impl Iterator<Item = &Arc<Stream>> {
        self.streams.by_name(prefix, after)
    }

    /// All streams, in no order that means anything.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.streams.iter()
    }

    /// How many streams there are.
    #[must_use]
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Sealed ranges that are not shipped yet, of all streams.
    #[must_use]
    pub fn open_seal_count(&self) -> usize {
        self.streams.iter().map(|stream| stream.open_seals.len()).sum()
    }

    /// Whether a stream with this id was ever created; such an id is refused for ever.
    #[must_use]
    pub fn is_id_used(&self, id: StreamId) -> bool {
        self.streams.stream(id).is_some() || self.streams.is_deleted(id)
    }

    /// What is left to delete of a deleted stream; `None`: nothing, or the stream is alive or never was.
    #[must_use]
    pub fn deleting(&self, id: StreamId) -> Option<&Deleting> {
        self.streams.deleting(id)
    }

    /// Deleted streams of which objects may be left in the object store, in no order that means
    /// anything.
    pub fn all_deleting(&self) -> impl Iterator<Item = (StreamId, &Deleting)> {
        self.streams.all_deleting()
    }

    /// The subscription with this name.
    #[must_use]
    pub fn subscription(&self, name: &str) -> Option<&Arc<stored::Subscription>> {
        self.subscriptions.get(name)
    }

    /// Subscriptions with names after `after` (empty: all), by name.
    pub fn subscriptions(&self, after: &str) -> impl Iterator<Item = &Arc<stored::Subscription>> {
        self.subscriptions.after(after)
    }

    /// Whether an identity may read a stream because a subscription says so.
    #[must_use]
    pub fn subscription_lets_read(&self, identity: &SpiffeId, stream: &StreamName) -> bool {
        self.subscriptions.let_read(identity, stream)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
