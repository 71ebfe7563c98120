//! Which pushers are attached, what they report, and who of them has which lease: the leader's memory,
//! never the log.
//!
//! The offset check of the application gives safety; reports only show lag, and leases only save
//! work.

mod leases;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyramid_protocol::limits::{NAME_BYTES_MAX, STREAM_NAME_BYTES_MAX};
use pyramid_protocol::pb::v1::{self as pb, PushState};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::leases::LEASE;
use self::leases::{Candidate, Leases};
use crate::log_time::LogTime;
use crate::raft::Consensus;

/// Most streams that are remembered of one pusher.
const REPORTS_MAX: usize = 10_000;

/// Most bytes that are remembered of what a pusher says of one stream to people.
const MESSAGE_BYTES_MAX: usize = 1_000;

/// Most pushers that are attached to one subscription at once.
const PUSHERS_PER_SUBSCRIPTION_MAX: usize = 1_024;

/// The subscription has as many pushers as it may. The pusher attaches again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{PUSHERS_PER_SUBSCRIPTION_MAX} pushers are attached to this subscription, which is the most; attach again when one has gone"
)]
pub struct Full;

/// All attached pushers.
#[derive(Clone, Default)]
pub struct Attachments(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    pushers: BTreeMap<u64, Pusher>,
    /// The next pusher's.
    next_id: u64,
    /// Of each subscription that has any pusher, or a lease that has not run out.
    of_subscription: BTreeMap<String, Joined>,
    /// The term that this replica leads in, and from when on it grants leases.
    leads: Option<(u64, Instant)>,
}

/// The pushers of one subscription.
#[derive(Default)]
struct Joined {
    ids: BTreeSet<u64>,
    leases: Leases,
    /// Counts changes of the leases.
    changes: watch::Sender<u64>,
}

/// One attached pusher.
#[derive(Clone, Debug, PartialEq)]
pub struct Pusher {
    /// Who it is.
    pub hello: pb::AttachHello,
    /// What it said last, by stream.
    pub reports: BTreeMap<String, pb::StreamReport>,
    /// When it said something last.
    pub heard: Instant,
}

/// Attached until dropped.
pub struct Attached {
    attachments: Attachments,
    subscription: String,
    id: u64,
    changes: watch::Receiver<u64>,
}

/// What a pusher of an Exclusive subscription holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// Until when it has the lease, for each stream that was asked for.
    pub(crate) leased: Vec<Option<Instant>>,
    /// When something may be different although nobody says anything.
    pub(crate) again: Option<Instant>,
}

impl Attachments {
    /// Adds a pusher that has said hello.
    ///
    /// # Errors
    ///
    /// Its subscription has as many as it may.
    pub fn attach(&self, mut hello: pb::AttachHello) -> Result<Attached, Full> {
        for text in [&mut hello.pod, &mut hello.version] {
            text.truncate(text.floor_char_boundary(NAME_BYTES_MAX));
        }
        let now = Instant::now();
        let mut held = self.held();
        let Held { pushers, next_id, of_subscription, leads: _ } = &mut *held;
        // Those that nobody attached to again keep their leases until they run out, no longer.
        of_subscription.retain(|_, joined| {
            !joined.ids.is_empty() || joined.leases.next_end().is_some_and(|end| now < end)
        });
        let joined = of_subscription.entry(hello.subscription.clone()).or_default();
        if joined.ids.len() >= PUSHERS_PER_SUBSCRIPTION_MAX {
            return Err(Full);
        }
        let id = *next_id;
        *next_id += 1;
        joined.ids.insert(id);
        joined.leases.take_over(&hello.pod, id, now);
        let (subscription, changes) = (hello.subscription.clone(), joined.changes.subscribe());
        pushers.insert(id, Pusher { hello, reports: BTreeMap::new(), heard: now });
        Ok(Attached { attachments: self.clone(), subscription, id, changes })
    }

    /// The pushers attached now.
    #[must_use]
    pub fn pushers(&self) -> Vec<Pusher> {
        self.held().pushers.values().cloned().collect()
    }

    /// This replica leads in a term, or in none. In a new one all leases are forgotten.
    fn lead(&self, term: Option<u64>) {
        let mut held = self.held();
        if held.leads.map(|(term, _)| term) == term {
            return;
        }
        held.leads = term.map(|term| (term, Instant::now() + LEASE));
        for joined in held.of_subscription.values_mut() {
            joined.leases.clear();
            joined.changes.send_modify(|count| *count += 1);
        }
    }

    /// Learns when this replica leads, until `shutdown`.
    pub(crate) async fn follow_terms(
        self,
        mut serving: watch::Receiver<Option<LogTime>>,
        consensus: Consensus,
        shutdown: CancellationToken,
    ) {
        loop {
            let leads = serving.borrow_and_update().is_some();
            self.lead(leads.then(|| consensus.term()));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                changed = serving.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attached {
    /// Takes what the pusher says of some of its streams.
    pub fn report(&self, report: pb::AttachReport) {
        let mut held = self.attachments.held();
        let Some(pusher) = held.pushers.get_mut(&self.id) else { return };
        pusher.heard = Instant::now();
        for mut stream in report.streams {
            stream.message.truncate(stream.message.floor_char_boundary(MESSAGE_BYTES_MAX));
            if stream.stream.len() > STREAM_NAME_BYTES_MAX {
                continue;
            }
            if pusher.reports.len() < REPORTS_MAX || pusher.reports.contains_key(&stream.stream) {
                pusher.reports.insert(stream.stream.clone(), stream);
            }
        }
    }

    /// Changes of the leases of its subscription. Look at them after this call, not before.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// The leases that it holds of these streams of an Exclusive subscription; sorted by name.
    pub(crate) fn leases(&self, streams: &[String]) -> Look {
        let now = Instant::now();
        let mut held = self.attachments.held();
        let Held { pushers, of_subscription, leads, next_id: _ } = &mut *held;
        let none = || Look { leased: vec![None; streams.len()], again: None };
        let Some(joined) = of_subscription.get_mut(&self.subscription) else { return none() };
        let candidates: Vec<_> = joined
            .ids
            .iter()
            .filter_map(|id| {
                let Pusher { reports, heard, .. } = pushers.get(id)?;
                let is_troubled = reports.values().any(is_trouble);
                Some(Candidate { id: *id, heard: *heard, is_troubled })
            })
            .collect();
        let grants_from = leads.map(|(_, from)| from);
        let grants = grants_from.is_some_and(|from| from <= now);
        let pod_of = |id| pushers.get(&id).map_or("", |pusher| pusher.hello.pod.as_str());
        if joined.leases.update(now, grants, streams, &candidates, pod_of) {
            joined.changes.send_modify(|count| *count += 1);
        }
        Look {
            leased: streams.iter().map(|stream| joined.leases.held(stream, self.id)).collect(),
            again: grants_from.filter(|_| !grants).or_else(|| joined.leases.next_end()),
        }
    }

    /// There are no leases in a subscription that is not Exclusive.
    pub(crate) fn no_leases(&self) {
        let mut held = self.attachments.held();
        if let Some(joined) = held.of_subscription.get_mut(&self.subscription)
            && joined.leases.clear()
        {
            joined.changes.send_modify(|count| *count += 1);
        }
    }

    /// The pusher has said that it stops: what it held is free at once.
    pub(crate) fn leave(self) {
        let mut held = self.attachments.held();
        let Some(joined) = held.of_subscription.get_mut(&self.subscription) else { return };
        // Nothing is granted to it again until it is dropped.
        joined.ids.remove(&self.id);
        if joined.leases.free(self.id) {
            joined.changes.send_modify(|count| *count += 1);
        }
    }
}

/// Whether a pusher cannot push something now.
fn is_trouble(report: &pb::StreamReport) -> bool {
    match report.state() {
        PushState::Retrying
        | PushState::HaltedStreamReplaced
        | PushState::HaltedEpochChanged
        | PushState::HaltedTrimmed
        | PushState::HaltedAheadOfStream
        | PushState::HaltedRejected => true,
        PushState::Unspecified
        | PushState::Asking
        | PushState::Pushing
        | PushState::Waiting
        | PushState::Paused
        | PushState::Standby => false,
    }
}

/// What it held runs out by itself: it may still push until then.
impl Drop for Attached {
    fn drop(&mut self) {
        let mut held = self.attachments.held();
        held.pushers.remove(&self.id);
        let Some(joined) = held.of_subscription.get_mut(&self.subscription) else { return };
        joined.ids.remove(&self.id);
        if joined.ids.is_empty() && joined.leases.next_end().is_none() {
            held.of_subscription.remove(&self.subscription);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let attachments = Attachments::default();
        let attached = attachments.attach(pb::AttachHello::default()).unwrap();
        let message = format!("x{}", "ä".repeat(MESSAGE_BYTES_MAX));
        let report = pb::StreamReport { stream: "s".into(), message, ..Default::default() };
        attached.report(pb::AttachReport { streams: vec![report] });
        let kept = &attachments.pushers()[0].reports["s"].message;
        assert_eq!(*kept, format!("x{}", "ä".repeat((MESSAGE_BYTES_MAX - 1) / 2)));
    }

    #[test]
    fn a_pusher_is_known_while_it_is_attached() {
        let attachments = Attachments::default();
        let hello = pb::AttachHello { subscription: "s".into(), ..Default::default() };
        let attached = attachments.attach(hello.clone()).unwrap();
        let report = pb::StreamReport { stream: "orders".into(), ..Default::default() };
        attached.report(pb::AttachReport { streams: vec![report.clone()] });
        let reports = [("orders".to_owned(), report)].into();
        let heard = attachments.pushers()[0].heard;
        assert_eq!(attachments.pushers(), [Pusher { hello, reports, heard }]);
        drop(attached);
        assert_eq!(attachments.pushers(), []);
    }

    #[test]
    fn a_subscription_has_at_most_so_many_pushers_and_leaves_others_theirs() {
        let attachments = Attachments::default();
        let attach = |subscription: &str| {
            let subscription = subscription.to_owned();
            attachments.attach(pb::AttachHello { subscription, ..Default::default() })
        };
        let mut all: Vec<Attached> =
            (0..PUSHERS_PER_SUBSCRIPTION_MAX).map(|_| attach("s").unwrap()).collect();
        assert_eq!(attach("s").map(drop), Err(Full));
        assert_eq!(attach("another").map(drop), Ok(()));
        assert_eq!(attachments.pushers().len(), PUSHERS_PER_SUBSCRIPTION_MAX);
        all.pop();
        all.push(attach("s").unwrap());
        assert_eq!(attach("s").map(drop), Err(Full));
        drop(all);
        let held = attachments.0.lock().unwrap();
        assert_eq!((held.pushers.len(), held.of_subscription.len()), (0, 0), "nothing stays");
    }

    fn exclusive(attachments: &Attachments, pod: &str) -> Attached {
        let (subscription, pod) = ("s".to_owned(), pod.to_owned());
        attachments.attach(pb::AttachHello { subscription, pod, ..Default::default() }).unwrap()
    }

    /// Which of the streams a and b each of them holds.
    fn held<const N: usize>(all: [&Attached; N]) -> [[bool; 2]; N] {
        let streams = ["a".to_owned(), "b".to_owned()];
        all.map(|one| {
            let leased = one.leases(&streams).leased;
            [leased[0].is_some(), leased[1].is_some()]
        })
    }

    fn speaks(all: &[&Attached]) {
        for one in all {
            one.report(pb::AttachReport::default());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_grants_nothing_for_three_seconds() {
        let attachments = Attachments::default();
        let (one, other) = (exclusive(&attachments, "1"), exclusive(&attachments, "2"));
        assert_eq!(one.leases(&["a".to_owned()]), Look { leased: vec![None], again: None });
        attachments.lead(Some(1));
        let from = Instant::now() + LEASE;
        let nothing = Look { leased: vec![None], again: Some(from) };
        assert_eq!(one.leases(&["a".to_owned()]), nothing);
        advance(LEASE - Duration::from_millis(1)).await;
        speaks(&[&one, &other]);
        assert_eq!(held([&one, &other]), [[false; 2]; 2]);
        advance(Duration::from_millis(1)).await;
        assert_eq!(held([&one, &other]), [[true, false], [false, true]]);

        // The same term changes nothing; another one does, and so does none.
        attachments.lead(Some(1));
        assert_eq!(held([&one, &other]), [[true, false], [false, true]]);
        for term in [None, Some(2)] {
            attachments.lead(term);
            assert_eq!(held([&one, &other]), [[false; 2]; 2], "{term:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_stand_by_are_woken_when_a_lease_is_free() {
        let attachments = Attachments::default();
        attachments.lead(Some(1));
        advance(LEASE).await;
        let (one, other) = (exclusive(&attachments, "1"), exclusive(&attachments, "2"));
        let mut changes = other.changes();
        one.leases(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(held([&one, &other]), [[true, false], [false, true]]);
        changes.mark_unchanged();
        speaks(&[&one]);
        assert_eq!(held([&one, &other]), [[true, false], [false, true]]);
        assert!(!changes.has_changed().unwrap(), "a renewed lease is no news");
        one.leave();
        assert!(changes.has_changed().unwrap());
        assert_eq!(held([&other]), [[true; 2]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pusher_that_breaks_off_keeps_its_leases_until_they_run_out() {
        let attachments = Attachments::default();
        attachments.lead(Some(1));
        advance(LEASE).await;
        let one = exclusive(&attachments, "1");
        assert_eq!(held([&one]), [[true; 2]]);
        drop(one);
        advance(LEASE / 2).await;
        let other = exclusive(&attachments, "2");
        let look = other.leases(&["a".to_owned()]);
        assert_eq!(look, Look { leased: vec![None], again: Some(Instant::now() + LEASE / 2) });
        advance(LEASE / 2).await;
        assert_eq!(held([&other]), [[true; 2]]);

        // The same pod again, on a new connection, goes on.
        drop(other);
        let other = exclusive(&attachments, "2");
        assert_eq!(held([&other]), [[true; 2]]);
        // Without anybody, nothing is remembered for longer than a lease.
        drop(other);
        assert_eq!(attachments.held().of_subscription.len(), 1);
        advance(LEASE).await;
        attachments.attach(pb::AttachHello::default()).map(drop).unwrap();
        assert_eq!(attachments.held().of_subscription.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscription_that_is_not_exclusive_any_more_has_no_leases() {
        let attachments = Attachments::default();
        attachments.lead(Some(1));
        advance(LEASE).await;
        let one = exclusive(&attachments, "1");
        assert_eq!(held([&one]), [[true; 2]]);
        let other = exclusive(&attachments, "2");
        assert_eq!(held([&other]), [[false; 2]]);
        one.no_leases();
        assert_eq!(held([&other]), [[false, true]], "they are spread anew");
    }
}
