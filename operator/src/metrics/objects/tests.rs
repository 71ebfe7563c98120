use kube::runtime::reflector;
use kube::runtime::watcher::Event;
use pyramid_telemetry::metrics::{Registry, register, text};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn conditions(said: &[(&str, &str)]) -> Value {
    let condition = |(r#type, status): &(&str, &str)| {
        json!({"type": r#type, "status": status, "reason": "R", "message": "",
            "lastTransitionTime": "2030-01-01T00:00:00Z"})
    };
    said.iter().map(condition).collect()
}

fn writer(name: &str, replicas: i32, ready: i32, said: &[(&str, &str)]) -> Value {
    json!({"apiVersion": "pyramid.dev/v1alpha1", "kind": "Writer",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"replicas": replicas, "objectStorage": {"bucket": "abc"}},
        "status": {"readyReplicas": ready, "conditions": conditions(said)}})
}

fn stream(name: &str, said: &[(&str, &str)]) -> Value {
    json!({"apiVersion": "pyramid.dev/v1alpha1", "kind": "Stream",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {}, "status": {"conditions": conditions(said)}})
}

fn store<K>(objects: &[Value]) -> Store<Guarded<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
{
    let (store, mut writer) = reflector::store();
    for object in objects {
        writer.apply_watcher_event(&Event::Apply(serde_json::from_value(object.clone()).unwrap()));
    }
    store
}

fn caches(writers: &[Value], streams: &[Value]) -> Caches {
    Caches { writers: store(writers), streams: store(streams), subscriptions: store(&[]) }
}

fn shown(objects: &Objects) -> String {
    let mut registry = Registry::with_prefix("pyramid");
    register(&mut registry, objects.clone());
    text(&registry)
}

fn series<'a>(text: &'a str, begin: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(begin)).collect()
}

#[test]
fn a_writer_is_shown_with_each_of_its_conditions_and_its_replicas() {
    let objects = Objects::default();
    let said = [("Ready", "False"), ("Progressing", "True"), ("StorageReady", "Unknown")];
    objects.show(caches(&[writer("billing", 3, 1, &said)], &[]));
    let text = shown(&objects);
    let expected: Vec<String> = [
        ("Ready", [0, 1, 0]),
        ("Progressing", [1, 0, 0]),
        ("StorageReady", [0, 0, 1]),
        // What was not said yet.
        ("ObjectStorageReady", [0, 0, 1]),
        // What is absent while nothing is wrong.
        ("Stalled", [0, 1, 0]),
        ("Deleting", [0, 1, 0]),
    ]
    .into_iter()
    .flat_map(|(r#type, values)| {
        ["True", "False", "Unknown"].into_iter().zip(values).map(move |(status, value)| {
            format!(
                "pyramid_condition{{kind=\"Writer\",namespace=\"shop\",name=\"billing\",\
                 type=\"{type}\",status=\"{status}\"}} {value}"
            )
        })
    })
    .collect();
    assert_eq!(series(&text, "pyramid_condition{"), expected);
    let expected = [
        "pyramid_writer_replicas{namespace=\"shop\",name=\"billing\",state=\"desired\"} 3",
        "pyramid_writer_replicas{namespace=\"shop\",name=\"billing\",state=\"ready\"} 1",
    ];
    assert_eq!(series(&text, "pyramid_writer_replicas{"), expected);
}

#[test]
fn objects_are_counted_by_what_their_conditions_say() {
    let objects = Objects::default();
    let unreadable = json!({"apiVersion": "pyramid.dev/v1alpha1", "kind": "Stream",
        "metadata": {"name": "d", "namespace": "shop"}, "spec": {"writerRef": 7}});
    let streams = [
        stream("a", &[("Ready", "True")]),
        stream("b", &[("Ready", "True"), ("Stalled", "False")]),
        stream("c", &[("Ready", "False"), ("Stalled", "True"), ("Deleting", "True")]),
        unreadable,
        stream("e", &[]),
    ];
    objects.show(caches(&[], &streams));
    let text = shown(&objects);
    let counts = |kind: &str, r#type: &str| {
        ["True", "False", "Unknown"].map(|status| {
            let labels = format!("kind=\"{kind}\",type=\"{type}\",status=\"{status}\"");
            let found = series(&text, &format!("pyramid_objects{{{labels}}} "));
            found[0].rsplit_once(' ').unwrap().1.parse::<u32>().unwrap()
        })
    };
    assert_eq!(counts("Stream", "Ready"), [2, 2, 1]);
    assert_eq!(counts("Stream", "Stalled"), [2, 3, 0]);
    assert_eq!(counts("Stream", "Deleting"), [1, 4, 0]);
    assert_eq!(counts("Stream", "Accepted"), [0, 0, 5]);
    assert_eq!(counts("Writer", "Ready"), [0, 0, 0]);
    assert_eq!(counts("Subscription", "Delivering"), [0, 0, 0]);
}

#[test]
fn above_a_thousand_writers_only_their_number_is_shown() {
    let writers = |count: usize| -> Vec<Value> {
        (0..count).map(|n| writer(&format!("w{n}"), 1, 1, &[("Ready", "True")])).collect()
    };
    let ready = "pyramid_objects{kind=\"Writer\",type=\"Ready\",status=\"True\"} ";
    for (count, replicas) in [(1_000, 2_000), (1_001, 0)] {
        let objects = Objects::default();
        objects.show(caches(&writers(count), &[]));
        let text = shown(&objects);
        assert_eq!(series(&text, "pyramid_writer_replicas{").len(), replicas);
        assert_eq!(series(&text, ready), [format!("{ready}{count}")]);
    }
}

#[test]
fn a_replica_that_leads_no_more_shows_nothing() {
    let objects = Objects::default();
    assert_eq!(series(&shown(&objects), "pyramid_objects{"), [""; 0]);
    objects.show(caches(&[], &[]));
    assert_eq!(series(&shown(&objects), "pyramid_objects{").len(), 3 * 16);
    objects.hide();
    assert_eq!(series(&shown(&objects), "pyramid_objects{"), [""; 0]);
}
