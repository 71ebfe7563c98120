//! Who the programs and the test are: an authority, and a directory of certificates for each.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::net::{Connect, TcpConnect};
use pyramid_protocol::pb::v1::StreamRights;
use pyramid_protocol::{SpiffeId, SystemClock};
use pyramid_tls::authority::{Authority, Request, Usage};
use pyramid_tls::{Tls, write_directory};

const TRUST_DOMAIN: &str = "e2e.pyramid";
const NAMESPACE: &str = "e2e";
/// Longer than any run.
const LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Everybody's directories, and the test's own connections.
#[derive(Clone, Debug)]
pub struct Identities {
    /// Of the Writer, which serves at 127.0.0.1.
    pub writer: PathBuf,
    /// Of a pusher.
    pub pusher: PathBuf,
    operator: Tls,
    user: Tls,
}

impl Identities {
    /// Makes them below a folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        let authority = Authority::generate(TRUST_DOMAIN, LIFE, &SystemClock)?;
        let issue = |name: &str, identity, usage, ip_addresses: &[IpAddr]| {
            let request = Request {
                identity,
                usage,
                dns_names: Vec::new(),
                ip_addresses: ip_addresses.to_vec(),
                life: LIFE,
            };
            let directory = folder.join(name);
            let issued = authority.issue(&request, &SystemClock)?;
            write_directory(&directory, &issued, authority.bundle_pem())?;
            anyhow::Ok(directory)
        };
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let writer = SpiffeId::writer(TRUST_DOMAIN, NAMESPACE, "writer")?;
        let writer = issue("writer", writer, Usage::ServerAndClient, &loopback)?;
        let pusher = issue("pusher", account("pusher")?, Usage::Client, &[])?;
        let operator = SpiffeId::operator(TRUST_DOMAIN)?;
        let operator = issue("operator", operator, Usage::Client, &[])?;
        let user = issue("user", account("user")?, Usage::Client, &[])?;
        let open = |directory: &Path| Tls::open(directory, Arc::new(SystemClock));
        Ok(Self { writer, pusher, operator: open(&operator)?, user: open(&user)? })
    }

    /// To streams.
    #[must_use]
    pub fn user(&self) -> Arc<dyn Connect> {
        Arc::new(self.user.connect(Arc::new(TcpConnect)))
    }

    /// To the Admin service.
    #[must_use]
    pub fn operator(&self) -> Arc<dyn Connect> {
        Arc::new(self.operator.connect(Arc::new(TcpConnect)))
    }

    /// All rights for the test; what applications need for the pusher.
    ///
    /// # Errors
    /// The account is no identity.
    pub fn rights(&self) -> anyhow::Result<StreamRights> {
        let user = self.user.identity().as_str().to_owned();
        let both = vec![user.clone(), self.pusher_account()?];
        Ok(StreamRights { appenders: both.clone(), readers: both, managers: vec![user] })
    }

    /// Who may attach to a subscription.
    ///
    /// # Errors
    /// The account is no identity.
    pub fn pusher_account(&self) -> anyhow::Result<String> {
        Ok(account("pusher")?.as_str().to_owned())
    }
}

fn account(name: &str) -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::service_account(TRUST_DOMAIN, NAMESPACE, name)?)
}
