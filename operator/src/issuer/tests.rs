use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pyramid_protocol::SystemClock;
use pyramid_tls::Authority;
use serde_json::json;

use super::holder::BoundPod;
use super::*;
use crate::settings::Settings;

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

fn trust() -> Trust {
    Trust::of(Authority::generate("test.local", 30 * DAY, &SystemClock).unwrap())
}

fn unbound() -> Holder {
    Holder { namespace: "shop".to_owned(), account: "web".to_owned(), pod: None }
}

/// Of the pod `web-0`.
fn bound() -> Holder {
    let pod = Some(BoundPod { name: "web-0".to_owned(), uid: "uid-1".to_owned() });
    Holder { pod, ..unbound() }
}

fn pod(annotations: &[&str]) -> Pod {
    let annotations = annotations.iter().map(|name| ((*name).to_owned(), "*".to_owned()));
    let metadata = ObjectMeta {
        uid: Some("uid-1".to_owned()),
        annotations: Some(annotations.collect()),
        ..ObjectMeta::default()
    };
    Pod { metadata, ..Pod::default() }
}

fn certified(trust: &Trust, grant: Grant, csr: &str) -> Result<(Issue, IssueResponse), Error> {
    certify(trust, Settings::for_tests().pki, &SystemClock, &unbound(), grant, csr)
}

#[test]
fn a_certificate_names_the_account_and_nothing_that_was_asked_for() {
    let trust = trust();
    for (grant, issue, life_hours) in
        [(Grant::Pod, Issue::Pod, 24), (Grant::Unbound, Issue::Unbound, 1)]
    {
        let (result, response) = certified(&trust, grant, CSR).unwrap();
        assert_eq!((result, hours(&response)), (issue, life_hours));
        assert_eq!(response.trust_bundle_pem, trust.bundle_pem);
        assert!(names(&response, "spiffe://test.local/ns/shop/sa/web"));
        assert!(!names(&response, "spiffe://test.local/operator"));
    }
}

#[test]
fn a_request_that_is_no_request_is_the_callers_fault() {
    let trust = trust();
    for csr in ["", "junk", &CSR.replace("ADBE", "ADBF")] {
        let error = certified(&trust, Grant::Unbound, csr).unwrap_err();
        assert_eq!(
            (error.result(), error.refusal().reason()),
            (Issue::BadRequest, Reason::Invalid)
        );
    }
    assert!(certified(&trust, Grant::Unbound, CSR).is_ok());
}

#[test]
fn who_has_no_pod_that_asks_for_pyramid_needs_an_access_list() {
    let asks = pod(&["pyramid.dev/append"]);
    let silent = pod(&[]);
    let not_named = "no Stream or Subscription names the service account shop/web; add it to \
                     spec.appenders or spec.subscribers of a Stream, or annotate the pod with \
                     pyramid.dev/subscriptions or pyramid.dev/append";
    // Before the lists are read nobody is told that they lack him.
    let not_read = "the operator has not read the access lists yet; try again";
    let cases = [
        (open(), Ok(Grant::Unbound)),
        (closed(), Err(not_named.to_owned())),
        (Access::unread(), Err(not_read.to_owned())),
    ];
    for (access, expected) in cases {
        let decided = |holder: &Holder, pod: Option<&Pod>| {
            decide(holder, pod, &access).map_err(|error| error.to_string())
        };
        assert_eq!(decided(&bound(), Some(&asks)), Ok(Grant::Pod));
        assert_eq!(decided(&bound(), Some(&silent)), expected);
        assert_eq!(decided(&unbound(), None), expected);
    }
}

#[test]
fn a_refusal_says_whether_to_come_back_and_when() {
    let (namespace, name) = ("shop".to_owned(), "web-0".to_owned());
    let errors = [
        (Error::Token { why: "w".to_owned(), flaw: Issue::BadToken }, (Reason::Denied, false, 0)),
        (
            Error::PodGone { namespace: namespace.clone(), pod: name.clone(), is_replaced: false },
            (Reason::Denied, false, 0),
        ),
        (
            Error::PodFinished { namespace: namespace.clone(), pod: name.clone() },
            (Reason::Denied, false, 0),
        ),
        (Error::NotNamed { namespace, account: name }, (Reason::Denied, false, 0)),
        (
            Error::Limited { after: Duration::from_millis(300) },
            (Reason::ResourceExhausted, true, 300),
        ),
        (Error::Api { what: "the pod", source: None }, (Reason::Unavailable, true, 2_000)),
        (Error::NotReady, (Reason::Unavailable, true, 2_000)),
    ];
    for (error, expected) in errors {
        let refusal = error.refusal();
        let told = (refusal.reason(), refusal.retry, refusal.retry_after_ms);
        assert_eq!(told, expected, "{error}");
        assert_eq!(refusal.message, error.to_string());
    }
}

#[test]
fn who_is_to_wait_for_less_than_a_millisecond_is_told_a_whole_one() {
    for (after_ns, told_ms) in [(1, 1), (1_000_000, 1), (1_000_001, 2)] {
        let error = Error::Limited { after: Duration::from_nanos(after_ns) };
        assert_eq!(error.refusal().retry_after_ms, told_ms, "{after_ns} ns");
    }
}
