//! What attached pushers report: the leader's memory, never the log.
//!
//! The offset check of the application gives safety; this only shows lag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use pyramid_protocol::limits::{NAME_BYTES_MAX, STREAM_NAME_BYTES_MAX};
use pyramid_protocol::pb::v1 as pb;

/// Most streams that are remembered of one pusher.
const REPORTS_MAX: usize = 10_000;

/// Most bytes that are remembered of what a pusher says of one stream to people.
const MESSAGE_BYTES_MAX: usize = 1_000;

/// All attached pushers.
#[derive(Clone, Default)]
pub struct Attachments(Arc<Mutex<BTreeMap<u64, Pusher>>>);

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
    #[must_use]
    pub fn attach(&self, mut hello: pb::AttachHello) -> Attached {
        for text in [&mut hello.pod, &mut hello.version] {
            text.truncate(text.floor_char_boundary(NAME_BYTES_MAX));
        }
        let mut pushers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = pushers.last_key_value().map_or(0, |(id, _)| id + 1);
        pushers.insert(id, Pusher { hello, reports: BTreeMap::new() });
        Attached { attachments: self.clone(), id }
    }

    /// The pushers attached now.
    #[must_use]
    pub fn pushers(&self) -> Vec<Pusher> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Attached {
    /// Takes what the pusher says of some of its streams.
    pub fn report(&self, report: pb::AttachReport) {
        let mut pushers = self.attachments.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pusher) = pushers.get_mut(&self.id) else { return };
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
        let mut pushers = self.attachments.0.lock().unwrap_or_else(PoisonError::into_inner);
        pushers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let attachments = Attachments::default();
        let attached = attachments.attach(pb::AttachHello::default());
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
        let attached = attachments.attach(hello.clone());
        let report = pb::StreamReport { stream: "orders".into(), ..Default::default() };
        attached.report(pb::AttachReport { streams: vec![report.clone()] });
        let reports = [("orders".to_owned(), report)].into();
        assert_eq!(attachments.pushers(), [Pusher { hello, reports }]);
        drop(attached);
        assert_eq!(attachments.pushers(), []);
    }
}
