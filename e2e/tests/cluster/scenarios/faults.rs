//! What dies under load, and comes back.

use std::time::Duration;

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use tokio::time::sleep;

use super::shop::{LOAD, SOON, Shop};

/// How long a node reaches nothing.
const CUT: Duration = Duration::from_secs(30);
/// Where the chart is installed.
const SYSTEM: &str = "pyramid-system";
/// The Pod of the Writer that bare Streams get.
const WRITER: &str = "default-writer-0";
/// The label of the programs in it.
const NAME: &str = "app.kubernetes.io/name";

/// The identities of the Pods in [`SYSTEM`] with these names in [`NAME`].
async fn pods(cluster: &Cluster, names: &str) -> anyhow::Result<Vec<String>> {
    let selector = format!("{NAME} in ({names})");
    let uids = "jsonpath={.items[*].metadata.uid}";
    let get = ["--namespace", SYSTEM, "get", "pods", "--selector", &selector, "-o", uids];
    let found = cluster.kubectl(&get).await?;
    Ok(found.split_whitespace().map(str::to_owned).collect())
}

/// Deletes these Pods at once, and waits until none of them is left and all programs are ready.
async fn delete_pods(cluster: &Cluster, names: &str) -> anyhow::Result<()> {
    let before = pods(cluster, names).await?;
    ensure!(!before.is_empty(), "no pods of {names}");
    let selector = format!("{NAME} in ({names})");
    let delete = ["--namespace", SYSTEM, "delete", "pods", "--wait=false", "--selector", &selector];
    cluster.kubectl(&delete).await?;
    cluster
        .wait_for("the pods are others", SOON, async || {
            let now = pods(cluster, names).await?;
            Ok(now.len() == before.len() && now.iter().all(|pod| !before.contains(pod)))
        })
        .await?;
    let wait = ["wait", "--for=condition=Ready", "--timeout=90s", "pods", "--selector", &selector];
    cluster.kubectl(&[&["--namespace", SYSTEM], &wait[..]].concat()).await?;
    Ok(())
}

/// Kills all processes of the Writer at once, and waits until its node has started it again in the
/// same Pod.
async fn kill_writer(cluster: &Cluster) -> anyhow::Result<()> {
    let pod_and_container = async || {
        let columns = "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID}";
        let ids = ["--namespace", SYSTEM, "get", "pod", WRITER, "-o", columns];
        let ids = cluster.kubectl(&ids).await?;
        let (pod, container) = ids.split_once(' ').with_context(|| ids.clone())?;
        Ok::<_, anyhow::Error>((pod.to_owned(), container.to_owned()))
    };
    let (pod, container) = pod_and_container().await?;
    cluster.kill_pod(SYSTEM, WRITER).await?;
    let is_started_again = async || {
        let (now, started) = pod_and_container().await?;
        ensure!(now == pod, "Pod {now} instead of {pod}");
        Ok(!started.is_empty() && started != container)
    };
    cluster.wait_for("the Writer is started again", SOON, is_started_again).await?;
    let ready = ["wait", "--timeout=90s", "--for=condition=Ready", "pod", WRITER];
    cluster.kubectl(&[&["--namespace", SYSTEM], &ready[..]].concat()).await.map(drop)
}

/// Where the consumer runs.
async fn node_of_consumer(shop: &Shop<'_>) -> anyhow::Result<String> {
    let node = "jsonpath={.items[0].spec.nodeName}";
    shop.kubectl(&["get", "pods", "--selector", "app=orders-projector", "-o", node]).await
}

/// How often the application of the consumer was started again.
async fn restarts(shop: &Shop<'_>) -> anyhow::Result<u64> {
    let count = "jsonpath={.items[0].status.containerStatuses[?(@.name=='orders')].restartCount}";
    let get = ["get", "pods", "--selector", "app=orders-projector", "-o", count];
    Ok(shop.kubectl(&get).await?.parse()?)
}

/// Waits until the default Writer says so of its bucket.
async fn bucket_is(cluster: &Cluster, reachable: &str) -> anyhow::Result<()> {
    let condition = format!("--for=condition=ObjectStorageReady={reachable}");
    let writer = ["--namespace", SYSTEM, "writers.pyramid.dev/default"];
    cluster.kubectl(&[&["wait", "--timeout=90s", &condition], &writer[..]].concat()).await.map(drop)
}

/// Waits until Kubernetes thinks so of a node.
async fn node_is(cluster: &Cluster, node: &str, ready: &str) -> anyhow::Result<()> {
    let condition = format!("--for=condition=Ready={ready}");
    let node = format!("node/{node}");
    cluster.kubectl(&["wait", "--timeout=90s", &condition, &node]).await.map(drop)
}

/// The Writer is in the way of every append while it starts; its volume has what it had said yes to,
/// whether it was told to end or not.
pub(crate) async fn appends_go_on_after_the_writers_pod_was_deleted_and_after_it_was_killed(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open_under_load(cluster, "writer-deleted").await?;
    delete_pods(cluster, "pyramid-writer").await?;
    shop.goes_on(3 * LOAD).await?;
    kill_writer(cluster).await?;
    shop.goes_on(3 * LOAD).await?;
    shop.close().await
}

/// Deliveries need no operator; and those that come after it know what was.
pub(crate) async fn operators_and_writer_deleted_at_once_come_back(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open_under_load(cluster, "operators-deleted").await?;
    delete_pods(cluster, "pyramid-operator").await?;
    shop.goes_on(2 * LOAD).await?;
    delete_pods(cluster, "pyramid-operator,pyramid-writer").await?;
    shop.goes_on(3 * LOAD).await?;
    let another = "apiVersion: pyramid.dev/v1alpha1\nkind: Stream\nmetadata: {name: another}\n";
    shop.apply(another).await?;
    shop.wait(&["--for=condition=Ready", "streams.pyramid.dev/another"]).await?;
    shop.close().await
}

/// The volume of the Writer keeps what cannot be shipped, and pushers get it from there.
pub(crate) async fn deliveries_go_on_while_the_bucket_is_away(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open_under_load(cluster, "bucket-away").await?;
    cluster.s3().stop().await?;
    // At this load half a minute.
    let away = async {
        ensure!(cluster.s3().list("").await.is_err(), "the bucket answers");
        shop.goes_on(15 * LOAD).await?;
        let filled = shop.appends_two_chunks().await?;
        bucket_is(cluster, "False").await?;
        shop.goes_on(15 * LOAD).await?;
        anyhow::Ok(filled)
    };
    let outcome = away.await;
    cluster.s3().start().await?;
    let filled = outcome?;
    bucket_is(cluster, "True").await?;
    shop.has_two_chunks().await?;
    shop.goes_on(2 * LOAD).await?;
    shop.ends_complete_beside(filled).await?;
    shop.leave().await
}

/// A power cut: kubelet, containerd and all Pods of the node.
pub(crate) async fn a_consumer_comes_back_with_its_killed_node(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open_under_load(cluster, "node-killed").await?;
    let started = restarts(&shop).await?;
    let name = node_of_consumer(&shop).await?;
    let node = cluster.node_named(&name)?;
    node.kill().await?;
    let noticed = node_is(cluster, &name, "Unknown").await;
    node.start().await?;
    noticed?;
    node_is(cluster, &name, "True").await?;
    let again = async || Ok(restarts(&shop).await? > started);
    cluster.wait_for("the application was started again", SOON, again).await?;
    shop.goes_on(10 * LOAD).await?;
    shop.close().await
}

/// The Pods of the node run on, and reach nothing until it is connected again.
pub(crate) async fn a_consumer_catches_up_after_its_node_was_cut_off(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open_under_load(cluster, "node-cut").await?;
    let name = node_of_consumer(&shop).await?;
    let node = cluster.node_named(&name)?;
    node.cut().await?;
    let (noticed, ()) = tokio::join!(node_is(cluster, &name, "Unknown"), sleep(CUT));
    node.join().await?;
    noticed?;
    node_is(cluster, &name, "True").await?;
    shop.goes_on(10 * LOAD).await?;
    shop.close().await
}
