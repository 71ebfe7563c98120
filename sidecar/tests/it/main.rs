//! The pusher between a fake Writer and a fake application, over loopback sockets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod application;
mod assignment;
mod delivery;
mod drain;
mod exclusive;
mod fake_application;
#[path = "../../../dataplane/client/tests/it/fake_writer.rs"]
mod fake_writer;
mod halts;
mod local;
mod ops;
mod pod;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pyramid_protocol::SeededEntropy;
use pyramid_protocol::net::TcpConnect;
use pyramid_protocol::pb::v1::PushState;
use pyramid_sidecar::config::{Subscription, Timing};
use pyramid_sidecar::health::Readiness;
use pyramid_sidecar::{Config, Environment, Error, Ports, Ready, run_with};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::fake_application::{FakeApplication, PUSH_TIMEOUT};
use crate::fake_writer::FakeWriter;
use crate::fake_writer::network::DEADLINE;

/// A free port.
const FREE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A running pusher.
struct Pusher {
    local: SocketAddr,
    /// Where health and metrics are.
    ops: SocketAddr,
    stop: CancellationToken,
    task: JoinSet<Result<(), Error>>,
}

fn config(writer: &FakeWriter, subscriptions: &[(&str, &FakeApplication)]) -> Config {
    let subscriptions = subscriptions
        .iter()
        .map(|(name, application)| Subscription {
            name: (*name).to_owned(),
            application: application.address.to_string(),
        })
        .collect();
    Config {
        writers: writer.addresses(),
        subscriptions,
        pod: "pod".to_owned(),
        local: Some(FREE),
        ops: Some(FREE),
        readiness: Readiness::CaughtUp,
        chunk_directory: None,
        tls: None,
        object_store_ca: None,
        object_store_http: false,
        pushes_max: 16,
        timing: Timing {
            push_timeout: PUSH_TIMEOUT,
            idle_ask: Duration::from_millis(200),
            halt_ask: Duration::from_millis(50),
            call_timeout: Duration::from_secs(2),
            drain: Duration::from_secs(10),
        },
    }
}

impl Pusher {
    /// A pusher of subscription `s`.
    async fn start(writer: &FakeWriter, application: &FakeApplication) -> Self {
        Self::start_with(writer, config(writer, &[("s", application)])).await
    }

    async fn start_with(writer: &FakeWriter, config: Config) -> Self {
        let environment = Environment {
            connect: Arc::new(TcpConnect),
            connect_application: Arc::new(TcpConnect),
            entropy: Arc::new(SeededEntropy::new(5)),
            fetcher: writer.fetcher(),
            tls: None,
        };
        let ports = Ports::open(&config).await.unwrap();
        let stop = CancellationToken::new();
        let (sender, ready) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(run_with(config, environment, ports, sender, stop.clone()));
        let Ready { local, ops } = timeout(DEADLINE, ready).await.unwrap().unwrap();
        Self { local: local.unwrap(), ops: ops.unwrap(), stop, task }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        let ended = timeout(DEADLINE, self.task.join_next()).await.unwrap();
        ended.unwrap().unwrap().unwrap();
    }
}

/// Waits until the Writer was told this state of a stream of subscription `s`; returns the message.
async fn reported(writer: &FakeWriter, stream: &str, state: PushState) -> String {
    let place = ("s".to_owned(), stream.to_owned());
    let what = format!("{stream} is {}", state.as_str_name());
    writer
        .wait_for(&what, |writer| {
            writer.reports.get(&place).is_some_and(|report| report.state() == state)
        })
        .await;
    writer.look(|writer| writer.reports[&place].message.clone())
}

/// A stream `a` with two chunks and some live batches, assigned to `s`.
async fn writer_with_a() -> FakeWriter {
    let writer = FakeWriter::start().await;
    writer.create("a");
    writer.assign("s", &["a"]);
    for chunk in 0..2 {
        for batch in 0..5 {
            let values: Vec<_> = (0..3).map(|n| format!("{chunk}.{batch}.{n}")).collect();
            writer.append("a", &values);
        }
        writer.ship("a").await;
    }
    for n in 0..5 {
        writer.append("a", &[format!("live {n}"), format!("more {n}")]);
    }
    writer
}
