//! What becomes of the objects of a deleted stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pyramid_protocol::pb::v1 as pb;
use pyramid_protocol::{Offset, StreamId};
use pyramid_storage::object_names::ChunkName;
use pyramid_storage::object_store::{Call, Condition, Fault};
use pyramid_storage::{ClusterId, MemoryStore, ObjectKey, ObjectNames, ObjectStore};
use tokio::time::{Instant, timeout};

use crate::writer::{CLUSTER, DEADLINE, Folder, Writer};

/// As short as URLs may live.
const FLAGS: [&str; 2] = ["--url-life-seconds", "1"];
const WAIT: Duration = Duration::from_secs(2);

fn names() -> ObjectNames {
    ObjectNames::new("", ClusterId::new(CLUSTER)).unwrap()
}

fn id(stream_id: u64) -> StreamId {
    StreamId::new(stream_id).unwrap()
}

/// Keys of all objects of a stream.
fn objects_of(store: &MemoryStore, stream_id: u64) -> Vec<ObjectKey> {
    let stream_id = id(stream_id);
    let keys = store.objects().into_iter().map(|(key, _)| key);
    keys.filter(|key| {
        names().parse_chunk(key).is_some_and(|chunk| chunk.stream_id == stream_id)
            || names().parse_key_object(key) == Some(stream_id)
    })
    .collect()
}

/// A stream with two chunks in the store.
async fn shipped(writer: &mut Writer, name: &str) -> u64 {
    let stream_id = writer.put_stream(name).await.stream_id;
    for value in ["x", "y"] {
        writer.append(name, &[value]).await;
        writer.seal(name).await;
    }
    stream_id
}

/// Deletes a stream, or asks again; how many objects are left.
async fn left(writer: &mut Writer, name: &str, stream_id: u64) -> u64 {
    let cluster_id = CLUSTER.to_vec().into();
    let request = pb::DeleteStreamRequest { cluster_id, name: name.into(), stream_id };
    writer.admin.delete_stream(request).await.unwrap().into_inner().objects_left
}

/// Asks until none is left.
async fn gone(writer: &mut Writer, name: &str, stream_id: u64) {
    let none_left = async { while left(writer, name, stream_id).await > 0 {} };
    timeout(DEADLINE, none_left).await.expect("the objects are deleted in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_objects_of_a_deleted_stream_leave_the_store_when_no_reader_can_need_them() {
    let (folder, store) = (Folder::new(), Arc::new(MemoryStore::new()));
    let mut writer = folder.found_on(&store, &FLAGS).await;
    let (a, b) = (shipped(&mut writer, "a").await, shipped(&mut writer, "b").await);
    let of_b = objects_of(&store, b);
    assert_eq!((objects_of(&store, a).len(), of_b.len()), (3, 3));
    // What attempts to upload left behind that were given up.
    let orphan = ChunkName { stream_id: id(a), base_offset: Offset::new(1), intent: 5, r: 9 };
    for key in [names().chunk(&orphan), names().key_object(id(a), 9)] {
        store.put(&key, Bytes::from_static(b"orphan"), Condition::Absent).await.unwrap();
    }

    let deleted = Instant::now();
    assert_eq!(left(&mut writer, "a", a).await, 3, "those that the log knows of");
    assert_eq!(objects_of(&store, a).len(), 5, "a reader may still use its URL");
    let anew = writer.put_stream("a").await.stream_id;
    writer.append("a", &["anew"]).await;
    writer.seal("a").await;
    gone(&mut writer, "a", a).await;
    assert!(deleted.elapsed() >= WAIT, "{:?}", deleted.elapsed());
    assert_eq!(objects_of(&store, a), []);

    assert_eq!(left(&mut writer, "a", a).await, 0, "asked again");
    assert_eq!((objects_of(&store, anew).len(), objects_of(&store, b)), (2, of_b));
    assert_eq!(writer.values("a", 0).await, [(0, "anew".to_owned())]);
    assert_eq!(writer.values("b", 0).await, [(0, "x".to_owned()), (1, "y".to_owned())]);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_goes_on_after_a_restart_and_whatever_the_store_does() {
    let (folder, store) = (Folder::new(), Arc::new(MemoryStore::new()));
    let mut writer = folder.found_on(&store, &FLAGS).await;
    let a = shipped(&mut writer, "a").await;
    shipped(&mut writer, "b").await;
    let deleted = Instant::now();
    assert_eq!(left(&mut writer, "a", a).await, 3);
    writer.stop().await;
    assert_eq!(objects_of(&store, a).len(), 3);
    // Another bucket than the one with the chunks, then one that refuses and one that is away.
    let mut writer = folder.start_on(&store, &FLAGS).await;
    // Each start asks the store for an object that is not there.
    crate::ops::shows(&writer, "store_calls_total{call=\"get\",result=\"not_found\"}", 1.0).await;
    let met = store.faults_met();
    store.fail_next(Call::Get, Fault::NotFound);
    store.fail_next(Call::List, Fault::FailBefore);
    store.fail_next(Call::Delete, Fault::Refuse);
    store.fail_next(Call::Delete, Fault::TimeoutAfter);
    assert!(left(&mut writer, "a", a).await > 0);
    gone(&mut writer, "a", a).await;
    assert_eq!(store.faults_met() - met, 4);
    assert!(deleted.elapsed() >= WAIT, "{:?}", deleted.elapsed());
    assert_eq!(objects_of(&store, a), []);
    writer.stop().await;

    let mut writer = folder.start_on(&store, &FLAGS).await;
    assert_eq!(left(&mut writer, "a", a).await, 0, "the log knows that all are gone");
    assert_eq!(writer.values("b", 0).await.len(), 2);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_objects_waits_for_nobody() {
    let (folder, store) = (Folder::new(), Arc::new(MemoryStore::new()));
    let mut writer = folder.found_on(&store, &[]).await;
    let a = writer.put_stream("a").await.stream_id;
    writer.append("a", &["x"]).await;
    assert_eq!(left(&mut writer, "a", a).await, 0);
    // One whose chunk cannot be stored yet may have an object that nobody knows of.
    store.fail_next(Call::Put, Fault::Busy(DEADLINE));
    let b = writer.put_stream("b").await.stream_id;
    writer.append("b", &["x"]).await;
    writer.seal_only("b").await;
    assert_eq!(left(&mut writer, "b", b).await, 1);
    writer.stop().await;
}
