//! Identities as people give them.

use std::convert::Infallible;
use std::str::FromStr;

use anyhow::{Context, bail};
use pyramid_protocol::SpiffeId;

/// The namespace of identities that a `pyramid dev` makes.
pub(crate) const DEV_NAMESPACE: &str = "dev";

/// A whole identity, or the name of one of a `pyramid dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named(String);

impl FromStr for Named {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl Named {
    /// The identity. A name alone is one of `dev`, the trust domain of a `pyramid dev`.
    ///
    /// # Errors
    ///
    /// It is neither, or a name where no `pyramid dev` is meant.
    pub(crate) fn resolve(&self, dev: Option<&str>) -> anyhow::Result<SpiffeId> {
        let Self(text) = self;
        if text.contains(':') {
            return text.parse().with_context(|| format!("identity {text:?}"));
        }
        let Some(trust_domain) = dev else {
            bail!("{text:?} is no identity; give spiffe://TRUST-DOMAIN/PATH");
        };
        let whole = SpiffeId::service_account(trust_domain, DEV_NAMESPACE, text);
        whole.ok().filter(|_| !text.contains('/')).with_context(|| {
            format!("{text:?} is no name of an identity, which has letters, digits, '.', '-', '_'")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, dev: Option<&str>) -> Option<String> {
        let named: Named = text.parse().unwrap();
        named.resolve(dev).ok().map(|id| id.as_str().to_owned())
    }

    #[test]
    fn a_name_is_an_identity_of_a_dev_and_nothing_elsewhere() {
        let whole = "spiffe://td/ns/shop/sa/web";
        for dev in [None, Some("dev-1.pyramid")] {
            assert_eq!(resolve(whole, dev).as_deref(), Some(whole));
            assert_eq!(resolve("https://td/a", dev), None);
        }
        let reports = Some("spiffe://dev-1.pyramid/ns/dev/sa/reports".to_owned());
        assert_eq!(resolve("reports", Some("dev-1.pyramid")), reports);
        assert_eq!(resolve("reports", None), None);
        for text in ["", "a/b", "a b", ".."] {
            assert_eq!(resolve(text, Some("dev-1.pyramid")), None, "{text:?}");
        }
    }
}
