//! What every store must do. Run on the directory and on memory.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::task::JoinSet;

use super::{
    Condition, DirectoryStore, Error, LISTING_LEN_MAX, Listed, Listing, MemoryStore, ObjectKey,
    ObjectStore, Version,
};

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Both stores, and what keeps the directory.
async fn stores() -> ([Arc<dyn ObjectStore>; 2], tempfile::TempDir) {
    let root = tempfile::tempdir().unwrap();
    let directory = DirectoryStore::open(root.path()).await.unwrap();
    ([Arc::new(directory), Arc::new(MemoryStore::new())], root)
}

async fn whole(store: &dyn ObjectStore, of: &str) -> Result<Bytes, Error> {
    store.get(&key(of), 0..u64::MAX).await.map(|object| object.bytes)
}

fn not_found<T>(key: &str) -> Result<T, Error> {
    Err(Error::NotFound { key: key.to_owned() })
}

#[tokio::test]
async fn an_object_is_read_as_it_was_put_until_it_is_deleted() {
    let (stores, _root) = stores().await;
    for store in stores {
        assert_eq!(whole(&*store, "a/b/c").await, not_found("a/b/c"));
        store.put(&key("a/b/c"), bytes("one"), Condition::None).await.unwrap();
        assert_eq!(whole(&*store, "a/b/c").await, Ok(bytes("one")));
        store.put(&key("a/b/c"), bytes("two"), Condition::None).await.unwrap();
        assert_eq!(whole(&*store, "a/b/c").await, Ok(bytes("two")));
        assert_eq!(whole(&*store, "a/b").await, not_found("a/b"));
        assert_eq!(whole(&*store, "a/b/c/d").await, not_found("a/b/c/d"));
        for _ in 0..2 {
            assert_eq!(store.delete(&key("a/b/c")).await, Ok(()));
        }
        assert_eq!(store.delete(&key("a/b/c/d/e")).await, Ok(()));
        assert_eq!(whole(&*store, "a/b/c").await, not_found("a/b/c"));
    }
}

#[tokio::test]
async fn a_range_is_cut_at_the_end_of_the_object() {
    let (stores, _root) = stores().await;
    for store in stores {
        store.put(&key("a"), bytes("0123456789"), Condition::None).await.unwrap();
        for (range, expected) in [
            (0..10, "0123456789"),
            (0..4, "0123"),
            (3..4, "3"),
            (8..100, "89"),
            (10..11, ""),
            (u64::MAX - 1..u64::MAX, ""),
            (4..4, ""),
            (0..0, ""),
        ] {
            let object = store.get(&key("a"), range.clone()).await.unwrap();
            assert_eq!((object.bytes, object.total_len), (bytes(expected), 10), "{range:?}");
        }
    }
}

#[tokio::test]
async fn conditions_hold_or_nothing_is_written() {
    let (stores, _root) = stores().await;
    for store in stores {
        let failed = || Err(Error::ConditionFailed { key: "a".to_owned() });
        let put = |content, condition| {
            let store = Arc::clone(&store);
            async move { store.put(&key("a"), bytes(content), condition).await }
        };
        assert_eq!(put("x", Condition::Unchanged(Version::new("1"))).await, failed());
        assert_eq!(whole(&*store, "a").await, not_found("a"));

        let first = put("first", Condition::Absent).await.unwrap();
        assert_eq!(put("x", Condition::Absent).await, failed());
        assert_eq!(whole(&*store, "a").await, Ok(bytes("first")));
        let read = store.get(&key("a"), 0..100).await.unwrap();
        assert_eq!(read.version.as_ref(), Some(&first));

        let second = put("second", Condition::Unchanged(first.clone())).await.unwrap();
        assert_eq!(put("x", Condition::Unchanged(first)).await, failed());
        assert_eq!(whole(&*store, "a").await, Ok(bytes("second")));
        store.delete(&key("a")).await.unwrap();
        assert_eq!(put("x", Condition::Unchanged(second)).await, failed());
        put("third", Condition::Absent).await.unwrap();
    }
}

/// Contents of those puts that were done, of 16 at once.
async fn race(store: &Arc<dyn ObjectStore>, condition: &Condition, first: u8) -> Vec<Bytes> {
    let mut putters = JoinSet::new();
    for number in first..first + 16 {
        let (store, condition) = (Arc::clone(store), condition.clone());
        putters.spawn(async move {
            let content = Bytes::from(vec![number; 10_000]);
            match store.put(&key("race/a"), content.clone(), condition).await {
                Ok(_) => Some(content),
                Err(error) => {
                    assert_eq!(error, Error::ConditionFailed { key: "race/a".to_owned() });
                    None
                }
            }
        });
    }
    putters.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_16_conditional_puts_at_once_exactly_one_is_done() {
    let (stores, _root) = stores().await;
    for store in stores {
        let winners = race(&store, &Condition::Absent, 0).await;
        assert_eq!(winners.len(), 1);
        let object = store.get(&key("race/a"), 0..100_000).await.unwrap();
        assert_eq!(object.bytes, winners[0]);

        // Other contents: a store may give equal contents equal versions.
        let condition = Condition::Unchanged(object.version.unwrap());
        let winners = race(&store, &condition, 16).await;
        assert_eq!(winners.len(), 1);
        assert_eq!(whole(&*store, "race/a").await, Ok(winners[0].clone()));
    }
}

/// All keys below `prefix`, page by page.
async fn listed(store: &dyn ObjectStore, prefix: &str) -> Vec<Listed> {
    let mut listed = Vec::new();
    loop {
        let after = listed.last().map(|last: &Listed| last.key.clone());
        let Listing { objects, more } = store.list(prefix, after.as_ref()).await.unwrap();
        assert_eq!(objects.len() == LISTING_LEN_MAX, more || objects.len() == LISTING_LEN_MAX);
        assert!(!more || objects.len() == LISTING_LEN_MAX, "a page before the last one is full");
        listed.extend(objects);
        if !more {
            return listed;
        }
    }
}

#[tokio::test]
async fn keys_are_listed_in_order_whole_and_below_their_prefix() {
    let (stores, _root) = stores().await;
    // "-" and "." come before "/", "0" behind it.
    let keys = ["a/b", "a-b", "a.b", "a/b-c/d", "a0", "ab/c", "a/b.c", "b", "a/b0/x"];
    for store in stores {
        for text in keys {
            store.put(&key(text), bytes("12345"), Condition::None).await.unwrap_or_else(|error| {
                panic!("{text}: {error}");
            });
        }
        let mut sorted = keys;
        sorted.sort_unstable();
        for prefix in ["", "a", "a/", "a/b", "a/b-", "a-b", "b", "b/", "c", "a/b-c/d", "/"] {
            let expected: Vec<_> = sorted
                .iter()
                .filter(|key| key.starts_with(prefix))
                .map(|text| Listed { key: key(text), len: 5 })
                .collect();
            assert_eq!(listed(&*store, prefix).await, expected, "prefix {prefix:?}");
        }
        for (position, after) in sorted.iter().enumerate() {
            let listing = store.list("", Some(&key(after))).await.unwrap();
            let found: Vec<_> = listing.objects.iter().map(|one| one.key.to_string()).collect();
            assert_eq!(found, sorted[position + 1..], "after {after}");
        }
        let between = store.list("a/", Some(&key("a/a"))).await.unwrap();
        assert_eq!(between.objects.len(), 4);
        assert_eq!(store.list("a/", Some(&key("zzz"))).await, Ok(Listing::default()));
    }
}

#[tokio::test]
async fn a_listing_of_several_pages_misses_and_repeats_nothing() {
    let root = tempfile::tempdir().unwrap();
    // Written as files: 2,100 synced puts would take their time.
    let directory = DirectoryStore::open(root.path()).await.unwrap();
    let memory = MemoryStore::new();
    for number in 0..2 * LISTING_LEN_MAX + 100 {
        let text = format!("p/{}/{number:05}.pyc", number % 7);
        let path = root.path().join(&text);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
        memory.tamper(&key(&text), bytes("x"));
    }
    let (by_directory, by_memory) = (listed(&directory, "p/").await, listed(&memory, "p/").await);
    assert_eq!(by_directory, by_memory);
    assert_eq!(by_memory.len(), 2 * LISTING_LEN_MAX + 100);
    assert!(by_memory.is_sorted_by(|a, b| a.key < b.key));

    // Exactly one page: there is no more.
    let exact = MemoryStore::new();
    (0..LISTING_LEN_MAX).for_each(|number| exact.tamper(&key(&number.to_string()), bytes("x")));
    let listing = exact.list("", None).await.unwrap();
    assert_eq!((listing.objects.len(), listing.more), (LISTING_LEN_MAX, false));
}

#[tokio::test]
async fn a_location_names_the_object_and_its_range() {
    let (stores, root) = stores().await;
    let root = root.path().canonicalize().unwrap();
    for (store, expected) in stores
        .iter()
        .zip([format!("file://{}/a/b#range=3..9", root.display()), "mem:a/b#range=3..9".to_owned()])
    {
        assert_eq!(store.locate(&key("a/b"), 3..9, Duration::from_secs(1)).await, Ok(expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_directory_does_what_memory_does(
        calls in prop::collection::vec((0..5, "[ab]/[-.0]?[ab](/[ab])?", 0..3_u8), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (stores, _root) = stores().await;
            // Paths that are object and folder at once are possible in S3 and memory only.
            let mut folders = BTreeMap::new();
            for (call, text, content) in calls {
                let Ok(wanted) = text.parse::<ObjectKey>() else { continue };
                let depth = text.matches('/').count();
                if *folders.entry(text[..3.min(text.len())].to_owned()).or_insert(depth) != depth {
                    continue;
                }
                let mut answers = Vec::new();
                for store in &stores {
                    let content = Bytes::from(vec![content; usize::from(content)]);
                    answers.push(match call {
                        0 | 1 => {
                            let condition = if call == 0 { Condition::None } else { Condition::Absent };
                            format!("{:?}", store.put(&wanted, content, condition).await.map(|_| ()))
                        }
                        2 => format!("{:?}", whole(&**store, &text).await),
                        3 => format!("{:?}", store.delete(&wanted).await),
                        _ => format!("{:?}", store.list(&text[..2], None).await),
                    });
                }
                assert_eq!(answers[0], answers[1], "call {call} of {text}");
            }
        });
    }
}
