//! The webhook: an `AdmissionReview` of `admission.k8s.io/v1` in, one out.
//!
//! An answer is made from caches alone. It writes nothing, so a dry run is answered alike.
//!
//! The review is decoded field by field and not as kube's type: a pod of a later Kubernetes must get
//! through, and the patch goes out as the base64 text that the API describes.

mod values;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request as HttpRequest, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use json_patch::Patch;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::metrics::{Ended, InjectionMetrics};
use super::{Injection, Outcome, Subscriptions, Template, inject};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// The API server takes requests of 3 MiB, and etcd keeps objects of 1.5 MiB; a pod of a few hundred
/// kilobytes is a very large one. So a longer review is of a pod that could hardly be stored. Unit:
/// bytes.
const BODY_LEN_MAX: usize = 3 << 20;
/// Values of a pod, at any depth. A large pod has a few thousand. Decoded, so many take 25 MiB at
/// most, besides their texts.
const VALUES_MAX: usize = 1 << 16;
/// Bodies that are read or looked at, at the same time. With [`BODY_LEN_MAX`] this bounds their
/// memory: 48 MiB. More of them wait.
const BODIES_MAX: usize = 16;
/// Reviews that are decoded at the same time. A very large one takes milliseconds of a core: however
/// many come, the other threads keep the lease and whatever else must be in time.
const DECODED_MAX: usize = 1;
/// The API server has its whole review ready when it calls. Whoever sends slowly would keep the place
/// of others.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// The API server cuts longer ones. Unit: bytes.
const WARNING_LEN_MAX: usize = 256;

/// What the webhook answers from. Clones share it.
#[derive(Clone)]
pub(crate) struct State(Arc<Inner>);

struct Inner {
    template: Template,
    subscriptions: Box<dyn Subscriptions>,
    metrics: InjectionMetrics,
    bodies: Semaphore,
    decoded: Semaphore,
}

impl State {
    /// `subscriptions` is a cache: it is asked in the middle of an answer.
    pub(crate) fn new(
        template: Template,
        subscriptions: impl Subscriptions + 'static,
        metrics: InjectionMetrics,
    ) -> Self {
        Self(Arc::new(Inner {
            template,
            subscriptions: Box::new(subscriptions),
            metrics,
            bodies: Semaphore::new(BODIES_MAX),
            decoded: Semaphore::new(DECODED_MAX),
        }))
    }
}

/// Serves `POST /inject`.
pub(crate) fn router(state: State) -> Router {
    Router::new().route("/inject", post(answer)).with_state(state)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    api_version: String,
    kind: String,
    #[serde(borrow)]
    request: Request<'a>,
}

/// What is not looked at is skipped, `oldObject` above all.
#[derive(Deserialize)]
struct Request<'a> {
    uid: String,
    operation: String,
    resource: Resource,
    #[serde(default)]
    namespace: String,
    /// Decoded only if somebody has to look into it.
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
}

#[derive(Deserialize, PartialEq)]
struct Resource {
    #[serde(default)]
    group: String,
    version: String,
    resource: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reviewed {
    api_version: &'static str,
    kind: &'static str,
    response: Answer,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
    code: u16,
    reason: &'static str,
    message: String,
}

/// What was sent is no review of a pod, or of one that is too large.
#[derive(Debug, thiserror::Error)]
enum Bad {
    #[error("the review is longer than {} MiB; make the Pod smaller", BODY_LEN_MAX >> 20)]
    TooLong,
    #[error("the Pod has more than {VALUES_MAX} values; make it smaller")]
    TooManyValues,
    #[error("the review did not come within {} s", BODY_TIMEOUT.as_secs())]
    Slow,
    #[error("read the review")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("decode the review")]
    Json(#[source] serde_json::Error),
    #[error("{kind} of {api_version} is not reviewed here; send {KIND} of {API_VERSION}")]
    Kind { api_version: String, kind: String },
    #[error("{resource} are not reviewed here; send pods of v1")]
    Resource { resource: String },
}

impl Bad {
    fn code(&self) -> StatusCode {
        match self {
            Self::TooLong | Self::TooManyValues => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Body(_) | Self::Json(_) | Self::Kind { .. } | Self::Resource { .. } => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

/// More than there are places for wait for one: the API server says when it has waited enough, and a
/// pod that is refused because others are many would not come back by itself.
async fn answer(Extract(state): Extract<State>, request: HttpRequest) -> Response {
    let Inner { metrics, bodies, .. } = &*state.0;
    let _place = place(bodies).await;
    let body = read(request.into_body()).await;
    let begun = Instant::now();
    let reviewed = match body {
        Ok(body) => state.0.review(&body).await,
        Err(bad) => Err(bad),
    };
    let (ended, response) = reviewed.unwrap_or_else(|bad| {
        tracing::warn!(error = &bad as &dyn std::error::Error, "a review cannot be answered");
        (Ended::BadRequest, (bad.code(), bad.to_string()).into_response())
    });
    metrics.ended(ended, begun.elapsed());
    response
}

/// Waits for a place.
async fn place(places: &Semaphore) -> SemaphorePermit<'_> {
    places.acquire().await.expect("it is never closed")
}

async fn read(body: Body) -> Result<Bytes, Bad> {
    let read = timeout(BODY_TIMEOUT, Limited::new(body, BODY_LEN_MAX).collect()).await;
    match read.map_err(|_elapsed| Bad::Slow)? {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Bad::TooLong),
        Err(error) => Err(Bad::Body(error)),
    }
}

fn decode(body: &[u8]) -> Result<Request<'_>, Bad> {
    let Review { api_version, kind, request } = serde_json::from_slice(body).map_err(Bad::Json)?;
    if api_version != API_VERSION || kind != KIND {
        return Err(Bad::Kind { api_version, kind });
    }
    let Resource { group, version, resource } = &request.resource;
    if (group.as_str(), version.as_str(), resource.as_str()) != ("", "v1", "pods") {
        return Err(Bad::Resource { resource: resource.clone() });
    }
    Ok(request)
}

impl Request<'_> {
    fn pod(&self) -> Result<Value, Bad> {
        let Some(object) = self.object else { return Ok(Value::Null) };
        if !values::are_at_most(VALUES_MAX, object).map_err(Bad::Json)? {
            return Err(Bad::TooManyValues);
        }
        serde_json::from_str(object.get()).map_err(Bad::Json)
    }
}

impl Inner {
    /// Answers one review.
    async fn review(&self, body: &[u8]) -> Result<(Ended, Response), Bad> {
        let _place = place(&self.decoded).await;
        let request = decode(body)?;
        if request.operation != "CREATE" {
            // Containers cannot be added to a pod that is there.
            return Ok((Ended::NotCreated, allowed(request.uid, None, Vec::new())));
        }
        let pod = request.pod()?;
        let decided = inject(&pod, &request.namespace, &*self.subscriptions, &self.template);
        let (decided, warnings) = match decided {
            Ok(Injection { outcome, warnings }) => (Ok(outcome), warnings),
            Err(refusal) => (Err(refusal), Vec::new()),
        };
        let ended = Ended::from(&decided);
        let response = match decided {
            Ok(Outcome::Injected(patch)) => allowed(request.uid, Some(&patch), warnings),
            Ok(Outcome::Present | Outcome::OptedOut | Outcome::NotAsked) => {
                allowed(request.uid, None, warnings)
            }
            Err(refusal) => refused(request.uid, refusal.to_string()),
        };
        Ok((ended, response))
    }
}

fn allowed(uid: String, patch: Option<&Patch>, warnings: Vec<String>) -> Response {
    let patch = patch.map(|patch| {
        ByteString(serde_json::to_vec(patch).expect("paths and values have a form in JSON"))
    });
    let warnings = warnings.into_iter().map(cut).collect();
    let patch_type = patch.as_ref().map(|_| "JSONPatch");
    send(Answer { uid, allowed: true, status: None, patch_type, patch, warnings })
}

fn refused(uid: String, message: String) -> Response {
    let status = Some(Status { status: "Failure", code: 422, reason: "Invalid", message });
    let warnings = Vec::new();
    send(Answer { uid, allowed: false, status, patch_type: None, patch: None, warnings })
}

fn send(response: Answer) -> Response {
    Json(Reviewed { api_version: API_VERSION, kind: KIND, response }).into_response()
}

/// Shortens a warning where the API server would.
fn cut(mut warning: String) -> String {
    if warning.len() > WARNING_LEN_MAX {
        let end = warning.floor_char_boundary(WARNING_LEN_MAX - '…'.len_utf8());
        warning.truncate(end);
        warning.push('…');
    }
    warning
}

#[cfg(test)]
mod tests;
