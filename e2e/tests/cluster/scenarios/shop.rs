//! [`Shop`]: a namespace with a stream, a producer that numbers its orders, and consumers with a
//! table each.

use std::time::Duration;

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::{BUCKET, Cluster, ENDPOINT};
use serde_json::Value;

use super::numbers::Numbers;

/// Where the application runs.
pub(crate) const PROJECTOR: &str = "deployment/orders-projector";

/// Something happens that takes seconds.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// Orders per second of a producer [under load](Shop::open_under_load). The Writer allows 16 of them
/// on their way at once, and while it is away there are as many.
pub(crate) const LOAD: u64 = 200;

/// What a producer of an example runs.
const PRODUCES: &str =
    r#"args: ["produce", "--stream", "orders", "--producer", "orders-producer", "--rate", "10"]"#;

pub(crate) const PRODUCER: &str = "deployment/orders-producer";

/// One namespace of its own.
pub(crate) struct Shop<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) namespace: &'static str,
}

/// A Writer of a scenario's own, for the Streams of every namespace, with a part of the bucket.
pub(crate) fn own_writer(name: &str) -> String {
    format!(
        "apiVersion: pyramid.dev/v1alpha1\n\
         kind: Writer\n\
         metadata: {{name: {name}}}\n\
         spec:\n  allowedStreams: {{from: All}}\n  storage: {{size: 1Gi}}\n  objectStorage:\n    \
         bucket: {BUCKET}\n    endpoint: {ENDPOINT}\n    prefix: {name}\n    \
         credentialsSecretRef: {{name: bucket}}\n"
    )
}

impl<'a> Shop<'a> {
    /// An empty one.
    pub(crate) async fn new(cluster: &'a Cluster, namespace: &'static str) -> anyhow::Result<Self> {
        cluster.kubectl(&["create", "namespace", namespace]).await?;
        Ok(Self { cluster, namespace })
    }

    /// Opens it: the stream `orders`, its Subscription, one consumer, and a producer.
    pub(crate) async fn open(
        cluster: &'a Cluster,
        namespace: &'static str,
    ) -> anyhow::Result<Self> {
        Self::open_with(cluster, namespace, &example("producer")?).await
    }

    /// The same with a producer of [`LOAD`].
    pub(crate) async fn open_under_load(
        cluster: &'a Cluster,
        namespace: &'static str,
    ) -> anyhow::Result<Self> {
        let args = PRODUCES.replace(r#""10""#, &format!(r#""{LOAD}""#));
        Self::open_with(cluster, namespace, &producer_with(&args)?).await
    }

    async fn open_with(
        cluster: &'a Cluster,
        namespace: &'static str,
        producer: &str,
    ) -> anyhow::Result<Self> {
        let shop = Self::new(cluster, namespace).await?;
        for file in ["stream", "subscription"] {
            shop.apply_example(file).await?;
        }
        let kinds = ["streams.pyramid.dev/orders", "subscriptions.pyramid.dev/orders-projector"];
        shop.wait(&["--for=condition=Ready", kinds[0], kinds[1]]).await?;
        shop.apply_example("consumer").await?;
        shop.apply(producer).await?;
        shop.received(20).await?;
        // Records arrive before the kubelet says that the producer runs, and shows what it says.
        shop.kubectl(&["rollout", "status", PRODUCER, "--timeout=90s"]).await?;
        Ok(shop)
    }

    /// `kubectl` in this namespace.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&[&["--namespace", self.namespace], arguments].concat()).await
    }

    pub(crate) async fn wait(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl(&[&["wait", "--timeout=90s"], arguments].concat()).await
    }

    pub(crate) async fn apply_example(&self, file: &str) -> anyhow::Result<()> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/kubernetes");
        self.kubectl(&["apply", "-f", &format!("{folder}/{file}.yaml")]).await.map(|_| ())
    }

    /// `kubectl apply` of these documents in this namespace.
    pub(crate) async fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let apply = ["--namespace", self.namespace, "apply", "-f", "-"];
        let ended = self.cluster.try_kubectl(&apply, Some(yaml)).await?;
        ensure!(ended.success, "{} of {yaml}", ended.stderr);
        Ok(())
    }

    /// What the application says of its own table.
    pub(crate) async fn check(&self, pod: &str) -> anyhow::Result<Value> {
        self.check_in(pod, "orders").await
    }

    /// What the application in this container says of its own table.
    pub(crate) async fn check_in(&self, pod: &str, container: &str) -> anyhow::Result<Value> {
        let check = ["--", "/orders", "check", "--database", "/data/orders.db"];
        let exec = ["exec", pod, "--container", container];
        let text = self.kubectl(&[&exec[..], &check[..]].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("the application printed {text:?}"))
    }

    /// Orders in the table of the consumer.
    pub(crate) async fn orders(&self) -> anyhow::Result<u64> {
        orders(&self.check(PROJECTOR).await?)
    }

    /// Waits until the consumer has so many orders.
    pub(crate) async fn received(&self, count: u64) -> anyhow::Result<()> {
        let what = format!("{count} orders in {}", self.namespace);
        let come = async || Ok(self.orders().await? >= count);
        self.cluster.wait_for(&what, SOON, come).await
    }

    /// Waits until `more` orders than now have come.
    pub(crate) async fn goes_on(&self, more: u64) -> anyhow::Result<()> {
        let mut enough = None;
        let come = async || {
            let now = self.orders().await?;
            Ok(now >= *enough.get_or_insert(now + more))
        };
        let what = format!("{more} more orders in {}", self.namespace);
        self.cluster.wait_for(&what, SOON, come).await
    }

    /// How many records the default Writer says the stream `orders` has.
    pub(crate) async fn appended(&self) -> anyhow::Result<u64> {
        self.appended_in(Numbers::of_default_writer(self.cluster)).await
    }

    /// How many records this Writer says the stream `orders` has.
    pub(crate) async fn appended_in(&self, writer: Numbers<'_>) -> anyhow::Result<u64> {
        let stream = format!("stream=\"{}/orders\"", self.namespace);
        writer.sum("pyramid_writer_stream_next_offset", &[&stream]).await
    }

    /// Ends the producer. What it says it was answered for is what the default Writer has; how many
    /// orders these are.
    pub(crate) async fn ends_producing(&self) -> anyhow::Result<u64> {
        self.ends_producing_in(Numbers::of_default_writer(self.cluster), 0).await
    }

    /// The same in this Writer, where others have appended so many orders; how many there are in
    /// all. The producer's own count is the truth: a Writer that has lost the end has fewer.
    async fn ends_producing_in(&self, writer: Numbers<'_>, others: u64) -> anyhow::Result<u64> {
        let follow = ["--namespace", self.namespace, "logs", "--follow", PRODUCER];
        let container = ["--container", "producer"];
        let arguments = [&follow[..], &container].concat();
        let scale = ["scale", PRODUCER, "--replicas=0"];
        let (said, scaled) =
            tokio::join!(self.cluster.try_kubectl(&arguments, None), self.kubectl(&scale),);
        scaled?;
        let said = said?;
        let end = said.stdout.lines().rfind(|line| line.starts_with('{'));
        let end = end.with_context(|| format!("the producer told no end: {said:?}"))?;
        let answered = orders(&serde_json::from_str(end)?)?;
        let appended = self.appended_in(writer).await?;
        ensure!(
            answered + others == appended,
            "{appended} records, {others} of others, beside {end}"
        );
        Ok(appended)
    }

    /// Ends the producer and waits until the consumer has all, once, in order; how many.
    pub(crate) async fn ends_complete(&self) -> anyhow::Result<u64> {
        self.ends_complete_beside(0).await
    }

    /// The same, where others have appended so many orders.
    pub(crate) async fn ends_complete_beside(&self, others: u64) -> anyhow::Result<u64> {
        self.ends_complete_in(Numbers::of_default_writer(self.cluster), others).await
    }

    /// The same with a stream of this Writer.
    pub(crate) async fn ends_complete_in(
        &self,
        writer: Numbers<'_>,
        others: u64,
    ) -> anyhow::Result<u64> {
        let count = self.ends_producing_in(writer, others).await?;
        self.wait_complete(PROJECTOR, "orders", count).await?;
        Ok(count)
    }

    /// Waits until the table of this container has so many orders and nothing wrong.
    pub(crate) async fn wait_complete(
        &self,
        pod: &str,
        container: &str,
        count: u64,
    ) -> anyhow::Result<()> {
        let what = format!("{pod} of {} has {count} orders", self.namespace);
        let all = async || {
            let checked = self.check_in(pod, container).await?;
            is_complete(&checked, count).with_context(|| checked.to_string())
        };
        self.cluster.wait_for(&what, SOON, all).await
    }

    /// Ends the producer, waits for the rest, and looks whether all is there, once, in order; then
    /// the namespace goes.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.ends_complete().await?;
        self.leave().await
    }

    /// Appends so many orders that the stream has two chunks in the bucket, beside others in the
    /// Writer; how many.
    pub(crate) async fn fills_two_chunks(&self) -> anyhow::Result<u64> {
        let count = self.appends_two_chunks().await?;
        self.has_two_chunks().await?;
        Ok(count)
    }

    /// Waits until two chunks are in the bucket.
    pub(crate) async fn has_two_chunks(&self) -> anyhow::Result<()> {
        let shipped = async || Ok(self.objects(".pyc").await?.len() >= 2);
        self.cluster.wait_for("two chunks are in the bucket", SOON, shipped).await
    }

    /// Appends as many orders as two chunks hold, and some more; how many.
    pub(crate) async fn appends_two_chunks(&self) -> anyhow::Result<u64> {
        const COUNT: u64 = 280;
        let arguments = format!(
            r#"args: ["produce", "--producer", "filler", "--rate", "1000", "--note-bytes", "65536", "--count", "{COUNT}"]"#
        );
        let producer = producer_with(&arguments)?;
        let (_, containers) =
            producer.split_once("      containers:\n").context("containers of the producer")?;
        self.apply(&format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: filler}}\nspec:\n  template:\n    \
             metadata:\n      annotations: {{pyramid.dev/append: orders}}\n    spec:\n      \
             restartPolicy: OnFailure\n      automountServiceAccountToken: false\n      \
             securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: \
             RuntimeDefault}}}}\n      containers:\n{containers}"
        ))
        .await?;
        self.wait(&["--for=condition=Complete", "job/filler"]).await?;
        self.kubectl(&["delete", "job", "filler"]).await?;
        Ok(COUNT)
    }

    /// The keys of the bucket that are of the stream `orders` and end so.
    pub(crate) async fn objects(&self, ending: &str) -> anyhow::Result<Vec<String>> {
        objects(self.cluster, self.stream_id().await?, ending).await
    }

    /// The id that the Stream `orders` shows.
    pub(crate) async fn stream_id(&self) -> anyhow::Result<u64> {
        let column = ["-o", "jsonpath={.status.streamID}"];
        let get = ["get", "streams.pyramid.dev", "orders"];
        let id = self.kubectl(&[&get[..], &column].concat()).await?;
        id.parse().with_context(|| format!("the Stream shows the id {id:?}"))
    }

    /// The namespace goes.
    pub(crate) async fn leave(self) -> anyhow::Result<()> {
        self.cluster.kubectl(&["delete", "namespace", self.namespace, "--wait=false"]).await?;
        Ok(())
    }
}

/// The text of an example, for what differs from it.
pub(crate) fn example(file: &str) -> anyhow::Result<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/kubernetes");
    Ok(std::fs::read_to_string(format!("{folder}/{file}.yaml"))?)
}

/// The example of a producer with these arguments in the place of its own.
fn producer_with(arguments: &str) -> anyhow::Result<String> {
    let producer = example("producer")?;
    ensure!(producer.contains(PRODUCES), "the producer has other arguments: {producer}");
    Ok(producer.replace(PRODUCES, arguments))
}

/// The keys of the bucket that are of the stream of this id and end so.
pub(crate) async fn objects(
    cluster: &Cluster,
    stream: u64,
    ending: &str,
) -> anyhow::Result<Vec<String>> {
    let (chunks, keys) = (format!("/{stream:016}/"), format!("/k/{stream:016}-"));
    let all = cluster.s3().list("").await?;
    let of_stream = |key: &&str| key.contains(&chunks) || key.contains(&keys);
    let all = all.iter().map(|key| key.as_str()).filter(of_stream);
    Ok(all.filter(|key| key.ends_with(ending)).map(str::to_owned).collect())
}

/// How many orders a program says there are.
pub(crate) fn orders(said: &Value) -> anyhow::Result<u64> {
    said["orders"].as_u64().with_context(|| format!("a count of orders in {said}"))
}

/// Whether so many orders are there; an error if one is missing among them, there twice, or not in
/// the order in which its producer numbered it.
pub(crate) fn is_complete(checked: &Value, count: u64) -> anyhow::Result<bool> {
    let streams = checked["streams"].as_array().context("streams")?;
    let right = checked["gapless"] == true
        && checked["in_sequence"] == true
        && checked["distinct"] == checked["orders"]
        && streams.iter().all(|stream| stream["first_offset"] == 0 || stream["orders"] == 0);
    let orders = orders(checked)?;
    ensure!(right && orders <= count, "lost, doubled, reordered or invented");
    Ok(orders == count)
}

/// The database goes with its pod; the next one is filled from the first record on: what is in
/// chunks by itself from the bucket, and only what is in no chunk from the Writer.
pub(crate) async fn a_lost_database_is_filled_again_from_the_bucket(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "lost-database").await?;
    for file in ["stream", "subscription"] {
        shop.apply_example(file).await?;
    }
    let kinds = ["streams.pyramid.dev/orders", "subscriptions.pyramid.dev/orders-projector"];
    shop.wait(&["--for=condition=Ready", kinds[0], kinds[1]]).await?;
    let count = shop.fills_two_chunks().await?;
    shop.apply_example("consumer").await?;
    for _ in 0..2 {
        shop.wait_complete(PROJECTOR, "orders", count).await?;
        let pod = shop.kubectl(&["get", "pods", "-l", "app=orders-projector", "-o", POD]).await?;
        let pusher = Numbers::of_pusher(cluster, shop.namespace, &pod);
        let read = "pyramid_pusher_read_bytes_total";
        let from_chunks = pusher.sum(read, &[r#"from="chunk""#]).await?;
        let from_writer = pusher.sum(read, &[r#"from="writer""#]).await?;
        // Two chunks, each by less than one record smaller; the rest is smaller than a chunk.
        ensure!(
            from_chunks > 2 * (CHUNK_BYTES - RECORD_BYTES_MAX) && from_writer < CHUNK_BYTES,
            "{from_chunks} bytes from chunks, {from_writer} from the Writer"
        );
        let writer = Numbers::of_default_writer(cluster);
        let sent = writer.sum("pyramid_writer_sent_bytes_total", &[r#"from="chunk""#]).await?;
        ensure!(sent == 0, "the Writer itself sent {sent} bytes of chunks");
        shop.kubectl(&["delete", "pod", &pod]).await?;
    }
    shop.leave().await
}

/// Size at which a Writer seals a chunk.
const CHUNK_BYTES: u64 = 8 << 20;
/// More than each order of [`Shop::fills_two_chunks`] has.
const RECORD_BYTES_MAX: u64 = 66_000;
/// The one Pod's name.
const POD: &str = "jsonpath={.items[0].metadata.name}";
