//! Pods that are not a Deployment's: Jobs, under rules, and before their Subscription.

use anyhow::ensure;
use pyramid_e2e::cluster::Cluster;

use super::shop::{SOON, Shop, example};

/// How long a Job may take. It is tried again while its stream is new.
const JOB: &str = "--timeout=120s";

/// The strictest rules of Kubernetes for pods hold with the pusher in them, and a Pod with it ends.
pub(crate) async fn under_restricted_rules_all_runs_and_jobs_complete(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "restricted").await?;
    let rule = "pod-security.kubernetes.io/enforce=restricted";
    cluster.kubectl(&["label", "namespace", shop.namespace, rule]).await?;
    for file in ["stream", "subscription", "consumer", "job"] {
        shop.apply_example(file).await?;
    }
    // The rule is in force.
    let run = ["--namespace", shop.namespace, "run", "x", "--image=x", "--dry-run=server"];
    let ended = cluster.try_kubectl(&run, None).await?;
    ensure!(!ended.success && ended.stderr.contains("violates PodSecurity"), "{ended:?}");
    shop.kubectl(&["wait", JOB, "--for=condition=Complete", "job/orders-append"]).await?;
    // Under another producer's name, which appends once though the Job may run twice.
    let job = example("job")?.replace("orders-append", "nightly");
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
    shop.received(4).await?;
    ensure!(shop.orders().await? == 4, "two records of each of two Jobs, once");
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
    let receives = async || Ok(shop.orders().await? == 2);
    // Kubelets look at ConfigMaps once a minute.
    cluster.wait_for("both records have come", 2 * SOON, receives).await?;
    ensure!(pod().await? == before, "another Pod took its place");
    shop.leave().await
}
