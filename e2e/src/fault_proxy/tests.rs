//! Against a real server: each fault is what it says, and without faults nothing is changed.

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::*;
use crate::seaweed::signed::Request;
use crate::seaweed::{Credentials, Seaweed};

/// Longer than a read of a socket.
const LEN: usize = 300_000;

struct World {
    server: &'static Seaweed,
    proxy: FaultProxy,
    object: String,
}

type Answer = anyhow::Result<(StatusCode, Vec<u8>)>;

impl World {
    /// A proxy and an object of [`content`].
    async fn new() -> Self {
        let server = Seaweed::shared().await.unwrap();
        let proxy = FaultProxy::start(server.address(), 7).await.unwrap();
        let object = format!("/{}/object", server.new_bucket().await.unwrap());
        let world = Self { server, proxy, object };
        let put = Request::new(Method::PUT, world.object.clone()).body(content());
        assert_eq!(server.send(put).await.unwrap().0, StatusCode::OK);
        world
    }

    async fn send(&self, request: Request) -> Answer {
        let (status, body) = request.send(self.proxy.address(), &Credentials::admin()).await?;
        Ok((status, body.to_vec()))
    }

    async fn get(&self) -> Answer {
        self.send(Request::new(Method::GET, self.object.clone())).await
    }

    fn put(&self, name: &str) -> Request {
        Request::new(Method::PUT, format!("{}-{name}", self.object))
            .header("if-none-match", "*")
            .body(content())
    }

    /// What the server holds, if anything.
    async fn stored(&self, name: &str) -> Option<Vec<u8>> {
        let get = Request::new(Method::GET, format!("{}-{name}", self.object));
        let (status, body) = self.server.send(get).await.unwrap();
        (status == StatusCode::OK).then(|| body.to_vec())
    }

    fn met(&self, fault: Fault) -> u64 {
        self.proxy.faults_met().get(&fault).copied().unwrap_or(0)
    }
}

fn content() -> bytes::Bytes {
    (0..LEN).map(|place| u8::try_from(place % 251).unwrap()).collect::<Vec<u8>>().into()
}

fn flipped_bits(one: &[u8], other: &[u8]) -> u32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(one, other)| (one ^ other).count_ones()).sum()
}

#[tokio::test]
async fn without_faults_nothing_is_changed_and_all_is_counted() {
    let world = World::new().await;
    assert_eq!(world.send(world.put("a")).await.unwrap().0, StatusCode::OK);
    assert_eq!(world.get().await.unwrap(), (StatusCode::OK, content().to_vec()));
    assert_eq!(world.stored("a").await.unwrap(), content());
    let len = u64::try_from(LEN).unwrap();
    let expected = BTreeMap::from([
        (Call::Put, Traffic { requests: 1, to_server: len, to_client: 0 }),
        (Call::Get, Traffic { requests: 1, to_server: 0, to_client: len }),
    ]);
    assert_eq!(world.proxy.traffic(), expected);
    assert_eq!(world.proxy.faults_met(), BTreeMap::new());
}

#[tokio::test]
async fn refusals_have_their_status_and_reach_no_server() {
    let world = World::new().await;
    for (fault, status) in [
        (Fault::InternalError, StatusCode::INTERNAL_SERVER_ERROR),
        (Fault::SlowDown, StatusCode::SERVICE_UNAVAILABLE),
        (Fault::SlowDownRetryAfter, StatusCode::SERVICE_UNAVAILABLE),
        (Fault::TooManyRequests, StatusCode::TOO_MANY_REQUESTS),
        (Fault::Conflict, StatusCode::CONFLICT),
    ] {
        world.proxy.fail_next(Call::Put, fault);
        assert_eq!(world.send(world.put("a")).await.unwrap().0, status, "{fault:?}");
        assert_eq!((world.stored("a").await, world.met(fault)), (None, 1), "{fault:?}");
    }
    assert_eq!(world.send(world.put("a")).await.unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn a_connection_ends_before_or_after_the_put() {
    let world = World::new().await;
    for (fault, stored) in
        [(Fault::Reset, false), (Fault::HoldBefore, false), (Fault::HoldAfter, true)]
    {
        let name = format!("{fault:?}");
        world.proxy.fail_next(Call::Put, fault);
        assert!(world.send(world.put(&name)).await.is_err(), "{name}");
        assert_eq!((world.stored(&name).await.is_some(), world.met(fault)), (stored, 1), "{name}");
    }
}

#[tokio::test]
async fn a_put_that_was_done_is_answered_as_failed() {
    let world = World::new().await;
    world.proxy.fail_next(Call::Put, Fault::FailedAfterSuccess);
    let (status, _) = world.send(world.put("a")).await.unwrap();
    assert_eq!(
        (status, world.met(Fault::FailedAfterSuccess)),
        (StatusCode::PRECONDITION_FAILED, 1)
    );
    assert_eq!(world.stored("a").await.unwrap(), content());
}

#[tokio::test]
async fn bodies_are_cut_flipped_and_slowed() {
    let world = World::new().await;
    world.proxy.fail_next(Call::Get, Fault::CutBody);
    assert!(world.get().await.is_err());
    world.proxy.fail_next(Call::Get, Fault::FlipAnswer);
    assert_eq!(flipped_bits(&world.get().await.unwrap().1, &content()), 1);
    world.proxy.fail_next(Call::Get, Fault::SlowBody);
    let begin = tokio::time::Instant::now();
    assert_eq!(world.get().await.unwrap().1, content());
    assert!(begin.elapsed() >= Duration::from_millis(450), "{:?}", begin.elapsed());
    for fault in [Fault::CutBody, Fault::FlipAnswer, Fault::SlowBody] {
        assert_eq!(world.met(fault), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_bit_flipped_in_a_put_is_stored_unless_a_checksum_goes_with_it() {
    let world = World::new().await;
    world.proxy.fail_next(Call::Put, Fault::FlipPut);
    assert_eq!(world.send(world.put("a")).await.unwrap().0, StatusCode::OK);
    assert_eq!(flipped_bits(&world.stored("a").await.unwrap(), &content()), 1);

    // CRC-32C of the content, in base64.
    let checked = || world.put("b").header("x-amz-checksum-crc32c", "bhUrcQ==");
    world.proxy.fail_next(Call::Put, Fault::FlipPut);
    assert_eq!(world.send(checked()).await.unwrap().0, StatusCode::BAD_REQUEST);
    assert_eq!((world.stored("b").await, world.met(Fault::FlipPut)), (None, 2));
    assert_eq!(world.send(checked()).await.unwrap().0, StatusCode::OK);
    assert_eq!(world.stored("b").await.unwrap(), content());
}

#[tokio::test]
async fn refused_connections_are_refused_until_they_are_taken_again() {
    let world = World::new().await;
    world.proxy.refuse_connections().await.unwrap();
    assert!(world.get().await.is_err());
    world.proxy.accept_connections().await.unwrap();
    assert_eq!(world.get().await.unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn a_held_request_and_all_after_it_stand_still() {
    let world = World::new().await;
    for (side, stored) in [(Side::Before, false), (Side::After, true)] {
        let name = format!("{side:?}");
        world.proxy.hold_at(2, side);
        assert_eq!(world.get().await.unwrap().0, StatusCode::OK);
        tokio::select! {
            answer = world.send(world.put(&name)) => panic!("{answer:?}"),
            () = world.proxy.held() => {}
        }
        assert_eq!(world.stored(&name).await.is_some(), stored, "{side:?}");
        let later = tokio::time::timeout(Duration::from_millis(100), world.get()).await;
        assert!(later.is_err(), "{later:?}");
        world.proxy.release();
        assert_eq!(world.get().await.unwrap().0, StatusCode::OK);
    }
}

#[tokio::test]
async fn random_faults_are_as_many_as_asked_for_and_only_those() {
    let world = World::new().await;
    world.proxy.fail_at_random(300, &[Fault::SlowDown, Fault::Conflict]);
    let mut slowed = 0;
    for _ in 0..100 {
        slowed += u64::from(world.get().await.unwrap().0 == StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!((15..45).contains(&slowed), "{slowed}");
    assert_eq!(world.proxy.faults_met(), BTreeMap::from([(Fault::SlowDown, slowed)]));
    world.proxy.calm();
    for _ in 0..20 {
        assert_eq!(world.get().await.unwrap().0, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_host_that_the_client_named_reaches_the_server() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = FaultProxy::start(listener.local_addr().unwrap(), 7).await.unwrap();
    let url = format!("{}/x?list-type=2", proxy.url()).parse().unwrap();
    let client =
        Client::builder(TokioExecutor::new()).build_http::<http_body_util::Empty<bytes::Bytes>>();
    let asking = client.get(url);
    let serving = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            tokio::io::AsyncReadExt::read_exact(&mut connection, &mut byte).await.unwrap();
            head.extend(byte);
        }
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut connection, answer).await.unwrap();
        String::from_utf8(head).unwrap()
    };
    let (answer, head) = tokio::join!(asking, serving);
    assert_eq!(answer.unwrap().into_body().collect().await.unwrap().to_bytes().len(), 0);
    let host = format!("\r\nhost: {}\r\n", proxy.address());
    assert!(head.to_lowercase().contains(&host), "{head}");
    assert_eq!(proxy.traffic().keys().copied().collect::<Vec<_>>(), [Call::List]);
}
