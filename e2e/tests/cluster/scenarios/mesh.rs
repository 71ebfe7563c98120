//! Pods in which a mesh has a sidecar, too: a stand-in that is slow to begin.
//!
//! The stand-in takes no traffic, so what is tried is the order of the containers, and the calls of
//! webhooks one after the other.

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use serde_json::Value;

use super::numbers::Numbers;
use super::other_webhooks::{Configuration, PROXY, Webhooks};
use super::shop::{SOON, Shop};

const PUSHER: &str = "pyramid-pusher";
/// How long a Job may take. It is tried again while its stream is new.
const JOB: &str = "--timeout=120s";
/// Volumes that come with a pusher.
const VOLUMES: [&str; 4] =
    ["pyramid-bootstrap", "pyramid-token", "pyramid-identity", "pyramid-no-token"];

/// Where a mesh stands.
struct Mesh {
    namespace: &'static str,
    /// Of its configuration. The API server asks in the order of names.
    name: &'static str,
    /// Of its webhook.
    path: &'static str,
    /// Of the two sidecars.
    order: [&'static str; 2],
}

/// The pusher comes into Pods that have the proxy already.
pub(crate) async fn a_proxy_that_is_there_already_starts_before_the_pusher(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let mesh = Mesh {
        namespace: "mesh-before",
        name: "a-mesh-before",
        path: "/last",
        order: [PROXY, PUSHER],
    };
    mesh.try_on(cluster).await
}

/// The proxy pushes in front of the pusher, and the pusher's webhook is asked again.
pub(crate) async fn a_proxy_that_comes_later_and_puts_itself_first_starts_before_the_pusher(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let mesh = Mesh {
        namespace: "mesh-ahead",
        name: "z-mesh-ahead",
        path: "/first",
        order: [PROXY, PUSHER],
    };
    mesh.try_on(cluster).await
}

/// The proxy stands behind the pusher, and the pusher's webhook is asked again.
pub(crate) async fn a_proxy_that_comes_later_starts_behind_the_pusher(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let mesh = Mesh {
        namespace: "mesh-behind",
        name: "z-mesh-behind",
        path: "/last",
        order: [PUSHER, PROXY],
    };
    mesh.try_on(cluster).await
}

impl Mesh {
    async fn try_on(self, cluster: &Cluster) -> anyhow::Result<()> {
        let shop = Shop::new(cluster, self.namespace).await?;
        let webhooks = Webhooks::serve(cluster).await?;
        let client = webhooks.client(self.path);
        let configuration =
            Configuration::of_all_pods(cluster, self.name, self.namespace, &client).await?;
        let outcome = self.deliver(&shop).await;
        configuration.remove().await?;
        outcome?;
        shop.leave().await
    }

    async fn deliver(&self, shop: &Shop<'_>) -> anyhow::Result<()> {
        let cluster = shop.cluster;
        let run = ["run", "x", "--image=x", "--dry-run=server", "-o"];
        let names = "jsonpath={.spec.initContainers[*].name}";
        let alone = async || Ok(shop.kubectl(&[&run[..], &[names]].concat()).await? == PROXY);
        cluster.wait_for("the API server asks the mesh", SOON, alone).await?;

        let before = asked_again(cluster).await?;
        for file in ["stream", "subscription"] {
            shop.apply_example(file).await?;
        }
        let kinds = ["streams.pyramid.dev/orders", "subscriptions.pyramid.dev/orders-projector"];
        shop.wait(&["--for=condition=Ready", kinds[0], kinds[1]]).await?;
        for file in ["consumer", "producer", "job"] {
            shop.apply_example(file).await?;
        }
        let available = "--for=condition=Available";
        shop.wait(&[available, "deployment/orders-projector", "deployment/orders-producer"])
            .await?;
        shop.kubectl(&["wait", JOB, "--for=condition=Complete", "job/orders-append"]).await?;
        if self.name > "pyramid-sidecar-injector" {
            let after = asked_again(cluster).await?;
            ensure!(after - before >= 3, "asked again about three: {before}, then {after}");
        }

        let pods = cluster.kubectl_json(&["get", "pods", "-n", self.namespace]).await?;
        let pods = pods["items"].as_array().context("Pods")?;
        ensure!(pods.len() >= 3, "{} Pods", pods.len());
        for pod in pods {
            self.judge(pod).with_context(|| format!("{pod:#}"))?;
        }
        let of_job = |pod: &&Value| pod["metadata"]["labels"]["job-name"] == "orders-append";
        let ended = |pod: &&Value| pod["status"]["phase"] == "Succeeded";
        let of_job = pods.iter().filter(of_job).find(ended).context("the Pod of the Job")?;
        self.judge_ended(of_job).with_context(|| format!("{of_job:#}"))?;
        shop.received(20).await?;
        shop.ends_complete_beside(2).await?;
        Ok(())
    }

    /// Of both sidecars one, in their order, also in that of time; and of what comes with them.
    fn judge(&self, pod: &Value) -> anyhow::Result<()> {
        let spec = &pod["spec"];
        ensure!(names(&spec["initContainers"]) == self.order, "the order of the sidecars");
        let volumes = names(&spec["volumes"]);
        ensure!(volumes.len() == sorted(&volumes).len(), "a volume is there twice");
        ensure!(VOLUMES.iter().all(|volume| volumes.contains(volume)), "a volume is missing");
        for container in spec["containers"].as_array().into_iter().flatten() {
            let variables = names(&container["env"]);
            ensure!(variables == ["PYRAMID_APPEND_ENDPOINT"], "variables {variables:?}");
        }
        // Kubelets tell whole seconds, and the proxy takes four of them until it is ready.
        let [first, second] = self.order.map(|name| started(pod, name));
        let (first, second) = (first.context("a begin")?, second.context("a begin")?);
        let in_order = if self.order == [PROXY, PUSHER] { first < second } else { first <= second };
        ensure!(in_order, "started at {first} and {second}");
        Ok(())
    }

    /// Both were told to end, the later one first.
    fn judge_ended(&self, pod: &Value) -> anyhow::Result<()> {
        for name in self.order {
            let code = &state(pod, name).context("a state")?["terminated"]["exitCode"];
            ensure!(code == 0, "{name} ended with {code}");
        }
        let [first, second] =
            self.order.map(|name| state(pod, name)?["terminated"]["finishedAt"].as_str());
        let (first, second) = (first.context("an end")?, second.context("an end")?);
        ensure!(second <= first, "ended at {first} and {second}");
        Ok(())
    }
}

/// How often the webhook was asked about a Pod that had a pusher.
async fn asked_again(cluster: &Cluster) -> anyhow::Result<u64> {
    Numbers::of_operators(cluster, "pyramid_injections_total", &[r#"reason="present""#]).await
}

fn names(elements: &Value) -> Vec<&str> {
    let elements = elements.as_array().into_iter().flatten();
    elements.filter_map(|element| element["name"].as_str()).collect()
}

fn sorted<'a>(names: &[&'a str]) -> std::collections::BTreeSet<&'a str> {
    names.iter().copied().collect()
}

/// The state of an init container.
fn state<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let states = pod["status"]["initContainerStatuses"].as_array()?;
    states.iter().find(|state| state["name"] == container).map(|state| &state["state"])
}

/// When it began, in a form that sorts by time.
fn started<'a>(pod: &'a Value, container: &str) -> Option<&'a str> {
    let state = state(pod, container)?;
    ["running", "terminated"].iter().find_map(|phase| state[phase]["startedAt"].as_str())
}
