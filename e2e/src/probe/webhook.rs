//! A call of the webhook by somebody who is no API server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt, Full};
use pyramid_protocol::net::{self, TcpConnect};
use pyramid_protocol::{Clock, SpiffeId, SystemClock};
use pyramid_tls::connect_without_identity;
use serde_json::json;
use tokio::time::timeout;
use tonic::body::Body;
use tower::ServiceExt;

use super::{Outcome, Places, read_all};

/// The webhook answers sooner or not at all.
const ANSWER: Duration = Duration::from_secs(30);

/// Posts something to the webhook.
#[derive(Clone, Debug, Args)]
pub struct Post {
    #[command(flatten)]
    places: Places,
    /// host:port of the webhook.
    #[arg(long, default_value = "pyramid-operator.pyramid-system.svc:443")]
    address: String,
    /// The file with what is posted; - is standard input.
    #[arg(long, default_value = "-")]
    body: PathBuf,
    /// Write this instead of the word "ABSURD" in the body …
    #[arg(long, default_value = "")]
    repeat: String,
    /// … so many times.
    #[arg(long, default_value_t = 1)]
    times: usize,
}

impl Post {
    /// Posts.
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
        let channel = net::channel(Arc::new(connect), &self.address)?;
        let body = String::from_utf8(read_all(&self.body)?)?;
        let body = body.replacen("ABSURD", &self.repeat.repeat(self.times), 1);
        let request = http::Request::post("/inject")
            .header("content-type", "application/json")
            .body(Body::new(Full::new(body.into())))?;
        let answer = async {
            let (head, body) = channel.oneshot(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(json!({
                "status": head.status.as_u16(),
                "body": String::from_utf8_lossy(&body),
            }))
        };
        Ok(Outcome::Done(timeout(ANSWER, answer).await??))
    }
}
