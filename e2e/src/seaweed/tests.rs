use super::*;

async fn put(server: &Seaweed, path: &str, body: &'static str) -> StatusCode {
    let put = Request::new(Method::PUT, path.to_owned()).body(Bytes::from_static(body.as_bytes()));
    server.send(put).await.unwrap().0
}

async fn get(server: &Seaweed, path: &str) -> (StatusCode, Bytes) {
    server.send(Request::new(Method::GET, path.to_owned())).await.unwrap()
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_kill_and_nothing_is_left_at_the_end() {
    let server = Seaweed::start().await.unwrap();
    let object = format!("/{}/a", server.new_bucket().await.unwrap());
    assert_eq!(put(&server, &object, "content").await, StatusCode::OK);
    server.kill().unwrap();
    let asked = server.send(Request::new(Method::GET, object.clone())).await;
    assert!(asked.is_err(), "{asked:?}");
    server.start_again().await.unwrap();
    assert_eq!(get(&server, &object).await, (StatusCode::OK, Bytes::from_static(b"content")));

    let (folder, address) = (server.folder.clone(), server.address());
    assert!(folder.is_dir());
    drop(server);
    assert!(!folder.exists());
    assert!(std::net::TcpListener::bind(address).is_ok(), "somebody still listens");
}

#[tokio::test]
async fn each_user_may_do_what_the_list_says() {
    let server = Seaweed::shared().await.unwrap();
    let object = format!("/{}/a", server.new_bucket().await.unwrap());
    assert_eq!(put(server, &object, "content").await, StatusCode::OK);
    let unknown = Credentials::new("nobody", "x");
    let wrong = Credentials { secret_key: "wrong".into(), ..Credentials::admin() };
    for (user, may_get, may_put) in [
        (Credentials::admin(), true, true),
        (Credentials::reader(), true, false),
        (Credentials::stranger(), false, false),
        (unknown, false, false),
        (wrong, false, false),
    ] {
        let status = |may| if may { StatusCode::OK } else { StatusCode::FORBIDDEN };
        let ask = |method, body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            Request::new(method, object.clone()).body(body).send(server.address(), &user)
        };
        assert_eq!(ask(Method::GET, "").await.unwrap().0, status(may_get), "{user:?}");
        assert_eq!(ask(Method::PUT, "x").await.unwrap().0, status(may_put), "{user:?}");
    }
}

#[tokio::test]
async fn a_bucket_that_was_not_created_is_not_there() {
    let server = Seaweed::shared().await.unwrap();
    assert_eq!(put(server, "/no-such-bucket/a", "content").await, StatusCode::NOT_FOUND);
    let there = format!("/{}/a", server.new_bucket().await.unwrap());
    assert_eq!(put(server, &there, "content").await, StatusCode::OK);
}

#[tokio::test]
async fn the_signed_digest_of_a_body_is_not_checked_but_its_checksum_is() {
    let server = Seaweed::shared().await.unwrap();
    let object = format!("/{}/a", server.new_bucket().await.unwrap());
    let put = || Request::new(Method::PUT, object.clone()).body(Bytes::from_static(b"hello world"));
    let other = || Bytes::from_static(b"hellp world");
    assert_eq!(server.send(put().but_send(other())).await.unwrap().0, StatusCode::OK);
    assert_eq!(get(server, &object).await.1, other());
    // CRC-32C of what is signed.
    let checked = || put().header("x-amz-checksum-crc32c", "yZRlqg==");
    let (status, body) = server.send(checked().but_send(other())).await.unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(&body).contains("<Code>BadDigest</Code>"), "{body:?}");
    assert_eq!(server.send(checked()).await.unwrap().0, StatusCode::OK);
}
