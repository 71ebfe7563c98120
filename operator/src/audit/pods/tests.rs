use serde_json::{Value, json};

use super::*;

/// The only Subscription is `shop/orders`.
struct Orders;

impl Subscriptions for Orders {
    fn standing(&self, namespace: &str, name: &str, _: &str) -> Standing {
        if (namespace, name) == ("shop", "orders") { Standing::Allows } else { Standing::Missing }
    }
}

const ALL: usize = 100;

fn metadata(uid: &str, annotations: &Value) -> Value {
    json!({ "namespace": "shop", "name": format!("pod-{uid}"), "uid": uid,
            "annotations": annotations })
}

#[expect(clippy::needless_pass_by_value, reason = "tests build it in place")]
fn pod(metadata: Value) -> PartialObjectMeta<Pod> {
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

fn namespaces() -> Namespaces {
    let mut namespaces = Namespaces::excluding(["kube-system".to_owned()].into_iter());
    namespaces.apply(Event::Init);
    namespaces.apply(Event::InitDone);
    namespaces
}

/// Pods as a first listing gives them.
fn listed(pods: impl IntoIterator<Item = Value>, now: Instant) -> Pods {
    let mut all = Pods::default();
    all.apply(Event::Init, now);
    for metadata in pods {
        all.apply(Event::InitApply(pod(metadata)), now);
    }
    all.apply(Event::InitDone, now);
    all
}

/// Reasons and notes of what is found.
fn told(pods: &mut Pods, now: Instant) -> Vec<String> {
    let findings = pods.findings(&namespaces(), &Orders, now, ALL);
    findings.iter().map(|finding| format!("{}: {}", finding.reason(), finding.note())).collect()
}

fn sidecar_missing(uid: &str) -> String {
    format!(
        "SidecarMissing: pod pod-{uid} asks for Pyramid and has no pusher, since it was created \
         while the webhook was not there; delete the pod, or restart what made it"
    )
}

fn subscription_missing(uid: &str, name: &str) -> String {
    format!(
        "SubscriptionMissing: pod pod-{uid} names Subscription {name}, which does not exist; \
         create it"
    )
}

#[test]
fn a_pod_that_asks_and_was_not_injected_is_found() {
    let now = Instant::now();
    let cases = [
        (json!({ "pyramid.dev/subscriptions": "orders" }), 1),
        (json!({ "pyramid.dev/append": "*" }), 1),
        (json!({ "pyramid.dev/append": "*", "pyramid.dev/injected-by": "0.1.0/00000000" }), 0),
        (json!({ "pyramid.dev/append": "*", "pyramid.dev/inject": "false" }), 0),
        (json!({ "pyramid.dev/append": "*", "pyramid.dev/inject": "true" }), 1),
        (json!({ "example.org/append": "*" }), 0),
        (json!({}), 0),
    ];
    for (annotations, count) in cases {
        let mut pods = listed([metadata("a", &annotations)], now);
        assert_eq!(pods.missing_sidecar(&namespaces()), count, "{annotations}");
        let expected = if count == 1 { vec![sidecar_missing("a")] } else { vec![] };
        assert_eq!(told(&mut pods, now), expected, "{annotations}");
    }
}

#[test]
fn a_finding_is_told_once_and_counted_as_long_as_it_lasts() {
    let now = Instant::now();
    let asking = metadata("a", &json!({ "pyramid.dev/append": "*" }));
    let mut pods = listed([asking.clone()], now);
    assert_eq!(told(&mut pods, now), [sidecar_missing("a")]);
    pods.apply(Event::Apply(pod(asking.clone())), now);
    assert_eq!(told(&mut pods, now), [""; 0]);
    assert_eq!(pods.missing_sidecar(&namespaces()), 1);
    pods.apply(Event::Delete(pod(asking)), now);
    assert_eq!(pods.missing_sidecar(&namespaces()), 0);
}

#[test]
fn pod_and_owner_are_told() {
    let now = Instant::now();
    let mut metadata = metadata("a", &json!({ "pyramid.dev/append": "*" }));
    metadata["ownerReferences"] = json!([
        { "apiVersion": "example.org/v1", "kind": "Other", "name": "other", "uid": "u0" },
        { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u1",
          "controller": true },
    ]);
    let findings = listed([metadata], now).findings(&namespaces(), &Orders, now, ALL);
    let objects: Vec<Value> = findings
        .iter()
        .flat_map(Finding::objects)
        .map(|o| serde_json::to_value(o).unwrap())
        .collect();
    let expected = [
        json!({ "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "pod-a",
                "uid": "a" }),
        json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "namespace": "shop", "name": "rs",
                "uid": "u1" }),
    ];
    assert_eq!(objects, expected);
}

#[test]
fn a_missing_subscription_is_told_once_it_had_time_to_come() {
    let now = Instant::now();
    let names = json!({
        "pyramid.dev/subscriptions": "orders, not-yet",
        "pyramid.dev/injected-by": "0.1.0/00000000",
    });
    let mut pods = listed([metadata("a", &names)], now);
    let late = now + SUBSCRIPTION_WAIT;
    assert_eq!(told(&mut pods, late - Duration::from_millis(1)), [""; 0]);
    assert_eq!(told(&mut pods, late), [subscription_missing("a", "not-yet")]);
    assert_eq!(told(&mut pods, late), [""; 0]);
    assert_eq!(pods.missing_sidecar(&namespaces()), 0);
}

#[test]
fn two_subscriptions_that_are_missing_are_no_two_of_the_same() {
    let now = Instant::now();
    let names = json!({
        "pyramid.dev/subscriptions": "first, second",
        "pyramid.dev/injected-by": "0.1.0/00000000",
    });
    let asking = metadata("b", &json!({ "pyramid.dev/append": "*" }));
    let mut pods = listed([metadata("a", &names), asking], now);
    let findings = pods.findings(&namespaces(), &Orders, now + SUBSCRIPTION_WAIT, ALL);
    let related: Vec<Value> = findings.iter().map(|finding| json!(finding.related())).collect();
    let missing = |name: &str| {
        json!({ "apiVersion": "pyramid.dev/v1alpha1", "kind": "Subscription",
                "namespace": "shop", "name": name })
    };
    assert_eq!(related, [missing("first"), missing("second"), Value::Null]);
}

#[test]
fn namespaces_without_injection_are_left_out() {
    let now = Instant::now();
    let asking = json!({ "pyramid.dev/append": "*" });
    let namespace = || {
        let value = json!({ "metadata": { "name": "shop" } });
        serde_json::from_value::<PartialObjectMeta<Namespace>>(value).unwrap()
    };
    let pods = listed([metadata("a", &asking)], now);
    let mut namespaces = namespaces();
    assert_eq!(pods.missing_sidecar(&namespaces), 1);
    namespaces.apply(Event::Apply(namespace()));
    assert_eq!(pods.missing_sidecar(&namespaces), 0);
    namespaces.apply(Event::Delete(namespace()));
    assert_eq!(pods.missing_sidecar(&namespaces), 1);
    let always = Namespaces::excluding(["shop".to_owned()].into_iter());
    assert_eq!(pods.missing_sidecar(&always), 0);
}

#[test]
fn a_listing_replaces_what_was_known_and_keeps_what_was_told() {
    let now = Instant::now();
    let asking = json!({ "pyramid.dev/append": "*" });
    let mut pods = listed([metadata("a", &asking), metadata("b", &asking)], now);
    assert_eq!(told(&mut pods, now), [sidecar_missing("a"), sidecar_missing("b")]);
    pods.apply(Event::Init, now);
    pods.apply(Event::InitApply(pod(metadata("b", &asking))), now);
    pods.apply(Event::InitApply(pod(metadata("c", &asking))), now);
    assert_eq!(pods.missing_sidecar(&namespaces()), 3);
    pods.apply(Event::InitDone, now);
    assert_eq!(pods.missing_sidecar(&namespaces()), 2);
    assert_eq!(told(&mut pods, now), [sidecar_missing("c")]);
}

#[test]
fn what_is_beyond_the_limit_waits() {
    let now = Instant::now();
    let asking = json!({ "pyramid.dev/append": "*" });
    let mut pods = listed(["a", "b", "c"].map(|uid| metadata(uid, &asking)), now);
    let mut count = || pods.findings(&namespaces(), &Orders, now, 2).len();
    assert_eq!([count(), count(), count()], [2, 1, 0]);
}

#[test]
fn a_pod_that_ends_or_no_longer_asks_is_forgotten() {
    let now = Instant::now();
    let asking = json!({ "pyramid.dev/append": "*" });
    let mut pods = listed([metadata("a", &asking), metadata("b", &asking)], now);
    let mut ending = metadata("a", &asking);
    ending["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pods.apply(Event::Apply(pod(ending)), now);
    assert_eq!(pods.missing_sidecar(&namespaces()), 1);
    pods.apply(Event::Apply(pod(metadata("b", &json!({})))), now);
    assert_eq!(pods.missing_sidecar(&namespaces()), 0);
}
