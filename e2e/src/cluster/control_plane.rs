//! etcd, the API server and what decides, and the names of the cluster, as one unit.

use std::path::Path;

use crate::cluster::calls;
use crate::cluster::layout::{API_PORT, Layout};
use crate::cluster::tools::Tools;
use crate::cluster::unit::{Part, Unit};

/// The name of the unit.
pub(super) const UNIT: &str = "control-plane";

/// A node that says nothing is not ready after this. The default is 50 s.
const NODE_GRACE: &str = "12s";

/// The file that says which calls are written down.
const CALLS: &str = "calls.yaml";

/// Ports of an etcd.
#[derive(Clone, Copy, Debug)]
pub(super) struct EtcdPorts {
    pub(super) client: u16,
    pub(super) peer: u16,
}

/// In a network of its own.
const ETCD_PORTS: EtcdPorts = EtcdPorts { client: 2379, peer: 2380 };

/// Who makes the tokens of service accounts.
pub(super) const ACCOUNT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The unit, with the files that it reads.
///
/// # Errors
/// The state directory cannot be written.
pub(super) fn unit(layout: &Layout, tools: &Tools) -> anyhow::Result<Unit> {
    std::fs::write(layout.path("Corefile"), corefile(layout))?;
    std::fs::write(layout.path(CALLS), calls::POLICY)?;
    let part = |name, arguments| Part { name, program: tools.program(name), arguments };
    Ok(Unit {
        name: UNIT.to_owned(),
        network: layout.plane_namespace(),
        setup: String::new(),
        parts: vec![
            part("etcd", etcd(&layout.path("etcd"), ETCD_PORTS)),
            part("kube-apiserver", api_server(layout)),
            part("kube-controller-manager", controllers(layout)),
            part("kube-scheduler", scheduler(layout)),
            part("coredns", vec![format!("-conf={}", text(&layout.path("Corefile")))]),
        ],
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn flags(flags: &[(&str, String)]) -> Vec<String> {
    flags.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// The arguments of an etcd on loopback.
pub(super) fn etcd(data: &Path, ports: EtcdPorts) -> Vec<String> {
    let EtcdPorts { client, peer } = ports;
    let (client, peer) = (loopback(client), loopback(peer));
    flags(&[
        ("data-dir", text(data)),
        // Nobody wants this data after the machine's power was cut.
        ("unsafe-no-fsync", "true".into()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("default={peer}")),
        ("log-level", "warn".into()),
    ])
}

fn loopback(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// What every API server is told, with or without nodes: certificates and keys are files of the
/// folder `pki`.
pub(super) fn any_api_server(pki: &Path, etcd: EtcdPorts, port: u16) -> Vec<String> {
    let pki = |file: &str| text(&pki.join(file));
    flags(&[
        ("etcd-servers", loopback(etcd.client)),
        ("secure-port", port.to_string()),
        ("client-ca-file", pki("ca.crt")),
        ("tls-cert-file", pki("apiserver.crt")),
        ("tls-private-key-file", pki("apiserver.key")),
        ("service-account-issuer", ACCOUNT_ISSUER.into()),
        ("service-account-key-file", pki("accounts.pub")),
        ("service-account-signing-key-file", pki("accounts.key")),
    ])
}

fn api_server(layout: &Layout) -> Vec<String> {
    let pki = |file: &str| text(&layout.pki(file));
    let own = flags(&[
        ("advertise-address", layout.plane().to_string()),
        ("service-cluster-ip-range", layout.services()),
        ("kubelet-certificate-authority", pki("ca.crt")),
        ("kubelet-client-certificate", pki("apiserver-kubelet.crt")),
        ("kubelet-client-key", pki("apiserver-kubelet.key")),
        // Else logs and exec look the node's name up in DNS.
        ("kubelet-preferred-address-types", "InternalIP".into()),
        ("authorization-mode", "Node,RBAC".into()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("allow-privileged", "true".into()),
        // Webhooks are reached at the addresses of their pods: there is no proxy beside it.
        ("enable-aggregator-routing", "true".into()),
        ("audit-policy-file", text(&layout.path(CALLS))),
        ("audit-log-path", text(&calls::file(layout))),
        ("audit-log-maxsize", calls::FILE_SIZE.to_string()),
        ("audit-log-maxbackup", calls::FILES_MAX.to_string()),
    ]);
    [any_api_server(&layout.path("pki"), ETCD_PORTS, API_PORT), own].concat()
}

fn controllers(layout: &Layout) -> Vec<String> {
    let config = text(&layout.kubeconfig("controllers"));
    flags(&[
        ("kubeconfig", config.clone()),
        ("authentication-kubeconfig", config.clone()),
        ("authorization-kubeconfig", config),
        ("use-service-account-credentials", "true".into()),
        ("service-account-private-key-file", text(&layout.pki("accounts.key"))),
        ("root-ca-file", text(&layout.pki("ca.crt"))),
        ("cluster-signing-cert-file", text(&layout.pki("ca.crt"))),
        ("cluster-signing-key-file", text(&layout.pki("ca.key"))),
        ("node-monitor-grace-period", NODE_GRACE.into()),
        ("leader-elect", "false".into()),
    ])
}

fn scheduler(layout: &Layout) -> Vec<String> {
    let config = text(&layout.kubeconfig("scheduler"));
    flags(&[
        ("kubeconfig", config.clone()),
        ("authentication-kubeconfig", config.clone()),
        ("authorization-kubeconfig", config),
        ("leader-elect", "false".into()),
    ])
}

fn corefile(layout: &Layout) -> String {
    let config = text(&layout.kubeconfig("coredns"));
    format!(
        ".:53 {{\n\
         \x20   errors\n\
         \x20   ready :8181\n\
         \x20   kubernetes cluster.local in-addr.arpa {{\n\
         \x20       kubeconfig {config}\n\
         \x20       pods insecure\n\
         \x20       ttl 5\n\
         \x20   }}\n\
         }}\n"
    )
}
