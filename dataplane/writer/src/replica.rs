//! One replica: its parts, and the order in which they start and stop.
//!
//! Start: lock the directory, serve (refusing, retryably), and, once the directory has an identity,
//! scan the log, start Raft, apply what is committed, win an election, then take requests. An empty
//! directory waits for `Admin.Bootstrap`; it never guesses who it is.
//!
//! Stop: long calls end, the appender answers what is on its way and refuses the rest, the shipper
//! drops its uploads (their intents stay open), Raft stops, the log writes its last block.
//!
//! What differs between production and a simulation comes in as [`Environment`].

mod environment;
mod opening;

use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::stored::v1::command::Command;
use pyramid_protocol::{Clock, Entropy};
use pyramid_storage::{ClusterId, Keks, ObjectNames, ObjectStore};
use pyramid_tls::Tls;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::environment::{Addresses, Environment};
use self::opening::{found_here, open_wal, wal_config};
use crate::admin::Found;
use crate::admission::Admission;
use crate::appender::{Appender, AppenderHandle};
use crate::attachments::Attachments;
use crate::chunks::Chunks;
use crate::config::Config;
use crate::data_dir::{self, Contents, DataDir, Identity};
use crate::disk::Disk;
use crate::health::Vitals;
use crate::live_index::LiveIndex;
use crate::member::{Member, Phase};
use crate::metrics::Metrics;
use crate::ops::Ops;
use crate::ports;
use crate::raft::{self, Consensus};
use crate::raft_thread::RaftThread;
use crate::shipper::{Shipper, ShipperHandle};
use crate::state::State;
use crate::view::View;
use crate::wal::{self, Wal};

/// The node that founds a cluster. Later ones get theirs from the log.
const FOUNDER: u64 = 1;

/// How long connections may take to end at a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a replica cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Change the settings.
    #[error("{what}")]
    Settings {
        /// Which, and how.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process has the directory. Stop that one, or choose another directory.
    #[error("open the data directory")]
    DataDir(#[source] data_dir::Error),
    /// See its variants.
    #[error("open the write-ahead log")]
    OpenLog(#[source] wal::OpenError),
    /// The disk failed under the log. Nothing unflushed was acknowledged; mend the volume, restart.
    #[error(
        "the write-ahead log stopped; nothing that was not flushed was acknowledged, mend the \
         cause and start again"
    )]
    Log(#[source] wal::Fatal),
    /// Raft stopped by itself.
    #[error("raft stopped: {0}")]
    Raft(String),
    /// A port cannot be served any more.
    #[error(transparent)]
    Serve(#[from] ports::Error),
}

impl Error {
    /// What the process ends with: 74 input or output, 75 quarantined, 76 a foreign directory,
    /// 78 settings, 73 the directory is in use, 70 anything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings { .. } => 78,
            Self::DataDir(error) => match error {
                data_dir::Error::Locked => 73,
                data_dir::Error::Io { .. } => 74,
                data_dir::Error::Quarantined { .. } => 75,
                data_dir::Error::Foreign { .. } => 76,
                data_dir::Error::Unsupported { .. } => 78,
            },
            Self::OpenLog(error) => match error {
                wal::OpenError::Io { .. } => 74,
                wal::OpenError::Quarantined { .. } => 75,
                wal::OpenError::Foreign { .. } => 76,
                wal::OpenError::Unsupported { .. } => 78,
            },
            Self::Log(wal::Fatal::Io { .. }) => 74,
            Self::Log(wal::Fatal::BudgetUsedUp { .. }) => 78,
            Self::Raft(_) | Self::Serve(_) => 70,
        }
    }
}

fn settings<E>(what: impl Into<String>) -> impl FnOnce(E) -> Error
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let what = what.into();
    move |source| Error::Settings { what, source: source.into() }
}

/// Runs until `shutdown`. `serving` is told once requests are taken, or once an empty directory
/// waits to be founded.
///
/// # Errors
///
/// Why it had to stop; only `main` ends the process for it.
pub async fn run(
    config: Config,
    environment: Environment,
    serving: impl FnOnce() + Send,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Environment { disk, store, keks, clock, entropy, writer, admin, ops, tls } = environment;
    let mut directory = DataDir::open(Arc::clone(&disk)).map_err(Error::DataDir)?;
    let (phase, phases) = watch::channel(match directory.contents() {
        Contents::Member(identity) => Phase::Starting(identity),
        Contents::Empty => Phase::Empty,
    });
    let ops = Ops::start(phases.clone(), ops, tls.clone(), &shutdown);
    let parts = Parts {
        wal: wal_config(&config, &*disk),
        config,
        disk: ops.observed_disk(disk),
        store: ops.observed_store(store),
        keks: Arc::new(keks),
        clock,
        entropy,
        metrics: Arc::clone(&ops.metrics),
        vitals: Arc::clone(&ops.vitals),
    };

    let (found, mut to_found) = mpsc::channel(1);
    let mut servers = ports::serve(phases, found, &ops, writer, admin, tls.clone(), &shutdown);
    let mut watches = keep_up_to_date(tls, &shutdown);

    let mut running = match directory.contents() {
        Contents::Member(identity) => {
            let running = Running::start(&parts, identity, &shutdown).await?;
            phase.send_replace(Phase::Serving(Arc::clone(&running.member)));
            Some(running)
        }
        Contents::Empty => None,
    };
    serving();
    let ended = loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break Ok(()),
            error = failed(running.as_mut()) => break Err(error),
            Some(served) = servers.join_next() => {
                // A server ends by itself only when its port is lost.
                break match served {
                    Ok(served) => served.map_err(Error::Serve),
                    Err(error) => Err(Error::Raft(error.to_string())),
                };
            }
            Some(Found { cluster_id, founded }) = to_found.recv() => {
                let answer = match found_here(&mut directory, cluster_id, &parts) {
                    Ok(Ok(identity)) if running.is_none() => {
                        phase.send_replace(Phase::Starting(identity));
                        let started = Running::start(&parts, identity, &shutdown).await?;
                        phase.send_replace(Phase::Serving(Arc::clone(&started.member)));
                        running = Some(started);
                        Ok(identity.node_id)
                    }
                    Ok(Ok(identity)) => Ok(identity.node_id),
                    Ok(Err(refusal)) => Err(refusal),
                    Err(error) => break Err(error),
                };
                // The caller may be gone; it asks again.
                drop(founded.send(answer));
            }
        }
    };
    shutdown.cancel();
    end_connections(&mut servers).await;
    while watches.join_next().await.is_some() {}
    drop(phase);
    let ended = match running {
        Some(running) => ended.and(running.stop().await),
        None => ended,
    };
    ops.stop().await;
    ended
}

/// Keeps the certificate up to date until `shutdown`.
fn keep_up_to_date(tls: Option<Tls>, shutdown: &CancellationToken) -> JoinSet<()> {
    let (mut watches, shutdown) = (JoinSet::new(), shutdown.clone());
    if let Some(tls) = tls {
        watches.spawn(async move { tls.watch(pyramid_tls::WATCH_EVERY, shutdown).await });
    }
    watches
}

/// Waits for calls that are there, but not for long.
async fn end_connections(servers: &mut JoinSet<Result<(), ports::Error>>) {
    let drained = async { while servers.join_next().await.is_some() {} };
    if timeout(STOP_TIMEOUT, drained).await.is_err() {
        tracing::info!("some connections did not end in time");
        servers.shutdown().await;
    }
}

/// What a member is made of.
struct Parts {
    config: Config,
    wal: wal::Config,
    disk: Arc<dyn Disk>,
    store: Arc<dyn ObjectStore>,
    keks: Arc<Keks>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<Metrics>,
    vitals: Arc<Vitals>,
}

/// Raft on its own thread; a log that is new gets its first membership.
async fn start_raft(
    thread: &RaftThread,
    parts: &Parts,
    wal: Wal,
    view: &Arc<View>,
    identity: Identity,
) -> Result<Consensus, Error> {
    let (view, timing) = (Arc::clone(view), parts.config.timing);
    let entropy = Arc::clone(&parts.entropy);
    let starting = async move {
        let consensus = raft::start(identity.node_id, wal, view, timing, &*entropy).await?;
        consensus.found(String::new(), identity.disk_id.to_vec().into()).await?;
        Ok::<_, raft::StartError>(consensus)
    };
    thread.run(starting).await.map_err(|error| Error::Raft(error.to_string()))
}

/// A member, with its tasks.
struct Running {
    member: Arc<Member>,
    consensus: Consensus,
    wal: Wal,
    raft_thread: RaftThread,
    appender: tokio::task::JoinHandle<()>,
    tasks: JoinSet<()>,
}

impl Running {
    async fn start(
        parts: &Parts,
        identity: Identity,
        shutdown: &CancellationToken,
    ) -> Result<Self, Error> {
        let Parts { config, wal, disk, store, keks, clock, entropy, metrics, vitals } = parts;
        let names = ObjectNames::new(&config.object_prefix, ClusterId::new(identity.cluster_id))
            .map_err(settings("--object-prefix"))?;
        let (wal, opened) = open_wal(Arc::clone(disk), *wal, identity).await?;
        tracing::info!(
            last = opened.last.map(|last| last.index),
            report = ?opened.report,
            "opened the write-ahead log"
        );
        let view = Arc::new(View::new(State::default(), LiveIndex::default()));
        vitals.opened(&wal, opened.committed.map(|committed| committed.index), view.progress());
        let raft_thread = RaftThread::start().map_err(settings("start a thread for raft"))?;
        let consensus = start_raft(&raft_thread, parts, wal.clone(), &view, identity).await?;
        // It ends with the thread.
        drop(raft_thread.spawn(vitals.raft_runs(consensus.clone()).keep_beating()));
        let (appender, handle) =
            Appender::new(consensus.clone(), Arc::clone(&view), Arc::clone(clock));
        let appender = raft_thread.spawn(appender.run(shutdown.clone()));

        let chunks = Chunks {
            store: Arc::clone(store),
            names,
            keks: Arc::clone(keks),
            url_life: config.url_life,
        };
        let shipper_handle =
            ShipperHandle::new(Arc::clone(&view), handle.clone(), identity.node_id, config.chunks);
        let member = Arc::new(Member {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            view,
            appender: handle,
            consensus: consensus.clone(),
            disk: Arc::clone(disk),
            wal: wal.clone(),
            chunks: chunks.clone(),
            shipper: shipper_handle.clone(),
            admission: Admission::new(config.admission),
            attachments: Attachments::default(),
            metrics: Arc::clone(metrics),
            entropy: Arc::clone(entropy),
            shutdown: shutdown.clone(),
        });
        let mut running = Self {
            member,
            consensus,
            wal: wal.clone(),
            raft_thread,
            appender,
            tasks: JoinSet::new(),
        };
        let served = running.serve(identity.cluster_id, shutdown).await;
        if let Err(error) = served.and_then(|()| running.check_keys(config)) {
            shutdown.cancel();
            // It did not start: that is what counts.
            drop(running.stop().await);
            return Err(error);
        }
        let attachments = running.member.attachments.clone();
        let serving = running.member.appender.serving();
        let leads = running.consensus.clone();
        running.tasks.spawn(attachments.follow_terms(serving, leads, shutdown.clone()));
        let (entropy, metrics) = (Arc::clone(entropy), Arc::clone(metrics));
        let shipper = Shipper::new(shipper_handle, wal, chunks, entropy, metrics);
        running.tasks.spawn(shipper.run(shutdown.clone()));
        Ok(running)
    }

    /// Waits until this replica leads and the cluster is founded in its log.
    async fn serve(
        &mut self,
        cluster_id: [u8; 16],
        shutdown: &CancellationToken,
    ) -> Result<(), Error> {
        let member = Arc::clone(&self.member);
        let founded = async {
            loop {
                serving(&member.appender).await;
                let held = member.view.read(|state, _| state.cluster_id());
                if held == Some(cluster_id) {
                    return Ok(());
                }
                let cluster_id = cluster_id.to_vec().into();
                let command = Command::Bootstrap(stored::Bootstrap { cluster_id });
                match member.command(command).await {
                    Ok(_) => {}
                    Err(refusal) if refusal.retry => {}
                    Err(refusal) => return Err(Error::Raft(refusal.message)),
                }
            }
        };
        tokio::select! {
            founded = founded => founded,
            error = failed(Some(self)) => Err(error),
            () = shutdown.cancelled() => Ok(()),
        }
    }

    /// A KEK file of another cluster would be noticed only when nothing can be shipped or read, and
    /// would wrap the keys of new streams meanwhile.
    fn check_keys(&self, config: &Config) -> Result<(), Error> {
        let chunks = &self.member.chunks;
        let opened = self.member.view.read(|state, _| {
            state.streams().try_for_each(|stream| chunks.stream_key(stream).map(|_| ()))
        });
        opened.map_err(settings(format!("--kek-file {}", config.kek_file.display())))
    }

    /// # Errors
    ///
    /// The log's last block is not on the disk. Nothing of it was acknowledged.
    async fn stop(mut self) -> Result<(), Error> {
        if let Err(error) = self.appender.await {
            tracing::warn!(%error, "the appender did not stop cleanly");
        }
        while self.tasks.join_next().await.is_some() {}
        let consensus = self.consensus.clone();
        self.raft_thread.run(async move { consensus.shutdown().await }).await;
        self.raft_thread.stop();
        let wal = self.wal;
        let closed = tokio::task::spawn_blocking(move || wal.close()).await;
        // A blocking task is lost only when the process ends.
        closed.unwrap_or(Ok(())).map_err(Error::Log)
    }
}

async fn serving(appender: &AppenderHandle) {
    let mut time = appender.serving();
    // The sender is gone only when the appender has stopped; then something else ends the replica.
    if time.wait_for(Option::is_some).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until the log or Raft stops by itself. For ever, when there is none.
async fn failed(running: Option<&mut Running>) -> Error {
    let Some(running) = running else { return std::future::pending().await };
    tokio::select! {
        biased;
        fatal = running.wal.fatal() => Error::Log(fatal),
        stopped = running.consensus.stopped() => Error::Raft(stopped),
    }
}
