//! What the installation may do, beside what it did: run after all others.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::{Cluster, Grant};
use serde_json::{Value, json};

use super::outage::scale_operator;
use super::shop::{SOON, Shop};
use super::{ELSEWHERE, SYSTEM};

/// What no run needs for certain, as [`Grant::text`] says it, and why it is granted.
const NEEDED_BY_CHANCE: &[(&str, &str)] = &[
    (
        "pyramid-operator: update writers/finalizers.pyramid.dev",
        "asked for by the admission of owners, where a cluster has it; that is no call",
    ),
    (
        "pyramid-operator: patch events.events.k8s.io",
        "counts an event that comes again within minutes",
    ),
];

/// Rights that are as good as all rights.
const NEVER_VERBS: [&str; 4] = ["*", "escalate", "bind", "impersonate"];
const NEVER_RESOURCES: [&str; 7] = [
    "*",
    "pods/exec",
    "pods/attach",
    "pods/portforward",
    "pods/ephemeralcontainers",
    "serviceaccounts/token",
    "nodes/proxy",
];
/// What is granted where Writers may be, and nowhere else.
const NARROW: [&str; 5] =
    ["secrets", "statefulsets", "services", "serviceaccounts", "persistentvolumeclaims"];

/// All calls of a whole run against all that the chart grants: no call was beyond, and no right is
/// left that nobody has used.
pub(crate) async fn what_is_granted_is_what_was_asked_for(cluster: &Cluster) -> anyhow::Result<()> {
    let grants = cluster.grants(SYSTEM).await?;
    let users: BTreeSet<&str> = grants.iter().map(|grant| grant.user.as_str()).collect();
    ensure!(users.len() == 1, "rights are bound to {users:?}");
    let calls = cluster.calls()?;
    ensure!(calls.iter().any(|call| users.contains(&*call.user)), "no call was written down");
    // Between two installations the operator that ends has no rights: what it has now counts.
    let beyond: Vec<_> = calls
        .iter()
        .filter(|call| users.contains(&*call.user) && call.is_forbidden)
        .filter(|call| !grants.iter().any(|grant| grant.covers(call)))
        .collect();
    ensure!(beyond.is_empty(), "forbidden: {beyond:#?}");
    let unused: BTreeSet<String> = grants
        .iter()
        .filter(|grant| !calls.iter().any(|call| grant.covers(call)))
        .map(Grant::text)
        .collect();
    let granted: BTreeSet<String> = grants.iter().map(Grant::text).collect();
    let by_chance: BTreeSet<String> =
        NEEDED_BY_CHANCE.iter().map(|(text, _why)| (*text).to_owned()).collect();
    let idle: Vec<_> = unused.difference(&by_chance).collect();
    ensure!(idle.is_empty(), "granted and never used: {idle:#?}");
    let stale: Vec<_> = by_chance.difference(&granted).collect();
    ensure!(stale.is_empty(), "an exception for what is not granted: {stale:#?}");
    Ok(())
}

/// The rights of the installation are named one by one, and those over Secrets end where Writers do.
pub(crate) async fn no_right_is_wider_than_its_layer(cluster: &Cluster) -> anyhow::Result<()> {
    let grants = cluster.grants(SYSTEM).await?;
    for grant in &grants {
        let Grant { namespace, group, resource, verb, names, .. } = grant;
        let text = grant.text();
        ensure!(!NEVER_VERBS.contains(&&**verb) && group != "*", "{text}");
        ensure!(!NEVER_RESOURCES.contains(&&**resource), "{text}");
        ensure!(group != "rbac.authorization.k8s.io", "{text}");
        ensure!(namespace.is_some() || !NARROW.contains(&&**resource), "{text} everywhere");
        // A key that is lost cannot be made again.
        let is_deletion = verb.starts_with("delete");
        ensure!(!is_deletion || (resource != "secrets" && namespace.is_some()), "{text}");
        let is_named = !names.is_empty() || namespace.is_some() || resource != "configmaps";
        ensure!(is_named, "{text} of any name");
    }
    let namespaces: BTreeSet<&str> =
        grants.iter().filter_map(|grant| grant.namespace.as_deref()).collect();
    ensure!(namespaces == BTreeSet::from([ELSEWHERE, SYSTEM]), "{namespaces:?}");
    // Where Writers may be, and the operator is not, there is that one layer.
    let elsewhere: BTreeSet<&str> = grants
        .iter()
        .filter(|grant| grant.namespace.as_deref() == Some(ELSEWHERE))
        .map(|grant| grant.role.as_str())
        .collect();
    ensure!(elsewhere == BTreeSet::from(["pyramid-operator-writer-namespace"]), "{elsewhere:?}");
    Ok(())
}

/// The Pods of operator and Writer as they run, a Pod as it gets its pusher, and what protects them.
pub(crate) async fn every_pod_of_ours_is_locked_up(cluster: &Cluster) -> anyhow::Result<()> {
    let get = ["get", "--namespace", SYSTEM];
    let running = "--field-selector=status.phase=Running";
    let pods = cluster.kubectl_json(&[&get[..], &["pods", running]].concat()).await?;
    let mut programs = BTreeSet::new();
    for pod in items(&pods)? {
        let name = text(pod, "/metadata/labels/app.kubernetes.io~1name");
        programs.insert(name.to_owned());
        let spec = pod.get("spec").context("a Pod has a spec")?;
        for container in containers(spec) {
            locked_up(spec, container).with_context(|| text(pod, "/metadata/name").to_owned())?;
        }
        ensure!(!shares_the_node(spec), "{spec}");
        if name == "pyramid-writer" {
            let token = spec.get("automountServiceAccountToken");
            ensure!(token == Some(&Value::Bool(false)), "a Writer has a token: {spec}");
        }
    }
    ensure!(programs.contains("pyramid-operator"), "{programs:?}");
    ensure!(programs.contains("pyramid-writer"), "{programs:?}");
    let run = ["run", "x", "--image=x", "--annotations=pyramid.dev/append=orders"];
    let on_trial = ["--namespace=default", "--dry-run=server"];
    let pod = cluster.kubectl_json(&[&run[..], &on_trial].concat()).await?;
    let spec = pod.get("spec").context("a Pod has a spec")?;
    let pusher = containers(spec).find(|one| text(one, "/name") == "pyramid-pusher");
    locked_up(spec, pusher.context("the Pod has a pusher")?)?;
    for (kind, name) in [
        ("networkpolicies", "pyramid-operator"),
        ("networkpolicies", "pyramid-writer"),
        ("poddisruptionbudgets", "pyramid-operator"),
    ] {
        let found = cluster.kubectl_json(&[&get[..], &[kind, name]].concat()).await?;
        let selector = if kind == "networkpolicies" { "podSelector" } else { "selector" };
        let selected =
            text(&found, &format!("/spec/{selector}/matchLabels/app.kubernetes.io~1name"));
        ensure!(selected == name, "{found}");
        // What is not allowed there is refused.
        let types = found.pointer("/spec/policyTypes").map(Value::to_string).unwrap_or_default();
        ensure!(kind != "networkpolicies" || types.contains("Ingress"), "{found}");
    }
    Ok(())
}

/// Who empties a node takes one operator; the other stays until there are two again, and goes on
/// adding pushers.
pub(crate) async fn one_operator_is_evicted_and_not_the_other(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let system = Shop { cluster, namespace: SYSTEM };
    let evict = async |pod: &str| {
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{pod}/eviction");
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": SYSTEM},
        });
        cluster
            .try_kubectl(&["create", "--raw", &path, "-f", "-"], Some(&eviction.to_string()))
            .await
    };
    let may_go = async || {
        let column = "jsonpath={.status.disruptionsAllowed}";
        let budget = ["get", "poddisruptionbudget", "pyramid-operator", "-o", column];
        Ok(system.kubectl(&budget).await? == "1")
    };
    let all_is_well = async || {
        cluster.wait_for("one operator may go", SOON, may_go).await?;
        scale_operator(cluster, 2).await
    };
    all_is_well().await?;
    let label = "app.kubernetes.io/name=pyramid-operator";
    let names = "jsonpath={.items[*].metadata.name}";
    let pods = system.kubectl(&["get", "pods", "--selector", label, "-o", names]).await?;
    let [first, second] = pods.split_whitespace().collect::<Vec<_>>()[..] else {
        anyhow::bail!("operators: {pods}");
    };
    let taken = evict(first).await?;
    ensure!(taken.success, "{taken:?}");
    let kept = evict(second).await?;
    let text = "Cannot evict pod as it would violate the pod's disruption budget";
    ensure!(!kept.success && kept.stderr.contains(text), "{kept:?}");
    let run = ["run", "x", "--image=x", "--annotations=pyramid.dev/append=orders"];
    cluster.kubectl(&[&run[..], &["--namespace=default", "--dry-run=server"]].concat()).await?;

    all_is_well().await?;
    let taken = evict(second).await?;
    ensure!(taken.success, "{taken:?}");
    all_is_well().await
}

fn items(list: &Value) -> anyhow::Result<&Vec<Value>> {
    list.get("items").and_then(Value::as_array).context("kubectl printed no list")
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let list = |name| spec.get(name).and_then(Value::as_array).into_iter().flatten();
    list("initContainers").chain(list("containers"))
}

fn shares_the_node(spec: &Value) -> bool {
    let is_set = |name| spec.get(name) == Some(&Value::Bool(true));
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let mut of_the_node = volumes.filter(|volume| volume.get("hostPath").is_some());
    is_set("hostNetwork") || is_set("hostPID") || is_set("hostIPC") || of_the_node.next().is_some()
}

/// As the rules "restricted" want it, with a file system that is only read and a limit of memory.
fn locked_up(spec: &Value, container: &Value) -> anyhow::Result<()> {
    let of = |place: &Value, path: &str| place.pointer(&format!("/securityContext{path}")).cloned();
    // What the container does not say, its Pod does.
    let either = |path: &str| of(container, path).or_else(|| of(spec, path));
    let is = |found: Option<Value>, wanted: Value| found == Some(wanted);
    for (rule, holds) in [
        ("runAsNonRoot", is(either("/runAsNonRoot"), true.into())),
        ("seccompProfile", is(either("/seccompProfile/type"), "RuntimeDefault".into())),
        ("readOnlyRootFilesystem", is(of(container, "/readOnlyRootFilesystem"), true.into())),
        ("allowPrivilegeEscalation", is(of(container, "/allowPrivilegeEscalation"), false.into())),
        ("capabilities", is(of(container, "/capabilities/drop"), vec!["ALL"].into())),
        ("no capabilities", of(container, "/capabilities/add").is_none()),
        ("requests", container.pointer("/resources/requests/memory").is_some()),
        ("limits", container.pointer("/resources/limits/memory").is_some()),
    ] {
        ensure!(holds, "{rule} of {}: {container}", text(container, "/name"));
    }
    Ok(())
}
