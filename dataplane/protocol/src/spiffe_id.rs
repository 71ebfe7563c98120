//! [`SpiffeId`]: who somebody is, as a certificate proves it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::IDENTITY_BYTES_MAX;

/// Longest trust domain. Unit: bytes.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

const SCHEME: &str = "spiffe://";
const OPERATOR: &str = "/operator";

/// An identity: `spiffe://<trust domain>/<path>`.
///
/// Letters, digits, `.`, `-`, `_` in both parts (the trust domain without capitals), segments of
/// the path not empty and neither `.` nor `..`, as the SPIFFE ID standard, section 2, has it. So two
/// identities are the same if and only if their bytes are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(Arc<str>);

/// The text is not an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an identity is spiffe://<trust domain>/<path> of letters, digits, '.', '-' and '_', at most \
     {IDENTITY_BYTES_MAX} bytes"
)]
pub struct ParseSpiffeIdError;

impl SpiffeId {
    /// The operator of a trust domain: may call `Admin`.
    ///
    /// # Errors
    ///
    /// It is no trust domain.
    pub fn operator(trust_domain: &str) -> Result<Self, ParseSpiffeIdError> {
        Self::of([trust_domain], &format!("{SCHEME}{trust_domain}{OPERATOR}"))
    }

    /// All replicas of one Writer.
    ///
    /// # Errors
    ///
    /// A part has characters that none may have.
    pub fn writer(
        trust_domain: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Self, ParseSpiffeIdError> {
        let parts = [trust_domain, namespace, name];
        Self::of(parts, &format!("{SCHEME}{trust_domain}/ns/{namespace}/writer/{name}"))
    }

    /// Whatever runs under a service account.
    ///
    /// # Errors
    ///
    /// A part has characters that none may have.
    pub fn service_account(
        trust_domain: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Self, ParseSpiffeIdError> {
        let parts = [trust_domain, namespace, name];
        Self::of(parts, &format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{name}"))
    }

    /// The identity with this text, if no part of it brings a slash along.
    fn of<const N: usize>(parts: [&str; N], text: &str) -> Result<Self, ParseSpiffeIdError> {
        let is_one_each = parts.iter().all(|part| !part.contains('/'));
        if is_one_each { text.parse() } else { Err(ParseSpiffeIdError) }
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Who vouches for it.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.parts().0
    }

    /// Whether it is the operator of its trust domain.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.parts().1 == OPERATOR
    }

    /// Whether it is a Writer: `/ns/<namespace>/writer/<name>`.
    #[must_use]
    pub fn is_writer(&self) -> bool {
        let path: Vec<&str> = self.parts().1.split('/').collect();
        matches!(*path, ["", "ns", _, "writer", _])
    }

    /// What the names of all service accounts of its namespace begin with, up to the last slash, if
    /// it is one of them: `/ns/<namespace>/sa/<name>`.
    #[must_use]
    pub fn service_accounts_prefix(&self) -> Option<&str> {
        let path: Vec<&str> = self.parts().1.split('/').collect();
        let ["", "ns", _, "sa", name] = *path else { return None };
        self.0.strip_suffix(name)
    }

    /// Trust domain, and path with its slash.
    fn parts(&self) -> (&str, &str) {
        split(&self.0).unwrap_or_default()
    }
}

fn split(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix(SCHEME)?;
    rest.split_at_checked(rest.find('/')?)
}

impl FromStr for SpiffeId {
    type Err = ParseSpiffeIdError;

    fn from_str(text: &str) -> Result<Self, ParseSpiffeIdError> {
        let (domain, path) = split(text).ok_or(ParseSpiffeIdError)?;
        let in_domain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        let in_path = |b: u8| in_domain(b) || b.is_ascii_uppercase();
        let is_segment =
            |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(in_path);
        let is_valid = text.len() <= IDENTITY_BYTES_MAX
            && (1..=TRUST_DOMAIN_BYTES_MAX).contains(&domain.len())
            && domain.bytes().all(in_domain)
            && path.split('/').skip(1).all(is_segment);
        if is_valid { Ok(Self(text.into())) } else { Err(ParseSpiffeIdError) }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_a_trust_domain_and_a_path() {
        let id: SpiffeId = "spiffe://dev-1.local/ns/shop/sa/Web_1".parse().unwrap();
        assert_eq!((id.trust_domain(), id.is_operator()), ("dev-1.local", false));
        assert_eq!(SpiffeId::service_account("dev-1.local", "shop", "Web_1"), Ok(id));
        let operator = SpiffeId::operator("td").unwrap();
        assert_eq!((operator.as_str(), operator.is_operator()), ("spiffe://td/operator", true));
        let writer = SpiffeId::writer("td", "a", "b").unwrap();
        assert_eq!((writer.as_str(), writer.is_operator()), ("spiffe://td/ns/a/writer/b", false));
    }

    #[test]
    fn a_writer_is_known_by_its_whole_path() {
        let is_writer = |text: &str| text.parse::<SpiffeId>().unwrap().is_writer();
        assert!(is_writer("spiffe://td/ns/a/writer/b"));
        for other in [
            "spiffe://td/ns/a/writer",
            "spiffe://td/ns/a/writer/b/c",
            "spiffe://td/ns/writer/b",
            "spiffe://td/x/ns/a/writer/b",
            "spiffe://td/ns/a/Writer/b",
            "spiffe://td/ns/a/sa/writer",
            "spiffe://td/operator",
        ] {
            assert!(!is_writer(other), "{other}");
        }
    }

    #[test]
    fn a_service_account_is_known_by_its_whole_path() {
        let prefix = |text: &str| {
            let id: SpiffeId = text.parse().unwrap();
            id.service_accounts_prefix().map(str::to_owned)
        };
        assert_eq!(prefix("spiffe://td/ns/a/sa/b"), Some("spiffe://td/ns/a/sa/".into()));
        assert_eq!(prefix("spiffe://td/ns/sa/sa/sa"), Some("spiffe://td/ns/sa/sa/".into()));
        for other in [
            "spiffe://td/ns/a/sa",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns/sa/b",
            "spiffe://td/x/ns/a/sa/b",
            "spiffe://td/ns/a/writer/b",
            "spiffe://td/operator",
        ] {
            assert_eq!(prefix(other), None, "{other}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_identity() {
        for text in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "spiffe:///a",
            "spiffe://TD/a",
            "SPIFFE://td/a",
            "https://td/a",
            "spiffe://td/a/",
            "spiffe://td//a",
            "spiffe://td/a/../b",
            "spiffe://td/./a",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe://td/a%2fb",
            "spiffe://user@td/a",
            "spiffe://td:1/a",
            "spiffe://td/\u{e4}",
            "spiffe://td/a\0",
            "spiffe://td/a b",
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(ParseSpiffeIdError), "{text:?}");
        }
        assert!(SpiffeId::service_account("td", "a/../b", "c").is_err());
    }

    #[test]
    fn a_part_of_an_identity_has_no_slash() {
        assert!(SpiffeId::operator("td").is_ok());
        assert!(SpiffeId::operator("td/a").is_err());
        for [domain, namespace, name] in
            [["td/a", "b", "c"], ["td", "a/b", "c"], ["td", "a", "b/c"]]
        {
            assert!(SpiffeId::writer(domain, namespace, name).is_err());
            assert!(SpiffeId::service_account(domain, namespace, name).is_err());
        }
        assert!(SpiffeId::writer("td", "a", "b").is_ok());
        assert!(SpiffeId::service_account("td", "a", "b").is_ok());
    }

    #[test]
    fn an_identity_has_at_most_2048_bytes_and_its_trust_domain_255() {
        let path = |len: usize| format!("spiffe://td/{}", "a".repeat(len - 12));
        assert!(path(IDENTITY_BYTES_MAX).parse::<SpiffeId>().is_ok());
        assert!(path(IDENTITY_BYTES_MAX + 1).parse::<SpiffeId>().is_err());
        let domain = |len: usize| format!("spiffe://{}/a", "a".repeat(len));
        assert!(domain(TRUST_DOMAIN_BYTES_MAX).parse::<SpiffeId>().is_ok());
        assert!(domain(TRUST_DOMAIN_BYTES_MAX + 1).parse::<SpiffeId>().is_err());
    }
}
