//! A pusher in a pod: it starts with names only and finds everything else out.
//!
//! ```text
//! ConfigMap pyramid-bootstrap ──► bootstrap ──┬──────────────► routes ──► subscriptions, Local
//! service account token ─► issuer ─► identity ┴─► certificate ───┘
//! ```
//!
//! The start needs nothing but its ports. The configuration, the issuer and the Writers may be away
//! for as long as they like; each of them is tried again and again, said once, and taken into use
//! without a restart. What changes later is taken into use the same way.

pub mod config;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use pyramid_protocol::bootstrap::TRUST_BUNDLE_KEY;
use pyramid_protocol::net::{Connect, TcpConnect};
use pyramid_protocol::{Clock, Entropy, SystemClock, SystemEntropy};
use pyramid_tls::Tls;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::config::{Config, Timing};
use self::upstreams::Upstreams;
use crate::bootstrap::{self, Heard};
use crate::identity::Identity;
use crate::pusher::{Error, Parts, Port, Ports, Ready, certificate, listen, serve};
use crate::routes::Routes;

/// What a pusher in a pod runs on.
#[derive(Clone)]
pub struct Environment {
    /// To the issuer, the Writers and the application.
    pub connect: Arc<dyn Connect>,
    /// The time by which certificates are judged.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            connect: Arc::new(TcpConnect),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        }
    }
}

/// Runs a pusher in a pod until `shutdown`. `ready` is told when it serves.
///
/// # Errors
///
/// [`Error::Listen`], [`Error::Serve`], [`Error::Task`]; nothing that is away is one.
pub async fn run(
    config: Config,
    environment: Environment,
    ready: oneshot::Sender<Ready>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let ports =
        Ports { local: listen(Some(config.local)).await?, ops: Some(anywhere(&config.ops).await?) };
    tracing::info!(
        pod = config.pod_name,
        namespace = config.namespace,
        uid = config.pod_uid,
        subscriptions = config.subscriptions.len(),
        "the pusher starts"
    );
    let stop = shutdown.child_token();
    let absent = bootstrap::Error::Absent.to_string();
    let (heard_sender, heard) = watch::channel(Heard::Err(absent.clone()));
    let (tls_sender, tls) = watch::channel(None);
    let (routes_sender, routes) =
        watch::channel(Arc::new(Routes::waiting(&config.namespace, absent)));
    let identity = Identity {
        directory: config.identity.clone(),
        token: config.token.clone(),
        bundle: config.bootstrap.join(TRUST_BUNDLE_KEY),
        connect: Arc::clone(&environment.connect),
        clock: environment.clock,
        entropy: Arc::clone(&environment.entropy),
        timing: config.pod_timing,
    };
    let upstreams = upstreams(&config, &environment.connect, &environment.entropy);
    let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
    let poll = config.pod_timing.poll;
    let watching = bootstrap::watch(config.bootstrap, poll, heard_sender);
    let keeping = identity.keep(heard.clone(), tls_sender);
    let renewing = use_renewals(tls.clone(), config.pod_timing, stop.clone());
    let routing = keep_routes(upstreams, heard, tls.clone(), routes_sender);
    tasks.spawn(until(stop.clone(), watching));
    tasks.spawn(until(stop.clone(), keeping));
    tasks.spawn(until(stop.clone(), renewing));
    tasks.spawn(until(stop.clone(), routing));
    let whole_name = |name: &String| whole_name(&config.namespace, name).into();
    let parts = Parts {
        routes,
        subscriptions: config.subscriptions.iter().map(whole_name).collect(),
        connect_application: environment.connect,
        pod: config.pod_name,
        readiness: config.readiness,
        pushes_max: config.pushes_max,
        timing: config.timing,
        certificate: Arc::new(move || tls.borrow().as_ref().map(certificate)),
        tasks,
        stop,
    };
    serve(parts, ports, ready, shutdown).await
}

fn upstreams(config: &Config, connect: &Arc<dyn Connect>, entropy: &Arc<dyn Entropy>) -> Upstreams {
    let namespace = &config.namespace;
    let subscription = |name: &String| (name.clone(), whole_name(namespace, name).into());
    let names_all = |stream: &&String| stream.as_str() != "*";
    Upstreams {
        namespace: namespace.clone(),
        subscriptions: config.subscriptions.iter().map(subscription).collect(),
        append: config
            .append
            .iter()
            .filter(names_all)
            .map(|stream| whole_name(namespace, stream))
            .collect(),
        app_port: config.app_port,
        connect: Arc::clone(connect),
        entropy: Arc::clone(entropy),
        call_timeout: config.timing.call_timeout,
        open: BTreeMap::new(),
        missing: BTreeSet::new(),
    }
}

/// As the Writer knows it.
fn whole_name(namespace: &str, name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// Runs a task until `stop`: a call that it waits for must not hold up the end.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) -> Result<(), Error> {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = task => {}
    }
    Ok(())
}

/// Listens at the first of the addresses that this machine has.
async fn anywhere(addresses: &[SocketAddr]) -> Result<Port, Error> {
    let mut failed = Err(Error::NoAddress);
    for address in addresses {
        match listen(Some(*address)).await {
            Ok(Some(port)) => return Ok(port),
            Ok(None) => {}
            Err(error) => failed = Err(error),
        }
    }
    failed
}

/// Takes renewals into use, from the first certificate on.
async fn use_renewals(
    mut tls: watch::Receiver<Option<Tls>>,
    timing: Timing,
    stop: CancellationToken,
) {
    let first = match tls.wait_for(Option::is_some).await {
        Ok(first) => first.clone(),
        Err(_gone) => return,
    };
    if let Some(tls) = first {
        tls.watch(timing.poll, stop).await;
    }
}

/// Makes the routes anew whenever something else is known.
async fn keep_routes(
    mut upstreams: Upstreams,
    mut heard: watch::Receiver<Heard>,
    mut tls: watch::Receiver<Option<Tls>>,
    routes: watch::Sender<Arc<Routes>>,
) {
    loop {
        let (known, certificate) =
            (heard.borrow_and_update().clone(), tls.borrow_and_update().clone());
        let made = match (known, certificate) {
            (Err(why), _) => Routes::waiting(&upstreams.namespace, why),
            (Ok(_), None) => {
                let why = "the issuer has given no certificate yet".to_owned();
                Routes::waiting(&upstreams.namespace, why)
            }
            (Ok(known), Some(tls)) => upstreams.routes(&known.bootstrap, &tls),
        };
        routes.send_replace(Arc::new(made));
        tokio::select! {
            changed = heard.changed() => if changed.is_err() { return },
            changed = tls.changed() => if changed.is_err() { return },
        }
    }
}
