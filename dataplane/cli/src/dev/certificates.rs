//! The certificates of `pyramid dev`: an authority of its own, and whom it vouches for.
//!
//! ```text
//! trust-domain     what all identities begin with; drawn once for a data directory
//! tls/ca           the authority; its key signs all others
//! tls/writer       the Writer, at all names under which this machine reaches it
//! tls/operator     the commands towards the Admin service
//! tls/user         the commands towards streams
//! tls/pusher       the pusher, and so the applications behind it
//! ```
//!
//! Everything below `tls` may be removed: it is made anew at the next start, for the same
//! identities, because rights that are stored with streams name the trust domain and not the
//! authority. Each step of a start may be the last one before a crash: the authority appears whole
//! or not at all, and a directory that is not good is made again.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use pyramid_protocol::{Clock, Entropy, SpiffeId, SystemEntropy};
use pyramid_tls::authority::{self, Authority, BEFORE_ROOT, Request, Usage};
use pyramid_tls::{Tls, bundle, write_directory};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::folder::{self, IDENTITY, RIGHTS_DUE};
use crate::identity::DEV_NAMESPACE;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the authority lives: longer than any data directory of a `pyramid dev` should.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3652 * 24 * 60 * 60);
/// How long everybody else's certificate lives.
const LEAF_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// A certificate with less left than this is renewed.
const RENEWED_BELOW: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How often a running `pyramid dev` looks.
const LOOK: Duration = Duration::from_secs(60 * 60);

const TRUST_DOMAIN: &str = "trust-domain";

/// Where the certificates lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directories {
    pub(crate) authority: PathBuf,
    pub(crate) writer: PathBuf,
    pub(crate) operator: PathBuf,
    pub(crate) user: PathBuf,
    pub(crate) pusher: PathBuf,
}

impl Directories {
    /// In a directory `tls`.
    pub(crate) fn below(tls: &Path) -> Self {
        Self {
            authority: tls.join("ca"),
            writer: tls.join("writer"),
            operator: tls.join("operator"),
            user: tls.join("user"),
            pusher: tls.join("pusher"),
        }
    }
}

/// The directory `tls` of a data directory.
pub(crate) fn tls(data_dir: &Path) -> PathBuf {
    data_dir.join("tls")
}

/// Who the commands are.
pub(crate) fn user(trust_domain: &str) -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::service_account(trust_domain, DEV_NAMESPACE, "user")?)
}

/// Who the pusher and its applications are.
pub(crate) fn pusher(trust_domain: &str) -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::service_account(trust_domain, DEV_NAMESPACE, "pusher")?)
}

/// The authority of a data directory, and those whom it keeps in certificates.
pub(super) struct Certificates {
    pub(super) directories: Directories,
    authority: Authority,
    clock: Arc<dyn Clock>,
    kept: Vec<(PathBuf, Request)>,
}

impl Certificates {
    /// Makes what is missing, and renews what is old.
    ///
    /// # Errors
    ///
    /// The authority cannot be used, or the disk refuses.
    pub(super) fn open(
        data_dir: &Path,
        listen: &[SocketAddr],
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let directories = Directories::below(&tls(data_dir));
        let trust_domain = trust_domain(data_dir, &directories.authority)?;
        let authority = authority(&directories.authority, &trust_domain, &*clock)?;
        let client = |identity| Request {
            identity,
            usage: Usage::Client,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            life: LEAF_LIFE,
        };
        let (dns_names, ip_addresses) = names(listen);
        let writer = Request {
            identity: SpiffeId::writer(&trust_domain, DEV_NAMESPACE, "dev")?,
            usage: Usage::ServerAndClient,
            dns_names,
            ip_addresses,
            life: LEAF_LIFE,
        };
        let operator = client(SpiffeId::operator(&trust_domain)?);
        let kept = vec![
            (directories.operator.clone(), operator),
            (directories.user.clone(), client(user(&trust_domain)?)),
            (directories.pusher.clone(), client(pusher(&trust_domain)?)),
        ];
        let mut certificates = Self { directories, authority, clock, kept };
        certificates.renew()?;
        // This machine may be reached under other names than at the last start.
        let directory = certificates.directories.writer.clone();
        certificates.issue(&directory, &writer)?;
        certificates.kept.push((directory, writer));
        Ok(certificates)
    }

    pub(super) fn trust_domain(&self) -> &str {
        self.authority.trust_domain()
    }

    /// Renews what has little life left, until `shutdown`. Whoever uses it sees the new files.
    pub(super) async fn keep(self, shutdown: CancellationToken) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = looks.tick() => {}
            }
            if let Err(error) = self.renew() {
                tracing::warn!("a certificate cannot be renewed yet: {error:#}");
            }
        }
    }

    /// Makes each certificate that is missing, damaged, of another authority or old.
    fn renew(&self) -> anyhow::Result<()> {
        for (directory, request) in &self.kept {
            if !self.is_good(directory, request) {
                self.issue(directory, request)?;
            }
        }
        Ok(())
    }

    fn is_good(&self, directory: &Path, request: &Request) -> bool {
        let Ok(tls) = Tls::open(directory, Arc::clone(&self.clock)) else { return false };
        let status = tls.status();
        let left_ms = status.not_after_ms.saturating_sub(self.clock.wall_ms());
        *tls.identity() == request.identity
            && left_ms >= millis(RENEWED_BELOW)
            && bundle::digest(self.authority.bundle_pem())
                .is_ok_and(|digest| bundle::hex(&digest) == status.bundle_sha256)
    }

    fn issue(&self, directory: &Path, request: &Request) -> anyhow::Result<()> {
        issue(&self.authority, directory, request, &*self.clock).map(|_not_after_ms| ())
    }
}

/// Makes a directory with a new key and certificate. Returns when it ends.
pub(crate) fn issue(
    authority: &Authority,
    directory: &Path,
    request: &Request,
    clock: &dyn Clock,
) -> anyhow::Result<u64> {
    let issued = authority.issue(request, clock)?;
    write_directory(directory, &issued, authority.bundle_pem())
        .with_context(|| format!("write {}", directory.display()))?;
    Ok(issued.not_after_ms)
}

/// What all identities of the data directory begin with.
fn trust_domain(data_dir: &Path, authority: &Path) -> anyhow::Result<String> {
    let path = data_dir.join(TRUST_DOMAIN);
    let at = || path.display().to_string();
    match fs::read_to_string(&path) {
        Ok(text) => {
            let trust_domain = text.trim();
            SpiffeId::operator(trust_domain).ok().with_context(|| {
                format!("{} holds no trust domain; put the file back, or remove it", at())
            })?;
            return Ok(trust_domain.to_owned());
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", at())),
    }
    let trust_domain = match Authority::load(authority) {
        Ok(authority) => authority.trust_domain().to_owned(),
        Err(_) => format!("dev-{:08x}.pyramid", SystemEntropy.u64() >> 32),
    };
    // Before the trust domain, so that a crash in between forgets neither.
    if data_dir.join(IDENTITY).exists() {
        let due = data_dir.join(RIGHTS_DUE);
        folder::write(&due, b"").with_context(|| format!("write {}", due.display()))?;
    }
    folder::write(&path, format!("{trust_domain}\n").as_bytes())
        .with_context(|| format!("write {}", at()))?;
    Ok(trust_domain)
}

/// The authority of the directory; a new one if there is none. One that is there and cannot be used
/// is never replaced: that would cut off all that it has vouched for.
fn authority(directory: &Path, trust_domain: &str, clock: &dyn Clock) -> anyhow::Result<Authority> {
    let anew = format!(
        "remove {} to have all certificates made anew; those of `pyramid certificate issue` must \
         then be issued again",
        directory.parent().unwrap_or(directory).display()
    );
    let authority = match Authority::load(directory) {
        Err(authority::Error::Missing { .. }) => {
            let authority = Authority::generate(trust_domain, AUTHORITY_LIFE, clock)?;
            authority.save(directory)?;
            return Ok(authority);
        }
        Err(error @ authority::Error::Damaged { .. }) => return Err(error).context(anew),
        loaded => loaded?,
    };
    let at = directory.display();
    if authority.trust_domain() != trust_domain {
        bail!(
            "the authority in {at} is that of {}, and the data directory is one of {trust_domain}; \
             {anew}",
            authority.trust_domain()
        );
    }
    if clock.wall_ms() >= authority.not_after_ms().saturating_sub(millis(BEFORE_ROOT)) {
        bail!("the authority in {at} has expired, or this machine's clock is wrong; {anew}");
    }
    Ok(authority)
}

/// The authority of a data directory, as it is.
///
/// # Errors
///
/// No `pyramid dev` was started there yet, or its authority cannot be used.
pub(crate) fn existing_authority(data_dir: &Path) -> anyhow::Result<Authority> {
    match Authority::load(&Directories::below(&tls(data_dir)).authority) {
        Err(authority::Error::Missing { .. }) => bail!(
            "there are no certificates in {name}; start `pyramid dev --data-dir {name}` once, it \
             makes them",
            name = data_dir.display()
        ),
        loaded => Ok(loaded?),
    }
}

/// Names and addresses under which this machine reaches a port.
fn names(listen: &[SocketAddr]) -> (Vec<String>, Vec<IpAddr>) {
    let mut dns_names = BTreeSet::from(["localhost".to_owned()]);
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let is_dns = |name: &str| {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        name.len() <= 253 && name.split('.').all(is_label)
    };
    dns_names.extend(host.map(|name| name.to_ascii_lowercase()).filter(|name| is_dns(name)));
    let mut addresses =
        BTreeSet::from([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    for ip in listen.iter().map(SocketAddr::ip) {
        if ip.is_unspecified() {
            addresses.extend(own_addresses().take(ADDRESSES_MAX));
        } else {
            addresses.insert(ip);
        }
    }
    (dns_names.into_iter().collect(), addresses.into_iter().collect())
}

/// Addresses of this machine that one certificate names, so that it stays small.
const ADDRESSES_MAX: usize = 32;

fn own_addresses() -> impl Iterator<Item = IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().ok().into_iter().flatten();
    interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    })
}

/// So many days as a life.
pub(crate) fn days(count: u32) -> Duration {
    DAY.saturating_mul(count)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
