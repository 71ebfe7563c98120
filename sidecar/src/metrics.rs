//! What is counted and measured. Names, units and meanings stand here, and for users in
//! `docs/operating.md`; a test compares the two.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use pyramid_client::read::Origin;
use pyramid_protocol::pb::v1::PushState;
use pyramid_protocol::pb::v1::push_response::Answer;
use pyramid_telemetry::metrics::{
    Collector, Counter, Counters, Histogram, Label, Registry, Scrape, Unit, WatchCertificate,
    register, register_certificate,
};

use crate::application;
use crate::negotiation::{Nonsense, Pushed, Step, next_step};
use crate::status::Board;

/// In front of all names.
pub const PREFIX: &str = "pyramid_pusher";

/// Above this many series of one kind there are only totals.
const SERIES_MAX: usize = 1_000;

/// What an application said to a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has stored a position within the push.
    Accepted,
    /// It is somewhere else.
    WrongOffset,
    /// Later.
    NotReady,
    /// A record cannot be processed.
    Rejected,
    /// What the protocol does not allow.
    Nonsense,
}

impl Label for Said {
    const NAME: &'static str = "answer";
    const ALL: &'static [Self] =
        &[Self::Accepted, Self::WrongOffset, Self::NotReady, Self::Rejected, Self::Nonsense];

    fn text(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::WrongOffset => "wrong_offset",
            Self::NotReady => "not_ready",
            Self::Rejected => "rejected",
            Self::Nonsense => "nonsense",
        }
    }
}

impl From<Option<&Answer>> for Said {
    /// As it is worded; whether it makes sense is decided elsewhere.
    fn from(answer: Option<&Answer>) -> Self {
        match answer {
            Some(Answer::Accepted(_)) => Self::Accepted,
            Some(Answer::WrongOffset(_)) => Self::WrongOffset,
            Some(Answer::NotReady(_)) => Self::NotReady,
            Some(Answer::Rejected(_)) => Self::Rejected,
            None => Self::Nonsense,
        }
    }
}

/// Why a push got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushFailure {
    /// Nobody listens, or the connection broke.
    Absent,
    /// It took too long.
    Slow,
    /// It answered with a gRPC status.
    Failed,
}

impl Label for PushFailure {
    const NAME: &'static str = "reason";
    const ALL: &'static [Self] = &[Self::Absent, Self::Slow, Self::Failed];

    fn text(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Slow => "slow",
            Self::Failed => "failed",
        }
    }
}

impl From<&application::Error> for PushFailure {
    fn from(error: &application::Error) -> Self {
        match error {
            application::Error::Absent { .. } => Self::Absent,
            application::Error::Slow { .. } => Self::Slow,
            application::Error::Failed { .. } => Self::Failed,
        }
    }
}

/// Where batches were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// The Writer.
    Writer,
    /// A chunk in the object store.
    Chunk,
}

impl Label for ReadFrom {
    const NAME: &'static str = "from";
    const ALL: &'static [Self] = &[Self::Writer, Self::Chunk];

    fn text(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Chunk => "chunk",
        }
    }
}

/// Recorded where things happen. Clones are the same metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// Of pushes with records.
    pushes: Counters<Said>,
    /// Of those without.
    questions: Counters<Said>,
    pub(crate) push_failures: Counters<PushFailure>,
    push_latency: Histogram,
    pushed_records: Counter,
    pushed_bytes: Counter,
    read: Counters<ReadFrom>,
    pub(crate) read_failures: Counter,
    pub(crate) attach_losses: Counter,
}

impl Metrics {
    /// Batches were read.
    pub(crate) fn read(&self, origin: Origin, bytes: usize) {
        let from = match origin {
            Origin::Writer => ReadFrom::Writer,
            Origin::Chunk => ReadFrom::Chunk,
        };
        self.read.inc_by(from, u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Records went to an application.
    pub(crate) fn pushed(&self, records: u64, bytes: usize) {
        self.pushed_records.inc_by(records);
        self.pushed_bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Decides what an answer means, and counts it.
    pub(crate) fn answered(
        &self,
        pushed: &Pushed,
        took: Duration,
        answer: Option<Answer>,
    ) -> Result<Step, Nonsense> {
        let worded = Said::from(answer.as_ref());
        let step = next_step(pushed, answer);
        let said = if step.is_ok() { worded } else { Said::Nonsense };
        if pushed.records > 0 {
            self.pushes.inc(said);
            self.push_latency.observe(took);
        } else {
            self.questions.inc(said);
        }
        step
    }

    /// Everything that this program counts.
    pub(crate) fn registry(&self, board: Board, certificate: WatchCertificate) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        self.register(&mut registry);
        register(&mut registry, Collected(board));
        register_certificate(&mut registry, certificate);
        registry
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("pushes", "Pushes with records that were answered", self.pushes.clone());
        registry.register(
            "questions",
            "Pushes without records that were answered",
            self.questions.clone(),
        );
        registry.register(
            "push_failures",
            "Pushes without an answer, which are repeated",
            self.push_failures.clone(),
        );
        registry.register_with_unit(
            "push_latency",
            "Time from a push with records to its answer",
            Unit::Seconds,
            self.push_latency.clone(),
        );
        registry.register(
            "pushed_records",
            "Records sent to applications, also those sent again",
            self.pushed_records.clone(),
        );
        registry.register_with_unit(
            "pushed",
            "Batches sent to applications, also those sent again",
            Unit::Bytes,
            self.pushed_bytes.clone(),
        );
        registry.register_with_unit("read", "Batches read", Unit::Bytes, self.read.clone());
        registry.register(
            "read_failures",
            "Reads that were interrupted or refused, and are repeated",
            self.read_failures.clone(),
        );
        registry.register(
            "attach_losses",
            "Times that an attachment to the Writer ended or was refused",
            self.attach_losses.clone(),
        );
    }
}

/// What is looked at when somebody asks.
struct Collected(Board);

impl Collector for Collected {
    fn collect(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        scrape.info("build", "What runs", &[("version", env!("CARGO_PKG_VERSION"))])?;
        let links = self.0.links();
        let attached = links.iter().filter(|link| link.lost_for.is_some_and(|lost| lost.is_zero()));
        scrape.gauge("subscriptions", None, "Subscriptions of this pusher", links.len())?;
        scrape.gauge("attached", None, "Of these, attached to the Writer", attached.count())?;
        self.streams(scrape)
    }
}

impl Collected {
    fn streams(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        let streams = self.0.all();
        let mut states: BTreeMap<&str, u64> =
            PushState::ALL.iter().map(|state| (state.text(), 0)).collect();
        let mut lags = Vec::new();
        for stream in &streams {
            let Some(report) = &stream.report else { continue };
            *states.entry(report.state().text()).or_default() += 1;
            // Nothing is known before the application has answered.
            if let Some(accepted) = &report.accepted {
                let lag = stream.stream_next_offset.saturating_sub(accepted.offset);
                lags.push((stream.subscription.as_str(), report.stream.as_str(), lag));
            }
        }
        scrape.gauges(
            "streams",
            None,
            "Streams by what they are doing",
            states.iter().map(|(state, count)| ([(PushState::NAME, *state)], *count)),
        )?;
        let of_each = if lags.len() > SERIES_MAX { &[][..] } else { &lags };
        scrape.gauges(
            "stream_lag_records",
            None,
            "Records that the application has not accepted; up to 1000 streams",
            of_each.iter().map(|(subscription, stream, lag)| {
                ([("subscription", *subscription), ("stream", *stream)], *lag)
            }),
        )?;
        scrape.gauge(
            "lag_records",
            None,
            "Records that applications have not accepted, of all streams together",
            lags.iter().fold(0_u64, |sum, (_, _, lag)| sum.saturating_add(*lag)),
        )?;
        let largest = lags.iter().map(|(_, _, lag)| *lag).max().unwrap_or(0);
        scrape.gauge("lag_max_records", None, "The largest lag of one stream", largest)
    }
}
