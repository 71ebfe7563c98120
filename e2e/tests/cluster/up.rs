//! The cluster itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pyramid_e2e::cluster::{Cluster, NODES, Node};
use pyramid_e2e::process::{Folder, wait_until};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A pod on a node of its choice, with a volume.
const PODS: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: pause }
spec:
  serviceName: pause
  selector: { matchLabels: { app: pause } }
  template:
    metadata: { labels: { app: pause } }
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: pause
          image: localhost/pause:1
          imagePullPolicy: Never
          volumeMounts: [{ name: data, mountPath: /data }]
  volumeClaimTemplates:
    - metadata: { name: data }
      spec:
        accessModes: [ReadWriteOnce]
        resources: { requests: { storage: 1Gi } }
"#;

/// Nodes are told dead after 12 s, and pods start in about 5 s.
const SOON: Duration = Duration::from_secs(60);

async fn pod_is(cluster: &Cluster, ready: &str) -> anyhow::Result<bool> {
    let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
    Ok(cluster.kubectl(&["get", "pod", "pause-0", "-o", path]).await? == ready)
}

async fn node_of_the_pod(cluster: &Cluster) -> Node<'_> {
    let path = "jsonpath={.spec.nodeName}";
    let name = cluster.kubectl(&["get", "pod", "pause-0", "-o", path]).await.unwrap();
    cluster.node_named(&name).unwrap()
}

async fn wait_for_ready_nodes(cluster: &Cluster, count: u8) {
    let ready = async || Ok(cluster.ready_nodes().await? == usize::from(count));
    cluster.wait_for(&format!("{count} nodes are ready"), SOON, ready).await.unwrap();
}

/// Another process that has started a cluster, which is to end with it.
async fn owner_of_a_cluster(state: &Path) -> Child {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_pyramid-cluster"))
        .arg("run")
        .arg("--state")
        .arg(state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    assert!(line.contains("KUBECONFIG"), "{line:?}");
    owner
}

fn kernel_limits() -> Vec<String> {
    let read = |name| std::fs::read_to_string(PathBuf::from("/proc/sys").join(name)).unwrap();
    ["vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"].map(read).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_has_three_ready_nodes_and_leaves_nothing_though_its_owner_is_killed() {
    let folder = Folder::new().unwrap();
    let limits = kernel_limits();
    let state = folder.join("cluster");
    let mut owner = owner_of_a_cluster(&state).await;
    let cluster = Cluster::open(&state).unwrap();
    assert_eq!(cluster.ready_nodes().await.unwrap(), usize::from(NODES));
    assert!(cluster.s3().list("").await.unwrap().is_empty());

    cluster.apply(PODS).await.unwrap();
    let ready = async || pod_is(&cluster, "True").await;
    cluster.wait_for("the pod is ready", SOON, ready).await.unwrap();
    let traces = cluster.traces().unwrap();
    assert_eq!(traces.left(), cluster.traces().unwrap().left());
    let is_there = |word: &str| traces.left().iter().any(|trace| trace.contains(word));
    for word in ["process", "/run/netns/", "/sys/class/net/", "/sys/fs/cgroup/", "/cluster"] {
        assert!(is_there(word), "{word}: {:?}", traces.left());
    }

    // This one is not the owner.
    drop(cluster);
    assert!(is_there("process"), "{:?}", traces.left());
    owner.kill().await.unwrap();
    let gone = async || Ok(traces.left().is_empty());
    let outcome = wait_until("the cluster is gone", SOON, gone).await;
    assert!(outcome.is_ok(), "{:?} are left", traces.left());
    assert_eq!(kernel_limits(), limits);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_or_cut_off_comes_back_with_its_pods() {
    let folder = Folder::new().unwrap();
    let cluster = Cluster::start(&folder.join("cluster")).await.unwrap();
    cluster.apply(PODS).await.unwrap();
    let ready = async || pod_is(&cluster, "True").await;
    cluster.wait_for("the pod is ready", SOON, ready).await.unwrap();
    let node = node_of_the_pod(&cluster).await;

    node.kill().await.unwrap();
    wait_for_ready_nodes(&cluster, NODES - 1).await;
    assert!(pod_is(&cluster, "False").await.unwrap());
    node.start().await.unwrap();
    wait_for_ready_nodes(&cluster, NODES).await;
    cluster.wait_for("the pod is ready again", SOON, ready).await.unwrap();

    node.cut().await.unwrap();
    wait_for_ready_nodes(&cluster, NODES - 1).await;
    node.join().await.unwrap();
    wait_for_ready_nodes(&cluster, NODES).await;
    cluster.wait_for("the pod is ready again", SOON, ready).await.unwrap();

    let traces = cluster.traces().unwrap();
    assert_ne!(traces.left(), Vec::<String>::new());
    drop(cluster);
    assert_eq!(traces.left(), Vec::<String>::new());
}
