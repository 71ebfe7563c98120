//! What goes, and what stays, when objects are deleted.

use anyhow::ensure;
use pyramid_e2e::cluster::{BUCKET, Cluster, ENDPOINT};

use super::numbers::Numbers;
use super::outage::scale_operator;
use super::shop::{SOON, Shop, example, objects as objects_of, own_writer};

const STREAM: [&str; 2] = ["streams.pyramid.dev", "orders"];
/// How long a Job may take. It is tried again while its stream is new.
const JOB: &str = "--timeout=120s";

/// The records, their offsets and their readers stay as they were, in the bucket, too.
pub(crate) async fn a_retained_stream_made_again_is_the_same_stream(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open(cluster, "retained").await?;
    shop.ends_complete().await?;
    let filled = shop.fills_two_chunks().await?;
    let (before, chunks) = (shop.stream_id().await?, shop.objects(".pyc").await?);
    shop.kubectl(&[&["delete", "--timeout=60s"], &STREAM[..]].concat()).await?;
    shop.apply_example("stream").await?;
    shop.wait(&["--for=condition=Ready", "streams.pyramid.dev/orders"]).await?;
    let known = async || Ok(shop.stream_id().await? == before);
    cluster.wait_for("the Stream has the id from before", SOON, known).await?;
    ensure!(shop.objects(".pyc").await? == chunks, "other chunks than {chunks:?}");
    // Appends go on, and a table is filled from the first record on.
    shop.kubectl(&["delete", "pod", "-l", "app=orders-projector"]).await?;
    shop.kubectl(&["scale", "deployment/orders-producer", "--replicas=1"]).await?;
    let all = shop.appended().await?;
    shop.received(all + 20).await?;
    shop.ends_complete_beside(filled).await?;
    shop.leave().await
}

/// Its name is free afterwards: the next one is another, from offset 0 on. What was in the bucket
/// is there no more when `kubectl delete` ends.
pub(crate) async fn a_stream_with_delete_goes_with_its_records(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "purged").await?;
    let stream = format!("{}spec: {{deletionPolicy: Delete}}\n", example("stream")?);
    let mut ids = Vec::new();
    for _ in 0..2 {
        shop.apply(&stream).await?;
        shop.wait(&["--for=condition=Ready", "streams.pyramid.dev/orders"]).await?;
        let count = shop.fills_two_chunks().await?;
        ensure!(shop.appended().await? == count, "the Stream has other records");
        let (id, objects) = (shop.stream_id().await?, shop.objects("").await?);
        ensure!(objects.len() >= 3, "two chunks and a key are in the bucket: {objects:?}");
        let object = STREAM.join("/");
        let uid = shop.uid(&object).await?;
        shop.kubectl(&["delete", &object, "--wait=false"]).await?;
        let left = "objects are left in the bucket";
        shop.says(&object, "Deleting", "True/PurgePending", left).await?;
        shop.wait(&["--for=delete", &object]).await?;
        shop.told(&uid, "StreamPurged", "gone from the Writer and the bucket").await?;
        let left = objects_of(cluster, id, "").await?;
        ensure!(left.is_empty(), "{left:?} are left of {objects:?}");
        ids.push(id);
    }
    ensure!(ids.first() != ids.last(), "the same stream again: {ids:?}");
    shop.leave().await
}

/// What waits for the operator goes once there is one. A namespace that goes is not held up by its
/// records, whatever the Stream says: they stay, and the next Stream of the name has them, with
/// which they go.
pub(crate) async fn a_namespace_deleted_without_operators_goes_when_they_are_back(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "deleted").await?;
    let stream = format!("{}spec: {{deletionPolicy: Delete}}\n", example("stream")?);
    shop.apply(&stream).await?;
    shop.apply_example("subscription").await?;
    let kinds = ["streams.pyramid.dev/orders", "subscriptions.pyramid.dev/orders-projector"];
    shop.wait(&["--for=condition=Ready", kinds[0], kinds[1]]).await?;
    let count = shop.fills_two_chunks().await?;
    let (id, chunks) = (shop.stream_id().await?, shop.objects(".pyc").await?);
    scale_operator(cluster, 0).await?;
    cluster.kubectl(&["delete", "namespace", shop.namespace, "--wait=false"]).await?;
    let reason = "jsonpath={.status.conditions[?(@.type=='NamespaceFinalizersRemaining')].status}";
    let get = ["get", "namespace", shop.namespace, "-o", reason];
    let waits = async || Ok(cluster.kubectl(&get).await? == "True");
    cluster.wait_for("the namespace waits for the Stream", SOON, waits).await?;
    scale_operator(cluster, 2).await?;
    let gone = ["wait", "--for=delete", "namespace", shop.namespace, "--timeout=120s"];
    cluster.kubectl(&gone).await?;

    ensure!(shop.appended().await? == count, "{} of {count} records", shop.appended().await?);
    let shop = Shop::new(cluster, shop.namespace).await?;
    shop.apply(&stream).await?;
    shop.wait(&["--for=condition=Ready", kinds[0]]).await?;
    ensure!(shop.stream_id().await? == id, "another stream than {id}");
    let left = shop.objects(".pyc").await?;
    let has_all = chunks.iter().all(|chunk| left.contains(chunk));
    ensure!(has_all && shop.appended().await? == count, "{left:?} are left of {chunks:?}");
    shop.kubectl(&[&["delete", "--timeout=120s"], &STREAM[..]].concat()).await?;
    let left = objects_of(cluster, id, "").await?;
    ensure!(left.is_empty(), "{left:?} are left of {chunks:?}");
    shop.leave().await
}

/// A Writer of its own; its volume and its log outlive it, and so does its producer.
pub(crate) async fn a_writer_made_again_adopts_its_volume(cluster: &Cluster) -> anyhow::Result<()> {
    let system = Shop { cluster, namespace: "pyramid-system" };
    let writer = own_writer("again");
    let shop = Shop::new(cluster, "adopted").await?;
    system.apply(&writer).await?;
    let bound = "spec: {writerRef: {name: again, namespace: pyramid-system}}\n";
    shop.apply(&format!("{}{bound}", example("stream")?)).await?;
    for file in ["job", "producer"] {
        shop.apply_example(file).await?;
    }
    shop.kubectl(&["wait", JOB, "--for=condition=Complete", "job/orders-append"]).await?;
    let numbers = Numbers::of_writer_pod(cluster, "again-writer-0");
    let has = async |count| Ok(shop.appended_in(numbers).await? >= count);
    cluster.wait_for("the producer appends", SOON, async || has(20).await).await?;
    let known = async || {
        let column = ["-o", "jsonpath={.status.clusterID} {.status.members[0].volumeUid}"];
        system.kubectl(&[&["get", "writers.pyramid.dev", "again"], &column[..]].concat()).await
    };
    let before = known().await?;
    let before_stream = shop.stream_id().await?;
    ensure!(before.len() > 40, "{before:?}");
    system.kubectl(&["delete", "writers.pyramid.dev", "again", "--timeout=90s"]).await?;
    system.wait(&["--for=delete", "pod/again-writer-0"]).await?;
    system.apply(&writer).await?;
    system.wait(&["--for=condition=Ready", "writers.pyramid.dev/again"]).await?;
    ensure!(known().await? == before, "another log: {} after {before}", known().await?);
    // Kubelets look at ConfigMaps once a minute: the pusher is told again where its Writer is.
    let count = shop.appended_in(numbers).await?;
    ensure!(count >= 20, "{count} records are left");
    cluster.wait_for("appends go on", 2 * SOON, async || has(count + 20).await).await?;
    // All is there for who begins now: the two records of the Job, and each of the producer.
    for file in ["subscription", "consumer"] {
        shop.apply_example(file).await?;
    }
    shop.received(20).await?;
    shop.ends_complete_in(numbers, 2).await?;
    ensure!(shop.stream_id().await? == before_stream, "another stream");
    cluster.kubectl(&["delete", "namespace", shop.namespace, "--timeout=120s"]).await?;
    system.kubectl(&["delete", "writers.pyramid.dev", "again", "--timeout=90s"]).await?;
    system.kubectl(&["delete", "pvc", "data-again-writer-0", "--timeout=60s"]).await?;
    Ok(())
}

/// It says what it waits for and what it cannot have; its volume goes with it.
pub(crate) async fn a_writer_with_delete_goes_with_its_volume(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let system = Shop { cluster, namespace: "pyramid-system" };
    let writer = format!(
        "apiVersion: pyramid.dev/v1alpha1\n\
         kind: Writer\n\
         metadata: {{name: brief}}\n\
         spec:\n  storage: {{size: 1Gi, whenDeleted: Delete}}\n  objectStorage:\n    \
         bucket: {BUCKET}\n    endpoint: {ENDPOINT}\n    prefix: brief\n    \
         credentialsSecretRef: {{name: bucket}}\n    caConfigMapRef: {{name: brief-ca}}\n"
    );
    let name = ["writers.pyramid.dev", "brief"];
    let says = async |what: &str| {
        let messages = ["-o", "jsonpath={.status.conditions[*].message}"];
        Ok(system.kubectl(&[&["get"], &name[..], &messages].concat()).await?.contains(what))
    };
    let patch = async |patch: &str| {
        let how = ["--type=json", "--patch", patch];
        system.kubectl(&[&["patch"], &name[..], &how].concat()).await
    };
    system.apply(&writer).await?;
    let missing = async || says("ConfigMap pyramid-system/brief-ca with the key").await;
    cluster.wait_for("the Writer says what to make", SOON, missing).await?;
    patch(r#"[{"op": "remove", "path": "/spec/objectStorage/caConfigMapRef"}]"#).await?;
    system.wait(&["--for=condition=Ready", "writers.pyramid.dev/brief"]).await?;
    patch(r#"[{"op": "replace", "path": "/spec/storage/size", "value": "2Gi"}]"#).await?;
    let refused = async || says("StorageClass does not let volumes grow").await;
    cluster.wait_for("the Writer says that it cannot grow", SOON, refused).await?;
    let volumes = async || system.kubectl(&["get", "pvc", "-o", "name"]).await;
    ensure!(volumes().await?.contains("data-brief-writer-0"), "it has no volume");
    system.kubectl(&[&["delete"], &name[..], &["--timeout=90s"]].concat()).await?;
    let left = volumes().await?;
    ensure!(!left.contains("brief"), "{left}");
    Ok(())
}
