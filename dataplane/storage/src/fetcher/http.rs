//! `https:` URLs, as a store signed them for anybody who holds them.
//!
//! The request is the URL's own, with a range; nothing that the server says leads elsewhere:
//! redirects are refused, and so is every address at which machines and clouds keep their own
//! secrets (see `address`). The bytes come in pieces, as fast as they are taken, never more than were
//! asked for. Whoever takes them verifies them.

pub(crate) mod address;
mod answer;
mod connector;

use std::{ops::Range, path::PathBuf, time::Duration};

use ::http::{HeaderValue, Request, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use rustls::pki_types::ServerName;
use tokio::time::timeout;

use self::{
    answer::Answered,
    connector::{Connections, Refusing},
};
use super::{ACTION, PIECE_LEN_MAX, length, refused};
use crate::{
    object_store::Error,
    transport::{Cause, cause},
    trust::TrustError,
};

/// How long a server may take to answer with its headers, connecting included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A body that stands still for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Most that is read of the text of a refusal. Unit: bytes.
const REFUSAL_LEN_MAX: usize = 16 << 10;

/// The setting that holds the authority of the object store.
const CA_SETTING: &str = "--object-store-ca";

/// What may be opened over the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpSettings {
    /// A PEM file with the authority that signed the store's certificate, read again when it
    /// changes. Absent: the authorities of this machine.
    pub ca_file: Option<PathBuf>,
    /// Whether `http:` URLs are opened too: everybody on the way then sees them, and may use them
    /// while they live. What they give is encrypted and verified all the same.
    pub allows_plain_http: bool,
}

/// Asks servers. Keeps connections for the next request.
#[derive(Debug)]
pub(super) struct Client {
    allows_plain_http: bool,
    connections: Connections,
}

impl Client {
    pub(super) fn new(settings: HttpSettings) -> Result<Self, TrustError> {
        let HttpSettings { ca_file, allows_plain_http } = settings;
        Ok(Self { allows_plain_http, connections: Connections::new(ca_file)? })
    }

    /// One that believes the authorities of a PEM text.
    pub(super) fn believing(ca_pem: &str, allows_plain_http: bool) -> Result<Self, TrustError> {
        Ok(Self { allows_plain_http, connections: Connections::believing(ca_pem)? })
    }

    /// Opens `range` of what `url` names; `name` is `url` without its query and fragment.
    pub(super) async fn open(
        &self,
        url: &str,
        name: &str,
        range: Range<u64>,
    ) -> Result<HttpBody, Error> {
        // It could be a password, and errors show the name.
        let authority = name.split('/').nth(2).unwrap_or_default();
        if authority.contains('@') {
            return Err(refused("a URL with a user", "a location never has one"));
        }
        if name.starts_with("http:") && !self.allows_plain_http {
            return Err(refused(name, "it has no TLS, which this reader's settings do not allow"));
        }
        let uri: Uri = url
            .split('#')
            .next()
            .and_then(|url| url.parse().ok())
            .ok_or_else(|| refused(name, "it is no URL"))?;
        let server = server(&uri).ok_or_else(|| refused(name, "it names no server"))?;
        if range.start >= range.end {
            return Ok(HttpBody::empty(name, &server));
        }
        let request = request(uri, &range).ok_or_else(|| refused(name, "it is no URL"))?;

        let client = self.connections.client();
        let response = match timeout(HEADER_TIMEOUT, client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                if let Some(refusal) = Refusing::of(&error) {
                    return Err(refused(name, &refusal.to_string()));
                }
                return Err(failed(name, &server, &cause(&error)));
            }
            Err(_elapsed) => return Err(failed(name, &server, &Cause::Timeout)),
        };
        let (head, body) = response.into_parts();
        match answer::of_head(&head, &range) {
            Answered::Body { len } => Ok(HttpBody {
                body: Some(body),
                rest: Bytes::new(),
                left: len,
                name: name.to_owned(),
                server,
            }),
            Answered::Nothing => Ok(HttpBody::empty(name, &server)),
            Answered::Refusal => {
                let text = timeout(STALL_TIMEOUT, Limited::new(body, REFUSAL_LEN_MAX).collect());
                let text = match text.await {
                    Ok(Ok(text)) => text.to_bytes(),
                    // The status alone has to do.
                    Ok(Err(_)) | Err(_) => Bytes::new(),
                };
                Err(answer::of_refusal(&head, &text, name, &server))
            }
        }
    }
}

/// `scheme://host:port`, for people. `None` for a URL with a user, and for a host whose name could
/// never stand in a certificate.
fn server(uri: &Uri) -> Option<String> {
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_https = uri.scheme_str() == Some("https");
    if host.is_empty() || is_https && ServerName::try_from(host).is_err() {
        return None;
    }
    Some(format!("{}://{authority}", uri.scheme_str()?))
}

fn request(uri: Uri, range: &Range<u64>) -> Option<Request<Empty<Bytes>>> {
    let host = HeaderValue::from_str(uri.authority()?.as_str()).ok()?;
    let last = range.end.checked_sub(1)?;
    Request::get(uri)
        .header(header::HOST, host)
        .header(header::RANGE, format!("bytes={}-{last}", range.start))
        .header(header::ACCEPT_ENCODING, "identity")
        .body(Empty::new())
        .ok()
}

fn failed(name: &str, server: &str, cause: &Cause) -> Error {
    let reason = cause.text(server, CA_SETTING);
    if cause.is_lasting() {
        refused(name, &reason)
    } else {
        Error::Unavailable { action: ACTION, key: name.to_owned(), reason, wait: None }
    }
}

/// The bytes of an answer as they come.
pub(super) struct HttpBody {
    /// `None` once nothing comes any more.
    body: Option<Incoming>,
    /// Of a piece that was longer than callers take.
    rest: Bytes,
    left: u64,
    name: String,
    server: String,
}

impl HttpBody {
    fn empty(name: &str, server: &str) -> Self {
        Self {
            body: None,
            rest: Bytes::new(),
            left: 0,
            name: name.to_owned(),
            server: server.to_owned(),
        }
    }

    pub(super) fn left(&self) -> u64 {
        self.left + length(&self.rest)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if !self.rest.is_empty() {
                let len = usize::try_from(PIECE_LEN_MAX).unwrap_or(usize::MAX);
                return Ok(Some(self.rest.split_to(self.rest.len().min(len))));
            }
            if self.left == 0 {
                return Ok(None);
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            let cause = match timeout(STALL_TIMEOUT, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if let Some(left) = self.left.checked_sub(length(&data)) {
                        self.left = left;
                        self.rest = data;
                        continue;
                    }
                    Cause::Other("it sent more bytes than it announced".to_owned())
                }
                Ok(None) => Cause::Closed,
                Ok(Some(Err(error))) => cause(&error),
                Err(_elapsed) => Cause::Timeout,
            };
            self.body = None;
            // It worked so far, so whatever broke it may pass.
            return Err(Error::Unavailable {
                action: ACTION,
                key: self.name.clone(),
                reason: cause.text(&self.server, CA_SETTING),
                wait: None,
            });
        }
    }
}

#[cfg(test)]
mod tests;
