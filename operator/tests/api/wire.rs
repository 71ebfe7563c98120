//! A way to the API server that breaks when a test wants it.

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};

use http::{HeaderValue, Method, Request, Response};
use kube::Client;
use kube::client::Body;
use tokio::sync::Barrier;

/// Clones are the same way.
#[derive(Clone)]
pub(crate) struct Wire {
    through: Client,
    way: Arc<Mutex<Way>>,
}

/// What becomes of requests.
#[derive(Clone, Debug, Default)]
pub(crate) enum Way {
    /// They are answered.
    #[default]
    Open,
    /// They get lost, and nobody is told.
    Silent,
    /// The next one gets lost, and nobody is told.
    SilentOnce,
    /// The next one that writes is done, but its answer gets lost with the connection.
    DeafOnce,
    /// They come from a user without any right.
    Stranger,
    /// Those that write wait for each other.
    Together(Arc<Barrier>),
}

impl Wire {
    pub(crate) fn new(through: Client) -> Self {
        Self { through, way: Arc::default() }
    }

    pub(crate) fn client(&self) -> Client {
        let wire = self.clone();
        Client::new(
            tower::service_fn(move |request| {
                let wire = wire.clone();
                async move { wire.send(request).await }
            }),
            "default",
        )
    }

    pub(crate) fn be(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    async fn send(&self, mut request: Request<Body>) -> kube::Result<Response<Body>> {
        let writes = request.method() != Method::GET;
        match self.next(writes) {
            Way::Open => {}
            Way::Silent | Way::SilentOnce => pending().await,
            Way::DeafOnce => {
                self.through.send(request).await?;
                let broken = io::Error::from(io::ErrorKind::ConnectionReset);
                return Err(kube::Error::Service(broken.into()));
            }
            Way::Stranger => {
                let stranger = HeaderValue::from_static("stranger");
                request.headers_mut().insert("impersonate-user", stranger);
            }
            Way::Together(barrier) => {
                barrier.wait().await;
            }
        }
        self.through.send(request).await
    }

    /// The way of a request.
    fn next(&self, writes: bool) -> Way {
        let mut way = self.way.lock().unwrap();
        match &*way {
            Way::DeafOnce | Way::Together(_) if !writes => Way::Open,
            Way::SilentOnce | Way::DeafOnce => std::mem::take(&mut *way),
            Way::Open | Way::Silent | Way::Stranger | Way::Together(_) => way.clone(),
        }
    }
}
