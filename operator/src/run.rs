//! Wires everything; one task that ends, ends all.
//!
//! At the start: settings, a client of the API server, the authority, the operator's own
//! certificate, then webhook and issuer listen, and only when the caches are read and the API server
//! is told whom to believe is this replica ready. Then it waits for the lease, and whoever has it
//! runs the controllers.

mod health;
mod lead;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use pyramid_protocol::net::TcpAccept;
use pyramid_protocol::{Clock, Entropy as _, SystemClock, SystemEntropy};
use pyramid_telemetry::logs::causes;
use pyramid_telemetry::metrics::Registry;
use pyramid_telemetry::ops;
use pyramid_tls::{Protocols, Tls};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::health::Vitals;
use self::lead::Audit;
use crate::admin::Writers;
use crate::audit::AuditMetrics;
use crate::context::{Context, MANAGER, Trust};
use crate::inject::{InjectionMetrics, Template};
use crate::issuer::{Access, Issuer};
use crate::leader::Candidate;
use crate::metrics::Metrics;
use crate::settings::{self, Settings};
use crate::webhook_bundle::{self, Filled};
use crate::{authority, identity, inject, issuer, webhook};

/// At a stop, webhook and issuer go on for this long: the API server and pods hear only then that
/// this replica is not to be asked any more.
const LAME_DUCK: Duration = Duration::from_secs(3);
/// What needs the API server at the start is tried again after this long.
const RETRY: Duration = Duration::from_secs(2);

/// Where to listen and what to read.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file of [`Settings`].
    pub settings: PathBuf,
    /// The operator's own namespace.
    pub namespace: String,
    /// The name of this pod.
    pub pod: String,
    /// HTTPS.
    pub webhook_listen: SocketAddr,
    /// gRPC over TLS.
    pub issuer_listen: SocketAddr,
    /// Health and metrics, plain HTTP.
    pub ops_listen: SocketAddr,
    /// The directory for the operator's own certificate; in memory.
    pub identity: PathBuf,
}

/// Why the operator cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Mend the chart's values.
    #[error("read the settings")]
    Settings(#[source] settings::Error),
    /// Run it in a pod with a service account, or with a kubeconfig.
    #[error("find the API server")]
    Client(#[source] kube::Error),
    /// As the text says.
    #[error("{text}")]
    Authority {
        /// With all causes.
        text: String,
    },
    /// As the text says.
    #[error("{text}")]
    Identity {
        /// With all causes.
        text: String,
    },
    /// Another program listens there.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Another replica leads; start anew as a candidate.
    #[error("{text}")]
    Lost {
        /// With all causes.
        text: String,
    },
    /// A bug, or a watch that ended. A restart begins with a clean slate.
    #[error("the task {task} has ended")]
    Ended {
        /// Its name.
        task: &'static str,
    },
    /// A bug; the log has it.
    #[error("a task panicked")]
    Panicked,
    /// The listener is broken.
    #[error("serve the issuer")]
    Issuer(#[source] tonic::transport::Error),
}

/// What a long task returns.
type Outcome = Result<&'static str, Error>;

/// Runs until `shutdown`, or until a task ends that must not.
///
/// # Errors
///
/// As [`Error`] says.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let settings = Settings::read(&config.settings).map_err(Error::Settings)?;
    let client = Client::try_default().await.map_err(Error::Client)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Some(trust) = trust(&client, &config, &settings, &*clock, &shutdown).await? else {
        return Ok(());
    };
    let place = identity::Place { directory: &config.identity, namespace: &config.namespace };
    let tls = identity::open(place, &trust, &settings, Arc::clone(&clock))
        .map_err(|error| Error::Identity { text: causes(&error) })?;
    let (sender, trust) = watch::channel(Arc::new(trust));
    let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(config.pod.clone()) };
    let metrics = Metrics::default();
    let context = Arc::new(Context {
        client: client.clone(),
        settings,
        namespace: config.namespace.clone(),
        trust,
        writers: Writers::new(&tls, metrics.clone()),
        recorder: Recorder::new(client, reporter),
        bound: Arc::default(),
        metrics,
    });
    let stop = Stop { all: shutdown, serving: CancellationToken::new() };
    let mut tasks = JoinSet::new();
    let audit = serve(&mut tasks, &config, &context, &tls, &clock, &stop).await?;
    keep_fresh(&mut tasks, &context, sender, tls, &clock, &stop);
    let candidate = Candidate {
        leases: kube::Api::namespaced(context.client.clone(), &config.namespace),
        // A container that starts again in the same pod is another holder.
        identity: format!("{}_{:016x}", config.pod, SystemEntropy.u64()),
        duration: Duration::from_secs(context.settings.waits.lease_seconds.into()),
        clock,
    };
    tasks.spawn(lead::lead(candidate, context, audit, stop.all.clone()));
    supervise(tasks, &stop).await
}

/// When what stops.
#[derive(Clone)]
struct Stop {
    /// Everything but what others still ask.
    all: CancellationToken,
    /// Webhook, issuer, health.
    serving: CancellationToken,
}

/// Waits for the first task that ends, or for the end of all after a stop.
async fn supervise(mut tasks: JoinSet<Outcome>, stop: &Stop) -> Result<(), Error> {
    loop {
        let ended = tokio::select! {
            biased;
            ended = tasks.join_next() => ended,
            () = lame_duck(stop), if !stop.serving.is_cancelled() => {
                stop.serving.cancel();
                continue;
            }
        };
        match ended {
            None => return Ok(()),
            Some(Ok(Ok(_task))) if stop.all.is_cancelled() => {}
            Some(Ok(Ok(task))) => return Err(Error::Ended { task }),
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(_panicked)) => return Err(Error::Panicked),
        }
    }
}

async fn lame_duck(stop: &Stop) {
    stop.all.cancelled().await;
    sleep(LAME_DUCK).await;
}

/// The authority; tried again while the API server does not answer. `None`: told to stop.
async fn trust(
    client: &Client,
    config: &Config,
    settings: &Settings,
    clock: &dyn Clock,
    shutdown: &CancellationToken,
) -> Result<Option<Trust>, Error> {
    loop {
        let loading =
            authority::load_or_create(client, &config.namespace, settings, clock, &SystemEntropy);
        let loaded = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(None),
            loaded = loading => loaded,
        };
        match loaded {
            Ok(trust) => return Ok(Some(trust)),
            Err(error @ authority::Error::Api { .. }) => {
                tracing::warn!("the authority is not there yet: {}", causes(&error));
            }
            Err(error) => return Err(Error::Authority { text: causes(&error) }),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(None),
            () = sleep(RETRY) => {}
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpAccept, Error> {
    TcpAccept::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// Starts webhook, issuer and health, and gives what the audit of the leader needs.
async fn serve(
    tasks: &mut JoinSet<Outcome>,
    config: &Config,
    context: &Arc<Context>,
    tls: &Tls,
    clock: &Arc<dyn Clock>,
    stop: &Stop,
) -> Result<Audit, Error> {
    let stopped = || stop.serving.clone();
    let metrics = context.metrics.clone();
    let (subscriptions, filling) = inject::watch(context.client.clone());
    let until = stopped();
    tasks.spawn(async move {
        until.run_until_cancelled(filling).await;
        Ok("cache of Subscriptions")
    });
    let injections = InjectionMetrics::default();
    let template = Template::new(env!("CARGO_PKG_VERSION"), context.settings.pusher.clone());
    let state = inject::State::new(template, subscriptions.clone(), injections.clone());
    let webhook = tls.accept_anybody(bind(config.webhook_listen).await?, Protocols::Http);
    let serving = webhook::serve(webhook, inject::router(state), metrics.clone(), stopped());
    tasks.spawn(async move {
        serving.await;
        Ok("webhook")
    });
    let (access, watch) = Access::new(subscriptions.clone());
    let filling = watch.run(context.client.clone(), stopped());
    tasks.spawn(async move {
        filling.await;
        Ok("cache of Streams")
    });
    let issuer = Issuer {
        client: context.client.clone(),
        trust: context.trust.clone(),
        access: access.clone(),
        lives: context.settings.pki,
        clock: Arc::clone(clock),
        metrics: metrics.clone(),
    };
    let listener = tls.accept_anybody(bind(config.issuer_listen).await?, Protocols::Grpc);
    let serving = issuer::serve(listener, issuer, stopped());
    tasks.spawn(async move {
        serving.await.map_err(Error::Issuer)?;
        Ok("issuer")
    });
    let audit = Audit { subscriptions, metrics: AuditMetrics::default() };
    let others = (&injections, &audit.metrics);
    let registry = metrics.registry(others, tls, context.trust.clone());
    let bundle = Filled::default();
    let filling = webhook_bundle::fill(Arc::clone(context), bundle.clone(), stop.all.clone());
    tasks.spawn(async move {
        filling.await;
        Ok("first trust bundle")
    });
    let vitals = Vitals::new(access, bundle, stop.all.clone());
    serve_ops(tasks, config, vitals, registry, stop).await?;
    Ok(audit)
}

/// Starts health and metrics.
async fn serve_ops(
    tasks: &mut JoinSet<Outcome>,
    config: &Config,
    vitals: Vitals,
    registry: Registry,
    stop: &Stop,
) -> Result<(), Error> {
    let vitals = Arc::new(vitals);
    let beating = vitals.pulse().keep_beating();
    let until = stop.serving.clone();
    tasks.spawn(async move {
        until.run_until_cancelled(beating).await;
        Ok("pulse")
    });
    let serving =
        ops::serve(bind(config.ops_listen).await?, vitals, registry, stop.serving.clone());
    tasks.spawn(async move {
        serving.await;
        Ok("health and metrics")
    });
    Ok(())
}

/// Starts what keeps authority and certificate fresh in this replica.
fn keep_fresh(
    tasks: &mut JoinSet<Outcome>,
    context: &Arc<Context>,
    sender: watch::Sender<Arc<Trust>>,
    tls: Tls,
    clock: &Arc<dyn Clock>,
    stop: &Stop,
) {
    let Context { client, settings, namespace, trust, .. } = &**context;
    let watching = authority::watch(
        client.clone(),
        namespace.clone(),
        settings.clone(),
        sender,
        stop.serving.clone(),
    );
    tasks.spawn(async move {
        watching.await;
        Ok("authority")
    });
    let keeping = identity::keep(
        tls,
        namespace.clone(),
        trust.clone(),
        settings.clone(),
        Arc::clone(clock),
        stop.serving.clone(),
    );
    tasks.spawn(async move {
        keeping.await;
        Ok("certificate")
    });
}
