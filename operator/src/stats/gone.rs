//! What Writers still hold of objects that are gone.
//!
//! A stream is closed and keeps its records: absence deletes nothing. A subscription holds nothing,
//! so it is removed. In both cases the server is asked first: a cache may be wrong.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::api::DynamicObject;
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use pyramid_crds::stream::WriterRef;
use pyramid_crds::{Stream, Subscription};
use serde_json::Value;

use crate::admin;
use crate::kinds::Kinds;
use crate::kinds::configured::{Kind, Name};
use crate::kinds::retries::Failure;
use crate::kinds::status;
use crate::kinds::writers::{Founded, WriterName};

/// Why it could not be settled. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("ask whether the object is there")]
    Kube(#[source] kube::Error),
    #[error("tell the Writer")]
    Writer(#[source] admin::Error),
}

impl Error {
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Kube(source) => Failure::of_server(source),
            Self::Writer(error) => Failure::of_writer(error),
        }
    }
}

/// What the server says about the object of a declaration.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Live {
    Absent,
    Present { uid: String, writer: Option<WriterName> },
}

/// Whether the declaration in `writer` has lost its object.
pub(super) fn is_orphan(kind: Kind, live: &Live, declared_by: &str, writer: &WriterName) -> bool {
    match (kind, live) {
        (_, Live::Absent) => true,
        // A new Stream of the name that lies elsewhere, for good, has left this one behind.
        (Kind::Stream, Live::Present { uid, writer: Some(bound) }) => {
            uid != declared_by && bound != writer
        }
        // The one is about to be bound, the other moves by itself.
        (Kind::Stream, Live::Present { writer: None, .. })
        | (Kind::Subscription, Live::Present { .. }) => false,
    }
}

/// Names that the Writer holds and that no cached object explains.
pub(super) fn suspects(kinds: &Kinds, writer: &Founded) -> Vec<Name> {
    let all = kinds.configured.all(writer).into_iter();
    let unexplained = all.filter(|(name, declared)| match name.kind {
        Kind::Stream => {
            let bound = kinds.stream(&name.namespace, &name.name).map(|guarded| {
                let stream = guarded.0.as_ref().ok()?;
                let reference = stream.spec.writer_ref.as_ref()?;
                Some(WriterName::named(reference, &name.namespace))
            });
            // One that cannot be read, or is not bound yet, is there.
            let is_here = bound.is_some_and(|bound| bound.is_none_or(|one| one == writer.name));
            !is_here && !declared.is_closed()
        }
        Kind::Subscription => kinds.subscription(&name.namespace, &name.name).is_none(),
    });
    unexplained.map(|(name, _)| name).collect()
}

/// Settles a name in a Writer, if it holds it.
pub(super) async fn settle(kinds: &Kinds, writer: &Founded, name: &Name) -> Result<(), Error> {
    let Some(declared) = kinds.configured.declared(writer, name) else { return Ok(()) };
    let live = match name.kind {
        Kind::Stream => live::<Stream>(kinds, name).await,
        Kind::Subscription => live::<Subscription>(kinds, name).await,
    };
    let live = live.map_err(Error::Kube)?;
    if !is_orphan(name.kind, &live, &declared.object.uid, &writer.name) {
        return Ok(());
    }
    let full_name = name.to_string();
    let WriterName { namespace, name: writer_name } = &writer.name;
    let replica = kinds.context.writers.replica(namespace, writer_name, writer.ordinal);
    let replica = replica.map_err(Error::Writer)?;
    let (done, reason, note) = match name.kind {
        Kind::Stream => {
            if declared.is_closed() {
                return Ok(());
            }
            let id = declared.stream_id;
            let done = replica.set_closed(writer.cluster_id, &full_name, id, true).await;
            let note = format!("stream {full_name} was closed, its Stream is gone; records stay");
            (done, "StreamClosed", note)
        }
        Kind::Subscription => {
            let object = declared.object.clone();
            let done = replica.delete_subscription(writer.cluster_id, &full_name, object).await;
            let note = format!("subscription {full_name} was removed, its object is gone");
            (done, "SubscriptionRemoved", note)
        }
    };
    match done {
        Ok(()) | Err(admin::Error::NotFound { .. }) => {}
        Err(error) => return Err(Error::Writer(error)),
    }
    match name.kind {
        Kind::Stream => {
            kinds.configured.set_closed(writer, name, true);
            // One that was made just now may have been declared before it was closed.
            kinds.queues.streams.push(ObjectRef::new(&name.name).within(&name.namespace));
        }
        Kind::Subscription => kinds.configured.removed(writer, name),
    }
    tracing::info!(writer = %writer.name, name = full_name, reason, "an object is gone");
    if let Some(guarded) = kinds.writer(&writer.name)
        && let Ok(object) = &guarded.0
    {
        let gone = Some(reference(name));
        kinds.tell_of(object, gone, EventType::Normal, reason, &note).await;
    }
    Ok(())
}

/// The object that is gone. One that comes later under its name is told of together with it.
fn reference(Name { kind, namespace, name }: &Name) -> ObjectReference {
    match kind {
        Kind::Stream => ObjectRef::<Stream>::new(name).within(namespace).into(),
        Kind::Subscription => ObjectRef::<Subscription>::new(name).within(namespace).into(),
    }
}

async fn live<K>(kinds: &Kinds, name: &Name) -> Result<Live, kube::Error>
where
    K: Resource<DynamicType = ()>,
{
    let api = status::api::<K>(&kinds.context.client, &name.namespace);
    let found = api.get_opt(&name.name).await?;
    Ok(found.map_or(Live::Absent, |found| present(&found, &name.namespace)))
}

fn present(found: &DynamicObject, namespace: &str) -> Live {
    let reference = found.data.pointer("/spec/writerRef").cloned().unwrap_or(Value::Null);
    let reference: Option<WriterRef> = serde_json::from_value(reference).unwrap_or_default();
    Live::Present {
        uid: found.metadata.uid.clone().unwrap_or_default(),
        writer: reference.map(|one| WriterName::named(&one, namespace)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(name: &str) -> WriterName {
        WriterName { namespace: "a".into(), name: name.into() }
    }

    fn live(uid: &str, bound: Option<&str>) -> Live {
        Live::Present { uid: uid.into(), writer: bound.map(writer) }
    }

    #[test]
    fn only_what_has_no_object_is_an_orphan() {
        let is = |kind, live: &Live| is_orphan(kind, live, "mine", &writer("w"));
        for kind in [Kind::Stream, Kind::Subscription] {
            assert!(is(kind, &Live::Absent));
            assert!(!is(kind, &live("mine", Some("w"))));
            assert!(!is(kind, &live("other", Some("w"))));
            assert!(!is(kind, &live("other", None)));
        }
        assert!(is(Kind::Stream, &live("other", Some("v"))));
        assert!(!is(Kind::Stream, &live("mine", Some("v"))));
        assert!(!is(Kind::Subscription, &live("other", Some("v"))));
    }

    #[test]
    fn an_event_names_what_is_gone_so_that_two_are_not_counted_as_one() {
        let [stream, subscription] = [Name::stream("shop", "a"), Name::subscription("shop", "a")]
            .map(|name| serde_json::json!(reference(&name)));
        let expected = |kind: &str| {
            serde_json::json!({"apiVersion": "pyramid.dev/v1alpha1", "kind": kind,
                "namespace": "shop", "name": "a"})
        };
        assert_eq!(stream, expected("Stream"));
        assert_eq!(subscription, expected("Subscription"));
    }

    #[test]
    fn the_writer_of_a_live_stream_is_read_from_its_spec() {
        let found = |spec: Value| {
            let object = serde_json::json!({"apiVersion": "pyramid.dev/v1alpha1", "kind": "Stream",
                "metadata": {"name": "s", "uid": "u"}, "spec": spec});
            present(&serde_json::from_value(object).unwrap(), "shop")
        };
        let here = WriterName { namespace: "shop".into(), name: "w".into() };
        assert_eq!(
            found(serde_json::json!({"writerRef": {"name": "w"}})),
            Live::Present { uid: "u".into(), writer: Some(here) }
        );
        assert_eq!(
            found(serde_json::json!({"writerRef": {"name": "w", "namespace": "a"}})),
            live("u", Some("w"))
        );
        assert_eq!(found(serde_json::json!({})), live("u", None));
    }
}
