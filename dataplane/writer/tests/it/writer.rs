//! A whole replica in a temporary folder, over real sockets, real disk and real files.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::net::{TcpConnect, channel};
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::append_response::Answer;
use pyramid_protocol::pb::v1::put_stream_result;
use pyramid_protocol::pb::v1::read_request::Start;
use pyramid_protocol::pb::v1::read_response::Item;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::pb::v1::{self as pb, Effect, Reason, Refusal};
use pyramid_protocol::{Batch, Records, SystemEntropy};
use pyramid_storage::{Keks, MemoryStore};
use pyramid_writer::config::{Args, Config};
use pyramid_writer::raft::Timing;
use pyramid_writer::replica::{self, Environment};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::tenants::{Door, Nobody, Tenants};

/// Nothing here takes this long; a test that waits longer has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const CLUSTER: [u8; 16] = [7; 16];

/// A running replica. Its directory outlives it.
pub(crate) struct Writer {
    pub(crate) address: SocketAddr,
    pub(crate) calls: WriterClient<Channel>,
    pub(crate) admin: AdminClient<Channel>,
    /// Where health and metrics are.
    pub(crate) ops: SocketAddr,
    pub(crate) running: JoinHandle<Result<(), replica::Error>>,
    pub(crate) shutdown: CancellationToken,
}

pub(crate) struct Folder(pub(crate) TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kek = Keks::generate("kek-1", &SystemEntropy);
        std::fs::write(folder.path().join("kek"), kek.as_bytes()).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn config(&self, flags: &[&str]) -> Config {
        let path = |name: &str| self.path().join(name).display().to_string();
        let mut line = vec!["pyramid-writer".to_owned()];
        line.extend(["--data-dir".into(), path("data")]);
        line.extend(["--kek-file".into(), path("kek")]);
        line.extend(["--object-store".into(), format!("file:{}", path("objects"))]);
        line.extend(["--segment-bytes".into(), (16 << 20).to_string()]);
        line.extend(["--memory-bytes-max".into(), (512 << 20).to_string()]);
        line.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut config =
            <Args as clap::Parser>::try_parse_from(line).unwrap().replica.into_config().unwrap();
        // Alone, a replica may stand for election at once.
        config.timing = Timing {
            heartbeat: Duration::from_millis(20),
            election_min: Duration::from_millis(40),
            election_max: Duration::from_millis(80),
        };
        config
    }

    /// Starts a replica and waits until it serves, or waits to be founded.
    pub(crate) async fn start(&self, flags: &[&str]) -> Writer {
        self.try_start(flags).await.expect("the replica starts")
    }

    pub(crate) async fn try_start(&self, flags: &[&str]) -> Result<Writer, replica::Error> {
        self.try_start_with(self.config(flags), |_| {}).await
    }

    /// Starts a replica with other settings and parts than those of the flags.
    pub(crate) async fn try_start_with(
        &self,
        config: Config,
        change: impl FnOnce(&mut Environment),
    ) -> Result<Writer, replica::Error> {
        let (writer, served) = self.spawn(config, change).await?;
        if timeout(DEADLINE, served).await.expect("the replica starts in time").is_err() {
            return Err(writer.ended().await.unwrap_err());
        }
        Ok(writer)
    }

    /// Begins to start a replica, and does not wait until it serves.
    pub(crate) async fn begin_start(&self, config: Config) -> Writer {
        self.spawn(config, |_| {}).await.expect("the replica starts").0
    }

    /// Starts a replica of a new cluster. Its callers over sockets are local ones; others connect in
    /// memory, and each says who it is.
    pub(crate) async fn found_for_many(&self) -> (Writer, Tenants) {
        let (tenants, writers, admins) = Tenants::new();
        let started = self.try_start_with(self.config(&[]), |parts| {
            let writer = std::mem::replace(&mut parts.writer, Box::new(Nobody));
            parts.writer = Box::new(Door::new(writer, writers));
            let admin = std::mem::replace(&mut parts.admin, Box::new(Nobody));
            parts.admin = Box::new(Door::new(admin, admins));
        });
        let mut writer = started.await.expect("the replica starts");
        writer.bootstrap(CLUSTER).await.unwrap();
        (writer, tenants)
    }

    async fn spawn(
        &self,
        config: Config,
        change: impl FnOnce(&mut Environment),
    ) -> Result<(Writer, oneshot::Receiver<()>), replica::Error> {
        let free = "127.0.0.1:0".parse().unwrap();
        let (mut environment, addresses) =
            Environment::open(&config, free, free, Some(free)).await?;
        change(&mut environment);
        let shutdown = CancellationToken::new();
        let (serving, served) = oneshot::channel();
        let stop = shutdown.clone();
        #[expect(clippy::disallowed_methods, reason = "the test awaits it in `stop`")]
        let running = tokio::spawn(async move {
            // A test that does not wait has dropped the other end.
            let serving = move || serving.send(()).unwrap_or_default();
            replica::run(config, environment, serving, stop).await
        });
        let connect =
            |address: SocketAddr| channel(Arc::new(TcpConnect), &address.to_string()).unwrap();
        let writer = Writer {
            address: addresses.writer,
            calls: WriterClient::new(connect(addresses.writer)),
            admin: AdminClient::new(connect(addresses.admin)),
            ops: addresses.ops.unwrap(),
            running,
            shutdown,
        };
        Ok((writer, served))
    }

    /// Starts a replica of a new cluster.
    pub(crate) async fn found(&self, flags: &[&str]) -> Writer {
        let mut writer = self.start(flags).await;
        writer.bootstrap(CLUSTER).await.unwrap();
        writer
    }

    /// Starts a replica of a new cluster whose chunks go to `store`.
    pub(crate) async fn found_on(&self, store: &Arc<MemoryStore>, flags: &[&str]) -> Writer {
        let mut writer = self.start_on(store, flags).await;
        writer.bootstrap(CLUSTER).await.unwrap();
        writer
    }

    /// Starts a replica whose chunks go to `store`.
    pub(crate) async fn start_on(&self, store: &Arc<MemoryStore>, flags: &[&str]) -> Writer {
        let store = Arc::clone(store);
        let started = self.try_start_with(self.config(flags), |parts| parts.store = store).await;
        started.expect("the replica starts")
    }
}

impl Writer {
    pub(crate) async fn bootstrap(&mut self, cluster_id: [u8; 16]) -> Result<u64, Refusal> {
        let request = pb::BootstrapRequest { cluster_id: cluster_id.to_vec().into() };
        let answer = self.admin.bootstrap(request).await;
        answer.map(|answer| answer.into_inner().node_id).map_err(refusal)
    }

    pub(crate) async fn delete_stream(&mut self, name: &str) {
        let stream_id = self.info(name).await.stream_id;
        let cluster_id = CLUSTER.to_vec().into();
        let request = pb::DeleteStreamRequest { cluster_id, name: name.into(), stream_id };
        self.admin.delete_stream(request).await.unwrap();
    }

    pub(crate) async fn set_closed(&mut self, name: &str, closed: bool) {
        let stream_id = self.info(name).await.stream_id;
        let cluster_id = CLUSTER.to_vec().into();
        let request = pb::SetClosedRequest { cluster_id, name: name.into(), stream_id, closed };
        self.admin.set_closed(request).await.unwrap();
    }

    pub(crate) async fn trim(&mut self, name: &str, first_offset: u64) -> Result<u64, Refusal> {
        let request = pb::TrimRequest { stream: name.into(), stream_id: None, first_offset };
        let answer = self.calls.trim(request).await;
        answer.map(|answer| answer.into_inner().first_offset).map_err(refusal)
    }

    pub(crate) async fn init_producer(
        &mut self,
        stream: &str,
        name: &str,
        resume_sequence: Option<u64>,
    ) -> Result<pb::InitProducerResponse, Refusal> {
        let (stream, name) = (stream.into(), name.into());
        let request = pb::InitProducerRequest { stream, name, resume_sequence };
        self.calls.init_producer(request).await.map(tonic::Response::into_inner).map_err(refusal)
    }

    pub(crate) async fn put_subscription(
        &mut self,
        put: pb::PutSubscription,
    ) -> Result<(), Refusal> {
        let (cluster_id, subscriptions) = (CLUSTER.to_vec().into(), vec![put]);
        let request = pb::PutSubscriptionsRequest { cluster_id, subscriptions };
        let mut response = self.admin.put_subscriptions(request).await.unwrap().into_inner();
        response.results.remove(0).refused.map_or(Ok(()), Err)
    }

    /// Why a session cannot be begun.
    pub(crate) async fn session_refusal(&mut self) -> Reason {
        let requests = tokio_stream::empty::<pb::AppendRequest>();
        match self.calls.append(requests).await {
            Ok(_) => Reason::Unspecified,
            Err(status) => refusal(status).reason(),
        }
    }

    /// Ends a replica that has stopped, or stops, by itself.
    pub(crate) async fn ended(self) -> Result<(), replica::Error> {
        drop((self.calls, self.admin));
        timeout(DEADLINE, self.running).await.expect("the replica ends").unwrap()
    }

    pub(crate) async fn stop(self) {
        self.begin_stop().await;
    }

    /// Stops it; to be awaited for the end.
    pub(crate) fn begin_stop(self) -> impl Future<Output = ()> {
        self.shutdown.cancel();
        async { self.ended().await.expect("a clean stop") }
    }

    pub(crate) async fn put_stream(&mut self, name: &str) -> pb::StreamInfo {
        self.put_stream_with(name, pb::StreamSettings::default()).await
    }

    pub(crate) async fn put_stream_with(
        &mut self,
        name: &str,
        settings: pb::StreamSettings,
    ) -> pb::StreamInfo {
        self.put(name, settings, pb::StreamRights::default()).await
    }

    /// Creates a stream with these rights, or gives them to one that exists.
    pub(crate) async fn put_rights(
        &mut self,
        name: &str,
        rights: pb::StreamRights,
    ) -> pb::StreamInfo {
        self.put(name, pb::StreamSettings::default(), rights).await
    }

    async fn put(
        &mut self,
        name: &str,
        settings: pb::StreamSettings,
        rights: pb::StreamRights,
    ) -> pb::StreamInfo {
        let put = pb::PutStream {
            object: Some(pb::ObjectRef { uid: format!("uid of {name}"), generation: 1 }),
            name: name.to_owned(),
            settings: Some(settings),
            rights: Some(rights),
            expected: None,
        };
        let request =
            pb::PutStreamsRequest { cluster_id: CLUSTER.to_vec().into(), streams: vec![put] };
        let mut response = self.admin.put_streams(request).await.unwrap().into_inner();
        match response.results.remove(0).result {
            Some(put_stream_result::Result::Stream(info)) => info,
            other => panic!("stream {name} was not put: {other:?}"),
        }
    }

    pub(crate) async fn delete_subscription(&mut self, name: &str) {
        let request = pb::DeleteSubscriptionRequest {
            cluster_id: CLUSTER.to_vec().into(),
            name: name.to_owned(),
            object: subscription(name, 1, &[]).object,
        };
        self.admin.delete_subscription(request).await.unwrap();
    }

    /// Puts many streams at once.
    pub(crate) async fn put_streams(&mut self, names: &[String]) {
        let streams = names.iter().map(|name| pb::PutStream {
            object: Some(pb::ObjectRef { uid: format!("uid of {name}"), generation: 1 }),
            name: name.clone(),
            settings: Some(pb::StreamSettings::default()),
            rights: None,
            expected: None,
        });
        let streams = streams.collect();
        let request = pb::PutStreamsRequest { cluster_id: CLUSTER.to_vec().into(), streams };
        let response = self.admin.put_streams(request).await.unwrap().into_inner();
        let put = response
            .results
            .iter()
            .filter(|result| matches!(result.result, Some(put_stream_result::Result::Stream(_))));
        assert_eq!(put.count(), names.len());
    }

    pub(crate) async fn session(&mut self) -> Session {
        Session::open(&mut self.calls).await
    }

    /// Appends in a session of its own.
    pub(crate) async fn append(&mut self, stream: &str, values: &[&str]) -> pb::Appended {
        let mut session = self.session().await;
        session.append(append(stream, values)).await.unwrap()
    }

    pub(crate) async fn read(&mut self, request: pb::ReadRequest) -> Vec<Item> {
        let mut items = self.calls.read(request).await.unwrap().into_inner();
        let mut read = Vec::new();
        while let Some(response) = timeout(DEADLINE, items.next()).await.expect("the read ends") {
            read.push(response.unwrap().item.unwrap());
        }
        read
    }

    /// All values from an offset on.
    pub(crate) async fn values(&mut self, stream: &str, from: u64) -> Vec<(u64, String)> {
        let items = self.read(read(stream, from)).await;
        items.iter().flat_map(values).collect()
    }

    pub(crate) async fn info(&mut self, stream: &str) -> pb::StreamInfo {
        let request = pb::GetStreamRequest { stream: stream.to_owned(), min_next_offset: None };
        self.calls.get_stream(request).await.unwrap().into_inner()
    }

    /// Waits until all of a stream is in the object store.
    pub(crate) async fn shipped(&mut self, stream: &str) -> pb::StreamInfo {
        let all_shipped = async {
            loop {
                let info = self.info(stream).await;
                if info.shipped_offset == info.next_offset {
                    return info;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, all_shipped).await.expect("the stream is shipped")
    }

    pub(crate) async fn seal_only(&mut self, stream: &str) -> u64 {
        let request = pb::SealRequest { stream: stream.to_owned(), stream_id: None };
        self.calls.seal(request).await.unwrap().into_inner().sealed_offset
    }

    /// Seals all of a stream and waits until it is shipped.
    pub(crate) async fn seal(&mut self, stream: &str) -> pb::StreamInfo {
        self.seal_only(stream).await;
        self.shipped(stream).await
    }
}

pub(crate) struct Session {
    pub(crate) requests: mpsc::Sender<pb::AppendRequest>,
    pub(crate) answers: Streaming<pb::AppendResponse>,
}

impl Session {
    pub(crate) async fn open(calls: &mut WriterClient<Channel>) -> Self {
        let (requests, received) = mpsc::channel(1024);
        let answers = calls.append(ReceiverStream::new(received)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    pub(crate) async fn append(
        &mut self,
        request: pb::AppendRequest,
    ) -> Result<pb::Appended, Refusal> {
        self.send(request).await;
        self.answer().await
    }

    pub(crate) async fn send(&mut self, request: pb::AppendRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> Result<pb::Appended, Refusal> {
        let answer = timeout(DEADLINE, self.answers.message()).await.expect("an answer comes");
        match answer.unwrap().expect("the session goes on").answer.unwrap() {
            Answer::Appended(appended) => Ok(appended),
            Answer::Refused(refusal) => Err(refusal),
        }
    }
}

pub(crate) fn append(stream: &str, values: &[&str]) -> pb::AppendRequest {
    pb::AppendRequest {
        stream: stream.to_owned(),
        records: records(values).bytes().clone(),
        ..Default::default()
    }
}

pub(crate) fn records(values: &[&str]) -> Records {
    let records: Vec<_> = values
        .iter()
        .map(|value| pb::Record { value: (*value).to_owned().into(), headers: vec![] })
        .collect();
    Records::encode(&records).unwrap()
}

pub(crate) fn read(stream: &str, from: u64) -> pb::ReadRequest {
    pb::ReadRequest {
        stream: stream.to_owned(),
        start: Some(Start::Offset(from)),
        ..Default::default()
    }
}

pub(crate) fn values(item: &Item) -> Vec<(u64, String)> {
    let Item::Batches(batches) = item else { return Vec::new() };
    batches
        .batches
        .iter()
        .flat_map(|bytes| {
            let batch = Batch::decode(bytes.clone()).unwrap();
            batch.verify().unwrap();
            let records: Vec<_> = batch.iter().map(Result::unwrap).collect();
            records
        })
        .map(|(offset, record)| (offset.get(), String::from_utf8(record.value.into()).unwrap()))
        .collect()
}

pub(crate) fn subscription(name: &str, generation: u64, streams: &[&str]) -> pb::PutSubscription {
    pb::PutSubscription {
        object: Some(pb::ObjectRef { uid: format!("uid of {name}"), generation }),
        name: name.to_owned(),
        streams: streams.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
pub(crate) fn refusal(status: tonic::Status) -> Refusal {
    Refusal::from_status(&status)
}

/// Reason, whether anything may have been written, whether to retry: what a program acts on.
pub(crate) fn verdict(answer: Result<pb::Appended, Refusal>) -> (Reason, Effect, bool) {
    let refusal = answer.expect_err("it is refused");
    assert!(!refusal.message.is_empty());
    (refusal.reason(), refusal.effect(), refusal.retry)
}

/// Where an append that was written lies.
pub(crate) fn offsets(answer: Result<pb::Appended, Refusal>) -> (u64, u64) {
    let appended = answer.expect("it is written");
    (appended.first_offset.unwrap(), appended.next_offset.unwrap())
}

/// Asks again until `look` gives something; fails after the deadline.
pub(crate) async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}
