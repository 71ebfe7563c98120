//! Many connections at once, and calls of `accept` that are given up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::net::{Accept, Accepted, BoxIo, Connect, Peer};
use pyramid_tls::{CONNECT_TIMEOUT, ConnectError, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, Reason, Tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::world::{Greeter, World, greet, greeted, greeting, refused, user_id, why};

/// Connections in memory, so that time can be stopped.
#[derive(Clone)]
struct Pipes(mpsc::Sender<DuplexStream>);

struct PipesAccept(Mutex<mpsc::Receiver<DuplexStream>>);

fn pipes() -> (Pipes, PipesAccept) {
    let (sender, receiver) = mpsc::channel(2 * HANDSHAKES_MAX);
    (Pipes(sender), PipesAccept(Mutex::new(receiver)))
}

impl Pipes {
    async fn silent(&self) -> DuplexStream {
        let (here, there) = duplex(1 << 16);
        self.0.send(there).await.unwrap();
        here
    }
}

#[async_trait::async_trait]
impl Connect for Pipes {
    async fn connect(&self, _address: &str) -> io::Result<BoxIo> {
        Ok(Box::new(self.silent().await))
    }
}

#[async_trait::async_trait]
impl Accept for PipesAccept {
    async fn accept(&self) -> io::Result<Accepted> {
        match self.0.lock().await.recv().await {
            Some(pipe) => {
                let peer = Peer { address: "pipe".to_owned(), identity: None };
                Ok(Accepted::new(Box::new(pipe), peer.into()))
            }
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

async fn connect(client: &Tls, pipes: &Pipes) -> io::Result<BoxIo> {
    client.connect(Arc::new(pipes.clone())).connect("localhost:1").await
}

#[tokio::test]
async fn silent_clients_hold_up_nobody() {
    let world = World::new();
    let server = Greeter::start(&world.writer()).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let start = Instant::now();
    greeted(&world.user(), &server).await;
    assert!(start.elapsed() < HANDSHAKE_TIMEOUT, "{:?}", start.elapsed());
    server.refused(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn one_more_client_than_there_are_handshakes_ends_the_oldest_and_waits_for_nobody() {
    for (silent, is_crowd) in [(HANDSHAKES_MAX - 1, false), (HANDSHAKES_MAX, true)] {
        let world = World::new();
        let writer = world.writer();
        let (pipes, accept) = pipes();
        let mut serving = JoinSet::new();
        serving.spawn(greet(writer.accept(accept)));
        let mut kept = Vec::new();
        for _ in 0..silent {
            kept.push(pipes.silent().await);
        }
        let start = Instant::now();
        let io = connect(&world.user(), &pipes).await.unwrap();
        assert_eq!(greeting(io).await.unwrap(), user_id().as_str(), "{silent}");
        assert_eq!(start.elapsed(), Duration::ZERO, "{silent}");
        let crowded: &[_] = if is_crowd { &[(Reason::Crowded, 1)] } else { &[] };
        assert_eq!(refused(&writer), crowded, "{silent}");

        let mut ends = Vec::new();
        for pipe in &mut kept[..2] {
            let _is_cut = pipe.read_to_end(&mut Vec::new()).await;
            ends.push(start.elapsed());
        }
        let first = if is_crowd { Duration::ZERO } else { HANDSHAKE_TIMEOUT };
        assert_eq!(ends, [first, HANDSHAKE_TIMEOUT], "{silent}");
    }
}

#[tokio::test(start_paused = true)]
async fn handshakes_that_are_over_take_no_place() {
    let world = World::new();
    let writer = world.writer();
    let (pipes, accept) = pipes();
    let mut serving = JoinSet::new();
    serving.spawn(greet(writer.accept(accept)));
    let _silent = pipes.silent().await;
    let client = world.user();
    for _ in 0..HANDSHAKES_MAX + 1 {
        let io = connect(&client, &pipes).await.unwrap();
        assert_eq!(greeting(io).await.unwrap(), user_id().as_str());
    }
    assert_eq!(refused(&writer), []);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_dropped_after_5_s() {
    let world = World::new();
    let writer = world.writer();
    let (pipes, accept) = pipes();
    let mut serving = JoinSet::new();
    serving.spawn(greet(writer.accept(accept)));
    let start = Instant::now();
    let mut silent = pipes.silent().await;
    let mut answer = Vec::new();
    let _is_cut = silent.read_to_end(&mut answer).await;
    assert_eq!((start.elapsed(), answer), (HANDSHAKE_TIMEOUT, Vec::new()));
    assert_eq!(refused(&writer), [(Reason::Timeout, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_after_2_5_s() {
    let world = World::new();
    let (pipes, _nobody) = pipes();
    let start = Instant::now();
    let why = why(connect(&world.user(), &pipes).await);
    assert!(matches!(why, ConnectError::Timeout(CONNECT_TIMEOUT)), "{why}");
    assert_eq!(start.elapsed(), CONNECT_TIMEOUT);
}

/// `select!` in a server drops the call whenever something else happens.
#[tokio::test(start_paused = true)]
async fn giving_up_a_call_of_accept_loses_no_connection() {
    let world = World::new();
    let writer = world.writer();
    let (pipes, accept) = pipes();
    let accept = writer.accept(accept);
    let client = world.user();
    let mut clients = JoinSet::new();
    for _ in 0..10 {
        let (client, pipes) = (client.clone(), pipes.clone());
        clients.spawn(async move { greeting(connect(&client, &pipes).await?).await });
    }
    let mut taken = Vec::new();
    while taken.len() < 10 {
        if let Ok(connection) = timeout(Duration::ZERO, accept.accept()).await {
            let mut connection = connection.unwrap();
            connection.write_all(b"hello\n").await.unwrap();
            taken.push(connection);
        }
        tokio::task::yield_now().await;
    }
    while let Some(greeted) = clients.join_next().await {
        assert_eq!(greeted.unwrap().unwrap(), "hello");
    }
    assert_eq!(refused(&writer), []);
}

#[tokio::test]
async fn an_error_of_the_listener_is_passed_on_and_a_failed_handshake_is_none() {
    let world = World::new();
    let writer = world.writer();
    let (pipes, accept) = pipes();
    let accept = writer.accept(accept);
    let mut noise = pipes.silent().await;
    noise.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (client, good) = (world.user(), pipes.clone());
    let mut clients = JoinSet::new();
    clients.spawn(async move { greeting(connect(&client, &good).await?).await });
    let mut first = accept.accept().await.unwrap();
    assert_eq!(first.peer(), &Peer { address: "pipe".to_owned(), identity: Some(user_id()) });
    first.write_all(b"hello\n").await.unwrap();
    assert_eq!(clients.join_next().await.unwrap().unwrap().unwrap(), "hello");
    drop((pipes, clients));
    let error = accept.accept().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    assert_eq!(refused(&writer), [(Reason::NotTls, 1)]);
}
