use axum::body::{Body, to_bytes};
use axum::http;
use serde_json::json;
use tower::ServiceExt;

use crate::inject::Standing;
use crate::inject::refusal::Why;
use crate::settings;

use super::*;

/// No Subscription exists.
struct Nothing;

impl Subscriptions for Nothing {
    fn standing(&self, _: &str, _: &str, _: &str) -> Standing {
        Standing::Missing
    }
}

fn state() -> State {
    let pusher = settings::Pusher {
        image: "example.invalid/pyramid-pusher:0.1.0".to_owned(),
        pull_policy: "IfNotPresent".to_owned(),
        log_level: "info".to_owned(),
        resources: k8s_openapi::api::core::v1::ResourceRequirements::default(),
        image_pull_secrets: Vec::new(),
    };
    State::new(Template::new("0.1.0", pusher), Nothing, InjectionMetrics::default())
}

fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "generateName": "projector-", "annotations": annotations },
        "spec": { "containers": [{ "name": "app" }] },
    })
}

/// A review as an API server sends it.
fn asked(pod: &Value) -> Value {
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "0c9a8d74",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "requestKind": { "group": "", "version": "v1", "kind": "Pod" },
            "requestResource": { "group": "", "version": "v1", "resource": "pods" },
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": { "username": "system:admin", "groups": ["system:authenticated"] },
            "object": pod,
            "oldObject": null,
            "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    })
}

async fn send_to(state: &State, body: Vec<u8>) -> (StatusCode, Vec<u8>) {
    let request = http::Request::post("/inject")
        .header("content-type", "application/json")
        .body(Body::from(body))
        .unwrap();
    let response = router(state.clone()).oneshot(request).await.unwrap();
    let status = response.status();
    (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
}

/// The `response` to a review.
async fn answer_to(state: &State, review: &Value) -> Value {
    let (status, body) = send_to(state, serde_json::to_vec(review).unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(body["kind"], "AdmissionReview");
    body["response"].take()
}

#[tokio::test]
async fn a_pod_that_asks_gets_a_patch_in_base64_and_a_warning() {
    let state = state();
    let pod = pod(&json!({ "pyramid.dev/subscriptions": "orders" }));
    let mut answer = answer_to(&state, &asked(&pod)).await;
    let patch: ByteString = serde_json::from_value(answer["patch"].take()).unwrap();
    let patch: Patch = serde_json::from_slice(&patch.0).unwrap();
    let expected = json!({
        "uid": "0c9a8d74",
        "allowed": true,
        "patchType": "JSONPatch",
        "patch": null,
        "warnings": ["Subscription shop/orders does not exist; the pusher waits for it"],
    });
    assert_eq!(answer, expected);
    let decided = inject(&pod, "shop", &Nothing, &state.0.template).unwrap();
    assert_eq!(decided.outcome, Outcome::Injected(patch));
    assert_eq!(state.0.metrics.count(Ended::Injected), 1);
}

#[tokio::test]
async fn a_dry_run_is_answered_alike() {
    let state = state();
    let mut review = asked(&pod(&json!({ "pyramid.dev/append": "*" })));
    let wet = answer_to(&state, &review).await;
    review["request"]["dryRun"] = json!(true);
    assert_eq!(answer_to(&state, &review).await, wet);
    assert!(wet["patch"].is_string());
}

#[tokio::test]
async fn a_pod_that_is_refused_gets_code_422_and_the_text() {
    let state = state();
    let pod = pod(&json!({ "pyramid.dev/append": "*", "pyramid.dev/readiness": "yes" }));
    let expected = json!({
        "uid": "0c9a8d74",
        "allowed": false,
        "status": {
            "status": "Failure",
            "code": 422,
            "reason": "Invalid",
            "message": "annotation pyramid.dev/readiness is \"yes\"; give Local, Connected or \
                        CaughtUp",
        },
    });
    assert_eq!(answer_to(&state, &asked(&pod)).await, expected);
    assert_eq!(state.0.metrics.count(Ended::Refused(Why::Annotation)), 1);
}

#[tokio::test]
async fn what_needs_nothing_is_let_through_as_it_is() {
    let asks = json!({ "pyramid.dev/append": "*" });
    let opted_out = json!({ "pyramid.dev/append": "*", "pyramid.dev/inject": "false" });
    let mut update = asked(&pod(&asks));
    update["request"]["operation"] = json!("UPDATE");
    for (review, ended) in [
        (asked(&pod(&json!({}))), Ended::NotAsked),
        (asked(&pod(&opted_out)), Ended::OptedOut),
        (update, Ended::NotCreated),
    ] {
        let state = state();
        let expected = json!({ "uid": "0c9a8d74", "allowed": true });
        assert_eq!(answer_to(&state, &review).await, expected);
        assert_eq!(state.0.metrics.count(ended), 1);
    }
}

#[tokio::test]
async fn a_bad_review_is_answered_with_400() {
    let good = asked(&pod(&json!({})));
    let changed = |pointer: &str, value: Value| {
        let mut review = good.clone();
        *review.pointer_mut(pointer).unwrap() = value;
        serde_json::to_vec(&review).unwrap()
    };
    let deep = "[".repeat(100_000).into_bytes();
    let cases = [
        (Vec::new(), "decode the review"),
        (b"{}".to_vec(), "decode the review"),
        (deep, "decode the review"),
        (changed("/request", json!(null)), "decode the review"),
        (
            changed("/kind", json!("Pod")),
            "Pod of admission.k8s.io/v1 is not reviewed here; send AdmissionReview of \
             admission.k8s.io/v1",
        ),
        (
            changed("/apiVersion", json!("admission.k8s.io/v1beta1")),
            "AdmissionReview of admission.k8s.io/v1beta1 is not reviewed here; send \
             AdmissionReview of admission.k8s.io/v1",
        ),
        (
            changed("/request/resource/resource", json!("services")),
            "services are not reviewed here; send pods of v1",
        ),
    ];
    let state = state();
    for (body, text) in &cases {
        let (status, said) = send_to(&state, body.clone()).await;
        assert_eq!(
            (status, String::from_utf8(said).unwrap().as_str()),
            (StatusCode::BAD_REQUEST, *text)
        );
    }
    assert_eq!(state.0.metrics.count(Ended::BadRequest), 7);
    assert_eq!(send_to(&state, serde_json::to_vec(&good).unwrap()).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_review_of_3_mib_is_read_and_a_longer_one_is_told_so() {
    let state = state();
    let mut body = serde_json::to_vec(&asked(&pod(&json!({})))).unwrap();
    body.resize(3 << 20, b' ');
    assert_eq!(send_to(&state, body.clone()).await.0, StatusCode::OK);
    body.push(b' ');
    let (status, said) = send_to(&state, body).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let said = String::from_utf8(said).unwrap();
    assert_eq!(said, "the review is longer than 3 MiB; make the Pod smaller");
    assert_eq!(state.0.metrics.count(Ended::BadRequest), 1);
}

#[tokio::test]
async fn a_pod_of_65536_values_is_read_and_one_of_more_is_told_so() {
    let state = state();
    // The pod, its two texts, metadata with two, spec with a list, a container and its name.
    let others = 10;
    let with = |values: usize| {
        let mut pod = pod(&json!({}));
        pod["spec"]["more"] = json!(vec![0; values - others - 1]);
        asked(&pod)
    };
    let answer = answer_to(&state, &with(1 << 16)).await;
    assert_eq!(answer, json!({ "uid": "0c9a8d74", "allowed": true }));
    let body = serde_json::to_vec(&with((1 << 16) + 1)).unwrap();
    let (status, said) = send_to(&state, body).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let said = String::from_utf8(said).unwrap();
    assert_eq!(said, "the Pod has more than 65536 values; make it smaller");
}

#[tokio::test]
async fn what_an_update_holds_is_not_looked_into() {
    let state = state();
    let mut review = asked(&json!([[[1, 2, 3]]]));
    review["request"]["oldObject"] = json!(vec![json!({ "a": 0 }); 1 << 16]);
    assert_eq!(answer_to(&state, &review).await["status"]["code"], 422);
    review["request"]["operation"] = json!("UPDATE");
    let expected = json!({ "uid": "0c9a8d74", "allowed": true });
    assert_eq!(answer_to(&state, &review).await, expected);
}

/// A request of which nothing comes, on its way.
fn begun(state: &State) -> impl Future<Output = StatusCode> + use<> {
    let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    let request = http::Request::post("/inject").body(body).unwrap();
    let answer = router(state.clone()).oneshot(request);
    async { answer.await.unwrap().status() }
}

#[tokio::test(start_paused = true)]
async fn sixteen_reviews_are_read_at_once_and_the_next_one_waits() {
    let good = serde_json::to_vec(&asked(&pod(&json!({})))).unwrap();
    for (slow, waits) in [(15, 0), (16, BODY_TIMEOUT.as_secs())] {
        let state = state();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..slow {
            tasks.spawn(begun(&state));
        }
        tokio::task::yield_now().await;
        let start = Instant::now();
        assert_eq!(send_to(&state, good.clone()).await.0, StatusCode::OK);
        assert_eq!(start.elapsed().as_secs(), waits, "{slow} slow ones");
        // Whoever sends too slowly loses its place and is told.
        let ended = tasks.join_all().await;
        assert_eq!(ended, vec![StatusCode::REQUEST_TIMEOUT; slow]);
        assert_eq!(send_to(&state, good.clone()).await.0, StatusCode::OK);
    }
}

#[test]
fn a_warning_is_cut_where_the_api_server_would() {
    let fits = "ä".repeat(128);
    assert_eq!(cut(fits.clone()), fits);
    let long = cut(format!("{fits}b"));
    assert_eq!(long, format!("{}…", "ä".repeat(126)));
    assert!(long.len() <= WARNING_LEN_MAX);
}
