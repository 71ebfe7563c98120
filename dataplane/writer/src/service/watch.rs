//! `Writer.Watch`: the newest next offset of some streams, lossy.
//!
//! A stream that the caller has no right to is told like one that does not exist; from the moment
//! that a right is given or taken, like one that is created or deleted.

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
use crate::rights::Caller;
use crate::view::Subscription;

/// Most streams that one call watches.
const STREAMS_MAX: usize = 100_000;

/// Most streams in one answer: it stays below the largest message whatever their names are.
const ANSWER_STREAMS_MAX: usize = 4_000;

struct Watcher {
    member: Arc<Member>,
    caller: Caller,
    names: BTreeSet<StreamName>,
    configuration: watch::Receiver<u64>,
    /// Made anew when a name means another stream.
    following: Option<Following>,
    /// Still to be told: what an answer has no room for.
    untold: BTreeSet<StreamName>,
    /// What was told last, of every name that was told.
    told: BTreeMap<StreamName, Option<Position>>,
}

struct Following {
    names: BTreeMap<StreamId, StreamName>,
    subscription: Subscription,
}

pub(super) fn answers(
    member: Arc<Member>,
    caller: Caller,
    request: &pb::WatchRequest,
) -> Result<impl Stream<Item = Result<pb::WatchResponse, Status>> + use<>, Refusal> {
    if request.streams.len() > STREAMS_MAX {
        return Err(answer::invalid(format!("a call watches at most {STREAMS_MAX} streams")));
    }
    let names: BTreeSet<StreamName> =
        request.streams.iter().map(|name| parse_name(name)).collect::<Result<_, _>>()?;
    let configuration = member.view.configuration();
    let watcher = Watcher {
        member,
        caller,
        untold: names.clone(),
        names,
        configuration,
        following: None,
        told: BTreeMap::new(),
    };
    Ok(stream::unfold(watcher, |mut watcher| async move {
        let streams = watcher.next().await?;
        Some((Ok(pb::WatchResponse { streams }), watcher))
    }))
}

impl Watcher {
    /// The next answer: all streams at first, then those that differ from what was told last.
    /// `None` when the process ends.
    async fn next(&mut self) -> Option<Vec<pb::WatchedStream>> {
        loop {
            if self.following.is_none() {
                self.following = Some(self.follow());
            }
            let news = self.news();
            if !news.is_empty() {
                return Some(news);
            }
            let Some(following) = &self.following else { continue };
            tokio::select! {
                changed = self.configuration.changed() => {
                    changed.ok()?;
                    let following = self.follow();
                    self.untold.clone_from(&self.names);
                    self.following = Some(following);
                }
                grown = following.subscription.changed() => {
                    let grown = grown.iter().filter_map(|id| following.names.get(id));
                    self.untold.extend(grown.cloned());
                }
            }
        }
    }

    /// Waits for growth of the streams that the names mean now. Look at the state after this call.
    fn follow(&self) -> Following {
        let names: BTreeMap<StreamId, StreamName> = self.member.view.read(|state, _| {
            let found = self.names.iter().filter_map(|name| state.stream_by_name(name));
            let found = found.filter(|stream| self.caller.sees(stream, state));
            found.map(|stream| (stream.id, stream.name.clone())).collect()
        });
        let ids: BTreeSet<StreamId> = names.keys().copied().collect();
        Following { names, subscription: self.member.view.subscribe(ids) }
    }

    /// What is untold and differs from what was told, as much as one answer holds.
    fn news(&mut self) -> Vec<pb::WatchedStream> {
        let mut news = Vec::new();
        while news.len() < ANSWER_STREAMS_MAX {
            let Some(name) = self.untold.pop_first() else { break };
            let next = self.member.view.read(|state, _| {
                let stream = state.stream_by_name(&name);
                stream.filter(|stream| self.caller.sees(stream, state)).map(|stream| Position {
                    stream_id: stream.id,
                    epoch: state.epoch(),
                    offset: stream.next,
                })
            });
            if self.told.get(&name) != Some(&next) {
                let stream = name.to_string();
                self.told.insert(name, next);
                news.push(pb::WatchedStream { stream, next: next.map(Into::into) });
            }
        }
        news
    }
}
