//! What users see of their objects: columns, explanations, and when helm has waited long enough.

use std::fs;

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use pyramid_e2e::process::Folder;

use super::shop::{PROJECTOR, SOON, Shop, example};

const STREAM: &str = "streams.pyramid.dev/orders";
const SUBSCRIPTION: &str = "subscriptions.pyramid.dev/orders-projector";
/// Records that a consumer is behind only if it gets none: three seconds of the producer.
const BEHIND: u64 = 30;

/// The columns of `kubectl get` and what is below them, but for the age.
async fn columns(shop: &Shop<'_>, object: &str) -> anyhow::Result<Vec<(String, String)>> {
    let printed = shop.kubectl(&["get", object]).await?;
    let [head, row] = printed.lines().collect::<Vec<_>>()[..] else {
        anyhow::bail!("kubectl printed {printed}");
    };
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (mut head, mut row) = (words(head), words(row));
    ensure!(head.len() == row.len() && head.pop().as_deref() == Some("AGE"), "{printed}");
    row.pop();
    Ok(head.into_iter().zip(row).collect())
}

fn expected(columns: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    columns.iter().map(owned).collect()
}

/// How many records there are, and how far behind the consumers are, follows what happens.
pub(crate) async fn columns_show_how_far_streams_and_subscriptions_are(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open(cluster, "columns").await?;
    let is_to_be = async |state: &str| {
        let spec = format!(r#"{{"spec": {{"state": "{state}"}}}}"#);
        shop.kubectl(&["patch", SUBSCRIPTION, "--type=merge", "--patch", &spec]).await
    };
    is_to_be("Paused").await?;
    let behind = async || Ok(shop.appended().await? >= shop.orders().await? + BEHIND);
    cluster.wait_for("the consumer is behind", SOON, behind).await?;
    let count = shop.ends_producing().await?;
    let lag = (count - shop.orders().await?).to_string();

    let shows_lag = async |lag: &str| {
        let shown = columns(&shop, SUBSCRIPTION).await?;
        let right = expected(&[
            ("NAME", "orders-projector"),
            ("MODE", "Broadcast"),
            ("STREAMS", "1"),
            ("LAG", lag),
            ("PUSHERS", "1"),
            ("READY", "True"),
        ]);
        ensure!(shown == right, "{shown:?} instead of {right:?}");
        Ok(true)
    };
    let how_far = async || shows_lag(&lag).await;
    cluster.wait_for("the Subscription shows how far behind it is", SOON, how_far).await?;

    let of_stream = async || {
        let shown = columns(&shop, STREAM).await?;
        let (_, bytes) = shown.get(3).context("a fourth column")?;
        let right = expected(&[
            ("NAME", "orders"),
            ("WRITER", "default"),
            ("NEXT", &count.to_string()),
            ("BYTES", bytes),
            ("READY", "True"),
        ]);
        ensure!(shown == right, "{shown:?} instead of {right:?}");
        // No record is empty.
        ensure!(bytes.parse::<u64>()? > count, "{shown:?}");
        Ok(true)
    };
    cluster.wait_for("the Stream shows what it has", SOON, of_stream).await?;

    is_to_be("Active").await?;
    let caught_up = async || shows_lag("0").await;
    cluster.wait_for("the Subscription shows that nothing is left", SOON, caught_up).await?;
    shop.wait_complete(PROJECTOR, "orders", count).await?;
    shop.leave().await
}

/// What a field is for, and what it may be, is asked of the cluster.
pub(crate) async fn kubectl_explains_kinds_and_fields(cluster: &Cluster) -> anyhow::Result<()> {
    for (field, text) in [
        (
            "stream",
            "A Stream is an ordered log of records with the offsets 0, 1, 2, ... without gaps",
        ),
        ("stream.spec.deletionPolicy", "Delete erases them from the Writer and the bucket"),
        ("stream.spec.deletionPolicy", "ENUM: Retain Delete"),
        ("stream.spec.appenders.serviceAccount", r#"or "*" for every service account"#),
        ("subscription", "Name it in the annotation pyramid.dev/subscriptions"),
        ("subscription.spec.delivery.mode", "Exclusive: one Pod at a time gets the records"),
        ("subscription.status.lagRecords", "<integer>"),
        ("writer.spec.storage.size", "It may grow later, if the StorageClass can, but not shrink"),
    ] {
        let printed = cluster.kubectl(&["explain", field]).await?;
        // Lines end where it suits kubectl.
        let words = printed.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(words.contains(text), "{field}: {text:?} is not in {printed}");
    }
    Ok(())
}

/// A chart of a user is installed when its Stream and its Subscription are ready, and not before;
/// the same after a change.
pub(crate) async fn helm_waits_until_streams_and_subscriptions_are_ready(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "helm-waits").await?;
    let folder = Folder::new()?;
    let chart = folder.join("shop");
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: shop\nversion: 0.1.0\n")?;
    fs::write(chart.join("values.yaml"), "stream: orders\n")?;
    let subscription =
        example("subscription")?.replace("- name: orders\n", "- name: {{ .Values.stream }}\n");
    ensure!(subscription.contains(".Values.stream"), "the example has changed: {subscription}");
    let objects = format!("{}---\n{subscription}", example("stream")?);
    fs::write(chart.join("templates/objects.yaml"), objects)?;
    let chart = chart.display().to_string();
    let helm = async |verb: &str, timeout: &str, stream: &str| {
        let stream = format!("stream={stream}");
        let what = [verb, "shop", &chart, "--namespace", shop.namespace, "--set", &stream];
        cluster.helm(&[&what[..], &["--wait", "--timeout", timeout]].concat()).await
    };
    let ready = async || {
        let states = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
        shop.kubectl(&["get", STREAM, SUBSCRIPTION, "-o", states]).await
    };

    helm("install", "90s", "orders").await?;
    ensure!(ready().await? == "True True", "installed: {}", ready().await?);
    // What cannot be ready is waited for in vain.
    let error = helm("upgrade", "10s", "refunds").await.err();
    let error = format!("{:#}", error.context("helm has not waited")?);
    ensure!(error.contains("orders-projector"), "{error}");
    ensure!(ready().await? == "True False", "not to be ready: {}", ready().await?);
    helm("upgrade", "90s", "orders").await?;
    ensure!(ready().await? == "True True", "changed back: {}", ready().await?);
    cluster.helm(&["uninstall", "shop", "--namespace", shop.namespace, "--wait"]).await?;

    let error = helm("install", "10s", "refunds").await.err();
    let error = format!("{:#}", error.context("helm has not waited")?);
    ensure!(error.contains("orders-projector"), "{error}");
    ensure!(ready().await? == "True False", "not to be ready: {}", ready().await?);
    shop.leave().await
}
