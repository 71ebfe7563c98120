//! Memory of operator and pushers while little happens.
//!
//! It is the working set that the kubelet reports for a container: what it has in memory but for
//! pages of files that can be dropped. Limits of memory are judged by it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Figure, OPERATOR, SYSTEM, metrics, pods};
use crate::cluster::Cluster;

/// The namespace with the quickstart's application.
pub(super) const SHOP: &str = "figures-shop";
/// The kubelet looks every ten seconds.
const SETTLE: Duration = Duration::from_secs(30);
/// A chunk is sealed so long after its first record.
const CHUNK_AGE: Duration = Duration::from_secs(600);

/// The quickstart's application: ten orders a second, and a table of them.
pub(super) async fn open_shop(cluster: &Cluster) -> anyhow::Result<()> {
    cluster
        .shell(&format!(
            "kubectl create namespace {SHOP}
            cd docs/examples/kubernetes
            kubectl -n {SHOP} apply -f stream.yaml -f subscription.yaml
            kubectl -n {SHOP} wait --timeout=120s --for=condition=Ready \
              streams.pyramid.dev/orders subscriptions.pyramid.dev/orders-projector
            kubectl -n {SHOP} apply -f consumer.yaml -f producer.yaml
            kubectl -n {SHOP} rollout status --timeout=120s deployment/orders-projector
            kubectl -n {SHOP} rollout status --timeout=120s deployment/orders-producer"
        ))
        .await
        .map(drop)
}

pub(super) async fn close_shop(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.kubectl(&["delete", "namespace", SHOP, "--timeout=180s"]).await.map(drop)
}

/// Without it nothing changes any more.
pub(super) async fn close_producer(cluster: &Cluster) -> anyhow::Result<()> {
    let delete = ["delete", "deployment", "orders-producer", "-n", SHOP, "--wait=true"];
    cluster.kubectl(&delete).await.map(drop)
}

/// How large the shop's Stream is, as its status says. Unit: bytes.
pub(super) async fn size(cluster: &Cluster) -> anyhow::Result<u64> {
    let path = "jsonpath={.status.sizeBytes}";
    let size = ["get", "streams.pyramid.dev/orders", "-n", SHOP, "-o", path];
    Ok(cluster.kubectl(&size).await?.parse()?)
}

/// Until the last chunk of the shop's Stream is sealed, which makes it smaller than `before`. Nothing
/// else changes after its producer is gone.
pub(super) async fn sealed(cluster: &Cluster, before: u64) -> anyhow::Result<()> {
    let is_smaller = async || Ok(size(cluster).await? < before);
    cluster.wait_for("the shop's last chunk is sealed", CHUNK_AGE + SETTLE, is_smaller).await
}

/// The greatest of the operator's, and of the pushers' while ten records come in a second.
pub(super) async fn take(
    cluster: &Cluster,
    with: &str,
    with_pushers: bool,
) -> anyhow::Result<Vec<Figure>> {
    tokio::time::sleep(SETTLE).await;
    let mut figures = Vec::new();
    let mut add = |what: &str, value, bound| {
        let what = format!("{what} with {with}: working set");
        figures.push(Figure::new(what, value, "MiB").at_most(bound));
    };
    add("operator", greatest(cluster, SYSTEM, OPERATOR, "operator").await?, 64.0);
    if with_pushers {
        let shop = "app in (orders-projector,orders-producer)";
        add("pusher", greatest(cluster, SHOP, shop, "pyramid-pusher").await?, 32.0);
    }
    Ok(figures)
}

/// Of the containers of this name in these Pods.
async fn greatest(
    cluster: &Cluster,
    namespace: &str,
    label: &str,
    container: &str,
) -> anyhow::Result<f64> {
    let pods = pods(cluster, namespace, label).await?;
    let nodes: BTreeSet<_> = pods.iter().map(|(_, node)| node).collect();
    let mut found = Vec::new();
    for node in nodes {
        let page = format!("/api/v1/nodes/{node}/proxy/metrics/resource");
        let page = cluster.kubectl(&["get", "--raw", &page]).await?;
        let of_these = metrics::samples(&page).filter(|sample| {
            sample.name == "container_memory_working_set_bytes"
                && sample.label("namespace") == Some(namespace)
                && sample.label("container") == Some(container)
                && pods.iter().any(|(pod, _)| sample.label("pod") == Some(pod))
        });
        found.extend(of_these.map(|sample| sample.value / f64::from(1 << 20)));
    }
    anyhow::ensure!(
        !pods.is_empty() && found.len() == pods.len(),
        "the kubelets tell of {} of {} containers {container}",
        found.len(),
        pods.len()
    );
    Ok(found.into_iter().fold(0.0, f64::max))
}
