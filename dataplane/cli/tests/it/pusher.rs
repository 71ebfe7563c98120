//! The command beside a pusher, as in a pod of a cluster.

use std::net::TcpListener;

use serde_json::json;

use crate::running::{Dev, Ended, command, run};

#[test]
fn appends_and_reads_go_through_the_pusher() {
    let dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    let endpoint = format!("http://{}", dev.ready["local"].as_str().unwrap());
    // Nothing else tells where the Writer is.
    let elsewhere = tempfile::tempdir().unwrap();
    let through = |arguments: &[&str]| -> Ended {
        let mut command = command();
        command.args(["--output", "json"]).args(arguments).current_dir(elsewhere.path());
        run(command.env("PYRAMID_APPEND_ENDPOINT", &endpoint))
    };
    let appended = through(&["stream", "append", "orders", "tea", "coffee"]).json();
    let written = |n: usize| {
        let part = &appended[n];
        json!([part["records"], part["first_offset"], part["next_offset"]])
    };
    assert_eq!(written(0), json!([2, 0, 2]));
    let once = ["stream", "append", "orders", "milk", "--producer", "p"];
    for skipped in [0, 1] {
        assert_eq!(through(&once).json()[0]["skipped"], json!(skipped));
    }
    let values = |read: Ended| -> Vec<String> {
        let value = |record: &serde_json::Value| record["value"].as_str().unwrap().to_owned();
        read.json().iter().map(value).collect()
    };
    assert_eq!(values(through(&["stream", "read", "orders"])), ["tea", "coffee", "milk"]);
    assert_eq!(values(through(&["stream", "tail", "orders", "-n", "1"])), ["milk"]);
    assert_eq!(through(&["stream", "info", "orders"]).json()[0]["next_offset"], json!(3));

    // What is no business of a pod says where it is done.
    let create = through(&["stream", "create", "other"]).failed(1);
    assert!(create.contains("kubectl get streams"), "{create}");
    let list = through(&["stream", "ls"]).failed(1);
    let words =
        "a pusher passes on appends and reads only (in the command: append, read, tail, info)";
    assert!(list.contains(words), "{list}");
    let unknown = through(&["stream", "append", "other", "tea"]).failed(1);
    assert!(!unknown.contains("pyramid stream"), "{unknown}");
}

/// What an append says that finds no pusher at this address.
fn no_pusher(address: &str) -> String {
    format!(
        "error: the pusher of this pod: nothing answers at {address}: Connection refused (os error \
         111); a Pod gets a pusher by the annotation pyramid.dev/append or \
         pyramid.dev/subscriptions, and only init containers behind the pusher can use it\n"
    )
}

#[test]
fn a_pusher_that_is_not_there_is_named() {
    // Nobody listens on a port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut append = command();
    append.args(["stream", "append", "orders", "tea", "--local", &format!("http://{free}")]);
    assert_eq!(run(&mut append).failed(1), no_pusher(&free.to_string()));
}
