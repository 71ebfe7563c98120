//! What is looked at when somebody asks for metrics.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use pyramid_protocol::pb::v1 as pb;
use pyramid_protocol::{Offset, StreamName};
use pyramid_telemetry::metrics::{Collector, Scrape, Unit};
use tokio::sync::watch;

use crate::attachments::Pusher;
use crate::health::Vitals;
use crate::live_index::LiveIndex;
use crate::member::{Member, Phase};
use crate::raft::Consensus;
use crate::state::State;

/// Most series of one kind. Of more streams there are only totals; of more lags, the largest.
const SERIES_MAX: usize = 1_000;

/// Looks at a replica.
pub(crate) struct Collected {
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) vitals: Arc<Vitals>,
}

/// What is read under the lock of the state.
#[derive(Default)]
struct Contents {
    streams: u64,
    subscriptions: u64,
    live_bytes: u64,
    live_index_bytes: u64,
    open_seals: u64,
    streams_deleting: u64,
    /// Log time of the oldest record that waits to be uploaded.
    oldest_sealed_ms: Option<u64>,
    /// Empty if there are more than [`SERIES_MAX`].
    next_offsets: Vec<(StreamName, Offset)>,
    lags: Lags,
}

/// How far applications are behind: all of it in numbers, and where most is missing.
#[derive(Debug, Default, PartialEq)]
struct Lags {
    /// At most [`SERIES_MAX`], the largest first.
    largest: Vec<Lag>,
    records: u64,
    max_records: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Lag {
    subscription: String,
    stream: String,
    pod: String,
    records: u64,
}

impl Collector for Collected {
    fn collect(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        let member = match &*self.phase.borrow() {
            Phase::Serving(member) => Some(Arc::clone(member)),
            Phase::Empty | Phase::Starting(_) => None,
        };
        let member = member.as_deref();
        scrape.info("build", "What runs", &[("version", env!("CARGO_PKG_VERSION"))])?;
        scrape.gauge(
            "serving",
            None,
            "1 once the replica holds data and takes requests",
            u64::from(member.is_some()),
        )?;
        self.raft(scrape)?;
        log(scrape, member)?;
        let pushers = member.map(|member| member.attachments.pushers()).unwrap_or_default();
        let attached = count(pushers.len());
        let contents = member
            .map(|member| member.view.read(|state, live| Contents::look(state, live, &pushers)));
        contents.unwrap_or_default().write(scrape, member, attached)
    }
}

impl Collected {
    fn raft(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        let consensus = self.vitals.consensus();
        let leads = consensus.and_then(Consensus::leads).is_some();
        let leader = consensus.and_then(Consensus::leader);
        scrape.gauge("leader", None, "1 while this replica leads", u64::from(leads))?;
        scrape.gauge(
            "leader_known",
            None,
            "1 while this replica knows a leader",
            u64::from(leader.is_some()),
        )?;
        scrape.gauge_if("term", None, "Raft's term", consensus.map(Consensus::term))?;
        scrape.gauge_if(
            "committed_index",
            None,
            "Last entry of the log that is committed, as far as this replica knows",
            consensus.and_then(Consensus::committed),
        )?;
        scrape.gauge_if(
            "applied_index",
            None,
            "Last entry of the log that is applied here",
            self.vitals.applied(),
        )
    }
}

fn log(scrape: &mut Scrape<'_>, member: Option<&Member>) -> fmt::Result {
    let usage = member.map(Member::usage);
    scrape.gauge_if(
        "wal_used",
        Some(Unit::Bytes),
        "Write-ahead log, with the index of its live records in memory",
        usage.map(|usage| usage.used_bytes),
    )?;
    scrape.gauge_if(
        "wal_max",
        Some(Unit::Bytes),
        "Budget of the write-ahead log",
        usage.map(|usage| usage.max_bytes),
    )?;
    scrape.gauge_if(
        "wal_refuses",
        None,
        "1 while appends are refused because the log or its disk is full",
        usage.map(|usage| u64::from(usage.refuses_appends())),
    )?;
    scrape.gauge_if(
        "disk_free",
        Some(Unit::Bytes),
        "Room on the volume of the data directory",
        member.map(Member::free_disk_bytes),
    )?;
    scrape.gauge_if(
        "log_timestamp",
        Some(Unit::Seconds),
        "Log time as the leader stamps it now, in seconds since 1970",
        member.and_then(|member| member.appender.log_time_ms()).map(seconds),
    )
}

impl Contents {
    fn look(state: &State, live: &LiveIndex, pushers: &[Pusher]) -> Self {
        let sealed = state.streams().filter_map(|stream| {
            let seal = stream.open_seals.first()?;
            let mut batches = live.batches(stream.id, Offset::new(seal.base_offset));
            batches.next().map(|batch| batch.time_ms)
        });
        let next_offsets = if state.stream_count() > SERIES_MAX {
            Vec::new()
        } else {
            state.streams().map(|stream| (stream.name.clone(), stream.next)).collect()
        };
        Self {
            streams: count(state.stream_count()),
            subscriptions: count(state.subscriptions("").count()),
            live_bytes: live.len_bytes(),
            live_index_bytes: count(live.memory_bytes()),
            open_seals: count(state.open_seal_count()),
            streams_deleting: count(state.all_deleting().count()),
            oldest_sealed_ms: sealed.min(),
            next_offsets,
            lags: lags(state, pushers),
        }
    }

    fn write(
        &self,
        scrape: &mut Scrape<'_>,
        member: Option<&Member>,
        attached: u64,
    ) -> fmt::Result {
        scrape.gauge("streams", None, "Streams", self.streams)?;
        scrape.gauge("subscriptions", None, "Subscriptions", self.subscriptions)?;
        scrape.gauge(
            "live",
            Some(Unit::Bytes),
            "Records that are in no committed chunk yet",
            self.live_bytes,
        )?;
        scrape.gauge(
            "live_index",
            Some(Unit::Bytes),
            "Memory of the index of live records",
            self.live_index_bytes,
        )?;
        scrape.gauge(
            "open_seals",
            None,
            "Ranges that are cut and not yet in a committed chunk: what the shipper has to do",
            self.open_seals,
        )?;
        scrape.gauge(
            "streams_deleting",
            None,
            "Deleted streams of which objects may be left in the object store",
            self.streams_deleting,
        )?;
        let now_ms = member.and_then(|member| member.appender.log_time_ms());
        let age = self.oldest_sealed_ms.zip(now_ms).map(|(at, now)| now.saturating_sub(at));
        scrape.gauge(
            "open_seal_age_max",
            Some(Unit::Seconds),
            "Age of the oldest record that waits to be uploaded; 0 if none does",
            age.map_or(0.0, seconds),
        )?;
        scrape.gauges(
            "stream_next_offset",
            None,
            "The offset that the next record of a stream gets; up to 1000 streams",
            self.next_offsets.iter().map(|(name, next)| ([("stream", name.as_str())], next.get())),
        )?;
        self.write_lags(scrape, attached)
    }

    fn write_lags(&self, scrape: &mut Scrape<'_>, attached: u64) -> fmt::Result {
        scrape.gauge("pushers", None, "Pushers attached, one for each subscription", attached)?;
        scrape.gauges(
            "pusher_lag_records",
            None,
            "Records that an application has not accepted, of each attached pusher and stream; the largest 1000",
            self.lags.largest.iter().map(|lag| {
                let labels = [
                    ("subscription", lag.subscription.as_str()),
                    ("stream", lag.stream.as_str()),
                    ("pod", lag.pod.as_str()),
                ];
                (labels, lag.records)
            }),
        )?;
        scrape.gauge(
            "lag_records",
            None,
            "Records that applications have not accepted, of all attached pushers together",
            self.lags.records,
        )?;
        scrape.gauge(
            "lag_max_records",
            None,
            "The largest lag of one stream of one attached pusher",
            self.lags.max_records,
        )
    }
}

/// One for each subscription, stream and pod: a pusher that attaches again is there twice for a
/// moment, and a series may be named once only. The last one counts.
fn lags(state: &State, pushers: &[Pusher]) -> Lags {
    let mut lags: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for Pusher { hello, reports, .. } in pushers {
        for report in reports.values() {
            if let Some(records) = lag(state, report) {
                lags.insert((&hello.subscription, &report.stream, &hello.pod), records);
            }
        }
    }
    Lags::of(lags.into_iter().collect())
}

/// Subscription, stream and pod, and how many records are missing there.
type Missing<'a> = ((&'a str, &'a str, &'a str), u64);

impl Lags {
    /// However many pushers one subscription has: the others are still seen where it matters.
    fn of(mut all: Vec<Missing<'_>>) -> Self {
        let records = all.iter().fold(0_u64, |sum, (_, records)| sum.saturating_add(*records));
        // By name where two are as large, so that the same series are shown each time.
        all.sort_unstable_by_key(|(names, records)| (Reverse(*records), *names));
        let max_records = all.first().map_or(0, |(_, records)| *records);
        let largest =
            all.into_iter().take(SERIES_MAX).map(|((subscription, stream, pod), records)| {
                let [subscription, stream, pod] = [subscription, stream, pod].map(str::to_owned);
                Lag { subscription, stream, pod, records }
            });
        Self { largest: largest.collect(), records, max_records }
    }
}

/// Nothing is known of an application that has not answered yet, or of a stream that is gone.
fn lag(state: &State, report: &pb::StreamReport) -> Option<u64> {
    let name: StreamName = report.stream.parse().ok()?;
    let stream = state.stream_by_name(&name)?;
    let accepted = report.accepted.as_ref()?;
    Some(stream.next.get().saturating_sub(accepted.offset))
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lags of 1 record each, of so many pods.
    fn crowd(pods: &[String]) -> Vec<Missing<'_>> {
        pods.iter().map(|pod| (("crowd", "s", pod.as_str()), 1)).collect()
    }

    #[test]
    fn one_subscription_of_very_many_pods_hides_no_larger_lag_of_another() {
        let pods: Vec<String> = (0..SERIES_MAX).map(|number| format!("{number:04}")).collect();
        let series = |(subscription, pod, records): (&str, &str, u64)| Lag {
            subscription: subscription.into(),
            stream: "s".into(),
            pod: pod.into(),
            records,
        };
        let of_crowd = |count| pods.iter().take(count).map(|pod| series(("crowd", pod, 1)));
        let full = u64::try_from(SERIES_MAX).unwrap();

        let lags = Lags::of(crowd(&pods));
        let expected =
            Lags { largest: of_crowd(SERIES_MAX).collect(), records: full, max_records: 1 };
        assert_eq!(lags, expected, "as many as there is room for");

        let mut all = crowd(&pods);
        all.extend([(("late", "s", "p"), 7), (("prompt", "s", "p"), 0)]);
        let mut largest = vec![series(("late", "p", 7))];
        largest.extend(of_crowd(SERIES_MAX - 1));
        assert_eq!(Lags::of(all), Lags { largest, records: full + 7, max_records: 7 });
    }

    #[test]
    fn without_pushers_nothing_is_behind() {
        assert_eq!(Lags::of(Vec::new()), Lags::default());
    }
}
