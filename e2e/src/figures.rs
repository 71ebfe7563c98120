//! What Pyramid costs on a cluster, and how fast it is there, measured from outside by kubectl.
//!
//! `make cluster-figures` runs all of it, prints a figure beside the bound it was given, and fails if
//! one is above. The order matters: the applications of the first figures run on while the later
//! ones are taken, and the many Streams are last.

mod delivery;
mod idle;
mod injection;
mod memory;
mod metrics;
mod streams;

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::process::tell;

/// Where the operator runs.
const SYSTEM: &str = "pyramid-system";
/// Pods of the operator.
const OPERATOR: &str = "app.kubernetes.io/name=pyramid-operator";

/// What differs between runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many Streams are applied at once.
    pub streams: usize,
    /// How long calls are counted while nothing changes.
    pub idle: Duration,
    /// How many Pods are created on trial, with and without an annotation.
    pub trials: u32,
    /// Seconds of appends that count, a thousand in each.
    pub seconds: usize,
    /// The image of `pyramid-probe`.
    pub probe: String,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// As a program reads it.
    pub value: f64,
    pub unit: &'static str,
    /// At most this, where a bound was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
}

impl Figure {
    fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, bound: None }
    }

    fn at_most(self, bound: f64) -> Self {
        Self { bound: Some(bound), ..self }
    }

    /// Whether it is more than its bound allows.
    #[must_use]
    pub fn is_above(&self) -> bool {
        self.bound.is_some_and(|bound| self.value > bound)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value, unit, bound } = self;
        write!(f, "{what:<62} {value:>10.2} {unit:<6}")?;
        match bound {
            Some(bound) if self.is_above() => write!(f, " at most {bound}: ABOVE"),
            Some(bound) => write!(f, " at most {bound}"),
            None => Ok(()),
        }
    }
}

/// Takes all figures, on a cluster where the chart is installed.
///
/// # Errors
/// Something could not be measured; namespaces of this run may be left.
pub async fn take(cluster: &Cluster, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut add = |taken: Vec<Figure>| {
        for figure in &taken {
            tell(&figure.to_string());
        }
        figures.extend(taken);
    };
    memory::open_shop(cluster).await?;
    add(injection::take(cluster, settings.trials).await?);
    add(delivery::take(cluster, settings).await?);
    add(memory::take(cluster, "the quickstart", true).await?);
    memory::close_producer(cluster).await?;
    let size = memory::size(cluster).await?;
    add(streams::apply(cluster, settings.streams).await?);
    memory::sealed(cluster, size).await?;
    add(idle::take(cluster, settings.idle).await?);
    add(memory::take(cluster, &format!("{} Streams", settings.streams), false).await?);
    add(streams::delete(cluster).await?);
    memory::close_shop(cluster).await?;
    Ok(figures)
}

/// Names and nodes of these Pods.
async fn pods(
    cluster: &Cluster,
    namespace: &str,
    label: &str,
) -> anyhow::Result<Vec<(String, String)>> {
    let list = cluster.kubectl_json(&["get", "pods", "-n", namespace, "-l", label]).await?;
    let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |item: &Value, pointer| {
        item.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    Ok(items
        .iter()
        .map(|item| (text(item, "/metadata/name"), text(item, "/spec/nodeName")))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_above_its_bound_says_so() {
        let figure = |value| Figure::new("a", value, "ms").at_most(10.0).to_string();
        assert!(!figure(10.0).ends_with("ABOVE"));
        assert!(figure(10.1).ends_with("at most 10: ABOVE"));
    }
}
