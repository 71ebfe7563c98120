//! [`Client`]: which replica leads, and calls that are retried until they are answered.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyramid_protocol::limits::MESSAGE_BYTES_MAX;
use pyramid_protocol::net::{self, Connect};
use pyramid_protocol::pb::v1::refusal::Detail;
use pyramid_protocol::pb::v1::writer_client::WriterClient;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_protocol::{Entropy, SystemEntropy};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::backoff::Backoff;

/// First and longest wait before a lost Writer is tried again.
pub(crate) const RETRY: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
/// How long a unary call is retried, unless said otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// One attempt of a unary call; a replica that hangs must not use up the whole time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Channels that are kept. Leaders that were named in answers count too.
const CHANNELS_MAX: usize = 16;

/// What a [`Client`] is made from.
#[derive(Clone)]
pub struct Options {
    /// `host:port` of replicas, at least one; tried in turn until one leads.
    pub addresses: Vec<String>,
    /// Opens connections.
    pub connect: Arc<dyn Connect>,
    /// Jitter of retries.
    pub entropy: Arc<dyn Entropy>,
    /// How long a unary call is retried.
    pub call_timeout: Duration,
}

impl Options {
    /// Plain TCP to these addresses.
    #[must_use]
    pub fn tcp(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            connect: Arc::new(net::TcpConnect),
            entropy: Arc::new(SystemEntropy),
            call_timeout: CALL_TIMEOUT,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Why a call did not do what was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The addresses cannot be used. Change them.
    #[error("{address:?} is not an address; give host:port of at least one Writer replica")]
    Address {
        /// The first one that is wrong; empty if there is none.
        address: String,
    },
    /// The Writer said no. The refusal says whether and when to ask again.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// No replica answered in time. Try again later; a call with an effect may have had it.
    #[error("no answer from the Writer at {address}: {}", .last.message)]
    NoAnswer {
        /// The replica that was asked last.
        address: String,
        /// What it, or the network, said.
        last: Box<Refusal>,
    },
}

impl Error {
    /// The refusal inside.
    #[must_use]
    pub fn into_refusal(self) -> Refusal {
        match self {
            Self::Address { .. } => Refusal::new(Reason::Invalid, self.to_string()),
            Self::Refused(refusal) | Self::NoAnswer { last: refusal, .. } => *refusal,
        }
    }
}

/// The Writer, as its callers see it. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    target: Mutex<Target>,
}

/// Which replica is asked now.
struct Target {
    /// `host:port` of the replicas that are tried in turn.
    addresses: Vec<String>,
    address: String,
    /// Rises whenever another replica is chosen.
    generation: u64,
    /// Which of the addresses is tried after this one.
    next: usize,
    channels: HashMap<String, Channel>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.target().address).finish_non_exhaustive()
    }
}

/// One replica, to make a call on, and to be told how it went.
#[derive(Clone, Debug)]
pub struct Writer {
    client: Client,
    calls: WriterClient<Channel>,
    address: String,
    generation: u64,
}

impl Client {
    /// A client that connects at its first call.
    ///
    /// # Errors
    ///
    /// [`Error::Address`].
    pub fn new(options: Options) -> Result<Self, Error> {
        let addresses = options.addresses.clone();
        let channels = channels(&options.connect, &addresses)?;
        let address = addresses.first().cloned().unwrap_or_default();
        let target = Mutex::new(Target { addresses, address, generation: 0, next: 1, channels });
        Ok(Self { shared: Arc::new(Shared { options, target }) })
    }

    /// Tries replicas at these addresses from now on. A replica that answers and is still among them
    /// is asked further on; calls under way are left alone.
    ///
    /// # Errors
    ///
    /// [`Error::Address`]; nothing has changed then.
    pub fn set_addresses(&self, addresses: Vec<String>) -> Result<(), Error> {
        let mut channels = channels(&self.shared.options.connect, &addresses)?;
        let mut target = self.target();
        for (address, channel) in &mut channels {
            if let Some(open) = target.channels.get(address) {
                channel.clone_from(open);
            }
        }
        if !channels.contains_key(&target.address) {
            target.address = addresses.first().cloned().unwrap_or_default();
            target.generation += 1;
        }
        target.next = 1;
        target.channels = channels;
        target.addresses = addresses;
        Ok(())
    }

    /// The replica that is asked now.
    ///
    /// # Panics
    ///
    /// Never: the target always has a channel.
    #[must_use]
    pub fn writer(&self) -> Writer {
        let target = self.target();
        let channel = target.channels.get(&target.address).expect("the target has a channel");
        let calls = WriterClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Writer {
            client: self.clone(),
            calls,
            address: target.address.clone(),
            generation: target.generation,
        }
    }

    /// Jitter of retries.
    #[must_use]
    pub fn entropy(&self) -> &dyn Entropy {
        &*self.shared.options.entropy
    }

    /// One stream, as its leader knows it.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub async fn get_stream(&self, request: pb::GetStreamRequest) -> Result<pb::StreamInfo, Error> {
        self.call(|mut calls| {
            let request = request.clone();
            async move { calls.get_stream(request).await }
        })
        .await
    }

    /// Streams in the order of their names.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub async fn list_streams(
        &self,
        request: pb::ListStreamsRequest,
    ) -> Result<pb::ListStreamsResponse, Error> {
        self.call(|mut calls| {
            let request = request.clone();
            async move { calls.list_streams(request).await }
        })
        .await
    }

    /// Makes or takes over a producer. Asked again after a lost answer, it takes over what it has
    /// just made.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub async fn init_producer(
        &self,
        request: pb::InitProducerRequest,
    ) -> Result<pb::InitProducerResponse, Error> {
        self.call(|mut calls| {
            let request = request.clone();
            async move { calls.init_producer(request).await }
        })
        .await
    }

    /// Moves the first offset up. Needs the right `manage`.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub async fn trim(&self, request: pb::TrimRequest) -> Result<pb::TrimResponse, Error> {
        self.call(|mut calls| {
            let request = request.clone();
            async move { calls.trim(request).await }
        })
        .await
    }

    /// Cuts the unsealed records into a chunk now. Needs the right `manage`.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub async fn seal(&self, request: pb::SealRequest) -> Result<pb::SealResponse, Error> {
        self.call(|mut calls| {
            let request = request.clone();
            async move { calls.seal(request).await }
        })
        .await
    }

    /// Calls until there is an answer that would not change by asking again, or no time left.
    async fn call<T, F, Fut>(&self, attempt: F) -> Result<T, Error>
    where
        F: Fn(WriterClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.shared.options.call_timeout;
        let mut backoff = RETRY;
        loop {
            let writer = self.writer();
            let attempt_deadline = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
            let refusal = match timeout_at(attempt_deadline, attempt(writer.calls())).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => Refusal::from_status(&status),
                Err(_elapsed) => Refusal::unknown(Reason::Unavailable, "no answer in time"),
            };
            writer.failed(&refusal);
            if !refusal.retry {
                return Err(Error::Refused(Box::new(refusal)));
            }
            let retry_at = Instant::now() + wait(&refusal, &mut backoff, self.entropy());
            if retry_at >= deadline {
                return Err(Error::NoAnswer { address: writer.address, last: Box::new(refusal) });
            }
            sleep_until(retry_at).await;
        }
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.shared.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks another replica from now on, if that is still the one that failed.
    fn leave(&self, generation: u64, refusal: &Refusal) {
        let options = &self.shared.options;
        let mut target = self.target();
        if target.generation != generation {
            return;
        }
        let named = match (&refusal.detail, refusal.reason()) {
            (Some(Detail::LeaderAddress(address)), Reason::NotLeader) if !address.is_empty() => {
                net::channel(Arc::clone(&options.connect), address)
                    .ok()
                    .map(|channel| (address.clone(), channel))
            }
            _ => None,
        };
        if let Some((address, channel)) = named {
            if target.channels.len() >= CHANNELS_MAX {
                let Target { channels, addresses, .. } = &mut *target;
                channels.retain(|kept, _| addresses.contains(kept));
            }
            target.channels.entry(address.clone()).or_insert(channel);
            target.address = address;
        } else {
            let next = target.next.checked_rem(target.addresses.len()).unwrap_or(0);
            if let Some(address) = target.addresses.get(next).cloned() {
                target.address = address;
            }
            target.next = next + 1;
        }
        target.generation += 1;
    }
}

/// A channel to each address; at least one.
fn channels(
    connect: &Arc<dyn Connect>,
    addresses: &[String],
) -> Result<HashMap<String, Channel>, Error> {
    if addresses.is_empty() {
        return Err(Error::Address { address: String::new() });
    }
    let channel = |address: &String| match net::channel(Arc::clone(connect), address) {
        Ok(channel) => Ok((address.clone(), channel)),
        Err(_invalid) => Err(Error::Address { address: address.clone() }),
    };
    addresses.iter().map(channel).collect()
}

impl Writer {
    /// To make calls with.
    #[must_use]
    pub fn calls(&self) -> WriterClient<Channel> {
        self.calls.clone()
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Tells that a call was refused; another replica is asked next if this one cannot serve.
    pub fn failed(&self, refusal: &Refusal) {
        if refusal.reason() == Reason::NotLeader || refusal.reason() == Reason::Unavailable {
            self.client.leave(self.generation, refusal);
        }
    }
}

/// How long to wait after a refusal: as it advises, else as the backoff says.
pub(crate) fn wait(refusal: &Refusal, backoff: &mut Backoff, entropy: &dyn Entropy) -> Duration {
    let advised = Duration::from_millis(refusal.retry_after_ms.into());
    // A leader that was named is asked at once, unless replicas send us in a circle.
    let at_once = matches!(&refusal.detail, Some(Detail::LeaderAddress(address)) if !address.is_empty())
        && backoff.failures() == 0;
    let own = backoff.wait(entropy);
    if at_once { Duration::ZERO } else { own.max(advised) }
}
