//! The top level, and where crates lie.

use crate::{NOT_SOURCE, checkout, nothing_wrong, root};

/// Everything that may lie at the root.
const TOP_LEVEL: [&str; 22] = [
    // What Pyramid is made of.
    "crds",
    "dataplane",
    "docs",
    "e2e",
    "helm",
    "operator",
    "sidecar",
    // Files and folders that tools look for at the root.
    ".cargo",
    ".ci",
    ".dockerignore",
    ".gitattributes",
    ".github",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "clippy.toml",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "Containerfile",
];

/// What a checkout must have.
const NEEDED: [&str; 10] = [
    ".ci/run",
    ".gitignore",
    "Cargo.lock",
    "LICENSE",
    "Makefile",
    "README.md",
    "docs/architecture.md",
    "docs/changelog.md",
    "docs/glossary.md",
    "docs/testing.md",
];

fn unknown_at_the_root<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    names
        .into_iter()
        .filter(|name| !TOP_LEVEL.contains(name) && !NOT_SOURCE.contains(name))
        .map(|name| format!("{name} has no place at the root"))
        .collect()
}

fn missing<'a>(paths: &[&'a str]) -> Vec<&'a str> {
    NEEDED.iter().filter(|needed| !paths.contains(needed)).copied().collect()
}

/// Each crate has its source in `src`, and a library its `lib.rs`.
fn crates_without_a_root(paths: &[&str]) -> Vec<String> {
    paths
        .iter()
        .filter_map(|path| path.strip_suffix("/Cargo.toml"))
        .filter(|folder| {
            let is_there = |root: &str| paths.contains(&format!("{folder}/src/{root}").as_str());
            !is_there("lib.rs") && !is_there("main.rs")
        })
        .map(|folder| format!("{folder} has neither src/lib.rs nor src/main.rs"))
        .collect()
}

#[test]
fn the_top_level_is_as_listed() {
    let names: Vec<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    nothing_wrong(&unknown_at_the_root(names.iter().map(String::as_str)));
}

#[test]
fn what_a_checkout_needs_is_there() {
    let files = checkout();
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(missing(&paths), Vec::<&str>::new());
    nothing_wrong(&crates_without_a_root(&paths));
}

#[test]
fn another_name_at_the_root_is_found() {
    assert_eq!(unknown_at_the_root(["docs", "target", ".git"]), Vec::<String>::new());
    assert_eq!(unknown_at_the_root(["scripts"]), ["scripts has no place at the root"]);
}

#[test]
fn a_missing_file_is_found() {
    assert_eq!(missing(&NEEDED[1..]), [".ci/run"]);
}

#[test]
fn a_crate_without_a_root_is_found() {
    let paths = ["a/Cargo.toml", "a/src/lib.rs", "b/Cargo.toml", "b/src/b.rs"];
    assert_eq!(crates_without_a_root(&paths), ["b has neither src/lib.rs nor src/main.rs"]);
}
