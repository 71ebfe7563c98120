//! Length, names, membership and content of source files.

use std::collections::{BTreeMap, BTreeSet};

use crate::{File, checkout, nothing_wrong};

/// Longest source file. Unit: lines.
const LINES_MAX: usize = 500;

const MEASURED: [&str; 5] = ["rs", "proto", "md", "sh", "toml"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "common", "helper", "helpers", "misc"];

/// Folders that only one machine has.
const MACHINE_FOLDERS: [&str; 3] = ["work", "root", "home"];

fn too_long(files: &[File]) -> Vec<String> {
    files
        .iter()
        .filter(|file| file.has_extension(&MEASURED))
        .map(|file| (file, file.text().lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| format!("{} has {lines} lines, at most {LINES_MAX}", file.path))
        .collect()
}

fn empty_names(files: &[File]) -> Vec<String> {
    let says_nothing = |part: &str| {
        let stem = part.split('.').next().unwrap_or(part);
        EMPTY_NAMES.contains(&stem)
    };
    files
        .iter()
        .filter(|file| file.path.split('/').any(says_nothing))
        .map(|file| format!("{} has a name that says nothing", file.path))
        .collect()
}

/// `.rs` files that no `mod` names: they are not compiled.
fn not_compiled(files: &[File]) -> Vec<String> {
    let sources: BTreeMap<&str, &File> = files
        .iter()
        .filter(|file| file.has_extension(&["rs"]))
        .map(|file| (file.path.as_str(), file))
        .collect();
    let mut reached = BTreeSet::new();
    let mut to_visit: Vec<String> =
        sources.keys().filter(|path| is_root(path)).map(|path| (*path).to_owned()).collect();
    while let Some(path) = to_visit.pop() {
        let Some(file) = sources.get(path.as_str()) else { continue };
        if reached.insert(path.clone()) {
            to_visit.extend(modules(&path, file.text()));
        }
    }
    sources
        .keys()
        .filter(|path| !reached.contains(**path))
        .map(|path| format!("{path} is named by no mod"))
        .collect()
}

/// Cargo compiles these by themselves.
fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let in_source = parts.contains(&"src");
    match parts.as_slice() {
        [.., "src", "lib.rs" | "main.rs"] | [.., "src", "bin", _] => true,
        [.., "build.rs"] | [.., "benches" | "tests", _] | [.., "tests", _, "main.rs"] => !in_source,
        _ => false,
    }
}

/// The files that the `mod` lines of a file name.
fn modules(path: &str, text: &str) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.trim_end_matches(".rs");
    let children = if is_root(path) { folder.to_owned() } else { format!("{folder}/{stem}") };
    let mut explicit = None;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(path) = line.strip_prefix("#[path = \"") {
            explicit = path.strip_suffix("\"]");
            continue;
        }
        let declaration = ["pub mod ", "pub(crate) mod ", "pub(super) mod ", "mod "]
            .iter()
            .find_map(|start| line.strip_prefix(start))
            .and_then(|rest| rest.strip_suffix(';'));
        if let Some(module) = declaration {
            found.push(match explicit.take() {
                Some(path) => format!("{folder}/{path}"),
                None => format!("{children}/{module}.rs"),
            });
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            explicit = None;
        }
    }
    found
}

/// Paths that only one machine has.
fn machine_paths(files: &[File]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in file.text().lines().enumerate() {
            if MACHINE_FOLDERS.iter().any(|folder| names_folder(line, folder)) {
                problems.push(format!(
                    "{}:{} names a folder of one machine",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    problems
}

/// Whether `/folder/` stands in the line as the begin of a path.
fn names_folder(line: &str, folder: &str) -> bool {
    let path = format!("/{folder}/");
    line.match_indices(&path).any(|(place, _)| {
        // Not the end of a longer path, of a URL or of a variable.
        let before = line[..place].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && !"/.-_})*".contains(before))
    })
}

#[test]
fn files_are_short() {
    nothing_wrong(&too_long(&checkout()));
}

#[test]
fn a_long_file_is_found() {
    let long = |lines: usize| vec![File::new("a/b.rs", &"x\n".repeat(lines))];
    assert_eq!(too_long(&long(500)), Vec::<String>::new());
    assert_eq!(too_long(&long(501)), ["a/b.rs has 501 lines, at most 500"]);
}

#[test]
fn names_say_something() {
    nothing_wrong(&empty_names(&checkout()));
}

#[test]
fn an_empty_name_is_found() {
    let names = ["a/utils.rs", "common/src/lib.rs", "a/src/helper/x.rs", "misc.md"];
    for name in names {
        assert_eq!(empty_names(&[File::new(name, "")]).len(), 1, "{name}");
    }
    let names = ["a/utility.rs", "a/commonly.rs", "a/miscible/x.rs"];
    for name in names {
        assert_eq!(empty_names(&[File::new(name, "")]), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn every_source_file_is_compiled() {
    nothing_wrong(&not_compiled(&checkout()));
}

#[test]
fn a_source_file_that_is_not_compiled_is_found() {
    let files = [
        File::new(
            "a/src/lib.rs",
            "pub mod b;\n#[cfg(test)]\n#[path = \"odd/place.rs\"]\nmod tests;",
        ),
        File::new("a/src/b.rs", "mod c;\n// mod d;"),
        File::new("a/src/b/c.rs", ""),
        File::new("a/src/b/d.rs", ""),
        File::new("a/src/odd/place.rs", ""),
        File::new("a/src/tests.rs", ""),
        File::new("a/tests/it/main.rs", "mod append;"),
        File::new("a/tests/it/append.rs", ""),
        File::new("a/tests/it/read.rs", ""),
        File::new("a/build.rs", ""),
        File::new("a/src/b/tests/append.rs", ""),
    ];
    let expected =
        ["a/src/b/d.rs", "a/src/b/tests/append.rs", "a/src/tests.rs", "a/tests/it/read.rs"]
            .map(|path| format!("{path} is named by no mod"));
    assert_eq!(not_compiled(&files), expected);
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    nothing_wrong(&machine_paths(&checkout()));
}

#[test]
fn a_folder_of_one_machine_is_found() {
    for folder in MACHINE_FOLDERS {
        for line in [format!("cd /{folder}/x"), format!("/{folder}/x"), format!("\"/{folder}/x\"")]
        {
            let found = machine_paths(&[File::new("a.sh", &format!("\n{line}\n"))]);
            assert_eq!(found, ["a.sh:2 names a folder of one machine"], "{line}");
        }
        for line in [format!("https://example.org/{folder}/x"), format!("$HOME/{folder}/x")] {
            assert_eq!(machine_paths(&[File::new("a.sh", &line)]), Vec::<String>::new(), "{line}");
        }
    }
}
