//! Whatever the pod is: no panic, and nothing of it is lost.

use json_patch::PatchOperation;
use proptest::collection::{hash_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use pyramid_crds::{annotation, label};
use serde_json::{Map, Value, json};

use super::super::Outcome;
use super::inject_shop;

/// Words that mean something in a pod.
const WORDS: [&str; 24] = [
    "metadata",
    "annotations",
    "labels",
    "spec",
    "containers",
    "initContainers",
    "volumes",
    "imagePullSecrets",
    "name",
    "env",
    "ports",
    "containerPort",
    "protocol",
    "restartPolicy",
    "Always",
    "os",
    "nodeSelector",
    "hostNetwork",
    "terminationGracePeriodSeconds",
    "pyramid.dev/subscriptions",
    "pyramid.dev/append",
    "pyramid.dev/app-port",
    "pyramid.dev/injected-by",
    "pyramid-pusher",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![9 => select(&WORDS[..]).prop_map(str::to_owned), 1 => any::<String>()]
}

/// Any JSON, of words that could hurt.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!(7410)),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            hash_map(word(), inner, 0..6)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A member that may be absent, null, or empty.
fn maybe(list: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Value::Null)),
        1 => Just(Some(json!([]))),
        4 => list.prop_map(Some),
    ]
}

fn object(members: Vec<(&'static str, Option<Value>)>) -> Value {
    let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::from(there.collect::<Map<_, _>>())
}

fn container() -> impl Strategy<Value = Value> {
    let variables = select(&["PYRAMID_APPEND_ENDPOINT", "PYRAMID_APP_PORT", "HOME"][..]);
    let env = vec(variables.prop_map(|name| json!({ "name": name, "value": "x" })), 0..3);
    let native = prop_oneof![Just(None), Just(Some(json!("Always"))), Just(Some(json!("Never")))];
    let name = prop_oneof!["[a-z]{1,5}".prop_map(|name| Some(json!(name))), Just(None)];
    (name, native, maybe(env.prop_map(Value::from)), anything()).prop_map(
        |(name, native, env, other)| {
            let fixed = [("name", name), ("restartPolicy", native), ("env", env)];
            object(fixed.into_iter().chain([("other", Some(other))]).collect())
        },
    )
}

fn containers() -> impl Strategy<Value = Value> {
    vec(container(), 0..4).prop_map(Value::from)
}

/// A pod that is mostly in order, and asks.
fn asking() -> impl Strategy<Value = Value> {
    let named = |name: &'static str| {
        vec("[a-z]{1,5}".prop_map(move |text| json!({ name: text })), 0..3).prop_map(Value::from)
    };
    let labels = prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        Just(Some(json!({ "app": "a", label::INJECTED: "no" }))),
    ];
    let annotations = prop_oneof![
        Just(json!({ "pyramid.dev/subscriptions": "orders-projector,more" })),
        Just(json!({ "pyramid.dev/append": "*", "pyramid.dev/app-port": "80" })),
        Just(json!({ "pyramid.dev/append": "a", "pyramid.dev/injected-by": "x", "other": "y" })),
    ];
    let lists = (maybe(containers()), containers(), maybe(named("name")), maybe(named("name")));
    (labels, annotations, lists, anything()).prop_map(|(labels, annotations, lists, other)| {
        let (init, containers, volumes, secrets) = lists;
        let metadata = [("labels", labels), ("annotations", Some(annotations))];
        let spec = [
            ("initContainers", init),
            ("containers", Some(containers)),
            ("volumes", volumes),
            ("imagePullSecrets", secrets),
            ("other", Some(other)),
        ];
        let (metadata, spec) = (object(metadata.to_vec()), object(spec.to_vec()));
        object(vec![("metadata", Some(metadata)), ("spec", Some(spec))])
    })
}

/// Whether everything of `before` is in `after`, lists in their order. Our own label and annotation
/// may say something new, and what was null may be something.
fn keeps(after: &Value, before: &Value) -> bool {
    match (after, before) {
        (_, Value::Null) => true,
        (Value::Object(after), Value::Object(before)) => before.iter().all(|(name, value)| {
            let ours = [label::INJECTED, annotation::INJECTED_BY].contains(&name.as_str());
            after.get(name).is_some_and(|now| ours || keeps(now, value))
        }),
        (Value::Array(after), Value::Array(before)) => {
            let mut after = after.iter();
            before.iter().all(|value| after.any(|now| keeps(now, value)))
        }
        (after, before) => after == before,
    }
}

/// Checks one pod; says whether something was added.
fn check(pod: &Value) -> Result<bool, TestCaseError> {
    let Ok(injection) = inject_shop(pod) else { return Ok(false) };
    let Outcome::Injected(patch) = injection.outcome else { return Ok(false) };
    for operation in &patch.0 {
        let only_adds = matches!(operation, PatchOperation::Add(_) | PatchOperation::Test(_));
        prop_assert!(only_adds, "{operation}");
    }
    let mut after = pod.clone();
    json_patch::patch(&mut after, &patch).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert!(keeps(&after, pod), "{after}");
    prop_assert_ne!(&after, pod);
    let again = inject_shop(&after).map(|injection| injection.outcome);
    prop_assert_eq!(again, Ok(Outcome::Present));
    Ok(true)
}

proptest! {
    #[test]
    fn any_json_is_read_without_a_panic(pod in anything()) {
        check(&pod)?;
    }

    #[test]
    fn a_pod_that_asks_loses_nothing_and_gets_one_pusher(pod in asking()) {
        prop_assert!(check(&pod)?);
    }
}

#[test]
fn a_loss_is_noticed() {
    let before = json!({ "a": [1, { "b": 2 }], label::INJECTED: "no" });
    let same = json!({ "a": [0, 1, { "b": 2, "c": 3 }], label::INJECTED: "true" });
    assert!(keeps(&same, &before));
    for after in [
        json!({ "a": [1], label::INJECTED: "true" }),
        json!({ "a": [{ "b": 2 }, 1], label::INJECTED: "true" }),
        json!({ "a": [1, { "b": 3 }], label::INJECTED: "true" }),
        json!({ "a": [1, { "b": 2 }] }),
    ] {
        assert!(!keeps(&after, &before), "{after}");
    }
}
