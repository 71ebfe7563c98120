//! A node: containerd, kubelet and kube-proxy as one unit, with folders of its own in the place of
//! the machine's.

use std::path::PathBuf;

use serde_json::json;

use crate::cluster::certificates::write_json;
use crate::cluster::layout::{Layout, REPLACED, node_name};
use crate::cluster::tools::Tools;
use crate::cluster::unit::{Part, Unit, quoted};

/// `PersistentVolume`s of a node. A claim that lost its volume can be bound to another one.
pub(super) const VOLUMES: u8 = 12;

/// What holds the namespaces of pods, as `make images` names it.
const PAUSE: &str = "localhost/pause:1";

/// Where a node's containerd listens, as its own programs see it.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// The unit, with the files that it reads.
///
/// # Errors
/// The state directory cannot be written.
pub(super) fn unit(layout: &Layout, tools: &Tools, number: u8) -> anyhow::Result<Unit> {
    let folder = layout.node(number);
    for volume in 1..=VOLUMES {
        std::fs::create_dir_all(volume_path(layout, number, volume))?;
    }
    // What a node has in memory does not outlive it.
    let memory = folder.join("run");
    if memory.exists() {
        std::fs::remove_dir_all(&memory)?;
    }
    let mut setup = String::new();
    for replaced in REPLACED {
        let own = folder.join(replaced.trim_start_matches('/').replace('/', "-"));
        std::fs::create_dir_all(&own)?;
        setup += &format!("mount --bind {} {replaced}\n", quoted(&own.display().to_string()));
    }
    std::fs::create_dir(memory.join("lock"))?;
    let file = |name: &str| folder.join(name);
    std::fs::create_dir_all(file("net.d"))?;
    write_json(&file("net.d/10-pods.conflist"), &pod_network(layout, number))?;
    std::fs::write(file("resolv.conf"), "")?;
    write_json(&file("kubelet.json"), &kubelet(layout, number))?;
    write_json(&file("proxy.json"), &proxy(layout, number))?;
    std::fs::write(file("containerd.toml"), containerd(layout, tools, number))?;
    let flag = |name: &str, value: String| format!("--{name}={value}");
    let text = |path: PathBuf| path.display().to_string();
    Ok(Unit {
        name: node_name(number),
        network: layout.node_namespace(number),
        setup,
        parts: vec![
            Part {
                name: "containerd",
                program: "containerd".into(),
                arguments: vec![flag("config", text(file("containerd.toml")))],
            },
            Part {
                name: "kubelet",
                program: tools.program("kubelet"),
                arguments: vec![
                    flag("config", text(file("kubelet.json"))),
                    flag("kubeconfig", text(layout.kubeconfig(&node_name(number)))),
                    flag("hostname-override", node_name(number)),
                    flag("node-ip", layout.node_address(number).to_string()),
                ],
            },
            Part {
                name: "kube-proxy",
                program: tools.program("kube-proxy"),
                arguments: vec![flag("config", text(file("proxy.json")))],
            },
        ],
    })
}

/// The folder behind a `PersistentVolume`.
pub(super) fn volume_path(layout: &Layout, node: u8, volume: u8) -> PathBuf {
    layout.node(node).join("volumes").join(volume.to_string())
}

/// Where the machine finds a node's containerd.
pub(super) fn socket(layout: &Layout, number: u8) -> PathBuf {
    layout.node(number).join(SOCKET.trim_start_matches('/'))
}

/// The containers that a node has started and not removed.
pub(super) fn containers(layout: &Layout, number: u8) -> anyhow::Result<Vec<String>> {
    let tasks = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
    // No container was started yet.
    let Ok(entries) = std::fs::read_dir(layout.node(number).join(tasks)) else {
        return Ok(Vec::new());
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

fn pod_network(layout: &Layout, number: u8) -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "pods",
                "isGateway": true,
                "ipMasq": false,
                // A pod may reach itself through a Service.
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": layout.pods(number) }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn kubelet(layout: &Layout, number: u8) -> serde_json::Value {
    let name = node_name(number);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": layout.pki("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": layout.pki(&format!("{name}.crt")),
        "tlsPrivateKeyFile": layout.pki(&format!("{name}.key")),
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "clusterDomain": "cluster.local",
        "clusterDNS": [layout.plane()],
        // The machine's search domains are not the pods'.
        "resolvConf": layout.node(number).join("resolv.conf"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "podLogsDir": "/var/log/pods",
        // A dead node is noticed within seconds, and changed Secrets reach pods as fast.
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 4,
        "syncFrequency": "5s",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        // All nodes share the machine, which has its own limits.
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": false,
        "localStorageCapacityIsolation": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
        },
    })
}

fn proxy(layout: &Layout, number: u8) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node_name(number),
        "clusterCIDR": layout.net(),
        "clientConnection": { "kubeconfig": layout.kubeconfig("proxy") },
        // The machine's own limits stay as they are.
        "conntrack": {
            "maxPerCore": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    })
}

fn containerd(layout: &Layout, tools: &Tools, number: u8) -> String {
    let plugins = tools.plugins().display();
    let network = layout.node(number).join("net.d");
    let network = network.display();
    format!(
        "version = 2\n\
         [grpc]\n\
         address = \"{SOCKET}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{PAUSE}\"\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"{plugins}\"\n\
         conf_dir = \"{network}\"\n"
    )
}
