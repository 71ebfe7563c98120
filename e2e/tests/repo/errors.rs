//! `docs/errors.md` quotes messages that the programs really print.

use crate::{File, checkout, nothing_wrong};

const DOCUMENT: &str = "docs/errors.md";
/// Stands for a name or a number in a quoted message.
const PLACEHOLDER: char = '…';
/// A shorter part of a message could stand anywhere.
const PART_LEN_MIN: usize = 6;

/// The quoted messages, with the numbers of their lines.
fn quoted(document: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(document.lines()).filter_map(|(number, line)| {
        let (message, _) = line.strip_prefix("| `")?.split_once("` |")?;
        Some((number, message))
    })
}

/// Program texts, as the compiler joins them.
fn texts(files: &[File]) -> String {
    let sources = files
        .iter()
        .filter(|file| file.has_extension(&["rs"]) && file.path.contains("/src/"))
        .filter(|file| !file.path.contains("/tests"));
    let mut texts = String::new();
    for file in sources {
        let mut joined = false;
        for line in without_tests(file.text()).lines() {
            let line = if joined { line.trim_start() } else { line };
            joined = line.ends_with('\\');
            texts.push_str(line.strip_suffix('\\').unwrap_or(line));
            if !joined {
                texts.push('\n');
            }
        }
    }
    texts
}

/// A source without the module of tests at its end.
fn without_tests(source: &str) -> &str {
    source.split_once("#[cfg(test)]\nmod tests {").map_or(source, |(program, _tests)| program)
}

/// Messages that no program prints, and how many are quoted.
fn unknown_messages(files: &[File]) -> (usize, Vec<String>) {
    let texts = texts(files);
    let document = files.iter().find(|file| file.path == DOCUMENT).map_or("", File::text);
    let mut count = 0;
    let mut problems = Vec::new();
    for (number, message) in quoted(document) {
        count += 1;
        let mut parts: Vec<&str> = message.split(PLACEHOLDER).map(str::trim).collect();
        parts.retain(|part| part.len() >= PART_LEN_MIN);
        if parts.is_empty() || parts.iter().any(|part| !texts.contains(part)) {
            problems.push(format!("{DOCUMENT}:{number}: nothing prints `{message}`"));
        }
    }
    (count, problems)
}

#[test]
fn documented_messages_are_printed_by_a_program() {
    let (count, problems) = unknown_messages(&checkout());
    nothing_wrong(&problems);
    assert!(count > 40, "{count} messages are documented");
}

#[test]
fn a_documented_message_that_nothing_prints_is_found() {
    let files = |message: &str| {
        let text = format!("| message | why |\n| --- | --- |\n| `{message}` | why |\n");
        let source = "#[error(\n    \"the bucket {bucket} is \\\n     missing at {place}\"\n)]\n\
                      #[cfg(test)]\nmod tests {\n    \"the buckets of a test\"\n}\n";
        [File::new(DOCUMENT, &text), File::new("a/src/b.rs", source)]
    };
    for message in ["the bucket … is missing at", "is missing at"] {
        assert_eq!(unknown_messages(&files(message)), (1, vec![]), "{message}");
    }
    for message in ["the bucket … is gone from", "… a …", "the buckets", "of a test"] {
        assert_eq!(unknown_messages(&files(message)).1.len(), 1, "{message}");
    }
}
