//! The task of a session: one connection after the other, until the session is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt, TryFutureExt};
use pyramid_protocol::pb::v1::append_response::Answer as PbAnswer;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::append::queue::{Entry, Queue};
use crate::connection::{Client, RETRY, Writer, wait};

/// Requests handed to the connection that it has not taken yet.
const OUTGOING_LEN_MAX: usize = 16;

/// Sends what is queued and hands out the answers.
pub(crate) struct Driver {
    client: Client,
    incoming: mpsc::Receiver<Entry>,
    queue: Queue,
    call_age: Duration,
}

/// Why a connection was given up.
enum End {
    /// The session was dropped or has nothing more to do.
    Finished,
    /// All that was sent is answered, and the call is old.
    Aged,
    /// All is answered, and something was refused that may succeed over another connection.
    Refused(Refusal),
    /// The connection broke, or an answer did not come in time.
    Lost(Refusal),
}

/// What one connection has brought.
#[derive(Default)]
struct Seen {
    answers: usize,
    /// One of them was a success.
    appended: bool,
}

impl Driver {
    pub(crate) fn new(client: Client, incoming: mpsc::Receiver<Entry>, call_age: Duration) -> Self {
        Self { client, incoming, queue: Queue::default(), call_age }
    }

    pub(crate) async fn run(mut self) {
        let mut backoff = RETRY;
        loop {
            if self.queue.is_empty() {
                match self.incoming.recv().await {
                    Some(entry) => self.queue.push(entry),
                    None => return,
                }
                continue;
            }
            let writer = self.client.writer();
            let taken = Arc::new(AtomicUsize::new(0));
            let (outgoing, requests) = mpsc::channel(OUTGOING_LEN_MAX);
            let mut answers = Box::pin(call(&writer, requests, Arc::clone(&taken)));
            let mut seen = Seen::default();
            let end = self.connection(outgoing, &mut answers, &mut seen).await;
            // After this nothing more of the request stream is taken.
            drop(answers);
            if seen.appended {
                backoff.reset();
            }
            let refusal = match end {
                End::Finished => return,
                End::Aged => continue,
                End::Refused(refusal) | End::Lost(refusal) => refusal,
            };
            writer.failed(&refusal);
            let taken = taken.load(Ordering::Acquire).saturating_sub(seen.answers);
            self.queue.disconnected(taken, Instant::now(), &refusal);
            if !self.queue.is_empty() {
                self.pause(wait(&refusal, &mut backoff, self.client.entropy()), &refusal).await;
            }
        }
    }

    /// One connection: sends, and takes answers, until one of them has nothing more to do.
    async fn connection(
        &mut self,
        outgoing: mpsc::Sender<pb::AppendRequest>,
        answers: &mut (impl Stream<Item = Result<pb::AppendResponse, Status>> + Unpin),
        seen: &mut Seen,
    ) -> End {
        let mut refused: Option<Refusal> = None;
        let mut open = true;
        let aged_at = Instant::now() + self.call_age;
        loop {
            if let Some(refusal) = &refused
                && self.queue.needs_new_connection()
                && self.queue.sent() == 0
            {
                return End::Refused(refusal.clone());
            }
            let is_aged = Instant::now() >= aged_at;
            if is_aged && self.queue.sent() == 0 {
                return End::Aged;
            }
            let to_send = self.queue.next_to_send().filter(|_| !is_aged).cloned();
            let deadline = self.queue.deadline();
            tokio::select! {
                biased;
                answer = answers.next() => match answer {
                    Some(Ok(pb::AppendResponse { answer: Some(answer) })) => {
                        let answer = match answer {
                            PbAnswer::Appended(appended) => Ok(appended),
                            PbAnswer::Refused(refusal) => Err(refusal),
                        };
                        if let Err(refusal) = &answer && refused.is_none() {
                            refused = Some(refusal.clone());
                        }
                        seen.answers += 1;
                        seen.appended |= answer.is_ok();
                        if !self.queue.answered(answer) {
                            return End::Lost(broken("the Writer answered what nobody asked"));
                        }
                        if !self.queue.needs_new_connection() {
                            refused = None;
                        }
                    }
                    Some(Ok(pb::AppendResponse { answer: None })) => {
                        return End::Lost(broken("the Writer gave an empty answer"));
                    }
                    Some(Err(status)) => return End::Lost(Refusal::from_status(&status)),
                    None => return End::Lost(broken("the Writer ended the session")),
                },
                place = outgoing.reserve(), if open && to_send.is_some() => {
                    match (place, to_send) {
                        (Ok(place), Some(request)) => {
                            place.send(request);
                            self.queue.mark_sent();
                        }
                        // The call has ended; its end comes out of `answers`.
                        _ => open = false,
                    }
                }
                entry = self.incoming.recv() => match entry {
                    Some(entry) => self.queue.push(entry),
                    // Nobody waits for the answers any more.
                    None => return End::Finished,
                },
                () = sleep_until(aged_at), if !is_aged => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return End::Lost(broken("the Writer did not answer in time"));
                }
            }
        }
    }

    /// Waits, but goes on taking what is appended and answering what has run out of time, with the
    /// reason of the wait.
    async fn pause(&mut self, pause: Duration, why: &Refusal) {
        let until = Instant::now() + pause;
        while let Ok(Some(entry)) = timeout_at(until, self.incoming.recv()).await {
            self.queue.push(entry);
        }
        sleep(until.saturating_duration_since(Instant::now())).await;
        self.queue.disconnected(0, Instant::now(), why);
    }
}

/// The answers of one call of `Append`. Counts in `taken` what was taken from `requests`: a
/// connection that never came about takes nothing.
fn call(
    writer: &Writer,
    requests: mpsc::Receiver<pb::AppendRequest>,
    taken: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<pb::AppendResponse, Status>> + use<> {
    let mut calls = writer.calls();
    let requests = ReceiverStream::new(requests).inspect(move |_| {
        taken.fetch_add(1, Ordering::AcqRel);
    });
    async move { calls.append(requests).await }
        .map_ok(tonic::Response::into_inner)
        .try_flatten_stream()
}

fn broken(message: &str) -> Refusal {
    Refusal::unknown(Reason::Unavailable, message)
}
