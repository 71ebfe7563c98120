//! Which Writer a command means, and how to reach it.
//!
//! In this order: `--writer`; what `pyramid dev` wrote into its data directory; the default port of
//! this machine.

use std::path::PathBuf;
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
    /// data directory, else 127.0.0.1:7400.
    #[arg(
        long,
        global = true,
        env = "PYRAMID_WRITER",
        value_delimiter = ',',
        value_name = "ADDRESS"
    )]
    writer: Vec<String>,

    /// The Admin service of the Writer as host:port; needed to create and remove streams.
    #[arg(long, global = true, env = "PYRAMID_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,

    /// Data directory of the `pyramid dev` that is meant.
    #[arg(long, global = true, env = "PYRAMID_DATA_DIR", default_value = DATA_DIR,
        value_name = "DIR")]
    data_dir: PathBuf,
}

/// Addresses, and what named them.
struct Addresses {
    writers: Vec<String>,
    admin: String,
    source: String,
}

impl Args {
    fn addresses(self) -> anyhow::Result<Addresses> {
        let Self { writer, admin, data_dir } = self;
        if !writer.is_empty() {
            let admin = admin.unwrap_or_else(|| ADMIN.to_owned());
            return Ok(Addresses { writers: writer, admin, source: String::new() });
        }
        Ok(match Running::read(&data_dir)? {
            Some(running) => Addresses {
                writers: vec![running.writer.to_string()],
                admin: admin.unwrap_or_else(|| running.admin.to_string()),
                source: format!(", which {} names", Running::path(&data_dir).display()),
            },
            None => Addresses {
                writers: vec![WRITER.to_owned()],
                admin: admin.unwrap_or_else(|| ADMIN.to_owned()),
                source: String::new(),
            },
        })
    }

    /// A client of a Writer that answers.
    ///
    /// # Errors
    ///
    /// Nothing answers there.
    pub(crate) async fn client(self) -> anyhow::Result<Client> {
        let Addresses { writers, admin: _, source } = self.addresses()?;
        let mut answers = false;
        for address in &writers {
            answers = answers || is_served(address).await;
        }
        if !answers {
            let addresses = writers.join(" or ");
            bail!("nothing answers at {addresses}{source}; start it with `pyramid dev`");
        }
        Ok(Client::new(connection::Options::tcp(writers))?)
    }

    /// The Admin service of a Writer that answers.
    ///
    /// # Errors
    ///
    /// Nothing answers there.
    pub(crate) async fn admin(self) -> anyhow::Result<Admin> {
        let Addresses { writers: _, admin, source } = self.addresses()?;
        if !is_served(&admin).await {
            bail!(
                "nothing answers at {admin}{source}; start it with `pyramid dev`, or give --admin \
                 with the address of the Writer's Admin service"
            );
        }
        Admin::open(&admin).await
    }
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
