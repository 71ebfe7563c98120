//! What Writers and pushers report, as the status of a Stream or Subscription says it.

use std::collections::{BTreeMap, BTreeSet};

use pyramid_crds::condition::{Truth, reasons, types};
use pyramid_crds::subscription::{StreamLag, WORST_STREAMS_MAX};
use pyramid_protocol::pb::v1::{self as pb, PushState};

use crate::kinds::status::Verdict;

/// All that one Subscription's pushers say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Delivery {
    pub(super) connected_pushers: usize,
    /// `None`: nobody has said where it is.
    pub(super) lag_records: Option<i64>,
    /// The ones that are furthest behind.
    pub(super) streams: Vec<StreamLag>,
    /// `Delivering`.
    pub(super) delivering: Verdict,
}

/// Of one stream, from the pusher that is furthest behind.
struct Report<'a> {
    pod: &'a str,
    report: &'a pb::StreamReport,
    accepted: Option<u64>,
    lag: Option<u64>,
}

/// What the pushers of `subscription` (`namespace/name`) say.
pub(super) fn delivery(
    subscription: &str,
    is_paused: bool,
    pushers: &[pb::AttachedPusher],
) -> Delivery {
    let attached: Vec<(&pb::AttachHello, &[pb::AttachedStream])> = pushers
        .iter()
        .filter_map(|pusher| Some((pusher.hello.as_ref()?, &*pusher.streams)))
        .filter(|(hello, _)| hello.subscription == subscription)
        .collect();
    let pods: BTreeSet<&str> = attached.iter().map(|(hello, _)| hello.pod.as_str()).collect();
    let mut worst: BTreeMap<&str, Report<'_>> = BTreeMap::new();
    for (hello, streams) in &attached {
        for stream in *streams {
            let Some(report) = &stream.report else { continue };
            // Another pod has the stream and says how it stands.
            if report.state() == PushState::Standby {
                continue;
            }
            let accepted = report.accepted.as_ref().map(|position| position.offset);
            let lag = accepted.zip(stream.next_offset).map(|(at, next)| next.saturating_sub(at));
            let one = Report { pod: &hello.pod, report, accepted, lag };
            match worst.get(report.stream.as_str()) {
                Some(other) if rank(other) >= rank(&one) => {}
                Some(_) | None => {
                    worst.insert(&report.stream, one);
                }
            }
        }
    }
    let lags = || worst.values().filter_map(|one| one.lag);
    let sum = lags().fold(0_u64, u64::saturating_add);
    Delivery {
        connected_pushers: pods.len(),
        lag_records: lags().next().map(|_| number(sum)),
        streams: worst_streams(&worst),
        delivering: delivering(is_paused, attached.is_empty(), &worst, sum),
    }
}

/// Of two pods that report the same stream, the one that stands, then the one that is further
/// behind.
fn rank(one: &Report<'_>) -> (bool, bool, Option<u64>) {
    (halt(one.report.state()).is_some(), one.report.state() == PushState::Retrying, one.lag)
}

fn worst_streams(worst: &BTreeMap<&str, Report<'_>>) -> Vec<StreamLag> {
    let mut streams: Vec<(&str, &Report<'_>)> =
        worst.iter().map(|(name, report)| (*name, report)).collect();
    streams
        .sort_by_key(|(_, one)| std::cmp::Reverse((halt(one.report.state()).is_some(), one.lag)));
    let shown = streams.into_iter().take(WORST_STREAMS_MAX).filter_map(|(full, one)| {
        let (namespace, name) = full.split_once('/')?;
        Some(StreamLag {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            accepted_offset: one.accepted.map(number),
            lag_records: one.lag.map(number),
            active_pod: Some(one.pod.to_owned()).filter(|pod| !pod.is_empty()),
            halted: halt(one.report.state()).map(str::to_owned),
        })
    });
    shown.collect()
}

fn delivering(
    is_paused: bool,
    is_alone: bool,
    worst: &BTreeMap<&str, Report<'_>>,
    lag: u64,
) -> Verdict {
    let said = |truth, reason, text: String| Verdict::new(types::DELIVERING, truth, reason, text);
    if is_paused {
        return said(Truth::False, reasons::PAUSED, "spec.state is Paused".to_owned());
    }
    if is_alone {
        let text = "no pod with a pusher for it is connected; name it in the pods' annotation";
        return said(Truth::False, reasons::NO_CONSUMERS, text.to_owned());
    }
    let told = |name: &str, one: &Report<'_>| {
        format!("Stream {name} in pod {}: {}", one.pod, one.report.message)
    };
    let halted =
        worst.iter().find_map(|(name, one)| Some((halt(one.report.state())?, told(name, one))));
    if let Some((reason, text)) = halted {
        return said(Truth::False, reason, text);
    }
    let retrying = worst.iter().find(|(_, one)| one.report.state() == PushState::Retrying);
    if let Some((name, one)) = retrying {
        return said(Truth::False, reasons::CONSUMER_UNREACHABLE, told(name, one));
    }
    if worst.values().all(|one| one.report.state() == PushState::Waiting) && lag == 0 {
        return said(Truth::True, reasons::IDLE, "all records are accepted".to_owned());
    }
    said(Truth::True, reasons::DELIVERING, "records are being pushed".to_owned())
}

/// Why pushing stopped, if it did.
fn halt(state: PushState) -> Option<&'static str> {
    match state {
        PushState::HaltedStreamReplaced => Some(reasons::STREAM_REPLACED),
        PushState::HaltedEpochChanged => Some(reasons::EPOCH_CHANGED),
        PushState::HaltedTrimmed => Some(reasons::TRIMMED),
        PushState::HaltedAheadOfStream => Some(reasons::AHEAD_OF_STREAM),
        PushState::HaltedRejected => Some(reasons::REJECTED),
        PushState::Unspecified
        | PushState::Asking
        | PushState::Pushing
        | PushState::Waiting
        | PushState::Retrying
        | PushState::Paused
        | PushState::Standby => None,
    }
}

/// Kubernetes has signed numbers.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pusher that has accepted so far of streams that end at 100.
    fn pusher(pod: &str, streams: &[(&str, u64, PushState)]) -> pb::AttachedPusher {
        let report = |(stream, offset, state): &(&str, u64, PushState)| pb::AttachedStream {
            report: Some(pb::StreamReport {
                stream: (*stream).into(),
                accepted: Some(pb::Position { stream_id: 1, epoch: 1, offset: *offset }),
                state: (*state).into(),
                message: "m".into(),
            }),
            next_offset: Some(100),
        };
        let hello = pb::AttachHello {
            subscription: "shop/s".into(),
            pod: pod.into(),
            ..pb::AttachHello::default()
        };
        pb::AttachedPusher { hello: Some(hello), streams: streams.iter().map(report).collect() }
    }

    fn said(pushers: &[pb::AttachedPusher], is_paused: bool) -> (Truth, &'static str) {
        let verdict = delivery("shop/s", is_paused, pushers).delivering;
        (verdict.truth, verdict.reason)
    }

    #[test]
    fn lag_is_that_of_the_pod_furthest_behind_summed_over_streams() {
        use PushState::{Pushing, Standby, Waiting};
        let pushers = [
            pusher("p0", &[("shop/a", 90, Pushing), ("shop/b", 100, Waiting)]),
            pusher("p1", &[("shop/a", 70, Pushing), ("shop/b", 10, Standby)]),
        ];
        let lag = |name: &str, at, lag, pod: &str| StreamLag {
            name: name.into(),
            namespace: "shop".into(),
            accepted_offset: Some(at),
            lag_records: Some(lag),
            active_pod: Some(pod.into()),
            halted: None,
        };
        let text = "records are being pushed";
        let expected = Delivery {
            connected_pushers: 2,
            lag_records: Some(30),
            streams: vec![lag("a", 70, 30, "p1"), lag("b", 100, 0, "p0")],
            delivering: Verdict::new("Delivering", Truth::True, "Delivering", text),
        };
        assert_eq!(delivery("shop/s", false, &pushers), expected);
        assert_eq!(delivery("shop/other", false, &pushers).connected_pushers, 0);
    }

    #[test]
    fn a_pusher_that_has_not_heard_from_its_application_has_no_lag() {
        let mut asking = pusher("p", &[("shop/a", 0, PushState::Asking)]);
        asking.streams[0].report.as_mut().unwrap().accepted = None;
        let delivery = delivery("shop/s", false, &[asking]);
        assert_eq!((delivery.lag_records, delivery.streams[0].accepted_offset), (None, None));
    }

    #[test]
    fn the_worst_thing_is_said() {
        use PushState::{HaltedRejected, Pushing, Retrying, Waiting};
        let (yes, no) = (Truth::True, Truth::False);
        let one = |streams: &[(&str, u64, PushState)]| vec![pusher("p", streams)];
        let cases = [
            (Vec::new(), (no, "NoConsumers")),
            (one(&[]), (yes, "Idle")),
            (one(&[("shop/a", 100, Waiting)]), (yes, "Idle")),
            (one(&[("shop/a", 99, Waiting)]), (yes, "Delivering")),
            (one(&[("shop/a", 100, Waiting), ("shop/b", 1, Pushing)]), (yes, "Delivering")),
            (one(&[("shop/a", 1, Pushing), ("shop/b", 9, Retrying)]), (no, "ConsumerUnreachable")),
            (one(&[("shop/a", 1, Retrying), ("shop/b", 9, HaltedRejected)]), (no, "Rejected")),
        ];
        for (pushers, expected) in cases {
            assert_eq!(said(&pushers, false), expected, "{pushers:?}");
            assert_eq!(said(&pushers, true), (no, "Paused"));
        }
    }

    #[test]
    fn a_pod_that_stands_hides_behind_no_pod_that_lags() {
        use PushState::{HaltedTrimmed, Pushing};
        let pushers = [
            pusher("p0", &[("shop/a", 99, HaltedTrimmed)]),
            pusher("p1", &[("shop/a", 0, Pushing)]),
        ];
        let delivery = delivery("shop/s", false, &pushers);
        assert_eq!(delivery.delivering.message, "Stream shop/a in pod p0: m");
        assert_eq!(delivery.streams[0].halted.as_deref(), Some("Trimmed"));
    }

    #[test]
    fn the_ten_worst_streams_are_shown() {
        let names: Vec<String> = (0..12).map(|n| format!("shop/s{n}")).collect();
        let streams: Vec<(&str, u64, PushState)> = names
            .iter()
            .zip(0..)
            .map(|(name, at)| (name.as_str(), at, PushState::Pushing))
            .collect();
        let delivery = delivery("shop/s", false, &[pusher("p", &streams)]);
        let shown: Vec<&str> = delivery.streams.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(shown, ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"]);
        assert_eq!(delivery.lag_records, Some((0..12).map(|at| 100 - at).sum()));
    }
}
