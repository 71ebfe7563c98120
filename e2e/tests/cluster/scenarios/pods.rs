//! Pods that are not a Deployment's: Jobs, under rules, and before their Subscription.

use anyhow::ensure;
use pyramid_e2e::cluster::Cluster;

use super::shop::{PROJECTOR, SOON, Shop, example, is_complete};

/// How long a Job may take. It is tried again while its stream is new.
const JOB: &str = "--timeout=120s";

/// The strictest rules of Kubernetes for pods hold with the pusher in them, and a Pod with it ends.
pub(crate) async fn under_restricted_rules_all_runs_and_jobs_complete(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "restricted").await?;
    let rule = "pod-security.kubernetes.io/enforce=restricted";
    cluster.kubectl(&["label", "namespace", shop.namespace, rule]).await?;
    for file in ["stream", "subscription", "consumer", "job", "producer"] {
        shop.apply_example(file).await?;
    }
    // The rule is in force.
    let run = ["--namespace", shop.namespace, "run", "x", "--image=x", "--dry-run=server"];
    let ended = cluster.try_kubectl(&run, None).await?;
    ensure!(!ended.success && ended.stderr.contains("violates PodSecurity"), "{ended:?}");
    shop.kubectl(&["wait", JOB, "--for=condition=Complete", "job/orders-append"]).await?;
    // Under another producer's name, which appends once though the Job may run twice.
    let other_items = example("job")?.replace(r#""tea", "coffee""#, r#""milk", "sugar""#);
    ensure!(other_items.contains("milk"), "the example has changed: {other_items}");
    let job = other_items.replace("orders-append", "nightly");
    let (_, spec) = job.split_once("spec:\n").unwrap_or_default();
    let indented = spec.lines().fold(String::new(), |text, line| format!("{text}    {line}\n"));
    shop.apply(&format!(
        "apiVersion: batch/v1\n\
         kind: CronJob\n\
         metadata: {{name: nightly}}\n\
         spec:\n  schedule: '* * * * *'\n  concurrencyPolicy: Forbid\n  jobTemplate:\n    spec:\n{indented}"
    ))
    .await?;
    let last = ["get", "cronjob", "nightly", "-o", "jsonpath={.status.lastSuccessfulTime}"];
    let ran = async || Ok(!shop.kubectl(&last).await?.is_empty());
    // Within a minute it is time for it.
    cluster.wait_for("a Job of the CronJob is complete", 2 * SOON, ran).await?;
    shop.goes_on(20).await?;
    // Two records of each of two Jobs, once, beside all of the producer.
    shop.ends_complete_beside(4).await?;
    shop.leave().await
}

/// Nothing is restarted for it.
pub(crate) async fn a_pod_waits_for_its_subscription_and_then_receives(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "early-pod").await?;
    let run = ["--namespace", shop.namespace, "run", "x", "--image=x", "--dry-run=server"];
    let annotation = "--annotations=pyramid.dev/subscriptions=orders-projector";
    let warned = cluster.try_kubectl(&[&run[..], &[annotation]].concat(), None).await?;
    let text = "Warning: Subscription early-pod/orders-projector does not exist";
    ensure!(warned.success && warned.stderr.contains(text), "{warned:?}");
    for file in ["stream", "consumer", "job"] {
        shop.apply_example(file).await?;
    }
    shop.kubectl(&["wait", JOB, "--for=condition=Complete", "job/orders-append"]).await?;
    shop.wait(&["--for=condition=Available", "deployment/orders-projector"]).await?;
    let pod = async || {
        let pods = ["get", "pods", "-l", "app=orders-projector", "-o"];
        let column = "jsonpath={.items[*].metadata.uid}";
        shop.kubectl(&[&pods[..], &[column]].concat()).await
    };
    let before = pod().await?;
    shop.apply_example("subscription").await?;
    let receives = async || is_complete(&shop.check(PROJECTOR).await?, 2);
    // Kubelets look at ConfigMaps once a minute.
    cluster.wait_for("both records have come", 2 * SOON, receives).await?;
    ensure!(pod().await? == before, "another Pod took its place");
    shop.leave().await
}

/// Three Pods that differ in when they count as ready: as soon as they run, once they are attached
/// to their Subscription, and once they have all records.
pub(crate) async fn a_pod_is_ready_when_its_annotation_says_so(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    // The ConfigMap of which kubelets look at once a minute.
    const READY: [&str; 3] = ["wait", "--timeout=180s", "--for=condition=Available"];
    const SUBSCRIPTION: &str = "subscriptions.pyramid.dev/orders-projector";
    let shop = Shop::new(cluster, "readiness").await?;
    for file in ["stream", "job"] {
        shop.apply_example(file).await?;
    }
    shop.kubectl(&["wait", JOB, "--for=condition=Complete", "job/orders-append"]).await?;
    for (name, readiness) in
        [("caught-up", "CaughtUp"), ("connected", "Connected"), ("local", "Local")]
    {
        let own = format!("dev/subscriptions: {name}\n");
        let asks = format!(
            "dev/subscriptions: orders-projector\n        pyramid.dev/readiness: {readiness}\n"
        );
        let consumer = example("consumer")?.replace("orders-projector", name);
        ensure!(consumer.contains(&own), "the example has changed: {consumer}");
        shop.apply(&consumer.replace(&own, &asks)).await?;
    }
    // Both in whole seconds of the one clock of the machine.
    let made = async |object: &str| {
        let column = "jsonpath={.metadata.creationTimestamp}";
        shop.kubectl(&["get", object, "-o", column]).await
    };
    let ready_since = async |name: &str| {
        let selector = format!("app={name}");
        let time = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].lastTransitionTime}";
        shop.kubectl(&["get", "pods", "--selector", &selector, "-o", time]).await
    };
    let are_ready = async |ready: [&str; 3]| {
        let column = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
        let mut found = Vec::new();
        for name in ["local", "connected", "caught-up"] {
            let selector = format!("app={name}");
            found
                .push(shop.kubectl(&["get", "pods", "--selector", &selector, "-o", column]).await?);
        }
        ensure!(found == ready, "ready: {found:?} instead of {ready:?}");
        anyhow::Ok(())
    };

    shop.kubectl(&[&READY[..], &["deployment/local"]].concat()).await?;
    are_ready(["True", "False", "False"]).await?;

    shop.apply(&format!("{}  state: Paused\n", example("subscription")?)).await?;
    let subscribed = made(SUBSCRIPTION).await?;
    shop.kubectl(&[&READY[..], &["deployment/connected"]].concat()).await?;
    are_ready(["True", "True", "False"]).await?;
    let since = ready_since("connected").await?;
    ensure!(since >= subscribed, "connected at {since}, the Subscription is of {subscribed}");

    shop.kubectl(&["create", "configmap", "goes-on"]).await?;
    let active = r#"{"spec": {"state": "Active"}}"#;
    shop.kubectl(&["patch", SUBSCRIPTION, "--type=merge", "--patch", active]).await?;
    shop.kubectl(&[&READY[..], &["deployment/caught-up"]].concat()).await?;
    let checked = shop.check("deployment/caught-up").await?;
    ensure!(is_complete(&checked, 2)?, "ready with {checked}");
    are_ready(["True", "True", "True"]).await?;
    let (since, goes_on) = (ready_since("caught-up").await?, made("configmap/goes-on").await?);
    ensure!(since >= goes_on, "caught up at {since}, though records came from {goes_on} on");
    shop.leave().await
}
