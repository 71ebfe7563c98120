//! What goes wrong: refusals, clocks, credentials, trust and connections.

use super::*;

#[tokio::test]
async fn nothing_is_tried_twice_here() {
    let (store, server, _keys) =
        store(|_| Canned::s3_error(503, "SlowDown", "").with("retry-after", "7")).await;
    let error = store.put(&key("a"), Bytes::from_static(b"a"), Condition::Absent).await;
    assert_eq!(error.unwrap_err().wait(), Some(Duration::from_secs(7)));
    server.one();
}

#[tokio::test]
async fn answers_are_told_by_what_to_do() {
    let later = "Sun, 01 Jan 3000 00:00:00 GMT";
    for (canned, expected) in [
        (
            Canned::s3_error(404, "NoSuchBucket", ""),
            "the bucket chunks does not exist at http://127",
        ),
        (Canned::s3_error(403, "AccessDenied", ""), "may not list in bucket chunks; grant s3:List"),
        (Canned::s3_error(403, "InvalidAccessKeyId", SECRET), "does not know the access key"),
        (
            Canned::s3_error(403, "RequestTimeTooSkewed", "").with("date", later),
            "days behind that of http://127.0.0.1",
        ),
        (
            Canned::s3_error(
                403,
                "RequestTimeTooSkewed",
                "<ServerTime>3000-01-01T00:00:00Z</ServerTime>",
            )
            .with("date", "yesterday"),
            "days behind that of http://127.0.0.1",
        ),
        (
            Canned::s3_error(301, "PermanentRedirect", "").with("x-amz-bucket-region", "eu-west-1"),
            "give --s3-region eu-west-1",
        ),
        (
            Canned::s3_error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
            "give --s3-region eu-west-1",
        ),
        (Canned::s3_error(500, "InternalError", ""), "500 InternalError (text of InternalError)"),
        (Canned::new(502, "<html>bad gateway</html>"), "answered 502; this is retried"),
        (Canned::new(400, "Client sent an HTTP request to an HTTPS server."), "use https://"),
        (Canned::new(200, "no XML"), "this is retried"),
    ] {
        let said = format!("{canned:?}");
        let (store, _server, _keys) = store(move |_| canned.clone()).await;
        let error = text(&store.list("dev/", None).await.unwrap_err());
        assert!(error.contains(expected), "{said}: {error}");
    }
}

struct AClock(u64);

impl Clock for AClock {
    fn wall_ms(&self) -> u64 {
        self.0
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_by_a_day_is_told_and_not_worked_around() {
    // 1 January 2000, told by the server.
    let (store, server, _keys) = store(|_| {
        Canned::s3_error(403, "RequestTimeTooSkewed", "")
            .with("date", "Sat, 01 Jan 2000 00:00:00 GMT")
    })
    .await;
    let store = store.with_clock(Arc::new(AClock(946_684_800_000 + 24 * 3_600_000)));
    for _ in 0..2 {
        let error = text(&store.list("dev/", None).await.unwrap_err());
        assert!(error.contains("is 24 hours ahead of that of http://127.0.0.1"), "{error}");
        assert!(error.ends_with("set the clock of this machine"), "{error}");
    }
    let asked = server.asked();
    assert!(asked.iter().all(|asked| asked.header("x-amz-date") > Some("2001")));
}

#[tokio::test]
async fn changed_credentials_count_without_a_restart() {
    let (store, server, keys) = store(|_| page(&[], None)).await;
    store.list("", None).await.unwrap();
    write_credentials(keys.path(), "AKIANEW", SECRET);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    store.list("", None).await.unwrap();
    let used: Vec<_> = server
        .asked()
        .iter()
        .map(|asked| {
            let (_, rest) =
                asked.header("authorization").unwrap().split_once("Credential=").unwrap();
            rest.split('/').next().unwrap().to_owned()
        })
        .collect();
    assert_eq!(used, [ACCESS, "AKIANEW"]);

    fs::remove_file(keys.path().join("accessKeyId")).unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::time::resume();
    for error in [
        store.list("", None).await.unwrap_err(),
        store.locate(&key("a"), 0..1, Duration::from_secs(1)).await.unwrap_err(),
        store.get(&key("a"), 0..1).await.unwrap_err(),
    ] {
        assert!(matches!(&error, Error::Refused { .. }), "{error:?}");
        assert!(text(&error).contains("accessKeyId: there is no such file"), "{error}");
    }
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn only_the_authority_of_the_settings_is_believed() {
    let (right, wrong) = (Authority::new("right"), Authority::new("wrong"));
    let server = Server::start_tls(&right.issue(), |_| page(&[], None)).await;
    let keys = credentials();
    let open = |name: &'static str, pem: String| {
        let path = keys.path().join(name);
        fs::write(&path, pem).unwrap();
        let settings = settings(&server.url(), keys.path(), Some(&path));
        async move { S3Store::open(&settings).await.unwrap() }
    };
    let good = open("right.crt", right.pem()).await;
    assert_eq!(good.list("", None).await, Ok(Listing::default()));
    let both = open("both.crt", wrong.pem() + &right.pem()).await;
    assert_eq!(both.list("", None).await, Ok(Listing::default()));

    let mut others = vec![open("wrong.crt", wrong.pem()).await];
    match S3Store::open(&settings(&server.url(), keys.path(), None)).await {
        Ok(store) => others.push(store),
        // A machine without a bundle says so even earlier.
        Err(error) => assert_eq!(error, OpenError::Trust(crate::TrustError::NoNativeRoots)),
    }
    for store in others {
        let error = store.list("", None).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { .. }), "{error:?}");
        assert!(text(&error).ends_with("give the right one with --s3-ca"), "{error}");
    }
    for pem in ["", "no PEM"] {
        let path = keys.path().join("bad.crt");
        fs::write(&path, pem).unwrap();
        let opened = S3Store::open(&settings(&server.url(), keys.path(), Some(&path))).await;
        assert!(matches!(opened, Err(OpenError::Trust(_))), "{pem}");
    }
}

#[tokio::test]
async fn tls_and_no_tls_are_told_apart() {
    let authority = Authority::new("right");
    let tls = Server::start_tls(&authority.issue(), |_| page(&[], None)).await;
    let clear = Server::start(|_| page(&[], None)).await;
    let keys = credentials();
    let without = settings(&tls.url().replace("https:", "http:"), keys.path(), None);
    let error = S3Store::open(&without).await.unwrap().list("", None).await.unwrap_err();
    assert!(text(&error).contains("does not speak plain HTTP"), "{error}");
    let with = settings(&clear.url().replace("http:", "https:"), keys.path(), None);
    let error = S3Store::open(&with).await.unwrap().list("", None).await.unwrap_err();
    assert!(text(&error).contains("does not speak TLS"), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_unavailable() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    let keys = credentials();
    let at = |endpoint: String| {
        let settings = settings(&endpoint, keys.path(), None);
        async move { S3Store::open(&settings).await.unwrap().list("", None).await.unwrap_err() }
    };
    drop(free);
    let refused = at(format!("http://{address}")).await;
    assert!(matches!(&refused, Error::Unavailable { .. }), "{refused:?}");
    assert!(text(&refused).contains(&format!("nothing listens at http://{address}")), "{refused}");
    let unknown = at("http://no-such-name.invalid:9".to_owned()).await;
    assert!(matches!(&unknown, Error::Unavailable { .. }), "{unknown:?}");
    assert!(text(&unknown).contains("has no address; is it right?"), "{unknown}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_after_a_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let keys = credentials();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let store = S3Store::open(&settings(&endpoint, keys.path(), None)).await.unwrap();
    // Credentials are read from files on other threads, which a stopped clock would not wait for.
    store.locate(&key("a"), 0..1, Duration::from_secs(1)).await.unwrap();
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let error = store.list("", None).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { .. }), "{error:?}");
    assert!(text(&error).contains("did not answer in time"), "{error}");
    assert!(began.elapsed() <= CALL_TIMEOUT + Duration::from_secs(1));
}

#[test]
fn calls_that_carry_more_may_take_longer_up_to_a_limit() {
    for (len, seconds) in [
        (0, 30),
        (TRANSFER_RATE_MIN - 1, 30),
        (TRANSFER_RATE_MIN, 31),
        (8 << 20, 94),
        (210 * TRANSFER_RATE_MIN, 240),
        (211 * TRANSFER_RATE_MIN, 240),
        (u64::MAX, 240),
    ] {
        assert_eq!(call_timeout(len), Duration::from_secs(seconds), "{len}");
    }
}

#[tokio::test]
async fn a_probe_sees_a_good_bucket_and_a_missing_one() {
    let answer = |bucket_code: &'static str| {
        move |asked: &Asked| match asked.target.contains("list-type=2") {
            true if bucket_code.is_empty() => page(&[], None),
            true => Canned::s3_error(404, bucket_code, ""),
            false => Canned::s3_error(404, "NoSuchKey", ""),
        }
    };
    let (good, server, _keys) = store(answer("")).await;
    assert_eq!(probe(&good, "dev").await, Ok(()));
    assert_eq!(server.asked().len(), 2);
    let (missing, _server, _keys) = store(answer("NoSuchBucket")).await;
    assert!(probe(&missing, "dev").await.is_err());
}

#[tokio::test]
async fn a_store_shows_where_it_is_and_no_secret() {
    let (store, server, keys) = store(|_| stored()).await;
    assert_eq!(format!("{store:?}"), format!("bucket chunks at {}", server.url()));
    let settings = StoreSettings::S3(settings(&server.url(), keys.path(), None));
    assert_eq!(settings.to_string(), format!("s3://chunks at {}", server.url()));
    assert!(settings.open().await.is_ok());
}
