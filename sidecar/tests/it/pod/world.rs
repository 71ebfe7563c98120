//! A namespace: an authority, an issuer that uses it, Writers with its certificates, and the
//! directories of one pod.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyramid_protocol::bootstrap::{
    BOOTSTRAP_KEY, Bootstrap, SubscriptionPlace, TRUST_BUNDLE_KEY, WriterAddress,
};
use pyramid_protocol::net::{self, Accept, Accepted, Age, Peer, TcpAccept};
use pyramid_protocol::pb::v1::issuer_server::{Issuer, IssuerServer};
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Clock, SpiffeId, SystemClock};
use pyramid_sidecar::health::Readiness;
use pyramid_sidecar::{Ready, config, pod};
use pyramid_tls::authority::{Request as Wanted, Usage};
use pyramid_tls::{Authority, Tls, write_directory};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::fake_application::PUSH_TIMEOUT;
use crate::fake_writer::FakeWriter;
use crate::fake_writer::network::DEADLINE;
use crate::{FREE, Pusher};

pub(crate) const TRUST_DOMAIN: &str = "test.local";
pub(crate) const TOKEN: &str = "the token of shop/projector";
const DAY: Duration = Duration::from_secs(86_400);

/// The time of this machine, and what a test adds to it.
#[derive(Debug, Default)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn forward(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> u64 {
        SystemClock.wall_ms() + self.0.load(Ordering::Relaxed)
    }
}

pub(crate) fn authority() -> Arc<Authority> {
    Arc::new(Authority::generate(TRUST_DOMAIN, 100 * DAY, &SystemClock).unwrap())
}

/// Who a pod of this service account is.
pub(crate) fn projector() -> SpiffeId {
    SpiffeId::service_account(TRUST_DOMAIN, "shop", "projector").unwrap()
}

fn wanted(identity: SpiffeId, usage: Usage, life: Duration) -> Wanted {
    let dns_names = match usage {
        Usage::ServerAndClient => vec!["localhost".to_owned()],
        Usage::Client => vec![],
    };
    Wanted { identity, usage, dns_names, ip_addresses: vec![], life }
}

/// The namespace `shop`.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) bootstrap: Bootstrap,
    versions: AtomicU64,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["bootstrap", "identity"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("token"), TOKEN).unwrap();
        Self {
            folder,
            clock: Arc::default(),
            authority: authority(),
            bootstrap: Bootstrap { trust_domain: TRUST_DOMAIN.to_owned(), ..Bootstrap::default() },
            versions: AtomicU64::new(0),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A Writer of the namespace `system` with these streams, in the bootstrap configuration.
    pub(crate) async fn writer(&mut self, name: &str, streams: &[&str]) -> FakeWriter {
        let identity = SpiffeId::writer(TRUST_DOMAIN, "system", name).unwrap();
        let wanted = wanted(identity, Usage::ServerAndClient, 10 * DAY);
        let issued = self.authority.issue(&wanted, &*self.clock).unwrap();
        let directory = self.path(&format!("writer-{name}"));
        write_directory(&directory, &issued, self.authority.bundle_pem()).unwrap();
        let tls = Tls::open_writer(&directory, self.clock.clone()).unwrap();
        let tcp = TcpAccept::bind(FREE).await.unwrap();
        let address = tcp.local_address().unwrap();
        let writer = FakeWriter::start_on(tls.accept(tcp), address, streams, Age::default());
        let reached = WriterAddress {
            replicas: vec![format!("localhost:{}", address.port())],
            object_store_ca: None,
            object_store_http: false,
        };
        let name = format!("system/{name}");
        self.bootstrap.writers.insert(name.clone(), reached);
        for stream in streams {
            self.bootstrap.streams.insert((*stream).to_owned(), name.clone());
        }
        writer
    }

    /// A Subscription in the bootstrap configuration.
    pub(crate) fn subscription(&mut self, name: &str, writer: &str, application: SocketAddr) {
        let writer = format!("system/{writer}");
        let place = SubscriptionPlace { writer, port: application.port() };
        self.bootstrap.subscriptions.insert(name.to_owned(), place);
    }

    /// Gives the configuration to the pod.
    pub(crate) fn publish(&self) {
        self.publish_with(self.authority.bundle_pem());
    }

    /// The way the kubelet does it.
    pub(crate) fn publish_with(&self, bundle_pem: &str) {
        let directory = self.path("bootstrap");
        let version = format!("..{}", self.versions.fetch_add(1, Ordering::Relaxed));
        let files = directory.join(&version);
        fs::create_dir(&files).unwrap();
        fs::write(files.join(TRUST_BUNDLE_KEY), bundle_pem).unwrap();
        fs::write(files.join(BOOTSTRAP_KEY), self.bootstrap.to_json()).unwrap();
        symlink(&version, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
        for name in [TRUST_BUNDLE_KEY, BOOTSTRAP_KEY] {
            if !directory.join(name).is_symlink() {
                symlink(Path::new("..data").join(name), directory.join(name)).unwrap();
            }
        }
    }

    pub(crate) fn config(&self, subscriptions: &[&str]) -> pod::Config {
        pod::Config {
            pod_name: "projector-0".to_owned(),
            namespace: "shop".to_owned(),
            pod_uid: "1".to_owned(),
            subscriptions: subscriptions.iter().map(|name| (*name).to_owned()).collect(),
            append: vec!["orders".to_owned()],
            app_port: None,
            local: FREE,
            ops: vec![FREE],
            readiness: Readiness::CaughtUp,
            bootstrap: self.path("bootstrap"),
            token: self.path("token"),
            identity: self.path("identity"),
            pushes_max: 16,
            timing: config::Timing {
                push_timeout: PUSH_TIMEOUT,
                idle_ask: Duration::from_millis(200),
                halt_ask: Duration::from_millis(50),
                call_timeout: Duration::from_secs(2),
                drain: Duration::from_secs(10),
            },
            pod_timing: pod::Timing {
                poll: Duration::from_millis(20),
                issue_retry: Duration::from_millis(20),
                issue_retry_max: Duration::from_millis(100),
                spread: Duration::ZERO,
            },
        }
    }

    pub(crate) async fn pusher(&self, config: pod::Config) -> Pusher {
        let environment =
            pod::Environment { clock: self.clock.clone(), ..pod::Environment::default() };
        let stop = CancellationToken::new();
        let (sender, ready) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(pod::run(config, environment, sender, stop.clone()));
        let Ready { local, ops } = timeout(DEADLINE, ready).await.unwrap().unwrap();
        Pusher { local: local.unwrap(), ops: ops.unwrap(), stop, task }
    }

    /// The certificate and the bundle in the pod's directory.
    pub(crate) fn kept(&self) -> Option<(String, String)> {
        let read = |name: &str| fs::read_to_string(self.path("identity").join(name)).ok();
        read("tls.crt").zip(read("ca.crt"))
    }

    /// Waits until the pod's directory is as the test wants it.
    pub(crate) async fn wait_for_kept(
        &self,
        what: &str,
        is: impl Fn(&str, &str) -> bool,
    ) -> (String, String) {
        let found = async {
            loop {
                if let Some((certificate, bundle)) = self.kept()
                    && is(&certificate, &bundle)
                {
                    return (certificate, bundle);
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("not in time: {what}"))
    }
}

/// The operator's issuer: real TLS, a real authority, and one token that is good.
pub(crate) struct FakeIssuer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinSet<()>,
}

pub(crate) struct State {
    /// Who signs.
    pub(crate) authority: Arc<Authority>,
    /// How long certificates hold.
    pub(crate) life: Duration,
    /// What each token was answered with.
    pub(crate) asked: BTreeMap<String, usize>,
    clock: Arc<TestClock>,
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

/// TLS for callers that have no certificate yet.
struct OpenAccept {
    tcp: TcpAccept,
    tls: TlsAcceptor,
}

#[tonic::async_trait]
impl Accept for OpenAccept {
    async fn accept(&self) -> io::Result<Accepted> {
        let stream = self.tls.accept(self.tcp.accept().await?).await?;
        Ok(Accepted::new(Box::new(stream), Peer::default().into()))
    }
}

impl FakeIssuer {
    /// That of the operator, at an address that the bootstrap configuration names from now on.
    pub(crate) async fn start(world: &mut World) -> Self {
        let issuer = Self::start_as(world, SpiffeId::operator(TRUST_DOMAIN).unwrap(), FREE).await;
        world.bootstrap.issuer = format!("localhost:{}", issuer.address.port());
        issuer
    }

    /// A server with another identity that takes tokens.
    pub(crate) async fn start_as(world: &World, identity: SpiffeId, address: SocketAddr) -> Self {
        let wanted = wanted(identity, Usage::ServerAndClient, 10 * DAY);
        let issued = world.authority.issue(&wanted, &*world.clock).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpAccept::bind(address).await.unwrap();
        let address = tcp.local_address().unwrap();
        let state = Arc::new(Mutex::new(State {
            authority: Arc::clone(&world.authority),
            life: DAY,
            asked: BTreeMap::new(),
            clock: world.clock.clone(),
        }));
        let service = IssuerServer::new(Service(Arc::clone(&state)));
        let accept = OpenAccept { tcp, tls: TlsAcceptor::from(Arc::new(tls)) };
        let mut server = JoinSet::new();
        server.spawn(async move {
            let serving = net::server().add_service(service);
            serving.serve_with_incoming(net::incoming(accept)).await.unwrap();
        });
        Self { address, state, server }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub(crate) fn asked(&self, token: &str) -> usize {
        self.state.lock().unwrap().asked.get(token).copied().unwrap_or(0)
    }

    pub(crate) async fn wait_until_asked(&self, token: &str, times: usize) {
        let asked = async {
            while self.asked(token) < times {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(DEADLINE, asked).await.is_ok(), "{token} was not shown {times} times");
    }

    pub(crate) async fn stop(mut self) {
        self.server.shutdown().await;
    }
}

#[tonic::async_trait]
impl Issuer for Service {
    async fn issue(
        &self,
        request: Request<pb::IssueRequest>,
    ) -> Result<Response<pb::IssueResponse>, Status> {
        let pb::IssueRequest { token, csr_pem } = request.into_inner();
        let mut state = self.0.lock().unwrap();
        *state.asked.entry(token.clone()).or_default() += 1;
        if token != TOKEN {
            return Err(Status::unauthenticated("the token is not for this issuer"));
        }
        let wanted = wanted(projector(), Usage::Client, state.life);
        let issued = state
            .authority
            .issue_csr(&csr_pem, &wanted, &*state.clock)
            .map_err(|error| Refusal::new(Reason::Invalid, error.to_string()))?;
        Ok(Response::new(pb::IssueResponse {
            certificate_pem: issued.chain_pem,
            trust_bundle_pem: state.authority.bundle_pem().to_owned(),
            not_after_ms: issued.not_after_ms,
        }))
    }
}
