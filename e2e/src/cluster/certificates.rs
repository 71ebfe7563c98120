//! The authority of a cluster, everybody's certificates, and how each reaches the API server.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;

use crate::cluster::layout::{API_PORT, Layout, NODES, node_name};

/// Writes all of them below the state directory.
///
/// # Errors
/// The directory cannot be written.
pub(super) fn write(layout: &Layout) -> anyhow::Result<()> {
    std::fs::create_dir_all(layout.path("pki"))?;
    let authority = Authority::new(layout)?;

    let server = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
    let addresses =
        [layout.plane(), layout.plane_for_host(), layout.kubernetes_service(), Ipv4Addr::LOCALHOST];
    authority.issue("apiserver", "kube-apiserver", "", &server, &addresses)?;
    authority.issue("apiserver-kubelet", "apiserver-kubelet", "system:masters", &[], &[])?;

    // The key of service accounts: the private part signs, the public part checks.
    let key = KeyPair::generate()?;
    std::fs::write(layout.pki("accounts.key"), key.serialize_pem())?;
    std::fs::write(layout.pki("accounts.pub"), key.public_key_pem())?;

    let plane = Ipv4Addr::LOCALHOST;
    for (file, name, group, server) in [
        ("admin", "admin", "system:masters", layout.plane_for_host()),
        ("controllers", "system:kube-controller-manager", "", plane),
        ("scheduler", "system:kube-scheduler", "", plane),
        ("coredns", "system:coredns", "", plane),
        ("proxy", "system:kube-proxy", "", layout.plane()),
    ] {
        authority.issue(file, name, group, &[], &[])?;
        kubeconfig(layout, file, server)?;
    }
    for node in 1..=NODES {
        let name = node_name(node);
        let user = format!("system:node:{name}");
        let address = [layout.node_address(node)];
        authority.issue(&name, &user, "system:nodes", &[&name], &address)?;
        kubeconfig(layout, &name, layout.plane())?;
    }
    Ok(())
}

struct Authority<'a> {
    layout: &'a Layout,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn new(layout: &'a Layout) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "authority of the test cluster");
        let key = KeyPair::generate()?;
        std::fs::write(layout.pki("ca.crt"), params.self_signed(&key)?.pem())?;
        std::fs::write(layout.pki("ca.key"), key.serialize_pem())?;
        Ok(Self { layout, issuer: Issuer::new(params, key) })
    }

    /// Writes a certificate of this name and group, for clients and for a server of these names.
    fn issue(
        &self,
        file: &str,
        name: &str,
        group: &str,
        dns: &[&str],
        addresses: &[Ipv4Addr],
    ) -> anyhow::Result<()> {
        let dns: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(dns)?;
        let addresses = addresses.iter().map(|address| SanType::IpAddress(IpAddr::V4(*address)));
        params.subject_alt_names.extend(addresses);
        params.distinguished_name.push(DnType::CommonName, name);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        std::fs::write(self.layout.pki(&format!("{file}.crt")), certificate.pem())?;
        std::fs::write(self.layout.pki(&format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }
}

/// Writes how the owner of a certificate reaches the API server at this address.
fn kubeconfig(layout: &Layout, user: &str, server: Ipv4Addr) -> anyhow::Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "pyramid",
        "contexts": [{ "name": "pyramid", "context": { "cluster": "pyramid", "user": user } }],
        "clusters": [{
            "name": "pyramid",
            "cluster": {
                "server": format!("https://{server}:{API_PORT}"),
                "certificate-authority": layout.pki("ca.crt"),
            },
        }],
        "users": [{
            "name": user,
            "user": {
                "client-certificate": layout.pki(&format!("{user}.crt")),
                "client-key": layout.pki(&format!("{user}.key")),
            },
        }],
    });
    write_json(&layout.kubeconfig(user), &config)
}

/// JSON is YAML: everything in Kubernetes reads it.
pub(super) fn write_json(path: &Path, value: &serde_json::Value) -> anyhow::Result<()> {
    std::fs::write(path, format!("{value:#}")).with_context(|| format!("write {}", path.display()))
}
