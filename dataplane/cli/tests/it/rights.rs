//! Rights on streams: given, taken, and never lost between two that change them.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::running::{Dev, run};

/// The rights on a stream, each as the last parts of its identities.
fn rights(dev: &Dev, stream: &str) -> Value {
    let said = dev.run(["stream", "rights", stream, "--output", "json"]).json().remove(0);
    let short = |list: &Value| {
        let names = list
            .as_array()
            .unwrap()
            .iter()
            .map(|identity| identity.as_str().unwrap().rsplit_once('/').unwrap().1.to_owned());
        json!(names.collect::<Vec<_>>())
    };
    json!([short(&said["appenders"]), short(&said["readers"]), short(&said["managers"])])
}

const NONE: [[&str; 0]; 3] = [[], [], []];

#[test]
fn whoever_creates_a_stream_has_all_rights_on_it_and_its_applications_append_and_read() {
    let dev = Dev::start();
    dev.run(["stream", "create", "own"]).ok();
    assert_eq!(rights(&dev, "own"), json!([["user", "pusher"], ["user", "pusher"], ["user"]]));
    let others = ["stream", "create", "others", "--no-own-rights", "--append", "a"];
    run(dev.command(others).args(["--read", "a", "--read", "b"])).ok();
    let empty: [&str; 0] = [];
    assert_eq!(rights(&dev, "others"), json!([["a"], ["a", "b"], empty]));
    // What exists stays as it is.
    dev.run(["stream", "create", "others", "--if-missing"]).ok();
    assert_eq!(rights(&dev, "others"), json!([["a"], ["a", "b"], empty]));
}

#[test]
fn rights_are_given_and_taken() {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders", "--no-own-rights", "--chunk-bytes", "4096"]).ok();
    let said = dev.run(["stream", "rights", "orders"]).ok();
    assert_eq!(said, "stream orders\n  append  nobody\n  read    nobody\n  manage  nobody\n");
    let whole = "spiffe://td/ns/shop/sa/web";
    let said = dev.run(["stream", "grant", "orders", "--append", whole, "--manage", "a"]).ok();
    assert!(said.contains(&format!("\n  append  {whole}\n  read    nobody\n")), "{said}");
    dev.run(["stream", "grant", "orders", "--append", "b", "--append", whole]).ok();
    assert_eq!(rights(&dev, "orders"), json!([["web", "b"], [], ["a"]]));
    dev.run(["stream", "revoke", "orders", "--append", whole, "--manage", "a"]).ok();
    assert_eq!(rights(&dev, "orders"), json!([["b"], [], []]));
    // The settings have stayed.
    let info = dev.run(["stream", "create", "orders", "--if-missing", "--output", "json"]).json();
    assert_eq!(info[0]["settings"]["chunk_bytes"], json!(4096));

    let error = dev.run(["stream", "grant", "orders"]).failed(1);
    assert!(error.contains("--append, --read or --manage"), "{error}");
    let error = dev.run(["stream", "grant", "orders", "--read", "https://a"]).failed(1);
    assert!(error.contains("an identity is spiffe://"), "{error}");
    let error = dev.run(["stream", "grant", "missing", "--read", "a"]).failed(1);
    assert!(error.contains("there is no stream missing"), "{error}");
}

#[test]
fn of_rights_that_are_given_at_the_same_time_none_is_lost() {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders", "--no-own-rights"]).ok();
    let names: Vec<String> = (0..6).map(|n| format!("reader-{n}")).collect();
    let mut children: Vec<_> = names
        .iter()
        .map(|name| {
            let mut grant = dev.command(["stream", "grant", "orders", "--read", name]);
            grant.stdout(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let mut readers: Vec<String> =
        serde_json::from_value(rights(&dev, "orders")[1].clone()).unwrap();
    readers.sort();
    assert_eq!(readers, names);
}

#[test]
fn streams_from_before_there_were_rights_are_given_to_the_user_once() {
    let mut dev = Dev::start();
    dev.run(["stream", "create", "orders", "--no-own-rights"]).ok();
    dev.run(["stream", "create", "clicks", "--no-own-rights", "--read", "a"]).ok();
    assert_eq!(dev.signal(Signal::SIGTERM), Some(0));
    dev.restart();
    assert_eq!(rights(&dev, "orders"), json!(NONE));
    // As such a directory looks: data, and no trust domain.
    assert_eq!(dev.signal(Signal::SIGTERM), Some(0));
    std::fs::remove_file(dev.data_dir().join("trust-domain")).unwrap();
    std::fs::remove_dir_all(dev.data_dir().join("tls")).unwrap();
    dev.restart();
    assert_eq!(rights(&dev, "orders"), json!([["user", "pusher"], ["user", "pusher"], ["user"]]));
    assert_eq!(rights(&dev, "clicks"), json!([[], ["a"], []]));
    let all = ["--append", "user", "--append", "pusher", "--manage", "user"];
    run(dev
        .command(["stream", "revoke", "orders", "--read", "user", "--read", "pusher"])
        .args(all))
    .ok();
    assert_eq!(dev.signal(Signal::SIGTERM), Some(0));
    dev.restart();
    assert_eq!(rights(&dev, "orders"), json!(NONE));
}
