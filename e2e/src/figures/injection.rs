//! How long a Pod waits for its pusher: in the webhook, and for the whole creation.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::Instant;

use super::memory::SHOP;
use super::{Figure, OPERATOR, SYSTEM, metrics, pods};
use crate::cluster::Cluster;
use crate::probe::latency::Spread;

/// The webhook's own time, as buckets: upper bound in seconds, and how many were at most that.
type Buckets = Vec<(f64, f64)>;

/// Creates Pods on trial, in turns with and without an annotation.
pub(super) async fn take(cluster: &Cluster, trials: u32) -> anyhow::Result<Vec<Figure>> {
    let before = buckets(cluster).await?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..trials {
        with.push(create(cluster, "pyramid.dev/append: orders").await?);
        without.push(create(cluster, "example.com/append: orders").await?);
    }
    let after = buckets(cluster).await?;
    let during: Buckets = after
        .iter()
        .map(|(bound, count)| {
            let earlier = before.iter().find(|(same, _)| same == bound).map_or(0.0, |(_, it)| *it);
            (*bound, count - earlier)
        })
        .collect();
    let total = during.last().context("the operator has no times")?.1;
    ensure!(total >= f64::from(trials), "the webhook answered {total} of {trials} requests");
    let (with, without) = (spread(with)?, spread(without)?);
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
    Ok(vec![
        // A bucket knows no more than its bound.
        Figure::new("injection in the webhook, p50, at most", quantile(&during, 0.5)?, "ms")
            .at_most(10.0),
        Figure::new("injection in the webhook, p99, at most", quantile(&during, 0.99)?, "ms")
            .at_most(10.0),
        Figure::new("kubectl create of a Pod with a pusher, p50", ms(with.p50_us), "ms"),
        Figure::new("kubectl create of a Pod with a pusher, p99", ms(with.p99_us), "ms"),
        Figure::new("kubectl create of another Pod, p50", ms(without.p50_us), "ms"),
        Figure::new("kubectl create of another Pod, p99", ms(without.p99_us), "ms"),
    ])
}

fn spread(times: Vec<Duration>) -> anyhow::Result<Spread> {
    Spread::of(times).context("no Pod was created")
}

/// One whole run of kubectl.
async fn create(cluster: &Cluster, annotation: &str) -> anyhow::Result<Duration> {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: trial, annotations: {{{annotation}}}}}\n\
         spec: {{containers: [{{name: a, image: a}}]}}\n"
    );
    let begin = Instant::now();
    let create = ["create", "-n", SHOP, "--dry-run=server", "--validate=false", "-f", "-"];
    let ended = cluster.try_kubectl(&create, Some(&pod)).await?;
    ensure!(ended.success, "{}", ended.stderr);
    Ok(begin.elapsed())
}

/// Of all operators together.
async fn buckets(cluster: &Cluster) -> anyhow::Result<Buckets> {
    let mut buckets = Buckets::new();
    for (pod, _) in pods(cluster, SYSTEM, OPERATOR).await? {
        let page = format!("/api/v1/namespaces/{SYSTEM}/pods/{pod}:8444/proxy/metrics");
        let page = cluster.kubectl(&["get", "--raw", &page]).await?;
        for sample in metrics::samples(&page) {
            if sample.name != "pyramid_injection_seconds_bucket" {
                continue;
            }
            let bound = sample.label("le").context("a bucket without a bound")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
            match buckets.iter_mut().find(|(same, _)| *same == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(buckets)
}

/// The bound of the first bucket that holds this share. Unit: milliseconds.
fn quantile(buckets: &Buckets, share: f64) -> anyhow::Result<f64> {
    let total = buckets.last().context("no buckets")?.1;
    let bound = buckets.iter().find(|(_, count)| *count >= total * share);
    Ok(bound.context("no bucket holds so many")?.0 * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_the_first_bucket_that_holds_it() {
        let buckets = vec![(0.001, 50.0), (0.005, 98.0), (f64::INFINITY, 100.0)];
        assert_eq!(quantile(&buckets, 0.5).unwrap(), 1.0);
        assert_eq!(quantile(&buckets, 0.51).unwrap(), 5.0);
        assert_eq!(quantile(&buckets, 0.99).unwrap(), f64::INFINITY);
    }
}
