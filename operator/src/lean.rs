//! What watches and caches keep of an object, and how much of a listing is read at once.
//!
//! The API server sends with each object who has set which of its fields, and what `kubectl apply`
//! was told last. Both are larger than all the rest of a Stream, above all once they are decoded, and
//! nobody here reads them. So they are dropped before a cache keeps the object.

use kube::Resource;
use kube::runtime::watcher;

/// Objects in one page of a listing. A page is decoded as a whole before any of its objects is made
/// lean, so it decides how much memory a watch takes while it begins.
pub(crate) const PAGE_LEN: u32 = 100;
/// Where `kubectl apply` keeps what it was told last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A watch whose listings come in pages: not every API server can stream one.
pub(crate) fn pages() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_LEN)
}

/// Drops what nobody here reads.
pub(crate) fn make_lean<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// Drops labels and annotations too.
pub(crate) fn make_bare<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    meta.annotations = None;
    meta.labels = None;
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::{Value, json};

    use super::*;

    fn sent() -> ConfigMap {
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": "a",
                "annotations": { LAST_APPLIED: "{}", "pyramid.dev/inject": "true" },
                "labels": { "team": "shop" },
                "managedFields": [{ "manager": "kubectl", "operation": "Apply" }],
            },
            "data": { "key": "text" },
        }))
        .unwrap()
    }

    fn made(make: fn(&mut ConfigMap)) -> Value {
        let mut object = sent();
        make(&mut object);
        serde_json::to_value(object).unwrap()
    }

    #[test]
    fn a_lean_object_lacks_only_what_nobody_reads() {
        let expected = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": "a",
                "annotations": { "pyramid.dev/inject": "true" },
                "labels": { "team": "shop" },
            },
            "data": { "key": "text" },
        });
        assert_eq!(made(make_lean), expected);
    }

    #[test]
    fn a_bare_object_has_its_name_and_its_content() {
        let expected = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "a" },
            "data": { "key": "text" },
        });
        assert_eq!(made(make_bare), expected);
    }
}
