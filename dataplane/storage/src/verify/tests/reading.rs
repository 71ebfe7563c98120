//! Stores that fail, progress, memory and parallelism.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use pyramid_protocol::Entropy;

use super::fixture::{Bucket, CLUSTER, counts, span};
use crate::{
    chunk::fixture::batch,
    cluster_id::ClusterId,
    object_names::ObjectNames,
    object_store::{
        Call, Condition, DirectoryStore, Error as StoreError, Fault, FaultRates, Listing,
        MemoryStore, Object, ObjectKey, ObjectStore, Version,
    },
    verify::{
        Cluster, Error, Kind, Options, Progress, UNREADABLE_MAX, clusters,
        reading::{PIECE_LEN, TRIES_MAX},
        verify,
    },
};

/// Watches what is asked, and does not deliver some objects.
#[derive(Debug)]
struct Watched {
    store: Arc<MemoryStore>,
    lost: Vec<ObjectKey>,
    fault: StoreError,
    gets: AtomicU64,
    longest: AtomicU64,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
}

impl Watched {
    fn new(bucket: &Bucket, lost: Vec<ObjectKey>, fault: StoreError) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(&bucket.store),
            lost,
            fault,
            gets: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            at_once: AtomicUsize::new(0),
            at_once_max: AtomicUsize::new(0),
        })
    }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn put(&self, _: &ObjectKey, _: Bytes, _: Condition) -> Result<Version, StoreError> {
        panic!("a verification writes nothing")
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Object, StoreError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.at_once_max.fetch_max(at_once, Ordering::Relaxed);
        self.longest.fetch_max(range.end - range.start, Ordering::Relaxed);
        // Long enough that all that may run does.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let answer = if self.lost.contains(key) {
            Err(self.fault.clone())
        } else {
            self.store.get(key, range).await
        };
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Listing, StoreError> {
        self.store.list(prefix, after).await
    }

    async fn delete(&self, _: &ObjectKey) -> Result<(), StoreError> {
        panic!("a verification deletes nothing")
    }

    async fn locate(
        &self,
        _: &ObjectKey,
        _: Range<u64>,
        _: Duration,
    ) -> Result<String, StoreError> {
        panic!("a verification hands out nothing")
    }
}

fn unavailable() -> StoreError {
    let (key, reason) = ("it".to_owned(), "busy".to_owned());
    StoreError::Unavailable { action: "get", key, reason, wait: None }
}

async fn verify_on(
    bucket: &Bucket,
    store: Arc<dyn ObjectStore>,
    options: &Options,
) -> Result<crate::verify::Report, Error> {
    verify(store, &bucket.names, &bucket.keks, options, &mut |_| {}).await
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_is_waited_for() {
    let bucket = Bucket::full().await;
    let clean = bucket.verify().await;
    for call in [Call::Get, Call::List] {
        for fault in [Fault::FailBefore, Fault::TimeoutAfter, Fault::Hang] {
            for _ in 1..TRIES_MAX {
                bucket.store.fail_next(call, fault.clone());
            }
            let before = bucket.store.faults_met();
            // One call at a time, so that all faults meet the same one.
            let options = Options { parallel: 1, ..Options::default() };
            assert_eq!(bucket.verify_with(&options).await.as_ref(), Ok(&clean), "{fault:?}");
            assert_eq!(bucket.store.faults_met() - before, u64::from(TRIES_MAX - 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_were_changed_on_the_way_are_read_again() {
    let bucket = Bucket::full().await;
    let options = Options { parallel: 1, ..Options::default() };
    // cluster.json and two key objects are read before the first chunk.
    for skipped in [3, 4, 8] {
        for _ in 0..skipped {
            bucket.store.fail_next(Call::Get, Fault::Delay(Duration::ZERO));
        }
        bucket.store.fail_next(Call::Get, Fault::WrongBit { bit: 2_000 });
        assert!(bucket.verify_with(&options).await.unwrap().is_clean());
    }
    // Twice is damage.
    for (count, fault) in [(3, Fault::Delay(Duration::ZERO)), (2, Fault::WrongBit { bit: 2_000 })] {
        for _ in 0..count {
            bucket.store.fail_next(Call::Get, fault.clone());
        }
    }
    assert_eq!(bucket.verify_with(&options).await.unwrap().findings[0].kind, Kind::Damaged);
}

#[tokio::test(start_paused = true)]
async fn random_failures_and_delays_change_nothing() {
    let bucket = Bucket::full().await;
    let clean = bucket.verify().await;
    let rates =
        FaultRates { fail_before: 80, timeout_after: 50, delay: 300, ..FaultRates::default() };
    bucket.store.fail_at_random(rates, 7);
    for _ in 0..20 {
        assert_eq!(bucket.verify().await, clean);
    }
    assert!(bucket.store.faults_met() > 50);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_not_delivered_is_unreadable_and_not_damaged() {
    let bucket = Bucket::full().await;
    let key = bucket.streams["orders"].key(1).clone();
    let refused =
        StoreError::Refused { action: "get", key: "it".to_owned(), reason: "no right".to_owned() };
    for (fault, tries) in [(unavailable(), TRIES_MAX), (refused, 1)] {
        let reason = fault.to_string();
        let store = Watched::new(&bucket, vec![key.clone()], fault);
        let report = verify_on(&bucket, store.clone(), &Options::default()).await.unwrap();
        let kind = Kind::Unreadable { reason };
        let expected = bucket.finding(kind, Some(&key), "orders", span(10, 20));
        assert_eq!(report.findings, [expected]);
        assert_eq!(counts(&report)["orders"], (3, 30, 0, 40));
        assert_eq!(store.gets.load(Ordering::Relaxed), 8 + u64::from(tries));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_delivers_nothing_ends_the_run() {
    let mut bucket = Bucket::full().await;
    for _ in 0..UNREADABLE_MAX {
        bucket.ship("orders");
    }
    let mut chunks: Vec<_> =
        bucket.streams["orders"].chunks.iter().map(|chunk| chunk.key().clone()).collect();
    chunks.truncate(usize::try_from(UNREADABLE_MAX).unwrap());
    let store = Watched::new(&bucket, chunks.clone(), unavailable());
    let error = verify_on(&bucket, store, &Options::default()).await.unwrap_err();
    assert_eq!(error, Error::GaveUp { reason: unavailable().to_string() });
    chunks.pop();
    let store = Watched::new(&bucket, chunks, unavailable());
    let report = verify_on(&bucket, store, &Options::default()).await.unwrap();
    assert_eq!(report.finding_count, UNREADABLE_MAX - 1);

    for _ in 0..TRIES_MAX {
        bucket.store.fail_next(Call::List, Fault::FailBefore);
    }
    let error = bucket.verify_with(&Options::default()).await.unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Unavailable { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn as_many_objects_as_allowed_are_read_at_once_and_progress_is_told() {
    let mut bucket = Bucket::full().await;
    for _ in 0..20 {
        bucket.ship("orders");
    }
    let clean = bucket.verify().await;
    for parallel in [1, 3, 4] {
        let store = Watched::new(&bucket, Vec::new(), unavailable());
        let options = Options { parallel, ..Options::default() };
        let mut told = Vec::new();
        let mut progress = |progress: Progress| told.push(progress);
        let names = &bucket.names;
        let store_dyn = Arc::clone(&store) as Arc<dyn ObjectStore>;
        let report = verify(store_dyn, names, &bucket.keks, &options, &mut progress).await;
        assert_eq!(report.as_ref(), Ok(&clean));
        assert_eq!(store.at_once_max.load(Ordering::Relaxed), parallel);
        assert_eq!(u64::try_from(told.len()), Ok(clean.objects));
        assert!(told.is_sorted_by_key(|progress| (progress.objects, progress.bytes)));
        let last = Progress { objects: clean.objects, bytes: clean.bytes };
        assert_eq!(told.last(), Some(&last));
    }
}

#[tokio::test]
async fn a_chunk_that_is_longer_than_a_piece_is_read_in_pieces() {
    let mut bucket = Bucket::new().await;
    bucket.add_stream("large", 1);
    // Random, so that it stays as long as it is.
    let batches: Vec<_> = (0..12)
        .map(|number| {
            let mut value = vec![0; 1_000_000];
            bucket.entropy.fill(&mut value);
            batch(number, 1_000, &[value])
        })
        .collect();
    let sealed = bucket.seal("large", &batches, |_| {});
    bucket.put(&sealed);
    let store = Watched::new(&bucket, Vec::new(), unavailable());
    let report = verify_on(&bucket, store.clone(), &Options::default()).await.unwrap();
    assert!(report.is_clean());
    assert_eq!(counts(&report)["large"], (1, 12, 0, 12));
    assert_eq!(store.longest.load(Ordering::Relaxed), PIECE_LEN);
    // cluster.json, the key, and three pieces of four frames.
    assert_eq!(store.gets.load(Ordering::Relaxed), 5);
    let len = sealed.bytes().len();
    for at in [len / 2, len - 1] {
        bucket.flip(sealed.key(), at);
        let found = bucket.verify().await.findings;
        let expected = bucket.finding(Kind::Damaged, Some(sealed.key()), "large", span(0, 12));
        assert_eq!(found, [expected], "byte {at}");
        bucket.flip(sealed.key(), at);
    }
}

#[tokio::test]
async fn a_directory_is_verified_as_memory_is() {
    let bucket = Bucket::full().await;
    let folder = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(folder.path()).await.unwrap();
    for (key, bytes) in bucket.store.objects() {
        store.put(&key, bytes, Condition::Absent).await.unwrap();
    }
    let store = Arc::new(store);
    let report = verify_on(&bucket, store.clone(), &Options::default()).await;
    assert_eq!(report, Ok(bucket.verify().await));
    let key = bucket.streams["orders"].key(1);
    let file = folder.path().join(key.as_str());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[300] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let report = verify_on(&bucket, store, &Options::default()).await.unwrap();
    let expected = bucket.finding(Kind::Damaged, Some(key), "orders", span(10, 20));
    assert_eq!(report.findings, [expected]);
}

#[tokio::test]
async fn clusters_are_found_below_their_prefix() {
    let bucket = Bucket::full().await;
    let [second, lost] = [ClusterId::new([0x0a; 16]), ClusterId::new([0xff; 16])];
    let put = |key: String| bucket.store.tamper(&key.parse().unwrap(), Bytes::new());
    put(ObjectNames::new("dev/a", second).unwrap().cluster_file().to_string());
    put(format!("dev/a/{lost}/k/1.pyk"));
    // Others' things before, between and behind.
    for name in ["0", "cc/deep/file", "zz", "c1-x/file", "c1c1/file"] {
        put(format!("dev/a/{name}"));
    }
    put(format!("dev/a/{}", ClusterId::new([0xdd; 16])));
    put(format!("dev/ab/{second}/cluster.json"));
    let find = async |prefix| {
        let store = Arc::clone(&bucket.store) as Arc<dyn ObjectStore>;
        clusters(store, prefix).await.unwrap()
    };
    let expected = [
        Cluster { id: second, has_cluster_file: true },
        Cluster { id: CLUSTER, has_cluster_file: true },
        Cluster { id: lost, has_cluster_file: false },
    ];
    assert_eq!(find("dev/a").await, expected);
    assert_eq!(find("dev").await, []);
    assert_eq!(find("").await, []);
    put(format!("{second}/cluster.json"));
    assert_eq!(find("").await, [Cluster { id: second, has_cluster_file: true }]);
}
