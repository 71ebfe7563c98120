//! Health and metrics of a whole replica, over the port that kubelet and Prometheus use.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use pyramid_protocol::SystemClock;
use pyramid_protocol::batch::FIXED_LEN;
use pyramid_protocol::net::{Connect, TcpConnect};
use pyramid_protocol::pb::v1 as pb;
use pyramid_storage::MemoryStore;
use pyramid_storage::object_store::{Call, Fault};
use pyramid_tls::Tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::certificates::certificates;
use crate::writer::{
    CLUSTER, DEADLINE, Folder, Writer, append, eventually, read, records, subscription,
};

/// Status and body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    ask(TcpStream::connect(address).await.ok()?, path).await
}

async fn ask(mut connection: TcpStream, path: &str) -> Option<(u16, String)> {
    let asked = async {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        connection.write_all(request.as_bytes()).await.ok()?;
        let mut response = String::new();
        connection.read_to_string(&mut response).await.ok()?;
        let (head, body) = response.split_once("\r\n\r\n")?;
        Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
    };
    timeout(DEADLINE, asked).await.expect("an answer comes")
}

/// Started, alive, ready; and why it is not ready.
async fn health(writer: &Writer) -> ([u16; 3], String) {
    let mut answers = Vec::new();
    for path in ["/startupz", "/healthz", "/readyz"] {
        answers.push(get(writer.ops, path).await.unwrap());
    }
    let why = answers[2].1.clone();
    ([answers[0].0, answers[1].0, answers[2].0], why)
}

/// All series, by name and labels without the prefix.
async fn scrape(writer: &Writer) -> BTreeMap<String, f64> {
    let (status, text) = get(writer.ops, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let name = name.strip_prefix("pyramid_writer_").unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    series.collect()
}

/// Waits until a series has a value.
pub(crate) async fn shows(writer: &Writer, series: &str, expected: f64) -> BTreeMap<String, f64> {
    eventually(&format!("{series} is {expected}"), || async {
        let all = scrape(writer).await;
        (all.get(series) == Some(&expected)).then_some(all)
    })
    .await
}

/// Bytes of the records of one append.
fn encoded_len(values: &[&str]) -> f64 {
    records(values).bytes().len() as f64
}

fn values<const N: usize>(all: &BTreeMap<String, f64>, names: [&str; N]) -> [f64; N] {
    names.map(|name| *all.get(name).unwrap_or_else(|| panic!("{name} is missing")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_ready_from_when_it_serves_until_it_stops() {
    let folder = Folder::new();
    let mut writer = folder.start(&[]).await;
    let waits = "no: it holds no data and waits to be founded (Admin.Bootstrap)\n";
    assert_eq!(health(&writer).await, ([200, 200, 503], waits.to_owned()));
    assert_eq!(scrape(&writer).await["serving"], 0.0);
    writer.bootstrap(CLUSTER).await.unwrap();
    assert_eq!(health(&writer).await, ([200, 200, 200], "ok\n".to_owned()));
    // What was collected a moment ago is answered again.
    shows(&writer, "serving", 1.0).await;
    // Opened before, so that it is this replica that answers, whoever gets the port afterwards.
    let connection = TcpStream::connect(writer.ops).await.unwrap();
    // Connections are taken in their order: with this one, the one before is.
    get(writer.ops, "/healthz").await.unwrap();
    let stopping = writer.begin_stop();
    let answer = ask(connection, "/readyz").await;
    assert_eq!(answer, Some((503, "no: it stops\n".to_owned())));
    stopping.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_serve_yet_has_started_and_is_not_ready() {
    let folder = Folder::new();
    folder.found(&[]).await.stop().await;
    let mut config = folder.config(&[]);
    // It never stands for election, so it has read its log and does not serve.
    config.timing.election_min = DEADLINE * 10;
    config.timing.election_max = DEADLINE * 20;
    let writer = folder.begin_start(config).await;
    let waits = "no: it has read its log and waits for a leader\n".to_owned();
    eventually("it has read its log", || async {
        (health(&writer).await == ([200, 200, 503], waits.clone())).then_some(())
    })
    .await;
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_and_reads_are_counted() {
    let folder = Folder::new();
    let mut writer = folder.found(&["--chunk-age-ms", "3600000"]).await;
    writer.put_stream("a").await;
    let before = scrape(&writer).await;
    let names = [
        "appends_total",
        "appended_records_total",
        "append_latency_seconds_count",
        "refusals_total{call=\"append\",reason=\"NOT_FOUND\"}",
        "sent_bytes_total{from=\"live\"}",
        "sent_bytes_total{from=\"chunk\"}",
        "locations_total",
        "stream_next_offset{stream=\"a\"}",
        "streams",
        "leader",
        "leader_known",
    ];
    let expected = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0];
    assert_eq!(values(&before, names), expected);

    writer.append("a", &["one", "two"]).await;
    writer.append("a", &["three"]).await;
    let mut session = writer.session().await;
    session.append(append("missing", &["x"])).await.unwrap_err();
    writer.values("a", 0).await;
    let after = shows(&writer, names[3], 1.0).await;
    let [appends, records, latencies, _, live, chunk, locations, next, ..] = values(&after, names);
    assert_eq!(
        [appends, records, latencies, chunk, locations, next],
        [2.0, 3.0, 2.0, 0.0, 0.0, 3.0]
    );
    let bytes = encoded_len(&["one", "two"]) + encoded_len(&["three"]);
    assert_eq!((after["appended_bytes_total"], after["live_bytes"]), (bytes, bytes));
    assert_eq!(live, bytes + 2.0 * FIXED_LEN as f64);
    assert!(after["wal_sync_seconds_count"] >= 2.0);
    assert!(after["wal_used_bytes"] > before["wal_used_bytes"]);
    assert_eq!(after["open_calls{call=\"append\"}"], 1.0);
    assert!(after["connections{port=\"writer\"}"] >= 1.0);
    let indexes = values(&after, ["committed_index", "applied_index"]);
    assert!(indexes[0] >= 3.0 && indexes[1] >= 3.0, "{indexes:?}");

    writer.trim("missing", 1).await.unwrap_err();
    shows(&writer, "refusals_total{call=\"other\",reason=\"NOT_FOUND\"}", 1.0).await;
    drop(session);
    shows(&writer, "open_calls{call=\"append\"}", 0.0).await;
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shipping_is_counted_and_so_is_its_trouble() {
    let folder = Folder::new();
    let store = Arc::new(MemoryStore::new());
    let mut writer = folder.found_on(&store, &["--chunk-age-ms", "3600000"]).await;
    writer.put_stream("a").await;
    writer.append("a", &["one", "two"]).await;
    // The first call fails, then all goes well.
    store.fail_next(Call::Put, Fault::FailBefore);
    writer.seal("a").await;
    let shipped = shows(&writer, "chunks_shipped_total", 1.0).await;
    let names = [
        "uploads_total",
        "upload_failures_total{reason=\"store\"}",
        "upload_latency_seconds_count",
        "open_seals",
        "open_seal_age_max_seconds",
        "live_bytes",
        "store_calls_total{call=\"put\",result=\"unavailable\"}",
    ];
    assert_eq!(values(&shipped, names), [2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let batch = encoded_len(&["one", "two"]) + FIXED_LEN as f64;
    // With its tag and its length.
    assert_eq!(shipped["chunks_shipped_plain_bytes_total"], batch + 2.0);
    assert!(shipped["chunks_shipped_stored_bytes_total"] > 224.0);
    // cluster.json, the key object, the chunk.
    assert_eq!(shipped["store_calls_total{call=\"put\",result=\"ok\"}"], 3.0);
    assert!(shipped["store_sent_bytes_total"] > shipped["chunks_shipped_stored_bytes_total"]);

    writer.values("a", 0).await;
    writer.read(pb::ReadRequest { want_locations: true, ..read("a", 0) }).await;
    let sent = shows(&writer, "locations_total", 1.0).await;
    assert_eq!(sent["sent_bytes_total{from=\"chunk\"}"], batch);
    assert_eq!(sent["sent_bytes_total{from=\"live\"}"], 0.0);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_shipped_is_seen_to_get_older() {
    let folder = Folder::new();
    let store = Arc::new(MemoryStore::new());
    let mut writer = folder.found_on(&store, &["--chunk-age-ms", "3600000"]).await;
    writer.put_stream("a").await;
    writer.append("a", &["one"]).await;
    store.fail_next(Call::Put, Fault::Hang);
    writer.seal_only("a").await;
    shows(&writer, "open_seals", 1.0).await;
    eventually("the age shows", || async {
        (scrape(&writer).await["open_seal_age_max_seconds"] > 0.0).then_some(())
    })
    .await;
    // A store that is away is no reason to move clients or to restart.
    assert_eq!(health(&writer).await.0, [200, 200, 200]);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_shown_of_each_attached_pusher() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let info = writer.put_stream("a").await;
    writer.append("a", &["1", "2", "3"]).await;
    writer.put_subscription(subscription("s", 1, &["a"])).await.unwrap();
    let hello = pb::AttachHello { subscription: "s".into(), pod: "p".into(), ..Default::default() };
    let accepted = pb::Position { stream_id: info.stream_id, epoch: info.epoch, offset: 1 };
    let report =
        pb::StreamReport { stream: "a".into(), accepted: Some(accepted), ..Default::default() };
    let report = pb::AttachReport { streams: vec![report] };
    let messages =
        [pb::attach_request::Message::Hello(hello), pb::attach_request::Message::Report(report)];
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    for message in messages {
        sender.send(pb::AttachRequest { message: Some(message) }).await.unwrap();
    }
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let _told = writer.calls.attach(requests).await.unwrap();
    let series = "pusher_lag_records{subscription=\"s\",stream=\"a\",pod=\"p\"}";
    let all = shows(&writer, series, 2.0).await;
    let totals = values(&all, ["lag_records", "lag_max_records", "pushers"]);
    assert_eq!(totals, [2.0, 2.0, 1.0]);
    drop(sender);
    let all = shows(&writer, "pushers", 0.0).await;
    assert_eq!((all.get(series), all["lag_records"]), (None, 0.0));
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn above_a_thousand_streams_only_totals_are_shown() {
    let folder = Folder::new();
    let mut writer = folder.found(&[]).await;
    let of_streams = |all: &BTreeMap<String, f64>| {
        all.keys().filter(|name| name.starts_with("stream_next_offset")).count()
    };
    let names: Vec<String> = (0..1_000).map(|number| format!("s{number}")).collect();
    writer.put_streams(&names).await;
    let all = shows(&writer, "streams", 1_000.0).await;
    assert_eq!(of_streams(&all), 1_000);
    writer.put_stream("one more").await;
    let all = shows(&writer, "streams", 1_001.0).await;
    assert_eq!(of_streams(&all), 0);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_explained_to_users() {
    let folder = Folder::new();
    let writer = folder.found(&[]).await;
    let (_, text) = get(writer.ops, "/metrics").await.unwrap();
    let names = pyramid_telemetry::metrics::names(&text);
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    assert!(names.len() > 40, "{names:?}");
    let documented = include_str!("../../../../docs/operating.md");
    let (_, documented) = documented.split_once("\n## Metrics\n").unwrap();
    // One of the operator's begins like ours.
    let (documented, _) = documented.split_once("\n### Operator").unwrap();
    let rows = documented.lines().filter_map(|line| line.strip_prefix("| `pyramid_writer_"));
    let mut explained: Vec<String> = rows
        .map(|row| {
            let name = row.split('`').next().unwrap();
            let name = name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(name);
            format!("pyramid_writer_{name}")
        })
        .collect();
    names.sort_unstable();
    explained.sort_unstable();
    assert_eq!(explained, names);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_counted_and_refused_ones_by_reason() {
    let folder = Folder::new();
    let [writer_directory, user_directory] = certificates(&folder);
    let writer = folder.start(&["--tls", writer_directory.to_str().unwrap()]).await;
    shows(&writer, "handshakes_total", 0.0).await;
    let user = Tls::open(&user_directory, Arc::new(SystemClock)).unwrap();
    let address = writer.address.to_string();
    let connection = user.connect(Arc::new(TcpConnect)).connect(&address).await;
    drop(connection.expect("the user is let in"));
    let mut plain = TcpStream::connect(writer.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let all = shows(&writer, r#"handshakes_refused_total{reason="not_tls"}"#, 1.0).await;
    let others = r#"handshakes_refused_total{reason="untrusted"}"#;
    assert_eq!(values(&all, ["handshakes_total", others]), [1.0, 0.0]);
    writer.stop().await;
}
