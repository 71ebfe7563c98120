mod additions;
mod golden;
mod refusals;
mod resources;

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde_json::Value;

use crate::settings;

use super::*;

/// Two Subscriptions in the namespace `shop`: `orders-projector` for every service account, and
/// `audit` for `auditor` alone.
struct Shop;

impl Subscriptions for Shop {
    fn standing(&self, namespace: &str, name: &str, account: &str) -> Standing {
        match (namespace, name, account) {
            ("shop", "orders-projector", _) | ("shop", "audit", "auditor") => Standing::Allows,
            ("shop", "audit", _) => Standing::Refuses,
            (_, _, _) => Standing::Missing,
        }
    }
}

/// What a chart says that leaves everything as it comes.
fn pusher() -> settings::Pusher {
    let resources = json!({
        "requests": { "cpu": "20m", "memory": "32Mi" },
        "limits": { "memory": "128Mi" },
    });
    settings::Pusher {
        image: "example.invalid/pyramid-pusher:0.1.0".to_owned(),
        pull_policy: "IfNotPresent".to_owned(),
        log_level: "info".to_owned(),
        resources: serde_json::from_value::<ResourceRequirements>(resources).unwrap(),
        image_pull_secrets: Vec::new(),
    }
}

fn template() -> Template {
    Template::new("0.1.0", pusher())
}

fn inject_shop(pod: &Value) -> Result<Injection, Refusal> {
    inject(pod, "shop", &Shop, &template())
}

/// What is added to a pod that must get something.
fn patch_of(injection: Injection) -> Patch {
    let Outcome::Injected(patch) = injection.outcome else { panic!("{:?}", injection.outcome) };
    patch
}

/// The pod after injection.
fn injected(pod: &Value) -> Value {
    let patch = patch_of(inject_shop(pod).unwrap());
    let mut after = pod.clone();
    json_patch::patch(&mut after, &patch).unwrap();
    after
}

/// A pod of one container, with `spec` laid over it member by member.
fn pod(annotations: &Value, spec: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "projector", "annotations": annotations },
        "spec": { "containers": [{ "name": "app", "image": "example.invalid/app:1" }] },
    });
    json_patch::merge(&mut pod["spec"], spec);
    pod
}

fn asking() -> Value {
    json!({ "pyramid.dev/subscriptions": "orders-projector" })
}

fn names(containers: &Value) -> Vec<&str> {
    containers.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect()
}

#[test]
fn the_pusher_stands_behind_the_last_native_sidecar_or_first() {
    let native = |name| json!({ "name": name, "restartPolicy": "Always" });
    let plain = |name| json!({ "name": name });
    let cases = [
        (vec![], vec!["pyramid-pusher"]),
        (vec![plain("migrate")], vec!["pyramid-pusher", "migrate"]),
        (vec![native("istio-proxy")], vec!["istio-proxy", "pyramid-pusher"]),
        (
            vec![native("istio-proxy"), plain("migrate")],
            vec!["istio-proxy", "pyramid-pusher", "migrate"],
        ),
        (
            vec![plain("istio-init"), native("istio-proxy"), plain("migrate")],
            vec!["istio-init", "istio-proxy", "pyramid-pusher", "migrate"],
        ),
        (
            vec![native("linkerd-proxy"), plain("migrate"), native("database-proxy")],
            vec!["linkerd-proxy", "migrate", "database-proxy", "pyramid-pusher"],
        ),
    ];
    for (before, after) in cases {
        let pod = pod(&asking(), &json!({ "initContainers": before }));
        assert_eq!(names(&injected(&pod)["spec"]["initContainers"]), after);
    }
}

#[test]
fn a_mesh_that_comes_later_in_front_leaves_the_order_mesh_pusher_application() {
    let pod = pod(&asking(), &json!({ "initContainers": [{ "name": "migrate" }] }));
    let mut meshed = injected(&pod);
    let mesh = json!({ "name": "linkerd-proxy", "restartPolicy": "Always" });
    meshed["spec"]["initContainers"].as_array_mut().unwrap().insert(0, mesh);
    let again = inject_shop(&meshed);
    assert_eq!(again, Ok(Outcome::Present.without_warnings()));
    let order = ["linkerd-proxy", "pyramid-pusher", "migrate"];
    assert_eq!(names(&meshed["spec"]["initContainers"]), order);
}

#[test]
fn the_neighbour_is_tested_before_the_pusher_is_put_beside_it() {
    let init = json!([{ "name": "mesh", "restartPolicy": "Always" }, { "name": "migrate" }]);
    let before = pod(&asking(), &json!({ "initContainers": init }));
    let patch = patch_of(inject_shop(&before).unwrap());
    let mut other = before.clone();
    other["spec"]["initContainers"][0]["name"] = json!("proxy");
    assert!(json_patch::patch(&mut before.clone(), &patch).is_ok());
    let error = json_patch::patch(&mut other.clone(), &patch).unwrap_err();
    assert!(matches!(error.kind, json_patch::PatchErrorKind::TestFailed), "{error}");
}

#[test]
fn a_pusher_of_another_version_is_kept_and_told_about() {
    let before = pod(&asking(), &json!({}));
    let older = Template::new("0.0.9", pusher());
    let mut after = before.clone();
    let patch = patch_of(inject(&before, "shop", &Shop, &older).unwrap());
    json_patch::patch(&mut after, &patch).unwrap();
    let by = older.injected_by();
    let warning = format!(
        "the pod brings a pusher from {by}, and keeps it; to get the one of this operator, remove \
         annotation pyramid.dev/injected-by and container pyramid-pusher"
    );
    let expected = Injection { outcome: Outcome::Present, warnings: vec![warning] };
    assert_eq!(inject_shop(&after), Ok(expected));
}

#[test]
fn the_hash_changes_with_each_setting() {
    let changed = |change: fn(&mut settings::Pusher)| {
        let mut pusher = pusher();
        change(&mut pusher);
        Template::new("0.1.0", pusher).injected_by().to_owned()
    };
    let all = [
        template().injected_by().to_owned(),
        changed(|pusher| pusher.image.push('a')),
        changed(|pusher| pusher.pull_policy = "Always".to_owned()),
        changed(|pusher| pusher.log_level = "debug".to_owned()),
        changed(|pusher| pusher.resources.limits = None),
        changed(|pusher| pusher.image_pull_secrets.push("registry".to_owned())),
    ];
    let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
    assert_eq!(changed(|_| {}), all[0]);
}

#[test]
fn pull_secrets_of_the_chart_join_those_of_the_pod() {
    let mut pusher = pusher();
    pusher.image_pull_secrets = vec!["registry".to_owned(), "mirror".to_owned()];
    let template = Template::new("0.1.0", pusher);
    let cases = [
        (json!({}), json!([{ "name": "registry" }, { "name": "mirror" }])),
        (json!([]), json!([{ "name": "registry" }, { "name": "mirror" }])),
        (
            json!([{ "name": "own" }, { "name": "mirror" }]),
            json!([{ "name": "own" }, { "name": "mirror" }, { "name": "registry" }]),
        ),
    ];
    for (before, after) in cases {
        let spec = if before.is_array() { json!({ "imagePullSecrets": before }) } else { before };
        let mut pod = pod(&asking(), &spec);
        let patch = patch_of(inject(&pod, "shop", &Shop, &template).unwrap());
        json_patch::patch(&mut pod, &patch).unwrap();
        assert_eq!(pod["spec"]["imagePullSecrets"], after);
    }
}
