//! `Writer.Attach`: a pusher joins its subscription and is told its streams.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use pyramid_protocol::limits::NAME_BYTES_MAX;
use pyramid_protocol::pb::stored::v1::{self as stored, StoredDeliveryMode, StoredStartFrom};
use pyramid_protocol::pb::v1::{self as pb, Refusal, attach_request, attach_response};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::answer;
use crate::attachments::Attached;
use crate::member::Member;
use crate::metrics::Call;
use crate::rights::Caller;
use crate::state::State;

/// A connection that says nothing for this long is given up: a pusher reports every 10 s.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// How long an unknown subscription should wait before it asks again. Unit: milliseconds.
const UNKNOWN_RETRY_AFTER_MS: u32 = 1_000;

struct Attachment {
    member: Arc<Member>,
    caller: Caller,
    requests: Streaming<pb::AttachRequest>,
    configuration: watch::Receiver<u64>,
    attached: Option<(String, Attached)>,
    told: Option<pb::Assignment>,
    ended: bool,
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
    /// The next assignment that differs from the one told last. `None`: the pusher has gone.
    async fn next(&mut self) -> Result<Option<pb::Assignment>, Refusal> {
        loop {
            if let Some((subscription, _)) = &self.attached {
                self.configuration.mark_unchanged();
                let assignment = self.assignment(subscription)?;
                if self.told.as_ref() != Some(&assignment) {
                    self.told = Some(assignment.clone());
                    return Ok(Some(assignment));
                }
            }
            tokio::select! {
                changed = self.configuration.changed(), if self.attached.is_some() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                }
                request = timeout(SILENCE_MAX, self.requests.message()) => {
                    let Ok(Ok(Some(request))) = request else { return Ok(None) };
                    self.take(request)?;
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
                    .read(|state, _| self.find(state, &hello.subscription).map(drop))?;
                let name = hello.subscription.clone();
                let attached =
                    self.member.attachments.attach(hello).map_err(answer::attachments_full)?;
                self.attached = Some((name, attached));
                Ok(())
            }
            (Some(attach_request::Message::Report(mut report)), Some((_, attached))) => {
                let told = self.told.as_ref().map_or(&[][..], |told| &told.streams);
                // Names of a subscription are sorted.
                report.streams.retain(|one| {
                    told.binary_search_by(|told| told.stream.cmp(&one.stream)).is_ok()
                });
                attached.report(report);
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

    /// The subscription, if it exists and the caller may attach to it.
    fn find<'a>(
        &self,
        state: &'a State,
        subscription: &str,
    ) -> Result<&'a stored::Subscription, Refusal> {
        let found = state.subscription(subscription).filter(|one| self.caller.may_attach(one));
        found.map(|found| &**found).ok_or_else(|| {
            let refusal = self.caller.no_subscription(subscription);
            refusal.with_retry_after_ms(UNKNOWN_RETRY_AFTER_MS)
        })
    }

    fn assignment(&self, subscription: &str) -> Result<pb::Assignment, Refusal> {
        self.member.view.read(|state, _| {
            let found = self.find(state, subscription)?;
            let streams = found.streams.iter().map(|name| pb::AssignedStream {
                stream: name.clone(),
                stream_id: name
                    .parse()
                    .ok()
                    .and_then(|name| state.stream_by_name(&name))
                    .map(|stream| stream.id.get()),
                leased: false,
                lease_ms: 0,
            });
            Ok(pb::Assignment {
                streams: streams.collect(),
                start_from: start_from(found.start_from()).into(),
                paused: found.paused,
                mode: mode(found.mode()).into(),
                ack_timeout_ms: found.ack_timeout_ms,
            })
        })
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
