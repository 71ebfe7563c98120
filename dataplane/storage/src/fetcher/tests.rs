use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{Fetcher, PIECE_LEN_MAX, STORED_PIECE_LEN_MAX};
use crate::{
    file_url,
    object_store::{Call, Condition, Error, Fault, MemoryStore, ObjectStore},
};

async fn read(fetcher: &Fetcher, url: &str, range: std::ops::Range<u64>) -> Result<Bytes, Error> {
    let piece_len_max = if url.starts_with("mem:") { STORED_PIECE_LEN_MAX } else { PIECE_LEN_MAX };
    let mut body = fetcher.open(url, range).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await? {
        assert!(!piece.is_empty() && u64::try_from(piece.len()).unwrap() <= piece_len_max);
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

/// `shared/` with an object, and a secret beside it.
fn folders() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().canonicalize().unwrap();
    fs::create_dir_all(path.join("shared/c")).unwrap();
    fs::create_dir(path.join("shared-too")).unwrap();
    fs::write(path.join("shared/c/object"), b"0123456789").unwrap();
    fs::write(path.join("secret"), b"secret").unwrap();
    fs::write(path.join("shared-too/secret"), b"secret").unwrap();
    (root, path)
}

fn url(path: &Path) -> String {
    file_url::write(path, &(0..100)).replace("#range=0..100", "")
}

#[tokio::test]
async fn ranges_of_a_file_and_of_its_url_are_read() {
    let (_root, path) = folders();
    let object = url(&path.join("shared/c/object"));
    let fetcher = Fetcher::new().with_directory(path.join("shared"));
    for (fragment, range, expected) in [
        ("", 0..10, "0123456789"),
        ("", 0..100, "0123456789"),
        ("", 3..5, "34"),
        ("", 10..20, ""),
        ("", 5..5, ""),
        ("#range=2..8", 0..6, "234567"),
        ("#range=2..8", 0..100, "234567"),
        ("#range=2..8", 4..100, "67"),
        ("#range=2..8", 6..100, ""),
        ("#range=8..2", 0..100, ""),
    ] {
        let read = read(&fetcher, &format!("{object}{fragment}"), range.clone()).await;
        assert_eq!(read, Ok(Bytes::from_static(expected.as_bytes())), "{fragment} {range:?}");
    }
    for fragment in ["#", "#range=", "#range=1", "#range=1..", "#range=a..b", "#range=-1..2", "#x"]
    {
        let read = read(&fetcher, &format!("{object}{fragment}"), 0..10).await;
        assert!(matches!(read, Err(Error::Refused { .. })), "{fragment}");
    }
    let far = read(&fetcher, &format!("{object}#range=9..18446744073709551615"), 0..u64::MAX).await;
    assert!(matches!(far, Err(Error::Refused { .. })), "9 and 2^64 - 1 more overflow");
}

#[tokio::test]
async fn a_file_longer_than_a_piece_comes_in_pieces() {
    let (_root, path) = folders();
    let content: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    fs::write(path.join("shared/long"), &content).unwrap();
    let fetcher = Fetcher::new().with_directory(path.join("shared"));
    let read = read(&fetcher, &url(&path.join("shared/long")), 1..999_999).await;
    assert_eq!(read, Ok(Bytes::copy_from_slice(&content[1..999_999])));
}

#[tokio::test]
async fn nothing_outside_of_the_directory_is_opened() {
    let (_root, path) = folders();
    let shared = path.join("shared");
    symlink(path.join("secret"), shared.join("link")).unwrap();
    symlink(&path, shared.join("up")).unwrap();
    symlink("../../secret", shared.join("c/relative")).unwrap();
    symlink("object", shared.join("c/inside")).unwrap();
    symlink(&shared, path.join("alias")).unwrap();
    let fetcher = Fetcher::new().with_directory(&shared);
    let parent = url(&path);
    for escape in [
        format!("{parent}/secret"),
        format!("{parent}/absent"),
        format!("{parent}/shared-too/secret"),
        format!("{parent}/shared/../secret"),
        format!("{parent}/shared/%2e%2e/secret"),
        format!("{parent}/shared/c/..%2f..%2fsecret"),
        format!("{parent}/shared/link"),
        format!("{parent}/shared/up/secret"),
        format!("{parent}/shared/c/relative"),
        parent.clone(),
        "file:///etc/hostname".to_owned(),
        "file:///proc/self/environ".to_owned(),
        "file://localhost/etc/hostname".to_owned(),
        "file:secret".to_owned(),
        "file:".to_owned(),
    ] {
        let read = read(&fetcher, &escape, 0..10).await;
        assert!(matches!(read, Err(Error::Refused { .. })), "{escape}: {read:?}");
    }
    // The other side of the border.
    for inside in
        ["shared/c/object", "shared/c/inside", "shared/up/shared/c/object", "alias/c/object"]
    {
        let read = read(&fetcher, &format!("{parent}/{inside}"), 0..3).await;
        assert_eq!(read, Ok(Bytes::from_static(b"012")), "{inside}");
    }
    let alias = Fetcher::new().with_directory(path.join("alias"));
    let by_alias = read(&alias, &format!("{parent}/shared/c/object"), 0..3).await;
    assert_eq!(by_alias, Ok(Bytes::from_static(b"012")));
    let absent = read(&fetcher, &format!("{parent}/shared/c/absent"), 0..3).await;
    assert!(matches!(absent, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn only_files_are_opened() {
    let (_root, path) = folders();
    let fifo = path.join("shared/fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success(), "mkfifo is part of coreutils");
    let fetcher = Fetcher::new().with_directory(path.join("shared"));
    for other in ["shared/c", "shared", "shared/fifo"] {
        let read = read(&fetcher, &url(&path.join(other)), 0..3).await;
        assert!(matches!(read, Err(Error::Refused { .. })), "{other}");
    }
}

#[tokio::test]
async fn what_the_settings_do_not_name_is_refused() {
    let (_root, path) = folders();
    let file = url(&path.join("shared/c/object"));
    for url in
        [&file, "mem:a", "https://host/a?secret", "http://host/a", "ftp://a", "/etc/passwd", ""]
    {
        let error = read(&Fetcher::new(), url, 0..3).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{url}");
        assert!(!error.to_string().contains("secret"), "the query of a URL is a secret");
    }
    let gone = Fetcher::new().with_directory(path.join("gone"));
    assert!(matches!(read(&gone, &file, 0..3).await, Err(Error::Refused { .. })));
}

#[tokio::test]
async fn memory_is_read_through_the_store_that_was_handed_in() {
    let store = Arc::new(MemoryStore::new());
    let key = "a/b".parse().unwrap();
    let content = Bytes::from(vec![7; 5_000_000]);
    store.put(&key, content.clone(), Condition::Absent).await.unwrap();
    let url = store.locate(&key, 0..5_000_000, std::time::Duration::ZERO).await.unwrap();
    let fetcher = Fetcher::new().with_memory(store.clone());
    assert_eq!(read(&fetcher, &url, 0..5_000_000).await, Ok(content.clone()));
    assert_eq!(read(&fetcher, &url, 4_999_999..u64::MAX / 2).await, Ok(content.slice(..1)));
    assert!(matches!(read(&fetcher, "mem:../x", 0..1).await, Err(Error::Refused { .. })));
    assert!(matches!(read(&fetcher, "mem:absent", 0..1).await, Err(Error::NotFound { .. })));
    store.fail_next(Call::Get, Fault::FailBefore);
    assert!(matches!(read(&fetcher, &url, 0..1).await, Err(Error::Unavailable { .. })));
}
