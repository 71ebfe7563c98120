//! What the operator asks of the API server while nothing changes.
//!
//! The API server counts requests by verb and resource. Nobody but the operator uses the resources
//! of Pyramid meanwhile, so those that write are all its own; among those that read are lists of this
//! program and watches of the control plane too. What else it could write (children of Writers, the
//! bundle, its Lease) is compared by resource version: an object that was written has another one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{Figure, SYSTEM, metrics};
use crate::cluster::Cluster;

/// Verbs that do not write.
const READS: [&str; 3] = ["GET", "LIST", "WATCH"];
/// Status and numbers of what was made just before are written first.
const SETTLE: Duration = Duration::from_secs(60);
/// Kinds that the operator writes. Leases are renewed by whoever leads.
const KINDS: &str = "streams.pyramid.dev,subscriptions.pyramid.dev,writers.pyramid.dev";
const CHILDREN: &str = "configmaps,secrets,services,serviceaccounts,statefulsets,\
     persistentvolumeclaims,poddisruptionbudgets,leases";
const WEBHOOKS: &str = "mutatingwebhookconfigurations";

/// Requests by verb and resource.
type Requests = BTreeMap<(String, String), f64>;
/// Resource versions by kind, namespace and name.
type Versions = BTreeMap<String, String>;

pub(super) async fn take(cluster: &Cluster, idle: Duration) -> anyhow::Result<Vec<Figure>> {
    tokio::time::sleep(SETTLE).await;
    let (versions, requests) = (versions(cluster).await?, requests(cluster).await?);
    tokio::time::sleep(idle).await;
    let (requests_after, versions_after) =
        (self::requests(cluster).await?, self::versions(cluster).await?);
    let seconds = idle.as_secs();
    let mut figures = Vec::new();
    let mut writes = 0.0;
    for ((verb, resource), after) in requests_after {
        let key = (verb, resource);
        let count = after - requests.get(&key).unwrap_or(&0.0);
        if count > 0.0 {
            let (verb, resource) = key;
            if !READS.contains(&verb.as_str()) {
                writes += count;
            }
            figures.push(Figure::new(format!("{seconds} s idle: {verb} {resource}"), count, ""));
        }
    }
    let what = format!("{seconds} s idle: writes to pyramid.dev");
    figures.push(Figure::new(what, writes, "").at_most(0.0));
    let mut written = 0.0;
    for (object, version) in versions_after {
        if versions.get(&object) != Some(&version) {
            if !object.starts_with("Lease ") {
                written += 1.0;
            }
            figures.push(Figure::new(format!("{seconds} s idle: written: {object}"), 1.0, ""));
        }
    }
    let what = format!("{seconds} s idle: objects written, but for Leases");
    figures.push(Figure::new(what, written, "").at_most(0.0));
    Ok(figures)
}

async fn requests(cluster: &Cluster) -> anyhow::Result<Requests> {
    let page = cluster.kubectl(&["get", "--raw", "/metrics"]).await?;
    let mut requests = Requests::new();
    for sample in metrics::samples(&page) {
        if sample.name != "apiserver_request_total" || sample.label("group") != Some("pyramid.dev")
        {
            continue;
        }
        let label = |name| sample.label(name).unwrap_or_default();
        let resource = match label("subresource") {
            "" => label("resource").to_owned(),
            below => format!("{}/{below}", label("resource")),
        };
        *requests.entry((label("verb").to_owned(), resource)).or_default() += sample.value;
    }
    Ok(requests)
}

async fn versions(cluster: &Cluster) -> anyhow::Result<Versions> {
    let mut versions = Versions::new();
    for arguments in
        [&["get", KINDS, "-A"][..], &["get", CHILDREN, "-n", SYSTEM][..], &["get", WEBHOOKS][..]]
    {
        let list = cluster.kubectl_json(arguments).await?;
        for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
            let text = |pointer| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let namespace = text("/metadata/namespace");
            let object = format!("{} {namespace}/{}", text("/kind"), text("/metadata/name"));
            versions.insert(object, text("/metadata/resourceVersion").to_owned());
        }
    }
    Ok(versions)
}
