//! openraft's types, filled in. They are never written to disk as they are: [`super::log_store`]
//! turns them into the entries of `entry.rs` and back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft::vote::RaftLeaderId;
use openraft_rt_tokio::TokioRuntime;
use pyramid_protocol::pb::stored::v1 as stored;

use crate::state::Applied;
use crate::wal;

openraft::declare_raft_types!(
    /// One type configuration for production and simulation: randomness comes from a seed.
    pub(crate) TypeConfig:
        D = Payload,
        R = Arc<Applied>,
        NodeId = u64,
        Node = Node,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = DeterministicRng<TokioRuntime>,
);

pub(crate) type LogIdOf = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type VoteOf = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type EntryOf = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Node>;

/// An encoded BATCH or CONTROL entry: the very bytes that the log holds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a replica is found, and which disk it must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) host: String,
    pub(crate) disk_id: Bytes,
}

pub(crate) fn log_id(id: wal::LogId) -> LogIdOf {
    LogIdOf::new_term_index(id.term, id.index)
}

pub(crate) fn wal_log_id(id: &LogIdOf) -> wal::LogId {
    wal::LogId { term: **id.committed_leader_id(), index: id.index() }
}

pub(crate) fn vote(vote: wal::Vote) -> VoteOf {
    if vote.committed {
        VoteOf::new_committed(vote.term, vote.node_id)
    } else {
        VoteOf::new(vote.term, vote.node_id)
    }
}

pub(crate) fn wal_vote(vote: &VoteOf) -> wal::Vote {
    let leader = vote.leader_id();
    wal::Vote { term: leader.term(), node_id: *leader.node_id(), committed: vote.is_committed() }
}

pub(crate) fn membership(stored: stored::Membership) -> Result<Membership, String> {
    let configurations: Vec<BTreeSet<u64>> = stored
        .configurations
        .into_iter()
        .map(|voters| voters.node_ids.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, Node> = stored
        .nodes
        .into_iter()
        .map(|node| (node.id, Node { host: node.host, disk_id: node.disk_id }))
        .collect();
    Membership::new(configurations, nodes).map_err(|error| error.to_string())
}

pub(crate) fn stored_membership(membership: &Membership) -> stored::Membership {
    stored::Membership {
        configurations: membership
            .get_joint_config()
            .iter()
            .map(|voters| stored::Voters { node_ids: voters.iter().copied().collect() })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| stored::Node {
                id: *id,
                host: node.host.clone(),
                disk_id: node.disk_id.clone(),
            })
            .collect(),
    }
}
