//! From an append in one Pod to its push in another, through both pushers and the Writer.

use std::time::Duration;

use anyhow::Context;
use serde::de::DeserializeOwned;

use super::{Figure, Settings};
use crate::cluster::Cluster;
use crate::probe::latency::{Produced, Spread};

const NAMESPACE: &str = "figures-delivery";
/// Appends of one second.
const RATE: usize = 1000;
/// Until both Pods run, beside the appends themselves.
const START: Duration = Duration::from_secs(180);
/// The container's security, as the examples have it.
const PODS: &str = "
apiVersion: pyramid.dev/v1alpha1
kind: Stream
metadata: {name: latency}
---
apiVersion: pyramid.dev/v1alpha1
kind: Subscription
metadata: {name: latency}
spec:
  streams: [{name: latency}]
  startFrom: {position: Earliest}
---
apiVersion: v1
kind: Pod
metadata:
  name: consumer
  annotations: {pyramid.dev/subscriptions: latency}
spec:
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 65532}
  containers:
    - name: probe
      image: {probe}
      args: [latency-consume, --count, \"{count}\"]
";
const PRODUCER: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: producer
  annotations: {pyramid.dev/append: latency}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 65532}
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector: {}
  containers:
    - name: probe
      image: {probe}
      args: [latency-produce, --stream, latency, --rate, \"{rate}\", --count, \"{count}\"]
";

/// On two nodes, at a thousand records in a second.
pub(super) async fn take(cluster: &Cluster, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let count = settings.seconds * RATE;
    cluster.kubectl(&["create", "namespace", NAMESPACE]).await?;
    apply(cluster, PODS, &settings.probe, count).await?;
    let wait = ["wait", "-n", NAMESPACE, "--timeout=120s", "--for=condition=Ready"];
    let ready =
        ["streams.pyramid.dev/latency", "subscriptions.pyramid.dev/latency", "pod/consumer"];
    cluster.kubectl(&[&wait[..], &ready[..]].concat()).await?;
    apply(cluster, PRODUCER, &settings.probe, count).await?;
    let within = START + Duration::from_secs(settings.seconds.try_into()?);
    let produced: Produced = said(cluster, "producer", within).await?;
    let pushed: Spread = said(cluster, "consumer", START).await?;
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=180s"]).await?;
    let mut figures = vec![Figure::new("appends sent", produced.rate, "1/s")];
    for (what, spread) in
        [("append to answer", produced.acknowledged), ("append to push in another Pod", pushed)]
    {
        let times = [("p50", spread.p50_us), ("p99", spread.p99_us), ("max", spread.max_us)];
        figures.extend(times.map(|(which, us)| {
            let ms = Duration::from_micros(us).as_secs_f64() * 1e3;
            Figure::new(format!("{what}, {} records, {which}", spread.count), ms, "ms")
        }));
    }
    Ok(figures)
}

async fn apply(cluster: &Cluster, yaml: &str, probe: &str, count: usize) -> anyhow::Result<()> {
    let yaml = yaml
        .replace("{probe}", probe)
        .replace("{rate}", &RATE.to_string())
        .replace("{count}", &count.to_string());
    let ended = cluster.try_kubectl(&["apply", "-n", NAMESPACE, "-f", "-"], Some(&yaml)).await?;
    anyhow::ensure!(ended.success, "{}", ended.stderr);
    Ok(())
}

/// The line of JSON that a probe prints at its end.
async fn said<T: DeserializeOwned>(
    cluster: &Cluster,
    pod: &str,
    within: Duration,
) -> anyhow::Result<T> {
    let mut last = String::new();
    let logs = async || {
        last = cluster.kubectl(&["logs", "-n", NAMESPACE, pod, "-c", "probe"]).await?;
        anyhow::ensure!(!last.contains("pyramid-probe:"), "{last}");
        Ok(last.contains('}'))
    };
    cluster.wait_for(&format!("the figures of {pod}"), within, logs).await?;
    let line = last.lines().find(|line| line.starts_with('{'));
    Ok(serde_json::from_str(line.context("no line of figures")?)?)
}
