//! The pod's certificate: got from the issuer, kept in a directory, renewed while the pusher runs.
//!
//! A container that starts again finds the directory, which lies in the pod's memory, and needs no
//! issuer. A certificate is renewed at half of its life, so the issuer may be away for the other
//! half. Whom to believe is what the bootstrap configuration says and nothing else: when its bundle
//! changes, the directory gets it at once, and a new certificate soon, at once if the new bundle does
//! not vouch for the one in use.

mod issuer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyramid_client::Backoff;
use pyramid_protocol::net::Connect;
use pyramid_protocol::{Clock, Entropy};
use pyramid_tls::authority::BACKDATED;
use pyramid_tls::{Error as TlsError, Status, Tls, replace_bundle};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::bootstrap::{Heard, Known};
use crate::pod::Timing;

/// A renewal is put off by up to this part of the certificate's life, so that pods which began
/// together do not come back together.
const JITTER_PART: u64 = 10;

/// Where the certificate lies and how a new one is got.
pub(crate) struct Identity {
    /// The TLS directory.
    pub(crate) directory: PathBuf,
    /// The service account's token.
    pub(crate) token: PathBuf,
    /// The bundle that vouches for the issuer, for texts.
    pub(crate) bundle: PathBuf,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) timing: Timing,
}

/// What a certificate does not say itself.
struct Kept {
    tls: Tls,
    /// Which bundle lies in the directory.
    bundle_digest: Option<[u8; 32]>,
    /// Unit: milliseconds since 1970 UTC.
    renew_at_ms: u64,
}

impl Identity {
    /// Keeps a certificate for ever, and tells of it when there is one; from then on the [`Tls`]
    /// itself takes renewals into use.
    pub(crate) async fn keep(
        self,
        mut heard: watch::Receiver<Heard>,
        tls: watch::Sender<Option<Tls>>,
    ) {
        let mut kept = self.open().await.inspect_err(|error| {
            if !matches!(error, TlsError::Missing { .. }) {
                tracing::info!("the certificate of before cannot be used: {error}");
            }
        });
        if let Ok(kept) = &kept {
            tls.send_replace(Some(kept.tls.clone()));
        }
        let mut backoff = Backoff::new(self.timing.issue_retry, self.timing.issue_retry_max);
        let mut said = String::new();
        loop {
            let known = heard.borrow_and_update().as_ref().ok().map(Arc::clone);
            let mut wait = self.timing.poll;
            if let Some(known) = known {
                if let Ok(kept) = &mut kept {
                    self.take_bundle(kept, &known).await;
                }
                if self.is_due(kept.as_ref().ok()) {
                    match self.issue(&known).await {
                        Ok(issued) => {
                            said.clear();
                            backoff.reset();
                            if kept.is_err() {
                                tls.send_replace(Some(issued.tls.clone()));
                            }
                            // The one in use reads the directory itself.
                            kept = Ok(issued);
                        }
                        Err(issuer::Error { message, retry_after }) => {
                            wait = backoff.wait(&*self.entropy).max(retry_after);
                            if said != message {
                                tracing::warn!(
                                    "no certificate, asked for again and again: {message}"
                                );
                                said = message;
                            }
                        }
                    }
                }
            }
            let again = Instant::now() + wait;
            tokio::select! {
                changed = heard.changed() => if changed.is_err() { return },
                () = sleep_until(again) => {}
            }
        }
    }

    fn is_due(&self, kept: Option<&Kept>) -> bool {
        kept.is_none_or(|kept| self.clock.wall_ms() >= kept.renew_at_ms)
    }

    async fn open(&self) -> Result<Kept, TlsError> {
        let (directory, clock) = (self.directory.clone(), Arc::clone(&self.clock));
        let opened = tokio::task::spawn_blocking(move || Tls::open(&directory, clock)).await;
        let tls = opened.expect("reading a directory does not panic")?;
        let renew_at_ms = renewal_ms(&tls.status(), self.entropy.u64());
        Ok(Kept { tls, bundle_digest: None, renew_at_ms })
    }

    /// Gets a new certificate into the directory.
    async fn issue(&self, known: &Known) -> Result<Kept, issuer::Error> {
        let identity = issuer::issue(self, known).await?;
        let kept = self.open().await.map_err(|error| issuer::Error::of(&error))?;
        let not_after = pyramid_tls::Moment { ms: kept.tls.status().not_after_ms };
        tracing::info!(%identity, %not_after, "got a certificate");
        Ok(Kept { bundle_digest: Some(known.bundle_digest), ..kept })
    }

    /// Believes whom the bootstrap configuration says.
    async fn take_bundle(&self, kept: &mut Kept, known: &Known) {
        if kept.bundle_digest == Some(known.bundle_digest) {
            return;
        }
        let now_ms = self.clock.wall_ms();
        if pyramid_tls::bundle::hex(&known.bundle_digest) == kept.tls.status().bundle_sha256
            && kept.bundle_digest.is_none()
        {
            // As the directory was found.
            kept.bundle_digest = Some(known.bundle_digest);
            return;
        }
        let (directory, clock) = (self.directory.clone(), Arc::clone(&self.clock));
        let bundle = known.trust_bundle_pem.clone();
        let replaced =
            tokio::task::spawn_blocking(move || replace_bundle(&directory, &bundle, &*clock)).await;
        match replaced.expect("writing a directory does not panic") {
            Ok(()) => {
                kept.bundle_digest = Some(known.bundle_digest);
                let spread = random_below(self.timing.spread, self.entropy.u64());
                kept.renew_at_ms = kept.renew_at_ms.min(now_ms.saturating_add(spread));
                tracing::info!("the trust bundle has changed");
            }
            Err(error) => {
                // The new certificate comes with the new bundle.
                kept.renew_at_ms = now_ms;
                tracing::debug!("the certificate in use does not go with the bundle: {error}");
            }
        }
    }
}

/// When a certificate is renewed: at half of its life, and a little later.
fn renewal_ms(status: &Status, random: u64) -> u64 {
    let begin_ms = status.not_before_ms.saturating_add(millis(BACKDATED)).min(status.not_after_ms);
    let life_ms = status.not_after_ms - begin_ms;
    let later_ms = random.checked_rem(life_ms / JITTER_PART + 1).unwrap_or(0);
    begin_ms + life_ms / 2 + later_ms
}

/// Unit: milliseconds.
fn random_below(most: Duration, random: u64) -> u64 {
    random.checked_rem(millis(most).saturating_add(1)).unwrap_or(0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_the_tenth_after_the_middle_of_its_life() {
        const BEGIN_MS: u64 = 1_000_000;
        let status = |life_ms: u64| Status {
            identity: "spiffe://a/ns/b/sa/c".parse().unwrap(),
            not_before_ms: BEGIN_MS - millis(BACKDATED),
            not_after_ms: BEGIN_MS + life_ms,
            serial: String::new(),
            bundle_sha256: String::new(),
            reloads: 0,
            reload_failures: 0,
            handshakes: 0,
            refused: vec![],
        };
        for (random, after_ms) in [(0, 500), (100, 600), (101, 500), (1_009, 600)] {
            let random_is = |life| renewal_ms(&status(life), random);
            assert_eq!(random_is(1_000), BEGIN_MS + after_ms, "{random}");
        }
        // One that ends before it has begun by this reckoning is renewed at once.
        let short = Status { not_after_ms: BEGIN_MS - 1, ..status(0) };
        assert_eq!(renewal_ms(&short, 7), BEGIN_MS - 1);
    }
}
