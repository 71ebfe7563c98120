//! An authority, directories made by it, servers that greet, and clients that listen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pyramid_protocol::net::{Accept, BoxIo, Connect, TcpAccept, TcpConnect};
use pyramid_protocol::{Clock, SpiffeId};
use pyramid_tls::authority::{Authority, Request, Usage};
use pyramid_tls::{ConnectError, Reason, Tls, write_directory};
use tempfile::TempDir;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

pub(crate) const TRUST_DOMAIN: &str = "test.local";
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
/// Nothing here takes as long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// A clock that stands still until it is told.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn at(ms: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(ms)))
    }

    pub(crate) fn forward(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// 2026-08-01T00:00:00Z.
pub(crate) const NOW_MS: u64 = 1_785_542_400_000;

/// One authority and a place for directories.
pub(crate) struct World {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) authority: Authority,
    folder: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = TestClock::at(NOW_MS);
        let authority = authority(&clock);
        Self { clock, authority, folder: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a directory that believes this authority.
    pub(crate) fn write(&self, name: &str, request: &Request) -> PathBuf {
        self.write_with(name, request, self.authority.bundle_pem())
    }

    pub(crate) fn write_with(&self, name: &str, request: &Request, bundle: &str) -> PathBuf {
        let issued = self.authority.issue(request, &*self.clock).unwrap();
        write_directory(&self.path(name), &issued, bundle).unwrap();
        self.path(name)
    }

    pub(crate) fn open(&self, name: &str, request: &Request) -> Tls {
        Tls::open(&self.write(name, request), self.clock.clone()).unwrap()
    }

    /// A Writer of this world, at `localhost` and 127.0.0.1.
    pub(crate) fn writer(&self) -> Tls {
        self.open("writer", &writer_request())
    }

    /// A client of this world.
    pub(crate) fn user(&self) -> Tls {
        self.open("user", &user_request())
    }
}

pub(crate) fn authority(clock: &TestClock) -> Authority {
    Authority::generate(TRUST_DOMAIN, 100 * DAY, clock).unwrap()
}

pub(crate) fn writer_id() -> SpiffeId {
    SpiffeId::writer(TRUST_DOMAIN, "shop", "main").unwrap()
}

pub(crate) fn user_id() -> SpiffeId {
    SpiffeId::service_account(TRUST_DOMAIN, "shop", "user").unwrap()
}

pub(crate) fn writer_request() -> Request {
    Request {
        identity: writer_id(),
        usage: Usage::ServerAndClient,
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        life: 12 * HOUR,
    }
}

pub(crate) fn user_request() -> Request {
    Request {
        identity: user_id(),
        usage: Usage::Client,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        life: 12 * HOUR,
    }
}

/// Greets each connection with the identity of its client, and then echoes. Ends when dropped.
pub(crate) struct Greeter {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Tls,
    _serving: JoinSet<()>,
}

impl Greeter {
    pub(crate) async fn start(tls: &Tls) -> Self {
        Self::start_with(tls, |tcp| tls.accept(tcp)).await
    }

    pub(crate) async fn start_with<A: Accept>(
        tls: &Tls,
        wrap: impl FnOnce(TcpAccept) -> A,
    ) -> Self {
        let tcp = TcpAccept::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = tcp.local_address().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(greet(wrap(tcp)));
        Self { address, tls: tls.clone(), _serving: serving }
    }

    /// Waits until the refusals are exactly these.
    pub(crate) async fn refused(&self, expected: &[(Reason, u64)]) {
        let refused = || refused(&self.tls);
        eventually(|| refused() == expected, || format!("{:?}, not {expected:?}", refused())).await;
    }
}

/// The refusals that there were.
pub(crate) fn refused(tls: &Tls) -> Vec<(Reason, u64)> {
    tls.status().refused.into_iter().filter(|(_, count)| *count > 0).collect()
}

pub(crate) async fn greet(accept: impl Accept) {
    let mut connections = JoinSet::new();
    loop {
        let mut connection = accept.accept().await.unwrap();
        connections.spawn(async move {
            let identity = connection.peer().identity.clone();
            let name = identity.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
            let greeting = format!("{name}\n");
            if connection.write_all(greeting.as_bytes()).await.is_err() {
                return;
            }
            let mut bytes = [0; 64];
            while let Ok(read @ 1..) = connection.read(&mut bytes).await {
                if connection.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Leads every address to one server.
struct To(SocketAddr);

#[async_trait::async_trait]
impl Connect for To {
    async fn connect(&self, _address: &str) -> io::Result<BoxIo> {
        TcpConnect.connect(&self.0.to_string()).await
    }
}

/// Connects as `client` to `server`, which is called `host` here.
pub(crate) async fn open_at(client: &Tls, host: &str, server: SocketAddr) -> io::Result<BoxIo> {
    let connect = client.connect(Arc::new(To(server)));
    in_time(connect.connect(&format!("{host}:{}", server.port()))).await
}

pub(crate) async fn open(client: &Tls, server: &Greeter) -> io::Result<BoxIo> {
    open_at(client, "localhost", server.address).await
}

/// Who the server says that we are.
pub(crate) async fn greeted(client: &Tls, server: &Greeter) -> String {
    greeting(open(client, server).await.unwrap()).await.unwrap()
}

/// Why the client of ours did not get a connection.
pub(crate) fn why(result: io::Result<BoxIo>) -> ConnectError {
    let error = result.err().expect("a connection was taken that must not be");
    let error = error.into_inner().expect("the error has a cause");
    *error.downcast::<ConnectError>().expect("the cause is of TLS")
}

/// The first line that the server says, whoever it is.
pub(crate) async fn greeting(io: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut line = String::new();
    in_time(BufReader::new(io).read_line(&mut line)).await?;
    if line.ends_with('\n') {
        Ok(line.trim_end().to_owned())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Sends something and gets it back, after the greeting was read.
pub(crate) async fn echoes(io: &mut BoxIo) -> bool {
    let mut back = [0; 4];
    in_time(async {
        io.write_all(b"ping").await.is_ok()
            && io.flush().await.is_ok()
            && io.read_exact(&mut back).await.is_ok()
    })
    .await
        && back == *b"ping"
}

pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(DEADLINE, work).await.expect("it hangs")
}

/// Waits for a condition.
pub(crate) async fn eventually(mut is_so: impl FnMut() -> bool, what: impl Fn() -> String) {
    let mut looks = interval(Duration::from_millis(5));
    let looking = async {
        while !is_so() {
            looks.tick().await;
        }
    };
    assert!(timeout(DEADLINE, looking).await.is_ok(), "never came: {}", what());
}
