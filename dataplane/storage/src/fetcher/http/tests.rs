use std::fs;

use tokio::time::Instant;

use super::*;
use crate::{
    canned_server::{Authority, Canned, Server},
    fetcher::Fetcher,
};

const SECRET: &str = "X-Amz-Signature=0123456789abcdef";

fn plain() -> Fetcher {
    let settings = HttpSettings { allows_plain_http: true, ..HttpSettings::default() };
    Fetcher::new().with_http(settings).unwrap()
}

fn url(server: &Server) -> String {
    format!("{}/bucket/a/b.pyc?{SECRET}#range=0..10", server.url())
}

async fn read(fetcher: &Fetcher, url: &str, range: Range<u64>) -> Result<Bytes, Error> {
    let mut body = fetcher.open(url, range).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await? {
        assert!(!piece.is_empty() && length(&piece) <= PIECE_LEN_MAX);
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.into())
}

/// The reason, of an error that shows nothing secret.
fn reason(error: &Error) -> &str {
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("0123456789abcdef") && !text.contains("X-Amz"), "{text}");
    }
    match error {
        Error::Unavailable { reason, .. }
        | Error::Refused { reason, .. }
        | Error::Expired { reason, .. } => reason,
        Error::NotFound { key } | Error::ConditionFailed { key } => key,
    }
}

/// Answers ranges of ten digits as an S3 server does.
async fn digits() -> Server {
    Server::start(|asked| {
        let range = asked.header("range").unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        if first >= 10 {
            return Canned::s3_error(416, "InvalidRange", "").with("content-range", "bytes */10");
        }
        let part = &b"0123456789"[first..last.min(9) + 1];
        Canned::part(part, u64::try_from(first).unwrap(), 10)
    })
    .await
}

#[tokio::test]
async fn ranges_of_an_object_and_of_its_url_are_read() {
    let server = digits().await;
    let object = format!("{}/bucket/a/b.pyc?{SECRET}", server.url());
    for (fragment, range, expected) in [
        ("", 0..10, "0123456789"),
        ("", 0..100, "0123456789"),
        ("", 3..5, "34"),
        ("", 9..10, "9"),
        ("", 10..20, ""),
        ("#range=2..8", 0..6, "234567"),
        ("#range=2..8", 0..100, "234567"),
        ("#range=2..8", 4..100, "67"),
        ("#range=2..8", 5..6, "7"),
    ] {
        let read = read(&plain(), &format!("{object}{fragment}"), range.clone()).await;
        assert_eq!(read, Ok(Bytes::from_static(expected.as_bytes())), "{fragment} {range:?}");
    }
    let asked = server.asked().remove(5);
    assert_eq!(asked.target, format!("/bucket/a/b.pyc?{SECRET}"), "the fragment stays here");
    assert_eq!(asked.header("range"), Some("bytes=2-7"));
    assert_eq!(asked.header("host"), Some(format!("127.0.0.1:{}", server.port()).as_str()));
    assert_eq!(asked.header("authorization"), None);

    let before = server.asked().len();
    for (fragment, range) in [("", 5..5), ("#range=2..8", 6..100), ("#range=8..2", 0..100)] {
        let read = read(&plain(), &format!("{object}{fragment}"), range).await;
        assert_eq!(read, Ok(Bytes::new()));
    }
    assert_eq!(server.asked().len(), before, "nothing is not asked for");
}

#[tokio::test]
async fn a_long_body_comes_whole_and_in_pieces_and_its_connection_is_used_again() {
    let content: Bytes = (0..3_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let (total, body) = (length(&content), content.clone());
    let server = Server::start(move |_| Canned::part(body.clone(), 0, total)).await;
    let fetcher = plain();
    for _ in 0..3 {
        let url = format!("{}/b/long#range=0..{total}", server.url());
        assert_eq!(read(&fetcher, &url, 0..total).await, Ok(content.clone()));
    }
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn answers_that_are_not_the_range_are_not_taken_for_it() {
    let whole = || Canned::new(200, "0123456789");
    let part = |start, total| Canned::part("0123456789", start, total);
    let other = "another range than was asked for";
    for (name, canned, expected) in [
        ("as asked", part(0, 10), Ok("0123456789")),
        ("as asked, of more", part(0, 20), Ok("0123456789")),
        ("elsewhere", part(1, 20), Err(other)),
        ("shorter", Canned::part("012", 0, 20), Err(other)),
        ("longer", Canned::part("0123456789a", 0, 20), Err(other)),
        ("the end", Canned::part("012", 0, 3), Ok("012")),
        ("no Content-Range", Canned::new(206, "0123456789"), Err(other)),
        ("odd Content-Range", part(0, 10).with("content-range", "bytes 0-9/*"), Err(other)),
        (
            "odd length",
            Canned::part("012", 0, 20).with("content-range", "bytes 0-9/20"),
            Err(other),
        ),
        ("the whole", whole(), Ok("0123456789")),
        ("a longer whole", Canned::new(200, "0123456789a"), Err(other)),
        ("an empty whole", Canned::new(200, ""), Ok("")),
    ] {
        let server = Server::start(move |_| canned.clone()).await;
        match (read(&plain(), &url(&server), 0..10).await, expected) {
            (Ok(bytes), Ok(expected)) => assert_eq!(bytes, expected, "{name}"),
            (Err(error @ Error::Unavailable { .. }), Err(expected)) => {
                assert!(reason(&error).ends_with(expected), "{name}: {error}");
            }
            (read, expected) => panic!("{name}: {read:?}, not {expected:?}"),
        }
    }
    let server = Server::start(move |_| whole()).await;
    let behind = read(&plain(), &url(&server), 1..10).await;
    assert!(matches!(behind, Err(Error::Unavailable { .. })), "the server knows no ranges");
}

#[tokio::test]
async fn what_a_server_refuses_is_told_by_what_to_do() {
    type Check = fn(&Error) -> bool;
    let expired: Check = |error| matches!(error, Error::Expired { .. });
    let not_found: Check = |error| matches!(error, Error::NotFound { .. });
    let refused: Check = |error| matches!(error, Error::Refused { .. });
    let unavailable: Check = |error| matches!(error, Error::Unavailable { wait: None, .. });
    let waiting: Check = |error| error.wait() == Some(Duration::from_secs(7));
    for (canned, check) in [
        (Canned::s3_error(403, "AccessDenied", SECRET), expired),
        (Canned::s3_error(403, "SignatureDoesNotMatch", SECRET), expired),
        (Canned::new(403, SECRET), expired),
        (Canned::s3_error(401, "Unauthorized", ""), expired),
        (Canned::s3_error(400, "ExpiredToken", ""), expired),
        (Canned::s3_error(400, "InvalidRequest", SECRET), refused),
        (Canned::s3_error(404, "NoSuchKey", ""), not_found),
        (Canned::s3_error(500, "InternalError", SECRET), unavailable),
        (Canned::s3_error(503, "SlowDown", ""), unavailable),
        (Canned::s3_error(503, "SlowDown", "").with("retry-after", "7"), waiting),
        (Canned::s3_error(429, "TooManyRequests", "").with("retry-after", "7"), waiting),
        (Canned::new(502, "<html>"), unavailable),
        (Canned::new(204, ""), refused),
        (Canned::new(418, SECRET), refused),
    ] {
        let said = format!("{canned:?}");
        let server = Server::start(move |_| canned.clone()).await;
        let error = read(&plain(), &url(&server), 0..10).await.unwrap_err();
        reason(&error);
        assert!(check(&error), "{said}: {error:?}");
        assert_eq!(server.asked().len(), 1, "nothing is tried twice here");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let secret = Server::start(|_| Canned::part("0123456789", 0, 10)).await;
    let target = url(&secret);
    assert!(read(&plain(), &target, 0..10).await.is_ok(), "without the redirect it is read");
    for status in [301, 302, 303, 307, 308] {
        let target = target.clone();
        let server =
            Server::start(move |_| Canned::new(status, "").with("location", &target)).await;
        let error = read(&plain(), &url(&server), 0..10).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { .. }), "{error:?}");
        assert!(reason(&error).contains("goes where it was told and not further"));
    }
    assert_eq!(secret.asked().len(), 1);
}

#[tokio::test]
async fn a_body_that_ends_early_is_an_error_and_not_an_end() {
    for cut in [Some(0), Some(4), Some(9), None] {
        let server = Server::start(move |_| {
            let whole = Canned::part("0123456789", 0, 10);
            cut.map_or(whole.clone(), |len| whole.cut_after(len))
        })
        .await;
        match (read(&plain(), &url(&server), 0..10).await, cut) {
            (Ok(bytes), None) => assert_eq!(bytes, "0123456789"),
            (Err(error @ Error::Unavailable { .. }), Some(_)) => {
                let expected = "ended the connection before its answer was complete";
                assert!(reason(&error).ends_with(expected), "{error}");
            }
            (read, cut) => panic!("cut at {cut:?}: {read:?}"),
        }
    }
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up_after_a_time() {
    let server = Server::start(|_| Canned::part("0123456789", 0, 10).stalled_after(4)).await;
    let mut body = plain().open(&url(&server), 0..10).await.unwrap();
    assert_eq!(body.next().await, Ok(Some(Bytes::from_static(b"0123"))));
    tokio::time::pause();
    let began = Instant::now();
    let error = body.next().await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { .. }), "{error:?}");
    assert!(reason(&error).ends_with("did not answer in time"));
    assert!(began.elapsed() >= STALL_TIMEOUT && began.elapsed() < STALL_TIMEOUT * 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_a_request_and_says_nothing_is_given_up_after_a_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/b/a?{SECRET}", listener.local_addr().unwrap());
    let began = Instant::now();
    let error = read(&plain(), &url, 0..10).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { .. }), "{error:?}");
    assert!(reason(&error).ends_with("did not answer in time"));
    assert!(began.elapsed() <= HEADER_TIMEOUT + Duration::from_secs(1));
}

#[tokio::test]
async fn more_bytes_than_the_range_are_never_delivered() {
    // hyper's own server refuses to send more than it announced; without a length it is chunked.
    let server = Server::start(|_| {
        let canned =
            Canned::part("0123456789", 0, 10).repeated(3).with("transfer-encoding", "chunked");
        canned.without("content-length")
    })
    .await;
    let mut body = plain().open(&url(&server), 0..10).await.unwrap();
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = body.next().await {
        bytes.extend_from_slice(&piece);
    }
    assert!(bytes.len() <= 10, "{bytes:?}");
}

#[tokio::test]
async fn nobody_listening_is_unavailable() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/b/a?{SECRET}", free.local_addr().unwrap());
    drop(free);
    let error = read(&plain(), &url, 0..10).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { .. }), "{error:?}");
    assert!(reason(&error).starts_with("nothing listens at http://127.0.0.1:"));
}

#[tokio::test]
async fn a_name_without_an_address_is_unavailable() {
    let url = format!("http://no-such-name.invalid:9/b/a?{SECRET}");
    let error = read(&plain(), &url, 0..10).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { .. }), "{error:?}");
    assert_eq!(
        reason(&error),
        "the name of http://no-such-name.invalid:9 has no address; is it right?"
    );
}

#[tokio::test]
async fn http_is_read_only_if_the_settings_say_so() {
    let server = digits().await;
    let without = Fetcher::new().with_http(HttpSettings::default()).unwrap();
    let error = read(&without, &url(&server), 0..10).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }), "{error:?}");
    reason(&error);
    assert_eq!(server.asked().len(), 0);
    assert!(read(&plain(), &url(&server), 0..10).await.is_ok());
}

#[tokio::test]
async fn metadata_services_are_not_asked_by_address_or_by_name() {
    let server = digits().await;
    let port = server.port();
    let refusal = |url: String| async move {
        let error = read(&plain(), &url, 0..10).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { .. }), "{url}: {error:?}");
        reason(&error).to_owned()
    };
    for host in [
        "169.254.169.254",
        "169.254.169.254:80",
        "[fe80::1]",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "0.0.0.0",
    ] {
        for scheme in ["http", "https"] {
            let reason = refusal(format!("{scheme}://{host}/latest/meta-data?{SECRET}")).await;
            assert!(reason.contains("where machines keep secrets"), "{host}: {reason}");
        }
    }
    // No addresses in a URL's eyes, and no names in those of TLS: a resolver makes them addresses.
    for host in ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376"] {
        let reason = refusal(format!("http://{host}/latest/meta-data?{SECRET}")).await;
        assert!(reason.contains("where machines keep secrets"), "{host}: {reason}");
    }
    assert_eq!(refusal("https://2852039166/a".to_owned()).await, "it names no server");
    // The same ways lead to this machine.
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f000001"] {
        let url = format!("http://{host}:{port}/b/a");
        assert!(read(&plain(), &url, 0..10).await.is_ok(), "{host}");
    }
}

#[tokio::test]
async fn urls_that_name_a_user_or_no_server_are_refused() {
    let server = digits().await;
    for url in [
        format!("http://user:{SECRET}@127.0.0.1:{}/b/a", server.port()),
        "http://".to_owned(),
        "http:///b/a".to_owned(),
        "http:b/a".to_owned(),
        "https:".to_owned(),
        "http://a b/".to_owned(),
    ] {
        let error = read(&plain(), &url, 0..10).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { .. }), "{url}: {error:?}");
        assert!(!error.to_string().contains("0123456789abcdef"), "{error}");
    }
    assert_eq!(server.asked().len(), 0);
}

#[tokio::test]
async fn only_the_authority_of_the_settings_is_believed() {
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    // The same name and another key.
    let twin = Authority::new("right");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let with = |name: &str, authority: String| {
        let ca_file = Some(file(name, &authority));
        Fetcher::new().with_http(HttpSettings { ca_file, ..HttpSettings::default() }).unwrap()
    };
    let ok = Ok(Bytes::from_static(b"0123456789"));
    let good = Server::start_tls(&right.issue(), |_| Canned::part("0123456789", 0, 10)).await;
    assert_eq!(read(&with("right", right.pem()), &url(&good), 0..10).await, ok);
    let both = with("both", wrong.pem() + &right.pem());
    assert_eq!(read(&both, &url(&good), 0..10).await, ok);

    let machine = Fetcher::new().with_http(HttpSettings::default()).unwrap();
    for other in [with("wrong", wrong.pem()), with("twin", twin.pem()), machine] {
        let error = read(&other, &url(&good), 0..10).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { .. }), "{error:?}");
        assert!(reason(&error).ends_with("give the right one with --object-store-ca"), "{error}");
    }

    let right_ca = with("right", right.pem());
    for (certificate, expected) in [
        (right.issue_until("127.0.0.2", 4000), "is for another name"),
        (right.issue_until("127.0.0.1", 2001), "is not valid at this time"),
    ] {
        let bad = Server::start_tls(&certificate, |_| Canned::part("0123456789", 0, 10)).await;
        let error = read(&right_ca, &url(&bad), 0..10).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { .. }), "{error:?}");
        assert!(reason(&error).contains(expected), "{error}");
    }
}

#[tokio::test]
async fn tls_and_no_tls_are_told_apart() {
    let authority = Authority::new("right");
    let tls = Server::start_tls(&authority.issue(), |_| Canned::part("0123456789", 0, 10)).await;
    let clear = digits().await;
    let fetcher = plain();
    let without = url(&tls).replace("https:", "http:");
    let error = read(&fetcher, &without, 0..10).await.unwrap_err();
    assert!(reason(&error).contains("does not speak plain HTTP"), "{error}");
    let with = url(&clear).replace("http:", "https:");
    let error = read(&fetcher, &with, 0..10).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }), "{error:?}");
    assert!(reason(&error).contains("does not speak TLS"), "{error}");
}

#[tokio::test]
async fn a_changed_authority_counts_without_a_new_fetcher() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.crt");
    fs::write(&path, old.pem()).unwrap();
    let settings = HttpSettings { ca_file: Some(path.clone()), ..HttpSettings::default() };
    let fetcher = Fetcher::new().with_http(settings).unwrap();
    let server = Server::start_tls(&new.issue(), |_| Canned::part("0123456789", 0, 10)).await;
    let refused = read(&fetcher, &url(&server), 0..10).await;
    assert!(matches!(refused, Err(Error::Refused { .. })));

    // What cannot be used changes nothing.
    let aged = |text: &str| {
        fs::write(&path, text).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        let now = file.metadata().unwrap().modified().unwrap();
        file.set_modified(now + Duration::from_secs(10)).unwrap();
    };
    for (text, expected) in [("no PEM".to_owned(), false), (new.pem(), true)] {
        aged(&text);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::time::resume();
        let read = read(&fetcher, &url(&server), 0..10).await;
        assert_eq!(read.is_ok(), expected, "{read:?}");
    }
}

#[test]
fn a_file_without_an_authority_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let good = Authority::new("good").pem();
    for (text, is_good) in [
        (good.clone(), true),
        (String::new(), false),
        ("no PEM".to_owned(), false),
        (good.replace("BEGIN", "BEGUN"), false),
        (good.replacen("MII", "M!!", 1), false),
    ] {
        let path = folder.path().join("ca.crt");
        fs::write(&path, &text).unwrap();
        let settings = HttpSettings { ca_file: Some(path), ..HttpSettings::default() };
        assert_eq!(Fetcher::new().with_http(settings).is_ok(), is_good, "{text}");
        assert_eq!(Fetcher::new().with_http_believing(&text, false).is_ok(), is_good, "{text}");
    }
    let absent = Some(folder.path().join("absent"));
    let settings = HttpSettings { ca_file: absent, ..HttpSettings::default() };
    assert!(matches!(Fetcher::new().with_http(settings), Err(TrustError::File { .. })));
}
