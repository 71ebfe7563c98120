//! [`Bound`]: how many Streams are bound to which Writer, as the watch of Streams tells it.
//!
//! It is for people who look at a Writer. Whether its volume may go is not decided from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use pyramid_crds::Stream;
use tokio::sync::Notify;

use super::writers::WriterName;

type Guarded = DeserializeGuard<Stream>;

/// The Writer of each Stream that has one.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    is_full: bool,
    writers: HashMap<ObjectRef<Guarded>, WriterName>,
}

impl Bound {
    /// How many Streams the Writer has. `None`: not all have been seen yet.
    pub(crate) fn count(&self, writer: &WriterName) -> Option<usize> {
        let state = self.state();
        let count = || state.writers.values().filter(|bound| *bound == writer).count();
        state.is_full.then(count)
    }

    /// Waits until some Writer has another number of Streams; for one waiter.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// These are all Streams. One that cannot be read has the Writer that it had.
    pub(crate) fn replace(&self, streams: &[Arc<Guarded>]) {
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.writers);
        for stream in streams {
            let key = ObjectRef::from_obj(&**stream);
            let writer = match &stream.0 {
                Ok(stream) => writer_of(stream),
                Err(_) => before.remove(&key),
            };
            state.writers.extend(writer.map(|writer| (key, writer)));
        }
        state.is_full = true;
        drop(state);
        self.changed.notify_one();
    }

    /// The Stream is there. One that cannot be read has the Writer that it had.
    pub(super) fn set(&self, stream: &Guarded) {
        let Ok(readable) = &stream.0 else { return };
        let (key, writer) = (ObjectRef::from_obj(stream), writer_of(readable));
        let mut state = self.state();
        let before = match writer.clone() {
            Some(writer) => state.writers.insert(key, writer),
            None => state.writers.remove(&key),
        };
        drop(state);
        if before != writer {
            self.changed.notify_one();
        }
    }

    /// The Stream is gone.
    pub(super) fn remove(&self, stream: &ObjectRef<Guarded>) {
        let before = self.state().writers.remove(stream);
        if before.is_some() {
            self.changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn writer_of(stream: &Stream) -> Option<WriterName> {
    let own = stream.namespace().unwrap_or_default();
    stream.spec.writer_ref.as_ref().map(|reference| WriterName::named(reference, &own))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::{Value, json};

    use super::*;

    fn stream(name: &str, spec: &Value) -> Guarded {
        serde_json::from_value(json!({
            "apiVersion": "pyramid.dev/v1alpha1",
            "kind": "Stream",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": spec,
        }))
        .unwrap()
    }

    fn bound_to(name: &str, writer: &str) -> Guarded {
        stream(name, &json!({"writerRef": {"name": writer}}))
    }

    /// Its spec cannot be read.
    fn unreadable(name: &str) -> Guarded {
        stream(name, &json!({"writerRef": 7}))
    }

    fn count(bound: &Bound, namespace: &str, name: &str) -> Option<usize> {
        bound.count(&WriterName { namespace: namespace.into(), name: name.into() })
    }

    fn has_changed(bound: &Bound) -> bool {
        bound.changed().now_or_never().is_some()
    }

    #[test]
    fn nothing_is_said_before_all_streams_were_seen() {
        let bound = Bound::default();
        bound.set(&bound_to("orders", "billing"));
        assert_eq!(count(&bound, "shop", "billing"), None);
        bound.replace(&[]);
        assert_eq!(count(&bound, "shop", "billing"), Some(0));
    }

    #[test]
    fn a_writer_is_known_by_its_namespace_and_name() {
        let bound = Bound::default();
        let elsewhere = json!({"writerRef": {"name": "billing", "namespace": "bank"}});
        let all = [bound_to("a", "billing"), bound_to("b", "billing"), stream("c", &elsewhere)];
        bound.replace(&all.map(Arc::new));
        assert_eq!(count(&bound, "shop", "billing"), Some(2));
        assert_eq!(count(&bound, "bank", "billing"), Some(1));
        assert_eq!(count(&bound, "shop", "other"), Some(0));
    }

    #[test]
    fn a_change_is_told_and_what_changes_no_number_is_not() {
        let bound = Bound::default();
        bound.replace(&[Arc::new(stream("orders", &json!({})))]);
        assert!(has_changed(&bound) && !has_changed(&bound));
        bound.set(&bound_to("orders", "billing"));
        assert!(has_changed(&bound));
        bound.set(&bound_to("orders", "billing"));
        assert!(!has_changed(&bound));
        let key = ObjectRef::from_obj(&bound_to("orders", "billing"));
        bound.remove(&key);
        assert!(has_changed(&bound));
        bound.remove(&key);
        assert!(!has_changed(&bound));
        assert_eq!(count(&bound, "shop", "billing"), Some(0));
    }

    #[test]
    fn a_stream_that_cannot_be_read_any_more_stays_where_it_was() {
        let bound = Bound::default();
        bound.replace(&[Arc::new(bound_to("orders", "billing"))]);
        bound.set(&unreadable("orders"));
        assert_eq!(count(&bound, "shop", "billing"), Some(1));
        bound.replace(&[Arc::new(unreadable("orders")), Arc::new(unreadable("other"))]);
        assert_eq!(count(&bound, "shop", "billing"), Some(1));
        bound.replace(&[]);
        assert_eq!(count(&bound, "shop", "billing"), Some(0));
    }
}
