//! [`Member`]: a replica that holds data of a cluster, as the services see it.

use std::sync::Arc;

use pyramid_protocol::Entropy;
use pyramid_protocol::pb::stored::v1::command::Command;
use pyramid_protocol::pb::v1::Refusal;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::appender::AppenderHandle;
use crate::attachments::Attachments;
use crate::chunks::Chunks;
use crate::data_dir::Identity;
use crate::disk::Disk;
use crate::metrics::Metrics;
use crate::raft::Consensus;
use crate::service::{command_failure, control_refusal, wal_full};
use crate::shipper::ShipperHandle;
use crate::state::ControlOutcome;
use crate::view::View;
use crate::wal::{Usage, Wal};

/// Whether this replica holds data, and whether it serves it yet.
#[derive(Clone)]
pub enum Phase {
    /// It waits to be founded.
    Empty,
    /// It holds data of a cluster and does not serve it yet: it reads its log, or stands for
    /// election. Never to be taken for an empty one, whose data are lost.
    Starting(Identity),
    /// It serves.
    Serving(Arc<Member>),
}

/// The parts that a request may need.
pub struct Member {
    /// 16 bytes, the same in every replica, volume and object of the cluster.
    pub cluster_id: [u8; 16],
    /// This replica.
    pub node_id: u64,
    /// What is applied.
    pub view: Arc<View>,
    /// Where appends and commands go.
    pub appender: AppenderHandle,
    /// Who leads, and proof of it.
    pub consensus: Consensus,
    /// Where all of this replica lies.
    pub disk: Arc<dyn Disk>,
    /// Where live records are read.
    pub wal: Wal,
    /// Where shipped records are read.
    pub chunks: Chunks,
    /// Seals on command.
    pub shipper: ShipperHandle,
    /// Bytes in flight.
    pub admission: Arc<Admission>,
    /// What pushers report.
    pub attachments: Attachments,
    /// What is counted and measured.
    pub metrics: Arc<Metrics>,
    /// Ids and keys.
    pub entropy: Arc<dyn Entropy>,
    /// Long calls end then.
    pub shutdown: CancellationToken,
}

impl Member {
    /// Proposes a command and waits until it is applied.
    ///
    /// # Errors
    ///
    /// As the state machine or the appender refused it.
    pub async fn command(&self, command: Command) -> Result<ControlOutcome, Refusal> {
        let outcome = self.outcome(command).await?;
        if let ControlOutcome::Refused(refused) = &outcome {
            return Err(control_refusal(refused));
        }
        Ok(outcome)
    }

    /// Room on the volume; 0 if the file system does not say.
    #[must_use]
    pub fn free_disk_bytes(&self) -> u64 {
        self.disk.volume().map_or(0, |volume| volume.free_bytes)
    }

    /// How much of the log's budget is used; the live index counts, since it grows with the log.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let memory_bytes = self.view.read(|_, live| live.memory_bytes());
        self.wal.usage().with(memory_bytes)
    }

    /// The same, for callers that know what to do about a refusal of the state machine.
    ///
    /// # Errors
    ///
    /// As the appender refused it.
    ///
    /// # Panics
    ///
    /// If the state machine has no outcome for a command.
    pub async fn outcome(&self, command: Command) -> Result<ControlOutcome, Refusal> {
        let usage = self.usage();
        if usage.refuses_appends() && !frees_space(&command) {
            return Err(wal_full(usage));
        }
        let (_, applied) = self.appender.command(command).await.map_err(command_failure)?;
        Ok(applied.control.clone().expect("a CONTROL entry has an outcome"))
    }
}

/// Commands that go on from the log's reserve when its budget is used up. All others wait like
/// appends: a reserve that is used up as well would stop the replica.
fn frees_space(command: &Command) -> bool {
    match command {
        Command::Bootstrap(_)
        | Command::DeleteStream(_)
        | Command::SetClosed(_)
        | Command::Trim(_)
        | Command::Seal(_)
        | Command::ChunkCommitted(_)
        | Command::SealAbandoned(_)
        | Command::StreamKeyStored(_)
        | Command::StreamObjectsDeleted(_)
        | Command::DeleteSubscription(_)
        | Command::SetFeatureLevel(_)
        | Command::SetTime(_) => true,
        Command::CreateStream(_)
        | Command::PutStream(_)
        | Command::InitProducer(_)
        | Command::PutSubscription(_) => false,
    }
}
