//! Which Writer a command means, how to reach it, and as whom.
//!
//! In this order: `--writer`; the `pyramid dev` that runs on the data directory; the default port of
//! this machine, but only if nothing was named: a command never acts on another Writer than the one
//! that is meant. A `pyramid dev` says where its certificates are, another Writer needs `--tls`;
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

    /// Decides which Writer is meant.
    pub(crate) fn target(self) -> anyhow::Result<Target> {
        let Self { writer, admin, tls, data_dir } = self;
        let tls = tls.as_deref().map(Credentials::find);
        if !writer.is_empty() {
            let is_default = writer.iter().all(|address| address == WRITER);
            let admin = admin.or_else(|| is_default.then(|| ADMIN.to_owned()));
            return Ok(Target { writers: writer, admin, tls, dev: None });
        }
        let is_named = data_dir.is_some();
        let data_dir = data_dir.unwrap_or_else(|| DATA_DIR.into());
        Ok(match running(&data_dir, is_named)? {
            Some(dev) => Target {
                writers: vec![dev.writer.to_string()],
                admin: admin.or_else(|| Some(dev.admin.to_string())),
                tls: tls.or_else(|| Some(Credentials::find(&dev.tls))),
                dev: Some(dev),
            },
            None => Target {
                writers: vec![WRITER.to_owned()],
                admin: admin.or_else(|| Some(ADMIN.to_owned())),
                tls,
                dev: None,
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
        answers.map_err(|error| explain_absent(error, ""))?;
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
pub(crate) fn explain(stream: &StreamName, error: connection::Error) -> anyhow::Error {
    match error {
        connection::Error::Refused(refusal) => explain_refusal(stream, &refusal),
        connection::Error::Address { .. } | connection::Error::NoAnswer { .. } => error.into(),
    }
}

/// A refusal about a stream, with what to do.
pub(crate) fn explain_refusal(stream: &StreamName, refusal: &Refusal) -> anyhow::Error {
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
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_in_clear() {
        for address in ["127.0.0.1:7400", "127.9.9.9:1", "[::1]:7400", "localhost:7400"] {
            assert!(plain(&[address.to_owned()]).is_ok(), "{address}");
        }
        for address in ["10.0.0.1:7400", "[::]:7400", "0.0.0.0:1", "writer:7400", "localhost.a:1"] {
            let here = "127.0.0.1:7400".to_owned();
            let error = plain(&[here, address.to_owned()]).err().unwrap().to_string();
            assert!(error.starts_with(address) && error.contains("give --tls"), "{error}");
        }
    }

    #[test]
    fn chunks_are_fetched_as_flags_say_and_else_as_the_dev_does() {
        let address = "127.0.0.1:1".parse().unwrap();
        let dev = |ca: Option<&str>, http| Running {
            pid: 1,
            cluster_id: String::new(),
            writer: address,
            admin: address,
            local: address,
            ops: None,
            pusher_ops: None,
            tls: PathBuf::new(),
            object_store: "s3://orders".to_owned(),
            objects: None,
            object_store_ca: ca.map(PathBuf::from),
            object_store_http: http,
            kek_file: PathBuf::new(),
        };
        let flags = |ca: Option<&str>, http| ChunkArgs {
            object_store_ca: ca.map(PathBuf::from),
            object_store_http: http,
        };
        let of_dev = Some(dev(Some("dev.pem"), false));
        for (flags, dev, ca, http) in [
            (flags(None, false), None, None, false),
            (flags(Some("a.pem"), false), None, Some("a.pem"), false),
            (flags(None, true), None, None, true),
            (flags(None, false), of_dev.clone(), Some("dev.pem"), false),
            (flags(Some("a.pem"), true), of_dev, Some("a.pem"), true),
            (flags(None, false), Some(dev(None, true)), None, true),
        ] {
            let expected = HttpSettings { ca_file: ca.map(PathBuf::from), allows_plain_http: http };
            assert_eq!(flags.settings(dev.as_ref()), expected);
        }
    }

    #[test]
    fn authorities_that_were_named_must_be_there() {
        let target = Target { writers: Vec::new(), admin: None, tls: None, dev: None };
        assert!(target.fetcher(ChunkArgs::default()).is_ok());
        let folder = tempfile::tempdir().unwrap();
        let missing = ChunkArgs {
            object_store_ca: Some(folder.path().join("ca.pem")),
            object_store_http: false,
        };
        let error = format!("{:#}", target.fetcher(missing).unwrap_err());
        assert!(error.starts_with("--object-store-ca: "), "{error}");
    }

    #[test]
    fn a_directory_of_a_dev_has_one_identity_for_records_and_one_for_admin() {
        let dev = tempfile::tempdir().unwrap();
        let one = Credentials { user: dev.path().to_owned(), operator: dev.path().to_owned() };
        assert_eq!(Credentials::find(dev.path()), one);
        let (user, operator) = (dev.path().join("user"), dev.path().join("operator"));
        std::fs::create_dir(&user).unwrap();
        assert_eq!(Credentials::find(dev.path()), Credentials { user, operator });
        std::fs::write(dev.path().join("tls.crt"), "").unwrap();
        assert_eq!(Credentials::find(dev.path()), one);
    }
}
