//! Objects that do not fit together, and what each of them says: a reason, what to do, an event.
//! Beside or after each is one that differs in one thing and is well.

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use serde_json::{Value, json};

use super::SYSTEM;
use super::numbers::Numbers;
use super::shop::{SOON, Shop, example, own_writer};
use super::values;

const DEFAULT: &str = "writers.pyramid.dev/default";
const ORDERS: &str = "streams.pyramid.dev/orders";
const REFUNDS: &str = "streams.pyramid.dev/refunds";
const PROJECTOR: &str = "subscriptions.pyramid.dev/orders-projector";
/// A program that waits, and takes no pushes.
const WAITS: &str = "--image=localhost/pyramid-probe:0.1.0";

/// A Stream of this name with this spec.
fn stream(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: pyramid.dev/v1alpha1\nkind: Stream\nmetadata: {{name: {name}}}\nspec: \
         {{{spec}}}\n"
    )
}

/// A Subscription of this name with these Streams.
fn subscription(name: &str, streams: &[&str]) -> String {
    let streams = streams.iter().map(|stream| format!("{{name: {stream}}}"));
    format!(
        "apiVersion: pyramid.dev/v1alpha1\nkind: Subscription\nmetadata: {{name: {name}}}\nspec: \
         {{streams: [{}]}}\n",
        streams.collect::<Vec<_>>().join(", ")
    )
}

/// Writers, Streams and Subscriptions of one namespace, in which no Writer may run.
pub(crate) async fn what_is_wired_wrongly_says_so_and_gets_ready_when_it_is_mended(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    const HERE: &str = "writers.pyramid.dev/here";
    const STRAYED: &str = "streams.pyramid.dev/strayed";
    const BOTH: &str = "subscriptions.pyramid.dev/both";
    const REFUNDED: &str = "subscriptions.pyramid.dev/refunded";
    let system = Shop { cluster, namespace: SYSTEM };
    let shop = Shop::new(cluster, "wiring").await?;

    // A Writer that may not run here. The one of another scenario, elsewhere, gets ready. What it
    // names may not even be looked at, which is no reason to tell the pushers here nothing.
    let unseen = "    caConfigMapRef: {name: unseen}\n";
    shop.apply(&format!("{}{unseen}", own_writer("here"))).await?;
    let add = "may not run Writers in namespace wiring; add it to the chart's writerNamespaces";
    shop.says(HERE, "Ready", "False/NamespaceNotEnabled", add).await?;
    shop.says(HERE, "Stalled", "True/NamespaceNotEnabled", add).await?;
    shop.told(&shop.uid(HERE).await?, "NamespaceNotEnabled", add).await?;
    let made = shop.kubectl(&["get", "statefulsets,services,secrets,pvc", "-o", "name"]).await?;
    ensure!(made.is_empty(), "it is made of {made}");

    // Streams without a Writer that serves them, beside one that has it.
    for (name, spec) in [
        ("orders", ""),
        ("unserved", "writerRef: {name: here}"),
        ("strayed", "writerRef: {name: nobody}"),
    ] {
        shop.apply(&stream(name, spec)).await?;
    }
    let bound = "bound to Writer pyramid-system/default";
    shop.wait(&["--for=condition=Ready", ORDERS]).await?;
    shop.told(&shop.uid(ORDERS).await?, "StreamBound", bound).await?;
    let unserved = "Writer wiring/here does not serve yet";
    shop.says("streams.pyramid.dev/unserved", "Ready", "False/WriterNotReady", unserved).await?;
    let create = "there is no Writer wiring/nobody; create it";
    shop.says(STRAYED, "Accepted", "False/WriterNotFound", create).await?;
    shop.apply(&own_writer("nobody")).await?;
    shop.says(STRAYED, "Accepted", "True/Accepted", "Writer wiring/nobody keeps it").await?;

    // Subscriptions whose Streams lie in two Writers, or are not there.
    shop.apply(&subscription("both", &["orders", "unserved"])).await?;
    let several = "pyramid-system/default, wiring/here; make one Subscription for each";
    shop.says(BOTH, "ResolvedRefs", "False/SeveralWriters", several).await?;
    shop.says(BOTH, "Stalled", "True/SeveralWriters", several).await?;
    shop.patch(BOTH, r#"{"spec": {"streams": [{"name": "orders"}]}}"#).await?;
    shop.wait(&["--for=condition=Ready", BOTH]).await?;
    shop.apply(&subscription("refunded", &["refunds"])).await?;
    let missing = "not there: wiring/refunds";
    shop.says(REFUNDED, "ResolvedRefs", "False/StreamNotFound", missing).await?;
    shop.apply(&stream("refunds", "")).await?;
    shop.wait(&["--for=condition=Ready", REFUNDED]).await?;

    // What goes leaves its records, and a Subscription nothing; who comes next is told of them.
    let writer = system.uid(DEFAULT).await?;
    shop.says(REFUNDS, "Programmed", "True/Programmed", "of Writer").await?;
    // In this order: a Subscription whose last Stream went before it has left the Writer by then.
    shop.kubectl(&["delete", REFUNDED, REFUNDS]).await?;
    let closed = "stream wiring/refunds was closed, its Stream is gone; records stay";
    system.told(&writer, "StreamClosed", closed).await?;
    let removed = "subscription wiring/refunded was removed, its object is gone";
    system.told(&writer, "SubscriptionRemoved", removed).await?;
    shop.apply(&stream("refunds", "")).await?;
    let kept = "the records of an earlier Stream of this name are in it";
    shop.says(REFUNDS, "Programmed", "True/Reattached", kept).await?;
    shop.told(&shop.uid(REFUNDS).await?, "StreamReattached", "were found and are kept").await?;
    shop.leave().await
}

/// `Delivering`, from a Subscription that is paused to one that delivers; and a Pod that names none
/// that is there.
pub(crate) async fn a_subscription_says_why_nothing_is_delivered(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "not-delivered").await?;
    let run = async |pod: &str, subscription: &str| {
        let annotation = format!("--annotations=pyramid.dev/subscriptions={subscription}");
        let run = ["run", pod, WAITS, "--restart=Never", &annotation, "--", "wait"];
        shop.kubectl(&run).await
    };
    shop.apply_example("stream").await?;
    shop.apply(&format!("{}  state: Paused\n", example("subscription")?)).await?;
    run("mistaken", "order-projector").await?;
    shop.wait(&["--for=condition=Ready", ORDERS, PROJECTOR]).await?;
    shop.says(PROJECTOR, "Delivering", "False/Paused", "spec.state is Paused").await?;
    shop.patch(PROJECTOR, r#"{"spec": {"state": "Active"}}"#).await?;
    let annotation = "name it in the pods' annotation";
    shop.says(PROJECTOR, "Delivering", "False/NoConsumers", annotation).await?;

    run("deaf", "orders-projector").await?;
    let deaf = "Stream not-delivered/orders in pod deaf: ";
    shop.says(PROJECTOR, "Delivering", "False/ConsumerUnreachable", deaf).await?;
    let create = "pod mistaken names Subscription order-projector, which does not exist; create it";
    shop.told(&shop.uid("pod/mistaken").await?, "SubscriptionMissing", create).await?;
    shop.kubectl(&["delete", "pod", "deaf", "--grace-period=1"]).await?;
    shop.apply_example("consumer").await?;
    shop.says(PROJECTOR, "Delivering", "True/Idle", "all records are accepted").await?;
    let reason = "--field-selector=reason=SubscriptionMissing";
    let column = "jsonpath={.items[*].involvedObject.name}";
    let told = shop.kubectl(&["get", "events", reason, "-o", column]).await?;
    ensure!(told == "mistaken", "a Subscription is missing to {told}");
    shop.leave().await
}

/// A Pod that asked for nothing while it was made, and asks now, as one from before the
/// installation: it and what made it are told, and it is counted until it is made anew.
pub(crate) async fn a_pod_that_asks_too_late_is_counted_and_told_of(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "asks-too-late").await?;
    let counted =
        async || Numbers::of_operators(cluster, "pyramid_pods_missing_sidecar", &[]).await;
    let create = ["create", "deployment", "late", WAITS, "--", "/pyramid-probe", "wait"];
    shop.kubectl(&create).await?;
    shop.wait(&["--for=condition=Available", "deployment/late"]).await?;
    let selected = ["--selector=app=late", "-o"];
    let uid_of = async |kind: &str| {
        let uid = "jsonpath={.items[*].metadata.uid}";
        shop.kubectl(&[&["get", kind][..], &selected, &[uid]].concat()).await
    };
    let (pod, set) = (uid_of("pods").await?, uid_of("replicasets").await?);

    let before = counted().await?;
    let asks = ["annotate", "pods", "--selector=app=late", "pyramid.dev/append=orders"];
    shop.kubectl(&asks).await?;
    let more = async || Ok(counted().await? == before + 1);
    cluster.wait_for("one more Pod is counted", SOON, more).await?;
    for uid in [&pod, &set] {
        shop.told(uid, "SidecarMissing", "asks for Pyramid and has no pusher").await?;
    }

    // What made it makes another.
    let annotations = json!({"pyramid.dev/append": "orders"});
    let template = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    shop.patch("deployment/late", &template.to_string()).await?;
    let as_before = async || Ok(counted().await? == before);
    cluster.wait_for("it is not counted any more", SOON, as_before).await?;
    let pods = ["get", "pods", "--namespace", shop.namespace, "--selector=app=late"];
    let listed = cluster.kubectl_json(&pods).await?;
    let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let staying: Vec<_> = listed["items"].as_array().into_iter().flatten().filter(stays).collect();
    let [staying] = staying[..] else { anyhow::bail!("not one Pod: {listed}") };
    let injected = &staying["metadata"]["annotations"]["pyramid.dev/injected-by"];
    ensure!(injected.is_string() && staying["metadata"]["uid"] != *pod, "{staying}");
    shop.leave().await
}

/// The chart has no bucket, and there is no Writer yet: the first Stream names the command that
/// gives one, and that command does. The Writer `default` finds the volume that it had.
pub(crate) async fn without_a_bucket_a_stream_names_the_command_that_gives_one(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let system = Shop { cluster, namespace: SYSTEM };
    let shop = Shop::new(cluster, "no-bucket").await?;
    let known = "jsonpath={.status.clusterID}";
    let before = system.kubectl(&["get", DEFAULT, "-o", known]).await?;
    ensure!(before.len() == 32, "the default Writer has no cluster id: {before:?}");
    let without = format!(
        "helm upgrade pyramid helm/pyramid --namespace {SYSTEM} --wait --reset-values {}\n",
        values()
    );
    cluster.shell(&without).await?;
    let named = async {
        system.kubectl(&["delete", DEFAULT, "--timeout=90s"]).await?;
        shop.apply_example("stream").await?;
        let needs = "the default Writer needs a bucket: helm upgrade pyramid <chart> ";
        shop.says(ORDERS, "Accepted", "False/NoObjectStorage", needs).await?;
        shop.says(ORDERS, "Stalled", "True/NoObjectStorage", needs).await?;
        let message = "jsonpath={.status.conditions[?(@.type=='Accepted')].message}";
        let message = shop.kubectl(&["get", ORDERS, "-o", message]).await?;
        let (_, command) = message.split_once("a bucket: ").context("a command")?;
        anyhow::Ok(command.to_owned())
    };
    let named = named.await;
    // Also after a failure: what runs later needs it. The store of this cluster needs more values.
    let usual = format!("helm upgrade pyramid <chart> -n {SYSTEM} --reset-then-reuse-values ");
    let usual = format!("{usual}--set defaultWriter.spec.objectStorage.bucket=<bucket>");
    let command = named.as_deref().unwrap_or(&usual);
    let command = command.replace("<chart>", "helm/pyramid").replace("<bucket>", "$S3_BUCKET");
    let storage = "--set defaultWriter.spec.objectStorage";
    let given = format!(
        "{command} --wait {storage}.endpoint=$S3_ENDPOINT \
         {storage}.credentialsSecretRef.name=bucket\n"
    );
    cluster.shell(&given).await?;
    let named = named?;
    ensure!(named == usual, "it names {named}");
    shop.wait(&["--for=condition=Ready", ORDERS]).await?;
    let uid = system.uid(DEFAULT).await?;
    system.told(&uid, "AdoptingVolumes", "the volume that an earlier Writer of this name").await?;
    let after = system.kubectl(&["get", DEFAULT, "-o", known]).await?;
    ensure!(after == before, "another log: {after} after {before}");
    shop.leave().await
}
