//! What the server refuses or would do silently, looked for in every schema.

use pyramid_crds::definition;
use serde_json::{Value, json};

/// Calls with the path and each schema in a schema, itself included.
fn each(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(keyword).filter(|inner| inner.is_object()) {
            each(&format!("{path}[]"), inner, visit);
        }
    }
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        each(&format!("{path}.{name}"), inner, visit);
    }
}

fn schemas() -> Vec<(String, Value)> {
    let schema =
        |object: &Value| object.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone();
    definition::all()
        .into_iter()
        .map(|definition| (definition.plural, schema(&definition.object)))
        .collect()
}

/// Everything that is wrong, one line each; and how many schemas were looked at.
fn problems(wrong: impl Fn(&str, &Value) -> Option<&'static str>) -> (usize, Vec<String>) {
    let (mut count, mut found) = (0, Vec::new());
    for (plural, schema) in schemas() {
        each(&plural, &schema, &mut |path, schema| {
            count += 1;
            found.extend(wrong(path, schema).map(|what| format!("{path}: {what}")));
        });
    }
    (count, found)
}

#[track_caller]
fn nothing_wrong(wrong: impl Fn(&str, &Value) -> Option<&'static str>) {
    let (count, found) = problems(wrong);
    assert!(count > 100, "only {count} schemas were looked at");
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_field_is_explained() {
    nothing_wrong(|path, schema| {
        let is_field = path.contains(".spec") || path.contains(".status");
        let explained = schema.get("description").is_some_and(|text| text != "");
        (is_field && !path.ends_with("[]") && !explained).then_some("has no description")
    });
}

#[test]
fn nothing_is_nullable() {
    nothing_wrong(|_, schema| {
        let text = json!({"enum": schema.get("enum"), "nullable": schema.get("nullable")});
        (text["nullable"] != Value::Null
            || text["enum"].as_array().is_some_and(|values| values.contains(&Value::Null)))
        .then_some("takes null")
    });
}

#[test]
fn lists_of_specs_are_bounded_and_merged_by_key() {
    // Lists of kinds that Kubernetes itself has declared.
    let foreign = |path: &str| path.contains(".selector.") || path.contains(".tolerations[]");
    nothing_wrong(|path, schema| {
        let ours = schema["type"] == "array" && !foreign(path);
        let bounded = schema["maxItems"].is_u64();
        let merged = schema["x-kubernetes-list-type"].is_string();
        (ours && !(bounded && merged)).then_some("has no bound or no way to merge")
    });
}

#[test]
fn no_rule_stands_at_the_root() {
    for (plural, schema) in schemas() {
        assert_eq!(schema.get("x-kubernetes-validations"), None, "{plural}");
    }
}

#[test]
fn a_new_object_waits_for_the_operator() {
    let expected = json!({"conditions": [{
        "type": "Ready",
        "status": "Unknown",
        "reason": "Pending",
        "message": "waiting for the operator",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }]});
    for (_, schema) in schemas() {
        assert_eq!(schema["properties"]["status"]["default"], expected);
    }
}

#[test]
fn only_a_stream_needs_no_spec() {
    let required: Vec<(String, Value, Value)> = schemas()
        .into_iter()
        .map(|(plural, schema)| {
            (plural, schema["required"].clone(), schema["properties"]["spec"]["default"].clone())
        })
        .collect();
    let expected = [
        ("writers".to_owned(), json!(["spec"]), Value::Null),
        ("streams".to_owned(), Value::Null, json!({})),
        ("subscriptions".to_owned(), json!(["spec"]), Value::Null),
    ];
    assert_eq!(required, expected);
}

#[test]
fn numbers_are_whole() {
    fn floats(value: &Value) -> usize {
        match value {
            Value::Number(number) => usize::from(number.is_f64()),
            Value::Array(items) => items.iter().map(floats).sum(),
            Value::Object(fields) => fields.values().map(floats).sum(),
            Value::Null | Value::Bool(_) | Value::String(_) => 0,
        }
    }
    for definition in definition::all() {
        assert_eq!(floats(&definition.object), 0, "{}", definition.plural);
    }
    let (_, schema) = schemas().remove(2);
    let port = &schema["properties"]["spec"]["properties"]["target"]["properties"]["port"];
    assert_eq!((&port["minimum"], &port["maximum"]), (&json!(1), &json!(65535)));
}

#[test]
fn columns_and_names_are_those_that_are_documented() {
    let shown: Vec<String> = definition::all()
        .into_iter()
        .map(|definition| {
            let version = &definition.object["spec"]["versions"][0];
            let columns = version["additionalPrinterColumns"].as_array().unwrap();
            let columns: Vec<&str> =
                columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
            let names = &definition.object["spec"]["names"];
            format!("{} {}: {}", names["shortNames"][0], names["categories"][0], columns.join(" "))
        })
        .collect();
    let expected = [
        r#""pwr" "pyramid": Replicas Up Leader Streams Ready Reason Age"#,
        r#""pstr" "pyramid": Writer Next Bytes Ready Reason Age"#,
        r#""psub" "pyramid": Mode Streams Lag Pushers Ready Reason Delivering Age"#,
    ];
    assert_eq!(shown, expected);
}
