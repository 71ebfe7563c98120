//! Who may not, with the means of a Pod: an [`Intruder`] beside one who may.

use std::time::Duration;

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::Cluster;
use serde_json::{Value, json};

use super::certificates::POD_LIFE_SECONDS;
use super::numbers::Numbers;
use super::shop::{SOON, Shop, example};

/// A right that is taken is gone within this time.
const REVOKED: Duration = Duration::from_secs(60);
/// Records that a consumer is behind only if it gets none: three seconds of the producer.
const BEHIND: u64 = 30;
/// The audience of the issuer's tokens.
const ISSUER: &str = "pyramid-issuer";

/// A Pod with a token for the issuer, and nothing in it but the probe.
#[derive(Clone, Copy)]
pub(crate) struct Intruder<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
}

impl Intruder<'_> {
    /// Makes service account and Pod, both of that name. The Pod has a pusher, as any other Pod of
    /// the namespace may.
    pub(crate) async fn enter(self) -> anyhow::Result<Self> {
        let Self { cluster, namespace, pod } = self;
        cluster
            .apply(&format!(
                "apiVersion: v1\n\
                 kind: ServiceAccount\n\
                 metadata: {{name: {pod}, namespace: {namespace}}}\n\
                 ---\n\
                 {}",
                pod_yaml(namespace, pod)
            ))
            .await?;
        Ok(self)
    }

    pub(crate) async fn is_ready(self) -> anyhow::Result<Self> {
        let (namespace, pod) = (self.namespace, format!("pod/{}", self.pod));
        let wait = ["wait", "--timeout=90s", "--for=condition=Ready"];
        self.cluster.kubectl(&[&wait[..], &["-n", namespace, &pod]].concat()).await?;
        Ok(self)
    }

    /// What the probe printed.
    pub(crate) async fn probe(
        self,
        arguments: &[&str],
        input: Option<&str>,
    ) -> anyhow::Result<Value> {
        let exec = ["exec", "--stdin", "--container=probe", "-n", self.namespace, self.pod];
        let exec = [&exec[..], &["--", "/pyramid-probe"], arguments].concat();
        let ended = self.cluster.try_kubectl(&exec, Some(input.unwrap_or_default())).await?;
        ensure!(ended.success, "{arguments:?}: {ended:?}");
        serde_json::from_str(&ended.stdout).with_context(|| ended.stdout)
    }

    /// Gets a certificate by the token of its own Pod; what it says.
    async fn get_certificate(self) -> anyhow::Result<Value> {
        self.probe(&["issue", "--token=/token/token", "--into=/identity/own"], None).await
    }

    /// A call of the Writer with that certificate.
    async fn call(self, call: &str, name: &str) -> anyhow::Result<Value> {
        self.probe(&[call, "--identity=/identity/own", name], None).await
    }

    /// Shows this token to the issuer.
    async fn shows(self, token: &str, more: &[&str]) -> anyhow::Result<Value> {
        self.probe(&[&["issue", "--token=-"], more].concat(), Some(token)).await
    }

    /// A token of a service account here.
    async fn token(self, account: &str, audience: &str, more: &[&str]) -> anyhow::Result<String> {
        let create = ["create", "token", account, "-n", self.namespace, "--audience", audience];
        self.cluster.kubectl(&[&create[..], more].concat()).await
    }

    /// A token that is bound to the Pod of that name, as the Pod's own is.
    async fn bound_token(self, pod: &str) -> anyhow::Result<String> {
        let bound = ["--bound-object-kind=Pod", "--bound-object-name", pod];
        self.token(pod, ISSUER, &bound).await
    }
}

fn pod_yaml(namespace: &str, pod: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata:
  name: {pod}
  namespace: {namespace}
  labels: {{app: {pod}}}
  annotations: {{pyramid.dev/append: "*"}}
spec:
  serviceAccountName: {pod}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532}}
  containers:
    - name: probe
      image: localhost/pyramid-probe:0.1.0
      args: [wait]
      volumeMounts:
        - {{name: known, mountPath: /bootstrap}}
        - {{name: own-token, mountPath: /token}}
        - {{name: own-identity, mountPath: /identity}}
  volumes:
    - name: known
      configMap: {{name: known}}
    - name: own-token
      projected:
        sources:
          - serviceAccountToken: {{audience: {ISSUER}, path: token}}
    - name: own-identity
      emptyDir: {{medium: Memory}}
"#
    )
}

/// Opens a namespace whose stream and Subscription are for `till` alone.
async fn closed_shop<'a>(
    cluster: &'a Cluster,
    namespace: &'static str,
) -> anyhow::Result<Shop<'a>> {
    let shop = Shop::new(cluster, namespace).await?;
    let rights =
        "spec:\n  appenders: [{serviceAccount: till}]\n  subscribers: [{serviceAccount: till}]\n";
    shop.apply(&format!("{}{rights}", example("stream")?)).await?;
    shop.apply(&format!("{}  serviceAccounts: [till]\n", example("subscription")?)).await?;
    let kinds = ["streams.pyramid.dev/orders", "subscriptions.pyramid.dev/orders-projector"];
    shop.wait(&["--for=condition=Ready", kinds[0], kinds[1]]).await?;
    tell_places(cluster, namespace, namespace).await?;
    Ok(shop)
}

/// Gives what the pushers of one namespace know to the Pods of another: addresses are no secret.
pub(crate) async fn tell_places(cluster: &Cluster, from: &str, to: &str) -> anyhow::Result<()> {
    let get = ["get", "configmap", "pyramid-bootstrap", "-n", from];
    let written = async || Ok(cluster.kubectl(&get).await.is_ok());
    cluster.wait_for("the pushers of the namespace are told", SOON, written).await?;
    let known = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "known", "namespace": to},
        "data": cluster.kubectl_json(&get).await?["data"],
    });
    cluster.apply(&known.to_string()).await?;
    Ok(())
}

fn reason(answer: &Value) -> &str {
    answer["refused"]["reason"].as_str().unwrap_or_default()
}

/// Calls that the Writer has refused because there is nothing for the caller.
async fn refused_calls(cluster: &Cluster) -> anyhow::Result<Vec<u64>> {
    let mut counts = Vec::new();
    for call in ["call=\"append\"", "call=\"read\"", "call=\"attach\""] {
        let labels = [call, "reason=\"NOT_FOUND\""];
        let writer = Numbers::of_default_writer(cluster);
        counts.push(writer.sum("pyramid_writer_refusals_total", &labels).await?);
    }
    Ok(counts)
}

/// Three Pods: one who may all, one of another service account, and one of the same name in another
/// namespace.
pub(crate) async fn who_has_no_right_neither_appends_nor_reads_nor_is_pushed_to(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    const NEXT: &str = "intruders-next";
    let shop = closed_shop(cluster, "intruders").await?;
    let next = Shop::new(cluster, NEXT).await?;
    tell_places(cluster, shop.namespace, NEXT).await?;
    let till = Intruder { cluster, namespace: shop.namespace, pod: "till" }.enter().await?;
    let thief = Intruder { pod: "thief", ..till }.enter().await?;
    let stranger = Intruder { namespace: NEXT, ..till }.enter().await?;
    let before = refused_calls(cluster).await?;
    let calls = [
        ("append", "intruders/orders"),
        ("read", "intruders/orders"),
        ("attach", "intruders/orders-projector"),
    ];
    for intruder in [till, thief, stranger] {
        let granted = intruder.is_ready().await?.get_certificate().await?;
        let identity = format!("/ns/{}/sa/{}", intruder.namespace, intruder.pod);
        let uri = granted["done"]["uris"][0].as_str().unwrap_or_default();
        ensure!(uri.ends_with(&identity), "{granted}");
    }
    let appended = till.call(calls[0].0, calls[0].1).await?;
    // On a cluster where this ran before, the stream has kept its records.
    let offset = appended["done"]["offset"].as_u64().with_context(|| appended.to_string())?;
    let records = offset + 1;
    let may = [till.call(calls[1].0, calls[1].1).await?, till.call(calls[2].0, calls[2].1).await?];
    let expected =
        [json!({"done": {"records": records}}), json!({"done": {"streams": ["intruders/orders"]}})];
    ensure!(may == expected, "{may:?}");
    for intruder in [thief, stranger] {
        for (call, name) in calls {
            let answer = intruder.call(call, name).await?;
            ensure!(reason(&answer) == "NOT_FOUND", "{call} by {}: {answer}", intruder.namespace);
        }
    }
    let after = refused_calls(cluster).await?;
    let rose = before.iter().zip(&after).all(|(before, after)| after - before >= 2);
    ensure!(rose, "two of each were refused: {before:?}, then {after:?}");
    // Nothing of theirs was written.
    ensure!(shop.appended().await? == records, "{} records", shop.appended().await?);
    next.leave().await?;
    shop.leave().await
}

/// Why the issuer refuses, and how often it does at least in
/// [`the_issuer_believes_good_tokens_only_and_no_request`]. A Pod that is gone is seen by the API
/// server or by the operator, whichever looks first.
const DENIALS: [(&[&str], u64); 4] = [
    (&[r#"reason="audience""#], 1),
    (&[r#"reason="not_named""#], 1),
    (&[r#"reason="bad_token""#], 2),
    (&[r#"reason="pod_gone""#, r#"reason="invalidated""#], 1),
];

/// Requests for certificates that all operators have refused for what the caller is, for each of
/// [`DENIALS`].
async fn denied(cluster: &Cluster) -> anyhow::Result<Vec<u64>> {
    let mut counts = Vec::new();
    for (reasons, _) in DENIALS {
        let mut count = 0;
        for reason in reasons {
            let labels = [r#"result="denied""#, reason];
            let requests = "pyramid_issuer_requests_total";
            count += Numbers::of_operators(cluster, requests, &labels).await?;
        }
        counts.push(count);
    }
    Ok(counts)
}

/// Tokens that get no certificate, each beside one that differs in one thing and gets it; and
/// requests that want more than they get.
pub(crate) async fn the_issuer_believes_good_tokens_only_and_no_request(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = closed_shop(cluster, "issuing").await?;
    shop.kubectl(&["create", "serviceaccount", "nobody"]).await?;
    let till = Intruder { cluster, namespace: shop.namespace, pod: "till" }.enter().await?;
    let thief = Intruder { pod: "thief", ..till }.enter().await?;
    let gone = Intruder { pod: "gone", ..till }.enter().await?;
    for pod in [till, thief, gone] {
        pod.is_ready().await?;
    }
    let before = denied(cluster).await?;

    let good = till.token("till", ISSUER, &[]).await?;
    let granted = till.shows(&good, &[]).await?;
    ensure!(granted["done"]["life_seconds"] == 3600, "{granted}");
    let elsewhere = till.token("till", "https://kubernetes.default.svc", &[]).await?;
    let unnamed = till.token("nobody", ISSUER, &[]).await?;
    let cut = good.trim().rsplit_once('.').context("a signature")?.0;
    for (token, text) in [
        (elsewhere.as_str(), "is invalid for the target audiences"),
        (&unnamed, "no Stream or Subscription names the service account issuing/nobody"),
        (&format!("{cut}.AAAA"), "the token is refused"),
        ("no token", "the token is refused"),
    ] {
        let answer = till.shows(token, &[]).await?;
        let said = answer["refused"]["message"].as_str().unwrap_or_default();
        ensure!(reason(&answer) == "DENIED" && said.contains(text), "{text:?}: {answer}");
    }

    // Who asks for another's name, for hosts and for an authority gets what its token says.
    let bound = till.bound_token("thief").await?;
    let trust_domain = granted["done"]["uris"][0].as_str().unwrap_or_default();
    let trust_domain = trust_domain.split("/ns/").next().unwrap_or_default();
    let own = json!({"done": {
        "uris": [format!("{trust_domain}/ns/issuing/sa/thief")],
        "other_names": [],
        "subject": "",
        "is_authority": false,
        "for_servers": false,
        "for_clients": true,
        "life_seconds": POD_LIFE_SECONDS,
    }});
    let anothers = format!("--uri={trust_domain}/ns/issuing/sa/till");
    let host = "--dns=pyramid-operator.pyramid-system.svc";
    for more in [&[][..], &[&anothers, host], &["--authority"]] {
        let answer = thief.shows(&bound, more).await?;
        ensure!(answer == own, "{more:?}: {answer}");
    }

    let of_gone = till.bound_token("gone").await?;
    let granted = till.shows(&of_gone, &[]).await?;
    ensure!(granted["done"]["life_seconds"] == POD_LIFE_SECONDS, "{granted}");
    shop.kubectl(&["delete", "pod", "gone", "--grace-period=0", "--force"]).await?;
    let answer = till.shows(&of_gone, &[]).await?;
    ensure!(reason(&answer) == "DENIED", "{answer}");

    let after = denied(cluster).await?;
    let mut counts = before.iter().zip(&after).zip(DENIALS);
    let rose = counts.all(|((before, after), (_, times))| after - before >= times);
    ensure!(rose, "denied for {DENIALS:?}: {before:?}, then {after:?}");
    shop.leave().await
}

/// Neither a deleted Subscription nor one that no longer names the account is pushed from; made and
/// named again, it goes on in the same Pod. Whom the Stream no longer names appends nothing, though
/// the session is open; named again, it goes on, too.
pub(crate) async fn a_right_that_is_taken_ends_pushes_and_appends_and_given_back_they_go_on(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open(cluster, "revoked").await?;
    let pods = async || {
        let both = "app in (orders-projector,orders-producer)";
        let columns = "jsonpath={.items[*].metadata.uid} \
                       {.items[*].status.containerStatuses[*].restartCount} \
                       {.items[*].status.initContainerStatuses[*].restartCount}";
        shop.kubectl(&["get", "pods", "--selector", both, "-o", columns]).await
    };
    let before = pods().await?;
    let behind = async || Ok(shop.appended().await? >= shop.orders().await? + BEHIND);
    let again = async || Ok(shop.appended().await? < shop.orders().await? + BEHIND / 2);

    shop.kubectl(&["delete", "subscriptions.pyramid.dev", "orders-projector"]).await?;
    cluster.wait_for("a deleted Subscription is not pushed from", REVOKED, behind).await?;
    shop.apply_example("subscription").await?;
    // Kubelets look at ConfigMaps once a minute.
    cluster.wait_for("pushes go on with the Subscription", 2 * SOON, again).await?;

    let is_for = async |object: [&str; 2], spec: Value| {
        let spec = json!({ "spec": spec }).to_string();
        shop.kubectl(&[&["patch"], &object[..], &["--type=merge", "-p", &spec]].concat()).await
    };
    let subscription = ["subscriptions.pyramid.dev", "orders-projector"];
    is_for(subscription, json!({"serviceAccounts": ["nobody"]})).await?;
    cluster.wait_for("who is not named is not pushed to", REVOKED, behind).await?;
    is_for(subscription, json!({"serviceAccounts": null})).await?;
    cluster.wait_for("pushes go on with the right", 2 * SOON, again).await?;

    let stream = ["streams.pyramid.dev", "orders"];
    let told = refused_appends(&shop).await?;
    ensure!(told == 0, "{told} appends were refused before");
    is_for(stream, json!({"appenders": [{"serviceAccount": "nobody"}]})).await?;
    let refused = async |times| Ok(refused_appends(&shop).await? >= times);
    cluster
        .wait_for("who is not named appends no more", REVOKED, async || refused(1).await)
        .await?;
    let appended = shop.appended().await?;
    cluster.wait_for("it tries again", SOON, async || refused(3).await).await?;
    let more = shop.appended().await? - appended;
    ensure!(more == 0, "{more} records came without the right to append");
    is_for(stream, json!({"appenders": null})).await?;
    let goes_on = async || Ok(shop.appended().await? >= appended + BEHIND);
    cluster.wait_for("appends go on with the right", SOON, goes_on).await?;
    ensure!(pods().await? == before, "restarted: {before:?}, then {:?}", pods().await?);
    shop.close().await
}

/// How often the producer was told that it has not the right.
async fn refused_appends(shop: &Shop<'_>) -> anyhow::Result<usize> {
    let logs = ["logs", "deployment/orders-producer", "--container", "producer"];
    let said = shop.kubectl(&logs).await?;
    Ok(said.lines().filter(|line| line.contains("has not the right to append")).count())
}
