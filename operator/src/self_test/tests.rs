use kube::ResourceExt as _;
use serde_json::Value;

use super::*;
use crate::fake_api::{FakeApi, Mood};

const STREAM: &str = "/apis/pyramid.dev/v1alpha1/namespaces/sys/streams/pyramid-self-test";

fn condition(kind: &str, status: &str, generation: i64, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": "Because", "message": message,
        "observedGeneration": generation, "lastTransitionTime": "2030-01-01T00:00:00Z"})
}

fn of(conditions: &[Value]) -> Value {
    json!({
        "apiVersion": "pyramid.dev/v1alpha1",
        "kind": "Stream",
        "metadata": {"name": NAME, "namespace": "sys", "generation": 2},
        "spec": {},
        "status": {"conditions": conditions},
    })
}

fn read(stream: Value) -> Stream {
    serde_json::from_value(stream).unwrap()
}

#[test]
fn a_stream_is_ready_by_what_is_said_of_its_newest_spec() {
    assert!(is_ready(&read(of(&[condition("Ready", "True", 2, "")]))));
    for conditions in [
        vec![],
        vec![condition("Ready", "False", 2, "")],
        vec![condition("Ready", "True", 1, "")],
        vec![condition("Programmed", "True", 2, "")],
    ] {
        assert!(!is_ready(&read(of(&conditions))), "{conditions:?}");
    }
}

#[test]
fn what_a_stream_waits_for_is_told_in_the_words_of_its_conditions() {
    let bound = condition("Bound", "True", 2, "");
    let ready = condition("Ready", "False", 2, "no bucket");
    assert_eq!(
        state_of(&read(of(&[bound, ready]))),
        "Bound=True, reason Because; Ready=False, reason Because: no bucket"
    );
    assert_eq!(state_of(&read(of(&[]))), "no operator has looked at it");
}

#[test]
fn the_pod_on_trial_asks_for_a_pusher_and_is_a_pod() {
    let pod = pod();
    assert_eq!(pod.annotations()["pyramid.dev/append"], NAME);
    assert_eq!(pod.spec.as_ref().unwrap().containers.len(), 1);
    assert!(!has_pusher(&pod));
    let mut injected = pod;
    let spec = injected.spec.as_mut().unwrap();
    let mut pusher = spec.containers[0].clone();
    pusher.name = "pyramid-pusher".to_owned();
    spec.init_containers = Some(vec![pusher]);
    assert!(has_pusher(&injected));
}

#[tokio::test]
async fn a_pod_that_is_refused_and_one_without_a_pusher_are_told_apart() {
    let api = FakeApi::default();
    // This server asks no webhook.
    let error = try_pod(&api.client(), "shop").await.unwrap_err();
    assert!(matches!(error, SelfTestError::NoPusher { namespace } if namespace == "shop"));
    api.be(Mood::Forbids);
    let error = try_pod(&api.client(), "shop").await.unwrap_err();
    let text = "a Pod that asks for a pusher is refused in namespace shop: Forbidden; where the API \
                server cannot reach the webhook, let it through to port 10250 of the operator's Pods";
    assert_eq!(error.to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_gets_ready_is_deleted_and_another_one_is_left_there() {
    let api = FakeApi::default();
    let error = try_stream(&api.client(), "sys").await.unwrap_err();
    let text = "the Stream sys/pyramid-self-test is not ready: no operator has looked at it; see \
                `kubectl describe pstr pyramid-self-test --namespace sys`, and test again";
    assert_eq!(error.to_string(), text);
    let made = api.get(STREAM).unwrap();
    assert_eq!(made["spec"]["deletionPolicy"], "Delete");
    api.put(STREAM, of(&[condition("Ready", "True", 2, "")]));
    try_stream(&api.client(), "sys").await.unwrap();
    assert_eq!(api.get(STREAM), None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_on_its_way_out_does_not_count_as_ready() {
    let api = FakeApi::default();
    let mut stream = of(&[condition("Ready", "True", 2, "")]);
    stream["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
    api.put(STREAM, stream);
    let error = try_stream(&api.client(), "sys").await.unwrap_err();
    assert!(error.to_string().contains("not ready: it is being deleted; Ready=True"), "{error}");
    assert_ne!(api.get(STREAM), None);
}

#[tokio::test(start_paused = true)]
async fn all_that_is_asked_for_is_tried_and_told_and_nothing_else() {
    let api = FakeApi::default();
    api.put(STREAM, of(&[condition("Ready", "True", 2, "")]));
    let test = SelfTest { pod_in: None, stream_in: Some("sys".to_owned()) };
    let mut said = Vec::new();
    test.try_all(&api.client(), &mut said).await.unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), "a Stream got ready in namespace sys, and went\n");
    let get = format!("GET {STREAM}");
    assert_eq!(api.requests(), [get.clone(), format!("DELETE {STREAM}"), get]);
}
