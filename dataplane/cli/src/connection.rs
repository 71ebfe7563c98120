//! Which Writer a command means, how to reach it, and as whom.
//!
//! In this order: `--writer`; the data directory that was named; the pusher of this pod; the
//! `pyramid dev` that runs on the default data directory; the default port of this machine, in a pod
//! that of its pusher, but only if nothing was named: a command never acts on another Writer than the
//! one that is meant. A `pyramid dev` says where its certificates are, another Writer needs `--tls`;
//! without it only a Writer of this machine is spoken to, in clear.

pub(crate) mod admin;
mod failure;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use pyramid_client::{Client, connection};
use pyramid_protocol::net::{self, Connect, TcpConnect};
use pyramid_protocol::pb::v1::{Reason, Refusal};
use pyramid_protocol::{SpiffeId, StreamName, SystemClock};
use pyramid_storage::{Fetcher, HttpSettings};
use pyramid_tls::Tls;
use tonic::Status;

use self::admin::{Admin, Caller};
use crate::dev::certificates::Directories;
use crate::dev::folder;
use crate::dev::running::Running;

/// Where data lies unless something else is said.
pub(crate) const DATA_DIR: &str = ".pyramid";
const WRITER: &str = "127.0.0.1:7400";
const ADMIN: &str = "127.0.0.1:7402";
const PUSHER: &str = "http://127.0.0.1:7410";

/// Which Writer is meant.
#[derive(Clone, Debug, clap::Args)]
// Its name would be that of the group of the command that it is a part of.
#[group(skip)]
pub(crate) struct Args {
    /// Replicas of the Writer as host:port, separated by commas. Default: the `pyramid dev` of the
    /// data directory; where none is named and ./.pyramid has none, 127.0.0.1:7400.
    #[arg(
        long,
        global = true,
        env = "PYRAMID_WRITER",
        value_delimiter = ',',
        value_name = "ADDRESS"
    )]
    writer: Vec<String>,

    /// The Admin service of the Writer as host:port; with --writer needed to create and remove
    /// streams and to change rights.
    #[arg(long, global = true, env = "PYRAMID_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,

    /// Who the command is towards the Writer of --writer: a directory with tls.key, tls.crt and
    /// ca.crt, or the directory tls of a `pyramid dev`. Without it only a Writer of this machine that
    /// serves without TLS is reached.
    #[arg(long, global = true, env = "PYRAMID_TLS", value_name = "DIR")]
    tls: Option<PathBuf>,

    /// Data directory of the `pyramid dev` that is meant, which must run. Default: .pyramid in the
    /// current directory.
    #[arg(long, global = true, env = "PYRAMID_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// In a pod of Kubernetes: where its pusher takes appends and reads.
    #[arg(long, global = true, env = "PYRAMID_APPEND_ENDPOINT", value_name = "URL")]
    local: Option<String>,

    /// The API server's address, which every container of Kubernetes has in its environment. An init
    /// container has nothing else that tells it of its pusher.
    #[arg(long, global = true, env = "KUBERNETES_SERVICE_HOST", hide = true, value_name = "HOST")]
    kubernetes: Option<String>,
}

/// Who can change what a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// This command.
    Command,
    /// The objects of a cluster.
    Cluster,
}

/// How chunks are fetched, for commands that read.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub(crate) struct ChunkArgs {
    /// Authorities that the object store's certificate may come from, as PEM. Default: what the
    /// `pyramid dev` says, else the machine's.
    #[arg(long, env = "PYRAMID_OBJECT_STORE_CA", value_name = "FILE")]
    object_store_ca: Option<PathBuf>,

    /// Fetch chunks over plain HTTP too, from an object store without TLS. What it gives is
    /// encrypted and verified all the same. Default: what the `pyramid dev` says.
    #[arg(long, env = "PYRAMID_OBJECT_STORE_HTTP")]
    object_store_http: bool,
}

impl ChunkArgs {
    fn settings(self, dev: Option<&Running>) -> HttpSettings {
        HttpSettings {
            ca_file: self.object_store_ca.or_else(|| dev?.object_store_ca.clone()),
            allows_plain_http: self.object_store_http
                || dev.is_some_and(|dev| dev.object_store_http),
        }
    }
}

/// A Writer, and what named it.
pub(crate) struct Target {
    writers: Vec<String>,
    /// `None`: nobody has named it, and a guess could be another Writer's.
    admin: Option<String>,
    tls: Option<Credentials>,
    dev: Option<Running>,
    remedy: Remedy,
}

/// The directories of certificates that a command uses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Credentials {
    /// For records.
    user: PathBuf,
    /// For the Admin service.
    operator: PathBuf,
}

impl Credentials {
    /// One directory for both, or those that a `pyramid dev` has made.
    fn find(directory: &Path) -> Self {
        let Directories { user, operator, .. } = Directories::below(directory);
        if !directory.join("tls.crt").exists() && user.is_dir() {
            return Self { user, operator };
        }
        Self { user: directory.to_owned(), operator: directory.to_owned() }
    }
}

impl Args {
    /// Whether --writer says which Writer is meant.
    pub(crate) fn names_a_writer(&self) -> bool {
        !self.writer.is_empty()
    }

    /// The data directory that is meant.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.as_deref().unwrap_or(Path::new(DATA_DIR))
    }

    /// Who can change what a refusal is about.
    pub(crate) fn remedy(&self) -> Remedy {
        if self.pusher().is_some() { Remedy::Cluster } else { Remedy::Command }
    }

    /// The pusher of this pod, unless something else is named.
    fn pusher(&self) -> Option<&str> {
        if !self.writer.is_empty() || self.data_dir.is_some() {
            return None;
        }
        self.local.as_deref().or_else(|| self.is_bare_pod().then_some(PUSHER))
    }

    /// Whether this is a pod and nothing says which Writer is meant.
    fn is_bare_pod(&self) -> bool {
        self.kubernetes.is_some()
            && self.admin.is_none()
            && self.tls.is_none()
            && matches!(running(Path::new(DATA_DIR), false), Ok(None))
    }

    /// Decides which Writer is meant.
    pub(crate) fn target(self) -> anyhow::Result<Target> {
        if let Some(url) = self.pusher() {
            return Target::of_pusher(url);
        }
        let Self { writer, admin, tls, data_dir, local: _, kubernetes: _ } = self;
        let tls = tls.as_deref().map(Credentials::find);
        if !writer.is_empty() {
            let is_default = writer.iter().all(|address| address == WRITER);
            let admin = admin.or_else(|| is_default.then(|| ADMIN.to_owned()));
            return Ok(Target { writers: writer, admin, tls, dev: None, remedy: Remedy::Command });
        }
        let is_named = data_dir.is_some();
        let data_dir = data_dir.unwrap_or_else(|| DATA_DIR.into());
        Ok(match running(&data_dir, is_named)? {
            Some(dev) => Target {
                writers: vec![dev.writer.to_string()],
                admin: admin.or_else(|| Some(dev.admin.to_string())),
                tls: tls.or_else(|| Some(Credentials::find(&dev.tls))),
                dev: Some(dev),
                remedy: Remedy::Command,
            },
            None => Target {
                writers: vec![WRITER.to_owned()],
                admin: admin.or_else(|| Some(ADMIN.to_owned())),
                tls,
                dev: None,
                remedy: Remedy::Command,
            },
        })
    }

    /// As [`Target::client`].
    pub(crate) async fn client(self) -> anyhow::Result<Client> {
        self.target()?.client().await
    }

    /// As [`Target::admin`].
    pub(crate) async fn admin(self) -> anyhow::Result<Admin> {
        self.target()?.admin().await
    }
}

impl Target {
    /// The pusher of this pod.
    ///
    /// # Errors
    ///
    /// The URL leads elsewhere.
    fn of_pusher(url: &str) -> anyhow::Result<Self> {
        let address = url.strip_prefix("http://").map(|address| address.trim_end_matches('/'));
        let address = address.filter(|address| net::is_loopback(address)).with_context(|| {
            format!("--local {url} is no pusher of this pod; give http://127.0.0.1:7410")
        })?;
        let writers = vec![address.to_owned()];
        Ok(Self { writers, admin: None, tls: None, dev: None, remedy: Remedy::Cluster })
    }

    /// Who can change what a refusal is about.
    pub(crate) fn remedy(&self) -> Remedy {
        self.remedy
    }

    /// A client of a Writer that answers.
    ///
    /// # Errors
    ///
    /// Nothing answers there, or not to this caller.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let connect = match &self.tls {
            Some(credentials) => secure(&credentials.user)?.0,
            None => plain(&self.writers)?,
        };
        let mut answers = Err(anyhow!("--writer names no address"));
        for address in &self.writers {
            answers = failure::probe(&*connect, address, self.tls.is_some()).await;
            if answers.is_ok() {
                break;
            }
        }
        answers.map_err(|error| match self.remedy {
            Remedy::Command => explain_absent(error, ""),
            Remedy::Cluster => explain_no_pusher(&error),
        })?;
        let options =
            connection::Options { connect, ..connection::Options::tcp(self.writers.clone()) };
        Ok(Client::new(options)?)
    }

    /// The Admin service of a Writer that answers.
    ///
    /// # Errors
    ///
    /// Nothing answers there, or not to this caller.
    pub(crate) async fn admin(&self) -> anyhow::Result<Admin> {
        if self.remedy == Remedy::Cluster {
            bail!(
                "on a cluster the Stream object says which streams there are and who may use them; \
                 see `kubectl get streams` and `kubectl edit stream`"
            );
        }
        let admin = self.admin.as_ref().context(
            "--writer does not say where the Writer's Admin service is; give --admin with its \
             address",
        )?;
        let (connect, caller) = match &self.tls {
            Some(Credentials { user, operator }) => {
                let (connect, operator_identity) = secure(operator)?;
                let user = if user == operator { operator_identity } else { secure(user)?.1 };
                (connect, Some(user))
            }
            None => (plain(std::slice::from_ref(admin))?, None),
        };
        let answers = failure::probe(&*connect, admin, self.tls.is_some()).await;
        answers.map_err(|error| {
            let more = ", or give --admin with the address of the Writer's Admin service";
            explain_absent(error, more)
        })?;
        let caller = match (caller, &self.dev) {
            (Some(user), Some(_)) => Caller::Dev { user },
            (Some(user), None) => Caller::Named { user },
            (None, _) => Caller::Plain,
        };
        Admin::open(connect, admin, caller).await
    }

    /// Opens the places of chunks that the Writer tells.
    ///
    /// # Errors
    ///
    /// The authorities of the object store cannot be used.
    pub(crate) fn fetcher(&self, chunks: ChunkArgs) -> anyhow::Result<Fetcher> {
        let dev = self.dev.as_ref();
        if let Some(directory) = dev.and_then(|dev| dev.objects.as_ref()) {
            return Ok(Fetcher::new().with_directory(directory));
        }
        let settings = chunks.settings(dev);
        let is_named = settings.ca_file.is_some() || dev.is_some();
        match Fetcher::new().with_http(settings) {
            // A machine without authorities leaves the chunks to the Writer.
            Err(_) if !is_named => Ok(Fetcher::new()),
            fetcher => fetcher.context("--object-store-ca"),
        }
    }
}

/// Nobody is there: says how to change that.
fn explain_absent(error: anyhow::Error, more: &str) -> anyhow::Error {
    if error.is::<failure::Absent>() {
        return anyhow!("{error}; start it with `pyramid dev`{more}");
    }
    error
}

/// The pod has no pusher, or not yet.
fn explain_no_pusher(error: &anyhow::Error) -> anyhow::Error {
    let remedy = if error.is::<failure::Absent>() {
        "; a Pod gets a pusher by the annotation pyramid.dev/append or pyramid.dev/subscriptions, \
         and only init containers behind the pusher can use it"
    } else {
        ""
    };
    anyhow!("the pusher of this pod: {error}{remedy}")
}

/// Connections as whoever the directory says.
fn secure(directory: &Path) -> anyhow::Result<(Arc<dyn Connect>, SpiffeId)> {
    let tls = Tls::open(directory, Arc::new(SystemClock))?;
    let identity = tls.identity().clone();
    Ok((Arc::new(tls.connect(Arc::new(TcpConnect))), identity))
}

/// Connections in clear, which do not leave this machine.
fn plain(addresses: &[String]) -> anyhow::Result<Arc<dyn Connect>> {
    if let Some(address) = addresses.iter().find(|address| !net::is_loopback(address)) {
        bail!(
            "{address} is not on this machine, and is reached with TLS only; give --tls with a \
             directory that has tls.key, tls.crt and ca.crt"
        );
    }
    Ok(Arc::new(TcpConnect))
}

/// The `pyramid dev` that runs on the directory. `None` if nobody has named the directory, and there
/// is no trace of one.
///
/// What a killed one left is not believed: its ports may be those of another Writer by now.
fn running(data_dir: &Path, is_named: bool) -> anyhow::Result<Option<Running>> {
    let name = data_dir.display();
    if data_dir.is_file() {
        bail!("--data-dir {name} is a file; give a directory");
    }
    let running = Running::read(data_dir)?;
    if running.is_none() && !is_named && !folder::is_ours(data_dir) {
        return Ok(None);
    }
    if !folder::is_used(data_dir)? {
        bail!(
            "no `pyramid dev` runs on {name}; start it with `pyramid dev --data-dir {name}`, or \
             give --writer"
        );
    }
    // It starts just now, or its disk was full.
    let running = running.with_context(|| {
        format!(
            "{} does not say yet where its `pyramid dev` listens; try again, or give --writer, \
             --admin and --tls as that one printed them",
            Running::path(data_dir).display()
        )
    })?;
    Ok(Some(running))
}

/// A status as what the Writer says in it.
#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` takes")]
pub(crate) fn refused(status: Status) -> anyhow::Error {
    let refusal = Refusal::from_status(&status);
    if refusal.reason() == Reason::Denied {
        return anyhow!("{}; give --tls with the directory of an operator", refusal.message);
    }
    anyhow!(refusal.message)
}

/// A refused call about a stream, with what to do.
pub(crate) fn explain(
    stream: &StreamName,
    remedy: Remedy,
    error: connection::Error,
) -> anyhow::Error {
    match error {
        connection::Error::Refused(refusal) => explain_refusal(stream, remedy, &refusal),
        connection::Error::Address { .. } | connection::Error::NoAnswer { .. } => error.into(),
    }
}

/// A refusal about a stream, with what to do.
pub(crate) fn explain_refusal(
    stream: &StreamName,
    remedy: Remedy,
    refusal: &Refusal,
) -> anyhow::Error {
    if remedy == Remedy::Cluster {
        let message = &refusal.message;
        return if refusal.reason() == Reason::Denied {
            anyhow!("{message}; the Stream object names who may, see `kubectl get stream -o yaml`")
        } else {
            anyhow!("{message}")
        };
    }
    // Nothing tells a stream that is not there from one on which the caller has no right.
    if refusal.reason() == Reason::NotFound {
        return anyhow!(
            "{}; create it with `pyramid stream create {stream}`, or have the right given with \
             `pyramid stream grant {stream}`",
            refusal.message
        );
    }
    if refusal.reason() == Reason::Denied {
        return anyhow!(
            "{}; an operator gives it with `pyramid stream grant {stream}`",
            refusal.message
        );
    }
    anyhow!(refusal.message.clone())
}

/// The Admin service, which knows all streams, does not know this one.
pub(crate) fn explain_missing(stream: &StreamName) -> anyhow::Error {
    anyhow!(
        "there is no stream {stream}; create it with `pyramid stream create {stream}`, or see \
         `pyramid stream ls`"
    )
}

#[cfg(test)]
mod tests;
