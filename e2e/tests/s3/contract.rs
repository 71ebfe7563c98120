//! What every store must do, asked of a bucket on a real server. The claims are those of
//! `dataplane/storage/src/object_store/tests.rs`, which asks a directory and memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pyramid_storage::object_store::{Condition, Error, LISTING_LEN_MAX, Listed, Listing, Version};
use pyramid_storage::{ObjectKey, ObjectStore};
use tokio::task::JoinSet;

use crate::bucket::Bucket;

pub(crate) fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

pub(crate) fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn whole(store: &dyn ObjectStore, of: &str) -> Result<Bytes, Error> {
    store.get(&key(of), 0..u64::MAX).await.map(|object| object.bytes)
}

fn not_found<T>(key: &str) -> Result<T, Error> {
    Err(Error::NotFound { key: key.to_owned() })
}

#[tokio::test]
async fn an_object_is_read_as_it_was_put_until_it_is_deleted() {
    for bucket in Bucket::both().await {
        let store = bucket.open().await;
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
async fn an_object_of_the_size_of_a_chunk_comes_back_whole_and_in_parts() {
    const LEN: usize = 9 << 20;
    let content: Bytes =
        (0..LEN).map(|place| u8::try_from(place / 7 % 256).unwrap()).collect::<Vec<u8>>().into();
    for bucket in Bucket::both().await {
        let store = bucket.open().await;
        store.put(&key("a"), content.clone(), Condition::Absent).await.unwrap();
        assert_eq!(whole(&*store, "a").await.unwrap(), content);
        // Over the border of the server's own pieces.
        let range = (4 << 20) - 5..(4 << 20) + 7;
        let part = store.get(&key("a"), range).await.unwrap();
        assert_eq!(part.bytes, content.slice((4 << 20) - 5..(4 << 20) + 7));
        assert_eq!(part.total_len, u64::try_from(LEN).unwrap());
    }
}

#[tokio::test]
async fn a_range_is_cut_at_the_end_of_the_object() {
    for bucket in Bucket::both().await {
        let store = bucket.open().await;
        store.put(&key("a"), bytes("0123456789"), Condition::None).await.unwrap();
        store.put(&key("empty"), Bytes::new(), Condition::None).await.unwrap();
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
            let object = store.get(&key("empty"), range.clone()).await.unwrap();
            assert_eq!((object.bytes, object.total_len), (Bytes::new(), 0), "{range:?}");
        }
    }
}

#[tokio::test]
async fn conditions_hold_or_nothing_is_written() {
    for bucket in Bucket::both().await {
        let store = bucket.open().await;
        let failed = || Err(Error::ConditionFailed { key: "a".to_owned() });
        let put = |content, condition| {
            let store = Arc::clone(&store);
            async move { store.put(&key("a"), bytes(content), condition).await }
        };
        assert_eq!(put("x", Condition::Unchanged(Version::new("\"1\""))).await, failed());
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
            loop {
                match store.put(&key("race/a"), content.clone(), condition.clone()).await {
                    Ok(_) => return Some(content),
                    Err(Error::ConditionFailed { .. }) => return None,
                    // S3 may say that it cannot tell at the moment.
                    Err(Error::Unavailable { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    putters.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_16_conditional_puts_at_once_exactly_one_is_done() {
    for bucket in Bucket::both().await {
        let store = bucket.open().await;
        let winners = race(&store, &Condition::Absent, 0).await;
        assert_eq!(winners.len(), 1);
        let object = store.get(&key("race/a"), 0..100_000).await.unwrap();
        assert_eq!(object.bytes, winners[0]);

        // Other contents: equal contents have equal versions.
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
        assert!(!more || objects.len() == LISTING_LEN_MAX, "a page before the last one is full");
        listed.extend(objects);
        if !more {
            return listed;
        }
    }
}

#[tokio::test]
async fn keys_are_listed_in_order_whole_and_below_their_prefix() {
    // As of our own layout: what has "-" or "." in its name is no folder's neighbour.
    let keys =
        ["a/b", "a/b-c", "a/b.c", "a/b0/x", "a/b0/y-1.pyc", "a/b0/y-10.pyc", "a0", "ab/c", "b"];
    for bucket in Bucket::both().await {
        let store = bucket.open().await;
        for text in keys {
            store.put(&key(text), bytes("12345"), Condition::None).await.unwrap();
        }
        let mut sorted = keys;
        sorted.sort_unstable();
        for prefix in ["", "a", "a/", "a/b", "a/b-", "a0", "b", "b/", "c", "a/b0/", "a/b0/y-1", "/"]
        {
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
        assert_eq!(between.objects.len(), 6);
        assert_eq!(store.list("a/", Some(&key("zzz"))).await, Ok(Listing::default()));
    }
}

/// This server sorts folders by their names without the "/", S3 sorts whole keys.
#[tokio::test]
async fn a_server_that_lists_in_another_order_is_told_instead_of_missing_objects() {
    let bucket = Bucket::http().await;
    let store = bucket.open().await;
    for text in ["a/b", "a-b"] {
        store.put(&key(text), bytes("12345"), Condition::None).await.unwrap();
    }
    let error = store.list("", None).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("does not list the keys of"), "{error}");
    // Of each alone there is nothing to sort.
    for (prefix, text) in [("a/", "a/b"), ("a-", "a-b")] {
        assert_eq!(listed(&*store, prefix).await, [Listed { key: key(text), len: 5 }]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_several_pages_misses_and_repeats_nothing() {
    const COUNT: usize = LISTING_LEN_MAX + 100;
    let bucket = Bucket::http().await;
    let store = bucket.open().await;
    let mut expected = BTreeMap::new();
    let mut puts = JoinSet::new();
    for number in 0..COUNT {
        let text = format!("p/{}/{number:05}.pyc", number % 7);
        expected.insert(key(&text), 1);
        let store = Arc::clone(&store);
        puts.spawn(async move { store.put(&key(&text), bytes("x"), Condition::None).await });
        // The server has one disk.
        if puts.len() == 16 {
            puts.join_next().await.unwrap().unwrap().unwrap();
        }
    }
    for put in puts.join_all().await {
        put.unwrap();
    }
    let expected: Vec<Listed> =
        expected.into_iter().map(|(key, len)| Listed { key, len }).collect();
    assert_eq!(listed(&*store, "p/").await, expected);

    // Exactly one page: there is no more.
    for Listed { key, .. } in &expected[LISTING_LEN_MAX..] {
        store.delete(key).await.unwrap();
    }
    let listing = store.list("p/", None).await.unwrap();
    assert_eq!((listing.objects.len(), listing.more), (LISTING_LEN_MAX, false));
}

#[tokio::test]
async fn a_location_is_a_signed_url_of_the_object_with_its_range() {
    for bucket in Bucket::both().await {
        let store = bucket.open().await;
        let url = store.locate(&key("a/b"), 3..9, Duration::from_secs(60)).await.unwrap();
        let endpoint = bucket.options.endpoint.as_ref().unwrap();
        assert!(url.starts_with(&format!("{endpoint}/{}/a/b?", bucket.name)), "{url}");
        assert!(url.contains("X-Amz-Expires=60&"), "{url}");
        assert!(url.ends_with("#range=3..9"), "{url}");
    }
}
