//! What users get wrong, and what they are told.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::{BUCKET, Cluster};

use super::shop::{SOON, Shop, example};

/// Samples of objects of each kind.
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/samples");
/// How long a Job may take.
const JOB: &str = "--timeout=120s";

fn samples(folder: &str) -> anyhow::Result<Vec<PathBuf>> {
    let folder = Path::new(SAMPLES).join(folder);
    let entries = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
    ensure!(!entries.is_empty(), "there is no sample in {}", folder.display());
    Ok(entries.into_iter().map(|entry| entry.path()).collect())
}

/// What the first line of a rejected sample says behind its mark.
fn expected(sample: &str) -> Option<&str> {
    let line = sample.lines().next()?;
    ["# rejected by a rule: ", "# rejected by the schema: "]
        .iter()
        .find_map(|mark| line.strip_prefix(mark))
}

/// The server's own rules, which a test of the files alone cannot ask.
pub(crate) async fn the_server_judges_every_sample_as_it_says_itself(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let create = ["create", "--dry-run=server", "-f", "-"];
    for path in samples("accept")? {
        let sample = fs::read_to_string(&path)?;
        let ended = cluster.try_kubectl(&create, Some(&sample)).await?;
        ensure!(ended.success, "{}: {}", path.display(), ended.stderr);
    }
    for path in samples("reject")? {
        let sample = fs::read_to_string(&path)?;
        let text = expected(&sample).with_context(|| format!("no mark in {}", path.display()))?;
        let ended = cluster.try_kubectl(&create, Some(&sample)).await?;
        let refused = !ended.success && ended.stderr.contains(text);
        ensure!(refused, "{}: {ended:?}", path.display());
    }
    Ok(())
}

/// Nothing is made of values that the chart does not know.
pub(crate) async fn helm_refuses_values_that_are_misspelt_or_of_another_type(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/pyramid");
    let template = ["template", "other", chart, "--set"];
    cluster.helm(&[&template[..], &["operator.replicas=1"]].concat()).await?;
    for (value, text) in [
        ("operator.replicas=none", "at '/operator/replicas': got string, want integer"),
        ("operatr.replicas=1", "additional properties 'operatr' not allowed"),
    ] {
        let refused = cluster.helm(&[&template[..], &[value]].concat()).await;
        let error = refused.err().with_context(|| format!("{value} was taken"))?;
        ensure!(format!("{error:#}").contains(text), "{error:#}");
    }
    Ok(())
}

/// Pods that cannot have a pusher, each with a Pod beside it that differs in one thing and can.
pub(crate) async fn pods_that_cannot_have_a_pusher_are_told_why(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "refused-pods").await?;
    let run = async |annotation: &str, more: &[&str]| {
        let annotations = format!("--annotations={annotation}");
        let run = ["--namespace", shop.namespace, "run", "x", "--image=x", "--dry-run=server"];
        cluster.try_kubectl(&[&run[..], &[&annotations], more].concat(), None).await
    };
    let on_the_node = r#"--overrides={"spec":{"hostNetwork":true}}"#;
    let append = "pyramid.dev/append=orders";
    for (annotation, more) in
        [(append, &[][..]), (append, &["--port=7412"]), ("app=orders", &[on_the_node])]
    {
        let ended = run(annotation, more).await?;
        ensure!(ended.success, "{annotation} {more:?}: {}", ended.stderr);
    }
    for (annotation, more, text) in [
        (append, &[on_the_node][..], "set hostNetwork to false"),
        (append, &["--port=7410"], r#"container "x" has port 7410, which is the pusher's"#),
        ("pyramid.dev/append=Not A Name", &[], r#"pyramid.dev/append is "Not A Name"; give names"#),
    ] {
        let ended = run(annotation, more).await?;
        let refused = !ended.success && ended.stderr.contains(text);
        ensure!(refused, "{annotation} {more:?}: {ended:?}");
    }
    shop.leave().await
}

/// A Writer of several replicas is answered, and nothing is made for it.
pub(crate) async fn a_writer_of_three_replicas_is_answered_and_not_made(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop { cluster, namespace: "pyramid-system" };
    cluster
        .apply(&format!(
            "apiVersion: pyramid.dev/v1alpha1\n\
             kind: Writer\n\
             metadata: {{name: three, namespace: {}}}\n\
             spec: {{replicas: 3, objectStorage: {{bucket: {BUCKET}}}}}\n",
            shop.namespace
        ))
        .await?;
    let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}/\
                 {.status.conditions[?(@.type=='Ready')].reason}";
    let get = ["get", "writers.pyramid.dev", "three", "-o", ready];
    let answered = async || Ok(shop.kubectl(&get).await? == "False/ReplicasNotSupported");
    cluster.wait_for("the Writer is answered", SOON, answered).await?;
    let made = shop.kubectl(&["get", "statefulsets,services,secrets,pvc", "-o", "name"]).await?;
    ensure!(!made.contains("three"), "{made}");
    shop.kubectl(&["delete", "writers.pyramid.dev", "three", "--timeout=60s"]).await?;
    Ok(())
}

/// Two Jobs that differ in their service account; one is among the Stream's appenders.
pub(crate) async fn who_is_not_among_the_appenders_appends_nothing(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "not-an-appender").await?;
    let stream = "spec: {appenders: [{serviceAccount: till}]}\n";
    shop.apply(&format!("{}{stream}", example("stream")?)).await?;
    shop.wait(&["--for=condition=Ready", "streams.pyramid.dev/orders"]).await?;
    for (account, end) in [("till", "Complete"), ("thief", "Failed")] {
        shop.kubectl(&["create", "serviceaccount", account]).await?;
        let job = example("job")?
            .replace("name: orders-append", &format!("name: {account}"))
            .replace("backoffLimit: 10", "backoffLimit: 0")
            .replace("OnFailure", "Never")
            .replace("    spec:\n", &format!("    spec:\n      serviceAccountName: {account}\n"));
        shop.apply(&job).await?;
        let (end, job) = (format!("--for=condition={end}"), format!("job/{account}"));
        shop.kubectl(&["wait", JOB, &end, &job]).await?;
    }
    let said = shop.kubectl(&["logs", "job/thief", "--container", "append"]).await?;
    ensure!(said.contains("has not the right to append"), "{said}");
    shop.leave().await
}
