//! Other versions of the programs, and no operator between two installations.

use anyhow::ensure;
use pyramid_e2e::cluster::Cluster;

use super::install;
use super::shop::{LOAD, PRODUCER, PROJECTOR, SOON, Shop};

/// The programs of the chart.
const PROGRAMS: [&str; 3] = ["pyramid-operator", "pyramid-writer", "pyramid-pusher"];
/// Under which tag their images are there once more.
const NEXT: &str = "next";

const UPGRADE: &str = "
helm upgrade pyramid helm/pyramid --namespace pyramid-system --wait --reset-then-reuse-values \\
  --set image.tag=next --set writer.image.tag=next --set pusher.image.tag=next
";

/// The images in the running Pods of this label in this namespace.
async fn images(shop: &Shop<'_>, label: &str) -> anyhow::Result<Vec<String>> {
    let images = "jsonpath={.items[*].spec['initContainers','containers'][*].image}";
    let get = ["get", "pods", "--selector", label, "--field-selector=status.phase=Running"];
    let found = shop.kubectl(&[&get[..], &["-o", images]].concat()).await?;
    Ok(found.split_whitespace().map(str::to_owned).collect())
}

/// Waits until the Writer runs this image, and is ready.
async fn writer_runs(system: &Shop<'_>, tag: &str) -> anyhow::Result<()> {
    let image = format!("localhost/pyramid-writer:{tag}");
    let replaced = async || {
        let label = "app.kubernetes.io/name=pyramid-writer";
        Ok(images(system, label).await? == [image.as_str()])
    };
    system.cluster.wait_for("the Writer has the other image", SOON, replaced).await?;
    system.wait(&["--for=condition=Ready", "pod/default-writer-0"]).await.map(drop)
}

/// How often the producer had to try again.
async fn failed_appends(shop: &Shop<'_>) -> anyhow::Result<usize> {
    let logs = ["logs", PRODUCER, "--container", "producer"];
    Ok(shop.kubectl(&logs).await?.lines().filter(|line| line.contains("again in")).count())
}

/// Operators, Writer and pushers are replaced; what is appended meanwhile waits in the pusher, and
/// its producer sees no error.
pub(crate) async fn other_images_come_under_load_without_a_failed_append(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    for program in PROGRAMS {
        let image = format!("localhost/{program}");
        cluster.tag_image(&format!("{image}:0.1.0"), &format!("{image}:{NEXT}")).await?;
    }
    let system = Shop { cluster, namespace: "pyramid-system" };
    let shop = Shop::open_under_load(cluster, "upgrade").await?;
    let failed = failed_appends(&shop).await?;
    cluster.shell(UPGRADE).await?;
    let next = format!("localhost/pyramid-operator:{NEXT}");
    let replaced = async || {
        let operators = images(&system, "app.kubernetes.io/name=pyramid-operator").await?;
        Ok(operators == [next.as_str(), next.as_str()])
    };
    cluster.wait_for("both operators have the other image", SOON, replaced).await?;
    writer_runs(&system, NEXT).await?;
    shop.goes_on(5 * LOAD).await?;
    let failed = failed_appends(&shop).await? - failed;
    ensure!(failed == 0, "{failed} appends failed");
    // A Pod that is made now gets the pusher of the other version.
    shop.kubectl(&["rollout", "restart", PROJECTOR]).await?;
    shop.kubectl(&["rollout", "status", PROJECTOR, "--timeout=90s"]).await?;
    let pusher = format!("localhost/pyramid-pusher:{NEXT}");
    let consumer = images(&shop, "app=orders-projector").await?;
    ensure!(consumer.contains(&pusher), "the consumer has {consumer:?}");
    shop.close().await
}

/// Nothing that holds data belongs to the release, and nothing that delivers needs it.
pub(crate) async fn uninstalled_and_installed_again_all_goes_on(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let system = Shop { cluster, namespace: "pyramid-system" };
    let shop = Shop::open_under_load(cluster, "reinstalled").await?;
    let id = shop.stream_id().await?;
    cluster.helm(&["uninstall", "pyramid", "--namespace", system.namespace, "--wait"]).await?;
    let left = system.kubectl(&["get", "deployments", "-o", "name"]).await?;
    ensure!(left.is_empty(), "{left} is left");
    shop.goes_on(5 * LOAD).await?;
    cluster.shell(&install()).await?;
    writer_runs(&system, "0.1.0").await?;
    shop.goes_on(5 * LOAD).await?;
    let another = "apiVersion: pyramid.dev/v1alpha1\nkind: Stream\nmetadata: {name: another}\n";
    shop.apply(another).await?;
    shop.wait(&["--for=condition=Ready", "streams.pyramid.dev/another"]).await?;
    ensure!(shop.stream_id().await? == id, "another stream than {id}");
    shop.close().await
}
