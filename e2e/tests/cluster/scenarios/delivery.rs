//! Which Pods get which records.

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;

use super::shop::{SOON, Shop};

/// The consumer of the documentation, which is written for a Subscription of its own name.
const CONSUMER: &str = include_str!("../../../../docs/examples/kubernetes/consumer.yaml");
const SUBSCRIPTION: &str = include_str!("../../../../docs/examples/kubernetes/subscription.yaml");
/// The name of both.
const PROJECTOR: &str = "orders-projector";

/// The table of one Pod.
struct Table {
    pod: String,
    orders: u64,
    gapless: bool,
}

/// The tables of all Pods of a Deployment.
async fn tables(shop: &Shop<'_>, app: &str) -> anyhow::Result<Vec<Table>> {
    let (selector, names) = (format!("app={app}"), "jsonpath={.items[*].metadata.name}");
    let pods = shop.kubectl(&["get", "pods", "--selector", &selector, "-o", names]).await?;
    let mut tables = Vec::new();
    for pod in pods.split_whitespace() {
        let checked = shop.check(pod).await?;
        let orders = checked["orders"].as_u64().context("a count")?;
        let gapless = checked["gapless"] == true && orders == checked["distinct"];
        tables.push(Table { pod: pod.to_owned(), orders, gapless });
    }
    Ok(tables)
}

/// The table of the one Pod that has orders, while there are two.
async fn the_only_active(shop: &Shop<'_>, app: &str) -> anyhow::Result<Table> {
    let tables = tables(shop, app).await?;
    ensure!(tables.len() == 2, "{} pods", tables.len());
    let mut active: Vec<Table> = tables.into_iter().filter(|table| table.orders > 0).collect();
    ensure!(active.len() == 1, "{} pods have orders", active.len());
    active.pop().context("an active pod")
}

/// One Pod gets all. When it dies another one gets all from the position of its own table on,
/// which is the first record.
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
    let first = async || Ok(the_only_active(&shop, NAME).await?.orders > 20);
    cluster.wait_for("one pod receives", SOON, first).await?;
    // Both were connected all the while.
    shop.goes_on(20).await?;
    let killed = the_only_active(&shop, NAME).await?;

    shop.kubectl(&["delete", "pod", &killed.pod, "--grace-period=0", "--force"]).await?;
    let next = async || {
        let active = the_only_active(&shop, NAME).await?;
        Ok(active.pod != killed.pod && active.orders > killed.orders)
    };
    cluster.wait_for("another pod has more than the killed one", SOON, next).await?;
    let count = shop.ends_producing().await?;
    let all = async || {
        let active = the_only_active(&shop, NAME).await?;
        Ok(active.orders == count && active.gapless)
    };
    cluster.wait_for("another pod has all", SOON, all).await?;
    shop.close().await
}

/// Each Pod has a table of its own, and all of the stream in it, however late it came.
pub(crate) async fn each_pod_of_a_broadcast_subscription_gets_all(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open(cluster, "broadcast").await?;
    shop.kubectl(&["scale", "deployment/orders-projector", "--replicas=2"]).await?;
    let both = async || {
        let tables = tables(&shop, PROJECTOR).await?;
        Ok(tables.len() == 2 && tables.iter().all(|table| table.orders > 50))
    };
    cluster.wait_for("both receive", SOON, both).await?;
    let count = shop.ends_producing().await?;
    let all = async || {
        let tables = tables(&shop, PROJECTOR).await?;
        let complete = |table: &Table| table.orders == count && table.gapless;
        Ok(tables.len() == 2 && tables.iter().all(complete))
    };
    cluster.wait_for("both have all", SOON, all).await?;
    shop.close().await
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
    let count = shop.ends_producing().await?;
    for container in ["orders", "second"] {
        let all = async || {
            let checked = shop.check_in("deployment/both", container).await?;
            Ok(checked["orders"] == count && checked["gapless"] == true)
        };
        cluster.wait_for("a container has all", SOON, all).await?;
    }
    shop.close().await
}
