//! Which Writer a command means, and how to reach it.
//!
//! In this order: `--writer`; the `pyramid dev` that runs on the data directory; the default port of
//! this machine, but only if nothing was named: a command never acts on another Writer than the one
//! that is meant.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use pyramid_client::{Client, connection};
use pyramid_protocol::StreamName;
use pyramid_protocol::net::{self, Connect, TcpConnect};
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use crate::dev::folder;
use crate::dev::running::Running;

/// Where data lies unless something else is said.
pub(crate) const DATA_DIR: &str = ".pyramid";
const WRITER: &str = "127.0.0.1:7400";
const ADMIN: &str = "127.0.0.1:7402";

/// How long a program may take to answer a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

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
    /// streams.
    #[arg(long, global = true, env = "PYRAMID_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,

    /// Data directory of the `pyramid dev` that is meant, which must run. Default: .pyramid in the
    /// current directory.
    #[arg(long, global = true, env = "PYRAMID_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Addresses, and what named them.
struct Addresses {
    writers: Vec<String>,
    /// `None`: nobody has named it, and a guess could be another Writer's.
    admin: Option<String>,
}

impl Args {
    fn addresses(self) -> anyhow::Result<Addresses> {
        let Self { writer, admin, data_dir } = self;
        if !writer.is_empty() {
            let is_default = writer.iter().all(|address| address == WRITER);
            let admin = admin.or_else(|| is_default.then(|| ADMIN.to_owned()));
            return Ok(Addresses { writers: writer, admin });
        }
        let is_named = data_dir.is_some();
        let data_dir = data_dir.unwrap_or_else(|| DATA_DIR.into());
        Ok(match running(&data_dir, is_named)? {
            Some(running) => Addresses {
                writers: vec![running.writer.to_string()],
                admin: admin.or_else(|| Some(running.admin.to_string())),
            },
            None => Addresses {
                writers: vec![WRITER.to_owned()],
                admin: admin.or_else(|| Some(ADMIN.to_owned())),
            },
        })
    }

    /// A client of a Writer that answers.
    ///
    /// # Errors
    ///
    /// Nothing answers there.
    pub(crate) async fn client(self) -> anyhow::Result<Client> {
        let Addresses { writers, admin: _ } = self.addresses()?;
        let mut answers = false;
        for address in &writers {
            answers = answers || is_served(address).await;
        }
        if !answers {
            let addresses = writers.join(" or ");
            bail!("nothing answers at {addresses}; start it with `pyramid dev`");
        }
        Ok(Client::new(connection::Options::tcp(writers))?)
    }

    /// The Admin service of a Writer that answers.
    ///
    /// # Errors
    ///
    /// Nothing answers there.
    pub(crate) async fn admin(self) -> anyhow::Result<Admin> {
        let Addresses { writers: _, admin } = self.addresses()?;
        let admin = admin.context(
            "--writer does not say where the Writer's Admin service is; give --admin with its \
             address",
        )?;
        if !is_served(&admin).await {
            bail!(
                "nothing answers at {admin}; start it with `pyramid dev`, or give --admin with the \
                 address of the Writer's Admin service"
            );
        }
        Admin::open(&admin).await
    }
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
    if running.is_none() && !is_named {
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
            "{} does not say yet where its `pyramid dev` listens; try again, or give --writer \
                 and --admin with what that one printed",
            Running::path(data_dir).display()
        )
    })?;
    Ok(Some(running))
}

async fn is_served(address: &str) -> bool {
    matches!(timeout(CONNECT_TIMEOUT, TcpConnect.connect(address)).await, Ok(Ok(_)))
}

/// The Admin service of one cluster.
pub(crate) struct Admin {
    pub(crate) calls: AdminClient<Channel>,
    /// 16 bytes; empty as long as the replica is not founded.
    pub(crate) cluster_id: Bytes,
}

impl Admin {
    /// Asks whose it is.
    pub(crate) async fn open(address: &str) -> anyhow::Result<Self> {
        let channel = net::channel(Arc::new(TcpConnect), address)
            .with_context(|| format!("{address:?} is not host:port"))?;
        let mut calls = AdminClient::new(channel);
        let info = calls.get_info(pb::GetInfoRequest {}).await.map_err(refused)?.into_inner();
        Ok(Self { calls, cluster_id: info.cluster_id })
    }

    /// Declares a stream that nobody else has declared. Returns what it is, and whether it is new.
    pub(crate) async fn put_stream(
        &mut self,
        put: pb::PutStream,
    ) -> anyhow::Result<(pb::StreamInfo, bool)> {
        let request =
            pb::PutStreamsRequest { cluster_id: self.cluster_id.clone(), streams: vec![put] };
        let response = self.calls.put_streams(request).await.map_err(refused)?.into_inner();
        let put = response.results.into_iter().next().context("the Writer gave no answer")?;
        match put.result {
            Some(pb::put_stream_result::Result::Stream(info)) => Ok((info, put.created)),
            Some(pb::put_stream_result::Result::Refused(refusal)) => bail!(refusal.message),
            None => bail!("the Writer gave an empty answer"),
        }
    }
}

/// A status as what the Writer says in it.
#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` takes")]
pub(crate) fn refused(status: Status) -> anyhow::Error {
    anyhow!(Refusal::from_status(&status).message)
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
    if refusal.reason() == Reason::NotFound {
        return anyhow!(
            "there is no stream {stream}; create it with `pyramid stream create {stream}`, or see \
             `pyramid stream ls`"
        );
    }
    anyhow!(refusal.message.clone())
}
