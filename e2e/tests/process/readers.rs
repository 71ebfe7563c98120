//! Readers: live from the Writer, through chunks, and through the pusher.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use pyramid_client::read::{Item, Options, Start};
use pyramid_client::{Client, Reader, connection};
use pyramid_e2e::history::{Call, Outcome, Piece, ReadPath, Recorder, record_number};
use pyramid_e2e::identities::Identities;
use pyramid_protocol::net::{TcpConnect, channel};
use pyramid_protocol::pb::v1::local_client::LocalClient;
use pyramid_protocol::pb::v1::read_request;
use pyramid_protocol::pb::v1::read_response;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::pb::v1::{GetStreamRequest, ReadRequest, ReadResponse, Reason};
use pyramid_protocol::{Batch, Offset};
use pyramid_storage::Fetcher;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{sleep, timeout};
use tonic::{Response, Status, Streaming};

use crate::world::World;

/// Between two attempts to begin a read, and between two reads.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// A read of everything takes at most so long.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(120);

/// What a reader needs to know.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) stream: String,
    pub(crate) writer_port: u16,
    pub(crate) local_port: u16,
    /// The folder of the object store.
    pub(crate) store: std::path::PathBuf,
    pub(crate) recorder: Arc<Recorder>,
    identities: Identities,
}

impl Source {
    pub(crate) fn new(world: &World, stream: &str, recorder: &Arc<Recorder>) -> Self {
        Self {
            stream: stream.to_owned(),
            writer_port: world.writer_port,
            local_port: world.local_port,
            store: world.folder.join("store"),
            recorder: Arc::clone(recorder),
            identities: world.identities.clone(),
        }
    }

    fn call(&self, path: ReadPath, session: u64, from: u64, complete: bool) -> Call {
        Call::Read { stream: self.stream.clone(), session, from, path, complete }
    }

    fn request(&self, from: u64, follow: bool) -> ReadRequest {
        ReadRequest {
            stream: self.stream.clone(),
            start: Some(read_request::Start::Offset(from)),
            follow,
            ..ReadRequest::default()
        }
    }

    /// Follows the stream from its first record on, as the Writer sends it.
    pub(crate) async fn follow(self) -> anyhow::Result<()> {
        let name = format!("follower-{}", self.stream);
        let mut due = 0;
        loop {
            let answers = self.writer()?.read(self.request(due, true)).await;
            if let Ok(answers) = answers {
                self.follow_one(&name, answers.into_inner(), &mut due).await?;
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// One call, until it is lost.
    async fn follow_one(
        &self,
        name: &str,
        mut answers: Streaming<ReadResponse>,
        due: &mut u64,
    ) -> anyhow::Result<()> {
        loop {
            let op = self.recorder.invoke(name, self.call(ReadPath::Writer, 0, *due, false));
            let item = match answers.message().await {
                Ok(Some(ReadResponse { item: Some(item) })) => item,
                lost => {
                    self.recorder.fail(name, op, format!("{lost:?}"));
                    return Ok(());
                }
            };
            let (pieces, caught_up) = taken(item)?;
            *due = pieces.last().map_or(*due, next_of);
            self.recorder.ok(name, op, Outcome::Read { pieces, caught_up });
        }
    }

    /// Asks again and again where the stream ends.
    pub(crate) async fn watch_end(self) -> anyhow::Result<()> {
        let name = format!("watcher-{}", self.stream);
        loop {
            let call = Call::Tail { stream: self.stream.clone(), session: 0 };
            let op = self.recorder.invoke(&name, call);
            let request = GetStreamRequest { stream: self.stream.clone(), min_next_offset: None };
            match self.writer()?.get_stream(request).await {
                Ok(info) => {
                    let next = info.into_inner().next_offset;
                    self.recorder.ok(&name, op, Outcome::Tail { next });
                }
                Err(status) => self.recorder.fail(&name, op, status.to_string()),
            }
            sleep(RETRY_DELAY).await;
        }
    }

    /// Reads from a random place to the end, again and again, opening chunks itself.
    pub(crate) async fn read_chunks(self, seed: u64) -> anyhow::Result<()> {
        let name = format!("chunk-reader-{}", self.stream);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut reach = 0;
        loop {
            let from = rng.random_range(0..=reach);
            let op = self.recorder.invoke(&name, self.call(ReadPath::Chunks, 0, from, false));
            let (pieces, end) = self.through_chunks(from).await?;
            reach = reach.max(end);
            self.recorder.ok(&name, op, Outcome::Read { pieces, caught_up: Some(end) });
            sleep(RETRY_DELAY).await;
        }
    }

    /// Everything from an offset to the end, with the client that opens chunks. It waits for the
    /// Writer as long as it takes.
    async fn through_chunks(&self, from: u64) -> anyhow::Result<(Vec<Piece>, u64)> {
        let address = format!("127.0.0.1:{}", self.writer_port);
        let client = Client::new(connection::Options {
            connect: self.identities.user(),
            ..connection::Options::tcp(vec![address])
        })?;
        let mut options = Options::new(self.stream.parse()?, Start::Offset(Offset::new(from)));
        options.fetcher = Some(Fetcher::new().with_directory(&self.store));
        let mut reader = Reader::new(client, options);
        let mut pieces = Vec::new();
        while let Some(item) = reader.next().await {
            match item? {
                Item::Batches(batches) => {
                    for batch in &batches.batches {
                        pieces.push(piece(batch)?);
                    }
                }
                Item::CaughtUp(end) => return Ok((pieces, end.get())),
                Item::Started { .. } | Item::Interrupted(_) => {}
            }
        }
        bail!("the read ended without saying so")
    }

    /// A read of everything by one way, when nothing is appended any more.
    pub(crate) async fn complete(&self, path: ReadPath) -> anyhow::Result<u64> {
        let name = "judge";
        let op = self.recorder.invoke(name, self.call(path, path as u64, 0, true));
        let read = async {
            match path {
                ReadPath::Writer => {
                    let writer = self.writer()?;
                    let read = async |request| writer.clone().read(request).await;
                    self.to_the_end(read).await
                }
                ReadPath::Pusher => {
                    let address = format!("127.0.0.1:{}", self.local_port);
                    let local = LocalClient::new(channel(Arc::new(TcpConnect), &address)?);
                    let read = async |request| local.clone().read(request).await;
                    self.to_the_end(read).await
                }
                ReadPath::Chunks => self.through_chunks(0).await,
            }
        };
        let read = timeout(COMPLETE_TIMEOUT, read).await;
        let (pieces, end) = read.with_context(|| format!("read by {path:?}"))??;
        self.recorder.ok(name, op, Outcome::Read { pieces, caught_up: Some(end) });
        Ok(end)
    }

    /// Asks again where a read stops before its end, as `Moved` demands.
    async fn to_the_end(
        &self,
        read: impl AsyncFn(ReadRequest) -> Result<Response<Streaming<ReadResponse>>, Status>,
    ) -> anyhow::Result<(Vec<Piece>, u64)> {
        let mut all = Vec::new();
        loop {
            let due = all.last().map_or(0, next_of);
            let mut answers = read(self.request(due, false)).await?.into_inner();
            let before = all.len();
            while let Some(ReadResponse { item: Some(item) }) = answers.message().await? {
                let (pieces, caught_up) = taken(item)?;
                all.extend(pieces);
                if let Some(end) = caught_up {
                    return Ok((all, end));
                }
            }
            ensure!(all.len() > before, "the read stopped at {due}");
        }
    }

    fn writer(&self) -> anyhow::Result<WriterClient<tonic::transport::Channel>> {
        let address = format!("127.0.0.1:{}", self.writer_port);
        Ok(WriterClient::new(channel(self.identities.user(), &address)?))
    }
}

/// What one item brings: pieces, and the end if all is sent.
fn taken(item: read_response::Item) -> anyhow::Result<(Vec<Piece>, Option<u64>)> {
    match item {
        read_response::Item::Start(_) | read_response::Item::Moved(_) => Ok((vec![], None)),
        read_response::Item::Batches(batches) => {
            let pieces = batches.batches.into_iter().map(|batch| piece(&Batch::decode(batch)?));
            Ok((pieces.collect::<anyhow::Result<_>>()?, None))
        }
        read_response::Item::CaughtUp(caught_up) => Ok((vec![], Some(caught_up.next_offset))),
        read_response::Item::Chunk(location) => bail!("nobody asked for a chunk: {location:?}"),
        read_response::Item::Refused(refusal) => {
            // The Writer ends; the call is made again.
            let goes_on = refusal.retry || refusal.reason() == Reason::Unavailable;
            ensure!(goes_on, "the read was refused: {refusal:?}");
            Ok((vec![], None))
        }
    }
}

/// The numbers of a batch's records.
pub(crate) fn piece(batch: &Batch) -> anyhow::Result<Piece> {
    batch.verify()?;
    let first = batch.base_offset.get();
    let records = batch
        .iter()
        .map(|record| {
            let (offset, record) = record?;
            record_number(&record.value).with_context(|| format!("record {offset} was changed"))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(Piece { first, records })
}

fn next_of(piece: &Piece) -> u64 {
    piece.first + piece.records.len() as u64
}
