//! A volume that is gone, and comes back.

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use serde_json::{Value, json};

use super::numbers::Numbers;
use super::shop::{SOON, Shop, example, own_writer};

/// A Writer of its own, with one claim.
const WRITER: [&str; 2] = ["writers.pyramid.dev", "lost"];
const CLAIM: &str = "data-lost-writer-0";
const POD: &str = "lost-writer-0";

/// A Writer whose volume others take away and give back.
#[derive(Clone, Copy)]
struct Victim<'a> {
    system: &'a Shop<'a>,
}

impl<'a> Victim<'a> {
    /// One column of the Writer.
    async fn writer(self, column: &str) -> anyhow::Result<String> {
        self.system.kubectl(&[&["get"], &WRITER[..], &["-o", column]].concat()).await
    }

    /// Waits until it says all of this in its conditions, each as `type=status/reason`.
    async fn says(self, conditions: &[&str]) -> anyhow::Result<()> {
        let column = "jsonpath={range .status.conditions[*]}{.type}={.status}/{.reason} {end}";
        let said = async || {
            let said = self.writer(column).await?;
            let said: Vec<_> = said.split_whitespace().collect();
            let all = conditions.iter().all(|condition| said.contains(condition));
            all.then_some(true).with_context(|| format!("it says {said:?}"))
        };
        self.system.cluster.wait_for(&format!("the Writer says {conditions:?}"), SOON, said).await
    }

    async fn claim(self) -> anyhow::Result<Value> {
        self.system.cluster.kubectl_json(&["get", "pvc", CLAIM, "-n", self.system.namespace]).await
    }

    /// The claim goes with the Pod; the `StatefulSet` makes both anew. What was on the volume stays.
    async fn gets_another_claim(self) -> anyhow::Result<()> {
        let before = self.claim().await?["metadata"]["uid"].clone();
        self.system.kubectl(&["delete", "pvc", CLAIM, "--wait=false"]).await?;
        self.system.kubectl(&["delete", "pod", POD, "--wait=false"]).await?;
        let another = async || {
            let now = self.claim().await?;
            Ok(now["metadata"]["uid"] != before && now["status"]["phase"] == "Bound")
        };
        self.system.cluster.wait_for("another claim is bound", SOON, another).await
    }

    /// What its Pod counts.
    fn numbers(self) -> Numbers<'a> {
        Numbers::of_writer_pod(self.system.cluster, POD)
    }

    async fn is_ready(self) -> bool {
        let &Shop { cluster, namespace } = self.system;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{POD}:7403/proxy/readyz");
        cluster.kubectl(&["get", "--raw", &path]).await.is_ok()
    }
}

/// An empty volume in the place of one that held a log is told of, and never becomes another log
/// under the same identity; with the right one, all goes on.
pub(crate) async fn an_empty_volume_is_told_of_and_founds_nothing_until_the_right_one_is_back(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let system = &Shop { cluster, namespace: "pyramid-system" };
    let victim = Victim { system };
    system.apply(&own_writer("lost")).await?;
    let shop = Shop::new(cluster, "volume-lost").await?;
    let bound = "spec: {writerRef: {name: lost, namespace: pyramid-system}}\n";
    shop.apply(&format!("{}{bound}", example("stream")?)).await?;
    for file in ["subscription", "consumer", "producer"] {
        shop.apply_example(file).await?;
    }
    shop.received(20).await?;
    victim.says(&["Ready=True/Ready", "StorageReady=True/VolumesBound"]).await?;
    ensure!(victim.is_ready().await, "the replica is not ready");
    let known = "jsonpath={.status.clusterID} {.status.members}";
    let (before, claim) = (victim.writer(known).await?, victim.claim().await?);
    ensure!(before.len() > 40, "{before:?}");

    victim.gets_another_claim().await?;
    let lost =
        ["Ready=False/VolumeLost", "StorageReady=False/VolumeLost", "Stalled=True/VolumeLost"];
    victim.says(&lost).await?;
    // The producer asks for its records to be taken all the time.
    let (orders, appended) = (shop.orders().await?, shop.appended_in(victim.numbers()).await?);
    ensure!(appended == 0, "{appended} records after {orders}, on another volume");
    ensure!(!victim.is_ready().await, "the replica is ready");
    let mark = victim.claim().await?["metadata"]["annotations"]["pyramid.dev/cluster-id"].clone();
    ensure!(mark.is_null(), "the empty volume is marked with {mark}");
    ensure!(victim.writer(known).await? == before, "it was {before}");

    // The volume is kept for the claim of that name, whichever comes.
    let volume = claim["spec"]["volumeName"].as_str().context("the volume's name")?;
    let namespace = system.namespace;
    let is_for = json!([{"op": "replace", "path": "/spec/claimRef", "value": {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": CLAIM, "namespace": namespace,
    }}]);
    cluster
        .kubectl(&["patch", "pv", volume, "--type=json", "--patch", &is_for.to_string()])
        .await?;
    victim.gets_another_claim().await?;
    let bound = victim.claim().await?["spec"]["volumeName"].clone();
    ensure!(bound == volume, "the claim has {bound} and not {volume}");
    victim.says(&["Ready=True/Ready", "StorageReady=True/VolumesBound"]).await?;
    let cluster_id = before.split(' ').next().unwrap_or_default();
    ensure!(victim.writer(known).await?.starts_with(cluster_id), "another log than {before}");
    shop.goes_on(20).await?;
    shop.ends_complete_in(victim.numbers(), 0).await?;
    cluster.kubectl(&["delete", "namespace", shop.namespace, "--timeout=120s"]).await?;
    system.kubectl(&[&["delete", "--timeout=90s"], &WRITER[..]].concat()).await?;
    system.kubectl(&["delete", "pvc", CLAIM, "--timeout=60s"]).await?;
    Ok(())
}
