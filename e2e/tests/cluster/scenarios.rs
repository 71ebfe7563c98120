//! What goes wrong, and what must not, on one cluster for all of it.
//!
//! Each scenario has a namespace of its own, appends numbered records under load, breaks something,
//! and ends with the application's own table: none lost, none twice, none out of order.
//!
//! While one is written, `PYRAMID_CLUSTER` names the state directory of a cluster that runs, with
//! the chart installed; then nothing is started or ended, and a part of a scenario's name given as
//! `PYRAMID_SCENARIO` runs only that one.

mod access;
mod admission;
mod certificates;
mod deletion;
mod delivery;
mod elsewhere;
mod faults;
mod intruders;
mod lost;
mod mesh;
mod numbers;
mod other_webhooks;
mod outage;
mod pods;
mod refusals;
pub(crate) mod shop;
mod shown;
mod told;
mod upgrade;
mod webhook;
mod wiring;

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use futures::future::LocalBoxFuture;
use futures::stream;
use futures::{FutureExt, StreamExt};
use pyramid_e2e::cluster::{Cluster, INSTALL, PREPARE};
use pyramid_e2e::process::{Folder, tell};

/// Where the chart is installed.
const SYSTEM: &str = "pyramid-system";

/// Where Writers may run, too. It is there before the chart, which puts rights into it, and stays.
const ELSEWHERE: &str = "elsewhere";

/// The values of the chart that differ from the quickstart's: the chunks of deleted Streams go soon,
/// and certificates live for minutes. The shortest life is long enough for the scenarios without
/// operators: a Pod's has two minutes left when it is renewed at the latest. Operators and Writers
/// reckon with the five minutes by which each is dated back, and renew after 90 s and 180 s.
const VALUES: &str = "--set waits.chunkUrlSeconds=5 --set pki.writerLifeSeconds=420 \
                      --set pki.operatorLifeSeconds=480 --set pki.podLifeSeconds=360";

/// [`VALUES`], with [`ELSEWHERE`] as a namespace of Writers.
fn values() -> String {
    format!("{VALUES} --set 'writerNamespaces[0]={ELSEWHERE}'")
}

/// The commands that install the chart with [`values`].
pub(crate) fn install() -> String {
    format!(
        "kubectl create namespace {ELSEWHERE} --dry-run=client -o yaml | kubectl apply -f -\n\
         {INSTALL} {}\n",
        values()
    )
}

/// Scenarios that run side by side. Each has a namespace of its own; more of them would only wait
/// for the machine. The first waits for certificates nearly all the time.
const SIDE_BY_SIDE: usize = 5;

type Scenario<'a> = (&'static str, LocalBoxFuture<'a, anyhow::Result<()>>);

/// These scenarios, by name.
macro_rules! scenarios {
    ($cluster:expr, $($module:ident :: $scenario:ident),+ $(,)?) => {
        vec![$((
            concat!(stringify!($module), "::", stringify!($scenario)),
            $module::$scenario($cluster).boxed_local(),
        )),+]
    };
}

/// Runs those that are asked for, so many at once; all of them, though some fail.
///
/// # Errors
/// Some failed; the error has their names, and each one's reason was told.
async fn run(scenarios: Vec<Scenario<'_>>, at_once: usize) -> anyhow::Result<()> {
    let asked_for = scenarios.into_iter().filter(|(name, _)| is_asked_for(name));
    let timed = asked_for.map(|(name, scenario)| async move {
        let begin = Instant::now();
        let outcome = scenario.await;
        let took = begin.elapsed();
        match &outcome {
            Ok(()) => tell(&format!("{name}: {took:.1?}")),
            Err(error) => tell(&format!("{name} failed after {took:.1?}: {error:#}")),
        }
        outcome.is_err().then_some(name)
    });
    let failed: Vec<_> = stream::iter(timed).buffer_unordered(at_once).collect().await;
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    ensure!(failed.is_empty(), "failed: {failed:?}");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "for people who write a scenario")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn is_asked_for(name: &str) -> bool {
    variable("PYRAMID_SCENARIO").is_none_or(|part| name.contains(&part))
}

/// Those that disturb no other.
fn beside_others(cluster: &Cluster) -> Vec<Scenario<'_>> {
    scenarios!(
        cluster,
        certificates::all_are_renewed_and_taken_into_use_without_a_restart,
        admission::a_pod_gets_a_pusher_and_is_as_it_was_otherwise,
        admission::names_that_are_not_the_pods_to_give_are_refused,
        admission::only_new_pods_of_open_namespaces_get_a_pusher,
        admission::a_pod_that_the_webhook_passed_over_is_refused_by_the_policy,
        deletion::a_stream_with_delete_goes_with_its_records,
        deletion::a_retained_stream_made_again_is_the_same_stream,
        deletion::a_writer_made_again_adopts_its_volume,
        deletion::a_writer_with_delete_goes_with_its_volume,
        delivery::each_pod_of_a_broadcast_subscription_gets_all,
        delivery::two_subscriptions_of_one_pod_have_a_port_each,
        delivery::a_subscription_by_labels_gets_ten_streams_and_one_that_comes_later,
        elsewhere::a_writer_elsewhere_serves_two_namespaces_is_replaced_and_goes_with_its_volume,
        intruders::who_has_no_right_neither_appends_nor_reads_nor_is_pushed_to,
        intruders::the_issuer_believes_good_tokens_only_and_no_request,
        intruders::a_right_that_is_taken_ends_pushes_and_appends_and_given_back_they_go_on,
        lost::an_empty_volume_is_told_of_and_founds_nothing_until_the_right_one_is_back,
        mesh::a_proxy_that_is_there_already_starts_before_the_pusher,
        mesh::a_proxy_that_comes_later_and_puts_itself_first_starts_before_the_pusher,
        mesh::a_proxy_that_comes_later_starts_behind_the_pusher,
        shop::a_lost_database_is_filled_again_from_the_bucket,
        refusals::the_server_judges_every_sample_as_it_says_itself,
        refusals::the_server_judges_every_sample_of_a_change_as_it_says_itself,
        refusals::helm_refuses_values_that_are_misspelt_too_small_or_of_another_type,
        refusals::pods_that_cannot_have_a_pusher_are_told_why,
        refusals::a_writer_of_three_replicas_is_answered_and_not_made,
        refusals::a_running_writer_that_is_to_have_more_replicas_runs_on_as_it_was,
        refusals::who_is_not_among_the_appenders_appends_nothing,
        pods::under_restricted_rules_all_runs_and_jobs_complete,
        pods::a_pod_waits_for_its_subscription_and_then_receives,
        pods::a_pod_is_ready_when_its_annotation_says_so,
        shown::columns_show_how_far_streams_and_subscriptions_are,
        shown::kubectl_explains_kinds_and_fields,
        shown::helm_waits_until_streams_and_subscriptions_are_ready,
        webhook::who_calls_it_from_a_pod_gets_an_answer_and_changes_nothing,
        webhook::a_broken_one_holds_back_annotated_pods_only,
        wiring::what_is_wired_wrongly_says_so_and_gets_ready_when_it_is_mended,
        wiring::a_subscription_says_why_nothing_is_delivered,
    )
}

/// Those that take away what others use, or look at what others do.
fn alone(cluster: &Cluster) -> Vec<Scenario<'_>> {
    scenarios!(
        cluster,
        webhook::a_foreign_root_in_the_configuration_is_replaced,
        // It looks at the clock.
        delivery::another_pod_of_an_exclusive_subscription_takes_over,
        outage::without_operators_delivery_goes_on_and_only_annotated_pods_wait,
        deletion::a_namespace_deleted_without_operators_goes_when_they_are_back,
        faults::appends_go_on_after_the_writers_pod_was_deleted_and_after_it_was_killed,
        faults::operators_and_writer_deleted_at_once_come_back,
        faults::deliveries_go_on_while_the_bucket_is_away,
        faults::a_consumer_comes_back_with_its_killed_node,
        faults::a_consumer_catches_up_after_its_node_was_cut_off,
        upgrade::other_images_come_under_load_without_a_failed_append,
        upgrade::uninstalled_and_installed_again_all_goes_on,
        // It looks at a number of the whole cluster.
        wiring::a_pod_that_asks_too_late_is_counted_and_told_of,
        // It takes the Writer's Pod for good, by a quota of the namespace.
        elsewhere::a_stream_that_cannot_be_erased_holds_its_writer_until_it_is_let_go,
        wiring::without_a_bucket_a_stream_names_the_command_that_gives_one,
        access::one_operator_is_evicted_and_not_the_other,
        access::no_right_is_wider_than_its_layer,
        access::every_pod_of_ours_is_locked_up,
        // Last: it judges what all the others made the operator do.
        access::what_is_granted_is_what_was_asked_for,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_reordered_whatever_breaks() {
    let folder = Folder::new().unwrap();
    let cluster = match variable("PYRAMID_CLUSTER") {
        Some(state) => Cluster::open(Path::new(&state)).unwrap(),
        None => {
            let cluster = Cluster::start(&folder.join("cluster")).await.unwrap();
            cluster.shell(&format!("{PREPARE}{}", install())).await.unwrap();
            cluster
        }
    };
    let beside_others = run(beside_others(&cluster), SIDE_BY_SIDE).await;
    // All are told of, though some failed.
    let alone = run(alone(&cluster), 1).await;
    beside_others.unwrap();
    alone.unwrap();
}
