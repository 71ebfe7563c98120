//! The samples under `samples/`, run through the rules with defaults applied.
//!
//! `accept` and `reject` hold one new object a file; the two `-update` folders hold an object and
//! what it is changed to. A rejected one says in its first line which text the refusal holds, and
//! whether a rule or the rest of the schema refuses it. The latter only the server can judge: here
//! they must pass the rules, so that they are wrong in one way alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use kube_cel::Validator;
use pyramid_crds::{Stream, Subscription, Writer, definition};
use serde_json::Value;

const BY_RULE: &str = "# rejected by a rule: ";
const BY_SCHEMA: &str = "# rejected by the schema: ";

struct Sample {
    name: String,
    text: String,
    /// One object, or an object and its successor.
    objects: Vec<Value>,
}

impl Sample {
    /// What the first line says behind a mark.
    fn marked(&self, mark: &str) -> Option<&str> {
        self.text.lines().next().and_then(|line| line.strip_prefix(mark))
    }
}

fn samples(folder: &str) -> Vec<Sample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(folder);
    let mut samples: Vec<Sample> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let objects = text.split("---\n").map(|part| serde_saphyr::from_str(part).unwrap());
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            Sample { name, objects: objects.collect(), text }
        })
        .collect();
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(samples.len() > 5, "{}: too few samples", folder.display());
    samples
}

/// Schemas by kind.
fn schemas() -> BTreeMap<String, Value> {
    definition::all()
        .into_iter()
        .map(|definition| {
            let kind = definition.object["spec"]["names"]["kind"].as_str().unwrap().to_owned();
            let version = &definition.object["spec"]["versions"][0];
            (kind, version["schema"]["openAPIV3Schema"].clone())
        })
        .collect()
}

/// The messages of the rules that refuse the last object of a sample, after what came before it.
fn refusals(sample: &Sample) -> Vec<String> {
    let (new, old) = sample.objects.split_last().unwrap();
    let schema = &schemas()[new["kind"].as_str().unwrap()];
    match Validator::new().validate(schema, new, old.last()) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| error.message.clone()).collect(),
    }
}

#[test]
fn rules_accept_what_is_right() {
    for folder in ["accept", "accept-update"] {
        for sample in samples(folder) {
            assert_eq!(refusals(&sample), Vec::<String>::new(), "{folder}/{}", sample.name);
        }
    }
}

#[test]
fn rules_refuse_what_is_wrong_and_say_why() {
    for folder in ["reject", "reject-update"] {
        for sample in samples(folder) {
            let expected: Vec<&str> = sample.marked(BY_RULE).into_iter().collect();
            let by_schema = sample.marked(BY_SCHEMA).is_some();
            assert_ne!(by_schema, !expected.is_empty(), "{}: who refuses it?", sample.name);
            assert_eq!(refusals(&sample), expected, "{folder}/{}", sample.name);
        }
    }
}

/// The control of each refused update: the object before it is right.
#[test]
fn what_is_updated_was_right_before() {
    for folder in ["accept-update", "reject-update"] {
        for mut sample in samples(folder) {
            assert_eq!(sample.objects.len(), 2, "{}", sample.name);
            sample.objects.truncate(1);
            assert_eq!(refusals(&sample), Vec::<String>::new(), "{folder}/{}", sample.name);
        }
    }
}

#[test]
fn every_rule_has_a_sample_that_it_refuses() {
    fn messages(schema: &Value, into: &mut BTreeSet<String>) {
        match schema {
            Value::Array(items) => items.iter().for_each(|item| messages(item, into)),
            Value::Object(fields) => {
                let rules = fields.get("x-kubernetes-validations").and_then(Value::as_array);
                for rule in rules.into_iter().flatten() {
                    into.insert(rule["message"].as_str().unwrap().to_owned());
                }
                fields.values().for_each(|field| messages(field, into));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut rules = BTreeSet::new();
    schemas().values().for_each(|schema| messages(schema, &mut rules));
    let sampled: BTreeSet<String> = ["reject", "reject-update"]
        .into_iter()
        .flat_map(samples)
        .filter_map(|sample| sample.marked(BY_RULE).map(ToOwned::to_owned))
        .collect();
    assert_eq!(rules.len(), 23);
    assert_eq!(sampled, rules);
}

/// What the server lets through, the operator can read: nothing is lost on the way.
#[test]
fn accepted_samples_are_read_by_the_types() {
    for sample in samples("accept") {
        let mut object = sample.objects[0].clone();
        if object.get("spec").is_none() {
            object["spec"] = serde_json::json!({});
        }
        let read: Value = match object["kind"].as_str().unwrap() {
            "Writer" => {
                serde_json::to_value(serde_json::from_value::<Writer>(object.clone()).unwrap())
            }
            "Stream" => {
                serde_json::to_value(serde_json::from_value::<Stream>(object.clone()).unwrap())
            }
            "Subscription" => serde_json::to_value(
                serde_json::from_value::<Subscription>(object.clone()).unwrap(),
            ),
            other => panic!("no kind {other}"),
        }
        .unwrap();
        holds(&read["spec"], &object["spec"], &sample.name);
    }
}

/// Fails if something of `part` is missing in `whole`. A number may have become its text.
fn holds(whole: &Value, part: &Value, place: &str) {
    match part {
        Value::Object(fields) => {
            for (key, inner) in fields {
                holds(&whole[key], inner, &format!("{place}.{key}"));
            }
        }
        Value::Array(items) => {
            assert_eq!(whole.as_array().unwrap().len(), items.len(), "{place}");
            for (index, inner) in items.iter().enumerate() {
                holds(&whole[index], inner, &format!("{place}[{index}]"));
            }
        }
        Value::Number(_) if whole.is_string() => assert_eq!(whole, &part.to_string(), "{place}"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            assert_eq!(whole, part, "{place}");
        }
    }
}
