//! What attached pushers report: the leader's memory, never the log.
//!
//! The offset check of the application gives safety; this only shows lag.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use pyramid_protocol::limits::{NAME_BYTES_MAX, STREAM_NAME_BYTES_MAX};
use pyramid_protocol::pb::v1 as pb;

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
    /// How many there are of each subscription that has any.
    of_subscription: BTreeMap<String, usize>,
}

/// One attached pusher.
#[derive(Clone, Debug, PartialEq)]
pub struct Pusher {
    /// Who it is.
    pub hello: pb::AttachHello,
    /// What it said last, by stream.
    pub reports: BTreeMap<String, pb::StreamReport>,
}

/// Attached until dropped.
pub struct Attached {
    attachments: Attachments,
    id: u64,
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
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.of_subscription.get(&hello.subscription).map_or(0, |count| *count);
        if count >= PUSHERS_PER_SUBSCRIPTION_MAX {
            return Err(Full);
        }
        held.of_subscription.insert(hello.subscription.clone(), count + 1);
        let id = held.pushers.last_key_value().map_or(0, |(id, _)| id + 1);
        held.pushers.insert(id, Pusher { hello, reports: BTreeMap::new() });
        Ok(Attached { attachments: self.clone(), id })
    }

    /// The pushers attached now.
    #[must_use]
    pub fn pushers(&self) -> Vec<Pusher> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.pushers.values().cloned().collect()
    }
}

impl Attached {
    /// Takes what the pusher says of some of its streams.
    pub fn report(&self, report: pb::AttachReport) {
        let mut held = self.attachments.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pusher) = held.pushers.get_mut(&self.id) else { return };
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
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut held = self.attachments.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Pusher { hello, .. }) = held.pushers.remove(&self.id) else { return };
        if let Entry::Occupied(mut count) = held.of_subscription.entry(hello.subscription) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(attachments.pushers(), [Pusher { hello, reports }]);
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
}
