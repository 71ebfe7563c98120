//! Tokens for certificates: the service `Issuer`.
//!
//! The caller shows a token of its service account and a certificate request. The API server says
//! whose token it is, the cluster says whether that pod is there, and the certificate names the
//! service account; names in the request are ignored. Who has no pod that asks for Pyramid gets one
//! too, a short one, if the access list of some Stream or Subscription names its service account:
//! that is how people get in.
//!
//! Any replica answers, no leader is needed. Tokens and requests are in no log line.

mod access;
mod holder;
mod limit;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use pyramid_protocol::bootstrap::ISSUER_AUDIENCE;
use pyramid_protocol::net::{self, Accept};
use pyramid_protocol::pb::v1::issuer_server::{Issuer as Service, IssuerServer};
use pyramid_protocol::pb::v1::{IssueRequest, IssueResponse, Reason, Refusal};
use pyramid_protocol::{Clock, SpiffeId};
use pyramid_tls::authority::{self, IssuedChain, Request, Usage};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

pub use self::access::{Access, Watch};
use self::holder::{Grant, Holder, grant};
use self::limit::Limit;
use crate::context::{Trust, said};
use crate::metrics::{Issue, Metrics};
use crate::settings::Pki;

/// A token and a certificate request; ours have some kilobytes. Unit: bytes.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Requests that are looked at at once; the API server is asked twice for each.
const REQUESTS_MAX: usize = 64;
/// The API server must have answered by then.
const API_TIMEOUT: Duration = Duration::from_secs(5);
/// What a caller is told to wait when it was not its fault. Unit: milliseconds.
const RETRY_AFTER_MS: u32 = 2_000;

/// Why there is no certificate. Its text goes to the caller, who often is a person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller gets another token.
    #[error(
        "the token is refused: {why}; use a token with the audience {ISSUER_AUDIENCE}, such as \
         `kubectl create token <service account> --audience {ISSUER_AUDIENCE}` makes"
    )]
    Token {
        /// What is wrong with it.
        why: String,
        /// As it is counted.
        flaw: Issue,
    },
    /// The pod of the token has gone.
    #[error("the pod {namespace}/{pod} of this token does not exist any more")]
    PodGone {
        /// Of the pod.
        namespace: String,
        /// Its name.
        pod: String,
        /// Another has its name.
        is_replaced: bool,
    },
    /// The pod of the token has ended.
    #[error("the pod {namespace}/{pod} of this token has finished")]
    PodFinished {
        /// Of the pod.
        namespace: String,
        /// Its name.
        pod: String,
    },
    /// Whoever decides about a Stream names the account, or the pod gets an annotation.
    #[error(
        "no Stream or Subscription names the service account {namespace}/{account}; add it to \
         spec.appenders or spec.subscribers of a Stream, or annotate the pod with \
         pyramid.dev/subscriptions or pyramid.dev/append"
    )]
    NotNamed {
        /// Of the account.
        namespace: String,
        /// Its name.
        account: String,
    },
    /// The caller makes another request.
    #[error("{0}")]
    Request(authority::Error),
    /// The caller waits.
    #[error("too many requests for certificates; wait a moment")]
    Limited {
        /// For how long.
        after: Duration,
    },
    /// The caller tries again.
    #[error("the API server did not answer about {what}; try again")]
    Api {
        /// Which question.
        what: &'static str,
        /// What it said, if it said something.
        source: Option<kube::Error>,
    },
    /// Somebody looks after the authority.
    #[error("the authority cannot issue: {0}")]
    Authority(authority::Error),
    /// The operator has just started.
    #[error("the operator has not read the access lists yet; try again")]
    NotReady,
}

impl Error {
    fn result(&self) -> Issue {
        match self {
            Self::Token { flaw, .. } => *flaw,
            Self::PodGone { is_replaced: false, .. } => Issue::PodGone,
            Self::PodGone { is_replaced: true, .. } => Issue::PodReplaced,
            Self::PodFinished { .. } => Issue::PodFinished,
            Self::NotNamed { .. } => Issue::NotNamed,
            Self::Request(_) => Issue::BadRequest,
            Self::Limited { .. } => Issue::Limited,
            Self::Api { .. } => Issue::ApiServer,
            Self::NotReady => Issue::NotReady,
            Self::Authority(_) => Issue::Authority,
        }
    }

    fn refusal(&self) -> Refusal {
        let text = self.to_string();
        match self {
            Self::Token { .. }
            | Self::PodGone { .. }
            | Self::PodFinished { .. }
            | Self::NotNamed { .. } => Refusal::new(Reason::Denied, text),
            Self::Request(_) => Refusal::new(Reason::Invalid, text),
            Self::Limited { after } => {
                // Upwards: 0 would say that there is nothing to wait for.
                let after_ms = after.as_nanos().div_ceil(1_000_000);
                let after_ms = u32::try_from(after_ms).unwrap_or(u32::MAX);
                Refusal::new(Reason::ResourceExhausted, text).with_retry_after_ms(after_ms)
            }
            Self::Api { .. } | Self::Authority(_) | Self::NotReady => {
                Refusal::new(Reason::Unavailable, text).with_retry_after_ms(RETRY_AFTER_MS)
            }
        }
    }
}

/// Answers requests.
pub struct Issuer {
    /// Reviews tokens and looks at pods.
    pub client: Client,
    /// Who signs, and whom everybody believes.
    pub trust: watch::Receiver<Arc<Trust>>,
    /// Who is named.
    pub access: Access,
    /// How long certificates live.
    pub lives: Pki,
    /// The time of certificates.
    pub clock: Arc<dyn Clock>,
    /// Counts what became of requests.
    pub metrics: Metrics,
}

/// Serves until `shutdown`; then requests under way are answered.
///
/// # Errors
///
/// The listener is broken.
pub async fn serve(
    accept: impl Accept,
    issuer: Issuer,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let limit = Limit::default();
    let places = Semaphore::new(REQUESTS_MAX);
    let service = IssuerServer::new(Served { issuer, limit, places })
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    net::server()
        .add_service(service)
        .serve_with_incoming_shutdown(net::incoming(accept), shutdown.cancelled_owned())
        .await
}

struct Served {
    issuer: Issuer,
    limit: Limit,
    places: Semaphore,
}

#[tonic::async_trait]
impl Service for Served {
    async fn issue(
        &self,
        request: tonic::Request<IssueRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        let answer = AssertUnwindSafe(self.answer(request.into_inner())).catch_unwind().await;
        let metrics = &self.issuer.metrics;
        match answer {
            Ok(Ok((result, response))) => {
                metrics.issued(result);
                Ok(Response::new(response))
            }
            Ok(Err(error)) => {
                metrics.issued(error.result());
                tell(&error);
                Err(error.refusal().into_status())
            }
            // The hook has logged it.
            Err(_panic) => {
                metrics.issued(Issue::Internal);
                metrics.panicked();
                let text = "a bug in the operator; its log has the details";
                Err(Refusal::new(Reason::Internal, text).into_status())
            }
        }
    }
}

fn tell(error: &Error) {
    match error {
        Error::Authority(_) => tracing::error!("no certificate: {error}"),
        Error::Api { source, .. } => {
            let said = source.as_ref().map(said);
            tracing::warn!(said, "no certificate: {error}");
        }
        // A line at `info` for each would let anybody fill the log.
        Error::Token { .. }
        | Error::PodGone { .. }
        | Error::PodFinished { .. }
        | Error::NotNamed { .. }
        | Error::Request(_)
        | Error::Limited { .. }
        | Error::NotReady => tracing::debug!("no certificate: {error}"),
    }
}

impl Served {
    async fn answer(&self, request: IssueRequest) -> Result<(Issue, IssueResponse), Error> {
        let IssueRequest { token, csr_pem } = request;
        // To the API server that would be a review that cannot be read, not a token that is no good.
        if token.is_empty() {
            return Err(Error::Token { why: "it is empty".to_owned(), flaw: Issue::BadToken });
        }
        let _place = self.places.try_acquire().map_err(|_crowded| Error::Limited {
            after: Duration::from_millis(RETRY_AFTER_MS.into()),
        })?;
        let holder = Holder::read(self.issuer.review(token).await?)?;
        self.limit.take(&holder.key()).map_err(|after| Error::Limited { after })?;
        let grant = self.issuer.look(&holder).await?;
        self.issuer.issue(&holder, grant, &csr_pem)
    }
}

impl Issuer {
    /// Whose token it is.
    async fn review(&self, token: String) -> Result<TokenReviewStatus, Error> {
        // Without the audience any token of the API server would do.
        let audiences = Some(vec![ISSUER_AUDIENCE.to_owned()]);
        let spec = TokenReviewSpec { audiences, token: Some(token) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed = ask("the token", reviews.create(&PostParams::default(), &review)).await?;
        Ok(reviewed.status.unwrap_or_default())
    }

    /// What the holder of a token may have. The pod is read now and not from a cache: a token of a
    /// deleted pod passes the review for some seconds more.
    async fn look(&self, holder: &Holder) -> Result<Grant, Error> {
        let pod = match &holder.pod {
            None => None,
            Some(bound) => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), &holder.namespace);
                ask("the pod", pods.get_opt(&bound.name)).await?
            }
        };
        decide(holder, pod.as_ref(), &self.access)
    }

    fn issue(
        &self,
        holder: &Holder,
        grant: Grant,
        csr_pem: &str,
    ) -> Result<(Issue, IssueResponse), Error> {
        let trust = Arc::clone(&self.trust.borrow());
        certify(&trust, self.lives, &*self.clock, holder, grant, csr_pem)
    }
}

/// What a holder may have, by its pod as it is now or by the access lists.
fn decide(holder: &Holder, pod: Option<&Pod>, access: &Access) -> Result<Grant, Error> {
    if let Some(grant) = grant(holder, pod)? {
        return Ok(grant);
    }
    if !access.is_ready() {
        return Err(Error::NotReady);
    }
    let Holder { namespace, account, .. } = holder;
    if access.names(namespace, account) {
        return Ok(Grant::Unbound);
    }
    Err(Error::NotNamed { namespace: namespace.clone(), account: account.clone() })
}

/// The certificate of a holder.
fn certify(
    trust: &Trust,
    lives: Pki,
    clock: &dyn Clock,
    Holder { namespace, account, .. }: &Holder,
    grant: Grant,
    csr_pem: &str,
) -> Result<(Issue, IssueResponse), Error> {
    let identity =
        SpiffeId::service_account(&trust.trust_domain, namespace, account).map_err(|_unusual| {
            Error::Token { why: "its account is no identity".to_owned(), flaw: Issue::BadToken }
        })?;
    let (result, life_seconds) = match grant {
        Grant::Pod => (Issue::Pod, lives.pod_life_seconds),
        Grant::Unbound => (Issue::Unbound, lives.unbound_life_seconds),
    };
    let request = Request {
        identity,
        usage: Usage::Client,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        life: Duration::from_secs(life_seconds.into()),
    };
    let issued = trust.authority.issue_csr(csr_pem, &request, clock);
    let IssuedChain { chain_pem, not_after_ms } = issued.map_err(|error| {
        let is_callers = matches!(error, authority::Error::Request { .. });
        if is_callers { Error::Request(error) } else { Error::Authority(error) }
    })?;
    tracing::debug!(identity = %request.identity, result = ?result, "certificate issued");
    let response = IssueResponse {
        certificate_pem: chain_pem,
        trust_bundle_pem: trust.bundle_pem.clone(),
        not_after_ms,
    };
    Ok((result, response))
}

async fn ask<T>(
    what: &'static str,
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match timeout(API_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|source| Error::Api { what, source: Some(source) }),
        Err(_elapsed) => Err(Error::Api { what, source: None }),
    }
}

#[cfg(test)]
mod tests;
