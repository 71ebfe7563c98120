//! What users get wrong, and what they are told.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use pyramid_e2e::cluster::{BUCKET, Cluster};

use super::numbers::Numbers;
use super::shop::{SOON, Shop, example, own_writer};

/// Samples of objects of each kind.
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/samples");
/// For so long a change is tried again that came between two of the operator's.
const RETRIED: Duration = Duration::from_secs(10);
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

/// The same for samples of changes, which it judges by what there is. Nothing comes of their Writers:
/// none may be in such a namespace.
pub(crate) async fn the_server_judges_every_sample_of_a_change_as_it_says_itself(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::new(cluster, "changed-samples").await?;
    let run = async |verb: &[&str], document: &str| {
        let arguments = [&["--namespace", shop.namespace], verb, &["-f", "-"]].concat();
        cluster.try_kubectl(&arguments, Some(document)).await
    };
    for path in [samples("accept-update")?, samples("reject-update")?].concat() {
        let place = path.display();
        let sample = fs::read_to_string(&path)?;
        let (before, after) =
            sample.split_once("---\n").with_context(|| format!("one document in {place}"))?;
        let created = run(&["create"], before).await?;
        ensure!(created.success, "{place}: {}", created.stderr);
        let judged = async || {
            let ended = run(&["replace", "--dry-run=server"], after).await?;
            // The operator writes, too.
            ensure!(!ended.stderr.contains("the object has been modified"), "{ended:?}");
            match expected(&sample) {
                None => ensure!(ended.success, "{place}: {}", ended.stderr),
                Some(text) => {
                    let refused = !ended.success && ended.stderr.contains(text);
                    ensure!(refused, "{place}: {ended:?}");
                }
            }
            Ok(true)
        };
        cluster.wait_for("the change is judged", RETRIED, judged).await?;
        let deleted = run(&["delete", "--timeout=60s"], before).await?;
        ensure!(deleted.success, "{place}: {}", deleted.stderr);
    }
    shop.leave().await
}

/// Nothing is made of values that the chart does not know.
pub(crate) async fn helm_refuses_values_that_are_misspelt_too_small_or_of_another_type(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../helm/pyramid");
    let template = ["template", "other", chart, "--set"];
    cluster.helm(&[&template[..], &["operator.replicas=1"]].concat()).await?;
    for (value, text) in [
        ("operator.replicas=none", "at '/operator/replicas': got string, want integer"),
        ("pki.podLifeSeconds=359", "at '/pki/podLifeSeconds': minimum: got 359, want 360"),
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
        (
            "pyramid.dev/append=Not A Name",
            &[],
            r#""Not A Name", which has characters other than a-z"#,
        ),
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

/// A Writer that runs is told the same, and runs on as it was: with the same objects and Pod, and
/// takes appends.
pub(crate) async fn a_running_writer_that_is_to_have_more_replicas_runs_on_as_it_was(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let system = Shop { cluster, namespace: "pyramid-system" };
    let shop = Shop::new(cluster, "more-replicas").await?;
    system.apply(&own_writer("steady")).await?;
    system.wait(&["--for=condition=Ready", STEADY]).await?;
    let bound = "spec: {writerRef: {name: steady, namespace: pyramid-system}}\n";
    shop.apply(&format!("{}{bound}", example("stream")?)).await?;
    shop.apply_example("subscription").await?;
    let kinds = ["streams.pyramid.dev/orders", "subscriptions.pyramid.dev/orders-projector"];
    shop.wait(&["--for=condition=Ready", kinds[0], kinds[1]]).await?;
    for file in ["consumer", "producer"] {
        shop.apply_example(file).await?;
    }
    shop.received(20).await?;

    let before = made_for_steady(&system).await?;
    let ready = async || {
        let column = [
            "-o",
            "jsonpath={.status.observedGeneration} {.metadata.generation} \
                             {.status.conditions[?(@.type=='Ready')].status}/\
                             {.status.conditions[?(@.type=='Ready')].reason}",
        ];
        let said = system.kubectl(&[&["get", STEADY], &column[..]].concat()).await?;
        let mut words = said.split_whitespace().map(str::to_owned);
        let [observed, generation, ready] = [words.next(), words.next(), words.next()];
        ensure!(observed == generation, "not seen yet: {said}");
        ready.with_context(|| said.clone())
    };
    let is_to_have = async |replicas: u8| {
        let spec = format!(r#"{{"spec": {{"replicas": {replicas}}}}}"#);
        system.kubectl(&["patch", STEADY, "--type=merge", "--patch", &spec]).await
    };
    for replicas in [3, 5] {
        is_to_have(replicas).await?;
        let answered = async || Ok(ready().await? == "False/ReplicasNotSupported");
        cluster.wait_for("the Writer is answered", SOON, answered).await?;
        shop.goes_on(20).await?;
        let now = made_for_steady(&system).await?;
        ensure!(now == before, "{replicas} replicas: {now:?} after {before:?}");
    }
    is_to_have(1).await?;
    let well = async || Ok(ready().await?.starts_with("True/"));
    cluster.wait_for("the Writer is ready again", SOON, well).await?;
    shop.goes_on(20).await?;
    let now = made_for_steady(&system).await?;
    ensure!(now == before, "one replica: {now:?} after {before:?}");

    shop.ends_complete_in(Numbers::of_writer_pod(cluster, "steady-writer-0"), 0).await?;
    cluster.kubectl(&["delete", "namespace", shop.namespace, "--timeout=120s"]).await?;
    system.kubectl(&["delete", STEADY, "--timeout=90s"]).await?;
    system.kubectl(&["delete", "pvc", "data-steady-writer-0", "--timeout=60s"]).await?;
    Ok(())
}

/// The Writer of its own.
const STEADY: &str = "writers.pyramid.dev/steady";

/// What is made for it, each object with what shows a change, and how often its Pod was restarted.
async fn made_for_steady(system: &Shop<'_>) -> anyhow::Result<String> {
    let kinds = "statefulsets,services,serviceaccounts,pvc,pods";
    let columns = "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} \
                   {.metadata.generation} {.status.containerStatuses[*].restartCount}\n{end}";
    // They have no generation, and nobody writes a status into them.
    let versions = "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} \
                    {.metadata.resourceVersion}\n{end}";
    let mut all = system.kubectl(&["get", kinds, "-o", columns]).await?;
    all += &system.kubectl(&["get", "secrets", "-o", versions]).await?;
    let of_steady = |line: &&str| line.contains("steady-writer");
    let made: Vec<&str> = all.lines().filter(of_steady).collect();
    for kind in
        ["StatefulSet", "Service", "ServiceAccount", "PersistentVolumeClaim", "Pod", "Secret"]
    {
        ensure!(made.iter().any(|line| line.starts_with(&format!("{kind} "))), "{kind}: {made:?}");
    }
    Ok(made.join("\n"))
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
