//! [`Applied`]: which children are as they were applied last, so that they are not applied again.
//!
//! The server fills in defaults and writes numbers in its own way, so what was asked for is never
//! compared with what is there. Two prints are kept instead: of what was asked for, and of what the
//! server made of it. While both are the same, an apply would change nothing. A process that has
//! just begun to lead knows nothing, and applies each child once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde_json::Value;

/// The children of one Writer.
#[derive(Debug, Default)]
pub(crate) struct Applied(Mutex<HashMap<String, Prints>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prints {
    wanted: u64,
    there: u64,
}

impl Applied {
    /// Whether to apply it would change nothing. `there` is what was read just now.
    pub(crate) fn is_current<K>(&self, wanted: &K, there: Option<&K>) -> bool
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let known = self.lock().get(&name(wanted)).copied();
        let now =
            there.map(|there| Prints { wanted: print(wanted, true), there: print(there, false) });
        known.is_some() && known == now
    }

    /// It was applied, and this is what came of it.
    pub(crate) fn note<K>(&self, wanted: &K, there: &K)
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let prints = Prints { wanted: print(wanted, true), there: print(there, false) };
        self.lock().insert(name(wanted), prints);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Prints>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{} {}", K::kind(&()), object.name_any())
}

/// A hash of all that an apply decides about. What is wanted of a child that is there names its uid,
/// and is the same as what was wanted before.
fn print<K: Serialize>(object: &K, is_wanted: bool) -> u64 {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
        if is_wanted {
            metadata.remove("uid");
        }
    }
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    fn service(value: &Value) -> Service {
        serde_json::from_value(value.clone()).unwrap()
    }

    fn wanted() -> Value {
        json!({"metadata": {"name": "main-writer"}, "spec": {"ports": [{"port": 7400}]}})
    }

    fn there() -> Value {
        json!({
            "metadata": {"name": "main-writer", "uid": "u", "resourceVersion": "7"},
            "spec": {"ports": [{"port": 7400, "protocol": "TCP"}], "clusterIP": "10.0.0.7"},
        })
    }

    fn is_current(wanted_now: &Value, there_now: Option<&Value>) -> bool {
        let applied = Applied::default();
        applied.note(&service(&wanted()), &service(&there()));
        applied.is_current(&service(wanted_now), there_now.map(service).as_ref())
    }

    /// A value in which one place is another.
    fn with(mut value: Value, place: &str, new: Value) -> Value {
        let (parent, name) = place.rsplit_once('/').unwrap();
        let parent = value.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        parent.insert(name.to_owned(), new);
        value
    }

    #[test]
    fn a_child_that_is_as_it_was_applied_is_left_alone() {
        assert!(is_current(&wanted(), Some(&there())));
        assert!(is_current(&with(wanted(), "/metadata/uid", json!("u")), Some(&there())));
        let touched = with(there(), "/metadata/resourceVersion", json!("8"));
        let touched = with(touched, "/status", json!({"loadBalancer": {}}));
        assert!(is_current(&wanted(), Some(&touched)));
    }

    #[test]
    fn a_child_that_somebody_changed_removed_or_made_anew_is_applied() {
        for (place, new) in [
            ("/spec/ports", json!([])),
            ("/metadata/labels", json!({"a": "b"})),
            ("/metadata/uid", json!("other")),
        ] {
            assert!(!is_current(&wanted(), Some(&with(there(), place, new))), "{place}");
        }
        assert!(!is_current(&wanted(), None));
    }

    #[test]
    fn a_child_that_is_to_be_different_is_applied() {
        assert!(!is_current(&with(wanted(), "/spec/ports", json!([])), Some(&there())));
        assert!(!is_current(&with(wanted(), "/metadata/name", json!("x")), Some(&there())));
    }

    #[test]
    fn what_was_never_applied_is() {
        let applied = Applied::default();
        assert!(!applied.is_current(&service(&wanted()), Some(&service(&there()))));
        assert!(!applied.is_current(&service(&wanted()), None));
    }
}
