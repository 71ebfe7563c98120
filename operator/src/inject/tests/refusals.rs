//! Each refusal with its whole text, and beside it the nearest pod that is let in.

use serde_json::{Value, json};

use super::super::Outcome;
use super::{asking, inject_shop, injected, pod};

fn refused(pod: &Value) -> String {
    inject_shop(pod).unwrap_err().to_string()
}

fn is_injected(pod: &Value) -> bool {
    matches!(inject_shop(pod).unwrap().outcome, Outcome::Injected(_))
}

#[test]
fn the_network_of_the_node() {
    let text = "the pod uses the network of its node, where everybody could append through the \
                pusher; set hostNetwork to false, or remove the annotations \
                pyramid.dev/subscriptions and pyramid.dev/append";
    assert_eq!(refused(&pod(&asking(), &json!({ "hostNetwork": true }))), text);
    assert!(is_injected(&pod(&asking(), &json!({ "hostNetwork": false }))));
}

#[test]
fn windows() {
    let text = "the pusher runs on Linux only and the pod asks for Windows; run it on Linux, or \
                remove the annotations pyramid.dev/subscriptions and pyramid.dev/append";
    let os = |name| pod(&asking(), &json!({ "os": { "name": name } }));
    let node = |name| pod(&asking(), &json!({ "nodeSelector": { "kubernetes.io/os": name } }));
    assert_eq!(refused(&os("windows")), text);
    assert_eq!(refused(&node("windows")), text);
    assert!(is_injected(&os("linux")));
    assert!(is_injected(&node("linux")));
}

#[test]
fn a_port_of_the_pusher() {
    let with = |list: &str, port: u32, protocol: &str| {
        let ports =
            json!([{ "containerPort": 80 }, { "containerPort": port, "protocol": protocol }]);
        pod(&asking(), &json!({ list: [{ "name": "app", "ports": ports }] }))
    };
    for list in ["containers", "initContainers"] {
        for port in [7410, 7411] {
            let text = format!(
                "container \"app\" has port {port}, which is the pusher's; give the container \
                 another port"
            );
            assert_eq!(refused(&with(list, port, "TCP")), text);
            assert!(is_injected(&with(list, port, "UDP")));
        }
        for port in [7409, 7412] {
            assert!(is_injected(&with(list, port, "TCP")));
        }
    }
    let without_protocol = json!([{ "name": "app", "ports": [{ "containerPort": 7410 }] }]);
    assert!(inject_shop(&pod(&asking(), &json!({ "containers": without_protocol }))).is_err());
}

#[test]
fn the_name_of_the_pusher() {
    let text =
        "container \"pyramid-pusher\" was not injected by the operator; give it another name";
    for list in ["containers", "initContainers"] {
        let named = |name| pod(&asking(), &json!({ list: [{ "name": name }] }));
        assert_eq!(refused(&named("pyramid-pusher")), text);
        assert!(is_injected(&named("pyramid-pushers")));
    }
    // The annotation alone does not make an application's container ours.
    let mut claimed = pod(&asking(), &json!({ "containers": [{ "name": "pyramid-pusher" }] }));
    claimed["metadata"]["annotations"]["pyramid.dev/injected-by"] = json!("me");
    assert_eq!(refused(&claimed), text);
}

#[test]
fn the_name_of_a_volume() {
    let names = ["pyramid-bootstrap", "pyramid-token", "pyramid-identity", "pyramid-no-token"];
    let named =
        |name: &str| pod(&asking(), &json!({ "volumes": [{ "name": name, "emptyDir": {} }] }));
    for name in names {
        let text = format!("volume \"{name}\" is one that the operator adds; give it another name");
        assert_eq!(refused(&named(name)), text);
    }
    assert!(is_injected(&named("pyramid-data")));
    // The four are all.
    let before = pod(&asking(), &json!({}));
    assert_eq!(super::names(&injected(&before)["spec"]["volumes"]), names);
}

#[test]
fn a_mount_of_a_volume_of_the_pusher() {
    let names = ["pyramid-bootstrap", "pyramid-token", "pyramid-identity", "pyramid-no-token"];
    let with = |list: &str, name: &str| {
        let mounts = json!([{ "name": name, "mountPath": "/x" }]);
        pod(&asking(), &json!({ list: [{ "name": "app", "volumeMounts": mounts }] }))
    };
    for list in ["containers", "initContainers"] {
        for name in names {
            let text = format!(
                "container \"app\" mounts volume \"{name}\", which is for the pusher alone; \
                 remove the mount"
            );
            assert_eq!(refused(&with(list, name)), text);
        }
        assert!(is_injected(&with(list, "pyramid-data")));
    }
    // The same of a pod that has its pusher already.
    let mut present = injected(&with("containers", "pyramid-data"));
    assert_eq!(inject_shop(&present).unwrap().outcome, Outcome::Present);
    present["spec"]["containers"][0]["volumeMounts"][0]["name"] = json!("pyramid-identity");
    assert!(refused(&present).contains("\"pyramid-identity\""));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of annotations and what is said of them")]
fn annotations() {
    let with = |name: &str, value: &str| {
        let mut annotations = asking();
        annotations[name] = json!(value);
        pod(&annotations, &json!({}))
    };
    let many: Vec<String> = (0..65).map(|n| format!("a{n}")).collect();
    let cases = [
        (
            "pyramid.dev/subscriptions",
            "Orders".to_owned(),
            "annotation pyramid.dev/subscriptions has the name \"Orders\", which has characters \
             other than a-z, 0-9, \"-\" and \".\"; give names of Subscriptions in the pod's \
             namespace, separated by commas",
        ),
        (
            "pyramid.dev/subscriptions",
            "a,".to_owned(),
            "annotation pyramid.dev/subscriptions has a comma with no name before or behind it; \
             remove the comma, or give names of Subscriptions in the pod's namespace, separated by \
             commas",
        ),
        (
            "pyramid.dev/subscriptions",
            "a,b,a".to_owned(),
            "annotation pyramid.dev/subscriptions is \"a\"; name it once",
        ),
        (
            "pyramid.dev/subscriptions",
            many[..17].join(","),
            "annotation pyramid.dev/subscriptions names 17 Subscriptions and a pod may have 16; \
             join some of them: one Subscription may have several streams",
        ),
        (
            "pyramid.dev/subscriptions",
            String::new(),
            "pyramid.dev/subscriptions and pyramid.dev/append name nothing; name a Subscription \
             or a Stream, or remove the annotations",
        ),
        (
            "pyramid.dev/append",
            "*,a".to_owned(),
            "annotation pyramid.dev/append has the name \"*\", which has characters other than \
             a-z, 0-9, \"-\" and \".\"; give names of Streams, as name or namespace/name, \
             separated by commas, or only \"*\"",
        ),
        (
            "pyramid.dev/append",
            many.join(","),
            "annotation pyramid.dev/append names 65 Streams and may name 64; give \"*\" for all \
             that the pod's service account may append to",
        ),
        (
            "pyramid.dev/inject",
            "no".to_owned(),
            "annotation pyramid.dev/inject is \"no\"; give \"false\" to opt out, or remove it",
        ),
        (
            "pyramid.dev/app-port",
            "http".to_owned(),
            "annotation pyramid.dev/app-port is \"http\"; give the port of the application, a \
             number from 1 to 65535",
        ),
        (
            "pyramid.dev/app-port",
            "7410".to_owned(),
            "annotation pyramid.dev/app-port is \"7410\"; that is a port of the pusher, give the \
             application another one",
        ),
        (
            "pyramid.dev/readiness",
            "Yes\n".to_owned(),
            "annotation pyramid.dev/readiness is \"Yes\"; give Local, Connected or CaughtUp",
        ),
        (
            "pyramid.dev/pusher-cpu-limit",
            "a\"b".to_owned(),
            "annotation pyramid.dev/pusher-cpu-limit is \"a\\\"b\"; give an amount of CPU such as \
             100m or 0.5",
        ),
        (
            "pyramid.dev/pusher-memory-limit",
            "128m".to_owned(),
            "annotation pyramid.dev/pusher-memory-limit is \"128m\"; give an amount of memory in \
             whole bytes such as 128Mi",
        ),
        (
            "pyramid.dev/pusher-memory-request",
            "1Gi".to_owned(),
            "the pusher's memory request 1Gi is above its limit 128Mi; raise \
             pyramid.dev/pusher-memory-limit or lower pyramid.dev/pusher-memory-request",
        ),
    ];
    for (name, value, text) in cases {
        assert_eq!(refused(&with(name, &value)), text);
    }
    assert!(is_injected(&with("pyramid.dev/append", "a")));
}

#[test]
fn what_is_no_pod() {
    let metadata = json!({ "annotations": asking() });
    let cases = [
        (json!(null), "\"\" of the pod is not an object; give a Pod of v1"),
        (json!({}), "\"spec\" of the pod is not an object; give a Pod of v1"),
        (
            json!({ "metadata": metadata, "spec": { "containers": {} } }),
            "\"spec.containers\" of the pod is not a list; give a Pod of v1",
        ),
        (
            json!({ "metadata": metadata, "spec": { "initContainers": [1] } }),
            "\"spec.initContainers[0]\" of the pod is not an object; give a Pod of v1",
        ),
        (
            json!({ "metadata": { "annotations": { "a": 1 } }, "spec": {} }),
            "\"metadata.annotations[\\\"a\\\"]\" of the pod is not a text; give a Pod of v1",
        ),
    ];
    for (pod, text) in cases {
        assert_eq!(refused(&pod), text);
    }
    assert!(is_injected(&json!({ "metadata": metadata, "spec": { "containers": [] } })));
}
