//! Rules about the checkout itself. They need nothing but the files and cargo.
//!
//! Each rule is a function from files to what is wrong with them. One test gives it the checkout,
//! another one files that break the rule, so that no rule passes because it cannot see.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

mod dependencies;
mod documents;
mod errors;
mod files;
mod layout;
mod listings;

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that are not part of the source: what builds and runs leave behind.
const NOT_SOURCE: [&str; 5] = [".git", ".tools", ".demo", ".cluster", "target"];

/// A file of the checkout.
struct File {
    /// From the root of the checkout, with `/`.
    path: String,
    /// `None` if it is not UTF-8.
    text: Option<String>,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: Some(text.to_owned()) }
    }

    fn text(&self) -> &str {
        self.text.as_deref().unwrap_or("")
    }

    fn has_extension(&self, extensions: &[&str]) -> bool {
        let extension = Path::new(&self.path).extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| extensions.contains(&extension))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file, in the order of the paths.
fn checkout() -> Vec<File> {
    let mut files = Vec::new();
    walk(&root(), "", &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.iter().any(|file| file.path == "Cargo.toml"), "this is no checkout");
    files
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = format!("{prefix}{name}");
        if entry.file_type().unwrap().is_dir() {
            if !NOT_SOURCE.contains(&name.as_str()) {
                walk(&entry.path(), &format!("{path}/"), files);
            }
        } else if path != ".git" {
            let text = String::from_utf8(fs::read(entry.path()).unwrap()).ok();
            files.push(File { path, text });
        }
    }
}

/// Fails with everything that is wrong, one line each.
#[track_caller]
fn nothing_wrong(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}
