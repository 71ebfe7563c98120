//! One call of the issuer: a token for a certificate.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::pb::v1::issuer_client::IssuerClient;
use pyramid_protocol::pb::v1::{self as pb, Refusal};
use pyramid_protocol::{SpiffeId, net};
use pyramid_tls::{CertificateRequest, connect_without_identity, write_checked_directory};
use tokio::time::timeout;

use crate::bootstrap::Known;
use crate::identity::Identity;

/// How long the issuer may take: it asks the API server.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest token. Those of Kubernetes have about 1 kB. Unit: bytes.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// There is no certificate. Asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// For the log; without the token.
    pub(crate) message: String,
    /// As the issuer advises.
    pub(crate) retry_after: Duration,
}

impl Error {
    /// With its causes, on one line.
    pub(crate) fn of(error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self { message, retry_after: Duration::ZERO }
    }

    fn new(message: String) -> Self {
        Self { message, retry_after: Duration::ZERO }
    }
}

/// Gets a certificate for a new key and puts both into the directory. Returns whose it is.
pub(super) async fn issue(identity: &Identity, known: &Known) -> Result<SpiffeId, Error> {
    let token = identity.token.clone();
    let token = blocking(move || read_token(&token)).await?;
    let request = CertificateRequest::generate().map_err(|error| Error::of(&error))?;
    let answer = ask(identity, known, token, request.csr_pem().to_owned()).await?;
    let issued = request.into_issued(answer.certificate_pem, answer.not_after_ms);
    let (directory, clock) = (identity.directory.clone(), Arc::clone(&identity.clock));
    let bundle = known.trust_bundle_pem.clone();
    blocking(move || {
        write_checked_directory(&directory, &issued, &bundle, &*clock)
            .map_err(|error| Error::of(&error))
    })
    .await
}

async fn ask(
    identity: &Identity,
    known: &Known,
    token: String,
    csr_pem: String,
) -> Result<pb::IssueResponse, Error> {
    let address = &known.bootstrap.issuer;
    let operator =
        SpiffeId::operator(&known.bootstrap.trust_domain).map_err(|error| Error::of(&error))?;
    let connect = connect_without_identity(
        &known.trust_bundle_pem,
        &identity.bundle,
        operator,
        &identity.clock,
        Arc::clone(&identity.connect),
    )
    .map_err(|error| Error::of(&error))?;
    let channel = net::channel(Arc::new(connect), address).map_err(|error| Error::of(&error))?;
    let asking =
        async { IssuerClient::new(channel).issue(pb::IssueRequest { token, csr_pem }).await };
    match timeout(ISSUE_TIMEOUT, asking).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => {
            let refusal = Refusal::from_status(&status);
            let message = format!("the issuer at {address}: {}", refusal.message);
            let retry_after = Duration::from_millis(refusal.retry_after_ms.into());
            Err(Error { message, retry_after })
        }
        Err(_elapsed) => Err(Error::new(format!("the issuer at {address} did not answer in time"))),
    }
}

fn read_token(path: &Path) -> Result<String, Error> {
    let mut token = String::new();
    let read =
        File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut token));
    match read {
        Ok(_len) => Ok(token.trim().to_owned()),
        Err(error) => Err(Error::new(format!("{}: {error}", path.display()))),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("short work with files does not panic")
}
