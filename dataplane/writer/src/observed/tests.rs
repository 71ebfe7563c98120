use pyramid_storage::MemoryStore;
use pyramid_telemetry::metrics::{Registry, text};

use super::*;
use crate::disk::SimDisk;

#[test]
fn syncs_are_timed_of_files_that_were_opened_and_reads_beat() {
    let (reads, syncs) = (Pulse::default(), Histogram::default());
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let disk = ObservedDisk { disk, reads: reads.clone(), syncs: syncs.clone() };
    disk.create("a").unwrap().sync().unwrap();
    assert_eq!((syncs.count(), reads.beats()), (0, 0));
    let file = disk.open("a").unwrap();
    file.write_at(b"abc", 0).unwrap();
    file.sync().unwrap();
    assert_eq!((syncs.count(), reads.beats()), (1, 0));
    let mut buffer = [0; 4];
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 3);
    assert_eq!((syncs.count(), reads.beats()), (1, 1));
}

#[tokio::test]
async fn calls_of_the_store_are_counted_by_what_became_of_them() {
    let metrics = Arc::new(Metrics::default());
    let store =
        ObservedStore { store: Arc::new(MemoryStore::new()), metrics: Arc::clone(&metrics) };
    let key: ObjectKey = "a".parse().unwrap();
    store.put(&key, Bytes::from_static(b"abcd"), Condition::Absent).await.unwrap();
    store.put(&key, Bytes::from_static(b"other"), Condition::Absent).await.unwrap_err();
    store.get(&key, 0..3).await.unwrap();
    store.get(&"b".parse().unwrap(), 0..3).await.unwrap_err();
    store.list("", None).await.unwrap();
    store.locate(&key, 0..3, Duration::from_secs(1)).await.unwrap();
    store.delete(&key).await.unwrap();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let text = text(&registry);
    let counted: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("store_calls_total") && !line.ends_with(" 0"))
        .filter_map(|line| line.strip_prefix("store_calls_total"))
        .collect();
    let expected = [
        "{call=\"put\",result=\"ok\"} 1",
        "{call=\"put\",result=\"condition_failed\"} 1",
        "{call=\"get\",result=\"ok\"} 1",
        "{call=\"get\",result=\"not_found\"} 1",
        "{call=\"list\",result=\"ok\"} 1",
        "{call=\"delete\",result=\"ok\"} 1",
        "{call=\"locate\",result=\"ok\"} 1",
    ];
    assert_eq!(counted, expected);
    for line in ["store_sent_bytes_total 4\n", "store_received_bytes_total 3\n"] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
