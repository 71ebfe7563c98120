//! Writers outside of the namespace of the release, in [`ELSEWHERE`].

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use serde_json::{Value, json};

use super::shop::{SOON, Shop, example, own_writer};
use super::{ELSEWHERE, SYSTEM};

/// How long a Job may take. It is tried again while its stream is new.
const JOB: &str = "--timeout=120s";
const STREAM: &str = "streams.pyramid.dev/orders";
const SUBSCRIPTION: &str = "subscriptions.pyramid.dev/orders-projector";

/// The Writer that serves.
const FAR: &str = "writers.pyramid.dev/far";
/// The Stream that cannot be erased.
const HELD: &str = "streams.pyramid.dev/held";

/// A Writer of [`ELSEWHERE`], for the Streams of that namespace, which goes with its volume.
fn writer(name: &str) -> anyhow::Result<String> {
    let writer = own_writer(name)
        .replace("from: All", "from: Same")
        .replace("storage: {size: 1Gi}", "storage: {size: 1Gi, whenDeleted: Delete}");
    let is_so = writer.contains("from: Same") && writer.contains("whenDeleted: Delete");
    ensure!(is_so, "Writers of scenarios have changed: {writer}");
    Ok(writer)
}

/// The namespace, with what its Writers need to reach the bucket.
async fn elsewhere(cluster: &Cluster) -> anyhow::Result<Shop<'_>> {
    let get = ["get", "secret", "bucket", "--namespace", SYSTEM];
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bucket", "namespace": ELSEWHERE},
        "data": cluster.kubectl_json(&get).await?["data"],
    });
    cluster.apply(&secret.to_string()).await?;
    Ok(Shop { cluster, namespace: ELSEWHERE })
}

/// What the pushers of a namespace are told.
async fn bootstrap(shop: &Shop<'_>) -> anyhow::Result<Value> {
    let get = ["get", "configmap", "pyramid-bootstrap", "--namespace", shop.namespace];
    let map = shop.cluster.kubectl_json(&get).await?;
    let text = map["data"]["bootstrap.json"].as_str().context("the key bootstrap.json")?;
    Ok(serde_json::from_str(text)?)
}

/// Runs the example's Job under this name, to its end: it appends two records.
async fn appends_two(shop: &Shop<'_>, name: &str) -> anyhow::Result<()> {
    shop.apply(&example("job")?.replace("orders-append", name)).await?;
    let job = format!("job/{name}");
    shop.kubectl(&["wait", JOB, "--for=condition=Complete", &job]).await?;
    shop.kubectl(&["delete", &job]).await.map(drop)
}

/// It says what it lacks, is founded, lets other namespaces in when it is told to, gets another Pod
/// for another template, and goes with its volume: all of it by the rights of that namespace.
/// The Subscription of another namespace gets nothing before the Stream lists that namespace, and
/// all afterwards.
pub(crate) async fn a_writer_elsewhere_serves_two_namespaces_is_replaced_and_goes_with_its_volume(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let home = elsewhere(cluster).await?;
    home.apply(&format!("{}    caConfigMapRef: {{name: far-ca}}\n", writer("far")?)).await?;
    let missing = "ConfigMap elsewhere/far-ca with the key";
    home.says(FAR, "Ready", "False/InputMissing", missing).await?;
    home.patch(FAR, r#"{"spec": {"objectStorage": {"caConfigMapRef": null}}}"#).await?;
    home.wait(&["--for=condition=Ready", FAR]).await?;
    let uid = home.uid(FAR).await?;
    home.told(&uid, "Bootstrapped", "has founded the cluster").await?;
    home.told(&uid, "Ready", "takes appends").await?;
    is_protected(cluster).await?;
    let bound = |more: &str| format!("spec: {{writerRef: {{name: far{more}}}}}\n");
    home.apply(&format!("{}{}", example("stream")?, bound(""))).await?;
    home.wait(&["--for=condition=Ready", STREAM]).await?;

    // A Stream of another namespace.
    let shop = Shop::new(cluster, "from-afar").await?;
    let namespace = format!(", namespace: {ELSEWHERE}");
    shop.apply(&format!("{}{}", example("stream")?, bound(&namespace))).await?;
    let allow = "set its spec.allowedStreams.from to All";
    shop.says(STREAM, "Accepted", "False/NotAllowedByWriter", allow).await?;
    shop.says(STREAM, "Stalled", "True/NotAllowedByWriter", allow).await?;
    home.patch(FAR, r#"{"spec": {"allowedStreams": {"from": "All"}}}"#).await?;
    shop.wait(&["--for=condition=Ready", STREAM]).await?;

    // A Subscription of another namespace's Stream.
    let own = "    - name: orders\n";
    let subscription = example("subscription")?;
    ensure!(subscription.contains(own), "the example has changed: {subscription}");
    let theirs = format!("{own}      namespace: {ELSEWHERE}\n");
    shop.apply(&subscription.replace(own, &theirs)).await?;
    let add = "elsewhere/orders; add them to subscribers of the Stream";
    shop.says(SUBSCRIPTION, "ResolvedRefs", "False/RefNotPermitted", add).await?;
    shop.says(SUBSCRIPTION, "Stalled", "True/RefNotPermitted", add).await?;
    let known = bootstrap(&shop).await?;
    let stranger = known["subscriptions"]["orders-projector"].is_null()
        && known["streams"]["elsewhere/orders"].is_null();
    ensure!(stranger, "pushers are told of what is not permitted: {known}");
    let lists =
        json!({"spec": {"subscribers": [{"namespace": shop.namespace, "serviceAccount": "*"}]}});
    home.patch(STREAM, &lists.to_string()).await?;
    shop.wait(&["--for=condition=Ready", SUBSCRIPTION]).await?;
    let known = bootstrap(&shop).await?;
    let far = &known["writers"]["elsewhere/far"];
    let right = known["subscriptions"]["orders-projector"]["writer"] == "elsewhere/far"
        && known["streams"]["elsewhere/orders"] == "elsewhere/far"
        && far["replicas"] == json!(["far-writer-0.far-writer-peers.elsewhere.svc:7400"]);
    ensure!(right, "pushers are told otherwise: {known}");
    shop.apply_example("consumer").await?;
    appends_two(&home, "orders-append").await?;
    shop.received(2).await?;

    gets_another_pod(&home).await?;
    appends_two(&home, "later").await?;
    shop.received(4).await?;
    ensure!(shop.orders().await? == 4, "{} orders of two Jobs", shop.orders().await?);

    cluster.kubectl(&["delete", "namespace", shop.namespace, "--timeout=120s"]).await?;
    home.kubectl(&["delete", STREAM, "--timeout=60s"]).await?;
    goes_with_its_volume(&home, "far").await
}

/// The Writer `far` gets another template, and so another Pod, on the same volume.
async fn gets_another_pod(home: &Shop<'_>) -> anyhow::Result<()> {
    let pod = async || {
        let get = ["get", "pod", "far-writer-0", "--namespace", ELSEWHERE];
        home.cluster.kubectl_json(&get).await
    };
    let before = pod().await?["metadata"]["uid"].clone();
    let resources =
        json!({"requests": {"cpu": "20m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}});
    home.patch(FAR, &json!({"spec": {"resources": resources}}).to_string()).await?;
    let replaced = async || {
        let pod = pod().await?;
        let cpu = &pod["spec"]["containers"][0]["resources"]["requests"]["cpu"];
        Ok(pod["metadata"]["uid"] != before && cpu == "20m")
    };
    home.cluster.wait_for("the Writer has another Pod", SOON, replaced).await?;
    home.told(&home.uid(FAR).await?, "PodEvicted", "replaced by one of the newest template")
        .await?;
    home.says(FAR, "Progressing", "False/Stable", "").await
}

/// The Writers of both namespaces are protected in the same way.
async fn is_protected(cluster: &Cluster) -> anyhow::Result<()> {
    let get = ["get", "networkpolicy", "pyramid-writer", "--namespace"];
    let here = cluster.kubectl_json(&[&get[..], &[SYSTEM]].concat()).await?["spec"].clone();
    let elsewhere = cluster.kubectl_json(&[&get[..], &[ELSEWHERE]].concat()).await?["spec"].clone();
    ensure!(here.is_object() && here == elsewhere, "{elsewhere} instead of {here}");
    let label = "jsonpath={.metadata.labels.app\\.kubernetes\\.io/name}";
    let pod = ["get", "pod", "far-writer-0", "--namespace", ELSEWHERE, "-o", label];
    let label = cluster.kubectl(&pod).await?;
    let selected = &here["podSelector"]["matchLabels"]["app.kubernetes.io/name"];
    ensure!(*selected == *label, "the Pod has {label:?}, selected is {selected}");
    Ok(())
}

/// Waits until the Writer has gone, which is or gets deleted. Its volume is gone then, too, and its
/// key is kept.
async fn goes_with_its_volume(home: &Shop<'_>, name: &str) -> anyhow::Result<()> {
    let writer = format!("writers.pyramid.dev/{name}");
    home.kubectl(&["delete", &writer, "--ignore-not-found", "--timeout=90s"]).await?;
    let claim = format!("data-{name}-writer-0");
    let left = home.kubectl(&["get", "pvc", "-o", "name"]).await?;
    ensure!(!left.contains(&claim), "{left} is left");
    // Only a person may delete it.
    home.kubectl(&["delete", "secret", &format!("{name}-writer-kek")]).await.map(drop)
}

/// The Writer's Pod is gone for good, so nothing can be erased: the Writer, which is deleted with
/// its volume, waits for its Stream, and the Stream for its Writer, until somebody says to let go.
pub(crate) async fn a_stream_that_cannot_be_erased_holds_its_writer_until_it_is_let_go(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let home = elsewhere(cluster).await?;
    home.apply(&writer("gone")?).await?;
    home.wait(&["--for=condition=Ready", "writers.pyramid.dev/gone"]).await?;
    let spec = "spec: {deletionPolicy: Delete, writerRef: {name: gone}}\n";
    let stream = example("stream")?.replace("name: orders", "name: held");
    home.apply(&format!("{stream}{spec}")).await?;
    home.wait(&["--for=condition=Ready", HELD]).await?;
    home.kubectl(&["create", "quota", "no-pods", "--hard=pods=0"]).await?;
    let outcome = is_let_go(&home).await;
    home.kubectl(&["delete", "quota", "no-pods"]).await?;
    outcome
}

/// The Writer `gone` loses its Pod, and gets no other.
async fn is_let_go(home: &Shop<'_>) -> anyhow::Result<()> {
    const GONE: &str = "writers.pyramid.dev/gone";
    home.wait(&["--for=jsonpath={.status.hard.pods}=0", "quota/no-pods"]).await?;
    home.kubectl(&["delete", "pod", "gone-writer-0", "--timeout=60s"]).await?;
    home.says(GONE, "Ready", "False/NoLeader", "no replica leads").await?;
    home.kubectl(&["delete", GONE, "--wait=false"]).await?;
    let bound = "1 Streams are bound to this Writer and would lose their records";
    home.says(GONE, "Deleting", "False/StreamsBound", bound).await?;
    home.says(HELD, "Programmed", "False/WriterNotReady", "is being deleted").await?;
    home.kubectl(&["delete", HELD, "--wait=false"]).await?;
    home.says(HELD, "Deleting", "True/WriterUnreachable", "no answer from").await?;
    let volumes = home.kubectl(&["get", "pvc", "-o", "name"]).await?;
    ensure!(volumes.contains("data-gone-writer-0"), "its volume is gone: {volumes}");

    home.kubectl(&["annotate", HELD, "pyramid.dev/force-delete=true"]).await?;
    home.wait(&["--for=delete", HELD]).await?;
    goes_with_its_volume(home, "gone").await
}
