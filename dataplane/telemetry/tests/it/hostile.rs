//! Clients that mean harm: others are still answered, and nothing is held.

use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::net::{Accept, Accepted, Peer};
use pyramid_telemetry::health::{Answer, Health};
use pyramid_telemetry::metrics::Registry;
use pyramid_telemetry::ops;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::server::{Server, read};

#[tokio::test]
async fn random_bytes_end_their_connection_and_no_other() {
    let server = Server::start().await;
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..200 {
        let mut bytes = vec![0; 1 + round * 7];
        random.fill_bytes(&mut bytes);
        // Half of them begin well.
        let request = b"GET /healthz HTTP/1.1\r\nx: ";
        let bytes = if round % 2 == 0 { bytes } else { [&request[..], &bytes].concat() };
        let mut connection = server.connect().await;
        // The server may have ended the connection in the middle of it.
        connection.write_all(&bytes).await.ok();
        connection.shutdown().await.ok();
        let answer = read(&mut connection).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{round}: {answer}");
    }
    assert_eq!(server.get("/healthz").await, (200, "ok\n".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn a_head_is_read_up_to_its_limit() {
    let server = Server::start().await;
    let request = |filler: usize| {
        format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(filler))
    };
    let answer = server.send(request(ops::HEAD_BYTES_MAX / 2).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let mut connection = server.connect().await;
    // Cut while it is sent.
    connection.write_all(request(4 * ops::HEAD_BYTES_MAX).as_bytes()).await.ok();
    let answer = read(&mut connection).await;
    assert!(!answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_body_is_not_waited_for() {
    let server = Server::start().await;
    let endless = b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\nxyz";
    assert!(server.send(endless).await.starts_with("HTTP/1.1 200 "));
    server.stop().await;
}

#[tokio::test]
async fn a_crowd_that_only_holds_connections_keeps_nobody_away() {
    let server = Server::start().await;
    let mut crowd = Vec::new();
    for _ in 0..ops::CONNECTIONS_MAX + 50 {
        let mut connection = server.connect().await;
        connection.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        crowd.push(connection);
    }
    assert_eq!(server.get("/healthz").await, (200, "ok\n".to_owned()));
    // Those that had to go for it are the oldest: the newest of the crowd still gets its answer.
    let mut newest = crowd.pop().unwrap();
    newest.write_all(b"host: x\r\n\r\n").await.unwrap();
    assert!(read(&mut newest).await.starts_with("HTTP/1.1 200 "));
    for oldest in &mut crowd[..50] {
        assert_eq!(read(oldest).await, "");
    }
    server.stop().await;
}

/// Connections in memory, on a clock that a test stops.
struct Pipes(Mutex<mpsc::Receiver<DuplexStream>>);

#[tonic::async_trait]
impl Accept for Pipes {
    async fn accept(&self) -> std::io::Result<Accepted> {
        let mut pipes = self.0.lock().await;
        match pipes.recv().await {
            Some(pipe) => Ok(Accepted::new(Box::new(pipe), Peer::default().into())),
            None => std::future::pending().await,
        }
    }
}

struct Well;

impl Health for Well {
    fn started(&self) -> Answer {
        Ok(())
    }

    fn alive(&self) -> Answer {
        Ok(())
    }

    fn ready(&self) -> Answer {
        Ok(())
    }
}

/// Connects a client whose pipe holds so many bytes; returns when the server ends the connection
/// that has sent `sent` and reads nothing but the first byte of the answer.
async fn ends_after(sent: &[u8], pipe_bytes: usize) -> Duration {
    let (connections, pipes) = mpsc::channel(1);
    let mut registry = Registry::default();
    for number in 0..100 {
        let counter = pyramid_telemetry::metrics::Counter::<u64>::default();
        registry.register(format!("counter_{number}"), "One of many", counter);
    }
    let mut server = JoinSet::new();
    let pipes = Pipes(Mutex::new(pipes));
    server.spawn(ops::serve(pipes, Arc::new(Well), registry, CancellationToken::new()));
    let (mut client, connection) = duplex(pipe_bytes);
    let began = Instant::now();
    connections.send(connection).await.unwrap();
    client.write_all(sent).await.unwrap();
    // The pipe breaks when the server drops its end.
    let ended = async {
        while client.write_all(b"").await.is_ok() && !is_over(&mut client).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(600), ended).await.expect("it ends");
    began.elapsed()
}

/// Reads one byte a look, as slowly as can be.
async fn is_over(client: &mut DuplexStream) -> bool {
    let mut byte = [0; 1];
    match timeout(Duration::from_millis(1), client.read(&mut byte)).await {
        Ok(read) => read.is_err() || read.is_ok_and(|bytes| bytes == 0),
        Err(_elapsed) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_request_is_given_up() {
    let took = ends_after(b"GET /healthz HT", 1_000).await;
    assert!((ops::HEAD_TIMEOUT..ops::HEAD_TIMEOUT * 2).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_is_given_up() {
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    let took = ends_after(request, 64).await;
    let limit = ops::CONNECTION_TIMEOUT;
    // What lies in the pipe by then is still read, byte by byte.
    assert!((limit..limit + Duration::from_secs(10)).contains(&took), "{took:?}");
    // The same client with a pipe that takes the answer is done as fast as it reads.
    let took = ends_after(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", 64).await;
    assert!(took < limit, "{took:?}");
}
