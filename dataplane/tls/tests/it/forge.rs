//! Certificates that no authority of ours makes, and clients without manners.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::Clock as _;
use pyramid_tls::Tls;
use pyramid_tls::bundle;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::world::{Greeter, NOW_MS, TestClock, World, greeting, in_time, user_id, writer_request};

/// A certificate that may vouch for others, and its key.
pub(crate) struct Forge {
    issuer: Issuer<'static, KeyPair>,
    /// This certificate and those above it, without the root.
    above: Vec<CertificateDer<'static>>,
    root_pem: String,
}

/// What a client shows.
pub(crate) struct Shown {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Shown {
    pub(crate) fn key_pem(&self) -> String {
        KeyPair::try_from(&self.key).unwrap().serialize_pem()
    }

    pub(crate) fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| pem(certificate)).collect()
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

impl Forge {
    /// A root without limits.
    pub(crate) fn root() -> Self {
        Self::root_called("forged root")
    }

    pub(crate) fn root_called(name: &str) -> Self {
        let params = authority_params(name, BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root_pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), above: Vec::new(), root_pem }
    }

    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// An intermediate; `change` makes it a bad one.
    pub(crate) fn intermediate(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = authority_params(name, BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut above = vec![certificate.der().clone()];
        above.extend(self.above.iter().cloned());
        Self { issuer: Issuer::new(params, key), above, root_pem: self.root_pem.clone() }
    }

    /// A leaf of a user; `change` makes it another.
    pub(crate) fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let mut params = leaf_params();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let mut chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        chain.extend(self.above.iter().cloned());
        Shown { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }
}

/// A leaf that vouches for itself.
pub(crate) fn self_signed() -> Shown {
    let key = KeyPair::generate().unwrap();
    let chain = vec![leaf_params().self_signed(&key).unwrap().der().clone()];
    Shown { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
}

fn leaf_params() -> CertificateParams {
    let mut params = around_now();
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = vec![uri(user_id().as_str())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn authority_params(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = around_now();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn around_now() -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::from_unix_timestamp(i64::try_from(NOW_MS / 1000).unwrap()).unwrap();
    params.not_before = now - Duration::from_secs(3600);
    params.not_after = now + Duration::from_secs(3600);
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// A part that nobody looks at, of this size.
pub(crate) fn ballast(bytes: usize) -> CustomExtension {
    // An octet string, so that it is well-formed: tag, three bytes of length, content.
    let mut content = vec![0x04, 0x83];
    content.extend_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes()[1..]);
    content.resize(content.len() + bytes, 0);
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], content)
}

impl World {
    /// A server of this world that believes the forged root as well.
    pub(crate) async fn greeter_believing(&self, forge: &Forge) -> Greeter {
        let bundle = bundle::join(&[self.authority.bundle_pem(), forge.root_pem()]).unwrap();
        let path = self.write_with("writer", &writer_request(), &bundle);
        Greeter::start(&Tls::open(&path, self.clock.clone()).unwrap()).await
    }

    /// What a good client of this world shows.
    pub(crate) fn shown(&self) -> Shown {
        let issued = self.authority.issue(&crate::world::user_request(), &*self.clock).unwrap();
        Shown {
            chain: vec![CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap()],
            key: PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
        }
    }

    /// The same client, without the care of ours for what it is told.
    pub(crate) fn raw_client(&self, shown: Option<Shown>) -> ClientConfig {
        self.raw_client_of(&[&TLS13], shown)
    }

    pub(crate) fn raw_client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        shown: Option<Shown>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.authority.bundle_pem().as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap();
        let time = Arc::new(At(Arc::clone(&self.clock)));
        let builder = ClientConfig::builder_with_details(Arc::clone(&provider), time)
            .with_protocol_versions(versions)
            .unwrap()
            .with_webpki_verifier(verifier);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(Shown { chain, key }) => {
                let key = provider.key_provider.load_private_key(key).unwrap();
                let pair = CertifiedKey::new(chain, key);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// Whether the server greets a client that shows this.
    pub(crate) async fn attack(&self, server: &Greeter, shown: Shown) -> io::Result<String> {
        attack(server, self.raw_client(Some(shown))).await
    }
}

#[derive(Debug)]
struct At(Arc<TestClock>);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall_ms())))
    }
}

/// Whether the server greets this client.
pub(crate) async fn attack(server: &Greeter, config: ClientConfig) -> io::Result<String> {
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = in_time(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await?;
    greeting(stream).await
}
