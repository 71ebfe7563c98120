//! TLS of `pyramid dev`: made without being asked for, and what those hear whom it keeps out.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::running::{Dev, command, run, text};

/// A stream `orders` with the record `tea`.
fn dev_with_tea(flags: &[&str]) -> Dev {
    let dev = Dev::start_with(flags);
    dev.run(["stream", "create", "orders"]).ok();
    dev.run(["stream", "append", "orders", "tea"]).ok();
    dev
}

fn restart(dev: &mut Dev) {
    assert_eq!(dev.signal(Signal::SIGTERM), Some(0));
    dev.restart();
}

/// Reads `orders` of the Writer at `address`.
fn read(address: &str, tls: Option<&str>) -> crate::running::Ended {
    let mut command = command();
    command.args(["stream", "read", "orders", "--writer", address]);
    run(command.args(tls.map(|tls| ["--tls", tls]).into_iter().flatten()))
}

#[test]
fn certificates_are_made_once_and_renewed_when_they_are_old() {
    let mut dev = dev_with_tea(&[]);
    let tls = dev.data_dir().join("tls");
    let mode = |path: &str| std::fs::metadata(tls.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["", "ca", "user"].map(mode), [0o700; 3]);
    assert_eq!(["ca/ca.key", "user/tls.key", "pusher/tls.key"].map(mode), [0o600; 3]);
    let content = |path: &str| std::fs::read(tls.join(path)).unwrap();
    let (root, user) = (content("ca/ca.crt"), content("user/tls.crt"));
    restart(&mut dev);
    assert_eq!((content("ca/ca.crt"), content("user/tls.crt")), (root.clone(), user));

    let directory = tls.join("user");
    let issue = ["certificate", "issue", "--identity", "user", "--days", "1", "--out"];
    run(dev.command(issue).arg(&directory)).ok();
    let old = content("user/tls.crt");
    assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "tea\n");
    restart(&mut dev);
    assert_ne!(content("user/tls.crt"), old);
    assert_eq!(content("ca/ca.crt"), root);
    assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "tea\n");
}

#[test]
fn lost_certificates_are_made_anew_and_everybody_keeps_their_rights() {
    let mut dev = dev_with_tea(&[]);
    let rights = dev.run(["stream", "rights", "orders"]).ok();
    assert_eq!(dev.signal(Signal::SIGTERM), Some(0));
    std::fs::remove_dir_all(dev.data_dir().join("tls")).unwrap();
    dev.restart();
    assert_eq!(dev.run(["stream", "rights", "orders"]).ok(), rights);
    assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "tea\n");
}

#[test]
fn an_authority_that_is_broken_ends_the_start_and_says_what_to_do() {
    let mut dev = dev_with_tea(&[]);
    assert_eq!(dev.signal(Signal::SIGTERM), Some(0));
    std::fs::write(dev.data_dir().join("tls/ca/ca.key"), "no key").unwrap();
    let error = run(&mut dev.dev()).failed(1);
    let anew =
        format!("remove {} to have", dev.data_dir().canonicalize().unwrap().join("tls").display());
    assert!(error.contains(&anew) && error.contains("damaged"), "{error}");
}

#[test]
fn a_writer_answers_only_those_whom_its_authority_knows() {
    let dev = dev_with_tea(&[]);
    let other = Dev::start();
    let writer = dev.ready["writer"].as_str().unwrap();
    let tls = |dev: &Dev, name: &str| text(&dev.data_dir().join("tls").join(name)).to_owned();
    // The directory of a dev, and one of its identities.
    for directory in [tls(&dev, ""), tls(&dev, "user")] {
        assert_eq!(read(writer, Some(&directory)).ok(), "tea\n");
    }
    let error = read(writer, None).failed(1);
    let expected = format!("error: {writer} takes no connection without TLS; give --tls");
    assert!(error.starts_with(&expected), "{error}");
    let error = read(writer, Some(&tls(&other, ""))).failed(1);
    assert!(error.contains(writer) && error.contains("is of another authority than"), "{error}");
    let missing = text(&dev.folder.path().join("missing")).to_owned();
    let error = read(writer, Some(&missing)).failed(1);
    assert!(error.contains("a TLS directory holds tls.key, tls.crt and ca.crt"), "{error}");
}

#[test]
fn a_writer_is_believed_only_under_its_own_names() {
    let dev = dev_with_tea(&["--listen", "0.0.0.0:0"]);
    let port = dev.ready["writer"].as_str().unwrap().rsplit_once(':').unwrap().1;
    let tls = dev.data_dir().join("tls");
    for name in ["127.0.0.1", "localhost"] {
        assert_eq!(read(&format!("{name}:{port}"), Some(text(&tls))).ok(), "tea\n");
    }
    let error = read(&format!("127.0.0.2:{port}"), Some(text(&tls))).failed(1);
    assert!(error.contains("is not for 127.0.0.2 but for"), "{error}");
}

#[test]
fn what_does_not_speak_tls_is_told_as_that() {
    let dev = Dev::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    let tls = dev.data_dir().join("tls");
    let error = read(&address, Some(text(&tls))).failed(1);
    assert!(error.contains("does not speak TLS"), "{error}");
    let error = read(&address, None).failed(1);
    assert!(error.contains("is not a Writer"), "{error}");
}

#[test]
fn another_machine_is_reached_with_tls_only() {
    let error = read("192.0.2.1:7400", None).failed(1);
    let expected = "error: 192.0.2.1:7400 is not on this machine, and is reached with TLS only; \
                    give --tls";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn an_identity_is_issued_by_the_authority_of_a_dev_alone() {
    let dev = dev_with_tea(&[]);
    let out = dev.folder.path().join("reports");
    let issue = ["certificate", "issue", "--identity", "reports", "--out", text(&out)];
    let issued = run(dev.command(issue).args(["--output", "json"])).json().remove(0);
    let identity = issued["identity"].as_str().unwrap();
    assert!(identity.starts_with("spiffe://dev-"), "{identity}");
    assert!(identity.ends_with(".pyramid/ns/dev/sa/reports"), "{identity}");
    // Again is a renewal.
    run(&mut dev.command(issue)).ok();

    for taken in [&out, &dev.data_dir().join("tls/user")] {
        let other = ["certificate", "issue", "--identity", "audit", "--out", text(taken)];
        let error = run(&mut dev.command(other)).failed(1);
        assert!(error.contains("give a new directory for"), "{error}");
    }
    let new = dev.folder.path().join("new");
    let foreign = ["certificate", "issue", "--identity", "spiffe://td/a", "--out", text(&new)];
    let error = run(&mut dev.command(foreign)).failed(1);
    assert!(error.contains("is not of the trust domain dev-"), "{error}");
    let full = dev.folder.path();
    let into = ["certificate", "issue", "--identity", "reports", "--out", text(full)];
    let error = run(&mut dev.command(into)).failed(1);
    assert!(error.contains("is not empty and has no tls.crt"), "{error}");
    let nowhere = full.join("nowhere");
    let error = run(command().args(issue).arg("--data-dir").arg(&nowhere)).failed(1);
    assert!(error.contains("start `pyramid dev --data-dir"), "{error}");
}
