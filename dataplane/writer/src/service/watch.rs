//! `Writer.Watch`: the newest next offset of some streams, lossy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{Stream, stream};
use pyramid_protocol::pb::v1::{self as pb, Refusal};
use pyramid_protocol::{Position, StreamId, StreamName};
use tokio::sync::watch;
use tonic::Status;

use super::answer;
use super::streams::parse_name;
use crate::member::Member;
use crate::view::Subscription;

/// Most streams that one call watches.
const STREAMS_MAX: usize = 100_000;

struct Watcher {
    member: Arc<Member>,
    names: Vec<StreamName>,
    configuration: watch::Receiver<u64>,
    /// Made anew when a name means another stream.
    following: Option<Following>,
}

struct Following {
    names: BTreeMap<StreamId, StreamName>,
    subscription: Subscription,
}

pub(super) fn answers(
    member: Arc<Member>,
    request: pb::WatchRequest,
) -> Result<impl Stream<Item = Result<pb::WatchResponse, Status>>, Refusal> {
    if request.streams.len() > STREAMS_MAX {
        return Err(answer::invalid(format!("a call watches at most {STREAMS_MAX} streams")));
    }
    let names = request.streams.iter().map(|name| parse_name(name)).collect::<Result<_, _>>()?;
    let configuration = member.view.configuration();
    let watcher = Watcher { member, names, configuration, following: None };
    Ok(stream::unfold(watcher, |mut watcher| async move {
        let streams = watcher.next().await?;
        Some((Ok(pb::WatchResponse { streams }), watcher))
    }))
}

impl Watcher {
    /// All streams at first and after a change of what is configured, else those that grew.
    /// `None` when the process ends.
    async fn next(&mut self) -> Option<Vec<pb::WatchedStream>> {
        let Some(following) = &self.following else { return Some(self.all()) };
        tokio::select! {
            changed = self.configuration.changed() => {
                changed.ok()?;
                Some(self.all())
            }
            grown = following.subscription.changed() => Some(
                grown.iter().filter_map(|id| following.names.get(id)).map(|n| self.one(n)).collect(),
            ),
        }
    }

    fn all(&mut self) -> Vec<pb::WatchedStream> {
        self.configuration.mark_unchanged();
        let found: BTreeMap<StreamId, StreamName> = self.member.view.read(|state, _| {
            let found = self.names.iter().filter_map(|name| state.stream_by_name(name));
            found.map(|stream| (stream.id, stream.name.clone())).collect()
        });
        let ids: BTreeSet<StreamId> = found.keys().copied().collect();
        let subscription = self.member.view.subscribe(ids);
        self.following = Some(Following { names: found, subscription });
        self.names.iter().map(|name| self.one(name)).collect()
    }

    fn one(&self, name: &StreamName) -> pb::WatchedStream {
        let next = self.member.view.read(|state, _| {
            state.stream_by_name(name).map(|stream| Position {
                stream_id: stream.id,
                epoch: state.epoch(),
                offset: stream.next,
            })
        });
        pb::WatchedStream { stream: name.to_string(), next: next.map(Into::into) }
    }
}
