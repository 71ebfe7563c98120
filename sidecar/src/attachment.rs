//! The attachment of one subscription: hears what to push, and reports how it goes.

use std::sync::Arc;
use std::time::Duration;

use pyramid_client::{Backoff, Client};
use pyramid_protocol::pb::v1::attach_request::Message as Request;
use pyramid_protocol::pb::v1::attach_response::Message as Response;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use pyramid_tls::Tls;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::status::Board;

const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
/// How long the Writer may take to say what is assigned.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the trust bundle in use is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Everything is reported again after this long.
const REPORT_ALL_EVERY: Duration = Duration::from_secs(10);
/// Changes are reported at most this often; what happens in between is told with the next report.
const REPORT_PAUSE: Duration = Duration::from_millis(200);
/// How long the Writer may take to end an attachment that we have ended.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Reports that the connection has not taken yet. If it is full, the next report tells all.
const REQUESTS_LEN_MAX: usize = 4;

/// Keeps one subscription attached.
pub(crate) struct Attachment {
    pub(crate) client: Client,
    pub(crate) board: Board,
    pub(crate) subscription: Arc<str>,
    pub(crate) pod: String,
    /// Whose trust bundle is reported.
    pub(crate) tls: Option<Tls>,
    /// What the Writer said last; `None` until it has. Kept while the Writer is away.
    pub(crate) assignment: watch::Sender<Option<Assigned>>,
    pub(crate) metrics: Metrics,
}

/// What the Writer said, and for which time.
#[derive(Clone, Debug)]
pub(crate) struct Assigned {
    pub(crate) number: u64,
    pub(crate) assignment: pb::Assignment,
    /// Leases count from here.
    pub(crate) heard_at: Instant,
}

/// Why a call has ended.
enum Ended {
    /// It was to end.
    Stopped,
    /// What it said first is not so any more.
    Outdated,
    /// The Writer or the network says so.
    Refused(Refusal),
}

impl Attachment {
    /// Attaches, again and again, until it is stopped.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut backoff = RETRY;
        let mut said = String::new();
        loop {
            let writer = self.client.writer();
            let refusal = match self.attach(writer.calls(), &mut backoff, &stop).await {
                Ended::Stopped => return,
                Ended::Outdated => continue,
                Ended::Refused(refusal) => refusal,
            };
            writer.failed(&refusal);
            self.metrics.attach_losses.inc();
            if matches!(refusal.reason(), Reason::NotFound | Reason::Denied) {
                // The subscription is gone, or this pod has no right to it any more.
                self.assign(pb::Assignment::default());
            }
            // Said once, not at each try: it may last until a person gives the right back.
            let is_news = backoff.failures() == 0 || said != refusal.message;
            let advised = Duration::from_millis(refusal.retry_after_ms.into());
            let wait = backoff.wait(self.client.entropy()).max(advised);
            let subscription = &*self.subscription;
            if is_news {
                tracing::warn!(
                    subscription,
                    "not attached, tried again and again: {}",
                    refusal.message
                );
            } else {
                tracing::debug!(subscription, "attach again in {wait:?}: {}", refusal.message);
            }
            said = refusal.message;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// One call of `Attach`; comes back with why it has ended.
    async fn attach(
        &self,
        mut calls: pb::writer_client::WriterClient<tonic::transport::Channel>,
        backoff: &mut Backoff,
        stop: &CancellationToken,
    ) -> Ended {
        let (requests, outgoing) = mpsc::channel(REQUESTS_LEN_MAX);
        let bundle = self.bundle();
        let hello = pb::AttachHello {
            subscription: self.subscription.to_string(),
            pod: self.pod.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_bundle_sha256: bundle.clone(),
        };
        send(&requests, Request::Hello(hello));
        let mut changes = self.board.changes();
        let opening = async {
            let mut messages = calls.attach(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = messages.message().await?;
            Ok::<_, tonic::Status>((first, messages))
        };
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return Ended::Stopped,
            opened = timeout(OPEN_TIMEOUT, opening) => opened,
        };
        let (first, mut messages) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return Ended::Refused(Refusal::from_status(&status)),
            Err(_elapsed) => return Ended::Refused(lost("no answer in time")),
        };
        if let Err(refusal) = self.take(first) {
            return Ended::Refused(refusal);
        }
        backoff.reset();
        let _attached = self.board.attach(&self.subscription);
        let mut everything = interval(REPORT_ALL_EVERY);
        everything.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = 0;
        let mut report_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.report(&requests, 0);
                    drop(requests);
                    leave(&mut messages).await;
                    return Ended::Stopped;
                }
                message = messages.message() => {
                    let message = message.map_err(|status| Refusal::from_status(&status));
                    if let Err(refusal) = message.and_then(|message| self.take(message)) {
                        return Ended::Refused(refusal);
                    }
                    // Leases last from our last word on, and a stream may be idle for long; who stands
                    // by is given none either if nothing was heard of it.
                    if self.is_exclusive() {
                        reported = self.report(&requests, reported).unwrap_or(0);
                        report_at = Instant::now() + REPORT_PAUSE;
                    }
                }
                _ = everything.tick() => reported = self.report(&requests, 0).unwrap_or(0),
                _ = looks.tick(), if self.tls.is_some() => if self.bundle() != bundle {
                    drop(requests);
                    leave(&mut messages).await;
                    return Ended::Outdated;
                },
                // Nothing is lost by waiting first: the version tells what changed meanwhile.
                () = changed(&mut changes, report_at) => {
                    reported = self.report(&requests, reported).unwrap_or(0);
                    report_at = Instant::now() + REPORT_PAUSE;
                }
            }
        }
    }

    /// The digest of whom we believe, for the Writer: an authority is exchanged only when everybody
    /// believes the new one.
    fn bundle(&self) -> String {
        self.tls.as_ref().map_or_else(String::new, |tls| tls.status().bundle_sha256)
    }

    fn assign(&self, assignment: pb::Assignment) {
        let before = self.assignment.borrow().as_ref().map_or(0, |before| before.number);
        let number = before + 1;
        // First, so that what was done before does not count as this.
        self.board.told(&self.subscription, number);
        let heard_at = Instant::now();
        self.assignment.send_replace(Some(Assigned { number, assignment, heard_at }));
    }

    fn is_exclusive(&self) -> bool {
        let assigned = self.assignment.borrow();
        assigned.as_ref().is_some_and(|one| one.assignment.mode() == pb::DeliveryMode::Exclusive)
    }

    /// Takes what the Writer says.
    fn take(&self, message: Option<pb::AttachResponse>) -> Result<(), Refusal> {
        match message.ok_or_else(|| lost("the Writer ended the attachment"))?.message {
            Some(Response::Assignment(assignment)) => {
                self.assign(assignment);
                Ok(())
            }
            Some(Response::Refused(refusal)) => Err(refusal),
            None => Err(lost("the Writer gave an empty answer")),
        }
    }

    /// Reports what changed after `version`; `None` if the connection takes nothing now.
    fn report(&self, requests: &mpsc::Sender<pb::AttachRequest>, version: u64) -> Option<u64> {
        let (streams, version) = self.board.reports(&self.subscription, version);
        send(requests, Request::Report(pb::AttachReport { streams })).then_some(version)
    }
}

/// Waits until the Writer has seen that there are no more reports, so that it gives our leases to
/// others at once.
async fn leave(messages: &mut tonic::Streaming<pb::AttachResponse>) {
    let ended = async { while let Ok(Some(_)) = messages.message().await {} };
    // A Writer that is away finds out by itself.
    drop(timeout(LEAVE_TIMEOUT, ended).await);
}

async fn changed(changes: &mut watch::Receiver<u64>, not_before: Instant) {
    sleep_until(not_before).await;
    // The board lives as long as this task.
    if changes.changed().await.is_err() {
        let () = std::future::pending().await;
    }
}

fn send(requests: &mpsc::Sender<pb::AttachRequest>, message: Request) -> bool {
    requests.try_send(pb::AttachRequest { message: Some(message) }).is_ok()
}

fn lost(message: &str) -> Refusal {
    Refusal::unknown(Reason::Unavailable, message)
}
