//! `pyramid dev`: starts, stops, crashes, pushes.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use pyramid_protocol::Batch;
use pyramid_protocol::net::{self, TcpAccept};
use pyramid_protocol::pb::v1::consumer_server::{Consumer, ConsumerServer};
use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_protocol::pb::v1::{Accepted, PushRequest, PushResponse};
use tonic::{Request, Response, Status};

use crate::running::{DEADLINE, Dev, Running, run, text};

#[test]
fn what_was_acknowledged_outlives_kill_9() {
    let mut dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    let cluster_id = dev.ready["cluster_id"].clone();
    let mut expected = String::new();
    for round in 0..3 {
        let lines: String = (0..2500).map(|n| format!("{round}-{n}\n")).collect();
        dev.run_with_input(["stream", "append", "orders"], lines.as_bytes()).ok();
        expected.push_str(&lines);
        assert_eq!(dev.signal(Signal::SIGKILL), None);
        dev.restart();
        assert_eq!(dev.ready["cluster_id"], cluster_id);
        assert_eq!(dev.run(["stream", "read", "orders"]).ok(), expected);
    }
}

#[test]
fn a_signal_ends_it_cleanly_and_the_next_one_goes_on() {
    let mut dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    dev.run(["stream", "append", "orders", "tea"]).ok();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        assert!(dev.data_dir().join("dev.json").exists());
        assert_eq!(dev.signal(signal), Some(0));
        assert!(!dev.data_dir().join("dev.json").exists());
        dev.restart();
        assert_eq!(dev.run(["stream", "read", "orders"]).ok(), "tea\n");
    }
}

#[test]
fn what_is_stored_is_read_also_when_the_file_for_other_commands_cannot_be_written() {
    let mut dev = Dev::start();
    dev.run(["stream", "create", "orders"]).ok();
    dev.run(["stream", "append", "orders", "tea"]).ok();
    assert_eq!(dev.signal(Signal::SIGTERM), Some(0));
    std::fs::create_dir(dev.data_dir().join("dev.new")).unwrap();
    dev.restart();
    let writer = dev.ready["writer"].as_str().unwrap();
    let tls = dev.data_dir().join("tls");
    let read = ["stream", "read", "orders", "--writer", writer, "--tls", text(&tls)];
    assert_eq!(dev.run(read).ok(), "tea\n");
    let error = dev.run(["stream", "read", "orders"]).failed(1);
    assert!(error.contains("give --writer"), "{error}");
}

#[test]
fn a_clean_end_says_so() {
    let other = tempfile::tempdir().unwrap();
    let mut command = crate::running::command();
    command.arg("dev").arg("--data-dir").arg(other.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    for port in ["--listen", "--admin-listen", "--local-listen"] {
        command.args([port, "127.0.0.1:0"]);
    }
    let mut child = command.spawn().unwrap();
    let lines = crate::running::Lines::new(child.stdout.take().unwrap());
    assert_eq!(lines.next(), "Pyramid is ready.");
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.ends_with("stopped; everything acknowledged is on disk\n"), "{said}");
}

#[tokio::test]
async fn nobody_has_to_read_what_it_says() {
    let other = tempfile::tempdir().unwrap();
    let mut command = crate::running::command();
    command.arg("dev").arg("--data-dir").arg(other.path()).stdout(Stdio::piped());
    for port in ["--listen", "--admin-listen", "--local-listen"] {
        command.args([port, "127.0.0.1:0"]);
    }
    let mut running = Running(command.spawn().unwrap());
    drop(running.0.stdout.take());
    let mut list = crate::running::command();
    list.args(["stream", "ls", "--output", "json"]).env("PYRAMID_DATA_DIR", other.path());
    let ready = async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while !other.path().join("dev.json").exists() {
            look.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, ready).await.unwrap();
    // It answers also after it has found out that nobody reads.
    for _ in 0..5 {
        assert_eq!(run(&mut list).ok(), "");
    }
    assert_eq!(running.0.try_wait().unwrap(), None);
}

#[test]
fn a_second_one_on_the_same_directory_is_refused() {
    let dev = Dev::start();
    let error = run(&mut dev.dev()).failed(1);
    let (pid, writer) = (&dev.ready["pid"], dev.ready["writer"].as_str().unwrap());
    assert!(error.contains(&format!("is in use by process {pid} at {writer}")), "{error}");
    // The first one has noticed nothing.
    assert_eq!(dev.run(["stream", "ls", "--output", "json"]).ok(), "");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let dev = Dev::start();
    let taken = dev.ready["writer"].as_str().unwrap();
    let other = tempfile::tempdir().unwrap();
    for flag in ["--listen", "--admin-listen", "--local-listen"] {
        let mut command = crate::running::command();
        command.arg("dev").arg("--data-dir").arg(other.path());
        for port in ["--listen", "--admin-listen", "--local-listen"] {
            command.args([port, if port == flag { taken } else { "127.0.0.1:0" }]);
        }
        let error = run(&mut command).failed(1);
        assert!(error.contains(flag) && error.contains("in use"), "{flag}: {error}");
        assert!(error.ends_with("another port, or port 0 for a free one\n"), "{flag}: {error}");
    }
}

#[test]
fn wrong_flags_are_refused() {
    let dev = Dev::start();
    for flags in [
        ["--subscribe", "orders"],
        ["--subscribe", "orders=0"],
        ["--listen", "here"],
        ["--chunk-bytes", "0"],
    ] {
        run(dev.dev().args(flags)).failed(2);
    }
    let twice = ["--subscribe", "orders=1", "--subscribe", "orders=2"];
    let error = run(dev.dev().args(twice)).failed(1);
    assert!(error.contains("twice"), "{error}");
}

/// Accepts all, and remembers the values.
struct Application(Arc<Mutex<Vec<String>>>);

#[tonic::async_trait]
impl Consumer for Application {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushResponse>, Status> {
        let push = request.into_inner();
        let mut values = self.0.lock().unwrap();
        for batch in push.batches {
            for record in Batch::decode(batch).unwrap().iter() {
                values.push(String::from_utf8(record.unwrap().1.value.to_vec()).unwrap());
            }
        }
        let answer = Some(Answer::Accepted(Accepted { next: push.next }));
        Ok(Response::new(PushResponse { answer }))
    }
}

#[tokio::test]
async fn subscribed_streams_are_created_and_pushed_to_their_applications() {
    let mut tasks = tokio::task::JoinSet::new();
    let mut applications = Vec::new();
    for _ in 0..2 {
        let accept = TcpAccept::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let port = accept.local_address().unwrap().port();
        let values = Arc::<Mutex<Vec<String>>>::default();
        let service = ConsumerServer::new(Application(Arc::clone(&values)));
        let server = net::server().add_service(service);
        tasks.spawn(server.serve_with_incoming(net::incoming(accept)));
        applications.push((port, values));
    }
    let subscribe = |stream: &str, application: usize| {
        format!("--subscribe={stream}={}", applications[application].0)
    };
    let (orders, clicks) = (subscribe("orders", 0), subscribe("clicks", 1));
    let dev = Dev::start_with(&[&orders, &clicks]);
    dev.run(["stream", "append", "orders", "tea", "coffee"]).ok();
    dev.run(["stream", "append", "clicks", "left"]).ok();
    let pushed = async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        loop {
            let values: Vec<_> =
                applications.iter().map(|(_, values)| values.lock().unwrap().clone()).collect();
            if values.iter().map(Vec::len).sum::<usize>() >= 3 {
                return values;
            }
            look.tick().await;
        }
    };
    let pushed = tokio::time::timeout(DEADLINE, pushed).await.unwrap();
    assert_eq!(pushed, [vec!["tea", "coffee"], vec!["left"]]);
}
