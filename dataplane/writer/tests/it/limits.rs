//! What happens when too much comes: bytes in flight, and the log's budget.

use std::sync::Arc;

use pyramid_protocol::pb::v1::{self as pb, Effect, Reason, Refusal};
use pyramid_storage::MemoryStore;
use pyramid_storage::object_store::FaultRates;
use pyramid_writer::admission::Limits;
use pyramid_writer::config::Config;

use crate::writer::{DEADLINE, Folder, Writer, append, refusal, subscription};

/// Sends appends without waiting for answers, in one session after another, until one is refused
/// with this text. Nothing else may be refused, but what comes behind it in its session.
async fn refused_in_flight(writer: &mut Writer, value: &str, text: &str) -> Refusal {
    let search = async {
        loop {
            let mut session = writer.session().await;
            for _ in 0..50 {
                session.send(append("a", &[value])).await;
            }
            for _ in 0..50 {
                match session.answer().await {
                    Ok(_) => {}
                    Err(refusal) if refusal.message.contains(text) => return refusal,
                    Err(refusal) => panic!("{refusal:?}"),
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, search).await.expect("one is refused")
}

fn check_slow_down(refusal: &Refusal) {
    assert_eq!(
        (refusal.reason(), refusal.effect(), refusal.retry),
        (Reason::ResourceExhausted, Effect::NoEffect, true)
    );
    assert!(refusal.retry_after_ms > 0, "{refusal:?}");
}

fn limited(folder: &Folder, flags: &[&str], process: usize, stream: usize) -> Config {
    let limits = Limits { process_bytes_max: process, stream_bytes_max: stream };
    Config { admission: limits, ..folder.config(flags) }
}

async fn founded(folder: &Folder, config: Config) -> Writer {
    let mut writer = folder.try_start_with(config, |_| {}).await.unwrap();
    writer.bootstrap(super::writer::CLUSTER).await.unwrap();
    writer.put_stream("a").await;
    writer
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_in_flight_is_refused_and_later_taken() {
    for (process, stream, text) in
        [(3_000, 100_000, "the Writer has"), (100_000, 3_000, "the stream has")]
    {
        let folder = Folder::new();
        let mut writer = founded(&folder, limited(&folder, &[], process, stream)).await;
        let refusal = refused_in_flight(&mut writer, &"x".repeat(1_000), text).await;
        check_slow_down(&refusal);
        let next = writer.info("a").await.next_offset;
        // Alone, and larger than the budget.
        let appended = writer.append("a", &[&"x".repeat(200_000)]).await;
        assert!(appended.first_offset.unwrap() >= next);
        writer.stop().await;
    }
}

async fn wal_percent(writer: &mut Writer) -> u64 {
    let info = writer.admin.get_info(pb::GetInfoRequest {}).await.unwrap().into_inner();
    info.wal_bytes * 100 / info.wal_bytes_max
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_fills_up_slows_producers_down_before_it_refuses_them() {
    let folder = Folder::new();
    let flags = ["--wal-bytes-max", "4000000"];
    // Two appends fit into the whole budget, one into the part of it that is left.
    let mut writer = founded(&folder, limited(&folder, &flags, 12_000, 100_000)).await;
    while wal_percent(&mut writer).await < 78 {
        writer.append("a", &[&"x".repeat(100_000)]).await;
    }
    let refusal = refused_in_flight(&mut writer, &"x".repeat(5_000), "fills up").await;
    check_slow_down(&refusal);
    assert!(wal_percent(&mut writer).await < 90);
    assert!(writer.append("a", &["one at a time goes on"]).await.first_offset.is_some());
    writer.stop().await;
}

fn check_full(refusal: &Refusal) {
    assert_eq!(
        (refusal.reason(), refusal.effect(), refusal.retry),
        (Reason::WalFull, Effect::NoEffect, true)
    );
    assert!(refusal.retry_after_ms > 0, "{refusal:?}");
    assert!(refusal.message.contains("--wal-bytes-max"), "it says what to do: {refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_refuses_what_grows_and_goes_on_with_what_frees() {
    let folder = Folder::new();
    let store = Arc::new(MemoryStore::new());
    let mut writer = folder.found_on(&store, &["--wal-bytes-max", "3000000"]).await;
    store.fail_at_random(FaultRates { fail_before: 1_000, ..FaultRates::default() }, 1);
    writer.put_stream("a").await;
    writer.put_stream("b").await;
    writer.put_subscription(subscription("s", 1, &["a"])).await.unwrap();
    writer.append("b", &["x"]).await;
    let large = "x".repeat(250_000);
    let mut expected = Vec::new();
    let full = loop {
        assert!(expected.len() < 12, "the budget of 3 MB holds 12 of 250 kB at most");
        match writer.session().await.append(append("a", &[&large])).await {
            Ok(appended) => expected.push((appended.first_offset.unwrap(), large.clone())),
            Err(refusal) => break refusal,
        }
    };
    check_full(&full);
    assert!(wal_percent(&mut writer).await >= 90);
    check_full(&writer.init_producer("a", "p", None).await.unwrap_err());
    check_full(&writer.put_subscription(subscription("t", 1, &["a"])).await.unwrap_err());
    let cluster_id = super::writer::CLUSTER.to_vec().into();
    let object = Some(pb::ObjectRef { uid: "u".into(), generation: 1 });
    let stream = pb::PutStream { object, name: "c".into(), ..Default::default() };
    let request = pb::PutStreamsRequest { cluster_id, streams: vec![stream] };
    match writer.admin.put_streams(request).await.unwrap().into_inner().results.remove(0).result {
        Some(pb::put_stream_result::Result::Refused(refusal)) => check_full(&refusal),
        other => panic!("{other:?}"),
    }
    let request = pb::GetStreamRequest { stream: "c".into(), min_next_offset: None };
    let missing = refusal(writer.calls.get_stream(request).await.unwrap_err());
    assert_eq!(missing.reason(), Reason::NotFound);

    assert_eq!(writer.values("a", 0).await, expected);
    assert_eq!(writer.trim("a", 1).await, Ok(1));
    assert_eq!(writer.seal_only("a").await, expected.len() as u64);
    writer.delete_stream("b").await;
    assert!(store.faults_met() > 0, "the store fails");
    writer.stop().await;

    // A restart does not make it worse; a larger budget, or a store that works, mends it.
    let mut writer = folder.start_on(&store, &["--wal-bytes-max", "3000000"]).await;
    check_full(&writer.session().await.append(append("a", &["x"])).await.unwrap_err());
    assert_eq!(writer.values("a", 1).await, expected[1..]);
    writer.stop().await;
    store.fail_at_random(FaultRates::default(), 1);
    let mut writer = folder.start_on(&store, &["--wal-bytes-max", "30000000"]).await;
    writer.append("a", &["x"]).await;
    writer.seal("a").await;
    expected.push((expected.len() as u64, "x".to_owned()));
    assert_eq!(writer.values("a", 1).await, expected[1..]);
    writer.stop().await;
}
