use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Live,
    Chunk,
}

impl Label for Kind {
    const NAME: &'static str = "kind";
    const ALL: &'static [Self] = &[Self::Live, Self::Chunk];

    fn text(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Chunk => "chunk",
        }
    }
}

#[test]
fn counters_have_a_series_for_each_value_from_the_start() {
    let mut registry = Registry::with_prefix("p");
    let counters = Counters::<Kind>::default();
    registry.register_with_unit("sent", "Bytes sent", Unit::Bytes, counters.clone());
    counters.inc_by(Kind::Chunk, 5);
    counters.inc(Kind::Chunk);
    let expected = "# HELP p_sent_bytes Bytes sent.\n\
                    # TYPE p_sent_bytes counter\n\
                    # UNIT p_sent_bytes bytes\n\
                    p_sent_bytes_total{kind=\"live\"} 0\n\
                    p_sent_bytes_total{kind=\"chunk\"} 6\n\
                    # EOF\n";
    assert_eq!(text(&registry), expected);
}

#[test]
fn a_latency_is_in_the_first_bucket_that_it_does_not_exceed() {
    let mut registry = Registry::default();
    let histogram = Histogram::default();
    registry.register_with_unit("took", "Time taken", Unit::Seconds, histogram.clone());
    for us in [100, 101, 300_000_000, 300_000_001] {
        histogram.observe(Duration::from_micros(us));
    }
    assert_eq!(histogram.count(), 4);
    let text = text(&registry);
    let bucket = |le: &str| {
        let line = format!("took_seconds_bucket{{le=\"{le}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(line.as_str())).unwrap()
    };
    let found = ["0.0001", "0.00025", "60.0", "300.0", "+Inf"].map(bucket);
    assert_eq!(found, ["1", "2", "2", "3", "4"]);
    assert!(text.contains("\ntook_seconds_count 4\n"), "{text}");
    assert!(text.contains("\ntook_seconds_sum 600.000202\n"), "{text}");
}

#[test]
fn histograms_are_told_apart_by_their_label() {
    let mut registry = Registry::default();
    let histograms = Histograms::<Kind>::default();
    registry.register_with_unit("took", "Time taken", Unit::Seconds, histograms.clone());
    histograms.observe(Kind::Live, Duration::from_secs(1));
    let text = text(&registry);
    assert!(text.contains("took_seconds_count{kind=\"live\"} 1\n"), "{text}");
    assert!(text.contains("took_seconds_count{kind=\"chunk\"} 0\n"), "{text}");
    assert!(text.contains("took_seconds_bucket{le=\"1.0\",kind=\"live\"} 1\n"), "{text}");
}

struct Looks;

impl Collector for Looks {
    fn collect(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        scrape.gauge("open", None, "How many are open", 3_u64)?;
        scrape.gauge_if("age", Some(Unit::Seconds), "Age of the oldest", None::<f64>)?;
        scrape.counter("turns", None, "Turns taken", 4_u64)?;
        let series = [([("stream", "a\"b")], 1_u64), ([("stream", "c")], 2)];
        scrape.gauges("next_offset", None, "Where streams end", series)?;
        scrape.info("build", "What runs", &[("version", "1")])
    }
}

#[test]
fn what_is_looked_at_is_written_and_named() {
    let mut registry = Registry::with_prefix("p");
    register(&mut registry, Looks);
    let text = text(&registry);
    let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = [
        "p_open 3",
        "p_turns_total 4",
        "p_next_offset{stream=\"a\\\"b\"} 1",
        "p_next_offset{stream=\"c\"} 2",
        "p_build_info{version=\"1\"} 1",
    ];
    assert_eq!(series, expected);
    let named: Vec<&str> = names(&text).collect();
    assert_eq!(named, ["p_open", "p_age_seconds", "p_turns", "p_next_offset", "p_build"]);
}

#[test]
fn a_gauge_counts_what_is_held() {
    let mut registry = Registry::default();
    let gauges = Gauges::<Kind>::default();
    registry.register("open", "How many are open", gauges.clone());
    let series = || {
        let text = text(&registry);
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    let held = (gauges.hold(Kind::Live), gauges.hold(Kind::Live), gauges.hold(Kind::Chunk));
    assert_eq!(series(), ["open{kind=\"live\"} 2", "open{kind=\"chunk\"} 1"]);
    drop(held);
    assert_eq!(series(), ["open{kind=\"live\"} 0", "open{kind=\"chunk\"} 0"]);
}

#[test]
fn a_certificate_is_shown_once_there_is_one() {
    let series = |certificate: Option<Certificate>| {
        let mut registry = Registry::with_prefix("p");
        register_certificate(&mut registry, Arc::new(move || certificate));
        let text = text(&registry);
        assert_eq!(names(&text).count(), 3);
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    let shown = series(Some(Certificate {
        not_after_ms: 1_700_000_000_500,
        reloads: 4,
        reload_failures: 1,
    }));
    let expected = [
        "p_certificate_not_after_timestamp_seconds 1700000000.5",
        "p_certificate_reloads_total 4",
        "p_certificate_reload_failures_total 1",
    ];
    assert_eq!(shown, expected);
    let expected = ["p_certificate_reloads_total 0", "p_certificate_reload_failures_total 0"];
    assert_eq!(series(None), expected);
}
