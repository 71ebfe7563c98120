//! Calls over pipes to a service that answers as it is told.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyramid_protocol::net::{Accepted, BoxIo, Peer};
use pyramid_protocol::pb::v1::admin_server::{Admin, AdminServer};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use super::*;

const CLUSTER: [u8; 16] = [7; 16];

/// What the next calls are answered.
#[derive(Default)]
struct Script {
    infos: VecDeque<Result<pb::GetInfoResponse, Status>>,
    puts: VecDeque<pb::PutStreamsResponse>,
    put_subscriptions: VecDeque<pb::PutSubscriptionsResponse>,
    pages: VecDeque<pb::ListConfigResponse>,
    /// The `after` of each listing that was asked for.
    asked_after: Vec<String>,
    stats: Vec<pb::WatchStatsResponse>,
    /// The term of each question for information.
    terms: Vec<Option<OperatorTerm>>,
    /// Takes calls and never answers.
    is_silent: bool,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Script>>);

impl Fake {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }
}

/// A call that no test makes.
fn unasked<T>() -> Result<Response<T>, Status> {
    Err(Status::internal("this call was not expected"))
}

#[tonic::async_trait]
impl Admin for Fake {
    type WatchStatsStream = ReceiverStream<Result<pb::WatchStatsResponse, Status>>;

    async fn get_info(
        &self,
        request: Request<pb::GetInfoRequest>,
    ) -> Result<Response<pb::GetInfoResponse>, Status> {
        self.script().terms.push(OperatorTerm::find(request.metadata()).unwrap());
        if self.script().is_silent {
            std::future::pending::<()>().await;
        }
        let answer = self.script().infos.pop_front().expect("an answer for each call");
        answer.map(Response::new)
    }

    async fn bootstrap(
        &self,
        request: Request<pb::BootstrapRequest>,
    ) -> Result<Response<pb::BootstrapResponse>, Status> {
        if request.into_inner().cluster_id != CLUSTER.to_vec() {
            return Err(Refusal::new(Reason::Foreign, "of another cluster").into());
        }
        Ok(Response::new(pb::BootstrapResponse { node_id: 1 }))
    }

    async fn put_streams(
        &self,
        _: Request<pb::PutStreamsRequest>,
    ) -> Result<Response<pb::PutStreamsResponse>, Status> {
        Ok(Response::new(self.script().puts.pop_front().expect("an answer for each call")))
    }

    async fn get_stream_config(
        &self,
        _: Request<pb::GetStreamConfigRequest>,
    ) -> Result<Response<pb::GetStreamConfigResponse>, Status> {
        Err(Status::unimplemented("the operator does not ask"))
    }

    async fn delete_stream(
        &self,
        request: Request<pb::DeleteStreamRequest>,
    ) -> Result<Response<pb::DeleteStreamResponse>, Status> {
        let objects_left = request.into_inner().stream_id;
        Ok(Response::new(pb::DeleteStreamResponse { objects_left }))
    }

    async fn set_closed(
        &self,
        request: Request<pb::SetClosedRequest>,
    ) -> Result<Response<pb::SetClosedResponse>, Status> {
        if request.into_inner().closed {
            return Ok(Response::new(pb::SetClosedResponse {}));
        }
        Err(Refusal::new(Reason::StreamRecreated, "another id").into())
    }

    async fn put_subscriptions(
        &self,
        _: Request<pb::PutSubscriptionsRequest>,
    ) -> Result<Response<pb::PutSubscriptionsResponse>, Status> {
        let answer = self.script().put_subscriptions.pop_front();
        Ok(Response::new(answer.expect("an answer for each call")))
    }

    async fn delete_subscription(
        &self,
        request: Request<pb::DeleteSubscriptionRequest>,
    ) -> Result<Response<pb::DeleteSubscriptionResponse>, Status> {
        if request.into_inner().object.unwrap_or_default().uid == "mine" {
            return Ok(Response::new(pb::DeleteSubscriptionResponse {}));
        }
        Err(Refusal::new(Reason::AlreadyExists, "of another object").into())
    }

    async fn list_config(
        &self,
        request: Request<pb::ListConfigRequest>,
    ) -> Result<Response<pb::ListConfigResponse>, Status> {
        let mut script = self.script();
        script.asked_after.push(request.into_inner().after);
        let page = script.pages.pop_front();
        Ok(Response::new(page.ok_or_else(|| Status::unavailable("it stops"))?))
    }

    async fn watch_stats(
        &self,
        _: Request<pb::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        let stats = std::mem::take(&mut self.script().stats);
        let (sender, receiver) = mpsc::channel(8);
        for one in stats {
            sender.try_send(Ok(one)).expect("there is room");
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn adopt(
        &self,
        _: Request<pb::AdoptRequest>,
    ) -> Result<Response<pb::AdoptResponse>, Status> {
        unasked()
    }

    async fn add_learner(
        &self,
        _: Request<pb::AddLearnerRequest>,
    ) -> Result<Response<pb::AddLearnerResponse>, Status> {
        unasked()
    }

    async fn change_membership(
        &self,
        _: Request<pb::ChangeMembershipRequest>,
    ) -> Result<Response<pb::ChangeMembershipResponse>, Status> {
        unasked()
    }

    async fn transfer_leadership(
        &self,
        _: Request<pb::TransferLeadershipRequest>,
    ) -> Result<Response<pb::TransferLeadershipResponse>, Status> {
        unasked()
    }
}

/// Opens pipes to one service, and counts them.
struct Pipes {
    pipes: mpsc::Sender<io::Result<Accepted>>,
    opened: AtomicUsize,
    address: Mutex<String>,
}

#[tonic::async_trait]
impl Connect for Pipes {
    async fn connect(&self, address: &str) -> io::Result<BoxIo> {
        address.clone_into(&mut self.address.lock().unwrap());
        let (here, there) = tokio::io::duplex(64 << 10);
        let accepted = Accepted::new(Box::new(there), Peer::default().into());
        self.pipes.send(Ok(accepted)).await.map_err(|_gone| io::ErrorKind::ConnectionRefused)?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(here))
    }
}

struct World {
    fake: Fake,
    pipes: Arc<Pipes>,
    writers: Writers,
    _server: JoinSet<()>,
}

impl World {
    fn new() -> Self {
        let fake = Fake::default();
        let (sender, receiver) = mpsc::channel(8);
        let service = AdminServer::new(fake.clone());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let serving = net::server().add_service(service);
            serving.serve_with_incoming(ReceiverStream::new(receiver)).await.unwrap();
        });
        let pipes = Arc::new(Pipes {
            pipes: sender,
            opened: AtomicUsize::new(0),
            address: Mutex::default(),
        });
        let connect: Arc<dyn Connect> = pipes.clone();
        Self { fake, pipes, writers: Writers::plain(connect), _server: server }
    }

    fn replica(&self) -> Replica {
        self.writers.replica("shop", "billing", 0).unwrap()
    }

    fn opened(&self) -> usize {
        self.pipes.opened.load(Ordering::Relaxed)
    }
}

fn info(version: &str) -> pb::GetInfoResponse {
    pb::GetInfoResponse { version: version.to_owned(), ..Default::default() }
}

#[tokio::test]
async fn a_replica_is_called_by_its_headless_name_on_one_connection() {
    let world = World::new();
    for version in ["1", "2"] {
        world.fake.script().infos.push_back(Ok(info(version)));
        assert_eq!(world.replica().get_info().await, Ok(info(version)));
    }
    assert_eq!(world.opened(), 1);
    assert_eq!(
        *world.pipes.address.lock().unwrap(),
        "billing-writer-0.billing-writer-peers.shop.svc:7402"
    );
}

#[tokio::test]
async fn calls_tell_the_term_from_when_on_this_process_leads() {
    let world = World::new();
    let term = OperatorTerm::of_lease(1_764_000_000, 3);
    let replica = world.replica();
    for leads in [false, true] {
        if leads {
            world.writers.lead(term);
        }
        world.fake.script().infos.push_back(Ok(info("1")));
        assert_eq!(replica.get_info().await, Ok(info("1")));
    }
    assert_eq!(world.fake.script().terms, [None, Some(term)]);
}

#[tokio::test]
async fn a_refusal_keeps_the_connection_and_a_broken_one_is_opened_again() {
    let world = World::new();
    let refused = Refusal::new(Reason::Unavailable, "it starts").with_retry_after_ms(250);
    let answers = [Err(refused.into()), Ok(info("1"))];
    world.fake.script().infos.extend(answers);
    let error = world.replica().get_info().await.unwrap_err();
    let message = "it starts".to_owned();
    assert_eq!(error, Error::Later { message, retry_after: Duration::from_millis(250) });
    assert!(world.replica().get_info().await.is_ok());
    assert_eq!(world.opened(), 1);

    let answers = [Err(Status::unavailable("reset")), Ok(info("2"))];
    world.fake.script().infos.extend(answers);
    let error = world.replica().get_info().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert_eq!(world.replica().get_info().await, Ok(info("2")));
    assert_eq!(world.opened(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_says_nothing_is_given_up_after_five_seconds() {
    let world = World::new();
    world.fake.script().is_silent = true;
    let start = Instant::now();
    let error = world.replica().get_info().await.unwrap_err();
    assert_eq!(
        error,
        Error::Unreachable {
            address: "billing-writer-0.billing-writer-peers.shop.svc:7402".to_owned(),
            message: "nothing within 5s".to_owned(),
        }
    );
    assert_eq!(start.elapsed(), CALL_TIMEOUT);
}

#[tokio::test]
async fn connections_of_a_forgotten_writer_are_closed_and_no_others() {
    let world = World::new();
    world.fake.script().infos.extend([Ok(info("1")), Ok(info("2")), Ok(info("3"))]);
    let other = || world.writers.replica("shop", "other-billing", 0).unwrap();
    world.replica().get_info().await.unwrap();
    other().get_info().await.unwrap();
    world.writers.forget("shop", "billing");
    assert_eq!(
        world.writers.channels().keys().collect::<Vec<_>>(),
        ["other-billing-writer-0.other-billing-writer-peers.shop.svc:7402"]
    );
    world.replica().get_info().await.unwrap();
    assert_eq!(world.opened(), 3);
}

#[tokio::test]
async fn each_declared_stream_has_its_own_result() {
    let world = World::new();
    let stream = pb::StreamInfo { stream_id: 5, ..Default::default() };
    let refused = Refusal::new(Reason::AlreadyExists, "newer");
    let results = vec![
        pb::PutStreamResult { result: Some(PutResult::Stream(stream.clone())), created: true },
        pb::PutStreamResult { result: Some(PutResult::Refused(refused)), created: false },
    ];
    let replica = world.replica();
    world.fake.script().puts.push_back(pb::PutStreamsResponse { results: results.clone() });
    let two = vec![pb::PutStream::default(), pb::PutStream::default()];
    let done = replica.put_streams(CLUSTER, two.clone()).await.unwrap();
    let conflict = Error::Conflict { message: "newer".to_owned() };
    assert_eq!(done, [Ok(PutStreamDone { stream, created: true }), Err(conflict)]);

    let short = results.into_iter().take(1).collect();
    world.fake.script().puts.push_back(pb::PutStreamsResponse { results: short });
    let error = replica.put_streams(CLUSTER, two).await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn each_declared_subscription_has_its_own_result() {
    let world = World::new();
    let refused = Some(Refusal::new(Reason::Invalid, "no streams"));
    let results =
        vec![pb::PutSubscriptionResult { refused: None }, pb::PutSubscriptionResult { refused }];
    world.fake.script().put_subscriptions.push_back(pb::PutSubscriptionsResponse { results });
    let two = vec![pb::PutSubscription::default(), pb::PutSubscription::default()];
    let done = world.replica().put_subscriptions(CLUSTER, two).await.unwrap();
    assert_eq!(done, [Ok(()), Err(Error::Invalid { message: "no streams".to_owned() })]);
}

#[tokio::test]
async fn a_listing_is_read_to_its_end_or_not_at_all() {
    let world = World::new();
    let object = |name: &str| pb::ConfiguredObject { name: name.to_owned(), ..Default::default() };
    let first = pb::ListConfigResponse { objects: vec![object("a")], next: "stream a".to_owned() };
    let last = pb::ListConfigResponse { objects: vec![object("b")], next: String::new() };
    world.fake.script().pages.extend([first.clone(), last]);
    assert_eq!(world.replica().list_config().await, Ok(vec![object("a"), object("b")]));
    assert_eq!(world.fake.script().asked_after, ["", "stream a"]);

    world.fake.script().pages.push_back(first);
    let error = world.replica().list_config().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn the_first_numbers_are_taken_and_the_stream_is_left() {
    let world = World::new();
    let numbers = |stream_count| pb::WatchStatsResponse { stream_count, ..Default::default() };
    world.fake.script().stats = vec![numbers(3), numbers(4)];
    assert_eq!(world.replica().stats().await, Ok(numbers(3)));
    let error = world.replica().stats().await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn the_other_calls_say_what_to_do_next() {
    let world = World::new();
    let replica = world.replica();
    assert_eq!(replica.bootstrap(CLUSTER).await, Ok(1));
    let message = "of another cluster".to_owned();
    assert_eq!(replica.bootstrap([8; 16]).await, Err(Error::OtherCluster { message }));

    assert_eq!(replica.delete_stream(CLUSTER, "shop/orders", 9).await, Ok(9));
    assert_eq!(replica.set_closed(CLUSTER, "shop/orders", 9, true).await, Ok(()));
    let message = "another id".to_owned();
    assert_eq!(
        replica.set_closed(CLUSTER, "shop/orders", 9, false).await,
        Err(Error::Conflict { message })
    );

    let object = |uid: &str| pb::ObjectRef { uid: uid.to_owned(), generation: 1 };
    assert_eq!(replica.delete_subscription(CLUSTER, "shop/s", object("mine")).await, Ok(()));
    let message = "of another object".to_owned();
    assert_eq!(
        replica.delete_subscription(CLUSTER, "shop/s", object("theirs")).await,
        Err(Error::Conflict { message })
    );
}

#[test]
fn only_passing_failures_are_called_passing() {
    let error = |reason| Error::from_refusal(Refusal::new(reason, ""));
    for reason in [Reason::NotLeader, Reason::WalFull, Reason::Unavailable, Reason::Dropped] {
        assert!(error(reason).is_passing(), "{reason:?}");
    }
    for reason in [Reason::Foreign, Reason::Invalid, Reason::Internal, Reason::Unimplemented] {
        assert!(!error(reason).is_passing(), "{reason:?}");
    }
}
