use serde_json::{Value, json};

use super::super::{Refusal, Template};
use super::{Shop, inject, inject_shop, injected, pod, pusher};

fn asking(amounts: &[(&str, &str)]) -> Value {
    let mut annotations = json!({ "pyramid.dev/subscriptions": "orders-projector" });
    for (name, amount) in amounts {
        annotations[format!("pyramid.dev/pusher-{name}")] = json!(amount);
    }
    pod(&annotations, &json!({}))
}

fn resources(amounts: &[(&str, &str)]) -> Value {
    injected(&asking(amounts))["spec"]["initContainers"][0]["resources"].clone()
}

#[test]
fn annotations_win_over_the_chart() {
    let cpu = "20m";
    let cases = [
        (
            &[][..],
            json!({
                "requests": { "cpu": cpu, "memory": "32Mi" },
                "limits": { "memory": "128Mi" },
            }),
        ),
        (
            &[("cpu-request", "1")],
            json!({
                "requests": { "cpu": "1", "memory": "32Mi" },
                "limits": { "memory": "128Mi" },
            }),
        ),
        (
            &[("cpu-limit", "500m")],
            json!({
                "requests": { "cpu": "500m", "memory": "32Mi" },
                "limits": { "cpu": "500m", "memory": "128Mi" },
            }),
        ),
        (
            &[("cpu-request", "50m"), ("cpu-limit", "500m")],
            json!({
                "requests": { "cpu": "50m", "memory": "32Mi" },
                "limits": { "cpu": "500m", "memory": "128Mi" },
            }),
        ),
        (
            &[("memory-request", "128Mi")],
            json!({
                "requests": { "cpu": cpu, "memory": "128Mi" },
                "limits": { "memory": "128Mi" },
            }),
        ),
        (
            &[("cpu-limit", "1"), ("memory-limit", "1Gi")],
            json!({
                "requests": { "cpu": "1", "memory": "1Gi" },
                "limits": { "cpu": "1", "memory": "1Gi" },
            }),
        ),
    ];
    for (amounts, expected) in cases {
        assert_eq!(resources(amounts), expected, "{amounts:?}");
    }
}

#[test]
fn a_request_above_the_limit_is_refused() {
    let refused = inject_shop(&asking(&[("memory-request", "129Mi")])).unwrap_err();
    let expected = Refusal::RequestAboveLimit {
        resource: "memory",
        request: "129Mi".to_owned(),
        limit: "128Mi".to_owned(),
    };
    assert_eq!(refused, expected);
    assert!(inject_shop(&asking(&[("memory-request", "128Mi")])).is_ok());
    let cpu = |limit| inject_shop(&asking(&[("cpu-request", "1"), ("cpu-limit", limit)]));
    assert!(cpu("999m").is_err());
    assert!(cpu("1000m").is_ok());
}

#[test]
fn a_chart_without_resources_leaves_them_to_the_annotations() {
    let mut pusher = pusher();
    pusher.resources = k8s_openapi::api::core::v1::ResourceRequirements::default();
    let template = Template::new("0.1.0", pusher);
    for (amounts, expected) in [
        (&[][..], json!({})),
        (&[("cpu-limit", "1")], json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "1" } })),
    ] {
        let mut pod = asking(amounts);
        let patch = super::patch_of(inject(&pod, "shop", &Shop, &template).unwrap());
        json_patch::patch(&mut pod, &patch).unwrap();
        assert_eq!(pod["spec"]["initContainers"][0]["resources"], expected);
    }
}
