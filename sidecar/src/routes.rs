//! [`Routes`]: which Writer has what, as it is known now.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use pyramid_client::Client;
use pyramid_protocol::pb::v1::{Reason, Refusal};
use pyramid_storage::Fetcher;
use pyramid_tls::Tls;

/// One Writer, and how it is reached.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Its name, which tells it from others.
    pub(crate) writer: Arc<str>,
    pub(crate) client: Client,
    /// Opens chunk locations; `None`: the Writer reads chunks for us.
    pub(crate) fetcher: Option<Fetcher>,
    /// What the client proves itself with.
    pub(crate) tls: Option<Tls>,
}

/// Where a subscription comes from and goes to.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) upstream: Arc<Upstream>,
    /// `host:port`.
    pub(crate) application: String,
}

impl PartialEq for Delivery {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.upstream, &other.upstream) && self.application == other.application
    }
}

/// Everything that has a place now.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    deliveries: BTreeMap<Arc<str>, Delivery>,
    streams: Streams,
    /// Why there is nothing yet: one line, without names.
    waiting_for: Option<String>,
}

#[derive(Clone)]
enum Streams {
    /// One Writer has all of them, under the names that the application gives.
    Of(Arc<Upstream>),
    /// Those that a namespace may use.
    In { namespace: String, upstreams: BTreeMap<String, Arc<Upstream>> },
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(_) => f.write_str("all"),
            Self::In { upstreams, .. } => f.debug_set().entries(upstreams.keys()).finish(),
        }
    }
}

impl Routes {
    /// Everything is at one Writer, for ever.
    pub(crate) fn fixed(
        upstream: Arc<Upstream>,
        deliveries: impl IntoIterator<Item = (Arc<str>, Delivery)>,
    ) -> Self {
        Self {
            deliveries: deliveries.into_iter().collect(),
            streams: Streams::Of(upstream),
            waiting_for: None,
        }
    }

    /// Nothing is known of a namespace yet, because it waits for something.
    pub(crate) fn waiting(namespace: &str, waiting_for: String) -> Self {
        let streams = Streams::In { namespace: namespace.to_owned(), upstreams: BTreeMap::new() };
        Self { deliveries: BTreeMap::new(), streams, waiting_for: Some(waiting_for) }
    }

    /// What a namespace has: deliveries by the whole name of the subscription, Writers by the whole
    /// name of the stream.
    pub(crate) fn of_namespace(
        namespace: &str,
        deliveries: BTreeMap<Arc<str>, Delivery>,
        upstreams: BTreeMap<String, Arc<Upstream>>,
    ) -> Self {
        let streams = Streams::In { namespace: namespace.to_owned(), upstreams };
        Self { deliveries, streams, waiting_for: None }
    }

    /// Of one subscription, if it is known.
    pub(crate) fn delivery(&self, subscription: &str) -> Option<&Delivery> {
        self.deliveries.get(subscription)
    }

    /// Why there is nothing yet.
    pub(crate) fn waiting_for(&self) -> Option<&str> {
        self.waiting_for.as_deref()
    }

    /// A stream's name as its Writer has it: one without a namespace is of our own.
    pub(crate) fn whole_name(&self, stream: &str) -> String {
        match &self.streams {
            Streams::In { namespace, .. } if !stream.is_empty() && !stream.contains('/') => {
                format!("{namespace}/{stream}")
            }
            Streams::In { .. } | Streams::Of(_) => stream.to_owned(),
        }
    }

    /// The Writer of a stream, by its whole name.
    ///
    /// # Errors
    ///
    /// It is not known, at least not yet.
    pub(crate) fn upstream(&self, whole_name: &str) -> Result<&Arc<Upstream>, Refusal> {
        let (namespace, upstreams) = match &self.streams {
            Streams::Of(upstream) => return Ok(upstream),
            Streams::In { namespace, upstreams } => (namespace, upstreams),
        };
        if let Some(waiting_for) = &self.waiting_for {
            let message = format!("this pod has no Writer yet: {waiting_for}; try again");
            return Err(Refusal::new(Reason::Unavailable, message));
        }
        upstreams.get(whole_name).ok_or_else(|| {
            let message = format!(
                "the stream {whole_name} is not known in the namespace {namespace}, at least not \
                 yet; see `kubectl get streams`, and who may append to it"
            );
            // It may come, without a restart.
            Refusal::new(Reason::NotFound, message)
        })
    }
}
