//! Pods that die without a word to Kubernetes.

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, cgroup, unit};

impl Cluster {
    /// Kills all processes of a Pod at once: no hook of it runs, and no signal comes before. Its node
    /// soon starts them again, unless the Pod is deleted meanwhile.
    ///
    /// # Errors
    /// Nothing of it runs, it shares the network of its node, or the kernel's answer.
    pub async fn kill_pod(&self, namespace: &str, pod: &str) -> anyhow::Result<()> {
        let found = self.kubectl_json(&["get", "pod", pod, "--namespace", namespace]).await?;
        let shares = found.pointer("/spec/hostNetwork").and_then(Value::as_bool);
        ensure!(shares != Some(true), "{namespace}/{pod} shares the network of its node");
        for group in cgroup::folders(&containers(&found))? {
            // What holds the Pod together is in none of its containers, but in their network.
            if let Some(process) = cgroup::processes(&group)?.first() {
                return unit::kill_all_beside(*process)
                    .with_context(|| format!("kill {namespace}/{pod}"));
            }
        }
        Err(anyhow::anyhow!("nothing of {namespace}/{pod} runs"))
    }
}

/// The ids of a Pod's containers, as containerd knows them.
fn containers(pod: &Value) -> Vec<String> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let states = lists
        .iter()
        .filter_map(|list| pod.pointer(&format!("/status/{list}"))?.as_array())
        .flatten();
    let ids = states.filter_map(|state| state["containerID"].as_str());
    ids.filter_map(|id| id.strip_prefix("containerd://")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_told_by_the_ids_that_containerd_knows() {
        let pod = json!({"status": {
            "initContainerStatuses": [{"containerID": "containerd://a"}],
            "containerStatuses": [{"name": "waits"}, {"containerID": "containerd://b"}],
        }});
        assert_eq!(containers(&pod), ["a", "b"]);
        assert_eq!(containers(&json!({})), Vec::<String>::new());
    }
}
