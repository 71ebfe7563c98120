//! Waits and watches of the controller.

use std::io;

use futures::FutureExt as _;
use kube::runtime::events::{Recorder, Reporter};
use pyramid_protocol::SeededEntropy;
use pyramid_protocol::net::{BoxIo, Connect};
use pyramid_tls::Authority;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::admin::Writers;
use crate::context::Trust;

#[test]
fn failures_in_a_row_are_retried_after_one_second_doubling_to_five_minutes() {
    let wait = |failures| retries::doubled(failures, Failure::Lasting).as_secs();
    let waits: Vec<_> = (1..=10).map(wait).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert_eq!(wait(u32::MAX), 300);
}

#[test]
fn a_replica_that_does_not_answer_is_called_again_soon_and_one_that_refuses_later() {
    let message = "m".to_owned();
    let silent = admin::Error::Unreachable { address: "a".to_owned(), message: message.clone() };
    let wait = |error: admin::Error| retries::doubled(20, Error::Admin(error).failure());
    assert_eq!(wait(silent), Duration::from_secs(12));
    assert_eq!(wait(admin::Error::OtherCluster { message }), Duration::from_secs(300));
}

#[test]
fn jitter_is_at_most_a_tenth_in_both_directions() {
    let entropy = SeededEntropy::new(1);
    let waits: Vec<_> = (0..1000).map(|_| jittered(Duration::from_secs(100), &entropy)).collect();
    assert_eq!(waits.iter().min(), Some(&Duration::from_secs(90)));
    assert_eq!(waits.iter().max(), Some(&Duration::from_secs(110)));
}

#[test]
fn children_are_watched_where_writers_may_run() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(namespaces(&names(&["a", "b"])), [Some("a"), Some("b")]);
    assert_eq!(namespaces(&names(&["a", "*"])), [None]);
    assert_eq!(namespaces(&names(&[])), []);
}

#[tokio::test(start_paused = true)]
async fn many_new_numbers_of_streams_are_told_once_in_five_seconds() {
    let bound = Arc::new(Bound::default());
    let mut told = std::pin::pin!(bindings(Arc::clone(&bound)));
    assert_eq!(told.next().now_or_never(), None);
    let begun = Instant::now();
    bound.replace(&[]);
    told.next().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    bound.replace(&[]);
    bound.replace(&[]);
    told.next().await.unwrap();
    // A timer of the runtime ends within a millisecond.
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert!(tokio::time::timeout(10 * COUNT_AGAIN, told.next()).await.is_err());
}

#[test]
fn only_the_refusal_of_a_namespace_that_goes_counts_as_done() {
    let error = |message: &str, code| {
        let status = kube::core::Status::failure(message, "Forbidden").with_code(code);
        Error::kube("apply a child")(kube::Error::Api(Box::new(status)))
    };
    let terminating = "unable to create new content in namespace t because it is being terminated";
    assert!(error(terminating, 403).is_namespace_terminating());
    assert!(!error("pods is forbidden", 403).is_namespace_terminating());
    assert!(!error(terminating, 403).is_conflict());
}

/// Reaches nobody.
struct Nobody;

#[tonic::async_trait]
impl Connect for Nobody {
    async fn connect(&self, _: &str) -> io::Result<BoxIo> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// An API server with a new Writer and its key, which answers applies of children with this code.
/// What is written into the status of the Writer is sent on.
fn server(code: u16, statuses: mpsc::Sender<Value>) -> kube::Client {
    let mut writer = serde_json::to_value(fixture::writer()).unwrap();
    writer["status"].as_object_mut().unwrap().remove("members");
    let answer = move |request: http::Request<kube::client::Body>| {
        let (statuses, writer) = (statuses.clone(), writer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let path = parts.uri.path();
            let (code, answer) = if path.ends_with("/writers/billing/status") {
                let status: Value = serde_json::from_slice(&body.collect_bytes().await?)?;
                statuses.try_send(status["status"].clone()).map_err(io::Error::other)?;
                (200, writer)
            } else if parts.method == http::Method::PATCH {
                (code, json!({"status": "Failure", "message": "too much", "code": code}))
            } else if path.ends_with("/writers/billing") {
                (200, writer)
            } else if path.ends_with("/secrets/billing-writer-kek") {
                (200, json!({"metadata": {"name": "billing-writer-kek"}}))
            } else {
                (404, json!({"status": "Failure", "reason": "NotFound", "code": 404}))
            };
            let body = kube::client::Body::from(serde_json::to_vec(&answer)?);
            let answer = http::Response::builder().status(code).body(body)?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answer)
        }
    };
    kube::Client::new(tower::service_fn(answer), "shop")
}

/// What a new Writer says after one pass in which its children were answered with this code, and
/// whether the pass failed.
async fn said_after(code: u16) -> (Vec<Value>, bool) {
    let (sender, mut statuses) = mpsc::channel(8);
    let client = server(code, sender);
    let authority = Authority::generate("test.local", Duration::from_secs(1 << 20), &SystemClock);
    let (_trusts, trust) = watch::channel(Arc::new(Trust::of(authority.unwrap())));
    let context = Arc::new(Context {
        client: client.clone(),
        settings: fixture::settings(),
        namespace: "pyramid-system".to_owned(),
        trust,
        writers: Writers::plain(Arc::new(Nobody)),
        recorder: Recorder::new(client, Reporter::from("test")),
        bound: Arc::default(),
        metrics: metrics::Metrics::default(),
    });
    let shared = Shared { context, memory: Mutex::default() };
    let key = ObjectRef::new("billing").within("shop");
    let failed = Box::pin(shared.visit("shop", "billing", &key)).await.is_err();
    let said = std::iter::from_fn(|| statuses.try_recv().ok()).collect();
    (said, failed)
}

#[tokio::test]
async fn a_refused_child_is_told_in_the_status_and_a_server_that_is_broken_is_not() {
    for code in [400, 403, 422] {
        let (said, failed) = said_after(code).await;
        let [status] = &*said else { panic!("{code}: {said:?}") };
        assert!(failed);
        assert_eq!(status["observedGeneration"], 3, "{code}");
        let conditions = status["conditions"].as_array().unwrap();
        let brief = |of: &Value| json!([of["type"], of["status"], of["reason"]]);
        let expected = [
            json!(["Ready", "False", "RefusedByServer"]),
            json!(["Progressing", "False", "Stalled"]),
            json!(["StorageReady", "False", "VolumesPending"]),
            json!(["ObjectStorageReady", "Unknown", "Pending"]),
            json!(["Stalled", "True", "RefusedByServer"]),
        ];
        assert_eq!(conditions.iter().map(brief).collect::<Vec<_>>(), expected, "{code}");
        let message = conditions[0]["message"].as_str().unwrap();
        assert!(message.ends_with(": too much"), "{message}");
    }
    for code in [409, 429, 500, 503] {
        assert_eq!(said_after(code).await, (vec![], true), "{code}");
    }
}
