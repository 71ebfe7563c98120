use std::{error::Error, fs, os::unix::fs::symlink};

use super::*;

fn write(directory: &Path, key: &str, secret: &str) {
    fs::write(directory.join(ACCESS_KEY_ID), key).unwrap();
    fs::write(directory.join(SECRET_ACCESS_KEY), secret).unwrap();
}

async fn provided(files: &FileCredentials) -> (String, String, Option<String>) {
    let credentials = files.provide_credentials().await.unwrap();
    (
        credentials.access_key_id().to_owned(),
        credentials.secret_access_key().to_owned(),
        credentials.session_token().map(str::to_owned),
    )
}

async fn refusal(files: &FileCredentials) -> String {
    let error = files.provide_credentials().await.unwrap_err();
    error.source().unwrap().to_string()
}

/// File reads go to other threads, so the clock is stopped only while it is set.
async fn advance(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

#[tokio::test]
async fn changed_files_count_after_a_second() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), " key1\n", "secret1\n");
    let files = FileCredentials::new(folder.path().to_owned());
    let first = ("key1".to_owned(), "secret1".to_owned(), None);
    assert_eq!(provided(&files).await, first);

    write(folder.path(), "key2", "secret2");
    fs::write(folder.path().join(SESSION_TOKEN), "token2\n").unwrap();
    advance(FRESH).await;
    let second = ("key2".to_owned(), "secret2".to_owned(), Some("token2".to_owned()));
    assert_eq!(provided(&files).await, second);
    fs::remove_file(folder.path().join(SESSION_TOKEN)).unwrap();
    advance(FRESH).await;
    assert_eq!(provided(&files).await, ("key2".to_owned(), "secret2".to_owned(), None));
}

#[tokio::test]
async fn a_secret_that_kubernetes_swaps_is_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (version, key, secret) in [("..1", "key1", "secret1"), ("..2", "key2", "secret2")] {
        fs::create_dir(path.join(version)).unwrap();
        write(&path.join(version), key, secret);
    }
    symlink("..1", path.join("..data")).unwrap();
    for name in [ACCESS_KEY_ID, SECRET_ACCESS_KEY] {
        symlink(Path::new("..data").join(name), path.join(name)).unwrap();
    }
    let files = FileCredentials::new(path.to_owned());
    assert_eq!(provided(&files).await.0, "key1");
    symlink("..2", path.join("..new")).unwrap();
    fs::rename(path.join("..new"), path.join("..data")).unwrap();
    advance(FRESH).await;
    assert_eq!(provided(&files).await, ("key2".to_owned(), "secret2".to_owned(), None));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let files = FileCredentials::new(folder.path().to_owned());
    let is_missing = |name: &str| format!("{}: there is no such file", path(name).display());
    assert_eq!(refusal(&files).await, is_missing(ACCESS_KEY_ID));
    fs::write(path(ACCESS_KEY_ID), "key").unwrap();
    assert_eq!(refusal(&files).await, is_missing(SECRET_ACCESS_KEY));
    let odd = format!(
        "{}: it does not hold one word of visible characters",
        path(SECRET_ACCESS_KEY).display()
    );
    for content in ["", " \n", "two words", "line1\nline2", "gehei\u{df}"] {
        fs::write(path(SECRET_ACCESS_KEY), content).unwrap();
        assert_eq!(refusal(&files).await, odd, "{content:?}");
    }
    fs::write(path(SECRET_ACCESS_KEY), [0xff]).unwrap();
    assert!(refusal(&files).await.contains("UTF-8"));
    let longest = usize::try_from(FILE_LEN_MAX).unwrap();
    fs::write(path(SECRET_ACCESS_KEY), "s".repeat(longest + 1)).unwrap();
    assert!(refusal(&files).await.contains("at most 65536 are read"));
    fs::write(path(SECRET_ACCESS_KEY), "s".repeat(longest)).unwrap();
    assert_eq!(provided(&files).await.1.len(), longest);
    assert!(!format!("{files:?}").contains("sss"));
}
