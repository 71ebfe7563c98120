//! `pyramid stream`: what goes in comes out, in both formats.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::running::{Dev, Lines, Running, text};

/// A stream `orders` with these records.
fn dev_with(records: &[&str]) -> Dev {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    if !records.is_empty() {
        let mut command = dev.command(["stream", "append", "orders"]);
        crate::running::run(command.args(records)).ok();
    }
    dev
}

fn without_times(mut records: Vec<Value>) -> Vec<Value> {
    for record in &mut records {
        let time_ms = record.as_object_mut().unwrap().remove("time_ms").unwrap();
        assert!(time_ms.as_u64().unwrap() > 1_700_000_000_000, "{time_ms}");
    }
    records
}

#[test]
fn records_come_out_as_they_went_in() {
    let dev = dev_with(&["tea", "two words"]);
    dev.run_with_input(["stream", "append", "orders"], b"line 1\n\nlast, \xff").ok();
    let file = dev.folder.path().join("orders.jsonl");
    std::fs::write(&file, "{\"n\":1}\n[2]\n").unwrap();
    let file =
        ["stream", "append", "orders", "--file", text(&file), "--jsonl", "--header", "a=b=c"];
    dev.run(file).ok();

    let read = dev.command(["stream", "read", "orders"]).output().unwrap();
    assert_eq!(read.stdout, b"tea\ntwo words\nline 1\n\nlast, \xff\n{\"n\":1}\n[2]\n");
    let headers = json!([{"name": "a", "value": "b=c"}]);
    let expected = [
        json!({"offset": 0, "value": "tea", "headers": []}),
        json!({"offset": 1, "value": "two words", "headers": []}),
        json!({"offset": 2, "value": "line 1", "headers": []}),
        json!({"offset": 3, "value": "", "headers": []}),
        json!({"offset": 4, "value_base64": "bGFzdCwg/w==", "headers": []}),
        json!({"offset": 5, "value": "{\"n\":1}", "headers": headers.clone()}),
        json!({"offset": 6, "value": "[2]", "headers": headers}),
    ];
    let read = dev.run(["stream", "read", "orders", "--output", "json"]).json();
    assert_eq!(without_times(read), expected);
}

#[test]
fn an_append_says_where_it_went() {
    let dev = dev_with(&["tea"]);
    let said = dev.run(["stream", "append", "orders", "a", "b"]).ok();
    assert!(
        said.starts_with("appended 2 records (10 B) to orders, first offset 1, next offset 3"),
        "{said}"
    );
    let said = dev.run(["stream", "append", "orders", "c", "--output", "json"]).json();
    assert_eq!((&said[0]["first_offset"], &said[0]["next_offset"]), (&json!(3), &json!(4)));
    // Nothing is nothing, also from a file.
    let said = dev.run_with_input(["stream", "append", "orders"], b"").ok();
    assert_eq!(said, "appended 0 records to orders\n");
}

#[test]
fn a_read_begins_and_ends_where_it_is_told() {
    let dev = dev_with(&["0", "1", "2", "3", "4"]);
    let time_ms =
        dev.run(["stream", "info", "orders", "--output", "json"]).json()[0]["last_time_ms"]
            .to_string();
    let cases: [(&[&str], &str); 9] = [
        (&["read", "orders"], "0 1 2 3 4"),
        (&["read", "orders", "--from", "3"], "3 4"),
        (&["read", "orders", "--from", "5"], ""),
        (&["read", "orders", "--from", "1", "--max-records", "2"], "1 2"),
        (&["read", "orders", "--last", "2"], "3 4"),
        (&["read", "orders", "--from-time", &time_ms], "0 1 2 3 4"),
        (&["read", "orders", "--from-time", "2100-01-01T00:00:00Z"], ""),
        (&["tail", "orders", "-n", "1"], "4"),
        (&["tail", "orders"], "0 1 2 3 4"),
    ];
    for (arguments, expected) in cases {
        let mut command = dev.command(["stream"]);
        let read = crate::running::run(command.args(arguments)).ok();
        assert_eq!(read.lines().collect::<Vec<_>>().join(" "), expected, "{arguments:?}");
    }
}

#[test]
fn tail_follows() {
    let dev = dev_with(&["a", "b"]);
    let mut command = dev.command(["stream", "tail", "orders", "-n", "1", "-f"]);
    let mut tail = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let lines = Lines::new(tail.0.stdout.take().unwrap());
    assert_eq!(lines.next(), "b");
    for record in ["c", "d"] {
        dev.run(["stream", "append", "orders", record]).ok();
        assert_eq!(lines.next(), record);
    }
}

#[test]
fn lines_are_appended_as_they_come() {
    let dev = dev_with(&[]);
    let mut tail = dev.command(["stream", "tail", "orders", "-f"]);
    let mut tail = Running(tail.stdout(Stdio::piped()).spawn().unwrap());
    let lines = Lines::new(tail.0.stdout.take().unwrap());
    let mut append = dev.command(["stream", "append", "orders"]);
    let append = append.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut append = Running(append.spawn().unwrap());
    let mut input = append.0.stdin.take().unwrap();
    // The second line is written only when the first one has come back.
    for line in ["first", "second"] {
        writeln!(input, "{line}").unwrap();
        assert_eq!(lines.next(), line);
    }
    drop(input);
    assert!(append.0.wait().unwrap().success());
}

#[test]
fn an_input_with_a_producer_is_written_once_however_often_it_is_appended() {
    let dev = dev_with(&[]);
    let append = ["stream", "append", "orders", "--producer", "day-1", "--output", "json"];
    let counts = |input: &[u8]| {
        let said = dev.run_with_input(append, input).json().remove(0);
        (said["records"].as_u64().unwrap(), said["skipped"].as_u64().unwrap())
    };
    assert_eq!(counts(b"a\nb\n"), (2, 0));
    assert_eq!(counts(b"a\nb\n"), (0, 2));
    assert_eq!(counts(b"a\nb\nc\n"), (1, 2));
    let error = dev.run_with_input(append, b"x\ny\n").failed(1);
    assert!(error.contains("has already written 3 records"), "{error}");
    assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "a\nb\nc\n");
}

#[test]
fn streams_are_listed_with_what_they_hold() {
    let dev = dev_with(&["tea"]);
    let create = ["stream", "create", "clicks", "--chunk-bytes", "65536", "--chunk-age-ms", "9000"];
    dev.run(create).ok();
    let listed = dev.run(["stream", "ls"]).ok();
    let rows: Vec<Vec<&str>> =
        listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..4], ["NAME", "FIRST", "NEXT", "CHUNKS"]);
    assert_eq!(rows[1][..4], ["clicks", "0", "0", "0"]);
    assert_eq!(rows[2][..4], ["orders", "0", "1", "0"]);
    let listed = dev.run(["stream", "ls", "--prefix", "c", "--output", "json"]).json();
    let clicks = dev.run(["stream", "info", "clicks", "--output", "json"]).json();
    assert_eq!(listed, clicks);
    assert_eq!(clicks[0]["settings"], json!({"chunk_bytes": 65536, "chunk_age_ms": 9000}));
    let text = dev.run(["stream", "info", "clicks"]).ok();
    assert!(text.contains("chunk size    64.0 KiB\n"), "{text}");
}

#[test]
fn a_stream_is_trimmed_and_removed() {
    let dev = dev_with(&["a", "b", "c"]);
    let trimmed = dev.run(["stream", "trim", "orders", "2"]).ok();
    assert!(trimmed.starts_with("stream orders now begins at offset 2; older "), "{trimmed}");
    assert!(trimmed.contains("stay in the object store"), "{trimmed}");
    assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "c\n");
    let error = dev.run(["stream", "read", "orders", "--from", "1"]).failed(1);
    assert!(error.contains("read on with --from 2"), "{error}");

    dev.run(["stream", "rm", "orders"]).failed(2);
    let removed = dev.run(["stream", "rm", "orders", "--yes"]).ok();
    assert!(removed.contains("it has no objects in the object store"), "{removed}");
    assert_eq!(dev.run(["stream", "ls", "--output", "json"]).ok(), "");
    dev.run(["stream", "create", "orders"]).ok();
    assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let dev = dev_with(&[]);
    // More than any pipe holds.
    let lines = "0123456789abcdef\n".repeat(50_000);
    dev.run_with_input(["stream", "append", "orders"], lines.as_bytes()).ok();
    let mut command = dev.command(["stream", "read", "orders"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr), (Some(0), Vec::new()));
}
