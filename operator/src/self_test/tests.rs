use kube::ResourceExt as _;
use serde_json::Value;

use super::*;

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
