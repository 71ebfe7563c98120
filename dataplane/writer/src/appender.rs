//! The appender: orders appends and commands, and decides nothing.
//!
//! One task. It packs what is queued into entries, stamps and proposes them, and hands out the
//! answers in order. At most [`UNFLUSHED_ENTRIES_MAX`] entries are proposed and not yet flushed
//! here: while they are, the queue fills, and the next entry takes all of it. That is the whole
//! group commit; there is no timer.
//!
//! Entries are numbered within a term. Apply takes only the number that follows, so an entry that
//! Raft dropped is never overtaken by the next one: the appender then waits for all that is on its
//! way and goes on from the applied state.
//!
//! A session's stream is broken here: after any answer but a success, later appends of the same
//! session and stream that are not proposed yet are refused, so that a session has no holes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use pyramid_protocol::pb::stored::v1::command::Command;
use pyramid_protocol::{Clock, Records, StreamId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::Permit;
use crate::entry::{BatchBuilder, Entry, Expectation, LogId, Producer, Stamp};
use crate::log_time::LogTime;
use crate::raft::{Consensus, LeadershipWatch, ProposeError, Proposed};
use crate::state::{Applied, Outcome};
use crate::view::View;

/// Entries that may be proposed and not yet flushed here: one is being flushed, one is ready.
const UNFLUSHED_ENTRIES_MAX: u64 = 2;

/// Appends and commands that may wait. Full: the door refuses appends, commands wait.
const QUEUE_LEN_MAX: usize = 16_384;

/// One append, as the door let it in.
pub struct Append {
    /// The stream, as resolved by the door.
    pub stream_id: StreamId,
    /// The revision that the session saw at its first append to the stream.
    pub stream_revision: u32,
    /// Write only if the stream ends there.
    pub expectation: Option<Expectation>,
    /// Write only once.
    pub producer: Option<Producer>,
    /// What to write.
    pub records: Records,
    /// Which session and stream it belongs to.
    pub session: SessionStream,
    /// Its bytes in flight.
    pub permit: Permit,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// What became of an append.
pub type Answer = Result<Outcome, Failure>;

/// Why an append got no outcome of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// One before it in its session and stream was not written. Begin a new session.
    #[error("an append before this one in the session was not written; begin a new session")]
    SessionBroken,
    /// It was dropped before it was written. Begin a new session and send it again.
    #[error("the entry was dropped before it was written; begin a new session and retry")]
    Dropped,
    /// This replica does not lead. Ask another one.
    #[error("this replica does not lead")]
    NotLeader,
    /// It may or may not be written.
    #[error("leadership was lost while the append was on its way; it may have been written")]
    Unknown,
}

/// Shared by the appends of one session to one stream.
#[derive(Clone, Debug, Default)]
pub struct SessionStream(Arc<AtomicBool>);

impl SessionStream {
    /// Whether an append was answered otherwise than with a success.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn break_off(&self) {
        self.0.store(true, Ordering::Release);
    }
}

enum Work {
    Append(Append),
    Command { command: Command, answer: oneshot::Sender<CommandAnswer> },
}

/// What became of a command.
pub type CommandAnswer = Result<(LogId, Arc<Applied>), Failure>;

/// The cloneable end of the appender.
#[derive(Clone)]
pub struct AppenderHandle {
    queue: mpsc::Sender<Work>,
    time: watch::Receiver<Option<LogTime>>,
}

/// The queue is full; wait and retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{QUEUE_LEN_MAX} appends are waiting; retry")]
pub struct QueueFull;

impl AppenderHandle {
    /// Queues an append; its answer goes where the append says.
    ///
    /// # Errors
    ///
    /// [`QueueFull`]; nothing is queued.
    pub fn append(&self, append: Append) -> Result<(), QueueFull> {
        // A closed queue means that the process ends: the answer's channel closes with it.
        match self.queue.try_send(Work::Append(append)) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(QueueFull),
        }
    }

    /// Queues a command, waits while the queue is full, and waits for what became of it.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn command(&self, command: Command) -> CommandAnswer {
        let (answer, answered) = oneshot::channel();
        let queued = self.queue.send(Work::Command { command, answer }).await;
        queued.map_err(|_| Failure::NotLeader)?;
        answered.await.unwrap_or(Err(Failure::Unknown))
    }

    /// Log time as the leader would stamp it now; `None` while this replica does not serve.
    #[must_use]
    pub fn log_time_ms(&self) -> Option<u64> {
        self.time.borrow().map(|time| time.at(Instant::now()))
    }

    /// Whether this replica leads and has applied all of the terms before: the log time then has a
    /// source.
    #[must_use]
    pub fn serving(&self) -> watch::Receiver<Option<LogTime>> {
        self.time.clone()
    }
}

/// The task.
pub struct Appender {
    queue: mpsc::Receiver<Work>,
    consensus: Consensus,
    view: Arc<View>,
    clock: Arc<dyn Clock>,
    time: watch::Sender<Option<LogTime>>,
    flushed: watch::Receiver<Stamp>,
    leadership: LeadershipWatch,
    progress: watch::Receiver<Option<LogId>>,
    /// Set while this replica leads and has applied an entry of its own term.
    term: Option<Term>,
    in_flight: FuturesOrdered<Pin<Box<dyn Future<Output = Done> + Send>>>,
    /// Did not fit into the entry before.
    held: Option<Work>,
}

#[derive(Clone, Copy, Debug)]
struct Term {
    term: u64,
    next_number: u64,
    /// Raft has refused an entry, so those behind it are void: wait for all of them first.
    draining: bool,
}

struct Done {
    waiting: Waiting,
    result: Result<(LogId, Arc<Applied>), ProposeError>,
}

enum Waiting {
    Appends(Vec<Pending>),
    Command(oneshot::Sender<CommandAnswer>),
}

/// An append that waits for its answer. Whatever becomes of it, it is answered here.
struct Pending {
    session: SessionStream,
    answer: oneshot::Sender<Answer>,
    /// Given back just before the answer leaves, so that the next append finds the room.
    permit: Permit,
}

impl Appender {
    /// An appender that has not started, and the handle to feed it.
    #[must_use]
    pub fn new(
        consensus: Consensus,
        view: Arc<View>,
        clock: Arc<dyn Clock>,
    ) -> (Self, AppenderHandle) {
        let (sender, queue) = mpsc::channel(QUEUE_LEN_MAX);
        let (time, serving) = watch::channel(None);
        let appender = Self {
            queue,
            flushed: consensus.flushed(),
            leadership: consensus.watch_leadership(),
            progress: view.progress(),
            consensus,
            view,
            clock,
            time,
            term: None,
            in_flight: FuturesOrdered::new(),
            held: None,
        };
        (appender, AppenderHandle { queue: sender, time: serving })
    }

    /// Proposes and answers until `shutdown`, then refuses what is queued and waits for what is on
    /// its way.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.follow_leadership();
        loop {
            self.propose_queued().await;
            let takes = self.takes_work();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.in_flight.next() => self.answer(done),
                Ok(()) = self.flushed.changed() => {}
                changed = self.consensus.leadership_changed(&mut self.leadership) => {
                    if !changed {
                        break;
                    }
                    self.follow_leadership();
                }
                Ok(()) = self.progress.changed(), if self.term.is_none() => {
                    self.follow_leadership();
                }
                work = self.queue.recv(), if takes => match work {
                    Some(work) => self.held = Some(work),
                    None => break,
                }
            }
        }
        self.time.send_replace(None);
        self.queue.close();
        while let Some(work) = self.held.take().or_else(|| self.queue.try_recv().ok()) {
            refuse(work, Failure::NotLeader);
        }
        while let Some(done) = self.in_flight.next().await {
            self.answer(done);
        }
    }

    /// Whether the next queued work can be used now.
    fn takes_work(&self) -> bool {
        self.held.is_none() && self.term.is_none_or(|term| self.may_propose(&term))
    }

    fn may_propose(&self, term: &Term) -> bool {
        let flushed = *self.flushed.borrow();
        let flushed = if flushed.term == term.term { flushed.number } else { 0 };
        // Numbers go on from what was applied, which is flushed as well.
        !term.draining && (term.next_number - 1).saturating_sub(flushed) < UNFLUSHED_ENTRIES_MAX
    }

    /// Begins to serve a term once an entry of it is applied here, ends when leadership is lost.
    fn follow_leadership(&mut self) {
        let leads = self.consensus.leads();
        let applied = *self.progress.borrow_and_update();
        let serves = leads.filter(|term| applied.is_some_and(|applied| applied.term == *term));
        if serves == self.term.map(|term| term.term) {
            return;
        }
        self.term = serves.map(|term| {
            let newest_ms = self.view.read(|state, _| state.time_ms());
            let time = LogTime::start(newest_ms, self.clock.wall_ms(), Instant::now());
            let next_number = self.next_number(term);
            self.time.send_replace(Some(time));
            Term { term, next_number, draining: !self.in_flight.is_empty() }
        });
        if self.term.is_none() {
            self.time.send_replace(None);
        }
        match self.term {
            Some(term) => tracing::info!(term = term.term, "this replica leads"),
            None => tracing::info!("this replica does not lead"),
        }
    }

    fn next_number(&self, term: u64) -> u64 {
        self.view.read(|state, _| state.last_number(term)) + 1
    }

    async fn propose_queued(&mut self) {
        loop {
            let Some(mut term) = self.term else {
                while let Some(work) = self.next_work() {
                    refuse(work, Failure::NotLeader);
                }
                return;
            };
            if !self.may_propose(&term) {
                return;
            }
            let Some(time_ms) = self.resynced_ms() else { return };
            let stamp = Stamp { term: term.term, number: term.next_number, time_ms };
            let Some((payload, waiting)) = self.next_entry(stamp) else { return };
            term.next_number += 1;
            self.term = Some(term);
            match self.consensus.propose(payload).await {
                Ok(proposed) => self.in_flight.push_back(Box::pin(applied(proposed, waiting))),
                Err(error) => self.answer(Done { waiting, result: Err(error) }),
            }
        }
    }

    /// Log time, set to the wall clock if that is due. Whoever asks this replica for the log time
    /// gets it from the same source.
    fn resynced_ms(&self) -> Option<u64> {
        let now = Instant::now();
        self.time.send_if_modified(|time| {
            let Some(before) = *time else { return false };
            *time = Some(before.resync(now, || self.clock.wall_ms()));
            *time != Some(before)
        });
        self.time.borrow().map(|time| time.at(now))
    }

    fn next_work(&mut self) -> Option<Work> {
        self.held.take().or_else(|| self.queue.try_recv().ok())
    }

    /// Packs queued appends until the entry is full, or one command.
    fn next_entry(&mut self, stamp: Stamp) -> Option<(Bytes, Waiting)> {
        let mut batch = BatchBuilder::default();
        let mut pending = Vec::new();
        while let Some(work) = self.next_work() {
            match work {
                Work::Append(append) if append.session.is_broken() => {
                    Pending::from(append).answer(Err(Failure::SessionBroken));
                }
                Work::Append(append) => {
                    let pushed = batch.push(
                        append.stream_id,
                        append.stream_revision,
                        append.expectation,
                        append.producer,
                        &append.records,
                    );
                    if pushed.is_err() {
                        self.held = Some(Work::Append(append));
                        break;
                    }
                    pending.push(Pending::from(append));
                }
                Work::Command { .. } if !batch.is_empty() => {
                    self.held = Some(work);
                    break;
                }
                Work::Command { command, answer } => {
                    let entry = Entry::Control { stamp, command };
                    return Some((entry.encode(), Waiting::Command(answer)));
                }
            }
        }
        batch.finish(stamp).map(|payload| (payload, Waiting::Appends(pending)))
    }

    fn answer(&mut self, done: Done) {
        let Done { waiting, result } = done;
        let dropped = match &result {
            Ok((_, applied)) => applied.voided,
            Err(_) => true,
        };
        if let Some(term) = &mut self.term {
            term.draining |= dropped;
        }
        match waiting {
            Waiting::Appends(pending) => answer_appends(pending, result),
            Waiting::Command(answer) => {
                let result = match result {
                    Ok((_, applied)) if applied.voided => Err(Failure::Dropped),
                    Ok(applied) => Ok(applied),
                    Err(error) => Err(failure(&error)),
                };
                // Who asked may be gone; the command is done all the same.
                drop(answer.send(result));
            }
        }
        self.end_draining();
    }

    fn end_draining(&mut self) {
        let Some(mut term) = self.term.filter(|term| term.draining) else { return };
        if self.in_flight.is_empty() {
            term.next_number = self.next_number(term.term);
            term.draining = false;
            self.term = Some(term);
        }
    }
}

async fn applied(proposed: Proposed, waiting: Waiting) -> Done {
    Done { result: proposed.applied().await, waiting }
}

fn failure(error: &ProposeError) -> Failure {
    match error {
        ProposeError::NotProposed => Failure::NotLeader,
        ProposeError::Unknown => Failure::Unknown,
    }
}

fn answer_appends(pending: Vec<Pending>, result: Result<(LogId, Arc<Applied>), ProposeError>) {
    match result {
        Ok((_, applied)) if applied.voided => {
            for append in pending {
                append.answer(Err(Failure::Dropped));
            }
        }
        Ok((_, applied)) => {
            let outcomes = &applied.outcomes;
            assert_eq!(outcomes.len(), pending.len(), "one outcome for each append of the entry");
            for (append, outcome) in pending.into_iter().zip(outcomes) {
                append.answer(Ok(*outcome));
            }
        }
        Err(error) => {
            for append in pending {
                append.answer(Err(failure(&error)));
            }
        }
    }
}

impl From<Append> for Pending {
    fn from(append: Append) -> Self {
        let Append { session, answer, permit, .. } = append;
        Self { session, answer, permit }
    }
}

impl Pending {
    fn answer(self, result: Answer) {
        if !matches!(result, Ok(Outcome::Appended(_) | Outcome::Duplicate(_))) {
            self.session.break_off();
        }
        drop(self.permit);
        if self.answer.send(result).is_err() {
            // The session ended and does not wait any more; its append stands all the same.
            tracing::trace!("nobody waits for the answer to an append");
        }
    }
}

fn refuse(work: Work, why: Failure) {
    match work {
        Work::Append(append) => Pending::from(append).answer(Err(why)),
        // Who asked may be gone.
        Work::Command { answer, .. } => drop(answer.send(Err(why))),
    }
}
