//! Requests to S3 with a signature of version 4, for what the object store of the programs does not
//! do: creating buckets, and sending what is wrong on purpose.

use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use pyramid_protocol::{Clock, SystemClock};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::seaweed::{Credentials, REGION};

/// A request that is not signed yet.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    /// Of characters that need no escape.
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// What is sent in the place of the body that was signed.
    sent: Option<Bytes>,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, path: String) -> Self {
        Self { method, path, headers: Vec::new(), body: Bytes::new(), sent: None }
    }

    /// With a header, whose name is in small letters.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(self, body: Bytes) -> Self {
        Self { body, ..self }
    }

    /// With another body than the one that is signed.
    #[must_use]
    pub fn but_send(self, body: Bytes) -> Self {
        Self { sent: Some(body), ..self }
    }

    /// Signs and sends it; the whole answer.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(
        self,
        to: SocketAddr,
        credentials: &Credentials,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = self.signed(to, credentials)?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let (head, body) = client.request(request).await?.into_parts();
        Ok((head.status, body.collect().await?.to_bytes()))
    }

    fn signed(
        self,
        to: SocketAddr,
        credentials: &Credentials,
    ) -> anyhow::Result<http::Request<Full<Bytes>>> {
        let (day, instant) = now()?;
        let digest = digits(&Sha256::digest(&self.body));
        let mut headers = self.headers;
        headers.push(("host", to.to_string()));
        headers.push(("x-amz-content-sha256", digest.clone()));
        headers.push(("x-amz-date", instant.clone()));
        headers.sort_unstable();

        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let mut canonical = format!("{}\n{}\n\n", self.method, self.path);
        for (name, value) in &headers {
            writeln!(canonical, "{name}:{value}")?;
        }
        write!(canonical, "\n{names}\n{digest}")?;
        let scope = format!("{day}/{REGION}/s3/aws4_request");
        let canonical = digits(&Sha256::digest(canonical));
        let to_sign = format!("AWS4-HMAC-SHA256\n{instant}\n{scope}\n{canonical}");
        let mut key = format!("AWS4{}", credentials.secret_key).into_bytes();
        for part in scope.split('/') {
            key = hmac(&key, part.as_bytes());
        }
        let signature = digits(&hmac(&key, to_sign.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            credentials.access_key
        );

        let mut request = http::Request::builder()
            .method(self.method)
            .uri(format!("http://{to}{}", self.path))
            .header("authorization", authorization);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        Ok(request.body(Full::new(self.sent.unwrap_or(self.body)))?)
    }
}

/// Today, and this second, as a signature has them.
fn now() -> anyhow::Result<(String, String)> {
    let seconds = i64::try_from(SystemClock.wall_ms() / 1000)?;
    let now = OffsetDateTime::from_unix_timestamp(seconds).context("a time of this age")?;
    let day = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
    let instant = format!("{day}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
    Ok((day, instant))
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    /// Unit: bytes.
    const BLOCK: usize = 64;

    let mut block = if key.len() > BLOCK { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block.resize(BLOCK, 0);
    let padded = |byte: u8| block.iter().map(|of_key| of_key ^ byte).collect::<Vec<u8>>();
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_that_of_the_standard() {
        // RFC 4231, cases 2 and 6: a short key and one that is longer than a block.
        assert_eq!(
            digits(&hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let message = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(
            digits(&hmac(&[0xaa; 131], message)),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
