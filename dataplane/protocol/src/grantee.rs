//! [`Grantee`]: whom a right is given to.

use std::str::FromStr;

use crate::SpiffeId;

/// Stands for every name of a service account, in the last segment alone.
const EVERY_NAME: &str = "*";

/// Whom a right is given to, as it stands in a list of rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// One identity.
    One(SpiffeId),
    /// Every service account of one namespace: `spiffe://<trust domain>/ns/<namespace>/sa/*`.
    ServiceAccounts {
        /// The text without its `*`: what the identities begin with.
        prefix: String,
    },
}

/// The text names nobody to whom a right can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}; or spiffe://<trust domain>/ns/<namespace>/sa/* for every service account of a namespace, \
     and '*' has no other place",
    crate::ParseSpiffeIdError
)]
pub struct ParseGranteeError;

impl Grantee {
    /// The text in a list of rights that covers every service account of the identity's namespace,
    /// if it is a service account.
    #[must_use]
    pub fn service_accounts_of(identity: &SpiffeId) -> Option<String> {
        identity.service_accounts_prefix().map(|prefix| format!("{prefix}{EVERY_NAME}"))
    }

    /// Whether a text in a list of rights means this identity. A text that is no [`Grantee`] means
    /// nobody.
    #[must_use]
    pub fn covers(text: &str, identity: &SpiffeId) -> bool {
        text == identity.as_str()
            || text
                .strip_suffix(EVERY_NAME)
                .is_some_and(|prefix| identity.service_accounts_prefix() == Some(prefix))
    }
}

impl FromStr for Grantee {
    type Err = ParseGranteeError;

    fn from_str(text: &str) -> Result<Self, ParseGranteeError> {
        let Some(prefix) = text.strip_suffix(EVERY_NAME) else {
            return text.parse().map(Self::One).map_err(|_| ParseGranteeError);
        };
        // Any name in the place of the star must make a service account of it, and that one's
        // namespace is the one that is meant.
        let one: SpiffeId = format!("{prefix}x").parse().map_err(|_| ParseGranteeError)?;
        if one.service_accounts_prefix() == Some(prefix) {
            Ok(Self::ServiceAccounts { prefix: prefix.to_owned() })
        } else {
            Err(ParseGranteeError)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::IDENTITY_BYTES_MAX;

    const EVERY: &str = "spiffe://td/ns/a/sa/*";

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    #[test]
    fn a_star_is_the_whole_last_segment_of_a_service_account() {
        let every = Grantee::ServiceAccounts { prefix: "spiffe://td/ns/a/sa/".into() };
        assert_eq!(EVERY.parse(), Ok(every));
        let one = "spiffe://td/ns/a/sa/x";
        assert_eq!(one.parse(), Ok(Grantee::One(id(one))));
        for odd in [
            "",
            "*",
            "spiffe://*",
            "spiffe://td/*",
            "spiffe://td/ns/*",
            "spiffe://*/ns/a/sa/x",
            "spiffe://td/ns/*/sa/x",
            "spiffe://td/ns/*/sa/*",
            "spiffe://td/ns/a/*/x",
            "spiffe://td/ns/a/sa/x*",
            "spiffe://td/ns/a/sa/*x",
            "spiffe://td/ns/a/sa/**",
            "spiffe://td/ns/a/sa/*/*",
            "spiffe://td/ns/a/sa/x/*",
            "spiffe://td/ns/a/sa//*",
            "spiffe://td/ns/a/sa/../*",
            "spiffe://td/ns//sa/*",
            "spiffe://td/ns/a/sa*",
            "spiffe://td/ns/a/writer/*",
            "spiffe://td/ns/a/SA/*",
            "spiffe://td/x/ns/a/sa/*",
            "spiffe://td/operator*",
            "spiffe://TD/ns/a/sa/*",
            "ns/a/sa/*",
        ] {
            assert_eq!(odd.parse::<Grantee>(), Err(ParseGranteeError), "{odd:?}");
        }
    }

    #[test]
    fn a_star_has_the_length_of_a_name() {
        let path = |len: usize| {
            let namespace = "a".repeat(len - "spiffe://td/ns//sa/*".len());
            format!("spiffe://td/ns/{namespace}/sa/*")
        };
        assert!(path(IDENTITY_BYTES_MAX).parse::<Grantee>().is_ok());
        assert_eq!(path(IDENTITY_BYTES_MAX + 1).parse::<Grantee>(), Err(ParseGranteeError));
    }

    #[test]
    fn every_service_account_of_the_namespace_is_covered_and_nobody_else() {
        for inside in ["spiffe://td/ns/a/sa/x", "spiffe://td/ns/a/sa/sa"] {
            assert!(Grantee::covers(EVERY, &id(inside)), "{inside}");
            assert!(Grantee::covers(inside, &id(inside)), "{inside}");
            assert_eq!(Grantee::service_accounts_of(&id(inside)).as_deref(), Some(EVERY));
        }
        for outside in [
            "spiffe://td/ns/b/sa/x",
            "spiffe://te/ns/a/sa/x",
            "spiffe://td/ns/a/sa/x/y",
            "spiffe://td/ns/a/sa",
            "spiffe://td/ns/a/writer/x",
            "spiffe://td/operator",
        ] {
            assert!(!Grantee::covers(EVERY, &id(outside)), "{outside}");
            assert_ne!(Grantee::service_accounts_of(&id(outside)).as_deref(), Some(EVERY));
        }
        let x = id("spiffe://td/ns/a/sa/x");
        for other in ["*", "spiffe://td/*", "spiffe://td/ns/a/sa/x*", "spiffe://td/ns/a/sa/"] {
            assert!(!Grantee::covers(other, &x), "{other}");
        }
    }
}
