//! What the operator asks of the API server while nothing changes, by the audit log.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Figure;
use crate::cluster::Cluster;

/// Status and numbers of what was made just before are written first.
const SETTLE: Duration = Duration::from_secs(60);

/// Calls by what they do, and how many of them were to change something.
pub(super) async fn take(cluster: &Cluster, idle: Duration) -> anyhow::Result<Vec<Figure>> {
    tokio::time::sleep(SETTLE).await;
    let begin = cluster.calls()?.into_iter().next_back().map(|call| call.time);
    tokio::time::sleep(idle).await;
    let mut counts = BTreeMap::<String, f64>::new();
    let mut writes = 0.0;
    for call in cluster.calls()?.into_iter().filter(|call| Some(&call.time) > begin.as_ref()) {
        if call.is_write() {
            writes += 1.0;
        }
        *counts.entry(format!("{} {}", call.verb, call.kind())).or_default() += 1.0;
    }
    let seconds = idle.as_secs();
    let mut figures: Vec<Figure> = counts
        .into_iter()
        .map(|(what, count)| Figure::new(format!("{seconds} s idle: {what}"), count, "calls"))
        .collect();
    let what = format!("{seconds} s idle: writes, but for leases");
    figures.push(Figure::new(what, writes, "calls").at_most(0.0));
    Ok(figures)
}
