//! The authority of a cluster, everybody's certificates, and how each reaches the API server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

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
    let authority = Authority::new(&layout.path("pki"))?;

    let server = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
    let addresses =
        [layout.plane(), layout.plane_for_host(), layout.kubernetes_service(), Ipv4Addr::LOCALHOST];
    authority.issue("apiserver", "kube-apiserver", "", &server, &addresses)?;
    authority.issue("apiserver-kubelet", "apiserver-kubelet", "system:masters", &[], &[])?;

    authority.make_account_key()?;

    let plane = Ipv4Addr::LOCALHOST;
    for (file, name, group, server) in [
        ("admin", "admin", "system:masters", layout.plane_for_host()),
        ("controllers", "system:kube-controller-manager", "", plane),
        ("scheduler", "system:kube-scheduler", "", plane),
        ("coredns", "system:coredns", "", plane),
        ("proxy", "system:kube-proxy", "", layout.plane()),
    ] {
        authority.issue(file, name, group, &[], &[])?;
        authority.kubeconfig(&layout.kubeconfig(file), file, (server, API_PORT).into())?;
    }
    for node in 1..=NODES {
        let name = node_name(node);
        let user = format!("system:node:{name}");
        let address = [layout.node_address(node)];
        authority.issue(&name, &user, "system:nodes", &[&name], &address)?;
        let server = (layout.plane(), API_PORT).into();
        authority.kubeconfig(&layout.kubeconfig(&name), &name, server)?;
    }
    Ok(())
}

/// The authority of one folder, which gets all that it makes.
pub(super) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, `ca.crt` and `ca.key`.
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut params = CertificateParams::new([])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "authority of the test cluster");
        let key = KeyPair::generate()?;
        std::fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
        std::fs::write(folder.join("ca.key"), key.serialize_pem())?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// Writes the key of service accounts: `accounts.key` signs, `accounts.pub` checks.
    pub(super) fn make_account_key(&self) -> anyhow::Result<KeyPair> {
        let key = KeyPair::generate()?;
        std::fs::write(self.folder.join("accounts.key"), key.serialize_pem())?;
        std::fs::write(self.folder.join("accounts.pub"), key.public_key_pem())?;
        Ok(key)
    }

    /// Writes a certificate of this name and group, for clients and for a server of these names.
    pub(super) fn issue(
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
        std::fs::write(self.folder.join(format!("{file}.crt")), certificate.pem())?;
        std::fs::write(self.folder.join(format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }

    /// Writes how the owner of the certificate `user` reaches the API server at this address.
    pub(super) fn kubeconfig(
        &self,
        path: &Path,
        user: &str,
        server: SocketAddr,
    ) -> anyhow::Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "pyramid",
            "contexts": [{ "name": "pyramid", "context": { "cluster": "pyramid", "user": user } }],
            "clusters": [{
                "name": "pyramid",
                "cluster": {
                    "server": format!("https://{server}"),
                    "certificate-authority": self.folder.join("ca.crt"),
                },
            }],
            "users": [{
                "name": user,
                "user": {
                    "client-certificate": self.folder.join(format!("{user}.crt")),
                    "client-key": self.folder.join(format!("{user}.key")),
                },
            }],
        });
        write_json(path, &config)
    }
}

/// JSON is YAML: everything in Kubernetes reads it.
pub(super) fn write_json(path: &Path, value: &serde_json::Value) -> anyhow::Result<()> {
    std::fs::write(path, format!("{value:#}")).with_context(|| format!("write {}", path.display()))
}
