//! History comes from the object store: the Writer tells where it is, and carries none of it.
//!
//! Everything is as in a cluster: certificates on all connections of Pyramid, rights, and a store
//! with a certificate of a private authority.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pyramid_client::AppendSession;
use pyramid_client::append::Options;
use pyramid_e2e::counting_proxy::CountingProxy;
use pyramid_e2e::process::{Recipe, free_port, program, tell, wait_until};
use pyramid_protocol::Batch;
use pyramid_protocol::net::{TcpAccept, incoming, server};
use pyramid_protocol::pb::v1::consumer_server::{Consumer, ConsumerServer};
use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_protocol::pb::v1::{
    self as pb, Accepted, Position, PushRequest, PushResponse, WrongOffset,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::bucket::Bucket;
use crate::world::{CLUSTER, World, append};

/// Values of the records that are replayed. Unit: bytes.
const HISTORY_BYTES: usize = 1 << 30;

const RECORD_BYTES: usize = 64 << 10;
const RECORDS_PER_APPEND: usize = 16;
const RECORDS: usize = HISTORY_BYTES / RECORD_BYTES;

/// What the Writer may send to the pusher meanwhile, of the history. Unit: per mille.
const WRITER_SHARE_MAX: u64 = 1;

const REPLAY_TIMEOUT: Duration = Duration::from_secs(300);

/// Noise of which values are made. An append, which is compressed alone, holds none of it twice.
/// Unit: bytes.
const NOISE_BYTES: usize = 4 << 20;

/// The value of a record: its number and noise, so that nothing is compressed away.
fn value(noise: &[u8], number: usize) -> Vec<u8> {
    let begin = number * RECORD_BYTES % NOISE_BYTES;
    let mut value = number.to_le_bytes().to_vec();
    value.extend(&noise[begin..begin + RECORD_BYTES - value.len()]);
    value
}

/// Takes each record once, in order.
#[derive(Default)]
struct Application {
    noise: Vec<u8>,
    stored: Mutex<(Option<Position>, usize)>,
}

impl Application {
    fn records(&self) -> usize {
        self.stored.lock().unwrap().1
    }

    fn take(&self, push: PushRequest) -> anyhow::Result<Answer> {
        let mut stored = self.stored.lock().unwrap();
        let (position, next) = &mut *stored;
        if *position != push.base {
            return Ok(Answer::WrongOffset(WrongOffset { stored: *position }));
        }
        for batch in push.batches {
            let batch = Batch::decode(batch)?;
            batch.verify()?;
            for record in batch.iter() {
                let (offset, record) = record?;
                anyhow::ensure!(offset.get() == u64::try_from(*next)?, "{offset} after {next}");
                anyhow::ensure!(record.value == value(&self.noise, *next), "{offset} is another");
                *next += 1;
            }
        }
        *position = push.next;
        Ok(Answer::Accepted(Accepted { next: push.next }))
    }
}

#[tonic::async_trait]
impl Consumer for Application {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        match self.take(request.into_inner()) {
            Ok(answer) => Ok(Response::new(PushResponse { answer: Some(answer) })),
            Err(error) => {
                tell(&format!("the application was pushed nonsense: {error:#}"));
                Err(Status::internal(error.to_string()))
            }
        }
    }
}

/// Appends the history and ships it.
async fn write_history(world: &World, noise: &[u8]) {
    world.put_stream("history", 8 << 20).await.unwrap();
    let options = Options { in_flight_max: 16, ..Options::default() };
    let session = AppendSession::new(world.client().unwrap(), options);
    let mut pending = FuturesUnordered::new();
    for first in (0..RECORDS).step_by(RECORDS_PER_APPEND) {
        let values: Vec<_> =
            (first..first + RECORDS_PER_APPEND).map(|number| value(noise, number)).collect();
        pending.push(session.append(append("history", &values)).await);
        while let Some(Some(answer)) = futures::FutureExt::now_or_never(pending.next()) {
            answer.unwrap();
        }
    }
    while let Some(answer) = pending.next().await {
        answer.unwrap();
    }
    world.seal("history").await.unwrap();
    let info = world.shipped("history").await.unwrap();
    assert_eq!(info.next_offset, u64::try_from(RECORDS).unwrap());
}

/// Declares who is pushed the history.
async fn subscribe(world: &World, pusher: String) {
    let subscription = pb::PutSubscription {
        object: Some(pb::ObjectRef { uid: "uid-replay".to_owned(), generation: 1 }),
        name: "replay".to_owned(),
        streams: vec!["history".to_owned()],
        start_from: pb::StartFrom::Earliest.into(),
        mode: pb::DeliveryMode::Broadcast.into(),
        service_accounts: vec![pusher],
        ..Default::default()
    };
    let request = pb::PutSubscriptionsRequest {
        cluster_id: CLUSTER.to_vec().into(),
        subscriptions: vec![subscription],
    };
    let answer = world.admin().unwrap().put_subscriptions(request).await.unwrap().into_inner();
    assert!(answer.results.iter().all(|result| result.refused.is_none()), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_replays_history_from_the_store_and_the_writer_sends_none_of_it() {
    let begin = Instant::now();
    let bucket = Bucket::https().await;
    let store = CountingProxy::start(bucket.server.https_address()).await.unwrap();
    let mut world = World::prepare(bucket, 31).await.unwrap();
    let ca = world.bucket.server.ca().display().to_string();
    world.set("--s3-endpoint", &format!("https://{}", store.address()));
    world.set("--s3-ca", &ca);
    world.secure().unwrap();
    world.start().await.unwrap();
    let identities = world.identities.clone().unwrap();
    let mut noise = vec![0; NOISE_BYTES];
    StdRng::seed_from_u64(31).fill(&mut noise[..]);
    write_history(&world, &noise).await;
    let written = begin.elapsed();

    subscribe(&world, identities.pusher_account().unwrap()).await;

    let application = Arc::new(Application { noise, ..Application::default() });
    let accept = TcpAccept::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let port = accept.local_address().unwrap().port();
    let mut serving = JoinSet::new();
    let service =
        ConsumerServer::from_arc(Arc::clone(&application)).max_decoding_message_size(8 << 20);
    serving.spawn(server().add_service(service).serve_with_incoming(incoming(accept)));

    let writer = ([127, 0, 0, 1], world.writer_port).into();
    let between = CountingProxy::start(writer).await.unwrap();
    let arguments = [
        ("--writer", between.address().to_string()),
        ("--subscriptions", "replay".to_owned()),
        ("--ops-listen", "127.0.0.1:0".to_owned()),
        ("--app-port", port.to_string()),
        ("--local", format!("127.0.0.1:{}", free_port().unwrap())),
        ("--tls", identities.pusher.display().to_string()),
        ("--object-store-ca", ca),
    ];
    let arguments = arguments.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]);
    let pusher = Recipe {
        name: "pusher".to_owned(),
        program: program("pyramid-pusher").unwrap(),
        arguments: arguments.collect(),
        ready: "ready ".to_owned(),
        log: world.folder.join("pusher.log"),
    };
    let stored = store.sent_by_server();
    let begin = Instant::now();
    let pusher = pusher.start().await.unwrap();
    let all = async || Ok(application.records() == RECORDS);
    wait_until("the application has everything", REPLAY_TIMEOUT, all).await.unwrap();
    let replayed = begin.elapsed();
    pusher.kill().await.unwrap();

    let history = u64::try_from(HISTORY_BYTES).unwrap();
    // The Writer has nothing to ask of the store meanwhile.
    let (sent, fetched) = (between.sent_by_server(), store.sent_by_server() - stored);
    tell(&format!(
        "replay: {history} bytes, written in {written:?}, replayed in {replayed:?}; {sent} bytes \
         from the Writer, {fetched} bytes from the store"
    ));
    assert!(fetched >= history, "{fetched} bytes from the store");
    assert!(sent * 1000 <= history * WRITER_SHARE_MAX, "the Writer sent {sent} bytes");
    assert!(sent > 0, "nothing went through the proxy");
}
