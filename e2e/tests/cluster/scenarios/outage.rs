//! While no operator runs.

use anyhow::ensure;
use pyramid_e2e::cluster::Cluster;

use super::shop::{SOON, Shop};

/// Its Deployment.
pub(crate) const OPERATOR: &str = "deployment/pyramid-operator";
/// Kubernetes tries a Deployment's pods again after pauses that double.
const RETRIED: std::time::Duration = std::time::Duration::from_secs(180);

/// Ends all operators, or starts two.
pub(crate) async fn scale_operator(cluster: &Cluster, replicas: u8) -> anyhow::Result<()> {
    let operators = Shop { cluster, namespace: "pyramid-system" };
    let replicas = replicas.to_string();
    operators.kubectl(&["scale", OPERATOR, "--replicas", &replicas]).await?;
    operators.kubectl(&["rollout", "status", OPERATOR, "--timeout=120s"]).await?;
    let get = ["get", "endpointslices", "-l", "kubernetes.io/service-name=pyramid-operator"];
    let column = ["-o", "jsonpath={.items[*].endpoints[*].conditions.ready}"];
    let serving = async || {
        let ready = operators.kubectl(&[&get[..], &column].concat()).await?;
        Ok(ready.matches("true").count().to_string() == replicas)
    };
    cluster.wait_for("the webhook has as many servers", SOON, serving).await
}

/// Records go on; only Pods that ask for a pusher wait, and get through by themselves.
pub(crate) async fn without_operators_delivery_goes_on_and_only_annotated_pods_wait(
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let shop = Shop::open(cluster, "no-operator").await?;
    scale_operator(cluster, 0).await?;
    shop.goes_on(50).await?;
    let run = ["--namespace", shop.namespace, "run", "x", "--image=x", "--dry-run=server"];
    let plain = cluster.try_kubectl(&run, None).await?;
    ensure!(plain.success, "{}", plain.stderr);
    let annotated = [&run[..], &["--annotations=pyramid.dev/append=orders"]].concat();
    let held = cluster.try_kubectl(&annotated, None).await?;
    let text = "failed calling webhook \"inject.pyramid.dev\"";
    ensure!(!held.success && held.stderr.contains(text), "{held:?}");
    let opted_out = [&annotated[..], &["--annotations=pyramid.dev/inject=false"]].concat();
    let opted_out = cluster.try_kubectl(&opted_out, None).await?;
    ensure!(opted_out.success, "{}", opted_out.stderr);
    // Other Pods do not only get in, they run.
    let image = ["run", "plain", "--image=localhost/pyramid-probe:0.1.0", "--restart=Never"];
    shop.kubectl(&[&image[..], &["--", "wait"]].concat()).await?;
    shop.wait(&["--for=condition=Ready", "pod/plain"]).await?;
    let test = ["test", "pyramid", "--namespace", "pyramid-system", "--logs"];
    ensure!(cluster.helm(&test).await.is_err(), "helm test passes without operators");
    let logs = ["logs", "--namespace", "pyramid-system", "pyramid-self-test"];
    let said = cluster.kubectl(&logs).await?;
    let refused = "a Pod that asks for a pusher is refused in namespace default";
    ensure!(said.contains(refused) && said.contains(text), "{said}");
    // The Pods of Deployments and Jobs are held, too.
    shop.kubectl(&["delete", "pod", "-l", "app=orders-projector"]).await?;
    let failure = "--for=condition=ReplicaFailure";
    shop.wait(&[failure, "deployment/orders-projector"]).await?;
    shop.apply_example("job").await?;
    let of_job = "--field-selector=reason=FailedCreate,involvedObject.kind=Job";
    let events = ["get", "events", of_job, "-o", "jsonpath={.items[*].message}"];
    let told = async || Ok(shop.kubectl(&events).await?.contains(text));
    cluster.wait_for("who looks at the Job is told why", SOON, told).await?;
    scale_operator(cluster, 2).await?;
    // It is the same test, and nothing of it is left.
    let said = cluster.helm(&test).await?;
    ensure!(said.contains("a Pod gets its pusher in namespace default"), "{said}");
    ensure!(said.contains("a Stream got ready in namespace pyramid-system, and went"), "{said}");
    let rights = ["get", "roles,rolebindings,serviceaccounts", "-A", "-o", "name"];
    let left = cluster.kubectl(&rights).await?;
    ensure!(!left.contains("pyramid-self-test"), "{left}");
    let through = async || Ok(shop.orders().await? > 0);
    cluster.wait_for("the Pod that was held runs", RETRIED, through).await?;
    shop.wait(&["--for=condition=Complete", "job/orders-append"]).await?;
    shop.ends_complete_beside(2).await?;
    shop.leave().await
}
