//! Calls of a Writer with a certificate that a folder holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use futures::StreamExt;
use pyramid_client::connection::Options;
use pyramid_client::read::{self, Item, Start};
use pyramid_client::{AppendSession, Client, Reader, append};
use pyramid_protocol::net::TcpConnect;
use pyramid_protocol::pb::v1::attach_request::Message as ToWriter;
use pyramid_protocol::pb::v1::attach_response::Message as FromWriter;
use pyramid_protocol::pb::v1::{AppendRequest, AttachHello, AttachRequest, Record, Refusal};
use pyramid_protocol::{Offset, Records, SystemClock};
use pyramid_tls::Tls;
use serde_json::json;
use tokio::time::timeout;

use super::{Outcome, Places};

/// A Writer that does not answer is a failure and no refusal.
const ANSWER: Duration = Duration::from_secs(20);

/// One stream or subscription, and who calls.
#[derive(Clone, Debug, Args)]
pub struct Call {
    #[command(flatten)]
    places: Places,
    /// The folder with key, certificate and roots.
    #[arg(long)]
    identity: PathBuf,
    /// The Writer, as namespace/name.
    #[arg(long, default_value = "pyramid-system/default")]
    writer: String,
    /// What is asked for, as namespace/name.
    name: String,
}

impl Call {
    fn client(&self) -> anyhow::Result<Client> {
        let known = self.places.known()?;
        let writer = known.writers.get(&self.writer).context("the Writer is not known")?;
        let tls = Tls::open(&self.identity, Arc::new(SystemClock))?;
        let connect = Arc::new(tls.connect(Arc::new(TcpConnect)));
        let addresses = writer.replicas.clone();
        Ok(Client::new(Options { connect, ..Options::tcp(addresses) })?)
    }

    /// Appends one record.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn append(self) -> anyhow::Result<Outcome> {
        let session = AppendSession::new(self.client()?, append::Options::default());
        let record = Record { value: "probed".into(), ..Record::default() };
        let request = AppendRequest {
            stream: self.name,
            records: Records::encode(&[record])?.bytes().clone(),
            ..AppendRequest::default()
        };
        let answer = timeout(ANSWER, async { session.append(request).await.await }).await?;
        Ok(match answer {
            Ok(appended) => Outcome::Done(json!({"offset": appended.first_offset})),
            Err(refusal) => Outcome::refused(&refusal),
        })
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn read(self) -> anyhow::Result<Outcome> {
        let stream = self.name.parse()?;
        let options = read::Options::new(stream, Start::Offset(Offset::new(0)));
        let mut reader = Reader::new(self.client()?, options);
        let mut records = 0;
        while let Some(item) = timeout(ANSWER, reader.next()).await? {
            match item {
                Ok(Item::Batches(batches)) => {
                    for batch in &batches.batches {
                        records += batch.next_offset().get() - batch.base_offset.get();
                    }
                }
                Ok(Item::Started { .. } | Item::CaughtUp(_) | Item::Interrupted(_)) => {}
                Err(read::Error::Refused(refusal)) => return Ok(Outcome::refused(&refusal)),
                Err(error @ read::Error::NoAnswer { .. }) => return Err(error.into()),
            }
        }
        Ok(Outcome::Done(json!({"records": records})))
    }

    /// Attaches to a subscription, as a pusher does, and hears the first answer.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn attach(self) -> anyhow::Result<Outcome> {
        let client = self.client()?;
        let hello = AttachHello { subscription: self.name, ..AttachHello::default() };
        let hello = AttachRequest { message: Some(ToWriter::Hello(hello)) };
        // An end of what is said would end the attachment.
        let said = futures::stream::iter([hello]).chain(futures::stream::pending());
        let first = async {
            let mut calls = client.writer().calls();
            calls.attach(said).await?.into_inner().message().await
        };
        let message = match timeout(ANSWER, first).await? {
            Ok(answer) => answer.and_then(|answer| answer.message).context("an answer")?,
            Err(status) => return Ok(Outcome::refused(&Refusal::from_status(&status))),
        };
        Ok(match message {
            FromWriter::Assignment(told) => {
                let names: Vec<_> = told.streams.into_iter().map(|stream| stream.stream).collect();
                Outcome::Done(json!({"streams": names}))
            }
            FromWriter::Refused(refusal) => Outcome::refused(&refusal),
        })
    }
}
