//! The real Writer with its chunks in a bucket, behind a proxy that can fail.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use pyramid_client::read::{Item, Options, Start};
use pyramid_client::{Client, Reader, connection};
use pyramid_e2e::fault_proxy::FaultProxy;
use pyramid_e2e::identities::Identities;
use pyramid_e2e::process::{Folder, Process, Recipe, free_port, program, wait_until};
use pyramid_protocol::net::{Connect, TcpConnect, channel};
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::pb::v1::{self as pb, put_stream_result};
use pyramid_protocol::{Offset, Records};
use pyramid_storage::{Fetcher, HttpSettings, Keks};
use tonic::transport::Channel;

use crate::bucket::Bucket;

/// What is waited for takes less, also on a machine that is busy with something else.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) const CLUSTER: [u8; 16] = [9; 16];

pub(crate) struct World {
    pub(crate) bucket: Bucket,
    pub(crate) proxy: FaultProxy,
    pub(crate) writer_port: u16,
    pub(crate) admin_port: u16,
    pub(crate) folder: Folder,
    recipe: Recipe,
    pub(crate) writer: Option<Process>,
    /// `None`: without TLS, so that everybody has all rights.
    pub(crate) identities: Option<Identities>,
}

/// A record's offset and value.
pub(crate) type Row = (u64, Vec<u8>);

impl World {
    /// Founds a cluster whose Writer reaches `bucket` through a proxy.
    pub(crate) async fn found(bucket: Bucket, seed: u64, flags: &[&str]) -> anyhow::Result<Self> {
        let mut world = Self::prepare(bucket, seed).await?;
        world.recipe.arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        world.start().await?;
        Ok(world)
    }

    /// All but the start, with the settings of [`Self::found`].
    pub(crate) async fn prepare(bucket: Bucket, seed: u64) -> anyhow::Result<Self> {
        let proxy = FaultProxy::start(bucket.server.address(), seed).await?;
        let folder = Folder::new()?;
        let kek = Keks::generate("kek-1", &pyramid_protocol::SystemEntropy);
        std::fs::write(folder.join("kek"), kek.as_bytes())?;
        let (writer_port, admin_port) = (free_port()?, free_port()?);
        let path = |name: &str| folder.join(name).display().to_string();
        let credentials = bucket.options.credentials_dir.as_ref().context("credentials")?;
        let region = bucket.options.region.clone().context("a region")?;
        let arguments = [
            ("--data-dir", path("data")),
            ("--kek-file", path("kek")),
            ("--listen", format!("127.0.0.1:{writer_port}")),
            ("--admin-listen", format!("127.0.0.1:{admin_port}")),
            ("--ops-listen", "127.0.0.1:0".to_owned()),
            ("--segment-bytes", (16 << 20).to_string()),
            ("--object-store", format!("s3://{}", bucket.name)),
            ("--object-prefix", "some/where".to_owned()),
            ("--s3-endpoint", proxy.url()),
            ("--s3-region", region),
            ("--s3-credentials", credentials.display().to_string()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        let recipe = Recipe {
            name: "writer".to_owned(),
            program: program("pyramid-writer")?,
            arguments,
            ready: "ready ".to_owned(),
            log: folder.join("writer.log"),
        };
        let (writer, identities) = (None, None);
        Ok(Self { bucket, proxy, writer_port, admin_port, folder, recipe, writer, identities })
    }

    /// Another value of a flag of the Writer.
    pub(crate) fn set(&mut self, flag: &str, value: &str) {
        let arguments = &mut self.recipe.arguments;
        match arguments.iter().position(|argument| argument == flag) {
            Some(place) => value.clone_into(&mut arguments[place + 1]),
            None => arguments.extend([flag.to_owned(), value.to_owned()]),
        }
    }

    /// Everybody has a certificate, and rights are needed.
    pub(crate) fn secure(&mut self) -> anyhow::Result<()> {
        let identities = Identities::make(&self.folder.join("tls"))?;
        self.set("--tls", &identities.writer.display().to_string());
        self.identities = Some(identities);
        Ok(())
    }

    /// Starts the Writer for the first time.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        self.start_writer().await?;
        let request = pb::BootstrapRequest { cluster_id: CLUSTER.to_vec().into() };
        self.admin()?.bootstrap(request).await.context("found the cluster")?;
        Ok(())
    }

    fn connect(&self, of: impl Fn(&Identities) -> Arc<dyn Connect>) -> Arc<dyn Connect> {
        self.identities.as_ref().map_or_else(|| Arc::new(TcpConnect) as _, of)
    }

    pub(crate) async fn start_writer(&mut self) -> anyhow::Result<()> {
        self.writer = Some(self.recipe.start().await?);
        Ok(())
    }

    /// kill -9.
    pub(crate) async fn kill_writer(&mut self) -> anyhow::Result<()> {
        self.writer.take().context("the Writer runs")?.kill().await
    }

    pub(crate) fn admin(&self) -> anyhow::Result<AdminClient<Channel>> {
        let address = format!("127.0.0.1:{}", self.admin_port);
        Ok(AdminClient::new(channel(self.connect(Identities::operator), &address)?))
    }

    pub(crate) fn calls(&self) -> anyhow::Result<WriterClient<Channel>> {
        let address = format!("127.0.0.1:{}", self.writer_port);
        Ok(WriterClient::new(channel(self.connect(Identities::user), &address)?))
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let address = format!("127.0.0.1:{}", self.writer_port);
        let connect = self.connect(Identities::user);
        Ok(Client::new(connection::Options { connect, ..connection::Options::tcp(vec![address]) })?)
    }

    /// Makes a stream that is cut at so many bytes.
    pub(crate) async fn put_stream(&self, name: &str, chunk_bytes: u64) -> anyhow::Result<()> {
        let put = pb::PutStream {
            object: Some(pb::ObjectRef { uid: format!("uid-{name}"), generation: 1 }),
            name: name.to_owned(),
            settings: Some(pb::StreamSettings { chunk_bytes, chunk_age_ms: 0 }),
            rights: self.identities.as_ref().map(Identities::rights).transpose()?,
            expected: None,
        };
        let request =
            pb::PutStreamsRequest { cluster_id: CLUSTER.to_vec().into(), streams: vec![put] };
        // Founded is not yet elected.
        wait_until("a stream is put", DEADLINE, async || {
            let Ok(answer) = self.admin()?.put_streams(request.clone()).await else {
                return Ok(false);
            };
            let result = answer.into_inner().results.pop().and_then(|result| result.result);
            ensure!(matches!(result, Some(put_stream_result::Result::Stream(_))), "{result:?}");
            Ok(true)
        })
        .await
    }

    pub(crate) async fn info(&self, stream: &str) -> anyhow::Result<pb::StreamInfo> {
        let request = pb::GetStreamRequest { stream: stream.to_owned(), min_next_offset: None };
        Ok(self.calls()?.get_stream(request).await?.into_inner())
    }

    /// Appends values at once, and has them acknowledged.
    pub(crate) async fn append(&self, stream: &str, values: &[Vec<u8>]) -> anyhow::Result<()> {
        let request = tokio_stream::iter([append(stream, values)]);
        let mut answers = self.calls()?.append(request).await?.into_inner();
        let answer = answers.message().await?.context("an answer")?.answer;
        ensure!(matches!(answer, Some(Answer::Appended(_))), "{answer:?}");
        Ok(())
    }

    /// Cuts a stream at its end.
    pub(crate) async fn seal(&self, stream: &str) -> anyhow::Result<()> {
        let request = pb::SealRequest { stream: stream.to_owned(), stream_id: None };
        self.calls()?.seal(request).await.context("seal")?;
        Ok(())
    }

    /// Waits until all that is sealed of a stream, and that is all of it, is in the bucket.
    pub(crate) async fn shipped(&self, stream: &str) -> anyhow::Result<pb::StreamInfo> {
        let mut info = pb::StreamInfo::default();
        wait_until("all is shipped", DEADLINE, async || {
            info = self.info(stream).await?;
            Ok(info.shipped_offset == info.next_offset)
        })
        .await?;
        Ok(info)
    }

    /// All of a stream: through the Writer, or through chunks that this reader fetches itself.
    pub(crate) async fn read(&self, stream: &str, by_itself: bool) -> anyhow::Result<Vec<Row>> {
        let start = Start::Offset(Offset::new(0));
        let mut options = Options::new(stream.parse()?, start);
        options.fetcher = by_itself.then(|| fetcher(self.bucket.options.ca_file.clone()));
        options.give_up_after = Some(DEADLINE);
        let mut reader = Reader::new(self.client()?, options);
        let mut rows = Vec::new();
        while let Some(item) = reader.next().await {
            let Item::Batches(batches) = item? else { continue };
            for batch in &batches.batches {
                batch.verify()?;
                for record in batch.iter() {
                    let (offset, record) = record?;
                    rows.push((offset.get(), record.value.to_vec()));
                }
            }
        }
        Ok(rows)
    }

    /// Whether a stream holds these values and nothing else, read as [`Self::read`] says.
    pub(crate) async fn holds(
        &self,
        stream: &str,
        values: &[Vec<u8>],
        by_itself: bool,
    ) -> anyhow::Result<()> {
        let rows = self.read(stream, by_itself).await?;
        ensure!(rows.len() == values.len(), "{} of {} in {stream}", rows.len(), values.len());
        for ((offset, value), (place, expected)) in rows.iter().zip((0..).zip(values)) {
            if *offset != place || value != expected {
                bail!("{stream} holds another record at {place}: offset {offset}");
            }
        }
        Ok(())
    }
}

/// Opens URLs of HTTP, and those of HTTPS whose certificate comes from this authority.
pub(crate) fn fetcher(ca_file: Option<PathBuf>) -> Fetcher {
    let settings = HttpSettings { ca_file, allows_plain_http: true };
    Fetcher::new().with_http(settings).unwrap()
}

/// An append of these values.
pub(crate) fn append(stream: &str, values: &[Vec<u8>]) -> pb::AppendRequest {
    let record = |value: &Vec<u8>| pb::Record { value: value.clone().into(), headers: vec![] };
    let records: Vec<_> = values.iter().map(record).collect();
    let records = Records::encode(&records).unwrap().bytes().clone();
    pb::AppendRequest { stream: stream.to_owned(), records, ..Default::default() }
}
