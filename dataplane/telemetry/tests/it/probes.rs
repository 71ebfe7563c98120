//! What is answered to whom.

use pyramid_telemetry::metrics::CONTENT_TYPE;

use crate::server::{Server, read};

fn ok() -> (u16, String) {
    (200, "ok\n".to_owned())
}

#[tokio::test]
async fn each_probe_has_its_own_answer_and_says_why_not() {
    let server = Server::start().await;
    for path in ["/startupz", "/healthz", "/readyz"] {
        assert_eq!(server.get(path).await, ok());
    }
    server.say(Some("reads its log"), None, Some("not yet"));
    assert_eq!(server.get("/startupz").await, (503, "no: reads its log\n".to_owned()));
    assert_eq!(server.get("/healthz").await, ok());
    assert_eq!(server.get("/readyz?verbose").await, (503, "no: not yet\n".to_owned()));
    server.say(None, Some("hangs"), None);
    assert_eq!(server.get("/healthz").await, (503, "no: hangs\n".to_owned()));
    assert_eq!(server.get("/startupz").await, ok());
    server.stop().await;
}

#[tokio::test]
async fn metrics_have_the_content_type_that_prometheus_knows() {
    let server = Server::start().await;
    server.counter.inc_by(3);
    let response = server.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("\r\ncontent-type: {CONTENT_TYPE}\r\n")), "{head}");
    let expected = "# HELP p_turns Turns taken.\n# TYPE p_turns counter\np_turns_total 3\n# EOF\n";
    assert_eq!(body, expected);
    server.stop().await;
}

#[tokio::test]
async fn a_head_request_gets_the_head_alone() {
    let server = Server::start().await;
    server.say(None, None, Some("not yet"));
    for (path, status) in [("/healthz", "200"), ("/readyz", "503"), ("/metrics", "200")] {
        let request = format!("HEAD {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let response = server.send(request.as_bytes()).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert_eq!((&head[9..12], body), (status, ""), "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn other_paths_list_those_that_there_are_and_other_methods_are_refused() {
    let server = Server::start().await;
    for path in ["/", "/health", "/metrics/", "/../metrics", "//healthz"] {
        let (status, body) = server.get(path).await;
        assert_eq!(status, 404, "{path}");
        for path in ["/healthz", "/readyz", "/startupz", "/metrics"] {
            assert!(body.contains(path), "{body}");
        }
    }
    let request = b"POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let response = server.send(request).await;
    assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
    assert!(response.contains("\r\nallow: GET, HEAD\r\n"), "{response}");
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_what_is_open() {
    let server = Server::start().await;
    let mut idle = server.connect().await;
    server.stop().await;
    assert_eq!(read(&mut idle).await, "");
}
