//! [`AppendSession`]: several appends on their way at once, answered in their order.
//!
//! A session has no holes: once an append of a stream is answered with anything but success, every
//! later append of this session to that stream is refused with `SESSION_BROKEN`; the caller begins
//! a new session when it has decided what to do. Connections come and go below it:
//!
//! - An append that was refused without effect for a passing reason (no leader, too much in flight)
//!   is sent again, and with it those behind it, in the same order.
//! - An append with a producer that lost its connection is sent again with the same sequence; the
//!   Writer knows it if it was written.
//! - An append without a producer that lost its connection may have been written. It is answered
//!   with effect `UNKNOWN` and never sent again.
//!
//! Connections of great age end as well; no append is interrupted by that ([`Options::call_age`]).
//!
//! An append that is not answered in time is answered with what is known then.

mod driver;
mod queue;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pyramid_protocol::limits::APPEND_BYTES_MAX;
use pyramid_protocol::net::Age;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::append::driver::Driver;
use crate::append::queue::Entry;
use crate::connection::Client;

/// What became of an append: written, or why not and with what effect.
pub type Answer = Result<pb::Appended, Refusal>;

/// Bounds of an [`AppendSession`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Appends without an answer; one more waits. At least 1.
    pub in_flight_max: usize,
    /// Bytes of those; at least one append is always let in.
    pub in_flight_bytes_max: u32,
    /// An append is answered after this time, whatever happens.
    pub timeout: Duration,
    /// A call is replaced by a new one, with nothing on its way, after this time. A Writer cuts off
    /// a connection some time ([`Age::grace`]) after it has told the client to open another; calls
    /// that are younger than that are never cut off.
    ///
    /// [`Age::grace`]: pyramid_protocol::net::Age::grace
    pub call_age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            in_flight_max: 256,
            in_flight_bytes_max: 16 << 20,
            timeout: Duration::from_secs(30),
            // Leaves time for the answers to what is on its way.
            call_age: Age::default().grace / 2,
        }
    }
}

/// Appends of one caller. Dropped, it leaves what is not answered: that may still be written.
#[derive(Debug)]
pub struct AppendSession {
    queue: mpsc::Sender<Entry>,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    options: Options,
    // Ends the driver with the session.
    _driver: JoinSet<()>,
}

/// An append on its way. Dropping it does not take the append back.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Answer>);

impl AppendSession {
    /// A session that connects at its first append.
    #[must_use]
    pub fn new(client: Client, options: Options) -> Self {
        let (sender, incoming) = mpsc::channel(options.in_flight_max.max(1));
        let mut tasks = JoinSet::new();
        tasks.spawn(Driver::new(client, incoming, options.call_age).run());
        Self {
            queue: sender,
            places: Arc::new(Semaphore::new(options.in_flight_max.max(1))),
            bytes: Arc::new(Semaphore::new(
                usize::try_from(options.in_flight_bytes_max).unwrap_or(Semaphore::MAX_PERMITS),
            )),
            options,
            _driver: tasks,
        }
    }

    /// Waits for a place, then sends the append on its way. Calls made one after the other are
    /// written in that order.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing was sent.
    pub async fn append(&self, request: pb::AppendRequest) -> Pending {
        self.place(request.records.len()).await.append(request)
    }

    /// Waits for a place for an append of `records_len` bytes.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop.
    pub(crate) async fn place(&self, records_len: usize) -> Place<'_> {
        let bytes = u32::try_from(records_len.min(APPEND_BYTES_MAX)).unwrap_or(u32::MAX);
        let bytes = bytes.clamp(1, self.options.in_flight_bytes_max.max(1));
        let place = Arc::clone(&self.places).acquire_owned().await;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await;
        let held = [
            place.expect("the session's semaphores are never closed"),
            bytes.expect("the session's semaphores are never closed"),
        ];
        Place { session: self, held }
    }
}

/// A place for one append.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    session: &'a AppendSession,
    held: [tokio::sync::OwnedSemaphorePermit; 2],
}

impl Place<'_> {
    /// Sends the append on its way; waits for nothing.
    pub(crate) fn append(self, request: pb::AppendRequest) -> Pending {
        let (answer, pending) = oneshot::channel();
        let deadline = Instant::now() + self.session.options.timeout;
        let entry = Entry::new(request, answer, deadline, self.held);
        // The queue has as many places as there are permits, so it is full only if the driver is
        // gone; the entry is dropped then, and its `Pending` says so.
        drop(self.session.queue.try_send(entry));
        Pending(pending)
    }
}

impl Future for Pending {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.0).poll(cx).map(|answer| {
            answer.unwrap_or_else(|_gone| {
                Err(Refusal::unknown(Reason::Unavailable, "the append session was closed"))
            })
        })
    }
}
