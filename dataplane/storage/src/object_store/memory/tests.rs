use std::time::Duration;

use bytes::Bytes;

use super::MemoryStore;
use crate::object_store::{Call, Condition, Error, Fault, FaultRates, ObjectKey, ObjectStore};

const CONTENT: Bytes = Bytes::from_static(b"content");

fn key() -> ObjectKey {
    "a".parse().unwrap()
}

async fn put(store: &MemoryStore) -> Result<(), Error> {
    store.put(&key(), CONTENT, Condition::Absent).await.map(|_| ())
}

#[tokio::test]
async fn faults_happen_once_in_their_order_and_to_their_call() {
    let store = MemoryStore::new();
    store.fail_next(Call::Put, Fault::FailBefore);
    store.fail_next(Call::Put, Fault::TimeoutAfter);
    assert_eq!(store.list("", None).await.unwrap().objects, []);
    assert!(matches!(put(&store).await, Err(Error::Unavailable { .. })));
    assert_eq!(store.objects(), [], "failed before");
    assert!(matches!(put(&store).await, Err(Error::Unavailable { .. })));
    assert_eq!(store.objects(), [(key(), CONTENT)], "the answer was lost");
    assert!(matches!(put(&store).await, Err(Error::ConditionFailed { .. })));
    assert_eq!(store.faults_met(), 2);
}

#[tokio::test]
async fn bodies_are_cut_and_changed_for_one_answer_only() {
    let store = MemoryStore::new();
    put(&store).await.unwrap();
    store.fail_next(Call::Get, Fault::CutBody { len: 4 });
    store.fail_next(Call::Get, Fault::CutBody { len: 4 });
    store.fail_next(Call::Get, Fault::WrongBit { bit: 8 });
    store.fail_next(Call::Get, Fault::NotFound);
    store.fail_next(Call::Get, Fault::Refuse);
    for (range, expected) in [(0..7, "cont"), (2..7, "nt"), (0..7, "cnntent")] {
        let object = store.get(&key(), range).await.unwrap();
        assert_eq!(object.bytes, Bytes::from_static(expected.as_bytes()));
    }
    assert!(matches!(store.get(&key(), 0..7).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.get(&key(), 0..7).await, Err(Error::Refused { .. })));
    assert_eq!(store.get(&key(), 0..7).await.unwrap().bytes, CONTENT);
}

#[tokio::test(start_paused = true)]
async fn calls_are_late_or_never_end() {
    let store = MemoryStore::new();
    store.fail_next(Call::Put, Fault::Delay(Duration::from_secs(5)));
    let start = tokio::time::Instant::now();
    put(&store).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    store.fail_next(Call::Delete, Fault::Hang);
    let key = key();
    let delete = store.delete(&key);
    assert!(tokio::time::timeout(Duration::from_secs(3600), delete).await.is_err());
    assert_eq!(store.objects().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn random_faults_depend_on_the_seed_only() {
    let rates = FaultRates { fail_before: 100, timeout_after: 100, ..FaultRates::default() };
    let mut traces = Vec::new();
    for seed in [1, 1, 2] {
        let store = MemoryStore::new();
        store.fail_at_random(rates, seed);
        let mut trace = Vec::new();
        for _ in 0..200 {
            trace.push(store.put(&key(), CONTENT, Condition::None).await.is_ok());
        }
        assert!((20..60).contains(&store.faults_met()), "{}", store.faults_met());
        store.fail_at_random(FaultRates::default(), seed);
        assert!(store.get(&key(), 0..1).await.is_ok());
        traces.push(trace);
    }
    assert_eq!(traces[0], traces[1]);
    assert_ne!(traces[0], traces[2]);
}
