//! One stream of one subscription: ask, read, push, decide, repeat.

mod reading;
mod standby;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pyramid_protocol::pb::v1::{self as pb, PushState, StartFrom};
use pyramid_protocol::{Offset, Position};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::application::{self, Application};
use crate::backoff::Waits;
use crate::config::Timing;
use crate::drain::Drain;
use crate::in_flight::InFlight;
use crate::lease::{self, Lease};
use crate::negotiation::{Halt, Pushed, Step};
use crate::source::{Load, Reading, Source};
use crate::status::{Board, Place};

/// After so many failures in a row what was read ahead is given up, for the sake of other streams;
/// it is read again when the application is back.
const FAILURES_WITH_READ_AHEAD_MAX: u32 = 3;
/// So is what was read ahead before a longer wait than this.
const WAIT_WITH_READ_AHEAD_MAX: Duration = Duration::from_secs(1);

/// What an assignment says of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Which stream has the name now. A change only makes the worker look again.
    pub(crate) stream_id: u64,
    pub(crate) start_from: StartFrom,
    pub(crate) paused: bool,
    pub(crate) push_timeout: Duration,
}

/// What the workers of a subscription share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) reading: Reading,
    pub(crate) board: Board,
    /// Pushes to one application that may be on their way at once.
    pub(crate) turns: Arc<Semaphore>,
    pub(crate) in_flight: InFlight,
    pub(crate) timing: Timing,
    pub(crate) drain: Drain,
}

/// Pushes one stream.
pub(crate) struct StreamWorker {
    shared: Shared,
    place: Place,
    application: Application,
    settings: watch::Receiver<Settings>,
    lease: watch::Receiver<Lease>,
    losses: watch::Receiver<u64>,
    stop: CancellationToken,

    /// What the application reported last; `None`: it is asked with a first push.
    stored: Option<Position>,
    /// The application is asked where it is before anything else is pushed.
    must_ask: bool,
    /// The stream stands still.
    halt: Option<Halt>,
    source: Option<Source>,
    waits: Waits,
    last_push: Instant,
}

/// The worker was stopped.
struct Stopped;

/// What became of a push.
enum Pushing {
    /// The application is at this place now.
    At(Position),
    /// Nothing was achieved; the state says why. To be repeated, perhaps differently.
    Failed,
}

impl StreamWorker {
    pub(crate) fn new(
        shared: Shared,
        place: Place,
        application: Application,
        settings: watch::Receiver<Settings>,
        lease: watch::Receiver<Lease>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            losses: application.losses(),
            shared,
            place,
            application,
            settings,
            lease,
            stop,
            stored: None,
            must_ask: true,
            halt: None,
            source: None,
            waits: Waits::new(),
            last_push: Instant::now(),
        }
    }

    /// Pushes until it is stopped. A push that is on its way then is still waited for.
    pub(crate) async fn run(mut self) {
        while !self.stop.is_cancelled() && self.turn().await.is_ok() {}
    }

    /// One thing after the other.
    async fn turn(&mut self) -> Result<(), Stopped> {
        if self.settings.borrow_and_update().paused {
            self.source = None;
            self.must_ask = true;
            self.say(PushState::Paused, String::new());
            return self.pause(None).await;
        }
        if !self.has_lease() {
            return self.stand_by().await;
        }
        if self.losses.has_changed().unwrap_or(false) {
            self.must_ask = true;
            // A new process may be able to do what the old one could not.
            self.halt.take_if(|halt| matches!(halt, Halt::Rejected { .. }));
        }
        // Also while reading fails: a lost database must show on any stream.
        if self.halt.is_none() && self.last_push.elapsed() >= self.shared.timing.idle_ask {
            self.must_ask = true;
        }
        match self.stored {
            None => self.first_push().await,
            Some(stored) if self.must_ask => self.ask(stored).await,
            Some(_) if self.halt.is_some() => self.stand_still().await,
            Some(stored) => self.deliver(stored).await,
        }
    }

    /// Asks an application whose position is not known, and tells it where to begin if it has none.
    async fn first_push(&mut self) -> Result<(), Stopped> {
        self.say_if_not_failing(PushState::Asking);
        let Some(stream) = self.leaders_stream().await? else { return Ok(()) };
        self.heard_of(stream.next_offset);
        let start_from = self.settings.borrow().start_from;
        let next = crate::negotiation::first_position(start_from, stream);
        let load = Load { batches: Vec::new(), records: 0, next };
        self.push(None, load).await.map(drop)
    }

    /// Asks whether the application is still where it was.
    async fn ask(&mut self, stored: Position) -> Result<(), Stopped> {
        if self.halt.is_none() {
            self.say_if_not_failing(PushState::Asking);
        }
        // A new epoch enters with a question too, once a read has confirmed it for this place.
        let confirmed = self.source.as_ref().map(Source::position).filter(|position| {
            (position.stream_id, position.offset) == (stored.stream_id, stored.offset)
        });
        let next = confirmed.unwrap_or(stored);
        let load = Load { batches: Vec::new(), records: 0, next };
        if let Pushing::At(position) = self.push(Some(stored), load).await? {
            if position == stored {
                self.say_halted();
            } else {
                self.halt = None;
            }
        }
        Ok(())
    }

    /// Reads and pushes what comes next; comes back after each push and whenever something else
    /// has to be looked at.
    async fn deliver(&mut self, stored: Position) -> Result<(), Stopped> {
        if self.source.is_none() {
            self.source = Some(Source::open(&self.shared.reading, &self.place.stream, stored));
        }
        let Some(source) = &mut self.source else { return Ok(()) };
        if let Some(error) = source.end().cloned() {
            return self.read_ended(stored, error).await;
        }
        if source.is_empty() {
            return self.wait_for_records().await;
        }
        source.fill_at_once();
        let load = source.load(self.shared.in_flight.push_bytes_max());
        self.push(Some(stored), load).await.map(drop)
    }

    /// Until it is time to ask whether the application has moved.
    async fn stand_still(&mut self) -> Result<(), Stopped> {
        let ask_at = Instant::now() + self.shared.timing.halt_ask;
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Stopped),
            changed = self.losses.changed() => if changed.is_ok() {
                // The next turn knows what it means.
                self.losses.mark_changed();
            },
            changed = self.settings.changed() => changed.map_err(|_gone| Stopped)?,
            () = lease::lost(&mut self.lease) => {}
            () = sleep_until(ask_at) => {}
        }
        self.must_ask = true;
        Ok(())
    }

    async fn wait_for_records(&mut self) -> Result<(), Stopped> {
        let Some(source) = &self.source else { return Ok(()) };
        let interrupted = source.interrupted().map(str::to_owned);
        // Before the Writer has answered, the source knows no more than its own place.
        if let Some(end) = source.end_of_stream() {
            self.heard_of(end.end);
        }
        self.note_catching_up();
        match interrupted {
            None => {
                self.say(PushState::Waiting, String::new());
            }
            Some(message) => self.say_retrying(&format!("read again: {message}")),
        }
        let Some(source) = &mut self.source else { return Ok(()) };
        let ask_at = self.last_push + self.shared.timing.idle_ask;
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Stopped),
            () = source.fill() => {}
            changed = self.losses.changed() => self.must_ask |= changed.is_ok(),
            changed = self.settings.changed() => changed.map_err(|_gone| Stopped)?,
            () = lease::lost(&mut self.lease) => {}
            () = sleep_until(ask_at) => self.must_ask = true,
        }
        Ok(())
    }

    /// Pushes once, reads ahead meanwhile, and takes the answer.
    async fn push(&mut self, base: Option<Position>, load: Load) -> Result<Pushing, Stopped> {
        let turns = Arc::clone(&self.shared.turns);
        let turn = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Stopped),
            turn = turns.acquire() => turn,
        };
        if !self.has_lease() {
            // It was lost while others had their turn; the next one stands by.
            return Ok(Pushing::Failed);
        }
        if load.records > 0 {
            let known = self.source.as_ref().map_or(load.next.offset, Source::stream_next);
            self.shared.board.update(&self.place, |status| {
                status.state = PushState::Pushing;
                status.message.clear();
                status.stream_next = status.stream_next.max(known);
            });
        }
        let pushed = Pushed { base, next: load.next, records: load.records };
        let bytes = load.batches.iter().map(Bytes::len).sum();
        let _sent = self.shared.in_flight.send(bytes);
        let request = self.request(base, load);
        let (deadline, began) = (self.settings.borrow().push_timeout, Instant::now());
        // Losses from here on are new ones.
        self.losses.mark_unchanged();
        let answer = {
            let answer = self.application.push(request, deadline);
            tokio::pin!(answer);
            loop {
                let source = self.source.as_mut().filter(|source| source.wants_more());
                tokio::select! {
                    biased;
                    answer = &mut answer => break Some(answer),
                    () = self.stop.cancelled() => {
                        let wait = self.shared.drain.last_answer_timeout();
                        break timeout(wait, &mut answer).await.ok();
                    }
                    () = fill(source) => {}
                }
            }
        };
        drop(turn);
        self.last_push = Instant::now();
        let Some(answer) = answer else { return Err(Stopped) };
        let metrics = &self.shared.reading.metrics;
        metrics.pushed(pushed.records, bytes);
        match answer {
            Ok(response) => match metrics.answered(&pushed, began.elapsed(), response.answer) {
                Ok(step) => self.take(step).await,
                Err(nonsense) => {
                    tracing::error!(stream = %self.place.stream, subscription = &*self.place.subscription, "{nonsense}");
                    self.failed(nonsense.to_string()).await
                }
            },
            Err(error) => {
                metrics.push_failures.inc((&error).into());
                if matches!(error, application::Error::Slow { .. }) {
                    // It may take long; others can use the memory meanwhile.
                    self.source = None;
                }
                self.failed(error.to_string()).await
            }
        }
    }

    fn request(&self, base: Option<Position>, load: Load) -> pb::PushRequest {
        let known = self.source.as_ref().map_or(Offset::START, Source::stream_next);
        pb::PushRequest {
            subscription: self.place.subscription.to_string(),
            stream: self.place.stream.to_string(),
            base: base.map(pb::Position::from),
            batches: load.batches,
            next: Some(load.next.into()),
            stream_next_offset: known.max(self.heard()).max(load.next.offset).get(),
        }
    }

    /// Does what the answer means.
    async fn take(&mut self, step: Step) -> Result<Pushing, Stopped> {
        self.must_ask = false;
        match step {
            Step::Accepted(position) => {
                self.waits.worked();
                self.go_on_at(position);
                Ok(Pushing::At(position))
            }
            Step::Resume(position) => {
                tracing::info!(
                    stream = %self.place.stream, subscription = &*self.place.subscription,
                    "the application is at {position}"
                );
                self.halt = None;
                self.go_on_at(position);
                let wait = self.waits.resumed(self.shared.reading.client.entropy());
                self.pause(Some(wait)).await?;
                Ok(Pushing::At(position))
            }
            Step::BeginAgain => {
                tracing::warn!(
                    stream = %self.place.stream, subscription = &*self.place.subscription,
                    "the application has lost its position and begins again"
                );
                self.halt = None;
                self.stored = None;
                self.source = None;
                self.shared.board.update(&self.place, |status| status.accepted = None);
                let wait = self.waits.resumed(self.shared.reading.client.entropy());
                self.pause(Some(wait)).await?;
                Ok(Pushing::Failed)
            }
            Step::AcceptedNothing => {
                self.failed("the application accepted none of the records".to_owned()).await
            }
            Step::Wait(advised) => {
                let wait = self.waits.not_ready(advised, self.shared.reading.client.entropy());
                self.retry_after(wait, "the application is not ready".to_owned()).await
            }
            Step::Halt(halt) => {
                self.halt(halt);
                Ok(Pushing::Failed)
            }
        }
    }

    fn go_on_at(&mut self, position: Position) {
        self.stored = Some(position);
        let kept = match &mut self.source {
            Some(source) => source.advance(position),
            None => Ok(true),
        };
        match kept {
            Ok(true) => self.note_catching_up(),
            Ok(false) => self.source = None,
            Err(error) => {
                tracing::error!(stream = %self.place.stream, "read ahead again: {error}");
                self.source = None;
            }
        }
        self.shared.board.update(&self.place, |status| {
            status.accepted = Some(position);
            status.stream_next = status.stream_next.max(position.offset);
        });
    }

    fn halt(&mut self, halt: Halt) {
        let (state, message) = (halt.state(), halt.to_string());
        if self.say(state, message.clone()) {
            tracing::error!(
                stream = %self.place.stream, subscription = &*self.place.subscription,
                "the stream is halted: {message}"
            );
        }
        self.halt = Some(halt);
        self.source = None;
    }

    /// Shows the halt again after a question that found nothing new.
    fn say_halted(&mut self) {
        if let Some(halt) = &self.halt {
            let (state, message) = (halt.state(), halt.to_string());
            self.say(state, message);
        }
    }

    async fn failed(&mut self, message: String) -> Result<Pushing, Stopped> {
        let wait = self.waits.failed(self.shared.reading.client.entropy());
        self.retry_after(wait, message).await
    }

    async fn retry_after(&mut self, wait: Duration, message: String) -> Result<Pushing, Stopped> {
        // A halt stays in sight: the application being away is the smaller trouble.
        if self.halt.is_none() {
            self.say_retrying(&message);
        }
        if self.waits.failures() > FAILURES_WITH_READ_AHEAD_MAX || wait > WAIT_WITH_READ_AHEAD_MAX {
            self.source = None;
        }
        // The answer may be on its way to nobody; the next push finds out.
        self.pause(Some(wait)).await?;
        Ok(Pushing::Failed)
    }

    /// Waits, or until settings change.
    async fn pause(&mut self, wait: Option<Duration>) -> Result<(), Stopped> {
        if wait == Some(Duration::ZERO) {
            return Ok(());
        }
        let until = wait.map(|wait| Instant::now() + wait);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped),
            changed = self.settings.changed() => changed.map_err(|_gone| Stopped),
            () = lease::lost(&mut self.lease), if until.is_some() => Ok(()),
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => Ok(()),
        }
    }

    /// Shows what the stream is doing. Tells whether that is something else than before.
    fn say(&self, state: PushState, message: String) -> bool {
        self.shared.board.update(&self.place, |status| {
            status.state = state;
            status.message = message;
        })
    }

    fn say_retrying(&self, message: &str) {
        if self.say(PushState::Retrying, message.to_owned()) {
            tracing::warn!(
                stream = %self.place.stream, subscription = &*self.place.subscription, "{message}"
            );
        }
    }

    fn say_if_not_failing(&self, state: PushState) {
        if self.waits.failures() == 0 {
            self.say(state, String::new());
        }
    }

    fn heard_of(&self, stream_next: Offset) {
        self.shared.board.update(&self.place, |status| status.stream_next = stream_next);
    }

    fn heard(&self) -> Offset {
        let statuses = self.shared.board.of_stream(self.place.stream.as_str());
        statuses.iter().map(|status| status.stream_next).max().unwrap_or_default()
    }
}

/// Reads ahead if there is room, else waits for ever.
async fn fill(source: Option<&mut Source>) {
    match source {
        Some(source) => source.fill().await,
        None => std::future::pending().await,
    }
}
