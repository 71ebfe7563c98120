//! Documents: links lead somewhere, and printed code is the code.

use std::collections::BTreeSet;

use crate::{File, checkout, nothing_wrong};

/// The document that prints the handler of the sample application.
const PUSH_PROTOCOL: &str = "docs/push-protocol.md";

/// A line that says: the block below is this file.
const MARKER: (&str, &str) = ("<!-- handler: ", " -->");

/// Relative links of documents to files or folders that do not exist.
fn dead_links(files: &[File]) -> Vec<String> {
    let mut there: BTreeSet<String> = BTreeSet::new();
    for file in files {
        let mut path = file.path.as_str();
        there.insert(path.to_owned());
        while let Some((folder, _)) = path.rsplit_once('/') {
            there.insert(folder.to_owned());
            path = folder;
        }
    }
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.has_extension(&["md"])) {
        for (number, line) in prose(file.text()) {
            for target in targets(line) {
                if !there.contains(&resolve(&file.path, target)) {
                    problems.push(format!("{}:{number} links to {target}", file.path));
                }
            }
        }
    }
    problems
}

/// Lines outside of code blocks, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        !in_block && !fence
    })
}

/// Relative targets of the links in a line, without their anchors.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(place, found)| {
        let rest = &line[place + found.len()..];
        let target = &rest[..rest.find(')')?];
        let target = target.split('#').next()?;
        (!target.is_empty() && !target.contains("://") && !target.starts_with("mailto:"))
            .then_some(target)
    })
}

/// The path that a link means, from the root of the checkout.
fn resolve(document: &str, target: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Printed files that differ from the file, and how many are printed.
fn printed_files(files: &[File]) -> (usize, Vec<String>) {
    let mut printed = 0;
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.has_extension(&["md"])) {
        let mut lines = file.text().lines();
        while let Some(line) = lines.next() {
            let marked = line.strip_prefix(MARKER.0).and_then(|rest| rest.strip_suffix(MARKER.1));
            let Some(source) = marked else { continue };
            printed += 1;
            let block: Vec<&str> = lines
                .by_ref()
                .skip_while(|line| line.is_empty())
                .skip(1)
                .take_while(|line| *line != "```")
                .collect();
            let code = files.iter().find(|file| file.path == source).map(File::text);
            if code.map(|code| code.lines().collect()) != Some(block) {
                problems.push(format!("{}: the block is not {source}", file.path));
            }
        }
    }
    (printed, problems)
}

#[test]
fn links_lead_somewhere() {
    nothing_wrong(&dead_links(&checkout()));
}

#[test]
fn a_dead_link_is_found() {
    let document = "[a](architecture.md#words) [b](../README.md) [c](gone.md)\n\
                    [d](https://example.org/x) [e](#here) [f](examples/)\n```\n[g](code)\n```\n[h](/x)";
    let files = [
        File::new("docs/a.md", document),
        File::new("docs/architecture.md", ""),
        File::new("docs/examples/x.rs", "[no](document)"),
        File::new("README.md", ""),
    ];
    assert_eq!(dead_links(&files), ["docs/a.md:1 links to gone.md", "docs/a.md:6 links to /x"]);
}

#[test]
fn printed_code_is_the_code() {
    let files = checkout();
    let (printed, problems) = printed_files(&files);
    nothing_wrong(&problems);
    assert_eq!(printed, 1, "{PUSH_PROTOCOL} prints the handler behind a line {MARKER:?}");
}

#[test]
fn printed_code_that_differs_is_found() {
    let printed = |code: &str| {
        let text = format!("Text.\n\n<!-- handler: a/b.rs -->\n```rust\n{code}```\nText.");
        [File::new("docs/x.md", &text), File::new("a/b.rs", "fn b() {\n}\n")]
    };
    assert_eq!(printed_files(&printed("fn b() {\n}\n")), (1, vec![]));
    let differs = vec!["docs/x.md: the block is not a/b.rs".to_owned()];
    for code in ["", "fn b() {\n", "fn b() {\n}\n\n", "fn c() {\n}\n"] {
        assert_eq!(printed_files(&printed(code)), (1, differs.clone()), "{code}");
    }
    let without_source = &printed("fn b() {\n}\n")[..1];
    assert_eq!(printed_files(without_source), (1, differs));
}
