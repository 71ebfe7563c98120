//! The authority as two texts, for a Kubernetes Secret.

use std::path::Path;

use pyramid_protocol::{Clock, SpiffeId};
use rcgen::KeyPair;

use super::Authority;
use crate::directory::{Content, Material, Purpose};

/// The texts are no authority. Restore them from a copy; a new authority would cut off every
/// holder of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the authority is damaged: {fact}; restore it from a copy")]
pub struct Damaged {
    /// What is wrong.
    pub fact: &'static str,
}

/// A leaf that its authority knows again, and that holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognized {
    /// Its holder.
    pub identity: SpiffeId,
    /// Where its server is reached, in the order of the certificate.
    pub dns_names: Vec<String>,
    /// When it begins. Unit: milliseconds since 1970 UTC.
    pub not_before_ms: u64,
    /// When it ends. Unit: milliseconds since 1970 UTC.
    pub not_after_ms: u64,
}

impl Authority {
    /// Reads a root and its key, PEM both.
    ///
    /// # Errors
    ///
    /// [`Damaged`].
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Damaged> {
        let key = KeyPair::from_pem(key_pem)
            .map_err(|_damaged| Damaged { fact: "its key is not PKCS#8 PEM" })?;
        Self::new(certificate_pem, key).map_err(|fact| Damaged { fact })
    }

    /// The key of the root, PKCS#8 PEM; the root itself is [`Authority::bundle_pem`]. Whoever has
    /// it can be anybody: it goes where the authority is kept and nowhere else.
    #[must_use]
    pub fn to_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Reads a leaf and its key; `None` unless they belong together, this root signed the leaf and
    /// it holds now.
    #[must_use]
    pub fn recognize(
        &self,
        key_pem: &[u8],
        chain_pem: &[u8],
        clock: &dyn Clock,
    ) -> Option<Recognized> {
        let content = Content::new(key_pem, chain_pem, self.certificate_pem.as_bytes());
        // Whatever is wrong, the answer is another leaf; errors would only name a directory.
        let checked = Material::check(&content, Purpose::Client, Path::new(""), clock).ok()?;
        let leaf = checked.leaf;
        Some(Recognized {
            identity: leaf.identity,
            dns_names: leaf.dns_names,
            not_before_ms: leaf.validity.not_before_ms,
            not_after_ms: leaf.validity.not_after_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::authority::{BACKDATED, Request, Usage};

    const DAY: Duration = Duration::from_secs(86_400);
    /// 2026-08-01T00:00:00Z.
    const NOW_MS: u64 = 1_785_542_400_000;

    struct At(u64);

    impl Clock for At {
        fn wall_ms(&self) -> u64 {
            self.0
        }
    }

    const NOW: At = At(NOW_MS);

    fn authority() -> Authority {
        Authority::generate("test.local", 100 * DAY, &NOW).unwrap()
    }

    fn writer() -> Request {
        Request {
            identity: SpiffeId::writer("test.local", "shop", "main").unwrap(),
            usage: Usage::ServerAndClient,
            dns_names: vec!["*.peers.svc".to_owned(), "main.svc".to_owned()],
            ip_addresses: Vec::new(),
            life: DAY,
        }
    }

    #[test]
    fn an_authority_goes_through_pem_and_signs_on() {
        let old = authority();
        let new = Authority::from_pem(old.bundle_pem(), &old.to_key_pem()).unwrap();
        assert_eq!(new.trust_domain(), "test.local");
        assert_eq!(new.bundle_pem(), old.bundle_pem());
        let issued = new.issue(&writer(), &NOW).unwrap();
        let recognized = Recognized {
            identity: writer().identity,
            dns_names: writer().dns_names,
            not_before_ms: NOW_MS - 300_000,
            not_after_ms: NOW_MS + 86_400_000,
        };
        assert_eq!(BACKDATED, Duration::from_secs(300));
        let (key, chain) = (issued.key_pem.as_bytes(), issued.chain_pem.as_bytes());
        assert_eq!(old.recognize(key, chain, &NOW), Some(recognized));
    }

    #[test]
    fn texts_that_do_not_belong_together_are_no_authority() {
        let (one, other) = (authority(), authority());
        let fact = |certificate: &str, key: &str| {
            Authority::from_pem(certificate, key).err().map(|Damaged { fact }| fact)
        };
        assert_eq!(fact(one.bundle_pem(), &one.to_key_pem()), None);
        let mismatch = Some("its key is not that of its certificate");
        assert_eq!(fact(one.bundle_pem(), &other.to_key_pem()), mismatch);
        assert_eq!(fact(one.bundle_pem(), ""), Some("its key is not PKCS#8 PEM"));
        assert_eq!(fact("", &one.to_key_pem()), Some("its certificate is not PEM"));
    }

    #[test]
    fn only_a_leaf_of_this_root_that_holds_now_is_recognized() {
        let (one, other) = (authority(), authority());
        let leaf = one.issue(&writer(), &NOW).unwrap();
        let again = one.issue(&writer(), &NOW).unwrap();
        let knows = |authority: &Authority, key: &str, chain: &str, at_ms: u64| {
            authority.recognize(key.as_bytes(), chain.as_bytes(), &At(at_ms)).is_some()
        };
        let last_ms = NOW_MS + 86_400_000;
        assert!(knows(&one, &leaf.key_pem, &leaf.chain_pem, NOW_MS));
        assert!(knows(&one, &leaf.key_pem, &leaf.chain_pem, last_ms));
        assert!(!knows(&one, &leaf.key_pem, &leaf.chain_pem, last_ms + 1000));
        assert!(!knows(&other, &leaf.key_pem, &leaf.chain_pem, NOW_MS));
        assert!(!knows(&one, &again.key_pem, &leaf.chain_pem, NOW_MS));
        assert!(!knows(&one, &leaf.key_pem, "", NOW_MS));
    }
}
