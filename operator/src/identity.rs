//! The certificate of the operator itself: shown by webhook and issuer, and to Writers.
//!
//! Each replica makes its own, into a directory in memory, at its start, after half of its life, and
//! when the authority changes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::{Clock, ParseSpiffeIdError, SpiffeId};
use pyramid_telemetry::logs::causes;
use pyramid_tls::authority::{self, Issued, Request, Usage};
use pyramid_tls::{Status, Tls, write_directory};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::context::Trust;
use crate::settings::Settings;

/// Name of the Service of webhook and issuer.
pub(crate) const SERVICE: &str = "pyramid-operator";
/// The wall clock is compared with the certificate this often; it may jump.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The settings are not good.
    #[error("the trust domain is no part of an identity")]
    Identity(#[source] ParseSpiffeIdError),
    /// See what the authority says.
    #[error("make the operator's own certificate")]
    Issue(#[source] authority::Error),
    /// Look at the mount.
    #[error("write the operator's own certificate to --identity")]
    Write(#[source] io::Error),
    /// What was just written cannot be used: a clock or a bundle is wrong.
    #[error("use the operator's own certificate")]
    Use(#[source] pyramid_tls::Error),
}

/// Where it lies and where its holder is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) namespace: &'a str,
}

/// Makes a certificate and opens it. Blocks for the time of three small files.
pub(crate) fn open(
    place: Place<'_>,
    trust: &Trust,
    settings: &Settings,
    clock: Arc<dyn Clock>,
) -> Result<Tls, Error> {
    write(place, trust, settings, &*clock)?;
    Tls::open(place.directory, clock).map_err(Error::Use)
}

fn write(
    Place { directory, namespace }: Place<'_>,
    trust: &Trust,
    settings: &Settings,
    clock: &dyn Clock,
) -> Result<(), Error> {
    let host = format!("{SERVICE}.{namespace}.svc");
    let request = Request {
        identity: SpiffeId::operator(&trust.trust_domain).map_err(Error::Identity)?,
        usage: Usage::ServerAndClient,
        dns_names: vec![format!("{host}.{}", settings.cluster_domain), host],
        ip_addresses: Vec::new(),
        life: Duration::from_secs(settings.pki.operator_life_seconds.into()),
    };
    let issued: Issued = trust.authority.issue(&request, clock).map_err(Error::Issue)?;
    write_directory(directory, &issued, &trust.bundle_pem).map_err(Error::Write)
}

/// Whether half of its life is over.
fn is_due(status: &Status, now_ms: u64) -> bool {
    let life_ms = status.not_after_ms.saturating_sub(status.not_before_ms);
    now_ms >= status.not_before_ms.saturating_add(life_ms / 2)
}

/// Keeps the certificate fresh until `shutdown`.
pub(crate) async fn keep(
    tls: Tls,
    namespace: String,
    mut trust: watch::Receiver<Arc<Trust>>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) {
    loop {
        let is_changed = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = trust.changed() => if changed.is_ok() { true } else { return },
            () = sleep(LOOK_EVERY) => false,
        };
        if !is_changed && !is_due(&tls.status(), clock.wall_ms()) {
            continue;
        }
        let current = Arc::clone(&trust.borrow_and_update());
        if let Err(error) = renew(&tls, &namespace, current, settings.clone(), &clock).await {
            // Tried again at the next look, long before the certificate ends.
            trust.mark_changed();
            tracing::error!("the operator's certificate is not renewed: {}", causes(&error));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }
}

async fn renew(
    tls: &Tls,
    namespace: &str,
    trust: Arc<Trust>,
    settings: Settings,
    clock: &Arc<dyn Clock>,
) -> Result<(), Error> {
    let (directory, namespace) = (tls.directory().to_owned(), namespace.to_owned());
    let clock = Arc::clone(clock);
    tokio::task::spawn_blocking(move || {
        let place = Place { directory: &directory, namespace: &namespace };
        write(place, &trust, &settings, &*clock)
    })
    .await
    .expect("writing a directory does not panic")?;
    tls.reload().await.map_err(Error::Use)?;
    tracing::info!(serial = tls.status().serial, "the operator's certificate is renewed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use pyramid_tls::{Authority, bundle};
    use tempfile::TempDir;
    use tokio::task::JoinSet;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    /// 2026-08-01T00:00:00Z.
    const NOW_MS: u64 = 1_785_542_400_000;

    struct TestClock(AtomicU64);

    impl Clock for TestClock {
        fn wall_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    struct World {
        clock: Arc<TestClock>,
        folder: TempDir,
        settings: Settings,
    }

    impl World {
        fn new() -> Self {
            let clock = Arc::new(TestClock(AtomicU64::new(NOW_MS)));
            Self { clock, folder: TempDir::new().unwrap(), settings: Settings::for_tests() }
        }

        fn authority(&self) -> Authority {
            Authority::generate("test.local", 100 * DAY, &*self.clock).unwrap()
        }

        fn open(&self, trust: &Trust) -> Tls {
            let place = Place { directory: self.folder.path(), namespace: "pyramid-system" };
            open(place, trust, &self.settings, self.clock.clone()).unwrap()
        }
    }

    #[test]
    fn the_certificate_is_the_operators_and_names_its_service() {
        let world = World::new();
        let trust = Trust::of(world.authority());
        let tls = world.open(&trust);
        let read = |name: &str| std::fs::read(world.folder.path().join(name)).unwrap();
        let leaf =
            trust.authority.recognize(&read("tls.key"), &read("tls.crt"), &*world.clock).unwrap();
        let expected = authority::Recognized {
            identity: SpiffeId::operator("test.local").unwrap(),
            dns_names: vec![
                "pyramid-operator.pyramid-system.svc.cluster.local".to_owned(),
                "pyramid-operator.pyramid-system.svc".to_owned(),
            ],
            not_before_ms: NOW_MS - 300_000,
            not_after_ms: NOW_MS + 86_400_000,
        };
        assert_eq!(leaf, expected);
        assert_eq!(tls.identity(), &expected.identity);
    }

    #[test]
    fn a_certificate_is_due_after_half_of_its_life() {
        let world = World::new();
        let status = Status {
            not_before_ms: 1000,
            not_after_ms: 3000,
            ..world.open(&Trust::of(world.authority())).status()
        };
        assert!(!is_due(&status, 1999));
        assert!(is_due(&status, 2000));
    }

    async fn serial_other_than(tls: &Tls, old: &str) -> String {
        loop {
            let serial = tls.status().serial;
            if serial != old {
                return serial;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_a_new_root_renew_it_and_nothing_else_does() {
        let world = World::new();
        let old = Trust::of(world.authority());
        let tls = world.open(&old);
        let first = tls.status().serial;
        let old_root = old.bundle_pem.clone();
        let (sender, trust) = watch::channel(Arc::new(old));
        let mut tasks = JoinSet::new();
        let shutdown = CancellationToken::new();
        let clock: Arc<dyn Clock> = world.clock.clone();
        let namespace = "pyramid-system".to_owned();
        let keeping =
            keep(tls.clone(), namespace, trust, world.settings.clone(), clock, shutdown.clone());
        tasks.spawn(keeping);
        sleep(100 * LOOK_EVERY).await;
        assert_eq!(tls.status().serial, first);

        world.clock.0.fetch_add(43_200_000, Ordering::Relaxed);
        let second = serial_other_than(&tls, &first).await;

        let new = Trust::of(world.authority());
        let both = bundle::join(&[&old_root, &new.bundle_pem]).unwrap();
        sender.send_replace(Arc::new(Trust { bundle_pem: both.clone(), ..new }));
        serial_other_than(&tls, &second).await;
        let digest = bundle::hex(&bundle::digest(&both).unwrap());
        assert_eq!(tls.status().bundle_sha256, digest);
        shutdown.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }
}
