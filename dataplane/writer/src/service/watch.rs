//! `Writer.Watch`: the newest next offset of some streams, lossy.
//!
//! A stream that the caller has no right to is told like one that does not exist; from the moment
//! that a right is given or taken, like one that is created or deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{Stream, stream};
use pyramid_protocol::limits::WATCH_STREAMS_MAX;
use pyramid_protocol::pb::v1::{self as pb, Refusal};
use pyramid_protocol::{Position, StreamId, StreamName};
use tokio::sync::watch;
use tonic::Status;

use super::answer;
use super::streams::parse_name;
use crate::member::Member;
use crate::rights::Caller;
use crate::view::Subscription;

/// Most streams in one answer: it stays below the largest message whatever their names are.
const ANSWER_STREAMS_MAX: usize = 4_000;

struct Watcher {
    member: Arc<Member>,
    caller: Caller,
    /// What the call names, in order and each once. Everything else keeps places in it.
    names: Box<[StreamName]>,
    configuration: watch::Receiver<u64>,
    /// Made anew when a name means another stream.
    following: Option<Following>,
    /// Still to be told: what an answer has no room for.
    untold: BTreeSet<usize>,
    /// What was told last, of every name that was told.
    told: BTreeMap<usize, Option<Position>>,
}

struct Following {
    /// Where the names of the streams are in [`Watcher::names`].
    places: BTreeMap<StreamId, usize>,
    subscription: Subscription,
}

pub(super) fn answers(
    member: Arc<Member>,
    caller: Caller,
    request: &pb::WatchRequest,
) -> Result<impl Stream<Item = Result<pb::WatchResponse, Status>> + use<>, Refusal> {
    if request.streams.len() > WATCH_STREAMS_MAX {
        return Err(answer::invalid(format!("a call watches at most {WATCH_STREAMS_MAX} streams")));
    }
    let names: BTreeSet<StreamName> =
        request.streams.iter().map(|name| parse_name(name)).collect::<Result<_, _>>()?;
    let names: Box<[StreamName]> = names.into_iter().collect();
    let configuration = member.view.configuration();
    let watcher = Watcher {
        member,
        caller,
        untold: (0..names.len()).collect(),
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
                    self.untold.extend(0..self.names.len());
                    self.following = Some(following);
                }
                grown = following.subscription.changed() => {
                    let grown = grown.iter().filter_map(|id| following.places.get(id));
                    self.untold.extend(grown);
                }
            }
        }
    }

    /// Waits for growth of the streams that the names mean now. Look at the state after this call.
    fn follow(&self) -> Following {
        let places: BTreeMap<StreamId, usize> = self.member.view.read(|state, _| {
            let named = self.names.iter().enumerate();
            let found = named.filter_map(|(at, name)| Some((state.stream_by_name(name)?, at)));
            let found = found.filter(|(stream, _)| self.caller.sees(stream, state));
            found.map(|(stream, at)| (stream.id, at)).collect()
        });
        let ids: BTreeSet<StreamId> = places.keys().copied().collect();
        Following { places, subscription: self.member.view.subscribe(ids) }
    }

    /// What is untold and differs from what was told, as much as one answer holds.
    fn news(&mut self) -> Vec<pb::WatchedStream> {
        let mut news = Vec::new();
        while news.len() < ANSWER_STREAMS_MAX {
            let Some(at) = self.untold.pop_first() else { break };
            let Some(name) = self.names.get(at) else { continue };
            let next = self.member.view.read(|state, _| {
                let stream = state.stream_by_name(name);
                stream.filter(|stream| self.caller.sees(stream, state)).map(|stream| Position {
                    stream_id: stream.id,
                    epoch: state.epoch(),
                    offset: stream.next,
                })
            });
            if self.told.get(&at) != Some(&next) {
                let stream = name.to_string();
                self.told.insert(at, next);
                news.push(pb::WatchedStream { stream, next: next.map(Into::into) });
            }
        }
        news
    }
}
