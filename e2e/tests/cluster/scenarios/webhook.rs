//! The webhook: called by who is no API server, and broken in each way.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::{Cluster, Ended};
use serde_json::{Value, json};
use tokio::time::interval;

use super::intruders::{Intruder, tell_places};
use super::numbers::Numbers;
use super::other_webhooks::{Configuration, Webhooks, charts};
use super::shop::{SOON, Shop, example};

/// How often others come while a call does not end, which the webhook gives up after 15 s.
const OTHERS: Duration = Duration::from_secs(1);
/// What the webhook counts of calls that are no reviews.
const NO_REVIEW: [&str; 1] = [r#"reason="bad_request""#];

/// A review that an API server may send.
fn review() -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "of-the-caller",
            "operation": "CREATE",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "webhook-called",
            "object": {
                "metadata": {"name": "made", "annotations": {"pyramid.dev/append": "orders"}},
                "spec": {"containers": [{"name": "app", "image": "x"}]},
            },
        },
    })
}

/// The review with this in the place of what a JSON pointer names.
fn review_with(pointer: &str, value: Value) -> anyhow::Result<String> {
    let mut review = review();
    *review.pointer_mut(pointer).with_context(|| pointer.to_owned())? = value;
    Ok(review.to_string())
}

/// The review with so many lists in each other. Text, which no tree of values can be of any depth.
fn nested(depth: usize) -> String {
    let lists = format!("{}0{}", "[".repeat(depth), "]".repeat(depth));
    review().to_string().replace(r#""image":"x""#, &format!(r#""image":{lists}"#))
}

/// The review with so many bytes in an annotation.
fn padded(bytes: usize) -> anyhow::Result<String> {
    let annotations = json!({"pyramid.dev/append": "orders", "a": "x".repeat(bytes)});
    review_with("/request/object/metadata/annotations", annotations)
}

/// A Pod of a user: each of its calls is answered by what is in it alone, and nothing is made or
/// changed; what no API server sends is refused, beside the same with one thing that is right.
pub(crate) async fn who_calls_it_from_a_pod_gets_an_answer_and_changes_nothing(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "webhook-called").await?;
    shop.apply(&example("stream")?).await?;
    tell_places(cluster, shop.namespace, shop.namespace).await?;
    let caller = Intruder { cluster, namespace: shop.namespace, pod: "caller" }.enter().await?;
    caller.is_ready().await?;
    let before = Health::of(cluster).await?;
    let post = async |body: &str, more: &[&str]| {
        let answer = caller.probe(&[&["post"], more].concat(), Some(body)).await?;
        Ok::<_, anyhow::Error>(answer["done"].clone())
    };

    // Answered: about what was sent, whoever's it is.
    let others = review_with("/request/uid", json!("of another"))?;
    for (review, uid) in [(review().to_string(), "of-the-caller"), (others, "of another")] {
        let answer = post(&review, &[]).await?;
        let response = &answer["body"]["response"];
        let right = response["uid"] == uid
            && response["allowed"] == true
            && response["patchType"] == "JSONPatch";
        ensure!(answer["status"] == 200 && right, "{answer}");
    }
    let update = review_with("/request/operation", json!("UPDATE"))?;
    let answer = post(&update, &[]).await?;
    let unchanged = json!({"uid": "of-the-caller", "allowed": true});
    ensure!(answer["body"]["response"] == unchanged, "{answer}");

    // Refused, each beside what is just right.
    for (review, status) in [
        (nested(100), 200),
        (nested(200), 400),
        (nested(100_000), 400),
        (padded(2 << 20)?, 200),
        (padded(4 << 20)?, 413),
        (review_with("/apiVersion", json!("admission.k8s.io/v1beta1"))?, 400),
        (review_with("/kind", json!("ConversionReview"))?, 400),
        (review_with("/request/resource/resource", json!("deployments"))?, 400),
        (review_with("/request/uid", json!(7))?, 400),
        ("no review".to_owned(), 400),
    ] {
        let answer = post(&review, &[]).await?;
        ensure!(
            answer["status"] == status,
            "{status}: {}: {answer}",
            review.get(..200).unwrap_or(&review)
        );
    }
    for (more, status) in [("--method=GET", 405), ("--path=/admin", 404)] {
        let answer = post(&review().to_string(), &[more]).await?;
        ensure!(answer["status"] == status, "{more}: {answer}");
    }

    // Who does not end holds up nobody: others get through until it is given up. One that was held
    // up would be refused, because the API server waits for a third of that time.
    let review = review().to_string();
    let mut endless = pin!(post(&review, &["--endless"]));
    let mut others = interval(OTHERS);
    let endless = loop {
        tokio::select! {
            endless = &mut endless => break endless?,
            _ = others.tick() => is_let_through(&shop, &[ASKS]).await?,
        }
    };
    ensure!(endless["status"] == 408, "{endless}");

    let after = Health::of(cluster).await?;
    ensure!(after.no_reviews - before.no_reviews >= 8, "{before:?}, then {after:?}");
    ensure!(after.panics == 0 && after.pods == before.pods, "{before:?}, then {after:?}");
    let pods = shop.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"]).await?;
    ensure!(pods == "caller", "there are {pods}");
    shop.leave().await
}

/// How the operators are.
#[derive(Debug)]
struct Health {
    no_reviews: u64,
    panics: u64,
    /// Each with its restarts.
    pods: String,
}

impl Health {
    async fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let get = ["get", "pods", "-n", "pyramid-system", "-l"];
        let label = "app.kubernetes.io/name=pyramid-operator";
        let columns = "jsonpath={.items[*].metadata.uid} \
                       {.items[*].status.containerStatuses[*].restartCount}";
        let panics = "pyramid_operator_request_panics_total";
        Ok(Self {
            no_reviews: Numbers::of_operators(cluster, "pyramid_injections_total", &NO_REVIEW)
                .await?,
            panics: Numbers::of_operators(cluster, panics, &[]).await?,
            pods: cluster.kubectl(&[&get[..], &[label, "-o", columns]].concat()).await?,
        })
    }
}

/// Asks for a pusher.
const ASKS: &str = "--annotations=pyramid.dev/append=orders";
/// Does not want it after all.
const OPTS_OUT: &str = "--annotations=pyramid.dev/inject=false";

/// What is said of a Pod, on trial.
async fn judged(shop: &Shop<'_>, annotations: &[&str]) -> anyhow::Result<Ended> {
    let run = ["--namespace", shop.namespace, "run", "x", "--image=x", "--dry-run=server"];
    shop.cluster.try_kubectl(&[&run[..], annotations].concat(), None).await
}

/// Not after a wait for a webhook that does not answer: then it would have been refused.
async fn is_let_through(shop: &Shop<'_>, annotations: &[&str]) -> anyhow::Result<()> {
    let ended = judged(shop, annotations).await?;
    ensure!(ended.success, "{annotations:?}: {ended:?}");
    Ok(())
}

/// A copy of the chart's configuration leads nowhere, to a server that is not believed, to one that
/// says nothing. Mended in one thing, it lets the same Pods through.
pub(crate) async fn a_broken_one_holds_back_annotated_pods_only(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "webhook-broken").await?;
    let webhooks = Webhooks::serve(cluster).await?;
    let right = charts(cluster).await?["webhooks"][0]["clientConfig"].clone();
    let (mut foreign, mut nowhere) = (right.clone(), right.clone());
    foreign["caBundle"] = json!(webhooks.bundle());
    nowhere["service"]["name"] = json!("nobody");
    let silent = webhooks.client("/silent");
    for (broken, mended, text) in [
        (&foreign, &right, "x509: certificate signed by unknown authority"),
        (&nowhere, &right, "service \"nobody\" not found"),
        (&silent, &webhooks.client("/allow"), "deadline exceeded"),
    ] {
        let name = "z-webhook-broken";
        let copy = Configuration::as_the_charts(cluster, name, shop.namespace, broken).await?;
        let outcome = async {
            holds_back_annotated_pods_only(&shop, text).await?;
            Configuration::as_the_charts(cluster, name, shop.namespace, mended).await?;
            let through = async || Ok(judged(&shop, &[ASKS]).await?.success);
            cluster.wait_for("the mended webhook lets Pods through", SOON, through).await
        };
        let outcome = outcome.await;
        copy.remove().await?;
        outcome?;
    }
    shop.leave().await
}

async fn holds_back_annotated_pods_only(shop: &Shop<'_>, text: &str) -> anyhow::Result<()> {
    let held = async || {
        let ended = judged(shop, &[ASKS]).await?;
        let why = "failed calling webhook \"copy.example.com\"";
        ensure!(!ended.success && ended.stderr.contains(why), "{ended:?}");
        ensure!(ended.stderr.contains(text), "{text:?}: {ended:?}");
        Ok(true)
    };
    shop.cluster.wait_for("the webhook is broken", SOON, held).await?;
    is_let_through(shop, &[]).await?;
    is_let_through(shop, &[ASKS, OPTS_OUT]).await?;
    is_let_through(shop, &["--annotations=app=orders"]).await
}

/// Whoever writes another root into the configuration, or takes it away: it comes back, and Pods
/// with it.
pub(crate) async fn a_foreign_root_in_the_configuration_is_replaced(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "webhook-root").await?;
    let webhooks = Webhooks::serve(cluster).await?;
    let right = charts(cluster).await?["webhooks"].clone();
    let path = "/webhooks/0/clientConfig/caBundle";
    for change in [
        json!([{"op": "replace", "path": path, "value": webhooks.bundle()}]),
        json!([{"op": "remove", "path": path}]),
    ] {
        let change = change.to_string();
        let patch = ["patch", "mutatingwebhookconfigurations", "pyramid-sidecar-injector"];
        let changed = [&patch[..], &["--type=json", "--patch", &change]].concat();
        let changed = cluster.kubectl_json(&changed).await?;
        ensure!(changed["webhooks"] != right, "nothing was changed by {change}");
        let replaced = async || Ok(charts(cluster).await?["webhooks"] == right);
        cluster.wait_for("the root is back", SOON, replaced).await?;
        let through = async || Ok(judged(&shop, &[ASKS]).await?.success);
        cluster.wait_for("Pods are let through", SOON, through).await?;
    }
    shop.leave().await
}
