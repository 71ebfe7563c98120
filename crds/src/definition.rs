//! The `CustomResourceDefinition`s, as they are installed.
//!
//! What the derive macros emit is accepted by a server, and changed here in a few places: see
//! [`all`].

use std::collections::BTreeMap;

use kube::CustomResourceExt;
use serde_json::{Number, Value, json};

use crate::condition::{Truth, reasons, types};
use crate::{Stream, Subscription, Writer, stream, subscription, writer};

/// Message of the condition that a new object has.
const PENDING_MESSAGE: &str = "waiting for the operator";

/// The definition of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Lower case, such as `writers`.
    pub plural: String,
    /// The object, as the API server takes it.
    pub object: Value,
}

/// The definitions of Writer, Stream and Subscription.
///
/// Beyond what is derived:
///
/// * `nullable` is gone, so that an explicit `null` counts as absent.
/// * A new object has the condition `Ready`, `Unknown`, until the operator sees it.
/// * `spec` of a Stream may be left out.
/// * Names have the length, and for Writers the form, that their children need.
/// * Whole numbers are written as such, paragraphs of comments as one line, keys in one order.
///
/// # Panics
///
/// Never: definitions are JSON.
#[must_use]
pub fn all() -> Vec<Definition> {
    let writer_name = json!({
        "type": "string",
        "maxLength": writer::NAME_LEN_MAX,
        "pattern": writer::NAME_PATTERN,
    });
    let stream_name = json!({"type": "string", "maxLength": stream::NAME_LEN_MAX});
    let subscription_name = json!({"type": "string", "maxLength": subscription::NAME_LEN_MAX});
    vec![
        define::<Writer>(&writer_name, false),
        define::<Stream>(&stream_name, true),
        define::<Subscription>(&subscription_name, false),
    ]
}

fn define<K: CustomResourceExt>(name: &Value, spec_may_be_absent: bool) -> Definition {
    let definition = K::crd();
    let plural = definition.spec.names.plural.clone();
    let mut object = serde_json::to_value(definition).expect("a definition is JSON");
    let schema = object
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        .expect("a derived definition has one version with a schema");
    simplify(schema);
    set(schema, "/properties/metadata", &json!({"type": "object", "properties": {"name": name}}));
    set(schema, "/properties/status/default", &json!({"conditions": [pending()]}));
    if spec_may_be_absent {
        set(schema, "/properties/spec/default", &json!({}));
        if let Some(root) = schema.as_object_mut() {
            root.remove("required");
        }
    }
    if let Some(root) = object.as_object_mut() {
        root.remove("status");
    }
    Definition { plural, object: canonical(object) }
}

/// The condition of an object that no operator has seen.
fn pending() -> Value {
    json!({
        "type": types::READY,
        "status": Truth::Unknown.as_str(),
        "reason": reasons::PENDING,
        "message": PENDING_MESSAGE,
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    })
}

/// Puts a value at a place whose parent is there.
fn set(schema: &mut Value, place: &str, value: &Value) {
    let (parent, key) = place.rsplit_once('/').expect("a place starts with a slash");
    let parent = schema.pointer_mut(parent).and_then(Value::as_object_mut);
    parent.expect("the schema of a kind has this part").insert(key.to_owned(), value.clone());
}

/// Drops `nullable` and titles, and unwraps comments, at every level of a schema.
fn simplify(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("nullable");
    schema.remove("title");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = unwrapped(text);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(keyword) {
            simplify(inner);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
}

/// Lines of a paragraph joined: source lines are not lines of the reader's terminal.
fn unwrapped(text: &str) -> String {
    let paragraphs = text
        .split("\n\n")
        .map(|paragraph| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// Keys in the order of the alphabet, whatever the features of the JSON library, and `1.0` as `1`:
/// bounds are floating point in the derived form.
fn canonical(value: Value) -> Value {
    match value {
        Value::Number(number) => whole(&number).map_or(Value::Number(number), Value::from),
        Value::Array(items) => Value::Array(items.into_iter().map(canonical).collect()),
        Value::Object(fields) => {
            let sorted: BTreeMap<String, Value> =
                fields.into_iter().map(|(key, inner)| (key, canonical(inner))).collect();
            Value::Object(sorted.into_iter().collect())
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value,
    }
}

/// The integer that a number is, if it is one.
fn whole(number: &Number) -> Option<i64> {
    let float = number.as_f64()?;
    let integer: i64 = format!("{float:.0}").parse().ok()?;
    (number.as_i64() == Some(integer) || integer.to_string().parse() == Ok(float))
        .then_some(integer)
}
