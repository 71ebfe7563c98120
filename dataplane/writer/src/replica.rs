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

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::net::{Accept, TcpAccept};
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::stored::v1::command::Command;
use pyramid_protocol::pb::v1::{Reason, Refusal};
use pyramid_protocol::{Clock, Entropy, SystemClock, SystemEntropy};
use pyramid_storage::{ClusterId, Keks, ObjectNames, ObjectStore};
use pyramid_tls::Tls;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin::Found;
use crate::admission::Admission;
use crate::appender::{Appender, AppenderHandle};
use crate::attachments::Attachments;
use crate::chunks::Chunks;
use crate::config::Config;
use crate::data_dir::{self, Contents, DataDir, Identity};
use crate::disk::{Disk, RealDisk};
use crate::live_index::LiveIndex;
use crate::member::{Member, Phase};
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

/// What differs between production and a simulation.
pub struct Environment {
    /// Below it lies all that this replica keeps.
    pub disk: Arc<dyn Disk>,
    /// Where chunks go.
    pub store: Arc<dyn ObjectStore>,
    /// What wraps keys.
    pub keks: Keks,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Ids, keys, elections.
    pub entropy: Arc<dyn Entropy>,
    /// Takes connections for the `Writer` service.
    pub writer: Box<dyn Accept>,
    /// Takes connections for the `Admin` service.
    pub admin: Box<dyn Accept>,
    /// What both ports prove themselves with, kept up to date while the replica runs.
    pub tls: Option<Tls>,
}

/// Where a replica listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The `Writer` service.
    pub writer: SocketAddr,
    /// The `Admin` service.
    pub admin: SocketAddr,
}

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

impl Environment {
    /// This machine's: a real disk, the object store of the settings, TCP with TLS.
    ///
    /// # Errors
    ///
    /// [`Error::Settings`]: what of it cannot be had, and which flag changes it.
    pub async fn open(
        config: &Config,
        writer: SocketAddr,
        admin: SocketAddr,
    ) -> Result<(Self, Addresses), Error> {
        let keks = Keks::load(&config.kek_file)
            .map_err(settings(format!("--kek-file {}", config.kek_file.display())))?;
        let disk = RealDisk::open(&config.data_dir)
            .map_err(settings(format!("--data-dir {}", config.data_dir.display())))?;
        let store = config
            .object_store
            .open()
            .await
            .map_err(settings(format!("--object-store {}", config.object_store)))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tls = match &config.tls {
            Some(directory) => Some(
                Tls::open(directory, Arc::clone(&clock))
                    .map_err(settings(format!("--tls {}", directory.display())))?,
            ),
            None => None,
        };
        let writer = bind("--listen", writer, tls.as_ref()).await?;
        let admin = bind("--admin-listen", admin, tls.as_ref()).await?;
        let addresses = Addresses { writer: writer.1, admin: admin.1 };
        let environment = Self {
            disk: Arc::new(disk),
            store,
            keks,
            clock,
            entropy: Arc::new(SystemEntropy),
            writer: writer.0,
            admin: admin.0,
            tls,
        };
        Ok((environment, addresses))
    }
}

async fn bind(
    flag: &str,
    address: SocketAddr,
    tls: Option<&Tls>,
) -> Result<(Box<dyn Accept>, SocketAddr), Error> {
    let what = format!("{flag} {address}");
    if tls.is_none() && !address.ip().is_loopback() {
        return Err(settings(what)(
            "without TLS only a loopback address is served; give --tls with the directory of key, \
             certificate and trust bundle",
        ));
    }
    let accept = TcpAccept::bind(address).await.map_err(settings(what.clone()))?;
    let address = accept.local_address().map_err(settings(what))?;
    let accept: Box<dyn Accept> = match tls {
        Some(tls) => Box::new(tls.accept(accept)),
        None => Box::new(accept),
    };
    Ok((accept, address))
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
    let Environment { disk, store, keks, clock, entropy, writer, admin, tls } = environment;
    let mut directory = DataDir::open(Arc::clone(&disk)).map_err(Error::DataDir)?;
    let parts = Parts {
        wal: wal_config(&config, &*disk),
        config,
        disk,
        store,
        keks: Arc::new(keks),
        clock,
        entropy,
    };

    let (phase, phases) = watch::channel(match directory.contents() {
        Contents::Member(identity) => Phase::Starting(identity),
        Contents::Empty => Phase::Empty,
    });
    let (found, mut to_found) = mpsc::channel(1);
    let mut servers = ports::serve(phases, found, writer, admin, &shutdown);
    let mut watches = JoinSet::new();
    if let Some(tls) = tls {
        let shutdown = shutdown.clone();
        watches.spawn(async move { tls.watch(pyramid_tls::WATCH_EVERY, shutdown).await });
    }

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
    let drained = async { while servers.join_next().await.is_some() {} };
    if timeout(STOP_TIMEOUT, drained).await.is_err() {
        tracing::info!("some connections did not end in time");
        servers.shutdown().await;
    }
    while watches.join_next().await.is_some() {}
    drop(phase);
    match running {
        Some(running) => ended.and(running.stop().await),
        None => ended,
    }
}

fn wal_config(config: &Config, disk: &dyn Disk) -> wal::Config {
    let bytes_max = config.wal_bytes_max.unwrap_or_else(|| match disk.volume() {
        Ok(volume) => (volume.total_bytes / 10 * 6).min(wal::WAL_BYTES_MAX),
        Err(_) => wal::WAL_BYTES_MAX,
    });
    wal::Config {
        segment_bytes: config.segment_bytes,
        ..wal::Config::new(bytes_max, config.cache_bytes_max)
    }
}

fn found_here(
    directory: &mut DataDir,
    cluster_id: [u8; 16],
    parts: &Parts,
) -> Result<Result<Identity, Refusal>, Error> {
    match directory.found(cluster_id, FOUNDER, &*parts.entropy, &parts.wal) {
        Ok(identity) => Ok(Ok(identity)),
        Err(data_dir::Error::Foreign { .. }) => Ok(Err(Refusal::new(
            Reason::Foreign,
            "this replica belongs to another cluster; give it an empty data directory",
        ))),
        // After a failed sync nothing is known about the files: a new process founds again.
        Err(error) => Err(Error::DataDir(error)),
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
}

/// A member, with its tasks.
struct Running {
    member: Arc<Member>,
    consensus: Consensus,
    wal: Wal,
    raft_thread: RaftThread,
    appender: tokio::task::JoinHandle<()>,
    shipper: JoinSet<()>,
}

impl Running {
    async fn start(
        parts: &Parts,
        identity: Identity,
        shutdown: &CancellationToken,
    ) -> Result<Self, Error> {
        let Parts { config, wal, disk, store, keks, clock, entropy } = parts;
        let names = ObjectNames::new(&config.object_prefix, ClusterId::new(identity.cluster_id))
            .map_err(settings("--object-prefix"))?;
        let (wal, opened) = Wal::open(Arc::clone(disk), *wal, &identity).map_err(Error::OpenLog)?;
        tracing::info!(
            last = opened.last.map(|last| last.index),
            report = ?opened.report,
            "opened the write-ahead log"
        );
        let view = Arc::new(View::new(State::default(), LiveIndex::default()));
        let raft_thread = RaftThread::start().map_err(settings("start a thread for raft"))?;
        let consensus = {
            let (wal, view, timing) = (wal.clone(), Arc::clone(&view), config.timing);
            let entropy = Arc::clone(entropy);
            raft_thread
                .run(async move {
                    let consensus =
                        raft::start(identity.node_id, wal, view, timing, &*entropy).await?;
                    let disk_id = identity.disk_id.to_vec().into();
                    consensus.found(String::new(), disk_id).await?;
                    Ok::<_, raft::StartError>(consensus)
                })
                .await
                .map_err(|error| Error::Raft(error.to_string()))?
        };
        let (appender, handle) =
            Appender::new(consensus.clone(), Arc::clone(&view), Arc::clone(clock));
        let appender = raft_thread.spawn(appender.run(shutdown.clone()));

        let chunks = Chunks { store: Arc::clone(store), names, keks: Arc::clone(keks) };
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
            entropy: Arc::clone(entropy),
            shutdown: shutdown.clone(),
        });
        let mut running = Self {
            member,
            consensus,
            wal: wal.clone(),
            raft_thread,
            appender,
            shipper: JoinSet::new(),
        };
        let served = running.serve(identity.cluster_id, shutdown).await;
        if let Err(error) = served.and_then(|()| running.check_keys(config)) {
            shutdown.cancel();
            // It did not start: that is what counts.
            drop(running.stop().await);
            return Err(error);
        }
        let shipper = Shipper::new(shipper_handle, wal, chunks, Arc::clone(entropy));
        running.shipper.spawn(shipper.run(shutdown.clone()));
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
        while self.shipper.join_next().await.is_some() {}
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
