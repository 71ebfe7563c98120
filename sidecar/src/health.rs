//! What a pusher answers to probes. Pure, but for [`Vitals`], which gathers what is decided from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyramid_protocol::Offset;
use pyramid_telemetry::health::{Answer, BEAT_EVERY, Health, Monitor, Pulse, moves};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::routes::Routes;
use crate::source::News;
use crate::status::{Board, LinkStatus};

/// An attachment that is lost is forgiven for this long: an election, or a Writer that restarts.
const ATTACH_LOSS_MAX: Duration = Duration::from_secs(10);

/// An application has caught up when it reaches an end that the stream had at most this long before.
/// The lag need not be 0 at any one moment, or a stream that is appended to all the time could
/// never catch up.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(10);

/// When the pod of a pusher is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Readiness {
    /// The application can reach the pusher.
    Local,
    /// And each subscription is attached to the Writer.
    Connected,
    /// And each stream had caught up once since the start.
    CaughtUp,
}

/// Whether an application that has accepted all below `accepted` has caught up with what is known of
/// the stream's end.
pub(crate) fn has_caught_up(accepted: Offset, news: Option<News>, now: Instant) -> bool {
    news.is_some_and(|news| {
        accepted >= news.end && now.saturating_duration_since(news.at) <= CAUGHT_UP_WITHIN
    })
}

/// All that readiness is decided from, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    serves: bool,
    stops: bool,
    links: Vec<LinkStatus>,
    /// Why there is no Writer to attach to yet.
    waiting_for: Option<String>,
    /// Streams that have never caught up, of how many.
    behind: usize,
    streams: usize,
    /// All of them had caught up once.
    was_caught_up: bool,
}

fn ready(readiness: Readiness, seen: &Seen) -> Answer {
    if seen.stops {
        return Err("it stops".to_owned());
    }
    if !seen.serves {
        return Err("the application cannot reach it yet".to_owned());
    }
    match readiness {
        Readiness::Local => Ok(()),
        Readiness::Connected => connected(seen),
        Readiness::CaughtUp => connected(seen).and_then(|()| caught_up(seen)),
    }
}

fn connected(seen: &Seen) -> Answer {
    let links = &seen.links;
    let is_lost =
        |link: &&LinkStatus| link.lost_for.is_none_or(|lost_for| lost_for > ATTACH_LOSS_MAX);
    match links.iter().filter(is_lost).count() {
        0 => Ok(()),
        lost => {
            let why = seen.waiting_for.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            Err(format!("{lost} of {} subscriptions are not attached{why}", links.len()))
        }
    }
}

fn caught_up(seen: &Seen) -> Answer {
    if seen.was_caught_up || has_all(seen) {
        return Ok(());
    }
    match seen.links.iter().filter(|link| !link.knows_streams).count() {
        0 => Err(format!("{} of {} streams have not caught up", seen.behind, seen.streams)),
        unknown => Err(format!("{unknown} subscriptions do not know their streams yet")),
    }
}

/// Everything is known, and every stream has caught up once.
fn has_all(seen: &Seen) -> bool {
    seen.behind == 0 && seen.links.iter().all(|link| link.knows_streams)
}

/// Gathers what answers are decided from.
pub(crate) struct Vitals {
    readiness: Readiness,
    board: Board,
    routes: watch::Receiver<Arc<Routes>>,
    stop: CancellationToken,
    runtime: Pulse,
    monitor: Monitor,
    serves: AtomicBool,
    was_caught_up: AtomicBool,
}

impl Vitals {
    pub(crate) fn new(
        readiness: Readiness,
        board: Board,
        routes: watch::Receiver<Arc<Routes>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            readiness,
            board,
            routes,
            stop,
            runtime: Pulse::default(),
            monitor: Monitor::new(0),
            serves: AtomicBool::new(false),
            was_caught_up: AtomicBool::new(false),
        }
    }

    /// Shows for ever that the runtime runs, and takes note of what must not be missed between probes.
    pub(crate) async fn keep_looking(self: Arc<Self>) {
        let mut ticks = interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.runtime.beat();
            self.seen();
        }
    }

    /// The application can reach this pusher from now on.
    pub(crate) fn serves(&self) {
        self.serves.store(true, Ordering::Release);
    }

    fn seen(&self) -> Seen {
        let (streams, behind) = self.board.behind();
        let mut seen = Seen {
            serves: self.serves.load(Ordering::Acquire),
            stops: self.stop.is_cancelled(),
            links: self.board.links(),
            waiting_for: self.routes.borrow().waiting_for().map(str::to_owned),
            behind,
            streams,
            was_caught_up: self.was_caught_up.load(Ordering::Acquire),
        };
        if has_all(&seen) && !seen.was_caught_up {
            // From now on a halt or a lag takes no pod out of service: it would be all of them.
            self.was_caught_up.store(true, Ordering::Release);
            seen.was_caught_up = true;
        }
        seen
    }
}

impl Health for Vitals {
    fn started(&self) -> Answer {
        if self.serves.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err("the application cannot reach it yet".to_owned())
        }
    }

    fn alive(&self) -> Answer {
        moves("the runtime", self.monitor.still_for(self.runtime.beats()))
    }

    fn ready(&self) -> Answer {
        ready(self.readiness, &self.seen())
    }
}

#[cfg(test)]
mod tests;
