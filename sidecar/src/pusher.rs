//! The pusher: its parts, and how they start and end together.
//!
//! Where everything is comes from the [`Routes`] that are current: fixed from the settings here, and
//! changing with its namespace in a pod (`pod`).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pyramid_client::{ByteBudget, Client, connection};
use pyramid_protocol::limits::PUSHER_BYTES_MAX;
use pyramid_protocol::net::{self, Accept, Connect, TcpAccept, TcpConnect};
use pyramid_protocol::{Entropy, SystemClock, SystemEntropy};
use pyramid_storage::{Fetcher, HttpSettings, TrustError};
use pyramid_telemetry::metrics::{Certificate, Registry, WatchCertificate};
use pyramid_telemetry::ops;
use pyramid_tls::{Status, Tls};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Timing};
use crate::drain::Drain;
use crate::health::{Readiness, Vitals};
use crate::in_flight::{IN_FLIGHT_BYTES_MAX, InFlight};
use crate::local;
use crate::metrics::Metrics;
use crate::routes::{Delivery, Routes, Upstream};
use crate::status::Board;
use crate::subscription::Subscribed;

/// Of the bytes that a pusher may hold, those that are still in the windows of connections and in
/// the frames that are opened ahead of a reader.
const UNCOUNTED_BYTES: usize = 20 << 20;
/// Of those that are read ahead, what is kept for streams that hold nothing, all subscriptions
/// together.
const RESERVE_BYTES: usize = 8 << 20;
/// What all streams together read ahead beside that.
const READ_AHEAD_BYTES: usize =
    PUSHER_BYTES_MAX - UNCOUNTED_BYTES - IN_FLIGHT_BYTES_MAX - RESERVE_BYTES;
/// Chunks that are open at once, all subscriptions together, but at least one for each.
const CHUNKS_MAX: usize = 12;

/// What a pusher runs on; another one in a simulation.
#[derive(Clone)]
pub struct Environment {
    /// To the Writer.
    pub connect: Arc<dyn Connect>,
    /// To the applications.
    pub connect_application: Arc<dyn Connect>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Opens chunk locations.
    pub fetcher: Fetcher,
    /// What `connect` proves itself with, kept up to date while the pusher runs.
    pub tls: Option<Tls>,
}

/// Where a pusher listens.
#[derive(Default)]
pub struct Ports {
    /// For its application; `None`: the `Local` service is not served.
    pub local: Option<Port>,
    /// For health and metrics; `None`: they are not served.
    pub ops: Option<Port>,
}

/// An address, and the connections that come there.
pub type Port = (SocketAddr, Box<dyn Accept>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

/// The pusher serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where the `Local` service listens; `None` if it is switched off.
    pub local: Option<SocketAddr>,
    /// Where health and metrics are; `None` if they are not served.
    pub ops: Option<SocketAddr>,
}

/// Why a pusher cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Change the addresses of the Writer.
    #[error("connect to the Writer")]
    Writer(#[source] connection::Error),
    /// Change the directory, or what lies in it.
    #[error("--tls")]
    Tls(#[source] pyramid_tls::Error),
    /// Give a directory with a certificate.
    #[error(
        "{address} is not a loopback address; give --tls with the directory of key, \
             certificate and trust bundle"
    )]
    NoTls {
        /// The Writer's.
        address: String,
    },
    /// Change the file.
    #[error("--object-store-ca")]
    ObjectStoreCa(#[source] TrustError),
    /// Change the application's address.
    #[error("{address:?} is no address of an application; give host:port")]
    Application {
        /// What was given.
        address: String,
    },
    /// The `Local` service trusts everybody who can reach it.
    #[error("the local service must listen on a loopback address, not on {address}")]
    NotLoopback {
        /// What was given.
        address: SocketAddr,
    },
    /// Take another port.
    #[error("listen on {address}")]
    Listen {
        /// What was given.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Give an address.
    #[error("there is no address to listen on")]
    NoAddress,
    /// The `Local` service has ended.
    #[error("serve on {address}")]
    Serve {
        /// Where it listened.
        address: SocketAddr,
        /// Why.
        source: tonic::transport::Error,
    },
    /// A task has panicked: a bug. The pusher must be started again.
    #[error("a task of the pusher has ended")]
    Task(#[source] JoinError),
}

/// Runs a pusher over TCP until `shutdown`. `ready` is told when it serves.
///
/// # Errors
///
/// As [`Error`] says; a Writer or an application that is absent is none.
pub async fn run(
    config: Config,
    ready: oneshot::Sender<Ready>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let http = HttpSettings {
        ca_file: config.object_store_ca.clone(),
        allows_plain_http: config.object_store_http,
    };
    let mut fetcher = Fetcher::new().with_http(http).map_err(Error::ObjectStoreCa)?;
    if let Some(directory) = &config.chunk_directory {
        fetcher = fetcher.with_directory(directory.clone());
    }
    let tls = config.tls.as_deref().map(|directory| Tls::open(directory, Arc::new(SystemClock)));
    let tls = tls.transpose().map_err(Error::Tls)?;
    let environment = Environment {
        connect: to_writer(&config.writers, tls.as_ref())?,
        connect_application: Arc::new(TcpConnect),
        entropy: Arc::new(SystemEntropy),
        fetcher,
        tls,
    };
    let ports = Ports::open(&config).await?;
    run_with(config, environment, ports, ready, shutdown).await
}

/// Without TLS the records of a stream must not leave this machine.
fn to_writer(addresses: &[String], tls: Option<&Tls>) -> Result<Arc<dyn Connect>, Error> {
    if let Some(tls) = tls {
        return Ok(Arc::new(tls.connect(Arc::new(TcpConnect))));
    }
    match addresses.iter().find(|address| !net::is_loopback(address)) {
        Some(address) => Err(Error::NoTls { address: address.clone() }),
        None => Ok(Arc::new(TcpConnect)),
    }
}

impl Ports {
    /// Listens where the settings say.
    ///
    /// # Errors
    ///
    /// [`Error::NotLoopback`], [`Error::Listen`].
    pub async fn open(config: &Config) -> Result<Self, Error> {
        if let Some(address) = config.local.filter(|address| !address.ip().is_loopback()) {
            return Err(Error::NotLoopback { address });
        }
        Ok(Self { local: listen(config.local).await?, ops: listen(config.ops).await? })
    }
}

pub(crate) async fn listen(address: Option<SocketAddr>) -> Result<Option<Port>, Error> {
    let Some(address) = address else { return Ok(None) };
    let listen = |source| Error::Listen { address, source };
    let accept = TcpAccept::bind(address).await.map_err(listen)?;
    let bound = accept.local_address().map_err(listen)?;
    Ok(Some((bound, Box::new(accept))))
}

/// Runs a pusher in an environment until `shutdown`.
///
/// # Errors
///
/// As [`run`].
pub async fn run_with(
    config: Config,
    environment: Environment,
    ports: Ports,
    ready: oneshot::Sender<Ready>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Config { writers, subscriptions, pod, timing, pushes_max, readiness, .. } = config;
    let Environment { connect, connect_application, entropy, fetcher, tls } = environment;
    let call_timeout = timing.call_timeout;
    let options = connection::Options { addresses: writers, connect, entropy, call_timeout };
    let client = Client::new(options).map_err(Error::Writer)?;
    let upstream =
        Arc::new(Upstream { writer: "".into(), client, fetcher: Some(fetcher), tls: tls.clone() });
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut deliveries = Vec::new();
    for subscription in subscriptions {
        let name: Arc<str> = subscription.name.into();
        names.push(Arc::clone(&name));
        let upstream = Arc::clone(&upstream);
        deliveries.push((name, Delivery { upstream, application: subscription.application }));
    }
    let (_fixed, routes) = watch::channel(Arc::new(Routes::fixed(upstream, deliveries)));
    let mut parts = Parts {
        routes,
        subscriptions: names,
        connect_application,
        pod,
        readiness,
        pushes_max,
        timing,
        certificate: Arc::new({
            let tls = tls.clone();
            move || tls.as_ref().map(certificate)
        }),
        tasks: JoinSet::new(),
        stop: shutdown.child_token(),
    };
    if let Some(tls) = tls {
        let stop = parts.stop.clone();
        parts.tasks.spawn(async move {
            tls.watch(pyramid_tls::WATCH_EVERY, stop).await;
            Ok(())
        });
    }
    serve(parts, ports, ready, shutdown).await
}

/// What a pusher is put together from.
pub(crate) struct Parts {
    /// Where everything is now. Its sender lives as long as the pusher.
    pub(crate) routes: watch::Receiver<Arc<Routes>>,
    /// Names of all subscriptions, also of those that have no route yet.
    pub(crate) subscriptions: Vec<Arc<str>>,
    pub(crate) connect_application: Arc<dyn Connect>,
    pub(crate) pod: String,
    pub(crate) readiness: Readiness,
    pub(crate) pushes_max: usize,
    pub(crate) timing: Timing,
    pub(crate) certificate: WatchCertificate,
    /// What keeps the routes up to date.
    pub(crate) tasks: JoinSet<Result<(), Error>>,
    /// Ends everything when one task ends, so that none is left half running.
    pub(crate) stop: CancellationToken,
}

/// Runs a pusher until `shutdown`.
pub(crate) async fn serve(
    parts: Parts,
    ports: Ports,
    ready: oneshot::Sender<Ready>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Parts { routes, subscriptions, readiness, pushes_max, timing, mut tasks, stop, .. } = parts;
    let Ports { local, ops } = ports;
    let metrics = Metrics::default();
    let board = Board::new(subscriptions.iter().cloned());
    let drain = Drain::new(&stop, subscriptions.len(), timing.drain);
    let vitals =
        Arc::new(Vitals::new(readiness, board.clone(), routes.clone(), drain.pushing().clone()));
    let registry = metrics.registry(board.clone(), parts.certificate);
    let (mut watching, ops) = watch_all(ops, &vitals, registry);
    let budget = ByteBudget::new(bytes(READ_AHEAD_BYTES));
    // One more for the readers of the local service.
    let memory = part_of(&budget, subscriptions.len() + 1);
    let in_flight = InFlight::default();
    for name in subscriptions {
        let subscribed = Subscribed {
            name,
            routes: routes.clone(),
            connect: Arc::clone(&parts.connect_application),
            pod: parts.pod.clone(),
            board: board.clone(),
            metrics: metrics.clone(),
            // Turns and memory of its own: an application that hangs takes none from another one.
            memory: memory(),
            turns: Arc::new(Semaphore::new(pushes_max)),
            in_flight: in_flight.clone(),
            timing,
            drain: drain.clone(),
        };
        let stop = stop.clone();
        tasks.spawn(async move {
            subscribed.run().await?;
            // Drained, it has nothing more to do while the others go on.
            stop.cancelled().await;
            Ok(())
        });
    }
    let local = local.map(|(address, accept)| {
        let service = local::Service::new(routes, memory(), board, drain);
        tasks.spawn(local::serve(service, address, accept, stop.clone()));
        address
    });
    // Nobody may wait for it.
    drop(ready.send(Ready { local, ops }));
    vitals.serves();
    let mut outcome = Ok(());
    if tasks.is_empty() {
        shutdown.cancelled().await;
    }
    while let Some(ended) = tasks.join_next().await {
        stop.cancel();
        let ended = ended.map_err(Error::Task).flatten();
        outcome = outcome.and(ended);
    }
    watching.shutdown().await;
    outcome
}

/// Serves health and metrics as long as the returned tasks are there: until everything else has
/// ended.
fn watch_all(
    ops: Option<Port>,
    vitals: &Arc<Vitals>,
    registry: Registry,
) -> (JoinSet<()>, Option<SocketAddr>) {
    let mut watching = JoinSet::new();
    let address = ops.map(|(address, accept)| {
        watching.spawn(Arc::clone(vitals).keep_looking());
        let (health, never) = (Arc::clone(vitals), CancellationToken::new());
        watching.spawn(ops::serve(accept, health, registry, never));
        address
    });
    (watching, address)
}

/// What metrics tell of the certificate in use.
pub(crate) fn certificate(tls: &Tls) -> Certificate {
    let Status { not_after_ms, reloads, reload_failures, .. } = tls.status();
    Certificate { not_after_ms, reloads, reload_failures }
}

/// Makes the memory of one of so many parts.
fn part_of(budget: &ByteBudget, parts: usize) -> impl Fn() -> ByteBudget {
    let reserve = RESERVE_BYTES.checked_div(parts).unwrap_or(RESERVE_BYTES);
    let chunks_max = CHUNKS_MAX.checked_div(parts).unwrap_or(CHUNKS_MAX);
    let budget = budget.clone();
    move || budget.part(bytes(reserve), chunks_max)
}

fn bytes(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
