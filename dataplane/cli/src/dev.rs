//! `pyramid dev`: a Writer of one replica and a pusher in one process, on one directory.
//!
//! Start: lock the directory, make its key and certificates, start the Writer, found its cluster if
//! it is new, declare what is subscribed, start the pusher, say where everything is. Each step may be
//! the last one before a crash: the next start finds it done or does it again.
//!
//! Stop: the pusher, then the Writer. A second signal ends the process at once, which loses nothing
//! that was acknowledged.

mod banner;
pub(crate) mod certificates;
mod declare;
pub(crate) mod folder;
pub(crate) mod running;
mod signals;
pub(crate) mod store;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use pyramid_protocol::net::TcpConnect;
use pyramid_protocol::{StreamName, SystemClock};
use pyramid_sidecar::config::Timing;
use pyramid_sidecar::health::Readiness;
use pyramid_telemetry::logs::{self, LogFormat};
use pyramid_tls::Tls;
use pyramid_writer::config::{Config, LimitArgs, ReplicaArgs, WaitArgs};
use pyramid_writer::replica::{self, Addresses, Environment};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::certificates::Certificates;
use self::folder::Folder;
use self::running::Running;
use self::signals::Signals;
use self::store::Store;
use crate::connection::DATA_DIR;
use crate::connection::admin::{Admin, Caller};
use crate::output::{Closed, Output, remark};

/// Pushes of different streams that may be on their way at once.
const PUSHES_MAX: usize = 64;

/// What a clean end says.
const STOPPED: &str = "stopped; everything acknowledged is on disk";

/// The exit code of a process that a second signal ends.
const INTERRUPTED: i32 = 130;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pyramid dev
  pyramid dev --subscribe orders=50051         push the stream `orders` to an application that
                                               serves pyramid.v1.Consumer on 127.0.0.1:50051
  pyramid dev --object-store s3://orders --s3-endpoint https://s3.example.org --s3-credentials keys
                                               chunks in a bucket; keys/accessKeyId and
                                               keys/secretAccessKey open it
  pyramid dev --data-dir /tmp/a --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \\
              --local-listen 127.0.0.1:0       a second one, on free ports")]
pub(crate) struct Args {
    /// Where everything is kept: log, chunks and the key that encrypts them. Made if it is missing.
    #[arg(long, env = "PYRAMID_DATA_DIR", default_value = DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,

    /// Push a stream to the application on this port of 127.0.0.1, each record exactly once. The
    /// stream is created if it does not exist. May be given several times.
    #[arg(long, value_name = "STREAM=PORT", value_parser = subscription)]
    subscribe: Vec<Subscribed>,

    /// Where producers and commands connect. Port 0: a free one, printed.
    #[arg(long, env = "PYRAMID_LISTEN", default_value = "127.0.0.1:7400", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// Where streams are created and removed. Port 0: a free one, printed.
    #[arg(
        long,
        env = "PYRAMID_ADMIN_LISTEN",
        default_value = "127.0.0.1:7402",
        value_name = "ADDRESS"
    )]
    admin_listen: SocketAddr,

    /// Where applications append and read through the pusher. Port 0: a free one, printed.
    #[arg(
        long,
        env = "PYRAMID_LOCAL_LISTEN",
        default_value = "127.0.0.1:7410",
        value_name = "ADDRESS"
    )]
    local_listen: SocketAddr,

    /// Where health and metrics of the Writer are served, as plain HTTP. Port 0: a free one,
    /// printed.
    #[arg(long, env = "PYRAMID_OPS_LISTEN", default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    ops_listen: SocketAddr,

    /// The same for the pusher.
    #[arg(
        long,
        env = "PYRAMID_PUSHER_OPS_LISTEN",
        default_value = "127.0.0.1:0",
        value_name = "ADDRESS"
    )]
    pusher_ops_listen: SocketAddr,

    #[command(flatten)]
    store: store::Args,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    waits: WaitArgs,

    /// What is logged to standard error: a level, or more finely `pyramid_writer=debug,warn`.
    #[arg(
        long,
        env = "PYRAMID_LOG",
        default_value = "warn,pyramid_sidecar=info",
        value_name = "FILTER"
    )]
    log: String,

    /// How log lines look.
    #[arg(long, env = "PYRAMID_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
}

/// A stream, and where its application serves.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subscribed {
    stream: StreamName,
    port: u16,
}

impl Subscribed {
    /// The subscription of the Writer that it is.
    fn name(&self) -> String {
        format!("dev-{}", self.stream)
    }

    fn application(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

fn subscription(text: &str) -> Result<Subscribed, String> {
    let expected = "give STREAM=PORT, with the port on which the application serves";
    let (stream, port) = text.rsplit_once('=').ok_or(expected)?;
    let port = port.parse().ok().filter(|&port| port != 0).ok_or(expected)?;
    let stream = stream.parse().map_err(|error| format!("{error}"))?;
    Ok(Subscribed { stream, port })
}

/// Runs until a signal, or until a part of it fails.
///
/// # Errors
///
/// Why it could not start, or had to stop.
pub(crate) async fn run(args: Args, output: &mut Output) -> anyhow::Result<()> {
    let Args {
        data_dir,
        subscribe,
        listen,
        admin_listen,
        local_listen,
        ops_listen,
        pusher_ops_listen,
        store,
        limits,
        waits,
        log,
        log_format,
    } = args;
    logs::init(&log, log_format).context("--log")?;
    logs::abort_on_panic();
    refuse_repeated(&subscribe)?;
    let mut signals = Signals::listen()?;
    let folder = Folder::open(&data_dir).await?;
    let clock = Arc::new(SystemClock);
    let certificates = Certificates::open(&folder.path, &[listen, admin_listen], clock)?;
    let store = Store::choose(store, &folder)?;
    let config = ReplicaArgs {
        data_dir: folder.path.clone(),
        object_store: store.url.clone(),
        objects: store.objects.clone(),
        kek_file: folder.kek_file.clone(),
        tls: Some(certificates.directories.writer.clone()),
        limits,
        waits,
    };
    let config = config.into_config()?;
    if let Some(warning) = config.object_store.warning() {
        remark(&warning);
    }
    let opened = Environment::open(&config, listen, admin_listen, Some(ops_listen)).await;
    let (environment, addresses) = opened.map_err(|error| explain_port(error.into()))?;
    let shown = config.object_store.to_string();
    tokio::select! {
        biased;
        () = signals.next() => return Ok(()),
        asked = store.ask(&*environment.store, &shown) => asked?,
    }
    store.remember(&folder.path)?;
    let mut parts = Parts::default();
    let identities = Identities::open(&certificates)?;
    parts.certificates.spawn(certificates.keep(parts.stop_certificates.clone()));
    let served = parts.start_writer(config, environment);
    let outcome = tokio::select! {
        biased;
        () = signals.next() => Ok(()),
        ended = Parts::ended(&mut parts.writer, "the Writer") => ended,
        outcome = async {
            if served.await.is_err() {
                // It has ended, and the branch above says why.
                std::future::pending::<()>().await;
            }
            let (folder, store, subscribe) = (&folder, &store, &subscribe);
            let listen = (local_listen, pusher_ops_listen);
            let start = Start { folder, store, shown, identities, subscribe, addresses, listen };
            start.go_on(&mut parts.pusher, &parts.stop_pusher, output).await
        } => outcome,
    };
    let outcome = match outcome {
        // Everything serves, or the start was interrupted; then there is a signal already.
        Ok(()) if !signals.seen => parts.serve(&mut signals).await,
        other => other,
    };
    Running::remove(&folder.path);
    finish(&mut parts, &mut signals, outcome).await
}

/// Stops all parts; a second signal ends the process before they have.
async fn finish(
    parts: &mut Parts,
    signals: &mut Signals,
    outcome: anyhow::Result<()>,
) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        stopped = parts.stop() => {
            outcome.and(stopped)?;
            remark(STOPPED);
            Ok(())
        }
        () = signals.next() => {
            remark("ends at once; nothing that was acknowledged is lost");
            std::process::exit(INTERRUPTED);
        }
    }
}

fn refuse_repeated(subscribe: &[Subscribed]) -> anyhow::Result<()> {
    for (place, one) in subscribe.iter().enumerate() {
        if subscribe.iter().skip(place + 1).any(|other| other.stream == one.stream) {
            bail!("--subscribe names the stream {} twice; give each stream once", one.stream);
        }
    }
    Ok(())
}

/// What is needed once the Writer answers.
struct Start<'a> {
    folder: &'a Folder,
    store: &'a Store,
    /// The store, for people.
    shown: String,
    identities: Identities,
    subscribe: &'a [Subscribed],
    addresses: Addresses,
    /// Of the pusher: for applications, and for health and metrics.
    listen: (SocketAddr, SocketAddr),
}

impl Start<'_> {
    async fn go_on(
        self,
        pusher: &mut JoinSet<anyhow::Result<()>>,
        stop: &CancellationToken,
        output: &mut Output,
    ) -> anyhow::Result<()> {
        let Self { folder, store, shown, identities, subscribe, addresses, listen } = self;
        let Identities { trust_domain, operator, pusher_directory } = identities;
        let writer = reachable(addresses.writer);
        let admin = reachable(addresses.admin);
        let caller = Caller::Dev { user: certificates::user(&trust_domain)? };
        let connect = Arc::new(operator.connect(Arc::new(TcpConnect)));
        let calls = Admin::open(connect, &admin.to_string(), caller).await?;
        let declared = declare::declare(calls, folder, &trust_domain, subscribe).await?;
        let config = pyramid_sidecar::Config {
            writers: vec![writer.to_string()],
            subscriptions: subscribe
                .iter()
                .map(|subscribed| pyramid_sidecar::config::Subscription {
                    name: subscribed.name(),
                    application: subscribed.application().to_string(),
                })
                .collect(),
            pod: "dev".to_owned(),
            local: Some(listen.0),
            ops: Some(listen.1),
            readiness: Readiness::Local,
            chunk_directory: store.directory.clone(),
            tls: Some(pusher_directory),
            object_store_ca: store.objects.s3_ca.clone(),
            object_store_http: store.is_plain_http,
            pushes_max: PUSHES_MAX,
            timing: Timing::DEFAULT,
        };
        let (ready, serves) = oneshot::channel();
        let stop = stop.clone();
        pusher.spawn(async move {
            let ended = pyramid_sidecar::run(config, ready, stop).await.context("--local-listen");
            ended.map_err(explain_port)
        });
        let (local, pusher_ops) = match serves.await {
            Ok(ready) => (ready.local.context("the pusher serves no applications")?, ready.ops),
            // It has ended, and says why.
            Err(_closed) => return Parts::ended(pusher, "the pusher").await,
        };
        let running = Running {
            pid: std::process::id(),
            cluster_id: declared.cluster_id.to_string(),
            writer,
            admin,
            local,
            ops: addresses.ops,
            pusher_ops,
            tls: certificates::tls(&folder.path),
            object_store: shown,
            objects: store.directory.clone(),
            object_store_ca: store.objects.s3_ca.clone(),
            object_store_http: store.is_plain_http,
            kek_file: folder.kek_file.clone(),
        };
        if let Err(error) = running.write(&folder.path) {
            // What is stored must be readable, also from a full disk.
            remark(&format!(
                "{error:#}: other commands do not find this Writer; give them \
                 --writer {writer} --admin {admin} --tls {}",
                running.tls.display()
            ));
        }
        match output.say(&banner::text(&running, folder, subscribe, &declared), &running) {
            // Whoever started it may have closed its output; that is no reason to stop.
            Err(error) if error.is::<Closed>() => Ok(()),
            said => said,
        }
    }
}

/// Who the parts of this process are.
struct Identities {
    trust_domain: String,
    operator: Tls,
    pusher_directory: PathBuf,
}

impl Identities {
    fn open(certificates: &Certificates) -> anyhow::Result<Self> {
        let directories = &certificates.directories;
        Ok(Self {
            trust_domain: certificates.trust_domain().to_owned(),
            operator: Tls::open(&directories.operator, Arc::new(SystemClock))?,
            pusher_directory: directories.pusher.clone(),
        })
    }
}

/// A port that somebody else has, with what to do.
fn explain_port(error: anyhow::Error) -> anyhow::Error {
    let is_taken = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == ErrorKind::AddrInUse);
    if is_taken {
        anyhow!("{error:#}; give this flag another port, or port 0 for a free one")
    } else {
        error
    }
}

/// Where a program of this machine reaches a port that listens everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
    } else {
        address
    }
}

/// The two programs, and what keeps their certificates fresh.
#[derive(Default)]
struct Parts {
    writer: JoinSet<anyhow::Result<()>>,
    pusher: JoinSet<anyhow::Result<()>>,
    certificates: JoinSet<()>,
    stop_writer: CancellationToken,
    stop_pusher: CancellationToken,
    stop_certificates: CancellationToken,
}

impl Parts {
    /// Waits until one of the two ends by itself, which is an error.
    async fn ended(part: &mut JoinSet<anyhow::Result<()>>, name: &str) -> anyhow::Result<()> {
        match part.join_next().await {
            Some(Ok(Ok(()))) => Err(anyhow!("{name} stopped by itself")),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(lost)) => Err(lost).with_context(|| format!("{name} stopped")),
            // It is not started yet.
            None => std::future::pending().await,
        }
    }

    /// Starts the Writer. The receiver is told when it serves, or dropped when it has ended.
    fn start_writer(&mut self, config: Config, environment: Environment) -> oneshot::Receiver<()> {
        let (serving, served) = oneshot::channel();
        let stop = self.stop_writer.clone();
        self.writer.spawn(async move {
            // Nobody waits for it any more when the start was interrupted.
            let serving = move || {
                serving.send(()).ok();
            };
            replica::run(config, environment, serving, stop).await.map_err(anyhow::Error::from)
        });
        served
    }

    /// Waits for a signal, or until one of the two ends by itself, which is an error.
    async fn serve(&mut self, signals: &mut Signals) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            () = signals.next() => Ok(()),
            ended = Self::ended(&mut self.writer, "the Writer") => ended,
            ended = Self::ended(&mut self.pusher, "the pusher") => ended,
        }
    }

    /// Stops what still runs: first the pusher, which uses the Writer.
    async fn stop(&mut self) -> anyhow::Result<()> {
        self.stop_pusher.cancel();
        let mut outcome = Ok(());
        while let Some(ended) = self.pusher.join_next().await {
            outcome = outcome.and(ended.context("stop the pusher").flatten());
        }
        self.stop_writer.cancel();
        while let Some(ended) = self.writer.join_next().await {
            outcome = outcome.and(ended.context("stop the Writer").flatten());
        }
        self.stop_certificates.cancel();
        while self.certificates.join_next().await.is_some() {}
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_has_a_stream_and_a_port() {
        let subscribed = |stream: &str, port| Subscribed { stream: stream.parse().unwrap(), port };
        assert_eq!(subscription("orders=50051"), Ok(subscribed("orders", 50051)));
        assert_eq!(subscription("a=b=1"), Ok(subscribed("a=b", 1)));
        for text in ["orders", "orders=", "orders=0", "orders=65536", "=1", "a\n=1"] {
            assert!(subscription(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_port_that_listens_everywhere_is_reached_at_loopback() {
        let cases = [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "127.0.0.1:1"),
            ("[::1]:1", "[::1]:1"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ];
        for (address, expected) in cases {
            assert_eq!(reachable(address.parse().unwrap()).to_string(), expected);
        }
    }
}
