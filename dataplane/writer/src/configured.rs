//! What is configured, as the operator's drift check reads it: objects with the hash of what was
//! declared.

use prost::Message;
use pyramid_protocol::StreamName;
use pyramid_protocol::pb::stored::v1 as stored;
use pyramid_protocol::pb::v1::{self as pb, Reason, Refusal};
use sha2::{Digest, Sha256};

use crate::live_index::LiveIndex;
use crate::service::stream_info;
use crate::state::{State, Stream};

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
///
/// # Errors
///
/// `after` is not what a page before ended with.
pub(crate) fn list(
    state: &State,
    live: &LiveIndex,
    after: &str,
    limit: usize,
) -> Result<pb::ListConfigResponse, Refusal> {
    let begin = match after.split_once('/') {
        None if after.is_empty() => Begin::Streams(None),
        Some((STREAM, name)) => Begin::Streams(Some(name.parse().map_err(|_| odd(after))?)),
        Some((SUBSCRIPTION, name)) => Begin::Subscriptions(name),
        Some(_) | None => return Err(odd(after)),
    };
    let (after_stream, after_subscription) = match &begin {
        Begin::Streams(after) => (Some(after.as_ref()), ""),
        Begin::Subscriptions(after) => (None, *after),
    };
    let streams = after_stream.into_iter().flat_map(|after| state.streams_by_name("", after));
    let subscriptions = state.subscriptions(after_subscription);
    let mut objects: Vec<_> = streams
        .map(|found| stream(state, live, found))
        .chain(subscriptions.map(|found| subscription(found)))
        .take(limit + 1)
        .collect();
    let more = objects.len() > limit;
    objects.truncate(limit);
    let next = match objects.last() {
        Some(last) if more => format!("{}/{}", last.kind, last.name),
        Some(_) | None => String::new(),
    };
    Ok(pb::ListConfigResponse { objects, next })
}

/// Where a page begins.
enum Begin<'a> {
    /// Behind this stream, or with the first one.
    Streams(Option<StreamName>),
    /// Behind this subscription.
    Subscriptions(&'a str),
}

fn odd(after: &str) -> Refusal {
    Refusal::new(
        Reason::Invalid,
        format!("after {after:?}: give `next` of the page before, or nothing for the first page"),
    )
}

fn stream(state: &State, live: &LiveIndex, stream: &Stream) -> pb::ConfiguredObject {
    let declared = pb::PutStream {
        object: None,
        name: stream.name.to_string(),
        settings: Some(stream.settings),
        rights: Some((*stream.rights).clone()),
        expected: None,
    };
    pb::ConfiguredObject {
        kind: STREAM.to_owned(),
        name: stream.name.to_string(),
        object: Some(wire_object(&stream.object)),
        content_sha256: sha256(&declared),
        stream_id: stream.id.get(),
        stream: Some(pb::StreamInfo { settings: None, ..stream_info(state, live, stream) }),
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
        stream: None,
    }
}

/// One stream as it is declared.
pub(crate) fn get(stream: &Stream, info: pb::StreamInfo) -> pb::GetStreamConfigResponse {
    pb::GetStreamConfigResponse {
        stream: Some(info),
        object: Some(wire_object(&stream.object)),
        rights: Some((*stream.rights).clone()),
    }
}

/// The form of an object in the log.
pub(crate) fn stored_object(object: &pb::ObjectRef) -> stored::ObjectRef {
    stored::ObjectRef { uid: object.uid.clone(), generation: object.generation }
}

fn wire_object(object: &stored::ObjectRef) -> pb::ObjectRef {
    pb::ObjectRef { uid: object.uid.clone(), generation: object.generation }
}

fn sha256(declared: &impl Message) -> bytes::Bytes {
    Sha256::digest(declared.encode_to_vec()).to_vec().into()
}
