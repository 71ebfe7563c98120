//! What goes wrong, and what must not, on one cluster for all of it.
//!
//! Each scenario has a namespace of its own, appends numbered records under load, breaks something,
//! and ends with the application's own table: none lost, none twice, none out of order.
//!
//! While one is written, `PYRAMID_CLUSTER` names the state directory of a cluster that runs, with
//! the chart installed; then nothing is started or ended, and a part of a scenario's name given as
//! `PYRAMID_SCENARIO` runs only that one.

mod deletion;
mod delivery;
mod faults;
mod outage;
mod pods;
mod refusals;
mod shop;

use std::path::Path;
use std::time::Instant;

use pyramid_e2e::cluster::Cluster;
use pyramid_e2e::process::{Folder, tell};

/// The chart, as the quickstart installs it.
const INSTALL: &str = r#"
kubectl create namespace pyramid-system
kubectl --namespace pyramid-system create secret generic bucket \
  --from-literal=accessKeyId="$S3_ACCESS_KEY" --from-literal=secretAccessKey="$S3_SECRET_KEY"
helm install pyramid helm/pyramid --namespace pyramid-system --wait \
  --set defaultWriter.spec.objectStorage.bucket="$S3_BUCKET" \
  --set defaultWriter.spec.objectStorage.endpoint="$S3_ENDPOINT" \
  --set defaultWriter.spec.objectStorage.credentialsSecretRef.name=bucket
"#;

/// Runs each named scenario in turn, unless another one is asked for.
macro_rules! run_each {
    ($cluster:expr, $($module:ident :: $scenario:ident),+ $(,)?) => {
        $(
            let name = concat!(stringify!($module), "::", stringify!($scenario));
            if is_asked_for(name) {
                let begin = Instant::now();
                $module::$scenario($cluster).await.expect(name);
                tell(&format!("{name}: {:.1?}", begin.elapsed()));
            }
        )+
    };
}

#[expect(clippy::disallowed_methods, reason = "for people who write a scenario")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn is_asked_for(name: &str) -> bool {
    variable("PYRAMID_SCENARIO").is_none_or(|part| name.contains(&part))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_reordered_whatever_breaks() {
    let folder = Folder::new().unwrap();
    let cluster = match variable("PYRAMID_CLUSTER") {
        Some(state) => Cluster::open(Path::new(&state)).unwrap(),
        None => {
            let cluster = Cluster::start(&folder.join("cluster")).await.unwrap();
            cluster.shell(INSTALL).await.unwrap();
            cluster
        }
    };
    run_each!(
        &cluster,
        shop::a_lost_database_is_filled_again_from_the_bucket,
        refusals::the_server_judges_every_sample_as_it_says_itself,
        refusals::helm_refuses_values_that_are_misspelt_or_of_another_type,
        refusals::pods_that_cannot_have_a_pusher_are_told_why,
        refusals::a_writer_of_three_replicas_is_answered_and_not_made,
        refusals::who_is_not_among_the_appenders_appends_nothing,
        pods::under_restricted_rules_all_runs_and_jobs_complete,
        pods::a_pod_waits_for_its_subscription_and_then_receives,
        outage::without_operators_delivery_goes_on_and_only_annotated_pods_wait,
        deletion::a_retained_stream_made_again_is_the_same_stream,
        deletion::a_stream_with_delete_goes_with_its_records,
        deletion::a_namespace_deleted_without_operators_goes_when_they_are_back,
        deletion::a_writer_made_again_adopts_its_volume,
        delivery::another_pod_of_an_exclusive_subscription_takes_over,
        delivery::each_pod_of_a_broadcast_subscription_gets_all,
        delivery::two_subscriptions_of_one_pod_have_a_port_each,
        faults::appends_go_on_after_the_writers_pod_was_deleted_twice,
        faults::operators_and_writer_deleted_at_once_come_back,
        faults::deliveries_go_on_while_the_bucket_is_away,
        faults::a_consumer_comes_back_with_its_killed_node,
        faults::a_consumer_catches_up_after_its_node_was_cut_off,
    );
}
