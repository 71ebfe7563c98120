//! Health and metrics of a pusher, over the port that kubelet and Prometheus use.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pyramid_protocol::pb::v1::PushState;
use pyramid_sidecar::health::Readiness;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::fake_application::{FakeApplication, Mood};
use crate::fake_writer::FakeWriter;
use crate::fake_writer::network::DEADLINE;
use crate::{Pusher, config, reported, writer_with_a};

pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let asked = async {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        connection.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    };
    timeout(DEADLINE, asked).await.expect("an answer comes")
}

/// Asks until the answer is the expected one.
pub(crate) async fn answers(pusher: &Pusher, path: &str, expected: (u16, &str)) {
    let mut last = (0, String::new());
    let asked = async {
        while (last.0, last.1.as_str()) != expected {
            last = get(pusher.ops, path).await;
        }
    };
    let in_time = timeout(DEADLINE, asked).await.is_ok();
    assert!(in_time, "{path} answers {last:?}, not {expected:?}");
}

async fn starts_well(pusher: &Pusher) {
    answers(pusher, "/startupz", (200, "ok\n")).await;
    answers(pusher, "/healthz", (200, "ok\n")).await;
}

/// All series, by name and labels without the prefix.
async fn scrape(pusher: &Pusher) -> BTreeMap<String, f64> {
    let (_, text) = get(pusher.ops, "/metrics").await;
    let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let name = name.strip_prefix("pyramid_pusher_").unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    series.collect()
}

/// Waits until a series has a value.
async fn shows(pusher: &Pusher, series: &str, expected: f64) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let found = async {
        while all.get(series) != Some(&expected) {
            all = scrape(pusher).await;
        }
    };
    let in_time = timeout(DEADLINE, found).await.is_ok();
    assert!(in_time, "{series} is {:?}, not {expected}", all.get(series));
    all
}

async fn start(readiness: Readiness, writer: &FakeWriter, application: &FakeApplication) -> Pusher {
    let config = pyramid_sidecar::Config { readiness, ..config(writer, &[("s", application)]) };
    Pusher::start_with(writer, config).await
}

const NOT_ATTACHED: (u16, &str) = (503, "no: 1 of 1 subscriptions are not attached\n");
const BEHIND: (u16, &str) = (503, "no: 1 of 1 streams have not caught up\n");
const OK: (u16, &str) = (200, "ok\n");

#[tokio::test]
async fn without_a_writer_a_pusher_is_ready_only_if_its_local_port_is_all_that_counts() {
    // Nothing is assigned: the subscription does not exist.
    let (writer, application) = (FakeWriter::start().await, FakeApplication::start().await);
    let table = [
        (Readiness::Local, OK),
        (Readiness::Connected, NOT_ATTACHED),
        (Readiness::CaughtUp, NOT_ATTACHED),
    ];
    for (readiness, expected) in table {
        let pusher = start(readiness, &writer, &application).await;
        starts_well(&pusher).await;
        answers(&pusher, "/readyz", expected).await;
        pusher.stop().await;
    }
}

#[tokio::test]
async fn a_pusher_that_is_attached_is_connected_also_while_its_application_is_away() {
    let (writer, mut application) = (writer_with_a().await, FakeApplication::start().await);
    application.stop().await;
    let pusher = start(Readiness::Connected, &writer, &application).await;
    starts_well(&pusher).await;
    answers(&pusher, "/readyz", OK).await;
    let caught_up = start(Readiness::CaughtUp, &writer, &application).await;
    answers(&caught_up, "/readyz", BEHIND).await;
    application.restart().await;
    answers(&caught_up, "/readyz", OK).await;
    caught_up.stop().await;
    pusher.stop().await;
}

#[tokio::test]
async fn who_has_caught_up_once_stays_ready_when_a_stream_is_halted_later() {
    let (writer, mut application) = (writer_with_a().await, FakeApplication::start().await);
    // The last record but one of those that are there.
    let last = writer.values("a").len() as u64 - 2;
    application.mood("a", Some(Mood::Rejects(last)));
    let pusher = start(Readiness::CaughtUp, &writer, &application).await;
    reported(&writer, "a", PushState::HaltedRejected).await;
    answers(&pusher, "/readyz", BEHIND).await;
    shows(&pusher, "streams{state=\"HALTED_REJECTED\"}", 1.0).await;

    application.mood("a", None);
    application.stop().await;
    application.restart().await;
    answers(&pusher, "/readyz", OK).await;
    let next = writer.values("a").len() as u64;
    application.mood("a", Some(Mood::Rejects(next)));
    writer.append("a", &["cannot be processed"]);
    reported(&writer, "a", PushState::HaltedRejected).await;
    answers(&pusher, "/readyz", OK).await;
    shows(&pusher, "streams{state=\"HALTED_REJECTED\"}", 1.0).await;
    pusher.stop().await;
}

#[tokio::test]
async fn pushes_and_reads_are_counted() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let values = writer.values("a");
    let pusher = Pusher::start(&writer, &application).await;
    application.wait_for_values("a", &values).await;
    let lag = "stream_lag_records{subscription=\"s\",stream=\"a\"}";
    let all = shows(&pusher, lag, 0.0).await;
    assert!(all["pushes_total{answer=\"accepted\"}"] >= 1.0);
    assert!(all["questions_total{answer=\"accepted\"}"] >= 1.0, "the first push has no records");
    assert_eq!(all["pushed_records_total"], values.len() as f64);
    assert!(all["pushed_bytes_total"] > 28.0);
    assert_eq!(all["push_latency_seconds_count"], all["pushes_total{answer=\"accepted\"}"]);
    assert!(all["read_bytes_total{from=\"chunk\"}"] > 10.0 * 28.0, "two chunks of five batches");
    assert!(all["read_bytes_total{from=\"writer\"}"] > 5.0 * 28.0, "five live batches");
    assert_eq!((all["subscriptions"], all["attached"]), (1.0, 1.0));
    assert_eq!((all["lag_records"], all["lag_max_records"]), (0.0, 0.0));

    application.mood("a", Some(Mood::Fails));
    writer.append("a", &["one", "two"]);
    let lagging = shows(&pusher, lag, 2.0).await;
    assert_eq!(lagging["lag_max_records"], 2.0);
    let failing = shows_more(&pusher, "push_failures_total{reason=\"failed\"}").await;
    assert_eq!(failing["push_failures_total{reason=\"absent\"}"], 0.0);
    application.mood("a", None);
    shows(&pusher, lag, 0.0).await;
    pusher.stop().await;
}

/// Waits until a series is above 0.
async fn shows_more(pusher: &Pusher, series: &str) -> BTreeMap<String, f64> {
    let mut all = scrape(pusher).await;
    let found = async {
        while all[series] <= 0.0 {
            all = scrape(pusher).await;
        }
    };
    assert!(timeout(DEADLINE, found).await.is_ok(), "{series} stays 0");
    all
}

#[tokio::test]
async fn every_metric_is_explained_to_users() {
    let (writer, application) = (writer_with_a().await, FakeApplication::start().await);
    let pusher = Pusher::start(&writer, &application).await;
    let (_, text) = get(pusher.ops, "/metrics").await;
    let names: Vec<&str> = pyramid_telemetry::metrics::names(&text).collect();
    assert!(names.len() > 15, "{names:?}");
    let documented = include_str!("../../../docs/operating.md");
    let rows = documented.lines().filter_map(|line| line.strip_prefix("| `pyramid_pusher_"));
    let mut explained: Vec<String> = rows
        .map(|row| {
            let name = row.split('`').next().unwrap();
            let name = name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(name);
            format!("pyramid_pusher_{name}")
        })
        .collect();
    let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    names.sort_unstable();
    explained.sort_unstable();
    assert_eq!(explained, names);
    pusher.stop().await;
}
