//! Pods that are odd or mean harm: what they get, and what they are told.

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::{Cluster, Ended};
use serde_json::{Value, json};

use super::shop::{SOON, Shop};

const PUSHER: &str = "pyramid-pusher";
const APPEND: &str = "pyramid.dev/append";
const SUBSCRIPTIONS: &str = "pyramid.dev/subscriptions";
/// Annotations of one Pod. The API server takes 256 KiB of them.
const MANY: usize = 10_000;
/// Unknown annotations that are warned of.
const WARNED_OF: usize = 8;

/// What the server makes of a Pod, on trial.
async fn judge(shop: &Shop<'_>, pod: &Value) -> anyhow::Result<Ended> {
    let create = ["--namespace", shop.namespace, "create", "--dry-run=server", "-o", "json"];
    let create = [&create[..], &["-f", "-"]].concat();
    shop.cluster.try_kubectl(&create, Some(&pod.to_string())).await
}

/// The Pod as the server would keep it.
async fn kept(shop: &Shop<'_>, pod: &Value) -> anyhow::Result<Value> {
    let ended = judge(shop, pod).await?;
    ensure!(ended.success, "{}", ended.stderr);
    Ok(serde_json::from_str(&ended.stdout)?)
}

async fn refused(shop: &Shop<'_>, pod: &Value, text: &str) -> anyhow::Result<()> {
    let ended = judge(shop, pod).await?;
    ensure!(!ended.success && ended.stderr.contains(text), "{text:?}: {ended:?}");
    Ok(())
}

/// A Pod with little in it.
fn plain() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", "annotations": {}},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{"name": "x", "image": "x"}],
        },
    })
}

/// A Pod with something in each place that injection looks at, and signs of other languages.
fn odd() -> Value {
    const SIGNS: &str = "'; rm -rf / #\n- {{ .Values }} $(HOME) ~0~1 \\ \" ]}";
    const PATCH: &str = r#"[{"op":"remove","path":"/spec/containers"}]"#;
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "odd",
            "labels": {"app": "odd", "example.com/a": "b"},
            "annotations": {"example.com/patch": PATCH, "example.com/signs": SIGNS},
        },
        "spec": {
            "automountServiceAccountToken": false,
            "shareProcessNamespace": true,
            "hostPID": false,
            "terminationGracePeriodSeconds": 7,
            "initContainers": [
                {"name": "native", "image": "x", "restartPolicy": "Always", "args": [SIGNS]},
                {
                    "name": "early",
                    "image": "x",
                    "volumeMounts": [
                        {"name": "own", "mountPath": "/var/run/pyramid/identity"},
                        {"name": "own", "mountPath": "/etc/pyramid/bootstrap"},
                    ],
                },
            ],
            "containers": [
                {
                    "name": "app",
                    "image": "x",
                    "command": ["sh", "-c", PATCH],
                    "env": [
                        {"name": "A/B~1-c.d", "value": SIGNS},
                        {"name": "PYRAMID_POD_NAME", "value": "$(A/B~1-c.d)"},
                    ],
                    "ports": [{"containerPort": 7410, "protocol": "UDP"}],
                    "securityContext": {"runAsUser": 0},
                },
                {"name": "second", "image": "x", "workingDir": SIGNS},
            ],
            "volumes": [{"name": "own", "emptyDir": {}}],
            "nodeSelector": {"example.com/a": "b"},
        },
    })
}

fn annotated(mut pod: Value, annotation: &str, value: &str) -> Value {
    pod["metadata"]["annotations"][annotation] = json!(value);
    pod
}

/// Removes what is documented as added, and gives the pusher; an error if it is not exactly that.
fn take_out(pod: &mut Value, annotation: &str) -> anyhow::Result<Value> {
    let metadata = &mut pod["metadata"];
    ensure!(removed(&mut metadata["labels"], "pyramid.dev/injected")? == "true", "the label");
    removed(&mut metadata["annotations"], "pyramid.dev/injected-by")?;
    removed(&mut metadata["annotations"], annotation)?;
    let spec = &mut pod["spec"];
    for container in spec["containers"].as_array_mut().into_iter().flatten() {
        let added = removed_elements(&mut container["env"], &["PYRAMID_APPEND_ENDPOINT"])?;
        ensure!(added[0]["value"] == "http://127.0.0.1:7410", "{added:?}");
        if container["env"] == json!([]) {
            removed(container, "env")?;
        }
    }
    let volumes = ["pyramid-bootstrap", "pyramid-token", "pyramid-identity", "pyramid-no-token"];
    removed_elements(&mut spec["volumes"], &volumes)?;
    let mut pushers = removed_elements(&mut spec["initContainers"], &[PUSHER])?;
    pushers.pop().context("a pusher")
}

fn removed(object: &mut Value, name: &str) -> anyhow::Result<Value> {
    let object = object.as_object_mut().with_context(|| format!("an object with {name}"))?;
    object.remove(name).with_context(|| format!("{name} is not there"))
}

/// One element of each of these names.
fn removed_elements(list: &mut Value, names: &[&str]) -> anyhow::Result<Vec<Value>> {
    let all = list.as_array_mut().context("a list")?;
    let is_ours = |element: &Value| names.iter().any(|name| element["name"] == *name);
    let (ours, others): (Vec<_>, Vec<_>) = std::mem::take(all).into_iter().partition(is_ours);
    *all = others;
    ensure!(ours.len() == names.len(), "{names:?}: {ours:?}");
    Ok(ours)
}

/// What differs between any two Pods, and what Kubernetes derives from the containers.
fn without_own(mut pod: Value) -> Value {
    for name in ["uid", "creationTimestamp", "resourceVersion"] {
        if let Some(metadata) = pod["metadata"].as_object_mut() {
            metadata.remove(name);
        }
    }
    if let Some(pod) = pod.as_object_mut() {
        pod.remove("status");
    }
    pod
}

/// Whatever is in a Pod: it gets what every Pod gets, and all else is kept byte for byte. On trial,
/// nothing is made; and a Pod that was injected is kept as it is.
pub(crate) async fn a_pod_gets_a_pusher_and_is_as_it_was_otherwise(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "odd-pods").await?;
    let mut many = odd();
    for number in 0..MANY {
        many = annotated(many, &format!("pyramid.dev/n{number:05}"), "");
    }
    let expected = take_out(&mut kept(&shop, &annotated(odd(), APPEND, "orders")).await?, APPEND)?;
    let mut hides = odd();
    hides["spec"]["hostPID"] = json!(true);
    removed(&mut hides["spec"], "shareProcessNamespace")?;
    hides["spec"]["hostIPC"] = json!(true);
    for pod in [odd(), hides, many.clone()] {
        let as_it_was = without_own(kept(&shop, &pod).await?);
        let injected = kept(&shop, &annotated(pod, APPEND, "orders")).await?;

        // A second call, about a Pod that was injected.
        let again = without_own(injected.clone());
        ensure!(without_own(kept(&shop, &again).await?) == again, "{again:#}");

        let mut rest = without_own(injected);
        let pusher = take_out(&mut rest, APPEND)?;
        ensure!(rest == as_it_was, "{rest:#} instead of {as_it_was:#}");
        ensure!(pusher == expected, "{pusher:#} instead of {expected:#}");
    }
    let warned = judge(&shop, &annotated(many, APPEND, "orders")).await?.stderr;
    let warnings = warned.matches("is unknown and does nothing").count();
    ensure!(warnings == WARNED_OF, "{warned}");
    let pods = shop.kubectl(&["get", "pods", "-o", "name"]).await?;
    ensure!(pods.is_empty(), "made on trial: {pods}");
    shop.leave().await
}

/// Names of other namespaces and of other languages, more names than may be, and names that are the
/// pusher's: each refused, beside one that differs in one thing.
pub(crate) async fn names_that_are_not_the_pods_to_give_are_refused(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "odd-names").await?;
    let asks = || annotated(plain(), SUBSCRIPTIONS, "orders");
    kept(&shop, &asks()).await?;
    let no_name = "give names of Subscriptions in the pod's namespace";
    for name in [
        "shop/orders",
        "../orders",
        "orders,$(reboot)",
        "orders\n- op: remove",
        "{{ .Values }}",
        "~1spec~1volumes",
        r#"orders"},{"name":"x"#,
        "Orders",
        "orders,",
    ] {
        refused(&shop, &annotated(plain(), SUBSCRIPTIONS, name), no_name).await?;
    }
    let list = |count| (0..count).map(|n| format!("s{n}")).collect::<Vec<_>>().join(",");
    kept(&shop, &annotated(plain(), SUBSCRIPTIONS, &list(16))).await?;
    let too_many = annotated(plain(), SUBSCRIPTIONS, &list(17));
    refused(&shop, &too_many, "names 17 Subscriptions and a pod may have 16").await?;

    let container = |place: &str, name: &str| {
        let mut pod = asks();
        pod["spec"][place] = json!([{"name": name, "image": "x"}]);
        pod
    };
    for place in ["containers", "initContainers"] {
        kept(&shop, &container(place, "pyramid-pushed")).await?;
        refused(&shop, &container(place, PUSHER), "was not injected by the operator").await?;
    }
    let volume = |name: &str| {
        let mut pod = asks();
        pod["spec"]["volumes"] = json!([{"name": name, "emptyDir": {}}]);
        pod
    };
    kept(&shop, &volume("pyramid-identities")).await?;
    let taken = "volume \"pyramid-identity\" is one that the operator adds";
    refused(&shop, &volume("pyramid-identity"), taken).await?;

    // A mount of what only the pusher is to have, beside one of the Pod's own.
    let mounts = |place: &str, name: &str| {
        let mut pod = volume("pyramid-identities");
        let mount = json!({"name": name, "mountPath": "/var/run/pyramid/identity"});
        pod["spec"][place] = json!([{"name": "takes", "image": "x", "volumeMounts": [mount]}]);
        pod
    };
    for place in ["containers", "initContainers"] {
        kept(&shop, &mounts(place, "pyramid-identities")).await?;
        for name in ["pyramid-identity", "pyramid-token"] {
            let told = format!("container \"takes\" mounts volume \"{name}\"");
            refused(&shop, &mounts(place, name), &told).await?;
        }
    }

    // Who says that it was injected keeps the container that it brings, and gets nothing for it.
    let says = annotated(container("initContainers", PUSHER), "pyramid.dev/injected-by", "me");
    let ended = judge(&shop, &says).await?;
    let told = ended.success && ended.stderr.contains("the pod brings a pusher from me");
    ensure!(told, "{ended:?}");
    let brought = serde_json::from_str::<Value>(&ended.stdout)?;
    ensure!(brought["spec"]["volumes"].is_null(), "{brought:#}");
    shop.leave().await
}

/// Neither a Pod that is there, nor one of namespaces that are the cluster's, ours, or closed to it.
pub(crate) async fn only_new_pods_of_open_namespaces_get_a_pusher(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "changed-pods").await?;
    let closed = Shop::new(cluster, "closed-to-pods").await?;
    closed.cluster.kubectl(&["label", "namespace", closed.namespace, CLOSED]).await?;
    let asks = annotated(plain(), APPEND, "orders");
    let kube_system = Shop { cluster, namespace: "kube-system" };
    let own = Shop { cluster, namespace: "pyramid-system" };
    for (shop, count) in [(&shop, 1), (&closed, 0), (&kube_system, 0), (&own, 0)] {
        let what = format!("{count} pushers in a Pod of {}", shop.namespace);
        let as_expected = async || Ok(pushers(&kept(shop, &asks).await?) == count);
        cluster.wait_for(&what, SOON, as_expected).await?;
    }

    for (pod, annotation) in [("plain", "app=x"), ("asks", "pyramid.dev/append=orders")] {
        let annotation = format!("--annotations={annotation}");
        let image = ["--image=localhost/pyramid-probe:0.1.0", "--restart=Never", &annotation];
        let run = [&["run", pod][..], &image, &["--", "wait"]].concat();
        shop.kubectl(&run).await?;
    }
    shop.wait(&["--for=condition=Ready", "pod/plain", "pod/asks"]).await?;
    shop.kubectl(&["annotate", "pod", "plain", "pyramid.dev/append=orders"]).await?;
    shop.kubectl(&["annotate", "pod", "asks", "pyramid.dev/append-"]).await?;
    // A container that comes later, as from who looks for a fault.
    let debug = ["debug", "asks", "--image=localhost/pyramid-probe:0.1.0", "--container=late"];
    shop.kubectl(&[&debug[..], &["--profile=general", "--", "/pyramid-probe", "wait"]].concat())
        .await?;
    let runs = "jsonpath={.status.ephemeralContainerStatuses[*].state.running.startedAt}";
    let late = async || Ok(!shop.kubectl(&["get", "pod", "asks", "-o", runs]).await?.is_empty());
    cluster.wait_for("the late container runs", SOON, late).await?;
    for (pod, count) in [("plain", 0), ("asks", 1)] {
        let get = ["get", "pod", pod, "-n", shop.namespace];
        let pod = cluster.kubectl_json(&get).await?;
        ensure!(pushers(&pod) == count, "{pod:#}");
        let states = pod["status"]["initContainerStatuses"].as_array().into_iter().flatten();
        let well = states.filter(|state| state["ready"] == true && state["restartCount"] == 0);
        ensure!(well.count() == count, "{pod:#}");
    }
    closed.leave().await?;
    shop.leave().await
}

/// While the webhook passes over a namespace, the policy behind it refuses there what would run
/// without its pusher, and nothing else.
pub(crate) async fn a_pod_that_the_webhook_passed_over_is_refused_by_the_policy(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    const TEXT: &str = "the pod asks for Pyramid but has no pusher";
    let shop = Shop::new(cluster, "passed-over").await?;
    let next = Shop::new(cluster, "not-passed-over").await?;
    let asks = annotated(plain(), APPEND, "orders");
    ensure!(pushers(&kept(&shop, &asks).await?) == 1, "the webhook passes over it already");
    let conditions = async |condition: Value| {
        let webhook = json!({"name": "inject.pyramid.dev", "matchConditions": [condition]});
        let patch = json!({"webhooks": [webhook]}).to_string();
        let configuration = ["mutatingwebhookconfigurations", "pyramid-sidecar-injector"];
        cluster.kubectl(&[&["patch"], &configuration[..], &["--patch", &patch]].concat()).await
    };
    // Added to those of the chart by its name, and taken out by it.
    let but_one = "but-for-one-namespace";
    let expression = format!("request.namespace != '{}'", shop.namespace);
    let passed_over = async {
        conditions(json!({"name": but_one, "expression": expression})).await?;
        let denied = async || refused(&shop, &asks, TEXT).await.map(|()| true);
        cluster.wait_for("the policy refuses the Pod", SOON, denied).await?;
        // Both who ask for nothing and who opt out run without one.
        for pod in [plain(), annotated(asks.clone(), "pyramid.dev/inject", "false")] {
            ensure!(pushers(&kept(&shop, &pod).await?) == 0, "{pod:#} gets a pusher");
        }
        let elsewhere = kept(&next, &asks).await?;
        ensure!(pushers(&elsewhere) == 1, "{elsewhere:#}");
        anyhow::Ok(())
    };
    let outcome = passed_over.await;
    conditions(json!({"name": but_one, "$patch": "delete"})).await?;
    outcome?;
    let through = async || Ok(pushers(&kept(&shop, &asks).await?) == 1);
    cluster.wait_for("the webhook is asked again", SOON, through).await?;
    next.leave().await?;
    shop.leave().await
}

/// The label by which a namespace is closed to pushers.
const CLOSED: &str = "pyramid.dev/injection=disabled";

fn pushers(pod: &Value) -> usize {
    let containers = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    containers.filter(|container| container["name"] == PUSHER).count()
}
