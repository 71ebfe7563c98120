//! The types, the files for `kubectl` and the templates for Helm are one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pyramid_crds::definition;
use pyramid_crds::generated::{CHART, PLAIN, files};
use serde_json::Value;

/// Client-side apply copies an object into an annotation, which must stay far below 256 KiB.
const FILE_LEN_MAX: usize = 100_000;

/// Texts by name of the files in a folder of the checkout.
fn on_disk(folder: &str) -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn files_match_the_types() {
    for folder in [PLAIN, CHART] {
        let expected: BTreeMap<String, String> = files()
            .unwrap()
            .into_iter()
            .filter(|file| file.folder == folder)
            .map(|file| (file.name, file.text))
            .collect();
        assert_eq!(expected.len(), 3);
        assert!(on_disk(folder) == expected, "{folder} is out of date: cargo run --bin crdgen");
    }
}

#[test]
fn what_is_read_back_is_what_was_derived() {
    for definition in definition::all() {
        let text = on_disk(PLAIN).remove(&format!("{}.yaml", definition.plural)).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), definition.object);
    }
}

/// All copies hold the same specification, text for text; only the template has actions, and only
/// around it.
#[test]
fn templates_hold_the_same_specification() {
    let plain = on_disk(PLAIN);
    for (name, template) in on_disk(CHART) {
        let from_spec =
            |text: &str| text.get(text.find("\nspec:\n").unwrap()..).unwrap().to_owned();
        let specification = from_spec(&plain[&name]);
        assert!(!specification.contains("{{"), "Helm would take {name} for a template");
        assert_eq!(from_spec(&template), format!("{specification}{{{{- end }}}}\n"));
    }
}

#[test]
fn files_are_small() {
    for file in files().unwrap() {
        assert!(file.text.len() < FILE_LEN_MAX, "{}: {} bytes", file.name, file.text.len());
    }
}
