//! `Writer.Attach`: a pusher joins its subscription and is told its streams.
//!
//! In an Exclusive subscription it is told its leases, again and again while it reports: it reports
//! at least as often as it is told, or it loses them.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use pyramid_protocol::limits::NAME_BYTES_MAX;
use pyramid_protocol::pb::stored::v1::{self as stored, StoredDeliveryMode, StoredStartFrom};
use pyramid_protocol::pb::v1::{self as pb, Refusal, attach_request, attach_response};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Status, Streaming};

use super::answer;
use crate::attachments::{Attached, Look};
use crate::member::Member;
use crate::metrics::Call;
use crate::rights::Caller;
use crate::state::State;

/// A connection that says nothing for this long is given up: a pusher reports every 10 s.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// How often a pusher of an Exclusive subscription is told its leases, also when they are the same.
/// A third of their life: one message may be late.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How long an unknown subscription should wait before it asks again. Unit: milliseconds.
const UNKNOWN_RETRY_AFTER_MS: u32 = 1_000;

struct Attachment {
    member: Arc<Member>,
    caller: Caller,
    requests: Streaming<pb::AttachRequest>,
    configuration: watch::Receiver<u64>,
    attached: Option<Joined>,
    told: Option<pb::Assignment>,
    /// When it said something last.
    heard: Instant,
    /// When it is told again, whatever changes.
    tell_at: Option<Instant>,
    ended: bool,
}

/// A pusher that has said hello.
struct Joined {
    subscription: String,
    attached: Attached,
    leases: watch::Receiver<u64>,
}

pub(super) fn answers(
    member: Arc<Member>,
    caller: Caller,
    requests: Streaming<pb::AttachRequest>,
) -> impl Stream<Item = Result<pb::AttachResponse, Status>> {
    let configuration = member.view.configuration();
    let attachment = Attachment {
        member,
        caller,
        requests,
        configuration,
        attached: None,
        told: None,
        heard: Instant::now(),
        tell_at: None,
        ended: false,
    };
    stream::unfold(attachment, |mut attachment| async move {
        if attachment.ended {
            return None;
        }
        let shutdown = attachment.member.shutdown.clone();
        let next = tokio::select! {
            biased;
            next = attachment.next() => next,
            () = shutdown.cancelled() => Err(answer::stops()),
        };
        let message = match next {
            Ok(Some(assignment)) => attach_response::Message::Assignment(assignment),
            Ok(None) => return None,
            Err(refusal) => {
                attachment.ended = true;
                attachment.member.metrics.refused(Call::Attach, &refusal);
                attach_response::Message::Refused(refusal)
            }
        };
        Some((Ok(pb::AttachResponse { message: Some(message) }), attachment))
    })
}

impl Attachment {
    /// The next assignment that differs from the one told last, or is due again. `None`: the pusher
    /// has gone.
    async fn next(&mut self) -> Result<Option<pb::Assignment>, Refusal> {
        loop {
            let mut look_again = None;
            if let Some(joined) = &mut self.attached {
                self.configuration.mark_unchanged();
                joined.leases.mark_unchanged();
                let (assignment, again) = assignment(&self.member, &self.caller, joined)?;
                let is_exclusive = assignment.mode() == pb::DeliveryMode::Exclusive;
                let is_due = is_exclusive && self.tell_at.is_some_and(|at| at <= Instant::now());
                let is_news = self.told.as_ref().is_none_or(|told| !is_same(told, &assignment));
                if is_due || is_news {
                    self.tell_at = is_exclusive.then(|| Instant::now() + TELL_EVERY);
                    self.told = Some(assignment.clone());
                    return Ok(Some(assignment));
                }
                look_again = [again, self.tell_at].into_iter().flatten().min();
            }
            let is_attached = self.attached.is_some();
            let leases = self.attached.as_mut().map(|joined| &mut joined.leases);
            tokio::select! {
                changed = self.configuration.changed(), if is_attached => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                }
                () = lease_changed(leases) => {}
                () = until(look_again) => {}
                request = timeout_at(self.heard + SILENCE_MAX, self.requests.message()) => {
                    match request {
                        Ok(Ok(Some(request))) => {
                            self.heard = Instant::now();
                            self.take(request)?;
                        }
                        // It has said that it is done.
                        Ok(Ok(None)) => {
                            if let Some(joined) = self.attached.take() {
                                joined.attached.leave();
                            }
                            return Ok(None);
                        }
                        // Perhaps it still pushes.
                        Ok(Err(_)) | Err(_) => return Ok(None),
                    }
                }
            }
        }
    }

    fn take(&mut self, request: pb::AttachRequest) -> Result<(), Refusal> {
        match (request.message, &self.attached) {
            (Some(attach_request::Message::Hello(hello)), None) => {
                if hello.subscription.is_empty() || hello.subscription.len() > NAME_BYTES_MAX {
                    return Err(answer::invalid(format!(
                        "a subscription's name has 1 to {NAME_BYTES_MAX} bytes"
                    )));
                }
                if !is_sha256(&hello.trust_bundle_sha256) {
                    return Err(answer::invalid(
                        "trust_bundle_sha256 has 64 hexadecimal digits, or none without TLS",
                    ));
                }
                // Who may not attach is not shown to the operator as attached, not even for a moment.
                self.member
                    .view
                    .read(|state, _| find(state, &self.caller, &hello.subscription).map(drop))?;
                let subscription = hello.subscription.clone();
                let attached =
                    self.member.attachments.attach(hello).map_err(answer::attachments_full)?;
                let leases = attached.changes();
                self.attached = Some(Joined { subscription, attached, leases });
                Ok(())
            }
            (Some(attach_request::Message::Report(mut report)), Some(joined)) => {
                let told = self.told.as_ref().map_or(&[][..], |told| &told.streams);
                // Names of a subscription are sorted.
                report.streams.retain(|one| {
                    told.binary_search_by(|told| told.stream.cmp(&one.stream)).is_ok()
                });
                joined.attached.report(report);
                Ok(())
            }
            (Some(attach_request::Message::Hello(_)), Some(_)) => {
                Err(answer::invalid("a pusher says hello once"))
            }
            (Some(attach_request::Message::Report(_)), None) | (None, _) => {
                Err(answer::invalid("a pusher says hello first"))
            }
        }
    }
}

/// The subscription, if it exists and the caller may attach to it.
fn find<'a>(
    state: &'a State,
    caller: &Caller,
    subscription: &str,
) -> Result<&'a Arc<stored::Subscription>, Refusal> {
    let found = state.subscription(subscription).filter(|one| caller.may_attach(one));
    found.ok_or_else(|| {
        let refusal = caller.no_subscription(subscription);
        refusal.with_retry_after_ms(UNKNOWN_RETRY_AFTER_MS)
    })
}

/// What the pusher is to do, and when that may change although nobody says anything.
fn assignment(
    member: &Member,
    caller: &Caller,
    joined: &Joined,
) -> Result<(pb::Assignment, Option<Instant>), Refusal> {
    let (found, ids) = member.view.read(|state, _| {
        let found = find(state, caller, &joined.subscription)?;
        let id = |name: &String| {
            let stream = state.stream_by_name(&name.parse().ok()?)?;
            Some(stream.id.get())
        };
        let ids: Vec<_> = found.streams.iter().map(id).collect();
        Ok::<_, Refusal>((Arc::clone(found), ids))
    })?;
    let Look { leased, again } = match found.mode() {
        StoredDeliveryMode::Exclusive => joined.attached.leases(&found.streams),
        StoredDeliveryMode::Unspecified | StoredDeliveryMode::Broadcast => {
            joined.attached.no_leases();
            Look { leased: vec![None; ids.len()], again: None }
        }
    };
    let now = Instant::now();
    let streams = found.streams.iter().zip(ids).zip(leased);
    let streams = streams.map(|((name, stream_id), until)| {
        let left = until.map(|until| until.saturating_duration_since(now).as_millis());
        pb::AssignedStream {
            stream: name.clone(),
            stream_id,
            leased: until.is_some(),
            lease_ms: left.map_or(0, |left| u32::try_from(left).unwrap_or(u32::MAX)),
        }
    });
    let assignment = pb::Assignment {
        streams: streams.collect(),
        start_from: start_from(found.start_from()).into(),
        paused: found.paused,
        mode: mode(found.mode()).into(),
        ack_timeout_ms: found.ack_timeout_ms,
    };
    Ok((assignment, again))
}

/// Whether two assignments differ in nothing but how long leases last.
fn is_same(one: &pb::Assignment, other: &pb::Assignment) -> bool {
    let without_lives = |assignment: &pb::Assignment| {
        let mut assignment = assignment.clone();
        for stream in &mut assignment.streams {
            stream.lease_ms = 0;
        }
        assignment
    };
    without_lives(one) == without_lives(other)
}

async fn lease_changed(leases: Option<&mut watch::Receiver<u64>>) {
    // The sender is kept while the pusher is attached.
    if let Some(leases) = leases
        && leases.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Whether a text is a SHA-256 in hexadecimal digits, or empty: none is known.
fn is_sha256(text: &str) -> bool {
    text.is_empty() || (text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn start_from(stored: StoredStartFrom) -> pb::StartFrom {
    match stored {
        StoredStartFrom::Unspecified => pb::StartFrom::Unspecified,
        StoredStartFrom::Earliest => pb::StartFrom::Earliest,
        StoredStartFrom::Latest => pb::StartFrom::Latest,
    }
}

fn mode(stored: StoredDeliveryMode) -> pb::DeliveryMode {
    match stored {
        StoredDeliveryMode::Unspecified => pb::DeliveryMode::Unspecified,
        StoredDeliveryMode::Broadcast => pb::DeliveryMode::Broadcast,
        StoredDeliveryMode::Exclusive => pb::DeliveryMode::Exclusive,
    }
}
