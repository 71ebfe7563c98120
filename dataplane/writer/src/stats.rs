//! What an operator watches: how much there is, how far it is shipped, what pushers say.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use pyramid_protocol::StreamName;
use pyramid_protocol::pb::v1 as pb;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::Status;

use crate::member::Member;
use crate::state::State;

/// Between two messages, unless said otherwise, and the bounds of what may be said.
const INTERVAL_MS: u32 = 10_000;
const INTERVAL_MS_MIN: u32 = 100;
const INTERVAL_MS_MAX: u32 = 3_600_000;

/// Streams of pushers in one message, so that it stays below the limit of messages.
const STREAMS_MAX: usize = 1_000;

/// One message at once, then one every interval.
pub(crate) fn watch(
    member: Arc<Member>,
    request: pb::WatchStatsRequest,
) -> impl Stream<Item = Result<pb::WatchStatsResponse, Status>> {
    let interval_ms = match request.interval_ms {
        0 => INTERVAL_MS,
        ms => ms.clamp(INTERVAL_MS_MIN, INTERVAL_MS_MAX),
    };
    let mut ticks = interval(Duration::from_millis(interval_ms.into()));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((member, ticks), |(member, mut ticks): (Arc<Member>, Interval)| async move {
        ticks.tick().await;
        let stats = stats(&member);
        Some((Ok(stats), (member, ticks)))
    })
}

fn stats(member: &Member) -> pb::WatchStatsResponse {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let attached = member.attachments.pushers();
    let wal_bytes = member.usage().used_bytes;
    member.view.read(|state, live| {
        let mut left = STREAMS_MAX;
        let pushers = attached.into_iter().map(|pusher| {
            let reports = pusher.reports.into_values().take(left);
            let streams: Vec<_> = reports.map(|report| with_end(state, report)).collect();
            left -= streams.len();
            pb::AttachedPusher { hello: Some(pusher.hello), streams }
        });
        pb::WatchStatsResponse {
            stream_count: count(state.stream_count()),
            live_bytes: live.len_bytes(),
            open_seals: count(state.open_seal_count()),
            wal_bytes,
            pushers: pushers.collect(),
        }
    })
}

fn with_end(state: &State, report: pb::StreamReport) -> pb::AttachedStream {
    let name: Option<StreamName> = report.stream.parse().ok();
    let stream = name.and_then(|name| state.stream_by_name(&name));
    pb::AttachedStream { next_offset: stream.map(|stream| stream.next.get()), report: Some(report) }
}
