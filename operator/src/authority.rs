//! The Secret of the authority: `pyramid-ca` in the operator's namespace.
//!
//! | key | holds |
//! | --- | --- |
//! | `tls.crt` | the root that signs, PEM; it names the trust domain |
//! | `tls.key` | its key, PKCS#8 PEM |
//! | `next.crt`, `previous.crt` | roots that are believed as well, while one is exchanged for another; may be absent |
//!
//! It is made once, by whichever replica comes first, and never deleted or overwritten by the
//! operator; it has no owner. A read that fails is never taken for a Secret that is not there, and a
//! Secret that is not there is not made anew while anything of an earlier one is left: a new root
//! would cut off every holder of a certificate.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use pyramid_crds::label;
use pyramid_protocol::{Clock, Entropy};
use pyramid_telemetry::logs::causes;
use pyramid_tls::authority::{self, Damaged};
use pyramid_tls::{Authority, bundle};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::{MANAGER, Trust, said};
use crate::pki::{CERTIFICATE, KEY, TLS_TYPE, WRITER_SECRET_SUFFIX};
use crate::settings::Settings;
use crate::webhook_bundle::{WEBHOOK, has_root};

/// Name of the Secret.
pub const SECRET: &str = "pyramid-ca";
/// Roots that are believed beside the signing one.
const OTHER_ROOTS: [&str; 2] = ["next.crt", "previous.crt"];
/// Tells trust domains of clusters with the same domain apart. Unit: bytes, two digits each.
const SUFFIX_BYTES: usize = 4;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Goes away by itself, or the operator's rights are wrong.
    #[error("{action}: {said}")]
    Api {
        /// What was tried.
        action: &'static str,
        /// What the API server said.
        said: String,
    },
    /// Somebody has to restore the Secret.
    #[error(
        "the Secret {SECRET} is gone, but {evidence} holds what its authority made; restore \
         {SECRET} from a copy. To begin with a new authority that no running program believes, \
         remove {evidence} first: {removal}"
    )]
    Gone {
        /// What is left of it.
        evidence: String,
        /// The commands that remove it.
        removal: String,
    },
    /// Somebody has to restore the Secret.
    #[error("the Secret {SECRET}")]
    Damaged(#[source] Damaged),
    /// Somebody has to restore the Secret.
    #[error("the Secret {SECRET} has no {key}; restore it from a copy")]
    Incomplete {
        /// What is missing, or is no text.
        key: &'static str,
    },
    /// Somebody has to mend the Secret.
    #[error("a root in the Secret {SECRET}")]
    Bundle(#[source] bundle::Error),
    /// Somebody has to change the settings back.
    #[error(
        "the settings say trustDomain {wanted:?} and the Secret {SECRET} is of {found:?}; it cannot \
         be changed, set it back"
    )]
    TrustDomain {
        /// In the settings.
        wanted: String,
        /// In the root.
        found: String,
    },
    /// The settings are not good.
    #[error("make an authority")]
    Make(#[source] authority::Error),
}

impl Error {
    fn api(action: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |error| Self::Api { action, said: said(&error) }
    }
}

impl Trust {
    /// An authority that is the only one believed.
    #[must_use]
    pub fn of(authority: Authority) -> Self {
        let bundle_pem = authority.bundle_pem().to_owned();
        let trust_domain = authority.trust_domain().to_owned();
        Self { authority, bundle_pem, trust_domain }
    }

    /// What the Secret says.
    fn read(secret: &Secret, settings: &Settings) -> Result<Self, Error> {
        let text = |key: &'static str| {
            let value = secret.data.as_ref().and_then(|data| data.get(key));
            let value = value.map(|ByteString(bytes)| std::str::from_utf8(bytes));
            value.transpose().map_err(|_binary| Error::Incomplete { key })
        };
        let certificate = text(CERTIFICATE)?.ok_or(Error::Incomplete { key: CERTIFICATE })?;
        let key = text(KEY)?.ok_or(Error::Incomplete { key: KEY })?;
        let authority = Authority::from_pem(certificate, key).map_err(Error::Damaged)?;
        let mut roots = vec![authority.bundle_pem()];
        for key in OTHER_ROOTS {
            roots.extend(text(key)?);
        }
        let bundle_pem = bundle::join(&roots).map_err(Error::Bundle)?;
        let found = authority.trust_domain();
        if let Some(wanted) = &settings.trust_domain
            && wanted != found
        {
            return Err(Error::TrustDomain { wanted: wanted.clone(), found: found.to_owned() });
        }
        Ok(Self { bundle_pem, ..Self::of(authority) })
    }

    /// Whether both sign with the same root and believe the same ones.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.authority.bundle_pem() == other.authority.bundle_pem()
            && self.bundle_pem == other.bundle_pem
    }
}

/// Reads the authority, or makes the first one.
///
/// # Errors
///
/// As [`Error`] says.
pub async fn load_or_create(
    client: &Client,
    namespace: &str,
    settings: &Settings,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<Trust, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let action = "read the Secret pyramid-ca";
    let found = secrets.get_opt(SECRET).await.map_err(Error::api(action))?;
    if let Some(secret) = found {
        return Trust::read(&secret, settings);
    }
    if let Some(Evidence { place, removal }) = evidence(client, namespace, settings).await? {
        return Err(Error::Gone { evidence: place, removal });
    }
    let trust_domain = new_trust_domain(settings, entropy);
    let life = Duration::from_secs(settings.pki.root_life_seconds.into());
    let authority = Authority::generate(&trust_domain, life, clock).map_err(Error::Make)?;
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match secrets.create(&params, &secret_of(&authority)).await {
        Ok(_) => {
            tracing::info!(trust_domain, "a new authority is in the Secret {SECRET}; keep a copy");
            Ok(Trust::of(authority))
        }
        // Another replica was faster: its authority counts.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let secret = secrets.get(SECRET).await.map_err(Error::api(action))?;
            Trust::read(&secret, settings)
        }
        Err(error) => Err(Error::api("create the Secret pyramid-ca")(error)),
    }
}

fn new_trust_domain(settings: &Settings, entropy: &dyn Entropy) -> String {
    settings.trust_domain.clone().unwrap_or_else(|| {
        let mut suffix = [0; SUFFIX_BYTES];
        entropy.fill(&mut suffix);
        format!("{}-{}", settings.cluster_domain, bundle::hex(&suffix))
    })
}

fn secret_of(authority: &Authority) -> Secret {
    let metadata = ObjectMeta {
        name: Some(SECRET.to_owned()),
        labels: Some(
            [(label::MANAGED_BY, label::OPERATOR), (label::PART_OF, label::PYRAMID)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        ),
        ..ObjectMeta::default()
    };
    let pems = [(CERTIFICATE, authority.bundle_pem().to_owned()), (KEY, authority.to_key_pem())];
    let data = pems.map(|(name, pem)| (name.to_owned(), ByteString(pem.into_bytes())));
    let type_ = Some(TLS_TYPE.to_owned());
    Secret { metadata, type_, data: Some(data.into()), ..Secret::default() }
}

/// What is left of an authority before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Evidence {
    /// Where it is.
    place: String,
    /// How a person removes it.
    removal: String,
}

/// Something that an authority before made: its certificates in Writers' Secrets, or its root in the
/// webhook's configuration.
async fn evidence(
    client: &Client,
    namespace: &str,
    settings: &Settings,
) -> Result<Option<Evidence>, Error> {
    let params =
        ListParams::default().labels(&format!("{}={}", label::MANAGED_BY, label::OPERATOR));
    let places: Vec<Api<Secret>> = match places(namespace, settings) {
        None => vec![Api::all(client.clone())],
        Some(names) => {
            names.into_iter().map(|name| Api::namespaced(client.clone(), name)).collect()
        }
    };
    for secrets in places {
        let secrets = secrets
            .list(&params)
            .await
            .map_err(Error::api("look whether Writers have certificates already"))?;
        if let Some(evidence) = certificate_in(&secrets.items) {
            return Ok(Some(evidence));
        }
    }
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let configuration = webhooks
        .get_opt(WEBHOOK)
        .await
        .map_err(Error::api("look whether the webhook has a root already"))?;
    Ok(root_in(configuration.as_ref()))
}

/// The first of these Secrets that holds a Writer's certificate.
fn certificate_in(secrets: &[Secret]) -> Option<Evidence> {
    let is_writers = |secret: &&Secret| {
        secret.metadata.name.as_ref().is_some_and(|name| name.ends_with(WRITER_SECRET_SUFFIX))
    };
    let Secret { metadata, .. } = secrets.iter().find(is_writers)?;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    Some(Evidence {
        place: format!("the Secret {namespace}/{name}"),
        removal: format!("`kubectl delete secret --namespace {namespace} {name}`"),
    })
}

/// Tells whether the webhook's configuration has a root.
fn root_in(configuration: Option<&MutatingWebhookConfiguration>) -> Option<Evidence> {
    let webhooks = configuration.and_then(|it| it.webhooks.as_deref()).unwrap_or_default();
    let at = webhooks.iter().position(has_root)?;
    let patch = json!([{"op": "remove", "path": format!("/webhooks/{at}/clientConfig/caBundle")}]);
    Some(Evidence {
        place: format!("the caBundle of MutatingWebhookConfiguration {WEBHOOK}"),
        removal: format!(
            "`helm uninstall` of this release and `helm install` again, or `kubectl patch \
             mutatingwebhookconfiguration {WEBHOOK} --type=json --patch='{patch}'`"
        ),
    })
}

/// Namespaces in which Writers can be, `None` for all; the operator has no right to look at other
/// Secrets.
fn places<'a>(namespace: &'a str, settings: &'a Settings) -> Option<Vec<&'a str>> {
    let names = &settings.writer_namespaces;
    if names.iter().any(|name| name == "*") {
        return None;
    }
    let others = names.iter().map(String::as_str).filter(|name| *name != namespace);
    Some(std::iter::once(namespace).chain(others).collect())
}

/// Tells every change of the Secret, until `shutdown`. What cannot be used changes nothing.
pub async fn watch(
    client: Client,
    namespace: String,
    settings: Settings,
    trust: watch::Sender<Arc<Trust>>,
    shutdown: CancellationToken,
) {
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    let only_it = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
    let events = watcher(secrets, only_it).default_backoff();
    let mut events = std::pin::pin!(events);
    loop {
        let event = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            event = events.try_next() => event,
        };
        match event {
            Ok(Some(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret))) => {
                take(&secret, &settings, &trust);
            }
            Ok(Some(watcher::Event::Delete(_))) => tracing::error!(
                "the Secret {SECRET} was deleted; this operator goes on with what it has in memory \
                 and a new one cannot start, restore it from a copy"
            ),
            Ok(Some(watcher::Event::Init | watcher::Event::InitDone)) => {}
            Ok(None) => return,
            Err(error) => tracing::debug!(%error, "the watch of {SECRET} begins again"),
        }
    }
}

fn take(secret: &Secret, settings: &Settings, trust: &watch::Sender<Arc<Trust>>) {
    match Trust::read(secret, settings) {
        Ok(new) => {
            let is_new = trust.send_if_modified(|current| {
                let is_new = !current.is_same(&new);
                if is_new {
                    *current = Arc::new(new);
                }
                is_new
            });
            if is_new {
                tracing::info!("the Secret {SECRET} has changed and is in use");
            }
        }
        Err(error) => tracing::error!("the authority in use is kept: {}", causes(&error)),
    }
}

#[cfg(test)]
mod tests;
