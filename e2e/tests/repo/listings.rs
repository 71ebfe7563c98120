//! What documents list by name is there, and nothing of it is left out: tests, reasons of
//! conditions, events.

use std::collections::BTreeSet;

use crate::{File, checkout, nothing_wrong};

/// Lists attacks and the tests that try them.
const SECURITY: &str = "docs/security.md";
/// Explains reasons and events.
const OPERATIONS: &str = "docs/operations.md";
/// Has the reasons.
const CONDITION: &str = "crds/src/condition.rs";
/// Sends the events.
const OPERATOR: &str = "operator/src/";

fn text<'a>(files: &'a [File], path: &str) -> &'a str {
    files.iter().find(|file| file.path == path).map_or("", File::text)
}

/// What stands between backticks in a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The names of tests that a document quotes, with the numbers of their lines.
fn quoted_tests(document: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_of_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
    (1..).zip(document.lines()).flat_map(move |(number, line)| {
        let names =
            quoted(line).filter(move |name| name.contains("::") && name.chars().all(is_of_path));
        names.map(move |name| (number, name))
    })
}

/// Whether a file has the function, in these modules.
fn has_test(file: &File, modules: &[&str], function: &str) -> bool {
    if !file.has_extension(&["rs"]) || !file.text().contains(&format!("fn {function}(")) {
        return false;
    }
    let path = file.path.trim_end_matches(".rs");
    modules.iter().all(|module| {
        path.split('/').any(|part| part == *module)
            || file.text().contains(&format!("mod {module} {{"))
    })
}

/// Tests that are quoted and do not exist, and how many are quoted.
fn unknown_tests(files: &[File]) -> (usize, Vec<String>) {
    let mut count = 0;
    let mut problems = Vec::new();
    for (number, name) in quoted_tests(text(files, SECURITY)) {
        count += 1;
        let mut modules: Vec<&str> = name.split("::").collect();
        let function = modules.pop().unwrap_or_default();
        if !files.iter().any(|file| has_test(file, &modules, function)) {
            problems.push(format!("{SECURITY}:{number}: there is no test {name}"));
        }
    }
    (count, problems)
}

/// What the first cells of a table name, below this heading.
fn first_cells<'a>(document: &'a str, heading: &str) -> BTreeSet<&'a str> {
    let section = document.lines().skip_while(|line| *line != heading).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let rows = section.filter_map(|line| line.strip_prefix("| `"));
    // Cut behind the first backtick: what is quoted stands at every second place from the first.
    rows.filter_map(|row| row.split_once(" | "))
        .flat_map(|(cell, _)| cell.split('`').step_by(2))
        .filter(|name| name.chars().all(char::is_alphabetic) && !name.is_empty())
        .collect()
}

/// The reasons of conditions.
fn reasons(files: &[File]) -> BTreeSet<&str> {
    let (_, rest) = text(files, CONDITION).split_once("pub mod reasons {\n").unwrap_or_default();
    let (module, _) = rest.split_once("\n}\n").unwrap_or_default();
    let constants = module.lines().filter_map(|line| line.split_once(": &str = \""));
    constants.filter_map(|(_, value)| value.strip_suffix("\";")).collect()
}

/// Reasons that no row explains, and rows of what is no reason.
fn wrong_reasons(files: &[File]) -> Vec<String> {
    let reasons = reasons(files);
    let explained = first_cells(text(files, OPERATIONS), "## Conditions");
    let missing = reasons.difference(&explained).map(|name| format!("{name} is not explained"));
    let stale = explained.difference(&reasons).map(|name| format!("{name} is no reason"));
    missing.chain(stale).map(|problem| format!("{OPERATIONS}: {problem}")).collect()
}

/// Events that no row explains, and rows of what the operator never says.
fn wrong_events(files: &[File]) -> Vec<String> {
    let sources = || files.iter().filter(|file| file.path.starts_with(OPERATOR));
    let mut sent = BTreeSet::new();
    for source in sources() {
        for kind in ["EventType::Normal, \"", "EventType::Warning, \""] {
            let found = source.text().split(kind).skip(1);
            sent.extend(found.filter_map(|rest| Some(rest.split_once('"')?.0)));
        }
    }
    let reasons = reasons(files);
    let explained = first_cells(text(files, OPERATIONS), "## Events");
    let is_said = |name: &str| {
        let literal = format!("\"{name}\"");
        reasons.contains(name) || sources().any(|source| source.text().contains(&literal))
    };
    let missing = sent.difference(&explained).map(|name| format!("{name} is not explained"));
    let stale =
        explained.iter().filter(|name| !is_said(name)).map(|name| format!("{name} is no event"));
    missing.chain(stale).map(|problem| format!("{OPERATIONS}: {problem}")).collect()
}

#[test]
fn quoted_tests_exist() {
    let (count, problems) = unknown_tests(&checkout());
    nothing_wrong(&problems);
    assert!(count > 100, "{count} tests are quoted");
}

#[test]
fn a_quoted_test_that_does_not_exist_is_found() {
    let files = |quote: &str| {
        let document = format!("Text `x` and `Admin`.\n\n| A1 | `{quote}`, `a.rs` |\n");
        let source = "mod holder {\n    #[test]\n    fn it_works() {}\n}\n";
        [File::new(SECURITY, &document), File::new("a/src/issuer.rs", source)]
    };
    for quote in ["issuer::it_works", "issuer::holder::it_works"] {
        assert_eq!(unknown_tests(&files(quote)), (1, vec![]), "{quote}");
    }
    for quote in ["issuer::it_work", "issuer::works", "other::it_works", "issuer::hold::it_works"] {
        let problems = vec![format!("{SECURITY}:3: there is no test {quote}")];
        assert_eq!(unknown_tests(&files(quote)), (1, problems), "{quote}");
    }
}

#[test]
fn each_reason_of_a_condition_is_explained() {
    let files = checkout();
    nothing_wrong(&wrong_reasons(&files));
    let count = reasons(&files).len();
    assert!(count > 50, "{count} reasons were found");
}

/// A document and the code that it explains; `row` stands in the table, `reason` in the code.
fn with_reason(row: &str, reason: &str) -> [File; 2] {
    let document = format!(
        "## Other\n\n| `No` | x |\n\n## Conditions\n\n| reason | on |\n| --- | --- |\n{row}\n\n## Events\n\n| `More` | x |\n"
    );
    let source = format!(
        "pub mod types {{\n    pub const T: &str = \"Type\";\n}}\n\npub mod reasons {{\n    pub const A: &str = \"Pending\";\n    pub const B: &str = \"{reason}\";\n}}\n\nconst C: &str = \"More\";\n"
    );
    [File::new(OPERATIONS, &document), File::new(CONDITION, &source)]
}

#[test]
fn a_reason_that_is_not_explained_is_found_and_an_explained_one_that_is_gone() {
    let row = "| `Pending`, `Lost` | of `Other` |";
    assert_eq!(wrong_reasons(&with_reason(row, "Lost")), Vec::<String>::new());
    let expected = ["Loss is not explained", "Lost is no reason"];
    assert_eq!(
        wrong_reasons(&with_reason(row, "Loss")),
        expected.map(|problem| format!("{OPERATIONS}: {problem}"))
    );
}

#[test]
fn each_event_is_explained() {
    let files = checkout();
    nothing_wrong(&wrong_events(&files));
    let count = first_cells(text(&files, OPERATIONS), "## Events").len();
    assert!(count > 15, "{count} events are explained");
}

#[test]
fn an_event_that_is_not_explained_is_found_and_an_explained_one_that_is_never_sent() {
    let files = |sent: &str| {
        let source = format!(
            "tell(EventType::Normal, \"{sent}\", note);\ntell(x, EventType::Warning, \"Told\", note);\nlet other = \"Seldom\";\n"
        );
        let document = "## Events\n\n| `Sent`, `Told` | x |\n| `Seldom` | x |\n| `KeyLost` | x |\n\n## Other\n\n| `No` | x |\n";
        let condition = "pub mod reasons {\n    pub const A: &str = \"KeyLost\";\n}\n";
        [
            File::new(OPERATIONS, document),
            File::new("operator/src/a/b.rs", &source),
            File::new(CONDITION, condition),
        ]
    };
    assert_eq!(wrong_events(&files("Sent")), Vec::<String>::new());
    let expected = ["New is not explained", "Sent is no event"];
    assert_eq!(
        wrong_events(&files("New")),
        expected.map(|problem| format!("{OPERATIONS}: {problem}"))
    );
}
