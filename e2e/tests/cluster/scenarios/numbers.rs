//! What programs in Pods count of themselves, as Prometheus would read it.

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;

/// Where a program in a Pod tells its numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) port: u16,
}

impl<'a> Numbers<'a> {
    /// Of the Writer that bare Streams get.
    pub(crate) fn of_default_writer(cluster: &'a Cluster) -> Self {
        Self { cluster, namespace: "pyramid-system", pod: "default-writer-0", port: 7403 }
    }

    /// Of the one Pod of another Writer beside it.
    pub(crate) fn of_writer_pod(cluster: &'a Cluster, pod: &'a str) -> Self {
        Self { pod, ..Self::of_default_writer(cluster) }
    }

    /// Of the pusher in a Pod.
    pub(crate) fn of_pusher(cluster: &'a Cluster, namespace: &'a str, pod: &'a str) -> Self {
        Self { cluster, namespace, pod, port: 7411 }
    }

    /// Of one operator.
    pub(crate) fn of_operator(cluster: &'a Cluster, pod: &'a str) -> Self {
        Self { cluster, namespace: "pyramid-system", pod, port: 8444 }
    }

    /// The sum over all operators.
    pub(crate) async fn of_operators(
        cluster: &'a Cluster,
        name: &str,
        labels: &[&str],
    ) -> anyhow::Result<u64> {
        let mut sum = 0;
        for pod in operators(cluster).await? {
            sum += Numbers::of_operator(cluster, &pod).sum(name, labels).await?;
        }
        Ok(sum)
    }

    /// The sum of all series of this name that have all of these labels, each as `name="value"`;
    /// 0 if there is none.
    pub(crate) async fn sum(&self, name: &str, labels: &[&str]) -> anyhow::Result<u64> {
        sum(&self.text().await?, name, labels)
    }

    /// The one series of this name, which has no labels.
    pub(crate) async fn gauge(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("{self:?} does not tell {name}"))?.parse()?)
    }

    async fn text(&self) -> anyhow::Result<String> {
        let Self { cluster, namespace, pod, port } = self;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics");
        let text = cluster.kubectl(&["get", "--raw", &path]).await?;
        ensure!(text.contains("# TYPE "), "{path} has no metrics: {text:?}");
        Ok(text)
    }
}

/// The names of the operators' Pods.
pub(crate) async fn operators(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let label = "app.kubernetes.io/name=pyramid-operator";
    let get = ["get", "pods", "-n", "pyramid-system", "-l", label, "-o"];
    let names = "jsonpath={.items[*].metadata.name}";
    let names = cluster.kubectl(&[&get[..], &[names]].concat()).await?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

fn sum(text: &str, name: &str, labels: &[&str]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
        if series_name == name && labels.iter().all(|label| series_labels.contains(label)) {
            sum += value.parse::<u64>().with_context(|| line.to_owned())?;
        }
    }
    Ok(sum)
}
