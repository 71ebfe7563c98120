//! Errors say what to do, and end with the right code.

use std::net::TcpListener;

use crate::running::{Dev, command, run, text};

#[test]
fn a_writer_that_does_not_run_is_named_with_the_command_that_starts_it() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody listens on a port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let expected = format!(
        "error: nothing answers at {free}: Connection refused (os error 111); start it with \
         `pyramid dev`"
    );
    for arguments in [
        &["stream", "ls"][..],
        &["stream", "append", "orders", "tea"],
        &["stream", "read", "orders"],
    ] {
        let mut command = command();
        command.args(arguments).args(["--writer", &free]).current_dir(folder.path());
        assert_eq!(run(&mut command).failed(1), format!("{expected}\n"), "{arguments:?}");
    }
    for arguments in [&["stream", "create", "orders"][..], &["stream", "rights", "orders"]] {
        let mut command = command();
        command.args(arguments).args(["--admin", &free]).current_dir(folder.path());
        let error = run(&mut command).failed(1);
        assert!(error.starts_with(&format!("{expected}, or give --admin")), "{error}");
    }
}

#[test]
fn a_named_directory_without_a_dev_is_an_error_and_no_other_writer_is_asked() {
    let other = Dev::start();
    other.run(["stream", "create", "orders"]).ok();
    let mut killed = Dev::start();
    killed.signal(nix::sys::signal::Signal::SIGKILL);
    // Another Writer has got the ports of the killed one.
    let left = killed.data_dir().join("dev.json");
    std::fs::copy(other.data_dir().join("dev.json"), left).unwrap();
    let empty = tempfile::tempdir().unwrap();
    for directory in [&killed.data_dir(), empty.path(), &empty.path().join("missing")] {
        let name = directory.display();
        let expected = format!(
            "error: no `pyramid dev` runs on {name}; start it with `pyramid dev --data-dir \
             {name}`, or give --writer\n"
        );
        let mut remove = command();
        remove.args(["stream", "rm", "orders", "--yes"]);
        let by_variable = run(remove.env("PYRAMID_DATA_DIR", directory)).failed(1);
        remove.env_remove("PYRAMID_DATA_DIR").arg("--data-dir");
        assert_eq!([by_variable, run(remove.arg(directory)).failed(1)], [&*expected, &*expected]);
    }
    let default = killed.folder.path().join(".pyramid");
    std::fs::rename(killed.data_dir(), default).unwrap();
    let mut remove = command();
    remove.args(["stream", "rm", "orders", "--yes"]).current_dir(killed.folder.path());
    let error = run(&mut remove).failed(1);
    assert!(error.starts_with("error: no `pyramid dev` runs on .pyramid;"), "{error}");
    let file = empty.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = run(command().args(["stream", "ls", "--data-dir"]).arg(&file)).failed(1);
    assert!(error.ends_with("is a file; give a directory\n"), "{error}");
    // A Writer alone does not say whose Admin service is meant.
    let writer = other.ready["writer"].as_str().unwrap();
    let remove = ["stream", "rm", "orders", "--yes", "--writer", writer];
    let error = run(command().args(remove)).failed(1);
    assert!(error.contains("give --admin"), "{error}");
    other.run(["stream", "info", "orders"]).ok();
}

#[test]
fn a_stream_that_does_not_exist_is_named_with_the_command_that_creates_it() {
    let dev = Dev::start();
    let what_to_do = "; create it with `pyramid stream create orders`, or have the right given with \
                      `pyramid stream grant orders`\n";
    for arguments in [
        &["info", "orders"][..],
        &["append", "orders", "tea"],
        &["append", "orders", "tea", "--producer", "p"],
        &["read", "orders"],
        &["tail", "orders", "-f"],
        &["seal", "orders"],
        &["trim", "orders", "1"],
    ] {
        let error = run(dev.command(["stream"]).args(arguments)).failed(1);
        assert!(error.starts_with("error: there is no stream "), "{arguments:?}: {error}");
        assert!(error.ends_with(what_to_do), "{arguments:?}: {error}");
    }
    // Operators see every stream.
    let expected = "error: there is no stream orders; create it with `pyramid stream create \
                    orders`, or see `pyramid stream ls`\n";
    for arguments in [&["rm", "orders", "--yes"][..], &["rights", "orders"]] {
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
    let expected = "error: 2 records written, orders has reached offset 2; nothing behind was sent: \
                    read standard input: line 3 is too long; at most 1048572 bytes fit into a \
                    record\n";
    assert_eq!(error, expected);
    let json = ["stream", "append", "orders", "--jsonl"];
    let error = dev.run_with_input(json, b"{}\n{\n").failed(1);
    let expected = "error: 1 record written, orders has reached offset 3; nothing behind was sent: \
                    read standard input: line 2 is not JSON: EOF while parsing an object, at column \
                    1\n";
    assert_eq!(error, expected);
    assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "1\n2\n{}\n");
}

#[test]
fn nothing_of_a_file_with_a_bad_line_is_written() {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    let path = dev.folder.path().join("orders.jsonl");
    std::fs::write(&path, "{}\n".repeat(5000) + "tea\n").unwrap();
    let file = text(&path);
    for producer in [&[][..], &["--producer", "p"]] {
        let mut append = dev.command(["stream", "append", "orders", "--jsonl", "--file", file]);
        let error = run(append.args(producer)).failed(1);
        assert!(error.contains("nothing is appended: line 5001 is not JSON"), "{error}");
    }
    assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "");
}

#[test]
fn an_offset_that_cannot_be_is_explained() {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    let error = dev.run(["stream", "read", "orders", "--from", "1"]).failed(1);
    assert!(error.starts_with("error: the stream orders ends at 0,"), "{error}");
    for arguments in [&["read", "orders", "--from", "-1"][..], &["trim", "orders", "-1"]] {
        let error = run(command().arg("stream").args(arguments)).failed(2);
        assert!(error.contains("offsets are whole numbers from 0 on"), "{error}");
    }
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
        &["stream", "append", "orders", "tea", "--header", "=no-name"],
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
        &["stream", "rights"],
        &["stream", "grant"],
        &["stream", "revoke"],
        &["certificate", "issue"],
        &["chunk", "inspect"],
        &["verify"],
    ] {
        let help = run(command().args(words).arg("--help")).ok();
        let example = format!("\n  pyramid {}", words.join(" "));
        assert!(help.contains(&example), "{words:?}: {help}");
    }
}
