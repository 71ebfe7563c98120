//! The webhook: an `AdmissionReview` of `admission.k8s.io/v1` in, one out.
//!
//! An answer is made from caches alone. It writes nothing, so a dry run is answered alike.
//!
//! The review is decoded field by field and not as kube's type: a pod of a later Kubernetes must get
//! through, and the patch goes out as the base64 text that the API describes.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use json_patch::Patch;
use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::metrics::{Ended, InjectionMetrics};
use super::{Injection, Outcome, Refusal, Subscriptions, Template, inject};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// The API server takes requests of 3 MiB; what it sends about one is larger by defaults and by the
/// names of fields. Unit: bytes.
const BODY_LEN_MAX: usize = 8 << 20;
/// The API server cuts longer ones. Unit: bytes.
const WARNING_LEN_MAX: usize = 256;

/// What the webhook answers from. Clones share it.
#[derive(Clone)]
pub(crate) struct State(Arc<Inner>);

struct Inner {
    template: Template,
    subscriptions: Box<dyn Subscriptions>,
    metrics: InjectionMetrics,
}

impl State {
    /// `subscriptions` is a cache: it is asked in the middle of an answer.
    pub(crate) fn new(
        template: Template,
        subscriptions: impl Subscriptions + 'static,
        metrics: InjectionMetrics,
    ) -> Self {
        let subscriptions = Box::new(subscriptions);
        Self(Arc::new(Inner { template, subscriptions, metrics }))
    }
}

/// Serves `POST /inject`.
pub(crate) fn router(state: State) -> Router {
    Router::new()
        .route("/inject", post(answer))
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .with_state(state)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Request,
}

#[derive(Deserialize)]
struct Request {
    uid: String,
    operation: String,
    resource: Resource,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
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

/// What was sent is no review of a pod.
#[derive(Debug, thiserror::Error)]
enum Bad {
    #[error("read the review")]
    Body(#[source] BytesRejection),
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
            Self::Body(rejection) => rejection.status(),
            Self::Json(_) | Self::Kind { .. } | Self::Resource { .. } => StatusCode::BAD_REQUEST,
        }
    }
}

async fn answer(Extract(state): Extract<State>, body: Result<Bytes, BytesRejection>) -> Response {
    let begun = Instant::now();
    let Inner { template, subscriptions, metrics } = &*state.0;
    let decide =
        |request: &Request| inject(&request.object, &request.namespace, &**subscriptions, template);
    let (ended, response) = match body.map_err(Bad::Body).and_then(|body| decode(&body)) {
        Ok(request) => review(request, decide),
        Err(bad) => {
            tracing::warn!(error = &bad as &dyn std::error::Error, "a review cannot be answered");
            (Ended::BadRequest, (bad.code(), bad.to_string()).into_response())
        }
    };
    metrics.ended(ended, begun.elapsed());
    response
}

fn decode(body: &[u8]) -> Result<Request, Bad> {
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

/// Answers one request as `decide` says.
fn review(
    request: Request,
    decide: impl FnOnce(&Request) -> Result<Injection, Refusal>,
) -> (Ended, Response) {
    if request.operation != "CREATE" {
        // Containers cannot be added to a pod that is there.
        return (Ended::NotCreated, allowed(request.uid, None, Vec::new()));
    }
    let decided = decide(&request);
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
    (ended, response)
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
