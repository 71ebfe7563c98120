//! What waits for an answer, in order. Pure: decides who is told what when a connection ends.

use std::collections::{HashSet, VecDeque};

use pyramid_protocol::limits::PRODUCER_BATCHES_MAX;
use pyramid_protocol::pb::v1::{self as pb, Effect, Reason, Refusal};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::append::Answer;

/// One append that has no answer yet.
#[derive(Debug)]
pub(crate) struct Entry {
    request: pb::AppendRequest,
    answer: oneshot::Sender<Answer>,
    deadline: Instant,
    /// An earlier connection ended while it was on its way: it may have been written.
    uncertain: bool,
    // Its place in the session, free again with the answer.
    _held: [OwnedSemaphorePermit; 2],
}

impl Entry {
    pub(crate) fn new(
        request: pb::AppendRequest,
        answer: oneshot::Sender<Answer>,
        deadline: Instant,
        held: [OwnedSemaphorePermit; 2],
    ) -> Self {
        Self { request, answer, deadline, uncertain: false, _held: held }
    }

    /// Tells the caller. A refusal without effect speaks of the last attempt only; if an earlier
    /// one may have been written, the effect of the append is unknown.
    fn answer(self, answer: Answer) {
        let answer = answer.map_err(|refusal| {
            if self.uncertain {
                Refusal { effect: Effect::Unknown.into(), ..refusal }
            } else {
                refusal
            }
        });
        // The caller may have dropped its `Pending`: it does not want to know.
        drop(self.answer.send(answer));
    }
}

/// The appends of a session without an answer: first those that are on their way over the present
/// connection, then those that are not.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    /// How many of `entries` were handed to the present connection.
    sent: usize,
    sent_with_producer: usize,
    /// Refused over the present connection, to be sent again over the next one, in order.
    again: VecDeque<Entry>,
    /// Streams of `again`: what the Writer refuses of them because of that is sent again too.
    retrying: HashSet<String>,
    /// Streams with an append that failed: nothing more of them is sent in this session.
    broken: HashSet<String>,
}

impl Queue {
    pub(crate) fn push(&mut self, entry: Entry) {
        if self.broken.contains(&entry.request.stream) {
            entry.answer(Err(session_broken()));
        } else {
            self.entries.push_back(entry);
        }
    }

    /// Nothing waits for an answer.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.again.is_empty()
    }

    /// How many are on their way.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// Something was refused and must be sent over another connection, before all that follows.
    pub(crate) fn needs_new_connection(&self) -> bool {
        !self.again.is_empty()
    }

    /// When the first of them must be answered.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.again.front().or(self.entries.front()).map(|entry| entry.deadline)
    }

    /// The append that goes out next, if it may: no more of a producer's appends are on their way
    /// than the Writer remembers, or a retry could not be answered exactly.
    pub(crate) fn next_to_send(&self) -> Option<&pb::AppendRequest> {
        let request = &self.entries.get(self.sent)?.request;
        let full = request.producer.is_some() && self.sent_with_producer >= PRODUCER_BATCHES_MAX;
        (!full && !self.needs_new_connection()).then_some(request)
    }

    /// The one of [`Queue::next_to_send`] was handed to the connection.
    pub(crate) fn mark_sent(&mut self) {
        if let Some(entry) = self.entries.get(self.sent) {
            self.sent += 1;
            self.sent_with_producer += usize::from(entry.request.producer.is_some());
        }
    }

    /// Takes the Writer's answer to the first one on its way; false if none was.
    pub(crate) fn answered(&mut self, answer: Answer) -> bool {
        if self.sent == 0 {
            return false;
        }
        let Some(entry) = self.entries.pop_front() else { return false };
        self.sent -= 1;
        self.sent_with_producer -= usize::from(entry.request.producer.is_some());
        match answer {
            Ok(appended) => entry.answer(Ok(appended)),
            Err(refusal) if self.is_passing(&entry, &refusal) => {
                self.retrying.insert(entry.request.stream.clone());
                let maybe_written = refusal.effect() != Effect::NoEffect;
                self.again
                    .push_back(Entry { uncertain: entry.uncertain || maybe_written, ..entry });
            }
            Err(refusal) => {
                self.broken.insert(entry.request.stream.clone());
                entry.answer(Err(refusal));
                self.drop_unsent_of_broken_streams();
            }
        }
        true
    }

    /// Whether an append that was refused so is sent again.
    fn is_passing(&self, entry: &Entry, refusal: &Refusal) -> bool {
        if refusal.effect() != Effect::NoEffect && entry.request.producer.is_none() {
            return false;
        }
        match refusal.reason() {
            Reason::NotLeader
            | Reason::Unavailable
            | Reason::ResourceExhausted
            | Reason::WalFull
            | Reason::Dropped
            // A new connection is a new session for the Writer: it takes the stream as it is now.
            | Reason::StaleRevision => true,
            Reason::SessionBroken => self.retrying.contains(&entry.request.stream),
            Reason::Unspecified
            | Reason::Invalid
            | Reason::NotFound
            | Reason::Closed
            | Reason::StreamRecreated
            | Reason::WrongOffset
            | Reason::EpochChanged
            | Reason::Fenced
            | Reason::OutOfOrder
            | Reason::UnknownProducer
            | Reason::TooManyProducers
            | Reason::Trimmed
            | Reason::BeyondNext
            | Reason::AlreadyExists
            | Reason::Foreign
            | Reason::Damaged
            | Reason::Internal
            | Reason::Unimplemented
            | Reason::Denied => false,
        }
    }

    fn drop_unsent_of_broken_streams(&mut self) {
        let unsent = self.entries.split_off(self.sent);
        for entry in unsent {
            self.push(entry);
        }
    }

    /// The connection has ended. Of those on their way the Writer may have seen the first `taken`;
    /// the others never left. What stays is sent over the next connection, in the old order.
    pub(crate) fn disconnected(&mut self, taken: usize, now: Instant, why: &Refusal) {
        let again = std::mem::take(&mut self.again);
        let taken = again.len() + taken.min(self.sent);
        let refused = again.len();
        let entries = again.into_iter().chain(std::mem::take(&mut self.entries));
        let mut kept = VecDeque::new();
        for (place, mut entry) in entries.enumerate() {
            let interrupted = (refused..taken).contains(&place);
            entry.uncertain |= interrupted;
            let stream = &entry.request.stream;
            if self.broken.contains(stream) {
                entry.answer(Err(session_broken()));
            } else if interrupted && entry.request.producer.is_none() {
                self.broken.insert(stream.clone());
                let why = &why.message;
                let message = format!("it may have been written: {why}; look at the stream's end");
                entry.answer(Err(Refusal { retry: false, ..unavailable(message) }));
            } else if entry.deadline <= now {
                self.broken.insert(stream.clone());
                let message = format!("not written in time: {}", why.message);
                entry.answer(Err(Refusal::new(why.reason(), message)));
            } else {
                kept.push_back(entry);
            }
        }
        self.entries = kept;
        self.sent = 0;
        self.sent_with_producer = 0;
        self.retrying.clear();
    }
}

fn unavailable(message: String) -> Refusal {
    Refusal::new(Reason::Unavailable, message)
}

fn session_broken() -> Refusal {
    Refusal::new(
        Reason::SessionBroken,
        "an earlier append of this session to this stream was not written; begin a new session",
    )
}

#[cfg(test)]
mod tests;
