//! Which Writer a Stream that names none gets.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use pyramid_crds::writer::DEFAULT_NAME;
use pyramid_crds::{Writer, annotation};
use serde_json::{Map, Value, json};

use crate::kinds::writers::{WriterName, allows};
use crate::settings::DefaultWriter;

/// What becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Binding {
    /// It is bound to this one.
    To {
        writer: WriterName,
        /// Others of the namespace that also say that they are the default.
        ignored: Vec<String>,
    },
    /// There is none yet: the default Writer is made, with this spec.
    Create(Map<String, Value>),
    /// There is none, and none is made. Says why, and what to do.
    NoDefault(String),
    /// One would be made, if there were a bucket. Says what to do.
    NoObjectStorage(String),
}

/// In order: a default of the Stream's namespace; one of the operator's that allows it; one that is
/// made.
pub(super) fn binding(
    namespace: &str,
    writers: &[Arc<Writer>],
    operators: &str,
    settings: &DefaultWriter,
) -> Binding {
    for place in [namespace, operators] {
        let mut candidates: Vec<&Writer> = writers
            .iter()
            .map(AsRef::as_ref)
            .filter(|writer| writer.namespace().as_deref() == Some(place))
            .filter(|writer| is_default(writer) && allows(writer, namespace))
            .collect();
        candidates.sort_by_key(|writer| (age(writer), writer.name_any()));
        if let [first, others @ ..] = &*candidates {
            let ignored = others.iter().map(|writer| writer.name_any()).collect();
            return Binding::To { writer: WriterName::of(first), ignored };
        }
    }
    let own = |writer: &&Arc<Writer>| {
        writer.namespace().as_deref() == Some(operators) && writer.name_any() == DEFAULT_NAME
    };
    if let Some(made) = writers.iter().find(own) {
        return Binding::NoDefault(not_usable(made, namespace, operators));
    }
    if !settings.create {
        return Binding::NoDefault(format!(
            "spec.writerRef is absent and no default Writer is there; annotate a Writer of namespace \
             {namespace} or {operators} with {}={}, or let the operator make one: helm upgrade \
             pyramid <chart> -n {operators} --reset-then-reuse-values --set defaultWriter.create=true",
            annotation::IS_DEFAULT_WRITER,
            annotation::TRUE
        ));
    }
    let spec = settings.spec.as_ref().and_then(Value::as_object);
    let bucket = |spec: &&Map<String, Value>| {
        let bucket = spec.get("objectStorage").and_then(|storage| storage.get("bucket"));
        bucket.and_then(Value::as_str).is_some_and(|bucket| !bucket.is_empty())
    };
    let Some(spec) = spec.filter(bucket) else {
        return Binding::NoObjectStorage(format!(
            "the default Writer needs a bucket: helm upgrade pyramid <chart> -n {operators} \
             --reset-then-reuse-values --set defaultWriter.spec.objectStorage.bucket=<bucket>"
        ));
    };
    let mut spec = spec.clone();
    // It is there for Streams of all namespaces, unless somebody said otherwise.
    spec.entry("allowedStreams").or_insert_with(|| json!({ "from": "All" }));
    Binding::Create(spec)
}

fn is_default(writer: &Writer) -> bool {
    let marked = writer.annotations().get(annotation::IS_DEFAULT_WRITER);
    marked.is_some_and(|value| value == annotation::TRUE)
        && writer.metadata.deletion_timestamp.is_none()
}

/// The older one sorts first; one without a time last.
fn age(writer: &Writer) -> (bool, Option<&Time>) {
    let created = writer.metadata.creation_timestamp.as_ref();
    (created.is_none(), created)
}

/// Why the Writer that the operator made once is none for this Stream. It is never edited: what is
/// different about it was somebody's wish.
fn not_usable(made: &Writer, namespace: &str, operators: &str) -> String {
    let made_name = WriterName::of(made);
    if made.metadata.deletion_timestamp.is_some() {
        return format!(
            "Writer {made_name} is being deleted; the next one is made when it is gone"
        );
    }
    if is_default(made) {
        return format!(
            "Writer {made_name} does not allow Streams of namespace {namespace}; set its \
             spec.allowedStreams.from to All, or name another Writer in spec.writerRef"
        );
    }
    format!(
        "Writer {made_name} is not the default any more; name it in spec.writerRef, or: kubectl \
         annotate writers.pyramid.dev {DEFAULT_NAME} -n {operators} {}={}",
        annotation::IS_DEFAULT_WRITER,
        annotation::TRUE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATORS: &str = "pyramid-system";

    fn writer(namespace: &str, name: &str, born: &str, more: &str, from: &str) -> Arc<Writer> {
        let yaml = format!(
            "metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{born}' {more}}}
spec: {{objectStorage: {{bucket: abc}}, allowedStreams: {{from: {from}}}}}"
        );
        Arc::new(serde_saphyr::from_str(&yaml).unwrap())
    }

    const DEFAULT: &str = ", annotations: {pyramid.dev/is-default-writer: 'true'}";
    const OLD: &str = "2030-01-01T00:00:00Z";
    const NEW: &str = "2030-01-02T00:00:00Z";

    fn to(namespace: &str, name: &str, ignored: &[&str]) -> Binding {
        Binding::To {
            writer: WriterName { namespace: namespace.into(), name: name.into() },
            ignored: ignored.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn settings(create: bool, spec: Value) -> DefaultWriter {
        DefaultWriter { create, spec: Some(spec) }
    }

    fn bound(writers: &[Arc<Writer>]) -> Binding {
        binding("shop", writers, OPERATORS, &DefaultWriter::default())
    }

    fn is_none(writers: &[Arc<Writer>]) -> bool {
        matches!(bound(writers), Binding::NoDefault(_))
    }

    #[test]
    fn the_own_namespaces_default_comes_before_the_operators() {
        let own = writer("shop", "own", NEW, DEFAULT, "Same");
        let operators = writer(OPERATORS, "big", OLD, DEFAULT, "All");
        let elsewhere = writer("web", "x", OLD, DEFAULT, "All");
        assert_eq!(
            bound(&[operators.clone(), own.clone(), elsewhere.clone()]),
            to("shop", "own", &[])
        );
        assert_eq!(bound(&[operators, elsewhere.clone()]), to(OPERATORS, "big", &[]));
        assert!(is_none(&[elsewhere]));
    }

    #[test]
    fn only_a_writer_that_is_marked_and_stays_and_allows_it_is_taken() {
        assert_eq!(bound(&[writer(OPERATORS, "a", OLD, DEFAULT, "All")]), to(OPERATORS, "a", &[]));
        assert!(is_none(&[writer(OPERATORS, "a", OLD, DEFAULT, "Same")]));
        assert!(is_none(&[writer(OPERATORS, "a", OLD, "", "All")]));
        let marked_no = ", annotations: {pyramid.dev/is-default-writer: 'false'}";
        assert!(is_none(&[writer(OPERATORS, "a", OLD, marked_no, "All")]));
        let going = format!("{DEFAULT}, deletionTimestamp: '{NEW}'");
        assert!(is_none(&[writer(OPERATORS, "a", OLD, &going, "All")]));
    }

    #[test]
    fn of_two_defaults_the_older_wins_and_of_twins_the_first_name() {
        let [a, b, c] = [("a", NEW), ("b", OLD), ("c", OLD)]
            .map(|(name, born)| writer("shop", name, born, DEFAULT, "Same"));
        assert_eq!(bound(&[a, c, b]), to("shop", "b", &["c", "a"]));
    }

    #[test]
    fn the_default_writer_is_made_for_all_namespaces_if_there_is_a_bucket() {
        let spec = json!({"replicas": 3, "objectStorage": {"bucket": "acme"}});
        let made = binding("shop", &[], OPERATORS, &settings(true, spec.clone()));
        let expected = json!({"replicas": 3, "objectStorage": {"bucket": "acme"},
            "allowedStreams": {"from": "All"}});
        assert_eq!(made, Binding::Create(expected.as_object().unwrap().clone()));
        let off = binding("shop", &[], OPERATORS, &settings(false, spec));
        assert!(
            matches!(&off, Binding::NoDefault(text) if text.contains("--set defaultWriter.create=true"))
        );
        for lacking in [json!({}), json!({"objectStorage": {"bucket": ""}}), Value::Null] {
            let Binding::NoObjectStorage(text) =
                binding("shop", &[], OPERATORS, &settings(true, lacking))
            else {
                panic!("there is no bucket");
            };
            assert_eq!(
                text,
                "the default Writer needs a bucket: helm upgrade pyramid <chart> -n pyramid-system \
                 --reset-then-reuse-values --set defaultWriter.spec.objectStorage.bucket=<bucket>"
            );
        }
    }

    #[test]
    fn the_default_writer_is_made_for_those_namespaces_that_the_values_name() {
        let spec = json!({"objectStorage": {"bucket": "acme"}, "allowedStreams": {"from": "Same"}});
        let made = binding("shop", &[], OPERATORS, &settings(true, spec.clone()));
        assert_eq!(made, Binding::Create(spec.as_object().unwrap().clone()));
    }

    #[test]
    fn the_writer_that_was_made_is_not_made_again_whatever_became_of_it() {
        let settings = settings(true, json!({"objectStorage": {"bucket": "acme"}}));
        let said = |writer: Arc<Writer>| {
            let bound = binding("shop", &[writer], OPERATORS, &settings);
            let Binding::NoDefault(text) = bound else { panic!("{bound:?}") };
            text
        };
        let text = said(writer(OPERATORS, "default", OLD, "", "All"));
        assert!(text.contains("kubectl annotate writers.pyramid.dev default"), "{text}");
        let text = said(writer(OPERATORS, "default", OLD, DEFAULT, "Same"));
        assert!(text.contains("spec.allowedStreams.from to All"), "{text}");
        let going = format!("{DEFAULT}, deletionTimestamp: '{NEW}'");
        let text = said(writer(OPERATORS, "default", OLD, &going, "All"));
        assert!(text.contains("is being deleted"), "{text}");
    }
}
