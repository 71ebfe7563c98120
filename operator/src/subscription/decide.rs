//! What is done next for a Subscription, and what its status says: a function of what was seen.

use kube::ResourceExt;
use pyramid_crds::Subscription;
use pyramid_crds::condition::{Truth, find, reasons, types};
use pyramid_crds::stream::ANY_ACCOUNT;
use pyramid_crds::subscription::{DeliveryMode, StartPosition, State};
use pyramid_protocol::limits::SUBSCRIPTION_STREAMS_MAX;
use pyramid_protocol::pb::v1 as pb;

use super::resolve::Resolution;
use crate::admin;
use crate::kinds::configured::{Known, Wanted};
use crate::kinds::status::Verdict;
use crate::kinds::writers::{Founded, Service, WriterName};
use crate::stream::{failure, rights::identity};

/// Unit: milliseconds per second.
const MS_PER_SECOND: u32 = 1_000;

/// All that matters.
pub(super) struct Observed<'a> {
    pub(super) subscription: &'a Subscription,
    pub(super) resolution: &'a Resolution,
    /// The Writer of the Streams, if it takes declarations.
    pub(super) writer: Option<&'a Founded>,
    /// Of the Writer of the Streams.
    pub(super) service: &'a Service,
    /// Other Writers that hold this Subscription, from when it had other Streams.
    pub(super) former: &'a [Founded],
    pub(super) trust_domain: &'a str,
    pub(super) asked: &'a Asked,
    /// `pyramid-bootstrap` of the namespace has it as it shall be.
    pub(super) is_in_bootstrap: bool,
}

/// What the Writer has said in this pass.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked {
    NotYet,
    Known(Known),
    Failed(admin::Error),
}

/// What is done next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Nothing, until something changes.
    Rest,
    /// Try again, later each time.
    Retry,
    /// Ask what the Writer holds.
    Ask(Founded),
    /// Declare it.
    Put { writer: Founded, put: pb::PutSubscription, is_drift: bool },
    /// Take it from a Writer that has none of its Streams any more.
    Remove(Founded),
}

/// A step, and the status that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decision {
    pub(super) step: Step,
    pub(super) stream_count: usize,
    /// All conditions but `Delivering`.
    pub(super) verdicts: Vec<Verdict>,
}

pub(super) fn decide(seen: &Observed<'_>) -> Decision {
    let decision =
        |step, verdicts| Decision { step, stream_count: seen.resolution.streams.len(), verdicts };
    let resolved = resolved_refs(seen.resolution);
    let said = |step, truth, reason, text: String| {
        let programmed = Verdict::new(types::PROGRAMMED, truth, reason, text);
        decision(step, conditions(seen, resolved.clone(), programmed))
    };
    let pending = |step, text: &str| said(step, Truth::Unknown, reasons::PENDING, text.to_owned());
    let several = seen.resolution.writers().len() > 1;
    let is_usable = !several
        && seen.resolution.bad_selector.is_none()
        && seen.resolution.streams.len() <= SUBSCRIPTION_STREAMS_MAX;
    // What is in doubt stays as it was declared, so that a slip in the spec stops no deliveries.
    if !is_usable {
        return pending(Step::Rest, "its Streams are not resolved");
    }
    if let Some(former) = seen.former.first() {
        let text = format!("it leaves Writer {}", former.name);
        return match seen.asked {
            Asked::Failed(error) => {
                let (truth, reason, text) = failure(error);
                said(Step::Retry, truth, reason, text)
            }
            Asked::NotYet | Asked::Known(_) => pending(Step::Remove(former.clone()), &text),
        };
    }
    let Some(name) = seen.resolution.writer() else {
        return if seen.resolution.streams.is_empty() {
            pending(Step::Rest, "it has no Streams")
        } else {
            let text = "its Streams are not bound to a Writer yet";
            said(Step::Rest, Truth::False, reasons::STREAM_NOT_READY, text.to_owned())
        };
    };
    let Some(founded) = seen.writer else {
        let text = format!("Writer {name} does not serve yet");
        return said(Step::Rest, Truth::False, reasons::STREAM_NOT_READY, text);
    };
    let put = match put(seen, name) {
        Ok(put) => put,
        Err(text) => return said(Step::Rest, Truth::False, reasons::INVALID_SPEC, text),
    };
    let known = match seen.asked {
        Asked::NotYet => {
            let text = format!("Writer {name} is being asked");
            return pending(Step::Ask(founded.clone()), &text);
        }
        Asked::Failed(error) => {
            let (truth, reason, text) = failure(error);
            return said(Step::Retry, truth, reason, text);
        }
        Asked::Known(known) => known,
    };
    let wanted = Wanted::subscription(&put);
    if !known.declared.as_ref().is_some_and(|one| one.is(&wanted)) {
        let is_drift = known.put.as_ref() == Some(&wanted);
        let text = format!("it is being declared in Writer {name}");
        return pending(Step::Put { writer: founded.clone(), put, is_drift }, &text);
    }
    let waits = seen.resolution.streams.iter().find(|(_, one)| !one.is_programmed);
    if let Some(((namespace, name), _)) = waits {
        let text = format!("Stream {namespace}/{name} is not programmed yet");
        return said(Step::Rest, Truth::False, reasons::STREAM_NOT_READY, text);
    }
    let text = format!("Writer {name} knows it");
    said(Step::Rest, Truth::True, reasons::PROGRAMMED, text)
}

/// The declaration, with the Streams that are bound.
fn put(seen: &Observed<'_>, writer: &WriterName) -> Result<pb::PutSubscription, String> {
    let subscription = seen.subscription;
    let spec = &subscription.spec;
    let namespace = subscription.namespace().unwrap_or_default();
    let any = [ANY_ACCOUNT.to_owned()];
    let mut service_accounts = Vec::new();
    for account in spec.service_accounts.as_deref().unwrap_or(&any) {
        let identity = identity(seen.trust_domain, &namespace, account).ok_or_else(|| {
            format!("spec.serviceAccounts has {account:?}, which no service account is called")
        })?;
        service_accounts.push(identity);
    }
    service_accounts.sort_unstable();
    service_accounts.dedup();
    let bound =
        seen.resolution.streams.iter().filter(|(_, one)| one.writer.as_ref() == Some(writer));
    let mut streams: Vec<String> =
        bound.map(|((namespace, name), _)| format!("{namespace}/{name}")).collect();
    streams.sort_unstable();
    let start_from = match spec.start_from.position {
        StartPosition::Earliest => pb::StartFrom::Earliest,
        StartPosition::Latest => pb::StartFrom::Latest,
    };
    let mode = match spec.delivery.mode {
        DeliveryMode::Broadcast => pb::DeliveryMode::Broadcast,
        DeliveryMode::Exclusive => pb::DeliveryMode::Exclusive,
    };
    let generation = subscription.metadata.generation.and_then(|one| u64::try_from(one).ok());
    let ack_timeout_seconds = u32::try_from(spec.delivery.ack_timeout_seconds).unwrap_or_default();
    Ok(pb::PutSubscription {
        object: Some(pb::ObjectRef {
            uid: subscription.uid().unwrap_or_default(),
            generation: generation.unwrap_or_default(),
        }),
        name: format!("{namespace}/{}", subscription.name_any()),
        streams,
        start_from: start_from.into(),
        paused: is_paused(subscription),
        mode: mode.into(),
        ack_timeout_ms: ack_timeout_seconds.saturating_mul(MS_PER_SECOND),
        service_accounts,
    })
}

pub(crate) fn is_paused(subscription: &Subscription) -> bool {
    match subscription.spec.state {
        State::Active => false,
        State::Paused => true,
    }
}

fn resolved_refs(resolution: &Resolution) -> Verdict {
    let no = |reason, text: String| Verdict::new(types::RESOLVED_REFS, Truth::False, reason, text);
    let names = |names: &std::collections::BTreeSet<String>| {
        names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    let count = resolution.streams.len();
    if let Some(text) = &resolution.bad_selector {
        no(reasons::INVALID_SPEC, format!("spec.selector: {text}"))
    } else if count > SUBSCRIPTION_STREAMS_MAX {
        let text = format!(
            "it has {count} Streams, and {SUBSCRIPTION_STREAMS_MAX} is the most; make several Subscriptions"
        );
        no(reasons::INVALID_SPEC, text)
    } else if !resolution.forbidden.is_empty() {
        let text = format!(
            "not open to all service accounts of this Subscription: {}; add them to subscribers of the Stream",
            names(&resolution.forbidden)
        );
        no(reasons::REF_NOT_PERMITTED, text)
    } else if resolution.writers().len() > 1 {
        let writers = resolution.writers().into_iter().map(ToString::to_string);
        let text = format!(
            "its Streams lie in several Writers, {}; make one Subscription for each",
            writers.collect::<Vec<_>>().join(", ")
        );
        no(reasons::SEVERAL_WRITERS, text)
    } else if !resolution.missing.is_empty() {
        no(reasons::STREAM_NOT_FOUND, format!("not there: {}", names(&resolution.missing)))
    } else if count == 0 {
        no(reasons::STREAM_NOT_FOUND, "no Stream has the labels of spec.selector".to_owned())
    } else {
        let text = format!("it has {count} Streams");
        Verdict::new(types::RESOLVED_REFS, Truth::True, reasons::RESOLVED_REFS, text)
    }
}

/// What is said of two, `Ready`, and `Stalled` if a person has to do something.
fn conditions(seen: &Observed<'_>, resolved: Verdict, programmed: Verdict) -> Vec<Verdict> {
    let failing = [&resolved, &programmed].into_iter().find(|one| one.truth != Truth::True);
    let ready = if let Some(obstacle) = seen.service.obstacle(&resolved, &programmed) {
        obstacle
    } else if !seen.is_in_bootstrap {
        let text = "the ConfigMap pyramid-bootstrap does not have it yet";
        Verdict::new(types::READY, Truth::False, reasons::PENDING, text)
    } else {
        halted(seen.subscription).unwrap_or_else(|| {
            Verdict::new(types::READY, Truth::True, reasons::READY, "pushers can attach")
        })
    };
    let needs_person = failing.filter(|one| {
        one.truth == Truth::False
            && [
                reasons::REF_NOT_PERMITTED,
                reasons::SEVERAL_WRITERS,
                reasons::INVALID_SPEC,
                reasons::REJECTED_BY_WRITER,
            ]
            .contains(&one.reason)
    });
    let stalled = needs_person.map(|one| Verdict { truth: Truth::True, ..one.of(types::STALLED) });
    [ready, resolved, programmed].into_iter().chain(stalled).collect()
}

/// What pushers say that waits for a person. Without pushers it is ready: who installs it waits for
/// that before there are any.
fn halted(subscription: &Subscription) -> Option<Verdict> {
    let conditions = &subscription.status.as_ref()?.conditions;
    let delivering = find(conditions, types::DELIVERING)?;
    let reason = reasons::HALTS.into_iter().find(|one| *one == delivering.reason)?;
    Some(Verdict::new(types::READY, Truth::False, reason, delivering.message.clone()))
}

#[cfg(test)]
mod tests;
