//! [`Board`]: what each stream is doing, for reports, the `Local` service and whoever waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyramid_protocol::pb::v1::{self as pb, PushState};
use pyramid_protocol::{Offset, Position, StreamName};
use pyramid_telemetry::health::LastTrue;
use tokio::sync::watch;

/// Which stream of which subscription.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) subscription: Arc<str>,
    pub(crate) stream: StreamName,
}

/// What is known of one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// What the application stored last; `None` if not known yet.
    pub(crate) accepted: Option<Position>,
    pub(crate) state: PushState,
    /// For people, when there is something to say.
    pub(crate) message: String,
    pub(crate) stream_next: Offset,
    /// The board's version at the last change.
    changed: u64,
}

/// Shared by all tasks of a pusher. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    statuses: Mutex<BTreeMap<Place, Status>>,
    /// Rises with each change of a status.
    version: watch::Sender<u64>,
    /// Whether each subscription is attached. Fixed from the start.
    links: BTreeMap<Arc<str>, Link>,
    /// Streams of which an application has accepted all that there was, at least once.
    caught_up: Mutex<BTreeSet<Place>>,
    /// How many have never heard which streams they have.
    unassigned: watch::Sender<usize>,
}

impl Board {
    /// A board for these subscriptions.
    pub(crate) fn new(subscriptions: impl IntoIterator<Item = Arc<str>>) -> Self {
        let links: BTreeMap<_, _> =
            subscriptions.into_iter().map(|name| (name, Link::default())).collect();
        let subscriptions = links.len();
        Self(Arc::new(Inner {
            statuses: Mutex::default(),
            version: watch::Sender::new(0),
            links,
            caught_up: Mutex::default(),
            unassigned: watch::Sender::new(subscriptions),
        }))
    }

    fn statuses(&self) -> MutexGuard<'_, BTreeMap<Place, Status>> {
        self.0.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status of one stream, which appears with it. Tells whether it is another one now.
    pub(crate) fn update(&self, place: &Place, change: impl FnOnce(&mut Status)) -> bool {
        let mut statuses = self.statuses();
        let status = statuses.entry(place.clone()).or_insert_with(|| Status {
            accepted: None,
            state: PushState::Unspecified,
            message: String::new(),
            stream_next: Offset::START,
            changed: 0,
        });
        let before = status.clone();
        change(status);
        if *status == before {
            return false;
        }
        // Under the lock, so that whoever sees the version finds the change.
        self.0.version.send_modify(|version| {
            *version += 1;
            status.changed = *version;
        });
        true
    }

    pub(crate) fn remove(&self, place: &Place) {
        self.statuses().remove(place);
        self.0.version.send_modify(|version| *version += 1);
    }

    /// Tells of changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// Reports on one subscription: what changed after `version`, and the version to go on with.
    pub(crate) fn reports(&self, subscription: &str, version: u64) -> (Vec<pb::StreamReport>, u64) {
        let statuses = self.statuses();
        let reports = statuses
            .iter()
            .filter(|(place, status)| {
                &*place.subscription == subscription && status.changed > version
            })
            .map(|(place, status)| report(place, status))
            .collect();
        (reports, *self.0.version.borrow())
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<pb::StreamStatus> {
        self.statuses()
            .iter()
            .map(|(place, status)| pb::StreamStatus {
                subscription: place.subscription.to_string(),
                report: Some(report(place, status)),
                stream_next_offset: status.stream_next.get(),
            })
            .collect()
    }

    /// Those of one stream, in all subscriptions that have it.
    pub(crate) fn of_stream(&self, stream: &str) -> Vec<Status> {
        self.statuses()
            .iter()
            .filter(|(place, _)| place.stream.as_str() == stream)
            .map(|(_, status)| status.clone())
            .collect()
    }

    /// A subscription is attached until the returned value is dropped.
    pub(crate) fn attach(&self, subscription: &Arc<str>) -> Attached {
        if let Some(link) = self.0.links.get(subscription) {
            link.attached.store(true, Ordering::Release);
        }
        Attached { board: self.clone(), subscription: Arc::clone(subscription) }
    }

    /// The Writer has told a subscription its streams, for the `number`-th time.
    pub(crate) fn told(&self, subscription: &str, number: u64) {
        if let Some(link) = self.0.links.get(subscription) {
            link.told.store(number, Ordering::Release);
        }
    }

    /// What was told is done: all of its streams are on the board.
    pub(crate) fn agreed(&self, subscription: &str, number: u64) {
        if let Some(link) = self.0.links.get(subscription) {
            link.agreed.store(number, Ordering::Release);
        }
    }

    /// The application of a stream has accepted all that there was.
    pub(crate) fn caught_up(&self, place: &Place) {
        let mut caught_up = self.0.caught_up.lock().unwrap_or_else(PoisonError::into_inner);
        if !caught_up.contains(place) {
            caught_up.insert(place.clone());
        }
    }

    /// Nothing of a subscription is pushed now.
    pub(crate) fn clear(&self, subscription: &str) {
        self.statuses().retain(|place, _| &*place.subscription != subscription);
        self.0.version.send_modify(|version| *version += 1);
    }

    /// What readiness is decided from.
    pub(crate) fn links(&self) -> Vec<LinkStatus> {
        let links = self.0.links.values().map(|link| {
            let attached = link.attached.load(Ordering::Acquire);
            let agreed = link.agreed.load(Ordering::Acquire);
            LinkStatus {
                lost_for: link.last.lost_for(attached),
                knows_streams: attached && agreed == link.told.load(Ordering::Acquire),
            }
        });
        links.collect()
    }

    /// How many streams there are, and how many of them have never caught up. One that another
    /// pusher pushes is as good as caught up: a pod that stands by is what it shall be.
    pub(crate) fn behind(&self) -> (usize, usize) {
        let statuses = self.statuses();
        let caught_up = self.0.caught_up.lock().unwrap_or_else(PoisonError::into_inner);
        let is_behind = |(place, status): &(&Place, &Status)| {
            status.state != PushState::Standby && !caught_up.contains(*place)
        };
        let behind = statuses.iter().filter(is_behind).count();
        (statuses.len(), behind)
    }

    /// A subscription has heard which streams it has, and all are on the board. Only its first time
    /// counts.
    pub(crate) fn assigned(&self, subscription: &str) {
        let link = self.0.links.get(subscription);
        if link.is_none_or(|link| link.was_assigned.swap(true, Ordering::AcqRel)) {
            return;
        }
        self.0.unassigned.send_modify(|unassigned| *unassigned = unassigned.saturating_sub(1));
        self.0.version.send_modify(|version| *version += 1);
    }

    /// A stream that is not on the board now is none of this pusher's.
    pub(crate) fn is_complete(&self) -> bool {
        *self.0.unassigned.borrow() == 0
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.0.links.values().any(|link| link.attached.load(Ordering::Acquire))
    }
}

/// One subscription and the Writer.
#[derive(Debug, Default)]
struct Link {
    attached: AtomicBool,
    last: LastTrue,
    /// Which assignment was told last, and which one is done.
    told: AtomicU64,
    agreed: AtomicU64,
    was_assigned: AtomicBool,
}

/// How one subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkStatus {
    /// For how long it is not attached; zero while it is, `None` if it never was.
    pub(crate) lost_for: Option<Duration>,
    /// It is attached, and all of its streams are on the board.
    pub(crate) knows_streams: bool,
}

/// See [`Board::attach`].
pub(crate) struct Attached {
    board: Board,
    subscription: Arc<str>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(link) = self.board.0.links.get(&self.subscription) {
            // The loss is counted from now on.
            link.last.lost_for(true);
            link.attached.store(false, Ordering::Release);
        }
    }
}

fn report(place: &Place, status: &Status) -> pb::StreamReport {
    pb::StreamReport {
        stream: place.stream.to_string(),
        accepted: status.accepted.map(pb::Position::from),
        state: status.state.into(),
        message: status.message.clone(),
    }
}
