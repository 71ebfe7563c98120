//! A private authority and the server's certificate.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Writes `ca.crt`, `server.crt` and `server.key` into a folder, and `other-ca.crt` of another
/// authority that differs in its key alone.
pub(super) fn write(folder: &Path) -> anyhow::Result<()> {
    let (ca, other) = (KeyPair::generate()?, KeyPair::generate()?);
    let params = authority()?;
    std::fs::write(folder.join("ca.crt"), params.self_signed(&ca)?.pem())?;
    std::fs::write(folder.join("other-ca.crt"), params.self_signed(&other)?.pem())?;
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    let server = server.signed_by(&key, &Issuer::new(params, ca))?;
    std::fs::write(folder.join("server.crt"), server.pem())?;
    std::fs::write(folder.join("server.key"), key.serialize_pem())?;
    Ok(())
}

fn authority() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new([])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority of the object store");
    Ok(params)
}
