//! From the log to the object store: when, in which order, and whatever the store does.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pyramid_protocol::pb::v1 as pb;
use pyramid_storage::object_store::{
    Call, Condition, Error, Fault, FaultRates, Listing, Object, Version,
};
use pyramid_storage::{ClusterId, MemoryStore, ObjectKey, ObjectNames, ObjectStore, cluster_file};
use tokio::time::Instant;

use crate::writer::{CLUSTER, Folder, Writer, append, eventually, offsets};

fn names() -> ObjectNames {
    ObjectNames::new("", ClusterId::new(CLUSTER)).unwrap()
}

async fn open_seals(writer: &Writer) -> u64 {
    let info = writer.admin.clone().get_info(pb::GetInfoRequest {}).await;
    info.unwrap().into_inner().open_seals
}

/// Base offset and end of each chunk in the store, by base offset.
fn stored_bases(store: &MemoryStore) -> Vec<u64> {
    let chunks = store.objects().into_iter().filter_map(|(key, _)| names().parse_chunk(&key));
    chunks.map(|chunk| chunk.base_offset.get()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_chunk_is_sealed_and_the_rest_stays_live() {
    let folder = Folder::new();
    let store = Arc::new(MemoryStore::new());
    let mut writer = folder.found_on(&store, &[]).await;
    let settings = pb::StreamSettings { chunk_bytes: 1_000, chunk_age_ms: 0 };
    writer.put_stream_with("a", settings).await;
    let large = "x".repeat(450);
    let mut session = writer.session().await;
    for _ in 0..5 {
        session.send(append("a", &[&large])).await;
    }
    for number in 0..5 {
        assert_eq!(offsets(session.answer().await), (number, number + 1));
    }
    let info = eventually("sealing by size", || async {
        let request = pb::GetStreamRequest { stream: "a".into(), min_next_offset: None };
        let info = writer.calls.clone().get_stream(request).await.unwrap().into_inner();
        (info.shipped_offset == 4).then_some(info)
    })
    .await;
    assert_eq!((info.next_offset, info.chunk_count), (5, 2));
    assert_eq!(stored_bases(&store), [0, 2]);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_record_is_sealed_though_the_chunk_is_small() {
    let folder = Folder::new();
    let mut writer = folder.found(&["--chunk-age-ms", "1"]).await;
    writer.put_stream("a").await;
    writer.append("a", &["x"]).await;
    let info = writer.shipped("a").await;
    assert_eq!((info.shipped_offset, info.chunk_count, info.live_bytes), (1, 1, 0));
    writer.stop().await;
}

/// Writes down what is put, in its order.
#[derive(Debug, Default)]
struct Recorder {
    store: MemoryStore,
    puts: Mutex<Vec<String>>,
}

#[async_trait]
impl ObjectStore for Recorder {
    async fn put(&self, key: &ObjectKey, bytes: Bytes, on: Condition) -> Result<Version, Error> {
        let put = self.store.put(key, bytes, on).await;
        self.puts.lock().unwrap().push(key.to_string());
        put
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Object, Error> {
        self.store.get(key, range).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Listing, Error> {
        self.store.list(prefix, after).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Error> {
        self.store.delete(key).await
    }

    async fn locate(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        life: Duration,
    ) -> Result<String, Error> {
        self.store.locate(key, range, life).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_file_comes_first_then_the_streams_key_then_its_chunks() {
    let folder = Folder::new();
    let store = Arc::new(Recorder::default());
    let of_replica = Arc::clone(&store);
    let config = folder.config(&["--object-prefix", "some/where"]);
    let started = folder.try_start_with(config, |parts| parts.store = of_replica).await;
    let mut writer = started.unwrap();
    writer.bootstrap(CLUSTER).await.unwrap();
    let stream_id = writer.put_stream("a").await.stream_id;
    for _ in 0..3 {
        writer.append("a", &["x", "y"]).await;
        assert_eq!(writer.seal("a").await.live_bytes, 0);
    }
    let names = ObjectNames::new("some/where", ClusterId::new(CLUSTER)).unwrap();
    let puts = store.puts.lock().unwrap().clone();
    assert_eq!(puts.len(), 5, "{puts:?}");
    assert_eq!(puts[0], names.cluster_file().to_string());
    let id = pyramid_protocol::StreamId::new(stream_id).unwrap();
    assert!(puts[1].starts_with(&names.key_objects_prefix(id)), "{puts:?}");
    let chunks: Vec<_> = puts[2..]
        .iter()
        .map(|key| names.parse_chunk(&key.parse().unwrap()).unwrap())
        .map(|chunk| (chunk.stream_id, chunk.base_offset.get()))
        .collect();
    assert_eq!(chunks, [(id, 0), (id, 2), (id, 4)]);
    let file = cluster_file::read(&store.store, &names).await.unwrap();
    assert_eq!(file.0.cluster_id, names.cluster_id());
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_store_costs_time_and_nothing_else() {
    const COUNT: u64 = 60;
    let folder = Folder::new();
    let store = Arc::new(MemoryStore::new());
    let mut writer = folder.found_on(&store, &[]).await;
    for stream in ["a", "b", "c"] {
        let settings = pb::StreamSettings { chunk_bytes: 400, chunk_age_ms: 1 };
        writer.put_stream_with(stream, settings).await;
    }
    let rates = FaultRates {
        fail_before: 60,
        timeout_after: 60,
        not_found: 60,
        cut_body: 60,
        wrong_bit: 60,
        delay: 0,
    };
    store.fail_at_random(rates, 7);
    for fault in [Fault::FailBefore, Fault::Refuse, Fault::TimeoutAfter] {
        store.fail_next(Call::Put, fault);
    }
    let expected: Vec<_> = (0..COUNT).map(|n| (n, n.to_string())).collect();
    for (_, value) in &expected {
        for stream in ["a", "b", "c"] {
            assert!(writer.append(stream, &[value]).await.first_offset.is_some());
        }
    }
    for stream in ["a", "b", "c"] {
        let info = writer.shipped(stream).await;
        assert!(info.chunk_count > 1, "too quiet: {info:?}");
    }
    assert!(store.faults_met() >= 5, "too quiet: {}", store.faults_met());
    store.fail_at_random(FaultRates::default(), 7);
    for stream in ["a", "b", "c"] {
        assert_eq!(writer.values(stream, 0).await, expected);
    }
    assert_eq!(open_seals(&writer).await, 0);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_asks_for_a_wait_is_left_alone_for_it() {
    let folder = Folder::new();
    let store = Arc::new(MemoryStore::new());
    let mut writer = folder.found_on(&store, &[]).await;
    writer.put_stream("a").await;
    writer.append("a", &["0"]).await;
    // Ten times the first wait that the shipper would choose itself.
    let wait = Duration::from_secs(1);
    store.fail_next(Call::Put, Fault::Busy(wait));
    let began = Instant::now();
    writer.seal("a").await;
    assert_eq!(store.faults_met(), 1);
    assert!(began.elapsed() >= wait, "{:?}", began.elapsed());
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_a_stop_cut_off_is_taken_up_again() {
    let folder = Folder::new();
    let store = Arc::new(MemoryStore::new());
    let mut writer = folder.found_on(&store, &[]).await;
    writer.put_stream("a").await;
    writer.append("a", &["0"]).await;
    writer.seal("a").await;
    store.fail_next(Call::Put, Fault::Hang);
    writer.append("a", &["1", "2"]).await;
    assert_eq!(writer.seal_only("a").await, 3);
    writer.append("a", &["3"]).await;
    assert_eq!(writer.seal_only("a").await, 4);
    eventually("the hanging put", || async { (store.faults_met() == 1).then_some(()) }).await;
    assert_eq!((open_seals(&writer).await, stored_bases(&store)), (2, vec![0]));
    assert!(writer.append("a", &["4"]).await.first_offset.is_some(), "appends go on");
    writer.stop().await;

    let mut writer = folder.start_on(&store, &[]).await;
    eventually("the uploads", || async { (open_seals(&writer).await == 0).then_some(()) }).await;
    assert_eq!(stored_bases(&store), [0, 1, 3]);
    let expected: Vec<_> = (0..5).map(|n: u64| (n, n.to_string())).collect();
    assert_eq!(writer.values("a", 0).await, expected);
    assert_eq!(writer.info("a").await.shipped_offset, 4);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_deleted_during_its_upload_is_not_waited_for() {
    let folder = Folder::new();
    let store = Arc::new(MemoryStore::new());
    let mut writer = folder.found_on(&store, &[]).await;
    writer.put_stream("a").await;
    writer.append("a", &["0"]).await;
    store.fail_next(Call::Put, Fault::FailBefore);
    writer.seal_only("a").await;
    writer.delete_stream("a").await;
    assert_eq!(open_seals(&writer).await, 0);
    writer.put_stream("a").await;
    writer.append("a", &["anew"]).await;
    writer.seal("a").await;
    assert_eq!(writer.values("a", 0).await, [(0, "anew".to_owned())]);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_is_named_and_nothing_of_it_is_returned() {
    let folder = Folder::new();
    let store = Arc::new(MemoryStore::new());
    let mut writer = folder.found_on(&store, &[]).await;
    writer.put_stream("a").await;
    writer.append("a", &["0", "1"]).await;
    writer.seal("a").await;
    let objects = store.objects();
    let (key, bytes) = objects.iter().find(|(key, _)| key.as_str().ends_with(".pyc")).unwrap();
    let mut damaged = bytes.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    store.tamper(key, damaged.into());
    let items = writer.read(crate::writer::read("a", 0)).await;
    match &items[1..] {
        [pb::read_response::Item::Refused(refusal)] => {
            assert_eq!((refusal.reason(), refusal.retry), (pb::Reason::Damaged, false));
            assert!(refusal.message.contains(key.as_str()), "{}", refusal.message);
        }
        other => panic!("{other:?}"),
    }
    store.tamper(key, bytes.clone());
    let expected = [(0, "0".to_owned()), (1, "1".to_owned())];
    assert_eq!(writer.values("a", 0).await, expected);
    writer.stop().await;
}
