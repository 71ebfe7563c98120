//! Consensus: the only module that names openraft.
//!
//! The rest of the Writer sees [`Consensus`]: propose bytes, learn what became of them, ask for a
//! read barrier, watch who leads.
//!
//! openraft runs on a runtime of one thread of its own, so that elections and group commit never
//! wait behind requests. Its randomness comes from a seed ([`DeterministicRng`]), in production a
//! random one.

mod log_store;
mod network;
mod state_machine;
#[cfg(test)]
mod suite;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::rt::deterministic_rng::DeterministicRng;
use openraft::{Raft, ReadPolicy, ServerState, SnapshotPolicy};
use openraft_rt_tokio::TokioRuntime;
use pyramid_protocol::Entropy;
use tokio::sync::watch;

use self::log_store::LogStore;
use self::network::NoPeers;
use self::state_machine::StateMachine;
use self::types::{Node, Payload, TypeConfig};
use crate::entry::Stamp;
use crate::state::Applied;
use crate::view::View;
use crate::wal::{LogId, Wal};

/// Log entries that openraft hands to the log at once.
const APPEND_ENTRIES_MAX: u64 = 4096;

/// Timings of elections. Unit of all: as [`Duration`], resolution of 1 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A leader tells that it is there this often.
    pub heartbeat: Duration,
    /// A replica that hears nothing waits a random time from here …
    pub election_min: Duration,
    /// … to here, then stands for election.
    pub election_max: Duration,
}

/// Why Raft could not be started. The process must end.
#[derive(Debug, thiserror::Error)]
#[error("start raft: {0}")]
pub struct StartError(String);

/// What became of a proposal that was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It is in no log and never will be.
    #[error("this replica does not lead")]
    NotProposed,
    /// It was in the log; whether it will be applied is not known.
    #[error("leadership was lost while the entry was on its way")]
    Unknown,
}

/// A proposal on its way.
pub struct Proposed(
    openraft::alias::OneshotReceiverOf<TypeConfig, openraft::raft::ClientWriteResult<TypeConfig>>,
);

impl Proposed {
    /// Waits until the entry is applied here.
    ///
    /// # Errors
    ///
    /// [`ProposeError`].
    pub async fn applied(self) -> Result<(LogId, Arc<Applied>), ProposeError> {
        match self.0.await {
            Ok(Ok(written)) => Ok((types::wal_log_id(&written.log_id), written.data)),
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::NotProposed),
            // The channel closes without an answer only when Raft stops.
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }
}

/// The cloneable end of Raft.
#[derive(Clone)]
pub struct Consensus {
    raft: Raft<TypeConfig, StateMachine>,
    flushed: watch::Receiver<Stamp>,
    node_id: u64,
}

/// Starts Raft on the runtime that calls; all of openraft's tasks live there.
///
/// # Errors
///
/// The log cannot be read back, or the settings contradict each other.
pub async fn start(
    node_id: u64,
    wal: Wal,
    view: Arc<View>,
    timing: Timing,
    entropy: &dyn Entropy,
) -> Result<Consensus, StartError> {
    let config = openraft::Config {
        cluster_name: "pyramid".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        enable_pre_vote: Some(true),
        // A restarted leader must win a new term: it may not know what it had acknowledged, and
        // the appender numbers its entries within a term.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        max_append_entries: Some(APPEND_ENTRIES_MAX),
        quorum_loss_probe_interval: Some(millis(timing.election_max) * 2),
        ..openraft::Config::default()
    };
    let config = config.validate().map_err(|error| StartError(error.to_string()))?;
    let (log, flushed) = LogStore::new(wal);
    let machine = StateMachine::new(view);
    let raft = DeterministicRng::<TokioRuntime>::scope(
        entropy.u64(),
        Raft::new(node_id, Arc::new(config), NoPeers, log, machine),
    )
    .await
    .map_err(|error| StartError(error.to_string()))?;
    Ok(Consensus { raft, flushed, node_id })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Consensus {
    /// Makes this replica the only voter of a new cluster. Does nothing if there are voters.
    ///
    /// # Errors
    ///
    /// Raft has stopped.
    pub async fn found(&self, host: String, disk_id: Bytes) -> Result<(), StartError> {
        let members = BTreeMap::from([(self.node_id, Node { host, disk_id })]);
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(StartError(error.to_string())),
        }
    }

    /// Puts an encoded entry behind all that were proposed before.
    ///
    /// # Errors
    ///
    /// [`ProposeError::NotProposed`] if Raft has stopped.
    pub async fn propose(&self, payload: Bytes) -> Result<Proposed, ProposeError> {
        let (responder, answer) = ProgressResponder::complete_only();
        self.raft
            .client_write_ff(Payload(payload), Some(responder))
            .await
            .map_err(|_| ProposeError::NotProposed)?;
        Ok(Proposed(answer))
    }

    /// The stamp of the newest entry of the appender that is flushed here.
    #[must_use]
    pub fn flushed(&self) -> watch::Receiver<Stamp> {
        self.flushed.clone()
    }

    /// The term that this replica leads, if it does.
    #[must_use]
    pub fn leads(&self) -> Option<u64> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then(|| types::wal_vote(&metrics.vote).term)
    }

    /// The leader that this replica knows, if it knows one.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    /// The newest term that this replica has seen.
    #[must_use]
    pub fn term(&self) -> u64 {
        types::wal_vote(&self.raft.server_metrics().borrow_watched().vote).term
    }

    /// The last entry that is committed, as far as this replica knows.
    #[must_use]
    pub fn committed(&self) -> Option<u64> {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        metrics.cluster_committed.as_ref().map(|committed| types::wal_log_id(committed).index)
    }

    /// Waits until [`Consensus::leads`] may have changed. `false` once Raft has stopped.
    pub async fn leadership_changed(&self, since: &mut LeadershipWatch) -> bool {
        since.0.changed().await.is_ok()
    }

    /// For [`Consensus::leadership_changed`].
    #[must_use]
    pub fn watch_leadership(&self) -> LeadershipWatch {
        LeadershipWatch(self.raft.server_metrics())
    }

    /// Proves that this replica still leads and has applied all that was committed before the call.
    ///
    /// # Errors
    ///
    /// [`ProposeError::NotProposed`]: ask another replica.
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        self.raft
            .ensure_linearizable(ReadPolicy::ReadIndex)
            .await
            .map(|_| ())
            .map_err(|_| ProposeError::NotProposed)
    }

    /// Ends Raft and waits for its tasks.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
    }

    /// Waits until Raft stops by itself: a broken disk, or an entry that cannot be applied.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "raft has stopped".to_owned();
            }
        }
    }
}

/// Remembers which leadership was seen last.
pub struct LeadershipWatch(
    openraft::alias::WatchReceiverOf<TypeConfig, openraft::metrics::RaftServerMetrics<TypeConfig>>,
);
