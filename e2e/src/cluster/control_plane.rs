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
            part("etcd", etcd(layout)),
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

fn flags(flags: &[(&str, String)]) -> Vec<String> {
    flags.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn etcd(layout: &Layout) -> Vec<String> {
    flags(&[
        ("data-dir", text(&layout.path("etcd"))),
        // Nobody wants this data after the machine's power was cut.
        ("unsafe-no-fsync", "true".into()),
        ("listen-client-urls", "http://127.0.0.1:2379".into()),
        ("advertise-client-urls", "http://127.0.0.1:2379".into()),
        ("listen-peer-urls", "http://127.0.0.1:2380".into()),
        ("initial-advertise-peer-urls", "http://127.0.0.1:2380".into()),
        ("initial-cluster", "default=http://127.0.0.1:2380".into()),
        ("log-level", "warn".into()),
    ])
}

fn api_server(layout: &Layout) -> Vec<String> {
    let pki = |file: &str| text(&layout.pki(file));
    flags(&[
        ("etcd-servers", "http://127.0.0.1:2379".into()),
        ("advertise-address", layout.plane().to_string()),
        ("secure-port", API_PORT.to_string()),
        ("service-cluster-ip-range", layout.services()),
        ("client-ca-file", pki("ca.crt")),
        ("tls-cert-file", pki("apiserver.crt")),
        ("tls-private-key-file", pki("apiserver.key")),
        ("kubelet-certificate-authority", pki("ca.crt")),
        ("kubelet-client-certificate", pki("apiserver-kubelet.crt")),
        ("kubelet-client-key", pki("apiserver-kubelet.key")),
        // Else logs and exec look the node's name up in DNS.
        ("kubelet-preferred-address-types", "InternalIP".into()),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local".into()),
        ("service-account-key-file", pki("accounts.pub")),
        ("service-account-signing-key-file", pki("accounts.key")),
        ("authorization-mode", "Node,RBAC".into()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("allow-privileged", "true".into()),
        // Webhooks are reached at the addresses of their pods: there is no proxy beside it.
        ("enable-aggregator-routing", "true".into()),
        ("audit-policy-file", text(&layout.path(CALLS))),
        ("audit-log-path", text(&calls::file(layout))),
        ("audit-log-maxsize", calls::FILE_SIZE.to_string()),
        ("audit-log-maxbackup", calls::FILES_MAX.to_string()),
    ])
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
