//! Pods as they come and as they leave, `operator/tests/injection/<name>.yaml` and
//! `<name>.injected.yaml`, in the namespace `shop` of the other tests.
//!
//! `UPDATE_GENERATED=1 cargo test --workspace golden` rewrites the second of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::Outcome;
use super::inject_shop;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/injection")
}

/// Names without their endings: of pods, and of what became of them.
fn files() -> (BTreeSet<String>, BTreeSet<String>) {
    let entries = fs::read_dir(directory()).unwrap();
    let files = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let (after, before): (Vec<String>, Vec<String>) =
        files.partition(|file| file.ends_with(".injected.yaml"));
    let names = |files: Vec<String>, ending| {
        files.iter().map(|file| file.strip_suffix(ending).unwrap().to_owned()).collect()
    };
    (names(before, ".yaml"), names(after, ".injected.yaml"))
}

fn read(file: &str) -> String {
    fs::read_to_string(directory().join(file)).unwrap_or_default()
}

fn pod(name: &str) -> Value {
    serde_saphyr::from_str(&read(&format!("{name}.yaml"))).unwrap()
}

/// What becomes of a pod, in the form of the files, and the pod afterwards.
fn outcome(pod: &Value) -> (Value, Value) {
    let injection = inject_shop(pod).unwrap();
    let mut after = pod.clone();
    let outcome = match injection.outcome {
        Outcome::Injected(patch) => {
            json_patch::patch(&mut after, &patch).unwrap();
            "injected"
        }
        Outcome::Present => "present",
        Outcome::OptedOut => "opted out",
        Outcome::NotAsked => "not asked",
    };
    let warnings = injection.warnings;
    (json!({ "outcome": outcome, "warnings": warnings, "pod": after }), after)
}

#[test]
fn pods_leave_as_the_files_say() {
    let (before, _) = files();
    assert!(before.len() >= 40, "{before:?}");
    for name in before {
        let text = serde_saphyr::to_string(&outcome(&pod(&name)).0).unwrap();
        let file = format!("{name}.injected.yaml");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(directory().join(&file), &text).unwrap();
        }
        assert_eq!(text, read(&file), "{file} is not what becomes of {name}.yaml");
        // A form that reads back as something else would show nothing.
        let shown: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(shown, outcome(&pod(&name)).0, "{file}");
    }
}

#[test]
fn each_file_has_its_pod() {
    let (before, after) = files();
    assert_eq!(before, after);
}

#[test]
fn a_second_call_adds_nothing() {
    for name in files().0 {
        let (first, after) = outcome(&pod(&name));
        let (second, unchanged) = outcome(&after);
        assert_eq!(unchanged, after, "{name}");
        let present =
            if first["outcome"] == "injected" { &json!("present") } else { &first["outcome"] };
        assert_eq!(second["outcome"], *present, "{name}");
        assert_eq!(second["warnings"], first["warnings"], "{name}");
    }
}
