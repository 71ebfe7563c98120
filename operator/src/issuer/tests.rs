use std::net::Ipv4Addr;

use k8s_openapi::ByteString;
use pyramid_protocol::SystemClock;
use pyramid_protocol::net::{TcpAccept, TcpConnect};
use pyramid_protocol::pb::v1::issuer_client::IssuerClient;
use pyramid_tls::Authority;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::fake_api::{FakeApi, Mood};
use crate::settings::Settings;

const POD: &str = "/api/v1/namespaces/shop/pods/web-0";
const DAY: Duration = Duration::from_secs(86_400);

/// Asks to be the operator.
const CSR: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIIBAzCBqwIBADAPMQ0wCwYDVQQDDARyb290MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAENyJUEXm/nh9t++2QYFdQEQ3NhtjGTPzWD94aNYXxFKw60/BiNtoMZv4V
yk8AlFhjNsBBh9o8bM+BM4BblNAmaqA6MDgGCSqGSIb3DQEJDjErMCkwJwYDVR0R
BCAwHoYcc3BpZmZlOi8vdGVzdC5sb2NhbC9vcGVyYXRvcjAKBggqhkjOPQQDAgNH
ADBEAiA6WguLQsM0X4YVcJ6FGJDGr8ReMIvNLdV9/j6pvvYMDgIgKuekQtr2CLCw
4UajEdPCBJ61BkjzXfbyW6DanbljLFs=
-----END CERTIFICATE REQUEST-----
";

/// An issuer on a port of its own, without TLS.
struct World {
    api: FakeApi,
    metrics: Metrics,
    bundle_pem: String,
    calls: IssuerClient<Channel>,
    _sender: watch::Sender<Arc<Trust>>,
    _tasks: JoinSet<()>,
}

impl World {
    async fn start(access: Access) -> Self {
        let api = FakeApi::default();
        let authority = Authority::generate("test.local", 30 * DAY, &SystemClock).unwrap();
        let trust = Trust::of(authority);
        let bundle_pem = trust.bundle_pem.clone();
        let (sender, trust) = watch::channel(Arc::new(trust));
        let metrics = Metrics::default();
        let issuer = Issuer {
            client: api.client(),
            trust,
            access,
            lives: Settings::for_tests().pki,
            clock: Arc::new(SystemClock),
            metrics: metrics.clone(),
        };
        let tcp = TcpAccept::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = tcp.local_address().unwrap().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { serve(tcp, issuer, CancellationToken::new()).await.unwrap() });
        let channel = net::channel(Arc::new(TcpConnect), &address).unwrap();
        let calls = IssuerClient::new(channel);
        Self { api, metrics, bundle_pem, calls, _sender: sender, _tasks: tasks }
    }

    /// With a token of the pod `web-0`, and one of the account alone.
    async fn with_tokens(access: Access) -> Self {
        let world = Self::start(access).await;
        world.api.put_token(
            "bound",
            status(&json!({
                "authentication.kubernetes.io/pod-name": ["web-0"],
                "authentication.kubernetes.io/pod-uid": ["uid-1"],
            })),
        );
        world.api.put_token("unbound", status(&json!({})));
        world
    }

    async fn issue(&self, token: &str, csr_pem: &str) -> Result<IssueResponse, Refusal> {
        let request = IssueRequest { token: token.to_owned(), csr_pem: csr_pem.to_owned() };
        let answer = self.calls.clone().issue(request).await;
        answer.map(Response::into_inner).map_err(|status| Refusal::from_status(&status))
    }

    /// The reason and the begin of the text.
    async fn refused(&self, token: &str, csr_pem: &str) -> (Reason, String) {
        let refusal = self.issue(token, csr_pem).await.unwrap_err();
        (refusal.reason(), refusal.message)
    }
}

fn status(extra: &Value) -> Value {
    json!({
        "authenticated": true,
        "audiences": ["pyramid-issuer"],
        "user": {"username": "system:serviceaccount:shop:web", "extra": extra},
    })
}

fn pod(uid: &str, annotations: &Value) -> Value {
    json!({
        "metadata": {"name": "web-0", "namespace": "shop", "uid": uid, "annotations": annotations},
        "spec": {"containers": []},
        "status": {"phase": "Running"},
    })
}

/// Nobody is named.
fn closed() -> Access {
    Access::filled(Vec::new(), Vec::new())
}

/// All service accounts of `shop` are named.
fn open() -> Access {
    let stream = json!({
        "apiVersion": "pyramid.dev/v1alpha1",
        "kind": "Stream",
        "metadata": {"namespace": "shop", "name": "orders"},
        "spec": {},
    });
    Access::filled(vec![serde_json::from_value(stream).unwrap()], Vec::new())
}

/// Whether the text is in the certificate.
fn names(response: &IssueResponse, text: &str) -> bool {
    let lines = response.certificate_pem.lines().filter(|line| !line.starts_with("-----"));
    let base64: String = lines.collect();
    let ByteString(der) = serde_json::from_value(base64.into()).unwrap();
    der.windows(text.len()).any(|bytes| bytes == text.as_bytes())
}

/// How long it holds from now on, in whole hours.
fn hours(response: &IssueResponse) -> u64 {
    let left_ms = response.not_after_ms - SystemClock.wall_ms();
    (left_ms + 1_800_000) / 3_600_000
}

#[tokio::test]
async fn a_pod_that_asks_for_pyramid_gets_its_accounts_certificate_for_a_day() {
    let world = World::with_tokens(closed()).await;
    world.api.put(POD, pod("uid-1", &json!({"pyramid.dev/append": "*"})));
    let response = world.issue("bound", CSR).await.unwrap();
    assert_eq!(hours(&response), 24);
    assert_eq!(response.trust_bundle_pem, world.bundle_pem);
    assert!(names(&response, "spiffe://test.local/ns/shop/sa/web"));
    // What the request asks for.
    assert!(!names(&response, "spiffe://test.local/operator"));
    assert_eq!(world.metrics.issues(Issue::Pod), 1);
}

#[tokio::test]
async fn a_pod_without_an_annotation_needs_an_access_list() {
    for (access, is_issued) in [(open(), true), (closed(), false)] {
        let world = World::with_tokens(access).await;
        world.api.put(POD, pod("uid-1", &json!({})));
        let answer = world.issue("bound", CSR).await;
        assert_eq!(answer.as_ref().map(hours).ok(), is_issued.then_some(1));
        assert_eq!(world.metrics.issues(Issue::Unbound), u64::from(is_issued));
    }
}

#[tokio::test]
async fn a_token_without_a_pod_needs_an_access_list_and_is_told_so() {
    let world = World::with_tokens(open()).await;
    assert_eq!(hours(&world.issue("unbound", CSR).await.unwrap()), 1);
    assert!(world.api.requests().iter().all(|request| request.starts_with("POST")));
    let world = World::with_tokens(closed()).await;
    let (reason, text) = world.refused("unbound", CSR).await;
    assert_eq!(reason, Reason::Denied);
    assert!(text.contains("shop/web; add it to spec.appenders"), "{text}");
    assert_eq!(world.metrics.issues(Issue::NotNamed), 1);
}

#[tokio::test]
async fn before_the_access_lists_are_read_nobody_is_told_that_they_lack_him() {
    let world = World::with_tokens(Access::unread()).await;
    assert_eq!(world.refused("unbound", CSR).await.0, Reason::Unavailable);
    world.api.put(POD, pod("uid-1", &json!({"pyramid.dev/append": "*"})));
    assert!(world.issue("bound", CSR).await.is_ok());
}

#[tokio::test]
async fn a_token_of_another_pod_or_of_nobody_is_denied() {
    let world = World::with_tokens(open()).await;
    world.api.put(POD, pod("uid-2", &json!({"pyramid.dev/append": "*"})));
    let (reason, text) = world.refused("bound", CSR).await;
    assert_eq!((reason, text.starts_with("the pod shop/web-0")), (Reason::Denied, true), "{text}");
    world.api.remove(POD);
    assert_eq!(world.refused("bound", CSR).await.0, Reason::Denied);
    let (reason, text) = world.refused("unknown", CSR).await;
    assert_eq!(
        (reason, text.starts_with("the token is refused")),
        (Reason::Denied, true),
        "{text}"
    );
    assert!(!text.contains("unknown"), "the token is told: {text}");
    world.api.put(POD, pod("uid-1", &json!({"pyramid.dev/append": "*"})));
    assert!(world.issue("bound", CSR).await.is_ok());
}

#[tokio::test]
async fn a_request_that_is_no_request_is_invalid() {
    let world = World::with_tokens(open()).await;
    for csr in ["", "junk", &CSR.replace("ADBE", "ADBF")] {
        let (reason, text) = world.refused("unbound", csr).await;
        assert_eq!(reason, Reason::Invalid, "{text}");
    }
    assert_eq!(world.metrics.issues(Issue::BadRequest), 3);
    assert!(world.issue("unbound", CSR).await.is_ok());
}

#[tokio::test]
async fn a_holder_may_ask_five_times_at_once() {
    let world = World::with_tokens(open()).await;
    world.api.put(POD, pod("uid-1", &json!({})));
    for _ in 0..5 {
        world.issue("unbound", CSR).await.unwrap();
    }
    let refusal = world.issue("unbound", CSR).await.unwrap_err();
    assert_eq!((refusal.reason(), refusal.retry), (Reason::ResourceExhausted, true));
    assert!((1..=1000).contains(&refusal.retry_after_ms), "{refusal:?}");
    assert_eq!(world.metrics.issues(Issue::Limited), 1);
    // Its pod is counted by itself.
    assert!(world.issue("bound", CSR).await.is_ok());
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_a_reason_to_try_again() {
    let world = World::with_tokens(open()).await;
    world.api.be(Mood::Forbids);
    let request = IssueRequest { token: "unbound".to_owned(), csr_pem: CSR.to_owned() };
    let status = world.calls.clone().issue(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let refusal = Refusal::from_status(&status);
    assert_eq!((refusal.retry, refusal.retry_after_ms), (true, RETRY_AFTER_MS));
    world.api.be(Mood::Good);
    assert!(world.issue("unbound", CSR).await.is_ok());
    assert_eq!(world.metrics.issues(Issue::ApiServer), 1);
}
