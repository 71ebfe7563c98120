//! Many Streams at once: until all are Ready, and until all are gone.

use std::fmt::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::Figure;
use crate::cluster::Cluster;

/// Their namespace.
pub(super) const MANY: &str = "figures-streams";
/// Longer is a failure and no figure.
const WITHIN: Duration = Duration::from_secs(600);

/// One `kubectl apply` of all.
pub(super) async fn apply(cluster: &Cluster, count: usize) -> anyhow::Result<Vec<Figure>> {
    cluster.kubectl(&["create", "namespace", MANY]).await?;
    let mut yaml = String::new();
    for number in 0..count {
        writeln!(
            yaml,
            "apiVersion: pyramid.dev/v1alpha1\nkind: Stream\n\
             metadata: {{name: s{number:04}, namespace: {MANY}}}\n---"
        )?;
    }
    let begin = Instant::now();
    cluster.apply(&yaml).await?;
    let applied = begin.elapsed();
    let all_are_ready = async || Ok(ready(cluster).await? == count);
    cluster.wait_for("all Streams are Ready", WITHIN, all_are_ready).await?;
    let took = begin.elapsed();
    let all_have_numbers = async || Ok(numbered(cluster).await? == count);
    cluster.wait_for("all Streams show numbers", WITHIN, all_have_numbers).await?;
    let numbered = begin.elapsed();
    Ok(vec![
        Figure::new(format!("{count} Streams: kubectl apply alone"), applied.as_secs_f64(), "s"),
        Figure::new(
            format!("{count} Streams: from kubectl apply until all are Ready"),
            took.as_secs_f64(),
            "s",
        )
        .at_most(60.0),
        // The operator writes ten objects' numbers in a second at most.
        Figure::new(
            format!("{count} Streams: until all show a next offset"),
            numbered.as_secs_f64(),
            "s",
        ),
    ])
}

async fn numbered(cluster: &Cluster) -> anyhow::Result<usize> {
    let path = "jsonpath={.items[*].status.nextOffset}";
    let numbers = cluster.kubectl(&["get", "streams.pyramid.dev", "-n", MANY, "-o", path]).await?;
    Ok(numbers.split_whitespace().count())
}

async fn ready(cluster: &Cluster) -> anyhow::Result<usize> {
    let path = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
    let states = cluster.kubectl(&["get", "streams.pyramid.dev", "-n", MANY, "-o", path]).await?;
    Ok(states.split_whitespace().filter(|state| *state == "True").count())
}

/// One request that deletes all, until their finalizers are through. `kubectl delete` itself would
/// ask for one after the other, and take longer than they do.
pub(super) async fn delete(cluster: &Cluster) -> anyhow::Result<Vec<Figure>> {
    let begin = Instant::now();
    let all = format!("/apis/pyramid.dev/v1alpha1/namespaces/{MANY}/streams");
    cluster.kubectl(&["delete", "--raw", &all]).await?;
    let all_are_gone = async || {
        let left = ["get", "streams.pyramid.dev", "-n", MANY, "-o", "name"];
        Ok(cluster.kubectl(&left).await?.trim().is_empty())
    };
    cluster.wait_for("all Streams are gone", WITHIN, all_are_gone).await?;
    let took = begin.elapsed();
    cluster.kubectl(&["delete", "namespace", MANY, "--timeout=180s"]).await?;
    Ok(vec![Figure::new("the same Streams: until all are deleted", took.as_secs_f64(), "s")])
}
