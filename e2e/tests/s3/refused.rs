//! Refusals of a real server: each is the error that says what to change, and it shows no secret.

use pyramid_e2e::seaweed::{Credentials, Seaweed};
use pyramid_storage::object_store::{Condition, Error, S3Options};
use pyramid_storage::{ObjectKey, ObjectStore};

use crate::bucket::Bucket;
use crate::contract::{bytes, key};

/// What the four calls that ask the server say.
async fn answers(store: &dyn ObjectStore) -> [Result<(), Error>; 4] {
    let key: ObjectKey = key("a");
    [
        store.put(&key, bytes("other"), Condition::None).await.map(|_| ()),
        store.get(&key, 0..10).await.map(|_| ()),
        store.list("", None).await.map(|_| ()),
        store.delete(&key).await,
    ]
}

/// Opens the bucket with changed settings and asks everything.
async fn asked(bucket: &Bucket, change: impl FnOnce(&mut S3Options)) -> [Result<(), Error>; 4] {
    let mut options = bucket.options.clone();
    change(&mut options);
    answers(&*bucket.open_with(options).await).await
}

/// A bucket with an object, and proof that its own settings are good.
async fn with_object(bucket: Bucket) -> Bucket {
    bucket.open().await.put(&key("a"), bytes("content"), Condition::None).await.unwrap();
    bucket
}

#[track_caller]
fn refused(answer: &Result<(), Error>, says: &[&str]) {
    let Err(error @ Error::Refused { .. }) = answer else { panic!("{answer:?}") };
    let text = error.to_string();
    for part in says {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
    for user in [Credentials::admin(), Credentials::reader(), Credentials::stranger()] {
        assert!(!text.contains(&user.secret_key), "{text:?} tells a secret");
    }
}

#[tokio::test]
async fn an_authority_that_signed_nothing_is_refused() {
    let bucket = with_object(Bucket::https().await).await;
    let answers = asked(&bucket, |options| {
        options.ca_file = Some(bucket.server.other_ca());
    });
    for answer in answers.await {
        refused(&answer, &["certificate"]);
    }
    // The machine's own authorities do not know the server either.
    for answer in asked(&bucket, |options| options.ca_file = None).await {
        refused(&answer, &["certificate"]);
    }
    assert_eq!(asked(&bucket, |_| {}).await, [Ok(()), Ok(()), Ok(()), Ok(())]);
}

#[tokio::test]
async fn credentials_that_are_wrong_or_unknown_are_refused() {
    let bucket = with_object(Bucket::http().await).await;
    let wrong = Credentials { secret_key: "wrong".to_owned(), ..Credentials::admin() };
    let unknown = Credentials { access_key: "nobody".to_owned(), ..Credentials::admin() };
    for (name, credentials) in [("wrong", wrong), ("unknown", unknown)] {
        let folder = bucket.credentials(name, &credentials);
        let answers = asked(&bucket, |options| options.credentials_dir = Some(folder));
        for answer in answers.await {
            refused(&answer, &["credentials"]);
        }
    }
    assert_eq!(asked(&bucket, |_| {}).await, [Ok(()), Ok(()), Ok(()), Ok(())]);
}

#[tokio::test]
async fn who_may_only_read_cannot_write_or_delete() {
    let bucket = with_object(Bucket::http().await).await;
    let folder = bucket.credentials("reader", &Credentials::reader());
    let [put, get, list, delete] =
        asked(&bucket, |options| options.credentials_dir = Some(folder)).await;
    refused(&put, &["put a is refused", &bucket.name]);
    refused(&delete, &["delete a is refused", &bucket.name]);
    assert_eq!([get, list], [Ok(()), Ok(())]);
    assert_eq!(bucket.open().await.get(&key("a"), 0..10).await.unwrap().bytes, bytes("content"));
}

#[tokio::test]
async fn who_has_no_right_is_refused_everything() {
    let bucket = with_object(Bucket::http().await).await;
    let folder = bucket.credentials("stranger", &Credentials::stranger());
    for answer in asked(&bucket, |options| options.credentials_dir = Some(folder)).await {
        refused(&answer, &["is refused", &bucket.name]);
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    let mut bucket = with_object(Bucket::http().await).await;
    bucket.name = "never-created".to_owned();
    let [put, get, list, _] = asked(&bucket, |_| {}).await;
    for answer in [put, get, list] {
        refused(&answer, &["never-created"]);
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_asked_again_later() {
    let server = Seaweed::shared().await.unwrap();
    let bucket = with_object(Bucket::http().await).await;
    let port = pyramid_e2e::process::free_port().unwrap();
    let nobody = format!("http://127.0.0.1:{port}");
    for answer in asked(&bucket, |options| options.endpoint = Some(nobody.clone())).await {
        let Err(error @ Error::Unavailable { .. }) = answer else { panic!("{answer:?}") };
        assert!(error.to_string().contains(&nobody), "{error}");
    }
    // Plain HTTP to a port of HTTPS fails in each call, too, and is nobody's bucket.
    let plain = server.https().replace("https:", "http:");
    for answer in asked(&bucket, |options| options.endpoint = Some(plain.clone())).await {
        assert!(answer.is_err(), "{answer:?}");
    }
}
