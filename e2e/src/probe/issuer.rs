//! A token for a certificate, with requests that a pusher would not make.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Args;
use pyramid_protocol::net::{self, TcpConnect};
use pyramid_protocol::pb::v1::issuer_client::IssuerClient;
use pyramid_protocol::pb::v1::{IssueRequest, Refusal};
use pyramid_protocol::{Clock, SpiffeId, SystemClock};
use pyramid_tls::authority::{BACKDATED, Issued};
use pyramid_tls::{connect_without_identity, write_directory};
use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use super::{Outcome, Places, read_all};

/// Asks the issuer for a certificate.
#[derive(Clone, Debug, Args)]
pub struct Issue {
    #[command(flatten)]
    places: Places,
    /// The file with the token; - is standard input.
    #[arg(long)]
    token: PathBuf,
    /// A folder that gets key, certificate and roots.
    #[arg(long)]
    into: Option<PathBuf>,
    /// A URI that the request names.
    #[arg(long)]
    uri: Option<String>,
    /// A host that the request names.
    #[arg(long)]
    dns: Option<String>,
    /// Request an authority that may vouch for others.
    #[arg(long)]
    authority: bool,
}

impl Issue {
    /// Asks.
    ///
    /// # Errors
    /// The request could not be made, or what came back is no certificate.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let known = self.places.known()?;
        let bundle_pem = self.places.bundle_pem()?;
        let token = String::from_utf8(read_all(&self.token)?)?.trim().to_owned();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let csr_pem = self.request(&key)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let connect = connect_without_identity(
            &bundle_pem,
            &self.places.bootstrap,
            SpiffeId::operator(&known.trust_domain)?,
            &clock,
            Arc::new(TcpConnect),
        )?;
        let channel = net::channel(Arc::new(connect), &known.issuer)?;
        let answer = IssuerClient::new(channel).issue(IssueRequest { token, csr_pem }).await;
        let answer = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Outcome::refused(&Refusal::from_status(&status))),
        };
        let granted = fields(&answer.certificate_pem)?;
        if let Some(folder) = self.into {
            let issued = Issued {
                key_pem: key.serialize_pem(),
                chain_pem: answer.certificate_pem,
                not_after_ms: answer.not_after_ms,
            };
            write_directory(&folder, &issued, &answer.trust_bundle_pem)?;
        }
        Ok(Outcome::Done(granted))
    }

    fn request(&self, key: &KeyPair) -> anyhow::Result<String> {
        let mut params = CertificateParams::default();
        let uri = self.uri.as_deref().map(Ia5String::try_from).transpose()?;
        let dns = self.dns.as_deref().map(Ia5String::try_from).transpose()?;
        params.subject_alt_names.extend(uri.map(SanType::URI));
        params.subject_alt_names.extend(dns.map(SanType::DnsName));
        if self.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        Ok(params.serialize_request(key)?.pem()?)
    }
}

/// What a certificate says that a request might want to say.
fn fields(certificate_pem: &str) -> anyhow::Result<Value> {
    let (rest, pem) = parse_x509_pem(certificate_pem.as_bytes())?;
    ensure!(rest.trim_ascii().is_empty(), "more than a leaf");
    let leaf = pem.parse_x509()?;
    let names = leaf.subject_alternative_name()?.context("names")?;
    let (mut uris, mut others) = (Vec::new(), Vec::new());
    for name in &names.value.general_names {
        if let GeneralName::URI(uri) = name {
            uris.push((*uri).to_owned());
        } else {
            others.push(name.to_string());
        }
    }
    let purposes = leaf.extended_key_usage()?.context("purposes")?.value;
    let validity = leaf.validity();
    let begin = validity.not_before.timestamp() + i64::try_from(BACKDATED.as_secs())?;
    Ok(json!({
        "uris": uris,
        "other_names": others,
        "subject": leaf.subject().to_string(),
        "is_authority": leaf.is_ca(),
        "for_servers": purposes.server_auth,
        "for_clients": purposes.client_auth,
        "life_seconds": validity.not_after.timestamp() - begin,
    }))
}
