//! Conditions keep their time as long as their status stays.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use pyramid_crds::condition::{Observation, Truth, is_true, reasons, types};
use serde_json::json;

fn time(text: &str) -> Time {
    serde_json::from_value(json!(text)).unwrap()
}

/// `Ready`, as it was said at noon of the first.
fn ready(status: &str) -> Vec<Condition> {
    vec![Condition {
        type_: types::READY.into(),
        status: status.into(),
        reason: reasons::NO_LEADER.into(),
        message: "no replica leads".into(),
        observed_generation: Some(1),
        last_transition_time: time("2030-01-01T12:00:00Z"),
    }]
}

fn ready_now(previous: &[Condition]) -> Condition {
    let now = time("2030-01-02T12:00:00Z");
    Observation { previous, generation: 2, now }.condition(
        types::READY,
        Truth::True,
        reasons::READY,
        "serves",
    )
}

#[test]
fn a_changed_status_moves_the_time() {
    let expected = Condition {
        type_: "Ready".into(),
        status: "True".into(),
        reason: "Ready".into(),
        message: "serves".into(),
        observed_generation: Some(2),
        last_transition_time: time("2030-01-02T12:00:00Z"),
    };
    for previous in [ready("False"), ready("Unknown"), Vec::new()] {
        assert_eq!(ready_now(&previous), expected);
    }
}

#[test]
fn an_unchanged_status_keeps_the_time_and_takes_the_rest() {
    let expected = Condition {
        type_: "Ready".into(),
        status: "True".into(),
        reason: "Ready".into(),
        message: "serves".into(),
        observed_generation: Some(2),
        last_transition_time: time("2030-01-01T12:00:00Z"),
    };
    assert_eq!(ready_now(&ready("True")), expected);
}

#[test]
fn only_true_is_true() {
    assert!(is_true(&ready("True"), types::READY));
    assert!(!is_true(&ready("True"), types::STALLED));
    assert!(!is_true(&ready("Unknown"), types::READY));
    assert!(!is_true(&ready("False"), types::READY));
}
