use pyramid_protocol::SystemClock;
use pyramid_telemetry::metrics;
use pyramid_tls::Authority;

use super::*;
use crate::identity;
use crate::settings::Settings;

const DAY: Duration = Duration::from_secs(86_400);

fn text(metrics: &Metrics) -> String {
    let directory = tempfile::TempDir::new().unwrap();
    let authority = Authority::generate("test.local", 30 * DAY, &SystemClock).unwrap();
    let trust = Arc::new(Trust::of(authority));
    let settings = Settings::for_tests();
    let place = identity::Place { directory: directory.path(), namespace: "pyramid-system" };
    let tls = identity::open(place, &trust, &settings, Arc::new(SystemClock)).unwrap();
    let (_sender, trust) = watch::channel(trust);
    metrics::text(&metrics.registry(
        (&InjectionMetrics::default(), &AuditMetrics::default()),
        &tls,
        trust,
    ))
}

fn line<'a>(text: &'a str, series: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(series)).unwrap_or_default()
}

#[test]
fn what_happens_is_counted_under_its_name() {
    let metrics = Metrics::default();
    metrics.reconciled(Controller::Stream, true, Duration::from_millis(3));
    metrics.reconciled(Controller::Stream, false, Duration::from_millis(3));
    metrics.admin_called(AdminCall::PutStreams, false, Duration::from_millis(3));
    metrics.issued(Issue::Pod);
    metrics.leads(true);
    metrics.panicked();
    metrics.bundle_written();
    metrics.drift_corrected.inc();
    let text = text(&metrics);
    for expected in [
        "pyramid_operator_reconcile_total{controller=\"stream\",result=\"ok\"} 1",
        "pyramid_operator_reconcile_total{controller=\"stream\",result=\"error\"} 1",
        "pyramid_operator_reconcile_total{controller=\"writer\",result=\"ok\"} 0",
        "pyramid_operator_reconcile_seconds_count{controller=\"stream\"} 2",
        "pyramid_operator_admin_call_seconds_count{rpc=\"PutStreams\",result=\"error\"} 1",
        "pyramid_operator_leader 1",
        "pyramid_operator_drift_corrected_total 1",
        "pyramid_operator_request_panics_total 1",
        "pyramid_operator_webhook_bundle_writes_total 1",
        "pyramid_operator_handshakes_total 0",
        "pyramid_operator_handshakes_refused_total{reason=\"timeout\"} 0",
        "pyramid_issuer_requests_total{result=\"pod\",reason=\"\"} 1",
        "pyramid_issuer_requests_total{result=\"denied\",reason=\"audience\"} 0",
    ] {
        let series = expected.rsplit_once(' ').unwrap().0;
        assert_eq!(line(&text, series), expected);
    }
    for shown in [
        "pyramid_operator_certificate_not_after_timestamp_seconds ",
        "pyramid_operator_authority_not_after_timestamp_seconds ",
    ] {
        assert!(!line(&text, shown).is_empty(), "{shown} in {text}");
    }
}

#[test]
fn every_metric_is_explained_to_users() {
    let text = text(&Metrics::default());
    let names = metrics::names(&text);
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    assert!(names.len() > 15, "{names:?}");
    let documented = include_str!("../../../docs/operating.md");
    let (_, documented) = documented.split_once("\n## Metrics\n").unwrap();
    let (_, documented) = documented.split_once("\n### Operator").unwrap();
    let rows = documented.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut explained: Vec<String> = rows
        .map(|row| {
            let name = row.split('`').next().unwrap();
            name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(name).to_owned()
        })
        .collect();
    names.sort_unstable();
    explained.sort_unstable();
    assert_eq!(explained, names);
}

#[test]
fn a_replica_that_leads_no_more_says_so() {
    let metrics = Metrics::default();
    for (leads, expected) in [(true, "1"), (false, "0")] {
        metrics.leads(leads);
        let text = text(&metrics);
        assert_eq!(
            line(&text, "pyramid_operator_leader"),
            format!("pyramid_operator_leader {expected}")
        );
    }
}
