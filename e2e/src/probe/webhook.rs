//! A call of the webhook by somebody who is no API server.

use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use pyramid_protocol::net::{self, TcpConnect};
use pyramid_protocol::{Clock, SpiffeId, SystemClock};
use pyramid_tls::connect_without_identity;
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::client::GrpcService;

use super::{Outcome, Places, read_all};

/// The webhook answers sooner or not at all.
const ANSWER: Duration = Duration::from_secs(40);

/// Posts something to the webhook.
#[derive(Clone, Debug, Args)]
pub struct Post {
    #[command(flatten)]
    places: Places,
    /// host:port of the webhook.
    #[arg(long, default_value = "pyramid-operator.pyramid-system.svc:443")]
    address: String,
    /// What is asked for.
    #[arg(long, default_value = "/inject")]
    path: String,
    /// How it is asked for.
    #[arg(long, default_value = "POST")]
    method: http::Method,
    /// The file with what is posted; - is standard input.
    #[arg(long, default_value = "-")]
    body: PathBuf,
    /// Never end the body.
    #[arg(long)]
    endless: bool,
}

impl Post {
    /// Posts; the status of the answer, and its body: what it says in JSON, or its text.
    ///
    /// # Errors
    /// There was no whole answer.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let connect = connect_without_identity(
            &self.places.bundle_pem()?,
            &self.places.bootstrap,
            SpiffeId::operator(&self.places.known()?.trust_domain)?,
            &clock,
            Arc::new(TcpConnect),
        )?;
        let mut channel = net::channel(Arc::new(connect), &self.address)?;
        let frame = Ok::<_, tonic::Status>(Frame::data(Bytes::from(read_all(&self.body)?)));
        let begin = stream::iter([frame]);
        let body = if self.endless {
            Body::new(StreamBody::new(begin.chain(stream::pending())))
        } else {
            Body::new(StreamBody::new(begin))
        };
        let request = http::Request::builder()
            .method(self.method)
            .uri(self.path)
            .header("content-type", "application/json")
            .body(body)?;
        let answer = async {
            poll_fn(|context| GrpcService::<Body>::poll_ready(&mut channel, context)).await?;
            let (head, body) = channel.call(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            let body = serde_json::from_slice(&body)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
            anyhow::Ok(json!({"status": head.status.as_u16(), "body": body}))
        };
        Ok(Outcome::Done(timeout(ANSWER, answer).await??))
    }
}
