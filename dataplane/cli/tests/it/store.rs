//! `pyramid dev --object-store`: what is wrong with a store is said at the start.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::running::{Dev, Lines, Running, command, run, text};

/// `pyramid dev` on a bucket at this endpoint.
fn dev_at(folder: &Path, endpoint: &str) -> std::process::Command {
    let credentials = folder.join("credentials");
    std::fs::create_dir_all(&credentials).unwrap();
    std::fs::write(credentials.join("accessKeyId"), "a").unwrap();
    std::fs::write(credentials.join("secretAccessKey"), "b").unwrap();
    let mut command = command();
    command.args(["dev", "--object-store", "s3://orders", "--s3-endpoint", endpoint]);
    command.args(["--s3-credentials", text(&credentials), "--data-dir"]).arg(folder.join("data"));
    for port in ["--listen", "--admin-listen", "--local-listen"] {
        command.args([port, "127.0.0.1:0"]);
    }
    command
}

#[test]
fn a_store_that_refuses_ends_the_start_with_its_flag() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let body = "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code>\
                    <Message>The specified bucket does not exist</Message></Error>";
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            drop(stream.read(&mut [0; 4096]));
            let length = body.len();
            let head = format!(
                "HTTP/1.1 404 Not Found\r\nContent-Type: application/xml\r\nContent-Length: \
                 {length}\r\nConnection: close\r\n\r\n"
            );
            drop(
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())),
            );
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let error = run(&mut dev_at(folder.path(), &endpoint)).failed(1);
    assert!(error.starts_with("error: --object-store s3://orders at http://127.0.0.1:"), "{error}");
    assert!(error.contains("bucket"), "{error}");
    // It was the wrong one, and is not remembered.
    assert!(!folder.path().join("data/object-store").exists());
}

#[test]
fn a_store_that_cannot_be_reached_is_said_and_appends_go_on() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = dev_at(folder.path(), &format!("http://{free}"));
    let mut dev = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let lines = Lines::new(dev.0.stdout.take().unwrap());
    assert_eq!(lines.next(), "Pyramid is ready.");
    let mut said = String::new();
    for arguments in [&["create", "orders"][..], &["append", "orders", "tea"], &["read", "orders"]]
    {
        let mut command = crate::running::command();
        command.arg("stream").args(arguments).env("PYRAMID_DATA_DIR", folder.path().join("data"));
        said = run(&mut command).ok();
    }
    assert_eq!(said, "tea\n");
    drop(dev.0.kill());
    let mut error = String::new();
    dev.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.contains("--object-store s3://orders at http://127.0.0.1:"), "{error}");
    assert!(error.contains("cannot be reached"), "{error}");
}

#[test]
fn a_data_directory_stays_with_its_store() {
    let mut dev = Dev::start();
    assert_eq!(dev.signal(Signal::SIGTERM), Some(0));
    let error = run(dev.dev().args(["--object-store", "s3://orders"])).failed(1);
    assert!(error.contains("keeps its chunks in file:objects"), "{error}");
    dev.restart();
}

#[test]
fn a_bucket_that_cannot_be_is_refused_before_anything_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    for (flags, expected) in [
        (&["--object-store", "s3://No"][..], "--object-store s3://No"),
        (&["--object-store", "s3://orders", "--s3-endpoint", "orders"], "--s3-endpoint orders"),
        (&["--object-store", "ftp://orders"], "give file:DIR"),
        (&["--s3-region", "eu-west-1"], "--s3-region is for s3://BUCKET only"),
    ] {
        let mut dev = command();
        dev.args(["dev", "--data-dir"]).arg(folder.path().join("data")).args(flags);
        let error = run(&mut dev).failed(1);
        assert!(error.contains(expected), "{error}");
    }
}
