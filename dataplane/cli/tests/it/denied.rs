//! What an identity without a right is told, and that a right counts at once.

use std::process::Stdio;

use crate::running::{Dev, Lines, Running, run, text};

/// A stream `orders` with the record `tea`, and the directory of the identity `reports`.
fn dev_with_reports() -> (Dev, String) {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    dev.run(["stream", "append", "orders", "tea"]).ok();
    let reports = text(&dev.folder.path().join("reports")).to_owned();
    dev.run(["certificate", "issue", "--identity", "reports", "--out", &reports]).ok();
    (dev, reports)
}

#[test]
fn an_identity_without_a_right_does_not_learn_that_the_stream_exists() {
    let (dev, reports) = dev_with_reports();
    for arguments in [&["read"][..], &["append", "tea"], &["info"], &["trim", "1"]] {
        let ask = |stream: &str| {
            let (name, rest) = arguments.split_first().unwrap();
            let mut command = dev.command(["stream", name, stream]);
            run(command.args(rest).args(["--tls", &reports])).failed(1)
        };
        let (held, missing) = (ask("orders"), ask("missing"));
        assert!(
            held.starts_with("error: there is no stream \"orders\" that spiffe://dev-"),
            "{held}"
        );
        assert_eq!(held.replace("orders", "missing"), missing, "{arguments:?}");
    }
    let listed = dev.run(["stream", "ls", "--tls", &reports, "--output", "json"]).ok();
    assert_eq!(listed, "");
}

#[test]
fn a_right_counts_at_once_and_only_for_what_it_says() {
    let (dev, reports) = dev_with_reports();
    dev.run(["stream", "grant", "orders", "--read", "reports"]).ok();
    assert_eq!(dev.run(["stream", "read", "orders", "--tls", &reports]).ok(), "tea\n");
    let append = ["stream", "append", "orders", "coffee", "--tls", &reports];
    let error = dev.run(append).failed(1);
    assert!(
        error.contains("but has not the right to append") && error.contains("stream grant orders"),
        "{error}"
    );
    dev.run(["stream", "grant", "orders", "--append", "reports"]).ok();
    dev.run(append).ok();
    dev.run(["stream", "revoke", "orders", "--append", "reports"]).ok();
    dev.run(append).failed(1);
    assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "tea\ncoffee\n");
}

#[test]
fn a_read_that_follows_ends_when_its_right_is_taken() {
    let (dev, reports) = dev_with_reports();
    dev.run(["stream", "grant", "orders", "--read", "reports"]).ok();
    let mut tail = dev.command(["stream", "tail", "orders", "-f", "--tls", &reports]);
    let mut tail = Running(tail.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let lines = Lines::new(tail.0.stdout.take().unwrap());
    assert_eq!(lines.next(), "tea");
    dev.run(["stream", "revoke", "orders", "--read", "reports"]).ok();
    assert_eq!(tail.0.wait().unwrap().code(), Some(1));
}

#[test]
fn the_admin_service_is_for_operators() {
    let (dev, reports) = dev_with_reports();
    for arguments in [&["create", "clicks"][..], &["rm", "orders", "--yes"], &["rights", "orders"]]
    {
        let mut command = dev.command(["stream"]);
        let error = run(command.args(arguments).args(["--tls", &reports])).failed(1);
        assert!(error.contains("give --tls with the directory of an operator"), "{error}");
    }
    dev.run(["stream", "rights", "orders"]).ok();
}
