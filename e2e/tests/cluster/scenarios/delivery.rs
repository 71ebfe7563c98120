//! Which Pods get which records.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use pyramid_e2e::process::tell;
use tokio::time::timeout;

use super::shop::{SOON, Shop, orders};

/// The consumer of the documentation, which is written for a Subscription of its own name.
const CONSUMER: &str = include_str!("../../../../docs/examples/kubernetes/consumer.yaml");
const SUBSCRIPTION: &str = include_str!("../../../../docs/examples/kubernetes/subscription.yaml");
/// The name of both.
const PROJECTOR: &str = "orders-projector";
/// Within this time the next Pod of an Exclusive subscription receives.
const TAKEOVER_MAX: Duration = Duration::from_secs(5);
/// How long a lease lasts without a word of its holder, who says something several times a second.
const LEASE: Duration = Duration::from_secs(3);

/// The names of the Pods of a Deployment.
async fn pods(shop: &Shop<'_>, app: &str) -> anyhow::Result<Vec<String>> {
    let (selector, names) = (format!("app={app}"), "jsonpath={.items[*].metadata.name}");
    let pods = shop.kubectl(&["get", "pods", "--selector", &selector, "-o", names]).await?;
    Ok(pods.split_whitespace().map(str::to_owned).collect())
}

/// The one of two Pods that has orders, and the one that has none.
async fn active_and_waiting(shop: &Shop<'_>, app: &str) -> anyhow::Result<(String, String)> {
    let mut active = Vec::new();
    let mut waiting = Vec::new();
    for pod in pods(shop, app).await? {
        let has_orders = orders(&shop.check(&pod).await?)? > 0;
        if has_orders { active.push(pod) } else { waiting.push(pod) }
    }
    ensure!(active.len() == 1 && waiting.len() == 1, "active {active:?}, waiting {waiting:?}");
    Ok((active.pop().context("an active pod")?, waiting.pop().context("a waiting pod")?))
}

/// Ends the active Pod so, which tells when its pusher had ended pushing. The one that waited, and
/// how long after that it received.
async fn take_over(
    shop: &Shop<'_>,
    app: &str,
    end: impl AsyncFnOnce(&str) -> anyhow::Result<Instant>,
) -> anyhow::Result<(String, Duration)> {
    let (active, next) = active_and_waiting(shop, app).await?;
    let received = async {
        loop {
            // Asked all the time: the time is what counts.
            if let Ok(checked) = shop.check(&next).await
                && orders(&checked)? > 0
            {
                return anyhow::Ok(Instant::now());
            }
        }
    };
    let (ended, received) = tokio::join!(end(&active), timeout(SOON, received));
    let ended = ended?;
    let received =
        received.with_context(|| format!("{next} receives nothing after {active}"))??;
    let took = received.saturating_duration_since(ended);
    ensure!(took <= TAKEOVER_MAX, "{next} receives only {took:?} after {active}");
    Ok((next, took))
}

/// One Pod gets all. When it dies another one gets all from the position of its own table on,
/// which is the first record: as soon as the lease of one that was killed has run out, and at once
/// after one that has let go of it, as each does that is told to end.
pub(crate) async fn another_pod_of_an_exclusive_subscription_takes_over(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    const NAME: &str = "exclusive";
    let shop = Shop::open(cluster, "takeover").await?;
    let subscription = SUBSCRIPTION.replace(PROJECTOR, NAME);
    shop.apply(&format!("{subscription}  delivery: {{mode: Exclusive}}\n")).await?;
    shop.wait(&["--for=condition=Ready", "subscriptions.pyramid.dev/exclusive"]).await?;
    shop.apply(&CONSUMER.replace(PROJECTOR, NAME).replace("replicas: 1", "replicas: 2")).await?;
    let ready = ["rollout", "status", "deployment/exclusive", "--timeout=90s"];
    shop.kubectl(&ready).await?;
    let settled = async || active_and_waiting(&shop, NAME).await.map(|_| true);
    let one = "one pod receives, the other does not";
    cluster.wait_for(one, SOON, settled).await?;
    // Both were connected all the while.
    shop.goes_on(20).await?;
    let delete = async |pod: &str, how: &[&str]| {
        let delete = ["delete", "pod", pod, "--wait=false"];
        shop.kubectl(&[&delete[..], how].concat()).await.map(drop)
    };
    let kill = async |active: &str| {
        cluster.kill_pod(shop.namespace, active).await?;
        let ended = Instant::now();
        // Before its node starts it again: it would come for its lease.
        delete(active, &["--grace-period=0", "--force"]).await?;
        Ok(ended)
    };
    let (_, killed) = take_over(&shop, NAME, kill).await?;
    cluster.wait_for(one, SOON, settled).await?;
    let stop = async |active: &str| {
        // What its hook does, which returns when the lease is given back. How long Kubernetes takes
        // to come to the hook does not count.
        let drain = ["--container", "pyramid-pusher", "--", "/pyramid-pusher", "drain"];
        shop.kubectl(&[&["exec", active], &drain[..]].concat()).await?;
        let ended = Instant::now();
        delete(active, &[]).await?;
        Ok(ended)
    };
    let (last, stopped) = take_over(&shop, NAME, stop).await?;
    tell(&format!("another pod receives {killed:.1?} after a kill, {stopped:.1?} after a stop"));
    ensure!(killed > LEASE / 2, "the killed Pod has given its lease back: {killed:?}");
    ensure!(stopped < LEASE, "the stopped Pod's lease ran out: {stopped:?}");
    let count = shop.ends_complete().await?;
    shop.wait_complete(&last, "orders", count).await?;
    cluster.wait_for(one, SOON, settled).await?;
    let (still, _) = active_and_waiting(&shop, NAME).await?;
    ensure!(still == last, "{still} has orders beside {last}");
    shop.leave().await
}

/// Each Pod has a table of its own, and all of the stream in it, however late it came.
pub(crate) async fn each_pod_of_a_broadcast_subscription_gets_all(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open(cluster, "broadcast").await?;
    shop.kubectl(&["scale", "deployment/orders-projector", "--replicas=2"]).await?;
    shop.kubectl(&["rollout", "status", "deployment/orders-projector", "--timeout=90s"]).await?;
    shop.goes_on(20).await?;
    let count = shop.ends_producing().await?;
    let pods = pods(&shop, PROJECTOR).await?;
    ensure!(pods.len() == 2, "{pods:?}");
    for pod in pods {
        shop.wait_complete(&pod, "orders", count).await?;
    }
    shop.leave().await
}

/// One pusher serves two applications of its Pod, each at the port that its Subscription names.
pub(crate) async fn two_subscriptions_of_one_pod_have_a_port_each(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open(cluster, "two-in-one-pod").await?;
    let (first, second) = (SUBSCRIPTION.replace(PROJECTOR, "first"), "  target: {port: 50052}\n");
    shop.apply(&first).await?;
    shop.apply(&format!("{}{second}", SUBSCRIPTION.replace(PROJECTOR, "second"))).await?;
    let kinds = ["subscriptions.pyramid.dev/first", "subscriptions.pyramid.dev/second"];
    shop.wait(&["--for=condition=Ready", kinds[0], kinds[1]]).await?;

    let consumer = CONSUMER
        .replace("dev/subscriptions: orders-projector", "dev/subscriptions: first,second")
        .replace(PROJECTOR, "both");
    let (head, rest) = consumer.split_once("      containers:\n").context("containers")?;
    let (container, volumes) = rest.split_once("      volumes:\n").context("volumes")?;
    let another = container
        .replace("name: orders\n", "name: second\n")
        .replace("args: [", r#"args: ["--listen", "127.0.0.1:50052", "#)
        .replace("name: data,", "name: second,");
    shop.apply(&format!(
        "{head}      containers:\n{container}{another}      volumes:\n{volumes}        \
         - name: second\n          emptyDir: {{}}\n"
    ))
    .await?;
    let receives = async || {
        let both = [
            shop.check_in("deployment/both", "orders").await?,
            shop.check_in("deployment/both", "second").await?,
        ];
        Ok(both.iter().all(|checked| checked["orders"].as_u64() > Some(20)))
    };
    cluster.wait_for("both containers receive", SOON, receives).await?;
    let count = shop.ends_complete().await?;
    for container in ["orders", "second"] {
        shop.wait_complete("deployment/both", container, count).await?;
    }
    shop.leave().await
}

/// A stream that appears while it is received is received, too, in the same Pod.
pub(crate) async fn a_subscription_by_labels_gets_ten_streams_and_one_that_comes_later(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    const EACH: u64 = 50;
    let shop = Shop::new(cluster, "by-labels").await?;
    let create = async |numbers: Range<u8>| {
        let streams: String = numbers.clone().map(labelled_stream).collect();
        shop.apply(&streams).await?;
        shop.apply(&appends_to_each(numbers, EACH)?).await
    };
    create(0..10).await?;
    let subscription = SUBSCRIPTION.split_once("spec:").context("a spec")?.0;
    let selector = "spec:\n  selector: {matchLabels: {kind: till}}\n";
    shop.apply(&format!("{subscription}{selector}")).await?;
    // Not among them.
    shop.apply("apiVersion: pyramid.dev/v1alpha1\nkind: Stream\nmetadata: {name: another}\n")
        .await?;
    shop.apply(CONSUMER).await?;
    let complete = async |streams: usize| {
        let count = EACH * u64::try_from(streams)?;
        shop.wait_complete("deployment/orders-projector", "orders", count).await?;
        let checked = shop.check("deployment/orders-projector").await?;
        let told = checked["streams"].as_array().context("streams")?;
        let full = told.iter().filter(|stream| stream["orders"] == EACH).count();
        ensure!(full == streams && told.len() == streams, "{checked}");
        anyhow::Ok(())
    };
    complete(10).await?;
    create(10..11).await?;
    complete(11).await?;
    shop.leave().await
}

fn labelled_stream(number: u8) -> String {
    format!(
        "apiVersion: pyramid.dev/v1alpha1\nkind: Stream\n\
         metadata: {{name: till-{number}, labels: {{kind: till}}}}\n---\n"
    )
}

/// A Job of one Pod with a producer for each of these streams.
fn appends_to_each(numbers: Range<u8>, count: u64) -> anyhow::Result<String> {
    let names: Vec<String> = numbers.map(|number| format!("till-{number}")).collect();
    let first = names.first().context("a stream")?;
    let containers: String = names
        .iter()
        .map(|name| {
            format!(
                "        - name: {name}\n          image: localhost/pyramid-orders:0.1.0\n          \
                 args: [produce, --stream, {name}, --producer, {name}, --rate, '50', --count, \
                 '{count}']\n"
            )
        })
        .collect();
    Ok(format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: appends-{first}}}\nspec:\n  template:\n    \
         metadata:\n      annotations: {{pyramid.dev/append: '{}'}}\n    spec:\n      \
         restartPolicy: OnFailure\n      containers:\n{containers}",
        names.join(",")
    ))
}
