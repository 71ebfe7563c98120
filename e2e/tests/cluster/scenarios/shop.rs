//! [`Shop`]: a namespace with a stream, a producer that numbers its orders, and consumers with a
//! table each.

use std::time::Duration;

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use serde_json::Value;

/// Something happens that takes seconds.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// One namespace of its own.
pub(crate) struct Shop<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) namespace: &'static str,
}

impl<'a> Shop<'a> {
    /// Opens it: the stream `orders`, its Subscription, one consumer, and a producer.
    pub(crate) async fn open(
        cluster: &'a Cluster,
        namespace: &'static str,
    ) -> anyhow::Result<Self> {
        let shop = Self { cluster, namespace };
        cluster.kubectl(&["create", "namespace", namespace]).await?;
        for file in ["stream", "subscription"] {
            shop.apply_example(file).await?;
        }
        let kinds = ["streams.pyramid.dev/orders", "subscriptions.pyramid.dev/orders-projector"];
        shop.wait(&["--for=condition=Ready", kinds[0], kinds[1]]).await?;
        for file in ["consumer", "producer"] {
            shop.apply_example(file).await?;
        }
        shop.received(20).await?;
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
        let checked = self.check("deployment/orders-projector").await?;
        checked["orders"].as_u64().with_context(|| format!("a count in {checked}"))
    }

    /// Waits until the consumer has so many orders.
    pub(crate) async fn received(&self, count: u64) -> anyhow::Result<()> {
        let what = format!("{count} orders in {}", self.namespace);
        let come = async || Ok(self.orders().await? >= count);
        self.cluster.wait_for(&what, SOON, come).await
    }

    /// Waits until `more` orders than now have come.
    pub(crate) async fn goes_on(&self, more: u64) -> anyhow::Result<()> {
        let now = self.orders().await?;
        self.received(now + more).await
    }

    /// Ends the producer and waits for the rest; how many orders there are.
    pub(crate) async fn ends_producing(&self) -> anyhow::Result<u64> {
        let producer = ["deployment", "orders-producer", "--ignore-not-found", "--wait=true"];
        self.kubectl(&[&["delete"], &producer[..]].concat()).await?;
        let next = async || {
            let stream =
                ["get", "streams.pyramid.dev", "orders", "-o", "jsonpath={.status.nextOffset}"];
            anyhow::Ok(self.kubectl(&stream).await?.parse::<u64>()?)
        };
        let rest = async || {
            let next = next().await?;
            Ok(next > 0 && self.orders().await? == next)
        };
        self.cluster.wait_for("all that was appended is in the table", SOON, rest).await?;
        self.orders().await
    }

    /// Ends the producer, waits for the rest, and looks whether all is there, once, in order; then
    /// the namespace goes.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.ends_producing().await?;
        let checked = self.check("deployment/orders-projector").await?;
        ensure!(checked["gapless"] == true && checked["first_offset"] == 0, "{checked}");
        ensure!(checked["orders"] == checked["distinct"], "{checked}");
        self.leave().await
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

/// The database goes with its pod; the next one is filled from the first record on.
pub(crate) async fn a_lost_database_is_filled_again_from_the_bucket(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open(cluster, "lost-database").await?;
    let before = shop.orders().await?;
    shop.kubectl(&["delete", "pod", "-l", "app=orders-projector"]).await?;
    shop.received(before).await?;
    shop.close().await
}
