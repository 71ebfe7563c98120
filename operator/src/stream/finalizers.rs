//! How our finalizer comes to a Stream and leaves it, beside those of others.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, TestOperation};
use kube::ResourceExt;
use pyramid_crds::{Stream, finalizer};
use serde_json::json;

/// `None`: it is so already.
pub(super) fn patch(stream: &Stream, add: bool) -> Option<Patch> {
    let path = |tokens: &[&str]| PointerBuf::from_tokens(tokens.iter().copied());
    let test = |name, value| {
        PatchOperation::Test(TestOperation { path: path(&["metadata", name]), value })
    };
    let same_object = test("uid", json!(stream.metadata.uid));
    // Absent and null are the same to the server.
    let same_list = test("finalizers", json!(stream.metadata.finalizers));
    let place = stream.finalizers().iter().position(|one| one == finalizer::PURGE_STREAM);
    let change = match (add, place) {
        (true, None) => {
            let list: Vec<&str> = stream
                .finalizers()
                .iter()
                .map(String::as_str)
                .chain([finalizer::PURGE_STREAM])
                .collect();
            let path = path(&["metadata", "finalizers"]);
            PatchOperation::Add(AddOperation { path, value: json!(list) })
        }
        (false, Some(place)) => PatchOperation::Remove(RemoveOperation {
            path: path(&["metadata", "finalizers", &place.to_string()]),
        }),
        (true, Some(_)) | (false, None) => return None,
    };
    Some(Patch(vec![same_object, same_list, change]))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn patched(finalizers: &str, add: bool) -> Option<Value> {
        let yaml = format!("metadata: {{name: a, uid: u, finalizers: {finalizers}}}\nspec: {{}}");
        let stream: Stream = serde_saphyr::from_str(&yaml).unwrap();
        patch(&stream, add).map(|patch| json!(patch))
    }

    /// The list is as it was seen, then it is changed so.
    fn expected(seen: &Value, change: &Value) -> Option<Value> {
        Some(json!([
            {"op": "test", "path": "/metadata/uid", "value": "u"},
            {"op": "test", "path": "/metadata/finalizers", "value": seen},
            change
        ]))
    }

    #[test]
    fn our_finalizer_is_added_and_removed_beside_those_of_others() {
        let ours = finalizer::PURGE_STREAM;
        let add = |list: Value| json!({"op": "add", "path": "/metadata/finalizers", "value": list});
        let added = add(json!(["a/b", ours]));
        assert_eq!(patched("[a/b]", true), expected(&json!(["a/b"]), &added));
        assert_eq!(patched("null", true), expected(&Value::Null, &add(json!([ours]))));
        let removed = json!({"op": "remove", "path": "/metadata/finalizers/1"});
        let list = format!("[a/b, {ours}, c/d]");
        assert_eq!(patched(&list, false), expected(&json!(["a/b", ours, "c/d"]), &removed));
        assert_eq!(patched(&format!("[{ours}]"), true), None);
        assert_eq!(patched("[a/b]", false), None);
    }
}
