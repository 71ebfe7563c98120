use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::DirectoryStore;
use crate::object_store::{Condition, Error, ObjectKey, ObjectStore};

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

const CONTENT: Bytes = Bytes::from_static(b"content");

/// What lies in the folder of files that are being written.
fn unfinished(root: &Path) -> Vec<PathBuf> {
    let new = fs::read_dir(root.join(".pyramid/new")).unwrap();
    new.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_put_leaves_nothing_but_the_object() {
    let root = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(root.path().join("new/store")).await.unwrap();
    store.put(&key("a/b"), CONTENT, Condition::Absent).await.unwrap();
    store.put(&key("a/c"), CONTENT, Condition::None).await.unwrap();
    store.put(&key("a/b"), CONTENT, Condition::Absent).await.unwrap_err();
    assert_eq!(unfinished(store.root()), Vec::<PathBuf>::new());
    assert_eq!(fs::read(store.root().join("a/b")).unwrap(), CONTENT);
}

#[tokio::test]
async fn what_a_crash_left_is_no_object_and_goes_at_the_next_open() {
    let root = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(root.path()).await.unwrap();
    // A put that ended before its rename.
    let torn = root.path().join(".pyramid/new/99-0");
    fs::write(&torn, b"cont").unwrap();
    assert_eq!(store.list("", None).await.unwrap().objects, []);

    // Somebody else still uses the directory: it may be theirs.
    let second = DirectoryStore::open(root.path()).await.unwrap();
    assert_eq!(unfinished(root.path()), std::slice::from_ref(&torn));
    drop((store, second));
    let _third = DirectoryStore::open(root.path()).await.unwrap();
    assert_eq!(unfinished(root.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn two_stores_of_one_directory_do_not_write_the_same_file() {
    let root = tempfile::tempdir().unwrap();
    let stores = [
        DirectoryStore::open(root.path()).await.unwrap(),
        DirectoryStore::open(root.path()).await.unwrap(),
    ];
    for (number, store) in stores.iter().enumerate() {
        store.put(&key(&format!("{number}")), CONTENT, Condition::Absent).await.unwrap();
    }
    assert_eq!(stores[0].list("", None).await.unwrap().objects.len(), 2);
}

#[tokio::test]
async fn a_directory_that_is_gone_is_refused_and_not_taken_for_empty() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("store");
    let store = DirectoryStore::open(&path).await.unwrap();
    store.put(&key("a"), CONTENT, Condition::None).await.unwrap();
    fs::rename(&path, root.path().join("unmounted")).unwrap();
    fs::create_dir(&path).unwrap();

    let refused = |error| matches!(error, Error::Refused { .. });
    assert!(refused(store.get(&key("a"), 0..9).await.unwrap_err()));
    assert!(refused(store.list("", None).await.unwrap_err()));
    assert!(refused(store.delete(&key("a")).await.unwrap_err()));
    assert!(refused(store.put(&key("a"), CONTENT, Condition::None).await.unwrap_err()));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "nothing was written there");
}

#[tokio::test]
async fn a_file_in_the_place_of_the_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, b"").unwrap();
    assert!(matches!(DirectoryStore::open(&path).await.unwrap_err(), Error::Refused { .. }));
}

#[tokio::test]
async fn a_key_whose_folder_is_an_object_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(root.path()).await.unwrap();
    store.put(&key("a"), CONTENT, Condition::None).await.unwrap();
    let error = store.put(&key("a/b"), CONTENT, Condition::None).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. } | Error::Unavailable { .. }), "{error}");
    let error = store.put(&key("a/b"), CONTENT, Condition::Absent).await.unwrap_err();
    assert!(!matches!(error, Error::ConditionFailed { .. }), "{error}");
    assert_eq!(unfinished(root.path()), Vec::<PathBuf>::new());
}
