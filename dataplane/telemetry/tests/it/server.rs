//! A served program that answers as a test wants, and a client that sends bytes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyramid_protocol::net::TcpAccept;
use pyramid_telemetry::health::{Answer, Health};
use pyramid_telemetry::metrics::{Counter, Registry};
use pyramid_telemetry::ops;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Nothing here takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) counter: Counter,
    said: Said,
    shutdown: CancellationToken,
    task: JoinSet<()>,
}

/// Started, alive, ready.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<[Option<&'static str>; 3]>>);

impl Said {
    fn answer(&self, question: usize) -> Answer {
        self.0.lock().unwrap()[question].map_or(Ok(()), |why| Err(why.to_owned()))
    }
}

impl Health for Said {
    fn started(&self) -> Answer {
        self.answer(0)
    }

    fn alive(&self) -> Answer {
        self.answer(1)
    }

    fn ready(&self) -> Answer {
        self.answer(2)
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let accept = TcpAccept::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = accept.local_address().unwrap();
        let mut registry = Registry::with_prefix("p");
        let counter = Counter::default();
        registry.register("turns", "Turns taken", counter.clone());
        let (said, shutdown) = (Said::default(), CancellationToken::new());
        let mut task = JoinSet::new();
        task.spawn(ops::serve(accept, Arc::new(said.clone()), registry, shutdown.clone()));
        Self { address, counter, said, shutdown, task }
    }

    pub(crate) fn say(&self, started: Answers, alive: Answers, ready: Answers) {
        *self.said.0.lock().unwrap() = [started, alive, ready];
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let response =
            self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// Sends bytes and reads what comes until the connection ends.
    pub(crate) async fn send(&self, bytes: &[u8]) -> String {
        let mut connection = self.connect().await;
        connection.write_all(bytes).await.unwrap();
        read(&mut connection).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        timeout(DEADLINE, TcpStream::connect(self.address)).await.unwrap().unwrap()
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.task.join_next()).await.unwrap().unwrap().unwrap();
    }
}

pub(crate) type Answers = Option<&'static str>;

/// What comes until the connection ends, however it ends.
pub(crate) async fn read(connection: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection that is cut says nothing more.
    timeout(DEADLINE, connection.read_to_end(&mut bytes)).await.expect("it ends").ok();
    String::from_utf8(bytes).unwrap()
}
