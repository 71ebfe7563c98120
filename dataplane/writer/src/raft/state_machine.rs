//! openraft's state machine on [`View`]: decode, apply, answer.

use std::io;
use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::types::{
    LogIdOf, Payload, StoredMembership, TypeConfig, log_id, membership, stored_membership,
    wal_log_id,
};
use crate::entry::Entry;
use crate::view::View;

/// A snapshot would be a descriptor of a published one; none is published by this build.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NoSnapshot {}

pub(crate) struct StateMachine {
    view: Arc<View>,
}

impl StateMachine {
    pub(crate) fn new(view: Arc<View>) -> Self {
        Self { view }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = NoSnapshot;
    type SnapshotBuilder = NoBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf>, StoredMembership)> {
        let (applied, stored) = self.view.read(|state, _| {
            (state.applied(), state.membership().map(|(at, m)| (at, (**m).clone())))
        });
        let membership = match stored {
            Some((at, stored)) => StoredMembership::new(
                Some(log_id(at)),
                membership(stored).map_err(io::Error::other)?,
            ),
            None => StoredMembership::default(),
        };
        Ok((applied.map(log_id), membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((raft_entry, responder)) = entries.try_next().await? {
            let at = wal_log_id(&raft_entry.log_id);
            let entry = match raft_entry.payload {
                EntryPayload::Normal(Payload(bytes)) => {
                    Entry::decode(&bytes).map_err(|error| unknown_entry(at.index, &error))?
                }
                EntryPayload::Blank => Entry::Blank,
                EntryPayload::Membership(membership) => {
                    Entry::Membership(stored_membership(&membership))
                }
            };
            let applied = self.view.apply(at, &entry);
            if let Some(responder) = responder {
                responder.send(Arc::new(applied));
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoBuilder> {
        None
    }

    async fn get_snapshot_builder(&mut self) -> NoBuilder {
        NoBuilder
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: NoSnapshot,
    ) -> io::Result<()> {
        match snapshot {}
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, NoSnapshot>>> {
        Ok(None)
    }
}

/// Going on without the entry would make this replica differ from all others.
fn unknown_entry(index: u64, error: &crate::entry::Error) -> io::Error {
    io::Error::other(format!("log index {index}: {error}"))
}

pub(crate) struct NoBuilder;

impl RaftSnapshotBuilder<TypeConfig> for NoBuilder {
    type SnapshotData = NoSnapshot;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, NoSnapshot>> {
        Err(io::Error::other("this build publishes no snapshots"))
    }
}
