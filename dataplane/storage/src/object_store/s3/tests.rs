//! The store against canned answers: what is sent, and what each answer becomes.

mod trouble;

use std::{fs, path::Path};

use sha2::{Digest, Sha256};

use super::*;
use crate::{
    canned_server::{Asked, Authority, Canned, Server},
    hex,
    object_store::{S3Options, StoreSettings, probe},
};

const ACCESS: &str = "AKIATESTTESTTEST";
const SECRET: &str = "geheimgeheimgeheimgeheim";
const ETAG: &str = "\"0123456789abcdef\"";

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

fn credentials() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_credentials(folder.path(), ACCESS, SECRET);
    folder
}

fn write_credentials(directory: &Path, access: &str, secret: &str) {
    fs::write(directory.join("accessKeyId"), access).unwrap();
    fs::write(directory.join("secretAccessKey"), secret).unwrap();
}

fn settings(endpoint: &str, credentials: &Path, ca_file: Option<&Path>) -> S3Settings {
    let options = S3Options {
        endpoint: Some(endpoint.to_owned()),
        region: None,
        ca_file: ca_file.map(Path::to_owned),
        credentials_dir: Some(credentials.to_owned()),
    };
    S3Settings::new("chunks", options).unwrap()
}

/// A store at a server that answers as `answer` says.
async fn store(
    answer: impl Fn(&Asked) -> Canned + Send + Sync + 'static,
) -> (S3Store, Server, tempfile::TempDir) {
    let server = Server::start(answer).await;
    let keys = credentials();
    let store = S3Store::open(&settings(&server.url(), keys.path(), None)).await.unwrap();
    (store, server, keys)
}

fn stored() -> Canned {
    Canned::new(200, "").with("etag", ETAG)
}

/// The text of an error that shows nothing secret.
fn text(error: &Error) -> String {
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains(SECRET) && !text.contains(ACCESS), "{text}");
        assert!(!text.contains("Signature="), "{text}");
    }
    error.to_string()
}

#[tokio::test]
async fn a_put_sends_its_condition_and_proves_its_body() {
    let (store, server, _keys) = store(|_| stored()).await;
    let version = Version::new(ETAG);
    let body = Bytes::from_static(b"the body");
    for condition in
        [Condition::None, Condition::Absent, Condition::Unchanged(Version::new("\"before\""))]
    {
        assert_eq!(
            store.put(&key("dev/a.pyc"), body.clone(), condition).await,
            Ok(version.clone())
        );
    }
    let asked = server.asked();
    let sent = |header| asked.iter().map(|one| one.header(header)).collect::<Vec<_>>();
    assert_eq!(sent("if-none-match"), [None, Some("*"), None]);
    assert_eq!(sent("if-match"), [None, None, Some("\"before\"")]);
    let sha256 = hex::encode(&Sha256::digest(&body));
    let crc32c = BASE64_STANDARD.encode(crc32c::crc32c(&body).to_be_bytes());
    for one in &asked {
        assert_eq!((one.method.as_str(), &one.body), ("PUT", &body));
        assert_eq!(one.target.split('?').next(), Some("/chunks/dev/a.pyc"), "path style");
        assert_eq!(one.header("x-amz-content-sha256"), Some(sha256.as_str()));
        assert_eq!(one.header("x-amz-checksum-crc32c"), Some(crc32c.as_str()));
        assert_eq!(one.header("content-length"), Some("8"));
        assert_eq!(one.header("content-encoding"), None, "no trailing checksum");
        let authorization = one.header("authorization").unwrap();
        assert!(authorization.contains(ACCESS) && authorization.contains("/us-east-1/s3/"));
        assert!(authorization.contains("x-amz-checksum-crc32c"), "the checksum is signed");
    }
}

#[tokio::test]
async fn a_put_whose_condition_fails_has_written_nothing() {
    let failed = Err(Error::ConditionFailed { key: "a".to_owned() });
    for (status, code) in [(412, "PreconditionFailed"), (404, "NoSuchKey")] {
        let (store, _server, _keys) = store(move |_| Canned::s3_error(status, code, "")).await;
        let condition = Condition::Unchanged(Version::new(ETAG));
        assert_eq!(store.put(&key("a"), Bytes::new(), condition).await, failed, "{code}");
    }
    let (store, _server, _keys) = store(|_| Canned::new(200, "")).await;
    let put = store.put(&key("a"), Bytes::new(), Condition::None).await;
    assert!(text(&put.unwrap_err()).contains("without the object's ETag"));
}

/// Answers ranges of an object of these bytes.
fn object(content: &'static [u8]) -> impl Fn(&Asked) -> Canned + Send + Sync + 'static {
    move |asked| {
        let total = u64::try_from(content.len()).unwrap();
        if asked.method == "HEAD" {
            let head = Canned::new(200, "").with("etag", ETAG);
            return head.with("content-length", &total.to_string());
        }
        let range = asked.header("range").unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        if first >= total {
            return Canned::s3_error(416, "InvalidRange", "");
        }
        let at = |position| usize::try_from(position).unwrap();
        let part = &content[at(first)..at((last + 1).min(total))];
        Canned::part(part, first, total).with("etag", ETAG)
    }
}

#[tokio::test]
async fn a_range_is_cut_at_the_end_of_the_object() {
    let (store, server, _keys) = store(object(b"0123456789")).await;
    let version = Some(Version::new(ETAG));
    for (range, expected) in [
        (0..10, "0123456789"),
        (0..4, "0123"),
        (3..4, "3"),
        (8..100, "89"),
        (0..u64::MAX, "0123456789"),
        (10..11, ""),
        (u64::MAX - 1..u64::MAX, ""),
        (4..4, ""),
        (0..0, ""),
    ] {
        let object = store.get(&key("a"), range.clone()).await.unwrap();
        let bytes = Bytes::from_static(expected.as_bytes());
        assert_eq!(object, Object { bytes, total_len: 10, version: version.clone() }, "{range:?}");
    }
    assert_eq!(server.asked()[1].header("range"), Some("bytes=0-3"));
}

#[tokio::test]
async fn an_empty_object_has_a_version() {
    let (store, _server, _keys) = store(object(b"")).await;
    let empty = Object { bytes: Bytes::new(), total_len: 0, version: Some(Version::new(ETAG)) };
    assert_eq!(store.get(&key("a"), 0..10).await, Ok(empty));
}

#[tokio::test]
async fn an_object_that_is_not_there_is_not_found() {
    let not_found = Error::NotFound { key: "a".to_owned() };
    let (there, _server, _keys) = store(|_| Canned::s3_error(404, "NoSuchKey", "")).await;
    assert_eq!(there.get(&key("a"), 0..10).await, Err(not_found.clone()));
    assert_eq!(there.delete(&key("a")).await, Ok(()), "then it is removed already");
    // Removed between the two requests.
    let (gone, _server, _keys) = store(|asked| match asked.method.as_str() {
        "HEAD" => Canned::new(404, ""),
        _ => Canned::s3_error(416, "InvalidRange", ""),
    })
    .await;
    assert_eq!(gone.get(&key("a"), 5..10).await, Err(not_found));
    // A web server that is no S3 server does not know what is there.
    let (web, _server, _keys) = store(|_| Canned::new(404, "<html>Not found</html>")).await;
    assert!(matches!(web.get(&key("a"), 0..10).await, Err(Error::Refused { .. })));
}

#[tokio::test]
async fn a_body_that_is_not_what_was_asked_for_is_not_returned() {
    let ten = || Canned::part("0123456789", 0, 20).with("etag", ETAG);
    for (name, canned, expected) in [
        ("as asked", ten(), Ok("0123456789")),
        ("without ranges", Canned::new(200, "0123").with("etag", ETAG), Ok("0123")),
        ("elsewhere", ten().with("content-range", "bytes 1-10/20"), Err("another range")),
        ("too much", Canned::new(200, "0123456789a"), Err("another range")),
        ("too little", Canned::part("012", 0, 20), Err("another range")),
        ("cut", ten().cut_after(4), Err("ended the connection")),
    ] {
        let (store, _server, _keys) = store(move |_| canned.clone()).await;
        match (store.get(&key("a"), 0..10).await, expected) {
            (Ok(object), Ok(expected)) => assert_eq!(object.bytes, expected, "{name}"),
            (Err(error @ Error::Unavailable { .. }), Err(expected)) => {
                assert!(text(&error).contains(expected), "{name}: {error}");
            }
            (got, expected) => panic!("{name}: {got:?}, not {expected:?}"),
        }
    }
}

fn page(keys: &[&str], next: Option<&str>) -> Canned {
    let contents: String = keys
        .iter()
        .map(|key| format!("<Contents><Key>{key}</Key><Size>5</Size></Contents>"))
        .collect();
    let next = match next {
        Some(next) => format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>"
        ),
        None => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    Canned::new(200, format!("<ListBucketResult>{next}{contents}</ListBucketResult>"))
}

fn listed(keys: &[&str]) -> Vec<Listed> {
    keys.iter().map(|text| Listed { key: key(text), len: 5 }).collect()
}

#[tokio::test]
async fn pages_are_put_together_and_foreign_keys_left_out() {
    let (store, server, _keys) = store(|asked| {
        if asked.target.contains("continuation-token=two") {
            page(&["dev/c", "dev/d"], None)
        } else if asked.target.contains("continuation-token=one") {
            page(&["dev/b b", "dev/b/"], Some("two"))
        } else {
            page(&["dev/a", "dev/b"], Some("one"))
        }
    })
    .await;
    let objects = listed(&["dev/a", "dev/b", "dev/c", "dev/d"]);
    assert_eq!(store.list("dev/", None).await, Ok(Listing { objects, more: false }));
    let first = &server.asked()[0].target;
    assert!(first.contains("prefix=dev%2F") && first.contains("max-keys=1000"), "{first}");
    assert!(!first.contains("start-after"), "{first}");
}

#[tokio::test]
async fn a_full_page_says_that_there_are_more() {
    let keys: Vec<_> = (0..LISTING_LEN_MAX).map(|number| format!("dev/{number:04}")).collect();
    let (store, server, _keys) =
        store(move |_| page(&keys.iter().map(String::as_str).collect::<Vec<_>>(), Some("next")))
            .await;
    let listing = store.list("dev/", None).await.unwrap();
    assert_eq!((listing.objects.len(), listing.more), (LISTING_LEN_MAX, true));
    server.one();
}

#[tokio::test]
async fn a_listing_begins_behind_a_key_of_its_prefix() {
    let (store, server, _keys) = store(|_| page(&["dev/b"], None)).await;
    let begin = |after: &'static str| {
        let store = &store;
        async move { store.list("dev/", Some(&key(after))).await.unwrap().objects }
    };
    assert_eq!(begin("dev/a").await, listed(&["dev/b"]));
    assert!(server.one().target.contains("start-after=dev%2Fa"));
    assert_eq!(begin("a").await, listed(&["dev/b"]));
    assert!(!server.asked()[1].target.contains("start-after"), "all of the prefix is behind it");
    assert_eq!(begin("zzz").await, []);
    assert_eq!(server.asked().len(), 2, "nothing of the prefix is behind it");
}

#[tokio::test]
async fn a_server_that_lists_out_of_order_is_not_trusted() {
    for keys in [&["dev/b", "dev/a"][..], &["dev/a", "dev/a"], &["other/a"]] {
        let (store, _server, _keys) = store(move |_| page(keys, None)).await;
        let error = store.list("dev/", None).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { .. }), "{keys:?}: {error}");
    }
}

#[tokio::test]
async fn a_location_is_a_url_for_anybody_and_for_any_range() {
    let (store, server, _keys) = store(|_| stored()).await;
    let located = store.locate(&key("dev/a.pyc"), 3..9, Duration::from_secs(300)).await.unwrap();
    let (url, fragment) = located.split_once('#').unwrap();
    assert_eq!(fragment, "range=3..9");
    let (path, query) = url.split_once('?').unwrap();
    assert_eq!(path, format!("{}/chunks/dev/a.pyc", server.url()));
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
    };
    assert_eq!(value("X-Amz-Expires").as_deref(), Some("300"));
    assert_eq!(value("X-Amz-SignedHeaders").as_deref(), Some("host"), "no range is signed");
    assert!(value("X-Amz-Credential").is_some_and(|value| value.starts_with(ACCESS)));
    assert_eq!(value("X-Amz-Signature").map(|value| value.len()), Some(64));
    assert_eq!(value("x-amz-checksum-mode"), None);
    assert!(!located.contains(SECRET));
    assert_eq!(server.asked().len(), 0, "nobody is asked");

    let week = Duration::from_secs(7 * 24 * 3600);
    assert!(store.locate(&key("a"), 0..1, week).await.is_ok());
    let longer = store.locate(&key("a"), 0..1, week + Duration::from_secs(1)).await.unwrap_err();
    assert!(text(&longer).contains("at most 7 days"));
}

#[tokio::test]
async fn a_location_is_read_by_the_fetcher() {
    let (store, server, _keys) = store(object(b"0123456789")).await;
    let url = store.locate(&key("dev/a"), 2..8, Duration::from_secs(300)).await.unwrap();
    let settings = crate::HttpSettings { allows_plain_http: true, ..Default::default() };
    let fetcher = crate::Fetcher::new().with_http(settings).unwrap();
    let mut body = fetcher.open(&url, 1..100).await.unwrap();
    assert_eq!(body.next().await, Ok(Some(Bytes::from_static(b"34567"))));
    assert_eq!(body.next().await, Ok(None));
    assert_eq!(server.one().header("authorization"), None);
}
