//! [`Writers`]: calls to the `Admin` service of Writers.
//!
//! A replica is called by its name in the headless Service, so that one which is not ready can be
//! asked too, and only under the identity of exactly that Writer. A call waits a few seconds at
//! most: the controllers come again.

mod error;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyramid_protocol::limits::MESSAGE_BYTES_MAX;
use pyramid_protocol::net::{self, Connect, TcpConnect};
use pyramid_protocol::pb::v1::admin_client::AdminClient;
use pyramid_protocol::pb::v1::put_stream_result::Result as PutResult;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::refusal::TRAILER;
use pyramid_protocol::{OperatorTerm, SpiffeId};
use pyramid_tls::Tls;
use tokio::time::{Instant, timeout};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

pub(crate) use error::Error;

use crate::metrics::{AdminCall, Metrics};

/// Where replicas serve `Admin`.
pub(crate) const ADMIN_PORT: u16 = 7402;
/// One call, connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Objects that one call of `ListConfig` asks for: as many as a Writer gives.
const PAGE_OBJECTS: u32 = 1_000;
/// Pages after which a listing is given up: a Writer that never ends is broken.
const PAGES_MAX: usize = 1_000;

/// Opens connections to replicas; clones share them.
#[derive(Clone)]
pub(crate) struct Writers {
    shared: Arc<Shared>,
}

struct Shared {
    dial: Dial,
    metrics: Metrics,
    term: Term,
    /// One connection per `host:port`, opened at the first call and again when it broke.
    channels: Mutex<HashMap<String, Channel>>,
}

/// The term that calls tell, from when on this replica leads; 0 before.
#[derive(Clone, Debug, Default)]
struct Term(Arc<AtomicU64>);

impl Interceptor for Term {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let term = OperatorTerm::new(self.0.load(Ordering::Acquire));
        if term != OperatorTerm::default() {
            term.put(request.metadata_mut());
        }
        Ok(request)
    }
}

/// How a replica is reached.
enum Dial {
    /// As the operator, and only if it is the Writer that was meant.
    Tls(Tls),
    /// Whoever answers. For tests.
    #[cfg(test)]
    Plain(Arc<dyn Connect>),
}

/// One replica, to make calls on. Cheap to make; none is kept.
#[derive(Clone)]
pub(crate) struct Replica {
    writers: Writers,
    calls: AdminClient<InterceptedService<Channel, Term>>,
    address: String,
}

/// A stream that was declared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PutStreamDone {
    /// As it is now.
    pub(crate) stream: pb::StreamInfo,
    /// Made by this call.
    pub(crate) created: bool,
}

impl fmt::Debug for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writers").finish_non_exhaustive()
    }
}

impl Writers {
    /// `tls` is the operator's own identity.
    pub(crate) fn new(tls: &Tls, metrics: Metrics) -> Self {
        Self::of(Dial::Tls(tls.clone()), metrics)
    }

    /// Reaches whoever `connect` does, without any proof.
    #[cfg(test)]
    pub(crate) fn plain(connect: Arc<dyn Connect>) -> Self {
        Self::of(Dial::Plain(connect), Metrics::default())
    }

    fn of(dial: Dial, metrics: Metrics) -> Self {
        let (term, channels) = (Term::default(), Mutex::default());
        Self { shared: Arc::new(Shared { dial, metrics, term, channels }) }
    }

    /// This process leads: its calls say so from now on.
    pub(crate) fn lead(&self, term: OperatorTerm) {
        self.shared.term.0.store(term.get(), Ordering::Release);
    }

    /// The replica `<writer>-writer-<ordinal>`.
    ///
    /// # Errors
    ///
    /// [`Error::Name`].
    pub(crate) fn replica(
        &self,
        namespace: &str,
        writer: &str,
        ordinal: u32,
    ) -> Result<Replica, Error> {
        let name = || Error::Name { namespace: namespace.to_owned(), writer: writer.to_owned() };
        let address = address(namespace, writer, ordinal);
        let mut channels = self.channels();
        let channel = match channels.get(&address) {
            Some(channel) => channel.clone(),
            None => {
                let connect = self.connect(namespace, writer).ok_or_else(name)?;
                let channel = net::channel(connect, &address).map_err(|_invalid| name())?;
                channels.insert(address.clone(), channel.clone());
                channel
            }
        };
        drop(channels);
        let calls = AdminClient::with_interceptor(channel, self.shared.term.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Replica { writers: self.clone(), calls, address })
    }

    /// Closes the connections to a Writer that is gone.
    pub(crate) fn forget(&self, namespace: &str, writer: &str) {
        let end = format!(".{}", peers_host(namespace, writer));
        self.channels().retain(|address, _| {
            address.rsplit_once(':').is_none_or(|(host, _port)| !host.ends_with(&end))
        });
    }

    fn connect(&self, namespace: &str, writer: &str) -> Option<Arc<dyn Connect>> {
        match &self.shared.dial {
            Dial::Tls(tls) => {
                let domain = tls.identity().trust_domain().to_owned();
                let identity = SpiffeId::writer(&domain, namespace, writer).ok()?;
                Some(Arc::new(tls.connect(Arc::new(TcpConnect)).expecting(identity)))
            }
            #[cfg(test)]
            Dial::Plain(connect) => Some(Arc::clone(connect)),
        }
    }

    fn channels(&self) -> MutexGuard<'_, HashMap<String, Channel>> {
        self.shared.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Host of all replicas of a Writer.
fn peers_host(namespace: &str, writer: &str) -> String {
    format!("{writer}-writer-peers.{namespace}.svc")
}

/// `host:port` of the admin port of one replica.
fn address(namespace: &str, writer: &str, ordinal: u32) -> String {
    format!("{writer}-writer-{ordinal}.{}:{ADMIN_PORT}", peers_host(namespace, writer))
}

impl Replica {
    /// What it is and does; answered in every state.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub(crate) async fn get_info(&self) -> Result<pb::GetInfoResponse, Error> {
        let mut calls = self.calls.clone();
        self.call(AdminCall::GetInfo, calls.get_info(pb::GetInfoRequest {})).await
    }

    /// Founds a cluster of one voter; its node id. Again with the same id changes nothing.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub(crate) async fn bootstrap(&self, cluster_id: [u8; 16]) -> Result<u64, Error> {
        let mut calls = self.calls.clone();
        let request = pb::BootstrapRequest { cluster_id: cluster_id.to_vec().into() };
        Ok(self.call(AdminCall::Bootstrap, calls.bootstrap(request)).await?.node_id)
    }

    /// Declares streams; one result for each, in their order.
    ///
    /// # Errors
    ///
    /// As [`Error`] says, of the whole call.
    pub(crate) async fn put_streams(
        &self,
        cluster_id: [u8; 16],
        streams: Vec<pb::PutStream>,
    ) -> Result<Vec<Result<PutStreamDone, Error>>, Error> {
        let mut calls = self.calls.clone();
        let asked = streams.len();
        let request = pb::PutStreamsRequest { cluster_id: cluster_id.to_vec().into(), streams };
        let results = self.call(AdminCall::PutStreams, calls.put_streams(request)).await?.results;
        if results.len() != asked {
            return Err(Error::broken("the Writer answered for another number of streams"));
        }
        let results =
            results.into_iter().map(|pb::PutStreamResult { result, created }| match result {
                Some(PutResult::Stream(stream)) => Ok(PutStreamDone { stream, created }),
                Some(PutResult::Refused(refusal)) => Err(Error::from_refusal(refusal)),
                None => Err(Error::broken("the Writer answered nothing about a stream")),
            });
        Ok(results.collect())
    }

    /// Deletes a stream for good; how many of its objects are still in the bucket. Asked again
    /// until it is none.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub(crate) async fn delete_stream(
        &self,
        cluster_id: [u8; 16],
        name: &str,
        stream_id: u64,
    ) -> Result<u64, Error> {
        let mut calls = self.calls.clone();
        let cluster_id = cluster_id.to_vec().into();
        let request = pb::DeleteStreamRequest { cluster_id, name: name.to_owned(), stream_id };
        Ok(self.call(AdminCall::DeleteStream, calls.delete_stream(request)).await?.objects_left)
    }

    /// Closes a stream for appends, or opens it again.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub(crate) async fn set_closed(
        &self,
        cluster_id: [u8; 16],
        name: &str,
        stream_id: u64,
        closed: bool,
    ) -> Result<(), Error> {
        let mut calls = self.calls.clone();
        let cluster_id = cluster_id.to_vec().into();
        let name = name.to_owned();
        let request = pb::SetClosedRequest { cluster_id, name, stream_id, closed };
        let pb::SetClosedResponse {} =
            self.call(AdminCall::SetClosed, calls.set_closed(request)).await?;
        Ok(())
    }

    /// Declares subscriptions; one result for each, in their order.
    ///
    /// # Errors
    ///
    /// As [`Error`] says, of the whole call.
    pub(crate) async fn put_subscriptions(
        &self,
        cluster_id: [u8; 16],
        subscriptions: Vec<pb::PutSubscription>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let mut calls = self.calls.clone();
        let asked = subscriptions.len();
        let cluster_id = cluster_id.to_vec().into();
        let request = pb::PutSubscriptionsRequest { cluster_id, subscriptions };
        let results =
            self.call(AdminCall::PutSubscriptions, calls.put_subscriptions(request)).await?.results;
        if results.len() != asked {
            return Err(Error::broken("the Writer answered for another number of subscriptions"));
        }
        let results = results.into_iter().map(|pb::PutSubscriptionResult { refused }| {
            refused.map_or(Ok(()), |refusal| Err(Error::from_refusal(refusal)))
        });
        Ok(results.collect())
    }

    /// Removes a subscription that `object` has declared.
    ///
    /// # Errors
    ///
    /// As [`Error`] says; [`Error::Conflict`] if another object has declared the name since.
    pub(crate) async fn delete_subscription(
        &self,
        cluster_id: [u8; 16],
        name: &str,
        object: pb::ObjectRef,
    ) -> Result<(), Error> {
        let mut calls = self.calls.clone();
        let request = pb::DeleteSubscriptionRequest {
            cluster_id: cluster_id.to_vec().into(),
            name: name.to_owned(),
            object: Some(object),
        };
        let pb::DeleteSubscriptionResponse {} =
            self.call(AdminCall::DeleteSubscription, calls.delete_subscription(request)).await?;
        Ok(())
    }

    /// All that is declared, all pages.
    ///
    /// # Errors
    ///
    /// As [`Error`] says. Nothing is returned of a listing that broke off: what is absent in it
    /// would look deleted.
    pub(crate) async fn list_config(&self) -> Result<Vec<pb::ConfiguredObject>, Error> {
        let mut objects = Vec::new();
        let mut after = String::new();
        for _ in 0..PAGES_MAX {
            let mut calls = self.calls.clone();
            let request = pb::ListConfigRequest { after, limit: PAGE_OBJECTS };
            let page = self.call(AdminCall::ListConfig, calls.list_config(request)).await?;
            objects.extend(page.objects);
            if page.next.is_empty() {
                return Ok(objects);
            }
            after = page.next;
        }
        Err(Error::broken("the Writer's listing does not end"))
    }

    /// Numbers of the Writer and what attached pushers say, once.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub(crate) async fn stats(&self) -> Result<pb::WatchStatsResponse, Error> {
        let mut calls = self.calls.clone();
        let first = async move {
            let mut stats = calls.watch_stats(pb::WatchStatsRequest::default()).await?.into_inner();
            let first = stats.message().await?;
            Ok(Response::new(first))
        };
        let first = self.call(AdminCall::WatchStats, first).await?;
        first.ok_or_else(|| Error::broken("the Writer ended its numbers before the first"))
    }

    async fn call<T>(
        &self,
        call: AdminCall,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let start = Instant::now();
        let answered = self.answered(answer).await;
        self.writers.shared.metrics.admin_called(call, answered.is_ok(), start.elapsed());
        answered
    }

    async fn answered<T>(
        &self,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let unreachable =
            |message: String| Error::Unreachable { address: self.address.clone(), message };
        let status = match timeout(CALL_TIMEOUT, answer).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => status,
            Err(_elapsed) => {
                self.drop_connection();
                return Err(unreachable(format!("nothing within {CALL_TIMEOUT:?}")));
            }
        };
        if status.metadata().get_bin(TRAILER).is_some() {
            return Err(Error::from_refusal(Refusal::from_status(&status)));
        }
        // The network, or a program that is not a Writer of ours.
        self.drop_connection();
        let refusal = Refusal::from_status(&status);
        if refusal.reason() == Reason::Unavailable {
            let cause = pyramid_telemetry::logs::causes(&status);
            return Err(unreachable(cause));
        }
        Err(Error::from_refusal(refusal))
    }

    /// The next call opens a new connection: it resolves the name again, and shows our newest
    /// certificate.
    fn drop_connection(&self) {
        self.writers.channels().remove(&self.address);
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
