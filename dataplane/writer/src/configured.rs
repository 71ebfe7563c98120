//! What is configured, as the operator's drift check reads it: objects with the hash of what was
//! declared.

use prost::Message;
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use sha2::{Digest, Sha256};

use crate::state::State;

const STREAM: &str = "stream";
const SUBSCRIPTION: &str = "subscription";

/// The object that a declaration comes from.
pub(crate) fn object(declared: Option<pb::ObjectRef>) -> Result<stored::ObjectRef, Refusal> {
    match declared {
        Some(pb::ObjectRef { uid, generation }) if !uid.is_empty() => {
            Ok(stored::ObjectRef { uid, generation })
        }
        Some(_) | None => {
            Err(Refusal::new(Reason::Invalid, "object: the uid of what is declared is missing"))
        }
    }
}

/// One page: streams by name, then subscriptions by name.
pub(crate) fn list(state: &State, after: &str, limit: usize) -> pb::ListConfigResponse {
    let (kind, after) = after.split_once('/').unwrap_or((STREAM, ""));
    let after_stream = (kind == STREAM).then(|| after.parse().ok());
    let streams = after_stream.into_iter().flat_map(|after| {
        let streams = state.streams_by_name("", after.as_ref());
        streams.map(stream).collect::<Vec<_>>()
    });
    let after_subscription = if kind == SUBSCRIPTION { after } else { "" };
    let subscriptions = state.subscriptions(after_subscription).map(|found| subscription(found));
    let mut objects: Vec<_> = streams.chain(subscriptions).take(limit + 1).collect();
    let more = objects.len() > limit;
    objects.truncate(limit);
    let next = match objects.last() {
        Some(last) if more => format!("{}/{}", last.kind, last.name),
        Some(_) | None => String::new(),
    };
    pb::ListConfigResponse { objects, next }
}

fn stream(stream: &std::sync::Arc<crate::state::Stream>) -> pb::ConfiguredObject {
    let declared = pb::PutStream {
        object: None,
        name: stream.name.to_string(),
        settings: Some(stream.settings),
        rights: Some((*stream.rights).clone()),
    };
    pb::ConfiguredObject {
        kind: STREAM.to_owned(),
        name: stream.name.to_string(),
        object: Some(wire_object(&stream.object)),
        content_sha256: sha256(&declared),
        stream_id: stream.id.get(),
    }
}

fn subscription(found: &stored::Subscription) -> pb::ConfiguredObject {
    let declared = stored::Subscription { object: None, ..found.clone() };
    pb::ConfiguredObject {
        kind: SUBSCRIPTION.to_owned(),
        name: found.name.clone(),
        object: found.object.as_ref().map(wire_object),
        content_sha256: sha256(&declared),
        stream_id: 0,
    }
}

fn wire_object(object: &stored::ObjectRef) -> pb::ObjectRef {
    pb::ObjectRef { uid: object.uid.clone(), generation: object.generation }
}

fn sha256(declared: &impl Message) -> bytes::Bytes {
    Sha256::digest(declared.encode_to_vec()).to_vec().into()
}
