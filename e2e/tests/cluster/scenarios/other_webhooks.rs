//! Webhooks that are not Pyramid's: servers of this process, and what the API server is told of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pyramid_e2e::cluster::Cluster;
use pyramid_protocol::net::{self, TcpAccept};
use pyramid_protocol::{SpiffeId, SystemClock};
use pyramid_tls::authority::{Authority, Request, Usage};
use pyramid_tls::{Protocols, Tls, write_directory};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::service::Routes;

/// Longer than any run.
const LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Name of the container that a mesh adds.
pub(crate) const PROXY: &str = "proxy";

/// What a server of this process answers, by path.
///
/// `/first` and `/last` are a mesh: they put a proxy in front of all init containers or behind them.
/// `/allow` lets everything through, and `/silent` answers nothing.
pub(crate) struct Webhooks {
    address: SocketAddr,
    bundle: String,
    _serving: JoinSet<()>,
    _folder: TempDir,
}

impl Webhooks {
    /// Serves until it is dropped.
    pub(crate) async fn serve(cluster: &Cluster) -> anyhow::Result<Self> {
        const TRUST_DOMAIN: &str = "others.example";
        let authority = Authority::generate(TRUST_DOMAIN, LIFE, &SystemClock)?;
        let request = Request {
            identity: SpiffeId::writer(TRUST_DOMAIN, "others", "webhooks")?,
            usage: Usage::ServerAndClient,
            dns_names: Vec::new(),
            ip_addresses: vec![IpAddr::V4(cluster.host())],
            life: LIFE,
        };
        let folder = tempfile::tempdir()?;
        let issued = authority.issue(&request, &SystemClock)?;
        write_directory(folder.path(), &issued, authority.bundle_pem())?;
        let tls = Tls::open(folder.path(), Arc::new(SystemClock))?;
        let accept = TcpAccept::bind((cluster.host(), 0).into()).await?;
        let address = accept.local_address()?;
        let incoming = net::incoming(tls.accept_anybody(accept, Protocols::Http));
        // The API server asks by HTTP/1.1.
        let served = net::server().accept_http1(true).add_routes(Routes::from(router()));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            // Who asks for something is told that there is no answer.
            drop(served.serve_with_incoming(incoming).await);
        });
        let bundle = BASE64_STANDARD.encode(authority.bundle_pem());
        Ok(Self { address, bundle, _serving: serving, _folder: folder })
    }

    /// Where the API server finds what is served at this path.
    pub(crate) fn client(&self, path: &str) -> Value {
        json!({"url": format!("https://{}{path}", self.address), "caBundle": self.bundle})
    }

    /// The root by which this server is believed, as configurations have it.
    pub(crate) fn bundle(&self) -> &str {
        &self.bundle
    }
}

fn router() -> Router {
    let mesh = |place| post(async move |Json(review): Json<Value>| Json(mesh(&review, place)));
    Router::new()
        .route("/first", mesh("0"))
        .route("/last", mesh("-"))
        .route("/allow", post(async |Json(review): Json<Value>| Json(answer(&review, json!({})))))
        .route("/silent", post(std::future::pending::<&'static str>))
}

fn answer(review: &Value, more: Value) -> Value {
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    if let (Some(response), Value::Object(more)) = (response.as_object_mut(), more) {
        response.extend(more);
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// Adds a proxy to a Pod that has none, at this place among its init containers.
fn mesh(review: &Value, place: &str) -> Value {
    let containers = review["request"]["object"]["spec"]["initContainers"].as_array();
    let is_proxy = |container: &Value| container["name"] == PROXY;
    if containers.is_some_and(|containers| containers.iter().any(is_proxy)) {
        return answer(review, json!({}));
    }
    let list = "/spec/initContainers";
    let patch = match containers {
        None => json!([{"op": "add", "path": list, "value": [proxy()]}]),
        Some(_) => json!([{"op": "add", "path": format!("{list}/{place}"), "value": proxy()}]),
    };
    let patch = BASE64_STANDARD.encode(patch.to_string());
    answer(review, json!({"patchType": "JSONPatch", "patch": patch}))
}

fn proxy() -> Value {
    json!({
        "name": PROXY,
        "image": "localhost/pyramid-probe:0.1.0",
        "args": ["mesh"],
        "restartPolicy": "Always",
        "startupProbe": {"tcpSocket": {"port": 15021}, "periodSeconds": 1, "failureThreshold": 30},
    })
}

/// A configuration that is there until [`Configuration::remove`].
pub(crate) struct Configuration<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Configuration<'a> {
    /// Has the API server ask the server of `client` about each new Pod of one namespace. Servers
    /// are asked in the order of the configurations' names.
    pub(crate) async fn of_all_pods(
        cluster: &'a Cluster,
        name: &str,
        namespace: &str,
        client: &Value,
    ) -> anyhow::Result<Self> {
        let webhook = json!({
            "name": "mesh.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "reinvocationPolicy": "IfNeeded",
            "rules": [{
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["pods"],
            }],
        });
        Self::apply(cluster, name, namespace, client, webhook).await
    }

    /// The chart's configuration, but for one namespace only and with another way to a server.
    pub(crate) async fn as_the_charts(
        cluster: &'a Cluster,
        name: &str,
        namespace: &str,
        client: &Value,
    ) -> anyhow::Result<Self> {
        let charts = charts(cluster).await?;
        let mut webhook = charts["webhooks"][0].clone();
        webhook["name"] = json!("copy.example.com");
        Self::apply(cluster, name, namespace, client, webhook).await
    }

    async fn apply(
        cluster: &'a Cluster,
        name: &str,
        namespace: &str,
        client: &Value,
        mut webhook: Value,
    ) -> anyhow::Result<Self> {
        webhook["clientConfig"] = client.clone();
        webhook["namespaceSelector"] =
            json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [webhook],
        });
        cluster.apply(&configuration.to_string()).await?;
        Ok(Self { cluster, name: name.to_owned() })
    }

    /// It goes. One that is left after a failure holds back Pods of its namespace only.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        let delete = ["delete", "mutatingwebhookconfigurations", &self.name];
        self.cluster.kubectl(&delete).await.map(|_| ())
    }
}

/// The configuration that the chart makes.
pub(crate) async fn charts(cluster: &Cluster) -> anyhow::Result<Value> {
    let get = ["get", "mutatingwebhookconfigurations", "pyramid-sidecar-injector"];
    cluster.kubectl_json(&get).await
}

#[test]
fn a_proxy_is_put_where_it_is_asked_for_and_once() {
    let patched = |spec: Value, place| {
        let review = json!({"request": {"uid": "7", "object": {"spec": spec}}});
        let answer = mesh(&review, place);
        assert_eq!(answer["response"]["uid"], "7");
        let patch = answer["response"]["patch"].as_str()?;
        let patch: Value = serde_json::from_slice(&BASE64_STANDARD.decode(patch).unwrap()).unwrap();
        patch[0]["path"].as_str().map(str::to_owned)
    };
    let list = "/spec/initContainers";
    assert_eq!(patched(json!({}), "0"), Some(list.to_owned()));
    let others = json!({"initContainers": [{"name": "a"}]});
    assert_eq!(patched(others.clone(), "0"), Some(format!("{list}/0")));
    assert_eq!(patched(others, "-"), Some(format!("{list}/-")));
    assert_eq!(patched(json!({"initContainers": [{"name": PROXY}]}), "0"), None);
}
