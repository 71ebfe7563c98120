//! Errors say what to do, and end with the right code.

use std::net::TcpListener;

use crate::running::{Dev, command, run};

#[test]
fn a_writer_that_does_not_run_is_named_with_the_command_that_starts_it() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens on a port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for arguments in [
        &["stream", "ls"][..],
        &["stream", "create", "orders"],
        &["stream", "append", "orders", "tea"],
        &["stream", "read", "orders"],
    ] {
        let mut command = command();
        command.args(arguments).args(["--writer", &free]).current_dir(folder.path());
        let expected = format!("error: nothing answers at {free}; start it with `pyramid dev`\n");
        assert_eq!(run(&mut command).failed(1), expected, "{arguments:?}");
    }
}

#[test]
fn the_file_that_a_killed_writer_left_is_named() {
    let mut dev = Dev::start();
    dev.signal(nix::sys::signal::Signal::SIGKILL);
    let error = dev.run(["stream", "ls"]).failed(1);
    let writer = dev.ready["writer"].as_str().unwrap();
    assert!(error.starts_with(&format!("error: nothing answers at {writer}, which ")), "{error}");
    assert!(error.contains("dev.json names; start it with `pyramid dev`"), "{error}");
}

#[test]
fn a_stream_that_does_not_exist_is_named_with_the_command_that_creates_it() {
    let dev = Dev::start();
    let expected = "error: there is no stream orders; create it with `pyramid stream create \
                    orders`, or see `pyramid stream ls`\n";
    for arguments in [
        &["info", "orders"][..],
        &["append", "orders", "tea"],
        &["append", "orders", "tea", "--producer", "p"],
        &["read", "orders"],
        &["tail", "orders", "-f"],
        &["seal", "orders"],
        &["trim", "orders", "1"],
        &["rm", "orders", "--yes"],
    ] {
        let mut command = dev.command(["stream"]);
        assert_eq!(run(command.args(arguments)).failed(1), expected, "{arguments:?}");
    }
}

#[test]
fn a_name_is_refused_before_anything_is_asked() {
    let long = "n".repeat(513);
    for name in ["", "a\nb", &long] {
        let error = run(command().args(["stream", "create", name])).failed(2);
        assert!(error.contains("a stream name"), "{error}");
    }
    let dev = Dev::start();
    dev.run(["stream", "create", &long[1..]]).ok();
    let error = dev.run(["stream", "create", &long[1..]]).failed(1);
    assert!(error.contains("exists already"), "{error}");
    dev.run(["stream", "create", &long[1..], "--if-missing"]).ok();
}

#[test]
fn what_is_before_a_bad_line_is_written_and_counted() {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    let large = [b"1\n2\n".as_slice(), &vec![b'9'; (1 << 20) + 1], b"\n3\n"].concat();
    let error = dev.run_with_input(["stream", "append", "orders"], &large).failed(1);
    assert!(error.contains("2 records are written and orders has reached offset 2"), "{error}");
    assert!(error.contains("line 3 is too long"), "{error}");
    let json = ["stream", "append", "orders", "--jsonl"];
    let error = dev.run_with_input(json, b"{}\n{\n").failed(1);
    assert!(error.contains("line 2 is not JSON"), "{error}");
    assert_eq!(dev.run(["stream", "read", "orders", "--max-records", "2"]).ok(), "1\n2\n");
}

#[test]
fn the_largest_record_is_written() {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    // Tag and length take four bytes.
    let mut line = vec![b'x'; (1 << 20) - 4];
    dev.run_with_input(["stream", "append", "orders"], &line).ok();
    line.push(b'x');
    dev.run_with_input(["stream", "append", "orders"], &line).failed(1);
    assert_eq!(dev.run(["stream", "read", "orders"]).ok().len(), (1 << 20) - 4 + 1);
}

#[test]
fn wrong_arguments_are_refused() {
    for arguments in [
        &["stream"][..],
        &["stream", "append", "orders", "tea", "--file", "f"],
        &["stream", "append", "orders", "tea", "--header", "no-value"],
        &["stream", "read", "orders", "--from", "1", "--last", "1"],
        &["stream", "read", "orders", "--from-time", "yesterday"],
        &["stream", "read", "orders", "--max-records", "0"],
        &["stream", "ls", "--output", "xml"],
    ] {
        run(command().args(arguments)).failed(2);
    }
}

#[test]
fn every_help_teaches_by_example() {
    for words in [
        &[][..],
        &["dev"],
        &["stream", "create"],
        &["stream", "ls"],
        &["stream", "info"],
        &["stream", "append"],
        &["stream", "read"],
        &["stream", "tail"],
        &["stream", "seal"],
        &["stream", "trim"],
        &["stream", "rm"],
        &["chunk", "inspect"],
    ] {
        let help = run(command().args(words).arg("--help")).ok();
        let example = format!("\n  pyramid {}", words.join(" "));
        assert!(help.contains(&example), "{words:?}: {help}");
    }
}
