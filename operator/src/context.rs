//! [`Context`]: what all controllers share.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use pyramid_telemetry::logs::causes;
use pyramid_tls::Authority;
use tokio::sync::watch;

use crate::admin::Writers;
use crate::kinds::bound::Bound;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// Field manager of everything that the operator applies, but for the three below.
pub(crate) const MANAGER: &str = "pyramid-operator";
/// Owns `spec.writerRef` of Streams only.
pub(crate) const BIND_MANAGER: &str = "pyramid-operator-bind";
/// Owns `caBundle` of the webhook only.
pub(crate) const CA_MANAGER: &str = "pyramid-operator-ca";
/// Owns the numbers in status only.
pub(crate) const STATS_MANAGER: &str = "pyramid-operator-stats";

/// What all controllers share.
pub(crate) struct Context {
    pub(crate) client: kube::Client,
    pub(crate) settings: Settings,
    /// The operator's own namespace.
    pub(crate) namespace: String,
    /// The authority and whom everybody believes; new after each change of its Secret.
    pub(crate) trust: watch::Receiver<Arc<Trust>>,
    /// Calls to Writers.
    pub(crate) writers: Writers,
    pub(crate) recorder: Recorder,
    /// How many Streams each Writer has; filled while this replica leads.
    pub(crate) bound: Arc<Bound>,
    pub(crate) metrics: Metrics,
}

impl Context {
    /// Tells whoever looks at the object. Best effort: an event is for people, and in a namespace
    /// that goes none can be created.
    pub(crate) async fn tell(
        &self,
        object: &ObjectReference,
        type_: EventType,
        reason: &str,
        note: String,
    ) {
        self.tell_of(object, None, type_, reason, note).await;
    }

    /// The same, if it is about another object, too. Events that come again within minutes are
    /// counted, and the first note stays: what it names beside `object` must be `related`.
    pub(crate) async fn tell_of(
        &self,
        object: &ObjectReference,
        related: Option<ObjectReference>,
        type_: EventType,
        reason: &str,
        note: String,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: reason.to_owned(),
            secondary: related,
        };
        if let Err(error) = self.recorder.publish(&event, object).await {
            tracing::debug!(error = causes(&error), reason, "publish an event");
        }
    }
}

/// What the API server said, for people: kube's own text repeats the whole answer.
pub(crate) fn said(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error { status.message.clone() } else { causes(error) }
}

/// The authority, as its Secret holds it.
#[derive(Debug)]
pub struct Trust {
    /// Signs.
    pub authority: Authority,
    /// One root, or two while the authority is exchanged. PEM.
    pub bundle_pem: String,
    /// That of the root.
    pub trust_domain: String,
}
