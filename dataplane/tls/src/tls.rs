//! [`Tls`]: one program's proof of who it is, and whom it believes; kept fresh while it runs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use pyramid_protocol::net::{Accept, Connect};
use pyramid_protocol::{Clock, SpiffeId};
use rustls::client::{Resumption, WantsClientCert};
use rustls::server::{NoServerSessionStorage, WantsServerCert};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::accept::{Clients, Protocols, TlsAccept};
use crate::bundle;
use crate::connect::TlsConnect;
use crate::directory::{Content, Error, Material, Purpose};
use crate::leaf::{Moment, Validity};
use crate::refusals::{Reason, Refusals};
use crate::verifier::{self, Servers, Time};

/// How often a program looks for new files, if it has no reason for something else.
pub const WATCH_EVERY: Duration = Duration::from_secs(5);
/// A certificate is near its end in the last of this many parts of its life.
const LAST_PART: u64 = 5;

/// All our ports speak it.
pub(crate) const ALPN: &[u8] = b"h2";
/// Some that are called by others speak it, too.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// A TLS directory in use. Clones share it.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    purpose: Purpose,
    clock: Arc<dyn Clock>,
    identity: SpiffeId,
    current: ArcSwap<Current>,
    reloads: AtomicU64,
    reload_failures: AtomicU64,
    handshakes: AtomicU64,
    refusals: Refusals,
}

/// What new connections use.
struct Current {
    content_sha256: [u8; 32],
    material: Material,
    proven: Arc<ServerConfig>,
    /// For [`Protocols::Grpc`].
    grpc: Arc<ServerConfig>,
    /// For [`Protocols::Http`].
    http: Arc<ServerConfig>,
}

/// What metrics and other programs want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whose certificate is in use.
    pub identity: SpiffeId,
    /// When the certificate in use begins. Unit: milliseconds since 1970 UTC.
    pub not_before_ms: u64,
    /// When it ends. Unit: milliseconds since 1970 UTC.
    pub not_after_ms: u64,
    /// Its serial number, in lower-case hexadecimal.
    pub serial: String,
    /// The digest of the bundle in use, as [`bundle::digest`] makes it, in hexadecimal.
    pub bundle_sha256: String,
    /// New files taken into use since the start.
    pub reloads: u64,
    /// New files that were not taken, each content counted once.
    pub reload_failures: u64,
    /// Connections taken by our servers.
    pub handshakes: u64,
    /// Connections that our servers refused, for each reason.
    pub refused: Vec<(Reason, u64)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("directory", &self.shared.directory)
            .field("identity", &self.shared.identity)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads a directory. Blocks for the time of three small files.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub fn open(directory: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::open_for(Purpose::Client, directory, clock)
    }

    /// The same for a Writer, which also shows its certificate to clients.
    ///
    /// # Errors
    ///
    /// As [`Tls::open`], and [`Error::NotWriter`].
    pub fn open_writer(directory: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::open_for(Purpose::Writer, directory, clock)
    }

    fn open_for(purpose: Purpose, directory: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let content = Content::read(directory)?;
        let material = Material::check(&content, purpose, directory, &*clock)?;
        let identity = material.leaf.identity.clone();
        let current = Current::new(&content, material, &clock);
        let shared = Shared {
            directory: directory.to_owned(),
            purpose,
            clock,
            identity,
            current: ArcSwap::from_pointee(current),
            reloads: AtomicU64::new(0),
            reload_failures: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            refusals: Refusals::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.shared.identity
    }

    /// Where the files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// What is in use, and what became of it.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &*self.shared;
        let current = shared.current.load();
        let Material { leaf, bundle_sha256, .. } = &current.material;
        Status {
            identity: leaf.identity.clone(),
            not_before_ms: leaf.validity.not_before_ms,
            not_after_ms: leaf.validity.not_after_ms,
            serial: leaf.serial.clone(),
            bundle_sha256: bundle::hex(bundle_sha256),
            reloads: shared.reloads.load(Ordering::Relaxed),
            reload_failures: shared.reload_failures.load(Ordering::Relaxed),
            handshakes: shared.handshakes.load(Ordering::Relaxed),
            refused: shared.refusals.counts(),
        }
    }

    /// Takes connections over TLS from those of `inner`.
    pub fn accept<A: Accept>(&self, inner: A) -> TlsAccept<A> {
        TlsAccept::new(self.clone(), Clients::Proven, inner)
    }

    /// The same for clients that have no certificate: only we prove who we are. They are told apart
    /// by what they send, or not at all.
    pub fn accept_anybody<A: Accept>(&self, inner: A, protocols: Protocols) -> TlsAccept<A> {
        TlsAccept::new(self.clone(), Clients::Anybody(protocols), inner)
    }

    /// Opens connections over TLS on those of `inner`.
    #[must_use]
    pub fn connect(&self, inner: Arc<dyn Connect>) -> TlsConnect {
        TlsConnect::new(self.clone(), inner)
    }

    /// Takes what the directory holds now into use for new connections, at once.
    ///
    /// # Errors
    ///
    /// As [`Error`] says; what was in use stays in use.
    ///
    /// # Panics
    ///
    /// Never: reading a directory does not panic.
    pub async fn reload(&self) -> Result<bool, Error> {
        let tls = self.clone();
        tokio::task::spawn_blocking(move || tls.reload_blocking())
            .await
            .expect("reading a directory does not panic")
    }

    /// Looks for new files until `shutdown`, and takes them into use for new connections. Files that
    /// cannot be used change nothing; they are counted and logged once.
    pub async fn watch(&self, every: Duration, shutdown: CancellationToken) {
        let mut watch = Watch::default();
        loop {
            self.warn_of_end(&mut watch);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = sleep(every) => {}
            }
            self.look(&mut watch).await;
        }
    }

    async fn look(&self, watch: &mut Watch) {
        let mut result = self.reload().await;
        if result.is_err() {
            // Perhaps we came in the middle of a change of plain files, one after another.
            result = self.reload().await;
        }
        match result {
            Ok(true) => {
                watch.failure = None;
                let status = self.status();
                let not_after = Moment { ms: status.not_after_ms };
                let bundle = status.bundle_sha256;
                tracing::info!(%not_after, serial = status.serial, bundle, "certificate reloaded");
            }
            Ok(false) => watch.failure = None,
            Err(error) => {
                let failure = chain_text(&error);
                if watch.failure.as_deref() == Some(&*failure) {
                    return;
                }
                self.shared.reload_failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("the certificate in use is kept: {failure}");
                watch.failure = Some(failure);
            }
        }
    }

    fn reload_blocking(&self) -> Result<bool, Error> {
        let shared = &*self.shared;
        let content = Content::read(&shared.directory)?;
        if content.digest() == shared.current.load().content_sha256 {
            return Ok(false);
        }
        let material =
            Material::check(&content, shared.purpose, &shared.directory, &*shared.clock)?;
        if material.leaf.identity != shared.identity {
            return Err(Error::IdentityChanged {
                directory: shared.directory.clone(),
                found: material.leaf.identity,
                expected: shared.identity.clone(),
            });
        }
        let current = Current::new(&content, material, &shared.clock);
        shared.current.store(Arc::new(current));
        shared.reloads.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    fn warn_of_end(&self, watch: &mut Watch) {
        let leaf = &self.shared.current.load().material.leaf;
        let end = End::of(leaf.validity, self.shared.clock.wall_ms());
        let warned = (leaf.serial.clone(), end);
        if watch.warned.as_ref() == Some(&warned) {
            return;
        }
        let not_after = Moment { ms: leaf.validity.not_after_ms };
        let directory = self.shared.directory.display();
        match end {
            End::Far => {}
            End::Near => {
                tracing::warn!(%not_after, "the certificate in {directory} ends soon; renew it");
            }
            End::Over => {
                tracing::error!(
                    %not_after,
                    "the certificate in {directory} has expired; nobody believes it, renew it"
                );
            }
        }
        watch.warned = Some(warned);
    }

    pub(crate) fn server_config(&self, clients: Clients) -> Arc<ServerConfig> {
        let current = self.shared.current.load();
        Arc::clone(match clients {
            Clients::Proven => &current.proven,
            Clients::Anybody(Protocols::Grpc) => &current.grpc,
            Clients::Anybody(Protocols::Http) => &current.http,
        })
    }

    pub(crate) fn client_config(&self, expected: Option<SpiffeId>) -> Arc<ClientConfig> {
        let shared = &*self.shared;
        Arc::new(shared.current.load().client_config(&shared.clock, expected))
    }

    pub(crate) fn count_handshake(&self) {
        self.shared.handshakes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refusal(&self, reason: Reason) {
        self.shared.refusals.count(reason);
    }
}

/// What the watching task remembers, so that it says each thing once.
#[derive(Default)]
struct Watch {
    /// Why the files there now are not in use.
    failure: Option<String>,
    /// Of which certificate it was told how near its end is.
    warned: Option<(String, End)>,
}

/// How near the end of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Far,
    Near,
    Over,
}

impl End {
    fn of(Validity { not_before_ms, not_after_ms }: Validity, now_ms: u64) -> Self {
        let life_ms = not_after_ms.saturating_sub(not_before_ms);
        match not_after_ms.checked_sub(now_ms) {
            None => Self::Over,
            Some(left_ms) if left_ms < life_ms / LAST_PART => Self::Near,
            Some(_) => Self::Far,
        }
    }
}

impl Current {
    fn new(content: &Content, material: Material, clock: &Arc<dyn Clock>) -> Self {
        let clients = verifier::Clients {
            chain: Arc::clone(&material.clients),
            trust_domain: material.leaf.identity.trust_domain().to_owned(),
        };
        let builder = || {
            let provider = Arc::new(verifier::provider());
            only_tls13(ServerConfig::builder_with_details(provider, time(clock)))
        };
        let proven = builder().with_client_cert_verifier(Arc::new(clients));
        let complete = |builder: ConfigBuilder<ServerConfig, WantsServerCert>,
                        protocols: &[&[u8]]| {
            let pair = SingleCertAndKey::from((*material.pair).clone());
            let mut server = builder.with_cert_resolver(Arc::new(pair));
            server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            // A resumed session would skip the check of a certificate that has ended since.
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
            Arc::new(server)
        };
        let proven = complete(proven, &[ALPN]);
        let grpc = complete(builder().with_no_client_auth(), &[ALPN]);
        let http = complete(builder().with_no_client_auth(), &[ALPN, ALPN_HTTP1]);
        Self { content_sha256: content.digest(), material, proven, grpc, http }
    }

    fn client_config(&self, clock: &Arc<dyn Clock>, expected: Option<SpiffeId>) -> ClientConfig {
        let Material { leaf, pair, servers, .. } = &self.material;
        let servers = Servers {
            chain: Arc::clone(servers),
            trust_domain: leaf.identity.trust_domain().to_owned(),
            expected,
        };
        let client = believing(servers, clock)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from((**pair).clone())));
        of_ours(client)
    }
}

/// A client without a certificate that takes only this server.
pub(crate) fn anonymous_config(
    roots: Arc<RootCertStore>,
    server: SpiffeId,
    clock: &Arc<dyn Clock>,
) -> ClientConfig {
    let (_clients, chain) = verifier::of(roots);
    let trust_domain = server.trust_domain().to_owned();
    let servers = Servers { chain, trust_domain, expected: Some(server) };
    of_ours(believing(servers, clock).with_no_client_auth())
}

fn believing(
    servers: Servers,
    clock: &Arc<dyn Clock>,
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let builder = ClientConfig::builder_with_details(Arc::new(verifier::provider()), time(clock));
    only_tls13(builder).dangerous().with_custom_certificate_verifier(Arc::new(servers))
}

/// What all our clients have in common.
fn of_ours(mut client: ClientConfig) -> ClientConfig {
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client
}

fn time(clock: &Arc<dyn Clock>) -> Arc<Time> {
    Arc::new(Time(Arc::clone(clock)))
}

fn only_tls13<S: rustls::ConfigSide>(
    builder: ConfigBuilder<S, rustls::WantsVersions>,
) -> ConfigBuilder<S, rustls::WantsVerifier> {
    builder.with_protocol_versions(&[&TLS13]).expect("ring has the cipher suites of TLS 1.3")
}

/// An error with all its causes.
pub(crate) fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some say their cause in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_near_its_end_in_the_last_fifth_of_its_life() {
        let validity = Validity { not_before_ms: 1000, not_after_ms: 2000 };
        for (now_ms, end) in [
            (1000, End::Far),
            (1800, End::Far),
            (1801, End::Near),
            (2000, End::Near),
            (2001, End::Over),
        ] {
            assert_eq!(End::of(validity, now_ms), end, "{now_ms}");
        }
    }

    #[test]
    fn an_error_is_told_with_its_causes_each_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("read: {0}")]
        struct Outer(#[source] Middle);
        #[derive(Debug, thiserror::Error)]
        #[error("middle")]
        struct Middle(#[source] fmt::Error);
        let text = chain_text(&Outer(Middle(fmt::Error)));
        assert_eq!(text, format!("read: middle: {}", fmt::Error));
    }
}
