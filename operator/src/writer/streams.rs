//! Which Writers hear of a Stream: those whose number of bound Streams may have changed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use pyramid_crds::{Stream, Writer};

/// What was last seen of each Stream.
#[derive(Debug, Default)]
pub(crate) struct Bound(Mutex<HashMap<String, Seen>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    generation: Option<i64>,
    /// Hash of the status.
    status: u64,
}

impl Bound {
    /// The Writer of a Stream, unless the event is only about its status: numbers change all the
    /// time, and are none of the Writer's business.
    pub(crate) fn changed(
        &self,
        stream: &DeserializeGuard<Stream>,
    ) -> Option<ObjectRef<DeserializeGuard<Writer>>> {
        let Ok(stream) = &stream.0 else {
            return None;
        };
        let writer = stream.spec.writer_ref.as_ref()?;
        let namespace = writer.namespace.clone().or_else(|| stream.namespace())?;
        let seen = Seen { generation: stream.metadata.generation, status: status_hash(stream) };
        let uid = stream.uid().unwrap_or_default();
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_only_status = streams.get(&uid).is_some_and(|before| {
            before.generation == seen.generation && before.status != seen.status
        });
        // An event of something else is perhaps that it is gone; one that is not comes back.
        let is_known = streams.remove(&uid).is_some_and(|before| before == seen);
        if !is_known {
            streams.insert(uid, seen);
        }
        drop(streams);
        (!is_only_status).then(|| ObjectRef::new(&writer.name).within(&namespace))
    }
}

fn status_hash(stream: &Stream) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&stream.status).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stream(generation: i64, next_offset: u64) -> DeserializeGuard<Stream> {
        let stream = json!({
            "apiVersion": "pyramid.dev/v1alpha1",
            "kind": "Stream",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "generation": generation},
            "spec": {"writerRef": {"name": "billing"}},
            "status": {"nextOffset": next_offset},
        });
        DeserializeGuard(Ok(serde_json::from_value(stream).unwrap()))
    }

    #[test]
    fn a_writer_hears_of_its_streams_but_not_of_their_numbers() {
        let bound = Bound::default();
        let writer = Some(ObjectRef::new("billing").within("shop"));
        assert_eq!(bound.changed(&stream(1, 0)), writer);
        assert_eq!(bound.changed(&stream(1, 5)), None);
        assert_eq!(bound.changed(&stream(2, 5)), writer);
        // The event of a deletion shows the object as it was.
        assert_eq!(bound.changed(&stream(2, 5)), writer);
        assert!(bound.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_stream_without_a_writer_is_nobodys_business() {
        let DeserializeGuard(Ok(mut stream)) = stream(1, 0) else { panic!() };
        stream.spec.writer_ref = None;
        assert_eq!(Bound::default().changed(&DeserializeGuard(Ok(stream))), None);
    }
}
