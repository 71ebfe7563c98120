//! Certificates that live for minutes, so that each of them ends while others look.

use std::time::Duration;

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use tokio::time::{interval, timeout};

use super::numbers::{Numbers, operators};
use super::shop::{PROJECTOR, Shop};

/// How long the Pods' certificates live. Unit: seconds.
pub(crate) const POD_LIFE_SECONDS: u32 = 360;
/// All are renewed within this time, as `VALUES` has their lives: the Writer's last, after 180 s
/// and the half minute in which the operator looks at it again.
const RENEWED: Duration = Duration::from_secs(360);
/// Between two looks; more of them would only take the machine from others.
const LOOK_PERIOD: Duration = Duration::from_secs(10);

/// A program in a Pod, and how its metrics begin.
#[derive(Clone, Copy, Debug)]
struct Holder<'a> {
    numbers: Numbers<'a>,
    prefix: &'static str,
}

/// What a [`Holder`] says of the certificate that it uses.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Used {
    /// Unit: seconds since 1970.
    not_after: f64,
    reloads: u64,
    reload_failures: u64,
}

impl Holder<'_> {
    async fn used(self) -> anyhow::Result<Used> {
        let Self { numbers, prefix } = self;
        let counted = async |what: &str| {
            numbers.sum(&format!("{prefix}_certificate_{what}_total"), &[]).await
        };
        let not_after = format!("{prefix}_certificate_not_after_timestamp_seconds");
        Ok(Used {
            not_after: numbers.gauge(&not_after).await?,
            reloads: counted("reloads").await?,
            reload_failures: counted("reload_failures").await?,
        })
    }

    /// Which Pod it is, and how often each of its containers was started again.
    async fn life(self) -> anyhow::Result<String> {
        let Numbers { cluster, namespace, pod, .. } = self.numbers;
        let columns = "jsonpath={.metadata.uid} {.status.containerStatuses[*].restartCount} \
                       {.status.initContainerStatuses[*].restartCount}";
        cluster.kubectl(&["get", "pod", pod, "-n", namespace, "-o", columns]).await
    }
}

/// The name of the shop's Pod with this label.
async fn pod(shop: &Shop<'_>, label: &str) -> anyhow::Result<String> {
    let name = "jsonpath={.items[0].metadata.name}";
    shop.kubectl(&["get", "pods", "-l", label, "-o", name]).await
}

/// Writer, operators and pushers go on as the same processes with the next certificate, and believe
/// each other's; what is delivered does not notice.
pub(crate) async fn all_are_renewed_and_taken_into_use_without_a_restart(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open(cluster, "renewed").await?;
    let pushers =
        [pod(&shop, "app=orders-projector").await?, pod(&shop, "app=orders-producer").await?];
    let operators = operators(cluster).await?;
    ensure!(operators.len() == 2, "operators: {operators:?}");
    let writer = Holder { numbers: Numbers::of_default_writer(cluster), prefix: "pyramid_writer" };
    let pushers = pushers.iter().map(|pod| Holder {
        numbers: Numbers::of_pusher(cluster, shop.namespace, pod),
        prefix: "pyramid_pusher",
    });
    let operators = operators.iter().map(|pod| Holder {
        numbers: Numbers::of_operator(cluster, pod),
        prefix: "pyramid_operator",
    });
    let holders: Vec<_> = [writer].into_iter().chain(pushers).chain(operators).collect();
    let mut before = Vec::new();
    for holder in &holders {
        before.push((holder.used().await?, holder.life().await?));
    }

    for (holder, (first, life)) in holders.iter().zip(&before) {
        let renewed = async {
            let mut looks = interval(LOOK_PERIOD);
            loop {
                looks.tick().await;
                shop.goes_on(1).await?;
                let now = holder.used().await?;
                if now.not_after > first.not_after {
                    return anyhow::Ok(now);
                }
            }
        };
        let now = timeout(RENEWED, renewed)
            .await
            .with_context(|| format!("{holder:?} still uses {first:?}"))??;
        ensure!(
            now.reloads > first.reloads && now.reload_failures == first.reload_failures,
            "{holder:?}: {first:?}, then {now:?}"
        );
        let (life, now) = (life.as_str(), holder.life().await?);
        ensure!(life == now, "{holder:?} was started again: {life}, then {now}");
    }

    // Who comes now meets the renewed ones only: the operator for a certificate, the Writer for
    // records; and the operator's calls of the Writer.
    let another = "apiVersion: pyramid.dev/v1alpha1\nkind: Stream\nmetadata: {name: another}\n";
    shop.apply(another).await?;
    shop.wait(&["--for=condition=Ready", "streams.pyramid.dev/another"]).await?;
    shop.kubectl(&["rollout", "restart", PROJECTOR]).await?;
    shop.kubectl(&["rollout", "status", PROJECTOR, "--timeout=90s"]).await?;
    shop.close().await
}
