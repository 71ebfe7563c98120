//! The certificates that the operator keeps fresh for others.
//!
//! [`writer_secret`] decides about the Secret of a Writer; whoever reconciles Writers applies it.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pyramid_crds::label;
use pyramid_protocol::{Clock, ParseSpiffeIdError, SpiffeId};
use pyramid_tls::authority::{self, Issued, Recognized, Request, Usage};
use pyramid_tls::bundle;

use crate::context::Trust;
use crate::settings::Settings;

/// Behind the name of a Writer: the name of the Secret with its certificate.
pub(crate) const WRITER_SECRET_SUFFIX: &str = "-writer-tls";

pub(crate) const KEY: &str = "tls.key";
pub(crate) const CERTIFICATE: &str = "tls.crt";
pub(crate) const BUNDLE: &str = "ca.crt";

/// Type of Secrets with key and certificate.
pub(crate) const TLS_TYPE: &str = "kubernetes.io/tls";

/// Why there is no certificate for a Writer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Kubernetes takes no such names.
    #[error("the Writer's name is no part of an identity")]
    Identity(#[source] ParseSpiffeIdError),
    /// See what the authority says.
    #[error("make the Writer's certificate")]
    Issue(#[source] authority::Error),
}

/// Which Writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriterKey<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl WriterKey<'_> {
    fn secret_name(self) -> String {
        format!("{}{WRITER_SECRET_SUFFIX}", self.name)
    }

    /// Where its replicas and its client Service are reached. The wildcard covers any ordinal, so
    /// scaling needs no new certificate.
    fn dns_names(self, cluster_domain: &str) -> Vec<String> {
        let Self { namespace, name } = self;
        let peers = format!("*.{name}-writer-peers.{namespace}.svc");
        let service = format!("{name}-writer.{namespace}.svc");
        [peers, service]
            .into_iter()
            .flat_map(|host| [format!("{host}.{cluster_domain}"), host])
            .collect()
    }
}

/// The Secret `<name>-writer-tls` as it has to be applied, or `None` if the one that is there is
/// good: its leaf is of the signing root, has two thirds of its life not yet behind it, names this
/// Writer and its hosts, and its bundle holds the roots that are believed now.
///
/// If only the bundle is old, key and leaf stay. The result has no owner reference: the caller adds
/// its own to each result, or an apply would take it away. It has the uid of `existing`, so that it
/// is not applied to another Secret of that name.
///
/// # Errors
///
/// As [`Error`] says.
pub(crate) fn writer_secret(
    trust: &Trust,
    settings: &Settings,
    writer: WriterKey<'_>,
    existing: Option<&Secret>,
    clock: &dyn Clock,
) -> Result<Option<Secret>, Error> {
    let identity = SpiffeId::writer(&trust.trust_domain, writer.namespace, writer.name)
        .map_err(Error::Identity)?;
    let dns_names = writer.dns_names(&settings.cluster_domain);
    let fresh = existing.and_then(|secret| fresh_pair(trust, secret, &identity, &dns_names, clock));
    let (key_pem, chain_pem) = match fresh {
        Some(_) if existing.is_some_and(|secret| has_bundle(secret, &trust.bundle_pem)) => {
            return Ok(None);
        }
        Some((key, chain)) => (key.clone(), chain.clone()),
        None => {
            let life = Duration::from_secs(settings.pki.writer_life_seconds.into());
            let usage = Usage::ServerAndClient;
            let request = Request { identity, usage, dns_names, ip_addresses: Vec::new(), life };
            let Issued { key_pem, chain_pem, .. } =
                trust.authority.issue(&request, clock).map_err(Error::Issue)?;
            (ByteString(key_pem.into()), ByteString(chain_pem.into()))
        }
    };
    let bundle = ByteString(trust.bundle_pem.clone().into());
    let metadata = ObjectMeta {
        name: Some(writer.secret_name()),
        namespace: Some(writer.namespace.to_owned()),
        uid: existing.and_then(|secret| secret.metadata.uid.clone()),
        labels: Some([(label::MANAGED_BY.to_owned(), label::OPERATOR.to_owned())].into()),
        ..ObjectMeta::default()
    };
    let data = [(KEY, key_pem), (CERTIFICATE, chain_pem), (BUNDLE, bundle)];
    Ok(Some(Secret {
        metadata,
        type_: Some(TLS_TYPE.to_owned()),
        data: Some(data.map(|(name, value)| (name.to_owned(), value)).into()),
        ..Secret::default()
    }))
}

/// Key and leaf of a Secret, if they can stay.
fn fresh_pair<'a>(
    trust: &Trust,
    secret: &'a Secret,
    identity: &SpiffeId,
    dns_names: &[String],
    clock: &dyn Clock,
) -> Option<(&'a ByteString, &'a ByteString)> {
    let (key, chain) = (value(secret, KEY)?, value(secret, CERTIFICATE)?);
    let leaf = trust.authority.recognize(&key.0, &chain.0, clock)?;
    let is_for_it = leaf.identity == *identity && leaf.dns_names == dns_names;
    (is_for_it && clock.wall_ms() < renewed_at_ms(&leaf)).then_some((key, chain))
}

/// After two thirds of its life.
fn renewed_at_ms(leaf: &Recognized) -> u64 {
    let life_ms = leaf.not_after_ms.saturating_sub(leaf.not_before_ms);
    leaf.not_before_ms.saturating_add(life_ms - life_ms / 3)
}

/// Whether the Secret tells to believe exactly these roots.
fn has_bundle(secret: &Secret, bundle_pem: &str) -> bool {
    let held = value(secret, BUNDLE).and_then(|held| std::str::from_utf8(&held.0).ok());
    let digest = |pem| bundle::digest(pem).ok();
    held.and_then(digest).is_some_and(|held| Some(held) == digest(bundle_pem))
}

fn value<'a>(secret: &'a Secret, key: &str) -> Option<&'a ByteString> {
    secret.data.as_ref()?.get(key)
}

#[cfg(test)]
mod tests;
