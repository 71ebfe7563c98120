//! Presigned URLs of a real server, read by somebody without any credentials.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use pyramid_e2e::fault_proxy::{Call, Fault, FaultProxy};
use pyramid_e2e::seaweed::Credentials;
use pyramid_storage::object_store::{Condition, Error};
use pyramid_storage::{Fetcher, ObjectStore};

use crate::bucket::Bucket;
use crate::contract::{bytes, key};
use crate::world::fetcher;

const LIFE: Duration = Duration::from_secs(300);

async fn fetched(fetcher: &Fetcher, url: &str, range: Range<u64>) -> Result<Bytes, Error> {
    let mut body = fetcher.open(url, range).await?;
    let mut whole = Vec::new();
    while let Some(piece) = body.next().await? {
        whole.extend(piece);
    }
    Ok(whole.into())
}

/// The URL of the whole object `a`, which holds ten digits.
async fn located(store: &dyn ObjectStore) -> String {
    store.put(&key("a"), bytes("0123456789"), Condition::None).await.unwrap();
    store.locate(&key("a"), 0..10, LIFE).await.unwrap()
}

#[tokio::test]
async fn a_range_of_a_url_is_read_without_credentials() {
    for bucket in Bucket::both().await {
        let store = bucket.open().await;
        let fetcher = fetcher(bucket.options.ca_file.clone());
        let url = located(&*store).await;
        for (range, expected) in [(0..10, "0123456789"), (3..7, "3456"), (8..100, "89")] {
            assert_eq!(fetched(&fetcher, &url, range).await, Ok(bytes(expected)), "{url}");
        }
        // Positions count from the front of the URL's own range.
        let url = store.locate(&key("a"), 4..8, LIFE).await.unwrap();
        assert_eq!(fetched(&fetcher, &url, 1..100).await, Ok(bytes("567")));
    }
}

#[tokio::test]
async fn a_url_that_was_changed_or_signed_by_nobody_is_not_read() {
    let bucket = Bucket::http().await;
    let store = bucket.open().await;
    let url = located(&*store).await;
    store.put(&key("b"), bytes("other"), Condition::None).await.unwrap();
    let reader = fetcher(None);
    let other_object = url.replacen("/a?", "/b?", 1);
    assert_ne!(other_object, url);
    let answer = fetched(&reader, &other_object, 0..10).await.unwrap_err();
    assert!(matches!(answer, Error::Expired { .. } | Error::Refused { .. }), "{answer:?}");
    assert!(!answer.to_string().contains("X-Amz"), "{answer}");

    let folder = bucket.credentials("stranger", &Credentials::stranger());
    let mut options = bucket.options.clone();
    options.credentials_dir = Some(folder);
    let stranger = bucket.open_with(options).await;
    let url_of_stranger = stranger.locate(&key("a"), 0..10, LIFE).await.unwrap();
    let answer = fetched(&reader, &url_of_stranger, 0..10).await.unwrap_err();
    assert!(matches!(answer, Error::Expired { .. } | Error::Refused { .. }), "{answer:?}");
    assert_eq!(fetched(&reader, &url, 0..10).await, Ok(bytes("0123456789")));
}

#[tokio::test]
async fn another_authority_is_not_believed() {
    let bucket = Bucket::https().await;
    let url = located(&*bucket.open().await).await;
    let believes = |ca| fetcher(Some(ca));
    let answer = fetched(&believes(bucket.server.other_ca()), &url, 0..10).await.unwrap_err();
    assert!(answer.to_string().contains("certificate"), "{answer}");
    assert_eq!(fetched(&believes(bucket.server.ca()), &url, 0..10).await, Ok(bytes("0123456789")));
}

#[tokio::test]
async fn a_url_whose_life_is_over_is_told_apart_from_one_that_is_refused() {
    let bucket = Bucket::http().await;
    let store = bucket.open().await;
    located(&*store).await;
    let url = store.locate(&key("a"), 0..10, Duration::from_secs(1)).await.unwrap();
    let reader = fetcher(None);
    let expired = async || match fetched(&reader, &url, 0..10).await {
        Ok(_) => Ok(false),
        Err(Error::Expired { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    };
    pyramid_e2e::process::wait_until("it expires", Duration::from_secs(20), expired).await.unwrap();
}

#[tokio::test]
async fn faults_on_the_way_are_errors_and_never_other_bytes() {
    let mut bucket = Bucket::http().await;
    let proxy = FaultProxy::start(bucket.server.address(), 5).await.unwrap();
    bucket.options.endpoint = Some(proxy.url());
    let url = located(&*bucket.open().await).await;
    let reader = fetcher(None);
    for fault in [
        Fault::InternalError,
        Fault::SlowDown,
        Fault::SlowDownRetryAfter,
        Fault::TooManyRequests,
        Fault::Reset,
        Fault::HoldBefore,
        Fault::HoldAfter,
        Fault::CutBody,
    ] {
        proxy.fail_next(Call::Presigned, fault);
        let answer = fetched(&reader, &url, 0..10).await;
        assert!(matches!(answer, Err(Error::Unavailable { .. })), "{fault:?}: {answer:?}");
        assert_eq!(proxy.faults_met().get(&fault), Some(&1), "{fault:?}");
    }
    proxy.fail_next(Call::Presigned, Fault::Expired);
    let answer = fetched(&reader, &url, 0..10).await;
    assert!(matches!(answer, Err(Error::Expired { .. })), "{answer:?}");
    proxy.fail_next(Call::Presigned, Fault::SlowBody);
    assert_eq!(fetched(&reader, &url, 0..10).await, Ok(bytes("0123456789")));
}

#[tokio::test]
async fn faults_of_puts_are_told_as_what_can_be_done_about_them() {
    let mut bucket = Bucket::http().await;
    let proxy = FaultProxy::start(bucket.server.address(), 6).await.unwrap();
    bucket.options.endpoint = Some(proxy.url());
    let store = bucket.open().await;
    for (number, fault) in (0..).zip(Fault::ALL) {
        if !fault.fits(Call::Put, true) {
            continue;
        }
        proxy.fail_next(Call::Put, fault);
        let of = key(&format!("put-{number}"));
        let answer = store.put(&of, bytes("0123456789"), Condition::Absent).await;
        let as_expected = if fault == Fault::FailedAfterSuccess {
            matches!(answer, Err(Error::ConditionFailed { .. }))
        } else {
            matches!(answer, Err(Error::Unavailable { .. }))
        };
        assert!(as_expected, "{fault:?}: {answer:?}");
        assert_eq!(proxy.faults_met().get(&fault), Some(&1), "{fault:?}");
        // A body that was changed on its way is not stored.
        let there = store.get(&of, 0..100).await.map(|object| object.bytes);
        let is_done = matches!(fault, Fault::HoldAfter | Fault::FailedAfterSuccess);
        let expected = if is_done {
            Ok(bytes("0123456789"))
        } else {
            Err(Error::NotFound { key: of.to_string() })
        };
        assert_eq!(there, expected, "{fault:?}");
    }
}
