//! The pusher: one attachment per subscription, one worker per stream.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pyramid_client::{ByteBudget, Client, connection};
use pyramid_protocol::limits::PUSHER_BYTES_MAX;
use pyramid_protocol::net::{self, Accept, Connect, TcpAccept, TcpConnect};
use pyramid_protocol::pb::v1::{self as pb, PushState, StartFrom};
use pyramid_protocol::{Entropy, StreamName, SystemClock, SystemEntropy};
use pyramid_storage::{Fetcher, HttpSettings, TrustError};
use pyramid_telemetry::metrics::{Certificate, Registry};
use pyramid_telemetry::ops;
use pyramid_tls::{Status, Tls};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::application::Application;
use crate::attachment::{Assigned, Attachment};
use crate::config::{Config, Subscription};
use crate::health::Vitals;
use crate::in_flight::{IN_FLIGHT_BYTES_MAX, InFlight};
use crate::local;
use crate::metrics::Metrics;
use crate::source::Reading;
use crate::status::{Board, Place};
use crate::stream_worker::{Settings, Shared, StreamWorker};

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

async fn listen(address: Option<SocketAddr>) -> Result<Option<Port>, Error> {
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
    let metrics = Metrics::default();
    let client = Client::new(connection::Options {
        addresses: writers,
        connect: environment.connect,
        entropy: environment.entropy,
        call_timeout: timing.call_timeout,
    })
    .map_err(Error::Writer)?;
    let names = subscriptions.iter().map(|subscription| subscription.name.as_str().into());
    let board = Board::new(names);
    let reading = Reading {
        client: client.clone(),
        fetcher: Some(environment.fetcher),
        budget: ByteBudget::new(bytes(READ_AHEAD_BYTES)),
        metrics: metrics.clone(),
    };
    let shared = Shared {
        reading,
        board: board.clone(),
        turns: Arc::new(Semaphore::new(pushes_max)),
        in_flight: InFlight::default(),
        timing,
    };
    let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
    // Ends everything when one task ends, so that none is left half running.
    let stop = shutdown.child_token();
    let vitals = Arc::new(Vitals::new(readiness, board.clone(), stop.clone()));
    let Ports { local, ops } = ports;
    let registry = {
        let tls = environment.tls.clone();
        metrics.registry(board.clone(), Arc::new(move || tls.as_ref().map(certificate)))
    };
    let (mut watching, ops) = watch_all(ops, &vitals, registry);
    if let Some(tls) = environment.tls {
        let stop = stop.clone();
        tasks.spawn(async move {
            tls.watch(pyramid_tls::WATCH_EVERY, stop).await;
            Ok(())
        });
    }
    // One more for the readers of the local service.
    let parts = subscriptions.len() + 1;
    for subscription in subscriptions {
        // Turns and memory of its own: an application that hangs takes none from another one.
        let turns = Arc::new(Semaphore::new(pushes_max));
        let reading = part_of(&shared.reading, parts);
        let shared = Shared { turns, reading, ..shared.clone() };
        let connect = Arc::clone(&environment.connect_application);
        tasks.spawn(serve_subscription(shared, subscription, connect, pod.clone(), stop.clone())?);
    }
    let local = local.map(|(address, accept)| {
        let service = local::Service::new(client, part_of(&shared.reading, parts), board);
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

/// Keeps one subscription attached and pushes its streams, until it is stopped.
///
/// # Errors
///
/// [`Error::Application`].
fn serve_subscription(
    shared: Shared,
    subscription: Subscription,
    connect: Arc<dyn Connect>,
    pod: String,
    stop: CancellationToken,
) -> Result<impl Future<Output = Result<(), Error>> + Send + 'static, Error> {
    let Subscription { name, application } = subscription;
    let application = Application::new(connect, &application)
        .map_err(|_invalid| Error::Application { address: application.clone() })?;
    let (assignment, assigned) = watch::channel(None);
    let subscription: Arc<str> = name.into();
    let attachment = Attachment {
        client: shared.reading.client.clone(),
        board: shared.board.clone(),
        subscription: Arc::clone(&subscription),
        pod,
        assignment,
        metrics: shared.reading.metrics.clone(),
    };
    let workers = Workers::new(shared, subscription, application);
    Ok(async move {
        let ((), worked) =
            tokio::join!(attachment.run(stop.clone()), workers.run(assigned, stop.clone()));
        worked
    })
}

fn certificate(tls: &Tls) -> Certificate {
    let Status { not_after_ms, reloads, reload_failures, .. } = tls.status();
    Certificate { not_after_ms, reloads, reload_failures }
}

/// The memory of one of so many parts.
fn part_of(reading: &Reading, parts: usize) -> Reading {
    let reserve = RESERVE_BYTES.checked_div(parts).unwrap_or(RESERVE_BYTES);
    let chunks_max = CHUNKS_MAX.checked_div(parts).unwrap_or(CHUNKS_MAX);
    Reading { budget: reading.budget.part(bytes(reserve), chunks_max), ..reading.clone() }
}

fn bytes(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The workers of one subscription.
struct Workers {
    shared: Shared,
    subscription: Arc<str>,
    application: Application,
    running: BTreeMap<StreamName, Running>,
    tasks: JoinSet<StreamName>,
}

struct Running {
    settings: watch::Sender<Settings>,
    stop: CancellationToken,
}

impl Workers {
    fn new(shared: Shared, subscription: Arc<str>, application: Application) -> Self {
        Self { shared, subscription, application, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Keeps one worker for each assigned stream, until it is stopped and all have ended.
    async fn run(
        mut self,
        mut assigned: watch::Receiver<Option<Assigned>>,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let mut is_first = true;
        loop {
            let assignment = assigned.borrow_and_update().clone();
            if let Some(Assigned { number, assignment }) = assignment {
                self.agree(&assignment, &stop);
                self.shared.board.agreed(&self.subscription, number);
                if std::mem::take(&mut is_first) {
                    self.shared.board.assigned();
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = assigned.changed() => if changed.is_err() { break },
                Some(ended) = self.tasks.join_next() => self.ended(ended)?,
            }
        }
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended)?;
        }
        Ok(())
    }

    /// A worker that was stopped may have to be started again by now; the next agreement does it.
    fn ended(&mut self, ended: Result<StreamName, JoinError>) -> Result<(), Error> {
        let stream = ended.map_err(Error::Task)?;
        self.running.remove(&stream);
        self.shared.board.remove(&self.place(&stream));
        Ok(())
    }

    /// Starts, changes and stops workers.
    fn agree(&mut self, assignment: &pb::Assignment, stop: &CancellationToken) {
        let push_timeout = match assignment.ack_timeout_ms {
            0 => self.shared.timing.push_timeout,
            ms => Duration::from_millis(ms.into()),
        };
        let start_from = match assignment.start_from() {
            StartFrom::Latest => StartFrom::Latest,
            StartFrom::Earliest | StartFrom::Unspecified => StartFrom::Earliest,
        };
        let mut wanted = BTreeMap::new();
        for assigned in &assignment.streams {
            let Ok(stream) = assigned.stream.parse::<StreamName>() else {
                tracing::error!(
                    "the Writer assigned {:?}, which is no stream name",
                    assigned.stream
                );
                continue;
            };
            let settings = assigned.stream_id.map(|stream_id| Settings {
                stream_id,
                start_from,
                paused: assignment.paused,
                push_timeout,
            });
            wanted.insert(stream, settings);
        }
        for (stream, running) in &self.running {
            if !matches!(wanted.get(stream), Some(Some(_))) {
                running.stop.cancel();
            }
        }
        for (stream, settings) in wanted {
            match (settings, self.running.get(&stream)) {
                (Some(settings), Some(running)) => {
                    running
                        .settings
                        .send_if_modified(|now| std::mem::replace(now, settings) != settings);
                }
                (Some(settings), None) => self.start(stream, settings, stop),
                (None, Some(_)) => {}
                (None, None) => {
                    self.shared.board.update(&self.place(&stream), |status| {
                        status.state = PushState::Retrying;
                        "the stream does not exist".clone_into(&mut status.message);
                    });
                }
            }
        }
    }

    fn start(&mut self, stream: StreamName, settings: Settings, stop: &CancellationToken) {
        self.shared.board.update(&self.place(&stream), |status| status.state = PushState::Asking);
        let (settings, heard) = watch::channel(settings);
        let stop = stop.child_token();
        let worker = StreamWorker::new(
            self.shared.clone(),
            self.place(&stream),
            self.application.clone(),
            heard,
            stop.clone(),
        );
        self.running.insert(stream.clone(), Running { settings, stop });
        self.tasks.spawn(async move {
            worker.run().await;
            stream
        });
    }

    fn place(&self, stream: &StreamName) -> Place {
        Place { subscription: Arc::clone(&self.subscription), stream: stream.clone() }
    }
}
